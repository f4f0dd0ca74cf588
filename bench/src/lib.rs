//! Measures from outside: load on a running cluster with what it costs the servers, what a shard's move costs those
//! who use it meanwhile, flotilla beside etcd and Redis, and how its throughput and memory grow.
//!
//! ```text
//!   load    a cluster that runs        ──┐                     ┌── process, metrics: what the servers spent
//!   peers   servers that it starts     ──┼─▶ measure ──────────┤
//!   growth  one cluster after another  ──┘   closed or open    └── tally: latencies
//!                                              │
//!                                              ▼
//!                                            report: table, JSON, or a page with plots and what they show
//! ```
//!
//! Whatever fails ends a measurement with an error, because a figure over failed operations would say something else.
//! Servers that a measurement started are ended with it, however it ends.

mod cluster;
mod disk;
mod growth;
mod html;
mod keys;
mod load;
mod measure;
mod metrics;
mod moves;
mod open_loop;
mod peers;
mod plot;
mod ports;
mod probe;
mod process;
mod report;
mod servers;
mod shape;
mod statistics;
mod tally;
mod timer;
mod workload;

pub use growth::{GrowthArgs, run as growth};
pub use load::{LoadArgs, run as load};
pub use moves::{MoveArgs, run as moves};
pub use peers::{PeersArgs, run as peers};
pub use servers::Ended;

use anyhow::{Context, Result};
use std::io::Write as _;
use std::time::Duration;

/// How long a page of a server may take.
const PAGE_TIME: Duration = Duration::from_secs(10);

/// For the servers' own pages: nothing stands between them and us.
fn http() -> Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().timeout(PAGE_TIME).build().context("cannot make HTTP requests")
}

/// A result, on stdout.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("standard output")
}

/// How far a long run has come, on stderr.
fn tell(line: &str) -> Result<()> {
    writeln!(std::io::stderr().lock(), "{line}").context("standard error")
}
