//! What the machine allows, found by trying it: nothing is installed, and what is missing is told with the
//! command that would bring it.

use crate::{command, network};
use std::path::{Path, PathBuf};

/// The shim's source, compiled where there is a C compiler.
const SHIM: &str = include_str!("shim.c");

/// What can be done to processes here.
#[derive(Clone, Debug)]
pub(crate) struct Capabilities {
    /// Network namespaces with their own packet filters can be made.
    pub(crate) namespaces: bool,
    /// File systems can be mounted.
    pub(crate) mounts: bool,
    /// The library that makes a process's disk fail and misleads its clocks.
    pub(crate) shim: Option<PathBuf>,
    /// What is not there, and what would bring it.
    pub(crate) missing: Vec<String>,
}

impl Capabilities {
    /// Looks and tries; libraries and mounts are made in `folder`.
    pub(crate) fn find(folder: &Path) -> Self {
        let mut missing = Vec::new();
        let namespaces = network::Namespaces::try_out().map_err(|error| {
            missing.push(format!(
                "network namespaces: {error:#} (needs root and `apt-get install iproute2 iptables`); \
                 links go through proxies instead"
            ));
        });
        let mounts = try_mount(folder);
        if !mounts {
            missing.push("tmpfs mounts (need root); full disks are pretended by the shim instead".to_owned());
        }
        let shim = compile(folder);
        if shim.is_none() {
            let bring = "a C compiler named cc (`apt-get install gcc libc6-dev`)";
            missing.push(format!("{bring}: no I/O errors, and clocks are left alone"));
        }
        Self { namespaces: namespaces.is_ok(), mounts, shim, missing }
    }
}

fn try_mount(folder: &Path) -> bool {
    let place = folder.join("tried");
    if std::fs::create_dir_all(&place).is_err() {
        return false;
    }
    let place = place.display().to_string();
    command::succeeds(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", &place])
        && command::succeeds(&["umount", &place])
}

/// The shim, compiled into `folder`; `None` where it cannot be.
pub(crate) fn compile(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).ok()?;
    let (from, to) = (source.display().to_string(), library.display().to_string());
    command::succeeds(&["cc", "-shared", "-fPIC", "-O2", "-o", &to, &from, "-ldl"]).then_some(library)
}
