//! Reads a history from a file, says whether it is linearizable, and draws it where it is not. Ends with 0 if
//! it is, 1 if it is not, 2 if that could not be told.

use checker::{Failure, History, Limits, Verdict, check, html, jsonl, shrink};
use clap::Parser;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Checks whether a history of the store is linearizable. The format is in docs/reference/histories.md.
#[derive(Parser)]
struct Args {
    /// The history, as JSON Lines.
    file: PathBuf,
    /// Draws a failure to this file, made small first.
    #[arg(long)]
    html: Option<PathBuf>,
    /// How long to search, and once more to make a failure small.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How much memory the search may take, in mebibytes.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    memo_mib: u16,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(what) => {
            // Where even stderr is closed, the status alone has to say it.
            match writeln!(io::stderr(), "checker: {what}") {
                Ok(()) | Err(_) => ExitCode::from(2),
            }
        }
    }
}

/// The exit status.
fn run(args: &Args) -> Result<u8, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", args.file.display());
    let file = File::open(&args.file).map_err(|error| named(&error))?;
    let history = jsonl::read(BufReader::new(file)).map_err(|error| named(&error))?;
    let limits =
        Limits { time: Duration::from_secs(args.seconds), memo_bytes: usize::from(args.memo_mib) << 20 };
    let count = history.calls().len();
    match check(&history, &limits) {
        Verdict::Linearizable => say(&format!("linearizable: {count} operations")).map(|()| 0),
        Verdict::Unknown(exceeded) => say(&format!("unknown: {exceeded}")).map(|()| 2),
        Verdict::NotLinearizable(failure) => {
            let key = failure.key.escape_ascii();
            say(&format!("not linearizable: {count} operations, key {key}"))?;
            if let Some(path) = &args.html {
                draw(path, &history, &failure, &limits)?;
            }
            Ok(1)
        }
    }
}

fn draw(path: &Path, history: &History, failure: &Failure, limits: &Limits) -> Result<(), String> {
    let (small, failure) = shrink(history, failure, limits);
    let named = |error: io::Error| format!("{}: {error}", path.display());
    std::fs::write(path, html::page(&small, &failure)).map_err(named)?;
    say(&format!("{} operations are drawn in {}", small.calls().len(), path.display()))
}

fn say(line: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|error| format!("stdout: {error}"))
}
