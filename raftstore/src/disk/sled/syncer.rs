//! What makes bytes durable on the real disk: every sync of a file or a folder goes through here, so that a
//! test can count them, look at the file meanwhile, and let them fail.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// See the [module](self).
pub(crate) trait Syncer: fmt::Debug + Send + Sync {
    /// Makes a file's bytes durable, and its length with them.
    fn sync_data(&self, file: &File, path: &Path) -> io::Result<()>;

    /// Makes a new file, or the names in a folder, durable.
    fn sync_all(&self, file: &File, path: &Path) -> io::Result<()>;
}

/// Asks the operating system.
#[derive(Debug)]
pub(super) struct SystemSyncer;

impl Syncer for SystemSyncer {
    fn sync_data(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_all(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_all()
    }
}
