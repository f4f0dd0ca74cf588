//! One process's clocks, misled by the shim.
//!
//! Wall clocks jump in the world: an operator or NTP sets them. Monotonic clocks do not, but run a little
//! fast or slow. So a wall clock can be set at any time, and a process can be started both of whose clocks
//! run at another rate from its first instant on. A monotonic clock that jumps exists on no machine, and the
//! standard library's waits, which ask the kernel's true clock, are not made for it.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// How a process's time runs from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As time does.
    True,
    /// Both clocks gain or lose so many thousandths.
    Drifting(i32),
}

/// The clocks of one node's processes.
#[derive(Debug)]
pub(crate) struct Clock {
    /// What the shim reads ten times a second: see there.
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, told by `file`.
    pub(crate) fn new(file: PathBuf) -> Result<Self> {
        let clock = Self { file };
        clock.set_right()?;
        Ok(clock)
    }

    /// Sets the pace of a process that starts now, and says where its shim is to look.
    pub(crate) fn environment(&self, pace: Pace) -> Result<(String, String)> {
        match pace {
            Pace::True => self.set_right()?,
            Pace::Drifting(thousandths) => self.write(0, 0, thousandths)?,
        }
        Ok(("FAULTS_CLOCK_CONTROL".to_owned(), self.file.display().to_string()))
    }

    /// Sets the wall clock so many seconds from the truth.
    pub(crate) fn set_wall(&self, seconds: i32) -> Result<()> {
        self.write(seconds, 0, 0)
    }

    /// Sets both clocks so many seconds from the truth.
    pub(crate) fn set_both(&self, seconds: i32) -> Result<()> {
        self.write(seconds, seconds, 0)
    }

    /// Sets both right.
    pub(crate) fn set_right(&self) -> Result<()> {
        self.write(0, 0, 0)
    }

    /// The file is replaced in one step: half a line would be another time.
    fn write(&self, wall_s: i32, monotonic_s: i32, thousandths: i32) -> Result<()> {
        let new = self.file.with_extension("new");
        let text =
            format!("{} {} {thousandths}\n", i64::from(wall_s) * 1_000, i64::from(monotonic_s) * 1_000);
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.file))
            .with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::compile;
    use crate::command;
    use std::ops::RangeInclusive;
    use std::path::Path;
    use std::process::Command;

    /// Tells both clocks twice, a fifth of a second apart, each between two readings of the kernel's own.
    const TELLER: &str = r#"
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <time.h>
        #include <unistd.h>

        static long long of(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

        static void tell(clockid_t id) {
            struct timespec before, told, after;
            syscall(SYS_clock_gettime, id, &before);
            clock_gettime(id, &told);
            syscall(SYS_clock_gettime, id, &after);
            printf("%lld %lld %lld\n", of(before), of(told), of(after));
        }

        int main(void) {
            struct timespec pause = {0, 200000000};
            tell(CLOCK_REALTIME), tell(CLOCK_MONOTONIC);
            nanosleep(&pause, NULL);
            tell(CLOCK_REALTIME), tell(CLOCK_MONOTONIC);
            return 0;
        }
    "#;

    /// What a clock told, in nanoseconds, and what the time was just before and just after.
    #[derive(Clone, Copy, Debug)]
    struct Told {
        before: i64,
        told: i64,
        after: i64,
    }

    impl Told {
        /// By how much it was off: something within this.
        fn off(self) -> RangeInclusive<i64> {
            self.told - self.after..=self.told - self.before
        }
    }

    /// The wall clock and the monotonic one, each as told twice.
    #[derive(Debug)]
    struct Teller {
        wall: [Told; 2],
        monotonic: [Told; 2],
    }

    /// Programs whose clocks can be misled, in a folder of their own.
    struct Misled {
        folder: tempfile::TempDir,
        shim: PathBuf,
        clock: Clock,
    }

    impl Misled {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let shim = compile(folder.path()).expect("a C compiler named cc");
            let path = |name: &str| folder.path().join(name).display().to_string();
            std::fs::write(path("teller.c"), TELLER).unwrap();
            assert!(command::succeeds(&["cc", "-o", &path("teller"), &path("teller.c")]));
            let clock = Clock::new(folder.path().join("time")).unwrap();
            Self { folder, shim, clock }
        }

        /// Runs the teller at this pace, once `set` has set its clock.
        fn run(&self, pace: Pace, set: impl FnOnce(&Clock)) -> Teller {
            let (name, value) = self.clock.environment(pace).unwrap();
            set(&self.clock);
            let teller: &Path = &self.folder.path().join("teller");
            let output =
                Command::new(teller).env("LD_PRELOAD", &self.shim).env(name, value).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let told: Vec<Told> = text
                .lines()
                .map(|line| {
                    let numbers: Vec<i64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
                    Told { before: numbers[0], told: numbers[1], after: numbers[2] }
                })
                .collect();
            Teller { wall: [told[0], told[2]], monotonic: [told[1], told[3]] }
        }
    }

    /// A process tells the true time while its clocks are right; one whose wall clock is set tells that wrong
    /// and the other right; and where both are set, both are wrong by as much.
    #[test]
    fn a_clock_is_set() {
        const SECOND: i64 = 1_000_000_000;
        let misled = Misled::new();
        let is_off =
            |told: [Told; 2], seconds: i64| told.iter().all(|told| told.off().contains(&(seconds * SECOND)));
        let right = misled.run(Pace::True, |_| {});
        assert!(is_off(right.wall, 0) && is_off(right.monotonic, 0), "{right:?}");
        let wall = misled.run(Pace::True, |clock| clock.set_wall(SECOND as i32).unwrap());
        assert!(is_off(wall.wall, SECOND) && is_off(wall.monotonic, 0), "{wall:?}");
        let both = misled.run(Pace::True, |clock| clock.set_both(-10).unwrap());
        assert!(is_off(both.wall, -10) && is_off(both.monotonic, -10), "{both:?}");
    }

    /// A process that is started to drift gains or loses on both clocks what it was told to, all the while.
    #[test]
    fn both_clocks_drift() {
        /// What the shim rounds off.
        const ROUNDED_NS: i64 = 10_000;
        let misled = Misled::new();
        for thousandths in [500, 10, -10] {
            let teller = misled.run(Pace::Drifting(thousandths), |_| {});
            for [first, second] in [teller.wall, teller.monotonic] {
                let gained =
                    second.off().start() - first.off().end()..=second.off().end() - first.off().start();
                let share = |ns: i64| ns / 1_000 * i64::from(thousandths);
                let (one, other) = (share(second.before - first.after), share(second.after - first.before));
                let due = one.min(other) - ROUNDED_NS..=one.max(other) + ROUNDED_NS;
                let overlap = gained.start() <= due.end() && due.start() <= gained.end();
                assert!(overlap, "{gained:?} ns were gained, {due:?} were due: {teller:?}");
            }
        }
    }
}
