//! The end-to-end harness: real processes of the real binary, on loopback, with disks of their own.
//!
//! A [`Cluster`] is several [`Node`]s, each a `flotilla server` that can be killed (SIGKILL), stopped (SIGTERM) and
//! started again on its data. Tests wait for conditions ([`eventually`]) rather than sleeping, draw their chances
//! from a printed seed ([`Dice`]), and leave nothing behind: dropping a cluster kills the processes that it started,
//! and no others, and removes its directory. Where a test fails, the end of every node's log is shown.
//!
//! The binary is the one that cargo built beside the test; see [`binary`] for how a stale one is noticed. A
//! test may run another [`Program`] in its place.

mod binary;
mod cluster;
mod dice;
mod http;
mod node;
mod operator;
mod ports;
mod wait;

pub use binary::binary;
pub use cluster::{Cluster, Shape};
pub use dice::Dice;
pub use http::http;
pub use node::{Node, Program, Run, run};
pub use operator::{Place, owner_and_target};
pub use ports::Ports;
pub use wait::{PATIENCE, eventually};
