//! A node: its processes, its disk and its clocks.

use crate::clock::{Clock, Pace};
use crate::disk::Disk;
use crate::process::Process;
use anyhow::Result;

/// A node of the cluster, or the spare that joins and leaves. Fields are dropped in their order: the process
/// is gone before its disk is.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) process: Process,
    pub(crate) disk: Disk,
    /// Where there is a shim.
    pub(crate) clock: Option<Clock>,
    /// Whether a process is to be there: if not, its absence is nobody's fault.
    pub(crate) wanted: bool,
}

impl Node {
    /// Starts a process whose time runs as it should.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_at(Pace::True)
    }

    /// Starts a process whose time runs so.
    pub(crate) fn start_at(&mut self, pace: Pace) -> Result<()> {
        let mut environment = Vec::new();
        if let Some(shim) = self.disk.shim() {
            environment.push(("LD_PRELOAD".to_owned(), shim.display().to_string()));
            environment.push(("FAULTS_DISK_CONTROL".to_owned(), self.disk.control().display().to_string()));
        }
        if let Some(clock) = &self.clock {
            environment.push(clock.environment(pace)?);
        }
        self.process.launch.environment = environment;
        self.wanted = true;
        self.process.start()
    }
}
