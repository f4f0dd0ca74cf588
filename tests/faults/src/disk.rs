//! One node's disk: a small file system of its own where the machine allows mounts, and a shim in the process
//! that lets calls fail.

use crate::command;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What a node's own file system holds, in MiB: several times what the workload needs.
const SIZE_MIB: u32 = 96;

/// The filler grows by such pieces, then by bytes.
const PIECE_BYTES: usize = 64 << 10;

/// In which way calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Changes fail with EIO.
    Write,
    /// Syncs fail with EIO.
    Sync,
    /// Changes fail with ENOSPC.
    Full,
    /// Syncs take longer.
    Slow,
}

/// A node's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    mounted: bool,
    shim: Option<PathBuf>,
    control: PathBuf,
}

impl Disk {
    /// Makes `folder` and mounts a file system there where that is allowed.
    pub(crate) fn prepare(folder: PathBuf, mounts: bool, shim: Option<PathBuf>) -> Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let control = folder.with_extension("trouble");
        let mut disk = Self { folder, mounted: false, shim, control };
        if mounts {
            let size = format!("size={SIZE_MIB}m");
            command::run(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &disk.path()])?;
            disk.mounted = true;
        }
        Ok(disk)
    }

    fn path(&self) -> String {
        self.folder.display().to_string()
    }

    /// Where the node keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What is to be preloaded.
    pub(crate) fn shim(&self) -> Option<&Path> {
        self.shim.as_deref()
    }

    /// Where the shim looks.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// Lets calls fail from now on.
    pub(crate) fn fail(&self, trouble: Trouble) -> Result<()> {
        let word = match trouble {
            Trouble::Write => "write",
            Trouble::Sync => "sync",
            Trouble::Full => "full",
            Trouble::Slow => "slow",
        };
        // Renamed into place, so that a process never reads an empty file.
        let new = self.control.with_extension("new");
        std::fs::write(&new, word)
            .and_then(|()| std::fs::rename(&new, &self.control))
            .with_context(|| format!("{}", self.control.display()))
    }

    /// Takes what room there is. To be called again while the disk is to stay full: the node gives some back.
    pub(crate) fn fill(&self) -> Result<()> {
        if !self.mounted {
            return self.fail(Trouble::Full);
        }
        let mut filler = OpenOptions::new().create(true).append(true).open(self.filler())?;
        let mut piece = PIECE_BYTES;
        while piece > 0 {
            match filler.write(&vec![0; piece]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => piece /= 16,
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
        Ok(())
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// The disk works again.
    pub(crate) fn heal(&self) -> Result<()> {
        for path in [&self.control, &self.filler()] {
            match std::fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
            }
        }
        Ok(())
    }

    /// Removes the node's data, as if the disk had been replaced.
    pub(crate) fn wipe(&self) -> Result<()> {
        match std::fs::remove_dir_all(self.data()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context("data cannot be removed"),
        }
    }

    /// Copies the data to where it outlives the file system.
    pub(crate) fn keep(&self, to: &Path) -> Result<()> {
        let data = self.data();
        if !self.mounted || File::open(&data).is_err() {
            return Ok(());
        }
        command::run(&["cp", "-a", &data.display().to_string(), &to.display().to_string()]).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && !command::succeeds(&["umount", &self.path()]) {
            // Somebody looks at it, or a process is slow to go: it disappears once nobody holds it.
            command::succeeds(&["umount", "-l", &self.path()]);
        }
    }
}
