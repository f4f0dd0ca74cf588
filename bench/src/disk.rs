//! What was written to a disk, as its driver counts it: by everybody, and only what reached it.
//!
//! The kernel's count for a process is another: of what a write made dirty in the cache it counts the whole piece in which
//! the cache keeps it. In a file that was given its size in advance such a piece is up to a mebibyte, of which a sync of a
//! few bytes writes one block.

use anyhow::{Context, Result};
use rustix::fs::{major, minor};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The unit of the counters, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;

/// The disk of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Where the kernel keeps its counters; `None` where it has none, as for a file system in memory.
    counters: Option<PathBuf>,
}

impl Disk {
    /// Of `dir`.
    ///
    /// # Errors
    /// There is no such directory.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let device = std::fs::metadata(dir).with_context(|| dir.display().to_string())?.dev();
        let counters = PathBuf::from(format!("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
        Ok(Self { counters: counters.exists().then_some(counters) })
    }

    /// How many bytes were written to it so far; `None` where that is not known.
    pub(crate) fn written_bytes(&self) -> Result<Option<u64>> {
        let Some(counters) = &self.counters else { return Ok(None) };
        let page = std::fs::read_to_string(counters);
        let page = page.with_context(|| format!("cannot read {}", counters.display()))?;
        written_bytes(&page).map(Some)
    }
}

/// The seventh number is that of the sectors that were written.
fn written_bytes(page: &str) -> Result<u64> {
    let field = page.split_whitespace().nth(6).with_context(|| format!("no counters of a disk: {page}"))?;
    let sectors: u64 = field.parse().with_context(|| format!("a counter is no number: {field}"))?;
    sectors.checked_mul(SECTOR_BYTES).context("a counter beyond all measure")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counter is found among the others, and damaged ones are errors.
    #[test]
    fn counters() {
        let page = "   12  0  3472  5  40 7  1024  90 0 5 6 0 0 0 0 0 0\n";
        assert_eq!(written_bytes(page).expect("a counter"), 512 << 10);
        for bad in ["", "1 2 3 4 5 6", "1 2 3 4 5 6 x", "1 2 3 4 5 6 18446744073709551615"] {
            assert!(written_bytes(bad).is_err(), "{bad}");
        }
    }

    /// What has no disk has no counters, and a directory that is missing is an error.
    #[test]
    fn directories() {
        let none = Disk::of(Path::new("/proc")).and_then(|disk| disk.written_bytes());
        assert_eq!(none.expect("no disk is no error"), None);
        assert!(Disk::of(Path::new("/nowhere")).is_err());
    }
}
