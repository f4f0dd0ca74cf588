//! Measures a running cluster from outside: load with the servers' CPU and syncs per operation, and what a shard's
//! move costs those who use it meanwhile.
//!
//! Owns no server: it is given the nodes of one. Whatever fails ends a measurement with an error, because a figure
//! over failed operations would say something else.

mod load;
mod moves;

pub use load::{LoadArgs, run as load};
pub use moves::{MoveArgs, run as moves};

use anyhow::{Context, Result};
use std::io::Write as _;

/// For the servers' own pages: nothing stands between them and us.
fn http() -> Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build().context("cannot make HTTP requests")
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("standard output")
}
