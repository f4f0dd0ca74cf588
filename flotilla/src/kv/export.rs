//! `flotilla kv export`: writes keys and values to a file that appears only when it is complete.

use super::Failure;
use super::format::{Format, line_number, render};
use super::progress::bar;
use crate::output::{OutputFormat, write_line};
use client::{Client, Range};
use indicatif::ProgressBar;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

pub(crate) const ABOUT: &str = "Write keys and values to a file

The file is written under a temporary name beside its place and renamed when it is complete, so that a failed
export leaves an earlier one as it was. tsv and jsonl are in byte order of the keys. lines restores a file that
was imported as lines, in the order of its line numbers; it is sorted in memory. The export is no snapshot: what
is written meanwhile may be in it or not.";

pub(crate) async fn run(
    client: &Client,
    output: OutputFormat,
    file: &Path,
    prefix: &[u8],
    format: Format,
) -> Result<(), Failure> {
    let target = Target::create(file)?;
    let progress = bar(None, "keys");
    let range = Range { page_bytes: 1 << 20, page_records: 10_000, ..Range::prefix(prefix) };
    let (target, keys) = match format {
        Format::Lines => by_line_number(client, range, target, &progress).await?,
        Format::Tsv | Format::Jsonl => by_key(client, range, target, format, &progress).await?,
    };
    target.complete()?;
    progress.finish_and_clear();
    match output {
        OutputFormat::Text => write_line(&format!("{keys} keys exported"))?,
        OutputFormat::Json => write_line(&json!({"keys": keys}).to_string())?,
    }
    Ok(())
}

async fn by_key(
    client: &Client,
    range: Range,
    mut target: Target,
    format: Format,
    progress: &ProgressBar,
) -> Result<(Target, u64), Failure> {
    let mut scan = client.scan(range);
    let mut keys = 0;
    while let Some(page) = scan.next_page().await? {
        let mut lines = Vec::new();
        for record in &page.records {
            render(format, &record.key, &record.value, &mut lines).map_err(Failure::Failed)?;
        }
        target.write(&lines)?;
        keys += page.records.len() as u64;
        progress.set_position(keys);
    }
    Ok((target, keys))
}

async fn by_line_number(
    client: &Client,
    range: Range,
    mut target: Target,
    progress: &ProgressBar,
) -> Result<(Target, u64), Failure> {
    let mut scan = client.scan(range);
    let mut numbered = Vec::new();
    while let Some(page) = scan.next_page().await? {
        for record in page.records {
            let number = line_number(&record.key, &record.value).map_err(Failure::Failed)?;
            numbered.push((number, record.key));
        }
        progress.set_position(numbered.len() as u64);
    }
    numbered.sort_unstable();
    let mut line = Vec::new();
    for (_, key) in &numbered {
        line.clear();
        render(Format::Lines, key, &[], &mut line).map_err(Failure::Failed)?;
        target.write(&line)?;
    }
    Ok((target, numbered.len() as u64))
}

/// The file in the making. Dropped incomplete, it leaves nothing behind.
struct Target {
    place: PathBuf,
    folder: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl Target {
    fn create(place: &Path) -> Result<Self, Failure> {
        let folder = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        if place.is_dir() || place.file_name().is_none() {
            return Err(Failure::Usage(format!("expected a file, not a folder: {}", place.display())));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".export-").suffix(".partial");
        as_any_new_file(&mut builder);
        let file = builder.tempfile_in(&folder).map_err(|error| failed(place, &error))?;
        Ok(Self { place: place.to_path_buf(), folder, file: BufWriter::new(file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.place, &error))
    }

    /// Puts the file in its place, durably.
    fn complete(self) -> Result<(), Failure> {
        let Self { place, folder, file } = self;
        let file = file.into_inner().map_err(|error| failed(&place, error.error()))?;
        file.as_file().sync_all().map_err(|error| failed(&place, &error))?;
        file.persist(&place).map_err(|error| failed(&place, &error.error))?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(&place, &error))
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

fn failed(place: &Path, error: &std::io::Error) -> Failure {
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
        let mut target = Target::create(&place).unwrap();
        target.write(b"new").unwrap();
        drop(target);
        assert_eq!(std::fs::read(&place).unwrap(), b"earlier");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let mut target = Target::create(&place).unwrap();
        target.write(b"new").unwrap();
        target.complete().unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
