//! `flotilla kv …`: keys and values from the command line, through the same client that applications use.
//!
//! This owns the arguments and the way from a command to its exit code. It reads no environment: `main` fills
//! [`KvArgs::nodes`] in. It never prints an error itself: `main` prints the [`Failure`] that comes back.

mod export;
mod failure;
mod format;
#[cfg(test)]
mod hostile;
mod import;
mod progress;
mod single;

use crate::arguments::{NOBODY_ADVICE, NODES_DEFAULT, nodes_help, parse_time};
use crate::output::OutputFormat;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use client::Client;
pub(crate) use failure::Failure;
use format::{Format, guess};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed, without effect (or, for import and export, incomplete)
  2  the command line is wrong
  3  the key does not exist
  4  the key is at another version
  5  a write may or may not have happened: read before trying again
  130  an export was interrupted";

/// Read and write keys.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct KvArgs {
    #[arg(long, global = true, value_name = "URL,URL", help = nodes_help())]
    pub(crate) nodes: Option<String>,
    /// What results look like
    #[arg(long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    /// How long one call may take, retries included: 500ms, 10s (or 10), 2m; at most 5m. Longer over slow lines: a node is waited
    /// for a fifth of it, two seconds at least, and a second for each 256 KiB that is sent
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    timeout: Duration,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the value of a key
    #[command(after_help = EXIT_CODES)]
    Get {
        /// The key
        #[arg(value_parser = key_parser())]
        key: OsString,
    },
    /// Set a key, whatever it was
    #[command(after_help = EXIT_CODES)]
    Put {
        /// The key
        #[arg(value_parser = key_parser())]
        key: OsString,
        #[command(flatten)]
        value: single::ValueArgs,
    },
    /// Add to the end of a value; an absent key counts as empty
    #[command(after_help = EXIT_CODES)]
    Append {
        /// The key
        #[arg(value_parser = key_parser())]
        key: OsString,
        #[command(flatten)]
        value: single::ValueArgs,
    },
    /// Set a key only if it is at a version
    #[command(after_help = EXIT_CODES)]
    Cas {
        /// The key
        #[arg(value_parser = key_parser())]
        key: OsString,
        /// The version that the key must be at; 0: it must not exist
        #[arg(long)]
        version: u64,
        #[command(flatten)]
        value: single::ValueArgs,
    },
    /// Remove a key
    #[command(after_help = EXIT_CODES)]
    Del {
        /// The key
        #[arg(value_parser = key_parser())]
        key: OsString,
        /// Only if the key is at this version, from 1
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        version: Option<u64>,
    },
    /// List keys and values in byte order: key, tab, value
    #[command(after_help = EXIT_CODES)]
    Scan {
        /// Only keys that start so
        #[arg(long, default_value = "")]
        prefix: OsString,
        /// Only keys at or after this one
        #[arg(long, default_value = "")]
        start: OsString,
        /// The most keys to list
        #[arg(long)]
        limit: Option<u64>,
        /// Leave the values out
        #[arg(long)]
        keys_only: bool,
    },
    /// Put every line of a file
    #[command(long_about = import::ABOUT, after_help = EXIT_CODES)]
    Import {
        /// The file; - for standard input
        file: PathBuf,
        /// What a line means [default: tsv for a file that ends in .tsv, otherwise jsonl]
        #[arg(long, value_enum)]
        format: Option<Format>,
        /// Lines on their way at once
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096))]
        concurrency: u16,
    },
    /// Write keys and values to a file
    #[command(long_about = export::ABOUT, after_help = EXIT_CODES)]
    Export {
        /// The file, replaced only when the export is complete; - for standard output
        file: PathBuf,
        /// Only keys that start so
        #[arg(long, default_value = "")]
        prefix: OsString,
        /// What a line means [default: tsv for a file that ends in .tsv, otherwise jsonl]
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
}

/// A key as it was typed. None is empty.
fn key_parser() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|key: OsString| match key.is_empty() {
        true => Err("a key has at least one byte"),
        false => Ok(key),
    })
}

/// How long one node is waited for, of the time that a call has: several can be tried within it. A slow line needs a long
/// `--timeout`.
fn attempt_timeout(timeout: Duration) -> Duration {
    client::Config::default().attempt_timeout.max(timeout / 5)
}

