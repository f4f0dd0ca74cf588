//! `flotilla kv export`: writes keys and values to a file that appears only when it is complete, or to stdout.

mod target;

use super::Failure;
use super::format::{Format, line_number, render};
use super::progress::bar;
use crate::output::{OutputFormat, write_line};
use crate::signals::Signals;
use client::{Client, Range};
use indicatif::ProgressBar;
use serde_json::json;
use std::path::Path;
use target::Target;

pub(crate) const ABOUT: &str = "Write keys and values to a file

The file is written under a temporary name beside its place and renamed when it is complete, so that a failed or
interrupted export leaves an earlier one as it was. A link is followed; devices and pipes are refused: - writes to
standard output, and then no summary. tsv and jsonl are in byte order of the keys. lines restores a file that was
imported as lines, in the order of its line numbers; it is sorted in memory. Of equal lines only the last comes back,
empty lines do not, and a last line without a line break gains one. The export is no snapshot: what is written
meanwhile may be in it or not.";

pub(crate) async fn run(
    client: &Client,
    output: OutputFormat,
    file: &Path,
    prefix: &[u8],
    format: Format,
) -> Result<(), Failure> {
    if file.as_os_str() == "-" {
        return write(client, Target::stdout(), prefix, format).await.map(drop);
    }
    // Only a file has something to tidy away. Caught before it is made, so that no signal comes in between.
    let mut signals = Signals::catch()?;
    let target = Target::file(file)?;
    let keys = tokio::select! {
        keys = write(client, target, prefix, format) => keys?,
        signal = signals.recv() => {
            let message = format!("export was ended by {signal}, nothing was written: {}", file.display());
            return Err(Failure::Interrupted(message));
        }
    };
    match output {
        OutputFormat::Text => write_line(&format!("{keys} keys exported"))?,
        OutputFormat::Json => write_line(&json!({"keys": keys}).to_string())?,
    }
    Ok(())
}

/// Writes everything to `target` and completes it; says how many keys there were.
async fn write(client: &Client, target: Target, prefix: &[u8], format: Format) -> Result<u64, Failure> {
    let progress = bar(None, "keys");
    let range = Range { page_bytes: 1 << 20, page_records: 10_000, ..Range::prefix(prefix) };
    let (target, keys) = match format {
        Format::Lines => by_line_number(client, range, target, &progress).await?,
        Format::Tsv | Format::Jsonl => by_key(client, range, target, format, &progress).await?,
    };
    target.complete()?;
    progress.finish_and_clear();
    Ok(keys)
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
