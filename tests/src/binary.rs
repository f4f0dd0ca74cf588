//! The binary under test: the `flotilla` that stands beside this test's own executable.
//!
//! `cargo test --workspace` has built it by the time any test runs, because the package `flotilla` has integration
//! tests. `cargo test -p tests` alone does not, so a binary that is missing, or older than any source that may have
//! gone into it, is built here first: nobody should ever believe a test of yesterday's code.
//!
//! What went into it is found by looking through the workspace, not in cargo's list beside the binary: cargo writes
//! that for `cargo build` only, so that in a fresh clone there is none.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The workspace's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Folders, at any depth, of which nothing goes into the binary.
const OTHER_FOLDERS: [&str; 6] = ["target", "tests", "benches", "fuzz", "docs", "deploy"];

/// The path of the binary; built where necessary, once for each process.
///
/// # Panics
/// If it is not there and cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a running test knows its own executable");
        // target/<profile>/deps/<test>
        let profile = test.ancestors().nth(2).expect("a test lies two levels below the profile's directory");
        let binary = profile.join("flotilla");
        if !is_fresh(&binary, Path::new(ROOT)).expect("the sources can be looked through") {
            build(profile);
        }
        assert!(binary.exists(), "cargo built no {}", binary.display());
        binary
    })
}

/// Whether the binary is there and no older than anything below `root` that may have gone into it.
fn is_fresh(binary: &Path, root: &Path) -> io::Result<bool> {
    match modified(binary) {
        Ok(built) => Ok(newest_source(root)? <= built),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// When the youngest source below `folder` was changed. Test code inside of a crate is none: cargo does not build the
/// binary again for that either.
fn newest_source(folder: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let is_folder = entry.file_type()?.is_dir();
        if is_folder && !OTHER_FOLDERS.contains(&name) {
            newest = newest.max(newest_source(&entry.path())?);
        } else if !is_folder && name != "tests.rs" && !name.ends_with(".md") {
            newest = newest.max(modified(&entry.path())?);
        }
    }
    Ok(newest)
}

fn modified(path: &Path) -> io::Result<SystemTime> {
    std::fs::metadata(path)?.modified()
}

fn build(profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "flotilla"]).current_dir(ROOT);
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "flotilla does not build, so there is nothing to test");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    /// A binary is fresh while no source of its own is younger; one that is missing never is. No list of cargo's is
    /// needed, and what goes into no binary makes none stale.
    #[test]
    fn freshness() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| root.path().join(name);
        let set = |name: &str, seconds| {
            std::fs::create_dir_all(path(name).parent().expect("a path below the root")).expect("made");
            let file = File::options().create(true).append(true).open(path(name)).expect("opened");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
        };
        let is_fresh = || is_fresh(&path("target/debug/flotilla"), root.path()).expect("looked through");
        set("kvserver/src/http/openapi.json", 10);
        assert!(!is_fresh(), "there is none");
        set("target/debug/flotilla", 20);
        assert!(is_fresh());
        let others = [
            "tests/src/lib.rs",
            "kvserver/src/machine/tests.rs",
            "README.md",
            "fuzz/corpus/commands/0a",
            "fuzz/targets/commands.rs",
            "target/debug/x.rs",
        ];
        for other in others {
            set(other, 30);
            assert!(is_fresh(), "{other}");
        }
        for source in ["kvserver/src/http/openapi.json", "Cargo.lock", "flotilla/src/main.rs"] {
            set(source, 21);
            assert!(!is_fresh(), "{source}");
            set(source, 20);
            assert!(is_fresh(), "{source}");
        }
    }
}
