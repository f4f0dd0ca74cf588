//! One process's clocks, misled by libfaketime.
//!
//! Wall clocks jump in the world: an operator or NTP sets them. Monotonic clocks do not, but run a little
//! fast or slow. So a process is started in one of two ways: with its wall clock in our hands and its
//! monotonic one left alone, or with both running at another rate from its first instant on. A monotonic
//! clock that jumps exists on no machine, and the standard library's waits, which ask the kernel's true
//! clock, are not made for it.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The offset of a clock that is right.
const RIGHT: &str = "+0\n";

/// How a process's time runs from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As time does; the wall clock can be set while it runs.
    True,
    /// Both clocks gain or lose so many thousandths, and both can be set.
    Drifting(i32),
}

/// The clocks of one node's processes.
#[derive(Debug)]
pub(crate) struct Clock {
    library: PathBuf,
    /// What the library reads once a second.
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, told by `file`.
    pub(crate) fn new(library: &Path, file: PathBuf) -> Result<Self> {
        let clock = Self { library: library.to_owned(), file };
        clock.write(RIGHT)?;
        Ok(clock)
    }

    /// What is to be preloaded.
    pub(crate) fn library(&self) -> &Path {
        &self.library
    }

    /// The environment of a process that starts now.
    pub(crate) fn environment(&self, pace: Pace) -> Result<Vec<(String, String)>> {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut environment = vec![
            set("FAKETIME_TIMESTAMP_FILE", &self.file.display().to_string()),
            set("FAKETIME_CACHE_DURATION", "1"),
        ];
        match pace {
            Pace::True => {
                self.write(RIGHT)?;
                // The older and the newer name of one setting.
                environment.push(set("DONT_FAKE_MONOTONIC", "1"));
                environment.push(set("FAKETIME_DONT_FAKE_MONOTONIC", "1"));
            }
            Pace::Drifting(thousandths) => {
                self.write(&format!("+0 x{:.3}\n", 1.0 + f64::from(thousandths) / 1000.0))?;
            }
        }
        Ok(environment)
    }

    /// Sets what is in our hands so many seconds from the truth; the process notices within a second.
    pub(crate) fn set(&self, seconds: i32) -> Result<()> {
        self.write(&format!("{seconds:+}\n"))
    }

    /// Sets it right.
    pub(crate) fn set_right(&self) -> Result<()> {
        self.write(RIGHT)
    }

    /// The file is replaced in one step: half a line would be another time.
    fn write(&self, text: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.file))
            .with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

/// libfaketime keeps two shared objects for each process; one that was killed leaves them behind.
pub(crate) fn forget(pid: u32) {
    for name in [format!("/dev/shm/faketime_shm_{pid}"), format!("/dev/shm/sem.faketime_sem_{pid}")] {
        if Path::new(&name).exists() && std::fs::remove_file(&name).is_err() {
            // A few bytes stay behind until the machine starts again.
            return;
        }
    }
}
