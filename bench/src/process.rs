//! What processes have used, as the kernel counts it in `/proc`.

use anyhow::{Context, Result};
use std::time::Duration;

/// The kernel counts times in hundredths of a second here, whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);

/// What several processes have used together since each was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// In user mode and in the kernel.
    pub(crate) cpu: Duration,
    /// Sent on to the disk, or to be sent: what was overwritten in the cache before that counts once.
    pub(crate) written_bytes: u64,
    /// Resident now.
    pub(crate) memory_bytes: u64,
    /// The sum of the most memory that each has had at a time.
    pub(crate) memory_peak_bytes: u64,
}

impl Usage {
    /// Of these processes.
    ///
    /// # Errors
    /// One is gone, or another user's.
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let read = |file: &str| {
                let path = format!("/proc/{pid}/{file}");
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
            };
            let context = || format!("process {pid}");
            sum.cpu += cpu(&read("stat")?).with_context(context)?;
            sum.written_bytes += number(&read("io")?, "write_bytes:", "").with_context(context)?;
            let status = read("status")?;
            sum.memory_bytes += 1_024 * number(&status, "VmRSS:", " kB").with_context(context)?;
            sum.memory_peak_bytes += 1_024 * number(&status, "VmHWM:", " kB").with_context(context)?;
        }
        Ok(sum)
    }

    /// What was used since `before`, the memory as it is now and the most ever; an error where a counter went back, as it does with a new
    /// process.
    pub(crate) fn since(self, before: Self) -> Result<Self> {
        let used = || {
            Some(Self {
                cpu: self.cpu.checked_sub(before.cpu)?,
                written_bytes: self.written_bytes.checked_sub(before.written_bytes)?,
                ..self
            })
        };
        used().context("a server was restarted while it was measured: its counters went back")
    }
}

/// How much memory the machine can still give without swapping, in bytes.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn memory_available_bytes() -> Result<u64> {
    let path = "/proc/meminfo";
    let page = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(1_024 * number(&page, "MemAvailable:", " kB").context(path)?)
}

/// User and system time in `/proc/PID/stat`: the 14th field and the 15th, counted behind the name in parentheses, which
/// may contain anything.
fn cpu(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').context("no name in its times")?;
    let ticks = |index: usize| {
        let field = fields.split_whitespace().nth(index).context("no times")?;
        field.parse::<u32>().with_context(|| format!("a time is no number: {field}"))
    };
    let ticks = ticks(11)?.checked_add(ticks(12)?).context("times beyond all measure")?;
    Ok(TICK * ticks)
}

/// The number on the line that begins with `name`, in the unit that follows it.
fn number(page: &str, name: &str, unit: &str) -> Result<u64> {
    let value =
        page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let digits = value.strip_suffix(unit).with_context(|| format!("{name} in another unit: {value}"))?;
    digits.trim().parse().with_context(|| format!("{name} is no number: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 7 1 2 3";
    const IO: &str = "rchar: 1\nwchar: 2\nread_bytes: 0\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n";
    const STATUS: &str = "Name:\ta\nVmPeak:\t  900 kB\nVmHWM:\t     512 kB\nVmRSS:\t 1 kB\n";

    /// The kernel's pages are read, also where a process has an unfriendly name.
    #[test]
    fn good_pages() {
        assert_eq!(cpu(STAT).expect("times"), Duration::from_secs(3));
        assert_eq!(number(IO, "write_bytes:", "").expect("a number"), 8_192);
        assert_eq!(number(STATUS, "VmHWM:", " kB").expect("a number"), 512);
    }

    /// Damaged pages are errors that say what is wrong.
    #[test]
    fn damaged_pages() {
        for (stat, why) in [
            ("", "no name"),
            ("42 (a) S 1", "no times"),
            ("42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 x 50", "no number: x"),
            ("42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 4294967295 1", "beyond all measure"),
        ] {
            let error = cpu(stat).expect_err(stat);
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        for (page, why) in [
            ("", "no VmHWM:"),
            ("VmHWM:\t 12 MB", "another unit"),
            ("VmHWM:\t -12 kB", "no number"),
            ("VmHWM: kB", "another unit\0no number"),
        ] {
            let error = format!("{:#}", number(page, "VmHWM:", " kB").expect_err(page));
            assert!(why.split('\0').any(|why| error.contains(why)), "{error}");
        }
    }

    /// This very process can be read, and one that cannot exist is an error.
    #[test]
    fn real_processes() {
        let usage = Usage::of(&[std::process::id()]).expect("we are there");
        assert!(usage.memory_bytes > 0 && usage.memory_peak_bytes >= usage.memory_bytes / 2);
        assert!(memory_available_bytes().expect("the kernel says") > 0);
        let gone = Usage::of(&[u32::MAX]).expect_err("no process has this number");
        assert!(gone.to_string().contains("4294967295"), "{gone}");
        assert_eq!(Usage::of(&[]).expect("nothing to read"), Usage::default());
    }

    /// Counters that went back are an error that says why, no panic.
    #[test]
    fn restarts_are_told() {
        let before = Usage { cpu: TICK, written_bytes: 7, memory_bytes: 8, memory_peak_bytes: 9 };
        let after = Usage { cpu: 3 * TICK, written_bytes: 10, memory_bytes: 5, memory_peak_bytes: 9 };
        let used = after.since(before).expect("counters grew");
        assert_eq!(used, Usage { cpu: 2 * TICK, written_bytes: 3, ..after });
        assert!(before.since(after).is_err());
    }
}