/// Carries the command out. Output that nobody reads any more is a quiet end.
pub(crate) async fn run(args: KvArgs) -> Result<(), Failure> {
    match carry_out(args).await {
        Err(Failure::ClosedPipe) => Ok(()),
        result => result,
    }
}

async fn carry_out(args: KvArgs) -> Result<(), Failure> {
    let KvArgs { nodes, output, timeout, command } = args;
    let client = connect(nodes.as_deref(), timeout).await?;
    match command {
        Command::Get { key } => single::get(&client, output, &bytes(key)).await,
        Command::Put { key, value } => single::put(&client, output, &bytes(key), value).await,
        Command::Append { key, value } => single::append(&client, output, &bytes(key), value).await,
        Command::Cas { key, version, value } => {
            single::compare_and_set(&client, output, &bytes(key), version, value).await
        }
        Command::Del { key, version } => single::delete(&client, output, &bytes(key), version).await,
        Command::Scan { prefix, start, limit, keys_only } => {
            let range = client::Range { start: bytes(start).into(), ..client::Range::prefix(bytes(prefix)) };
            single::scan(&client, output, range, limit, keys_only).await
        }
        Command::Import { file, format, concurrency } => {
            import::run(&client, output, &file, format, concurrency.into()).await
        }
        Command::Export { file, prefix, format } => {
            let format = format.unwrap_or_else(|| guess(&file).0);
            export::run(&client, output, &file, &bytes(prefix), format).await
        }
    }
}

/// A client of the cluster of `nodes`, or of the default ones. Who types a command is told at once where nobody listens,
/// rather than at the end of the time that a call may take.
pub(crate) async fn connect(nodes: Option<&str>, timeout: Duration) -> Result<Client, Failure> {
    let nodes = nodes.unwrap_or(NODES_DEFAULT);
    let seeds = nodes.split(',').map(str::trim).filter(|node| !node.is_empty());
    let attempt_timeout = attempt_timeout(timeout).min(client::ATTEMPT_TIMEOUT_MAX);
    let config = client::Config {
        awaits_seeds: false,
        deadline: timeout,
        attempt_timeout,
        ..client::Config::default()
    };
    let connected = Client::builder().config(config).seeds(seeds).connect().await;
    connected.map_err(|error| match error {
        client::Error::Unavailable { last, .. } => {
            Failure::Failed(format!("no node answered: {last}; {NOBODY_ADVICE}"))
        }
        error => error.into(),
    })
}

/// An argument's bytes as they were typed, UTF-8 or not.
fn bytes(argument: OsString) -> Vec<u8> {
    argument.into_encoded_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: KvArgs,
    }

    fn parse(line: &str) -> Result<KvArgs, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    /// The documented command lines are understood, and global options may stand anywhere.
    #[test]
    fn documented_lines_parse() {
        for line in [
            "kv get k",
            "kv put k v",
            "kv put k --file f",
            "kv put k -",
            "kv put k -1",
            "kv append k v",
            "kv cas k --version 0 v",
            "kv del k --version 3",
            "kv scan --prefix a --start b --limit 5 --keys-only",
            "kv import words --format lines --concurrency 100",
            "kv export out --prefix a --format jsonl --nodes a:1,b:2 --output json --timeout 500ms",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
        assert_eq!(parse("kv get k --timeout 500ms").unwrap().timeout, Duration::from_millis(500));
    }

    /// Who allows a call more time waits longer for each node, so that what a slow line carries is not cut short and sent
    /// again; who allows little is not left with less than an answer takes.
    #[test]
    fn attempts_follow_the_timeout() {
        for (timeout, attempt) in [("500ms", 2_000), ("10s", 2_000), ("60s", 12_000), ("5m", 60_000)] {
            let args = parse(&format!("kv get k --timeout {timeout}")).unwrap();
            assert_eq!(attempt_timeout(args.timeout), Duration::from_millis(attempt));
        }
    }

    /// What makes no sense is refused before any node is asked.
    #[test]
    fn senseless_lines_are_refused() {
        for line in [
            "kv put k",
            "kv put k v --file f",
            "kv cas k v",
            "kv del k --version 0",
            "kv import f --concurrency 0",
            "kv import f --format xml",
            "kv get k --timeout fast",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for empty in [&["kv", "get", ""][..], &["kv", "put", "", "v"], &["kv", "del", ""]] {
            let why = Line::try_parse_from(empty).expect_err("no key is empty");
            assert_eq!(why.exit_code(), 2, "{why}");
        }
    }
}
