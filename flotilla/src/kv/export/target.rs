//! Where an export goes. A file in the making has a temporary name beside its place: dropped incomplete, it leaves
//! nothing behind. Only a regular file is ever replaced, a device or a pipe never.

use crate::kv::Failure;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

pub(super) enum Target {
    Stdout(BufWriter<Stdout>),
    File {
        /// Where it goes once it is complete, links resolved.
        place: PathBuf,
        folder: PathBuf,
        file: BufWriter<NamedTempFile>,
    },
}

impl Target {
    pub(super) fn stdout() -> Self {
        Self::Stdout(BufWriter::new(io::stdout()))
    }

    /// A file that takes the place of `place`, or of what `place` links to.
    pub(super) fn file(place: &Path) -> Result<Self, Failure> {
        let place = resolve(place)?;
        let folder = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".export-").suffix(".partial");
        as_any_new_file(&mut builder);
        let file = builder.tempfile_in(&folder).map_err(|error| failed(&place, &error))?;
        Ok(Self::File { place, folder, file: BufWriter::new(file) })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(stdout) => Ok(stdout.write_all(bytes)?),
            Self::File { place, file, .. } => file.write_all(bytes).map_err(|error| failed(place, &error)),
        }
    }

    /// Puts a file in its place, durably.
    pub(super) fn complete(self) -> Result<(), Failure> {
        let (place, folder, file) = match self {
            Self::Stdout(mut stdout) => return Ok(stdout.flush()?),
            Self::File { place, folder, file } => (place, folder, file),
        };
        let file = file.into_inner().map_err(|error| failed(&place, error.error()))?;
        file.as_file().sync_all().map_err(|error| failed(&place, &error))?;
        file.persist(&place).map_err(|error| failed(&place, &error.error))?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(&place, &error))
    }
}

/// Where the file at `place` really lies, or `place` itself where nothing is yet.
fn resolve(place: &Path) -> Result<PathBuf, Failure> {
    let refused = |what| Err(Failure::Usage(format!("expected a file, not {what}: {}", place.display())));
    match place.metadata() {
        Ok(about) if about.is_file() => place.canonicalize().map_err(|error| failed(place, &error)),
        Ok(about) if about.is_dir() => refused("a folder"),
        Ok(_) => refused("a device or a pipe (- writes to standard output)"),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(place, &error)),
        Err(_) if place.is_symlink() => refused("a link to nothing"),
        Err(_) if place.file_name().is_none() => refused("a folder"),
        Err(_) => Ok(place.to_path_buf()),
    }
}

/// Temporary files are private by default; an export has the permissions of any file that its user makes.
#[cfg(unix)]
fn as_any_new_file(builder: &mut tempfile::Builder<'_, '_>) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn as_any_new_file(_: &mut tempfile::Builder<'_, '_>) {}

fn failed(place: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An export that is given up leaves the earlier file as it was and nothing beside it.
    #[test]
    fn incomplete_exports_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("words");
        std::fs::write(&place, "earlier").unwrap();
        let mut target = Target::file(&place).unwrap();
        target.write(b"new").unwrap();
        drop(target);
        assert_eq!(std::fs::read(&place).unwrap(), b"earlier");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let mut target = Target::file(&place).unwrap();
        target.write(b"new").unwrap();
        target.complete().unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Through a link, the file that it names is replaced, and the link stays.
    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, place) = (folder.path().join("link"), elsewhere.path().join("words"));
        std::fs::write(&place, "earlier").unwrap();
        std::os::unix::fs::symlink(&place, &link).unwrap();
        let mut target = Target::file(&link).unwrap();
        target.write(b"new").unwrap();
        target.complete().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&place).unwrap(), b"new");
    }

    /// What is there and is no regular file is refused, and stays what it is.
    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (link, socket) = (folder.path().join("link"), folder.path().join("socket"));
        std::os::unix::fs::symlink("nothing", &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for place in [Path::new("/dev/null"), folder.path(), &link, &socket, Path::new("..")] {
            assert!(matches!(Target::file(place), Err(Failure::Usage(_))), "{}", place.display());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
