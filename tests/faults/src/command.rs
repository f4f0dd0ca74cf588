//! Other programs that are run to their end: `ip`, `iptables`, `mount` and the like. What they say on stderr
//! becomes the error.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Runs `words` and returns what it wrote to stdout.
pub(crate) fn run(words: &[&str]) -> Result<String> {
    let shown = words.join(" ");
    let (program, arguments) = words.split_first().context("a command has a program")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `words` can be run and end well.
pub(crate) fn succeeds(words: &[&str]) -> bool {
    run(words).is_ok()
}
