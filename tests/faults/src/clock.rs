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
    use std::process::Command;

    /// A process whose wall clock is set wrong tells a wrong time, and one whose clock is set right the true
    /// one.
    #[test]
    fn a_clock_is_set() {
        const AHEAD_S: i32 = 1_000_000_000;
        let folder = tempfile::tempdir().unwrap();
        let shim = compile(folder.path()).expect("a C compiler named cc");
        let clock = Clock::new(folder.path().join("time")).unwrap();
        let told = || -> i64 {
            let (name, value) = clock.environment(Pace::True).unwrap();
            clock.set_wall(AHEAD_S).unwrap();
            let output = Command::new("date").arg("+%s").env("LD_PRELOAD", &shim).env(name, value).output();
            String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
        };
        let truth = || -> i64 {
            let output = Command::new("date").arg("+%s").output();
            String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
        };
        let (before, wrong, after) = (truth(), told(), truth());
        let ahead = i64::from(AHEAD_S);
        assert!((before + ahead..=after + ahead).contains(&wrong), "{before} {wrong} {after}");
    }
}
