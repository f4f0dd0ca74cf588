//! What is counted: one kind of operation, so many at a time, through the client and all that is behind it.

use crate::fleet::Fleet;
use anyhow::{Context, Result, ensure};
use client::{Client, Expect, Operation};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many keys there are, all of which are written before the first operation that counts: each put replaces a value.
const KEYS: u64 = 1_024;

/// What each key holds.
const VALUE: [u8; 256] = [b'v'; 256];

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Get,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name on the command line and in the file of counts.
    pub name: &'static str,
    kind: Kind,
    /// How many operations are under way at any time.
    in_flight: u64,
    /// How many operations the shorter of two runs does: as many as make what an operation takes plain beside what
    /// the start takes, within seconds.
    pub operations: u64,
}

/// What became of a run. Two of the same are the same run.
#[derive(Debug)]
pub struct Ran {
    operations: u64,
    took: Duration,
    writes: u64,
    bytes: u64,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, took, writes, bytes } = self;
        let ms = took.as_millis();
        write!(f, "{operations} operations, {ms} ms by the simulated clock, {writes} writes of {bytes} bytes")
    }
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { name: "put-1", kind: Kind::Put, in_flight: 1, operations: 500 },
        Self { name: "put-64", kind: Kind::Put, in_flight: 64, operations: 4_096 },
        Self { name: "get-1", kind: Kind::Get, in_flight: 1, operations: 500 },
        Self { name: "get-64", kind: Kind::Get, in_flight: 64, operations: 8_192 },
    ];

    /// The one of that name.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(|workload| workload.name).join(", ");
        let named = Self::ALL.into_iter().find(|workload| workload.name == name);
        named.ok_or_else(|| format!("must be one of {}", names()))
    }

    /// Starts nodes and a client, and does so many operations, all in this thread.
    ///
    /// # Errors
    /// Where one fails: there are no faults that could excuse it.
    pub fn run(self, operations: u64, seed: u64) -> Result<Ran> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(self.simulate(operations, seed))
    }

    async fn simulate(self, operations: u64, seed: u64) -> Result<Ran> {
        raftstore::seed(seed);
        let began = Instant::now();
        let fleet = Fleet::start().await?;
        let client = fleet.connect(seed).await?;
        let puts = (0..KEYS).map(|number| Operation::put(key(number), VALUE, Expect::Any));
        for written in client.batch(puts).await {
            written.context("a key cannot be written")?;
        }
        self.work(&client, operations).await?;
        let (writes, bytes) = fleet.sent();
        Ok(Ran { operations, took: began.elapsed(), writes, bytes })
    }

    /// Does the operations, each worker the next one when its last is answered.
    async fn work(self, client: &Client, operations: u64) -> Result<()> {
        let next = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.in_flight {
            let (client, next) = (client.clone(), next.clone());
            workers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= operations {
                        return anyhow::Ok(());
                    }
                    self.kind.carry_out(&client, number).await?;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.context("a worker did not end")?.with_context(|| self.name)?;
        }
        Ok(())
    }
}

impl Kind {
    async fn carry_out(self, client: &Client, number: u64) -> Result<()> {
        let key = key(number);
        match self {
            Self::Put => {
                client.put(&key, VALUE).await?;
            }
            Self::Get => {
                let value = client.get(&key).await?;
                ensure!(value.is_some_and(|value| *value.bytes == VALUE), "{key} does not hold what was put");
            }
        }
        Ok(())
    }
}

/// The key of an operation: one after the other, round and round.
fn key(number: u64) -> String {
    format!("key{:05}", number % KEYS)
}
