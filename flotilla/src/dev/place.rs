//! The directory of a dev cluster: a temporary one that goes when the cluster does, or the operator's own, which
//! remembers how many nodes it was made for.

use super::DevArgs;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a kept directory remembers of its first start.
const BIRTH_FILE: &str = "dev.toml";

/// What it is called until it is whole.
const BIRTH_DRAFT: &str = "dev.draft";

/// What the data directory of a node holds from its first start on.
const NODE_DATA: &str = "cells";

/// Where the nodes keep their data. Dropping a temporary place removes it: drop it after the nodes.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    // Present exactly where the directory is ours to remove.
    _temporary: Option<tempfile::TempDir>,
}

/// What must be said again when a kept directory is used again, because the data depends on it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Birth {
    nodes: u16,
    groups: u32,
    port: u16,
}

impl Place {
    /// Makes the directory, or checks that it was made for the same cluster.
    pub(crate) fn prepare(args: &DevArgs) -> Result<Self, Error> {
        match &args.data {
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("flotilla-dev-")
                    .tempdir()
                    .map_err(|error| Error::Failed(format!("cannot make a temporary directory: {error}")))?;
                Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) })
            }
            Some(path) => {
                let birth = Birth { nodes: args.nodes, groups: args.groups, port: args.port };
                remember(path, &birth)?;
                Ok(Self { path: path.clone(), _temporary: None })
            }
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn remember(path: &Path, birth: &Birth) -> Result<(), Error> {
    let refuse = |what: &str, why: String| Error::Failed(format!("cannot {what} {}: {why}", path.display()));
    std::fs::create_dir_all(path).map_err(|error| refuse("make", error.to_string()))?;
    let file = path.join(BIRTH_FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let first: Birth = toml::from_str(&text).map_err(|error| {
                refuse("use", format!("its {BIRTH_FILE} is damaged: {}", error.message()))
            })?;
            if first == *birth {
                return Ok(());
            }
            Err(Error::Usage(format!(
                "{} was made with --nodes {} --groups {} --port {}: say the same again, or give another directory",
                path.display(),
                first.nodes,
                first.groups,
                first.port
            )))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse_strangers(path, strangers(path).map_err(|error| refuse("read", error.to_string()))?)?;
            let text = toml::to_string(birth).expect("three numbers are plain data that TOML can hold");
            write_whole(&file, &text).map_err(|error| refuse("write into", error.to_string()))
        }
        Err(error) => Err(refuse("read", error.to_string())),
    }
}

fn refuse_strangers(path: &Path, strangers: Vec<String>) -> Result<(), Error> {
    let Some(first) = strangers.first() else { return Ok(()) };
    let whose = match strangers.iter().any(|name| name == NODE_DATA) {
        true => "it is the data directory of a node of flotilla server".to_owned(),
        false => format!("it holds {first} and was not made by flotilla dev"),
    };
    let path = path.display();
    Err(Error::Usage(format!("cannot use {path}: {whose}; give --data a new or empty directory")))
}

/// What is in a directory without a birth file, in order, beside what an interrupted first start left.
fn strangers(path: &Path) -> std::io::Result<Vec<String>> {
    let names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<String>>>()?;
    names.retain(|name| name != BIRTH_DRAFT);
    names.sort();
    Ok(names)
}

/// Writes beside `file` and renames, so that a crash leaves no half of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let draft = file.with_file_name(BIRTH_DRAFT);
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(data: Option<PathBuf>, nodes: u16) -> DevArgs {
        DevArgs { nodes, groups: 1, port: 7100, data }
    }

    /// A temporary place goes when it is dropped, with everything in it.
    #[test]
    fn temporary_place_goes() {
        let place = Place::prepare(&args(None, 3)).expect("a place");
        let path = place.path().to_owned();
        std::fs::write(path.join("data"), "x").expect("written");
        drop(place);
        assert!(!path.exists());
    }

    /// A kept directory takes the same cluster again and refuses another shape, saying the first one.
    #[test]
    fn kept_place_remembers() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("kept");
        drop(Place::prepare(&args(Some(path.clone()), 3)).expect("made"));
        assert!(path.exists());
        Place::prepare(&args(Some(path.clone()), 3)).expect("the same again");
        let error = Place::prepare(&args(Some(path), 5)).expect_err("another shape");
        assert!(error.to_string().contains("--nodes 3 --groups 1 --port 7100"), "{error}");
    }
    /// A directory that holds anything but a dev cluster is refused as a mistake, a server node's by its own name, and
    /// is left as it was; what a first start that was cut short left behind is no stranger.
    #[test]
    fn other_directories_are_refused() {
        let refused = |path: &Path| match Place::prepare(&args(Some(path.to_owned()), 3)) {
            Err(Error::Usage(why)) => why,
            other => panic!("expected a refusal, got {other:?}"),
        };
        let left = |path: &Path| strangers(path).expect("a directory");
        let outer = tempfile::tempdir().expect("a directory");
        std::fs::write(outer.path().join("letters.txt"), "x").expect("written");
        let why = refused(outer.path());
        assert!(why.contains("it holds letters.txt and was not made by flotilla dev"), "{why}");
        assert_eq!(left(outer.path()), ["letters.txt"]);
        let node = outer.path().join("node");
        std::fs::create_dir_all(node.join(NODE_DATA)).expect("made");
        let why = refused(&node);
        assert!(why.contains("the data directory of a node of flotilla server"), "{why}");
        let cut_short = outer.path().join("cut-short");
        std::fs::create_dir(&cut_short).expect("made");
        std::fs::write(cut_short.join(BIRTH_DRAFT), "nodes = ").expect("written");
        Place::prepare(&args(Some(cut_short), 3)).expect("nothing is lost there");
    }
}
