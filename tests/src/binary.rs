//! The binary under test: the `flotilla` that stands beside this test's own executable.
//!
//! `cargo test --workspace` has built it by the time any test runs, because the package `flotilla` has integration
//! tests. `cargo test -p tests` alone does not, so a binary that is missing, or older than any source that went into
//! it, is built here first: nobody should ever believe a test of yesterday's code.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

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
        if !is_fresh(&binary) {
            build(profile);
        }
        assert!(binary.exists(), "cargo built no {}", binary.display());
        binary
    })
}

/// Whether the binary is newer than everything that cargo says went into it.
fn is_fresh(binary: &Path) -> bool {
    let built = modified(binary);
    let sources = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = sources.split_once(": ") else { return false };
    // Spaces inside of a path are escaped.
    let sources = sources.replace("\\ ", "\0");
    let paths = sources.split_whitespace().map(|path| PathBuf::from(path.replace('\0', " ")));
    built.is_some() && paths.into_iter().all(|path| modified(&path).is_some_and(|at| Some(at) <= built))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn build(profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "-p", "flotilla"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "flotilla does not build, so there is nothing to test");
}
