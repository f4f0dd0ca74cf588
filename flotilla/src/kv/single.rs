//! The commands that concern one key, and the listing.

use super::Failure;
use crate::output::{JsonPair, OutputFormat, write_bytes, write_line, write_value};
use clap::Args;
use client::{Client, Deleted, Expect, Range, Record, Version, Written};
use serde_json::{Value as Json, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Args)]
pub(crate) struct ValueArgs {
    /// The value; - for standard input
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    value: Option<OsString>,
    /// Take the value from a file
    #[arg(long)]
    file: Option<PathBuf>,
}

impl ValueArgs {
    async fn read(self) -> Result<Vec<u8>, Failure> {
        match (self.value, self.file) {
            (Some(value), _) if value != "-" => Ok(value.into_encoded_bytes()),
            (_, file) => tokio::task::spawn_blocking(move || read_bounded(file))
                .await
                .map_err(|error| Failure::Failed(format!("reading the value failed: {error}")))?,
        }
    }
}

/// No more of a value is read: many times what any cluster accepts, whose own limit the client refuses by.
const VALUE_BYTES_READ_MAX: u64 = 64 << 20;

/// All of a file or of standard input, and no more than shows that it is too long.
fn read_bounded(file: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let bytes_max = VALUE_BYTES_READ_MAX;
    let mut value = Vec::new();
    match &file {
        Some(path) => File::open(path)
            .and_then(|file| file.take(bytes_max).read_to_end(&mut value))
            .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?,
        None => std::io::stdin()
            .lock()
            .take(bytes_max)
            .read_to_end(&mut value)
            .map_err(|error| Failure::Failed(format!("standard input: {error}")))?,
    };
    Ok(value)
}

pub(crate) async fn get(client: &Client, output: OutputFormat, key: &[u8]) -> Result<(), Failure> {
    let value = client.get(key).await?.ok_or(Failure::NotFound)?;
    match output {
        OutputFormat::Text => write_value(&value.bytes)?,
        OutputFormat::Json => {
            write_line(&record_json(key, &value.bytes, value.version, value.revision).to_string())?;
        }
    }
    Ok(())
}

pub(crate) async fn put(
    client: &Client,
    output: OutputFormat,
    key: &[u8],
    value: ValueArgs,
) -> Result<(), Failure> {
    let written = client.put(key, value.read().await?).await?;
    report_written(output, written)
}

pub(crate) async fn append(
    client: &Client,
    output: OutputFormat,
    key: &[u8],
    value: ValueArgs,
) -> Result<(), Failure> {
    let written = client.append(key, value.read().await?).await?;
    report_written(output, written)
}

pub(crate) async fn compare_and_set(
    client: &Client,
    output: OutputFormat,
    key: &[u8],
    version: u64,
    value: ValueArgs,
) -> Result<(), Failure> {
    let written = client.compare_and_set(key, Version(version), value.read().await?).await?;
    report_written(output, written)
}

fn report_written(output: OutputFormat, written: Written) -> Result<(), Failure> {
    let Written { version, revision, length } = written;
    match output {
        OutputFormat::Text => write_line(&format!("version {version}"))?,
        OutputFormat::Json => {
            let line = json!({"version": version.0, "revision": revision.0, "length": length});
            write_line(&line.to_string())?;
        }
    }
    Ok(())
}

pub(crate) async fn delete(
    client: &Client,
    output: OutputFormat,
    key: &[u8],
    version: Option<u64>,
) -> Result<(), Failure> {
    let expect = version.map_or(Expect::Any, |version| Expect::Version(Version(version)));
    let Deleted { revision } = client.delete_if(key, expect).await?;
    match output {
        OutputFormat::Text => write_line("deleted")?,
        OutputFormat::Json => write_line(&json!({"revision": revision.0}).to_string())?,
    }
    Ok(())
}

/// Lists page by page, so that the first lines come at once and memory stays bounded.
pub(crate) async fn scan(
    client: &Client,
    output: OutputFormat,
    range: Range,
    limit: Option<u64>,
    keys_only: bool,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let page_records = range.page_records.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1);
    let mut scan = client.scan(Range { page_records, ..range });
    while left > 0
        && let Some(page) = scan.next_page().await?
    {
        let mut lines = Vec::new();
        for record in page.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            render(output, record, keys_only, &mut lines);
            left -= 1;
        }
        write_bytes(&lines)?;
    }
    Ok(())
}

fn render(output: OutputFormat, record: &Record, keys_only: bool, lines: &mut Vec<u8>) {
    match output {
        OutputFormat::Text => {
            lines.extend_from_slice(&record.key);
            if !keys_only {
                lines.push(b'\t');
                lines.extend_from_slice(&record.value);
            }
        }
        OutputFormat::Json => {
            let value: &[u8] = if keys_only { &[] } else { &record.value };
            let mut json = record_json(&record.key, value, record.version, record.revision);
            if keys_only && let Some(fields) = json.as_object_mut() {
                fields.remove("value");
            }
            lines.extend_from_slice(json.to_string().as_bytes());
        }
    }
    lines.push(b'\n');
}

fn record_json(key: &[u8], value: &[u8], version: Version, revision: client::Revision) -> Json {
    let JsonPair { key, value, b64 } = JsonPair::new(key, value);
    json!({"key": key, "value": value, "b64": b64, "version": version.0, "revision": revision.0})
}
