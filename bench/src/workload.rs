//! What operations a load consists of, and how the client carries them out.

use crate::keys::{self, Keys, key, value};
use crate::measure::Worker;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use client::{Client, Error, Expect, PAGE_RECORDS, Range, Version};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many keys a page of a scan has.
const SCANNED_KEYS: u32 = 100;

/// How many puts are in one call.
const BATCH_PUTS: usize = 64;

/// A value to which more than so many were appended is emptied, with the append that made it so: the memory that values
/// take is bounded.
const APPENDED_VALUES: u64 = 16;

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Replaces values.
    Put,
    /// Reads values, linearizably.
    Get,
    /// As many gets as puts.
    #[value(name = "mixed-50")]
    Mixed50,
    /// 95 gets for 5 puts.
    #[value(name = "mixed-95")]
    Mixed95,
    /// Adds to values; one of more than 16 times --value-bytes is emptied.
    Append,
    /// Replaces values if they are as last seen; that another was quicker is an answer as well.
    CompareAndSet,
    /// Lists 100 keys with their values.
    Scan,
    /// 64 puts in one call, which counts as one operation.
    Batch,
}

impl Workload {
    /// As it is said on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the keys must be there.
    fn reads(self) -> bool {
        !matches!(self, Self::Put | Self::Append | Self::Batch)
    }
}

/// One of them.
pub(crate) enum Operation {
    Put { key: String, value: Vec<u8> },
    Get { key: String },
    Append { key: String, value: Vec<u8> },
    CompareAndSet { number: u64, value: Vec<u8> },
    Scan { start: String },
    Batch(Vec<(String, Vec<u8>)>),
}

/// Which operations are drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) workload: Workload,
    pub(crate) keys: Keys,
    pub(crate) value_bytes: usize,
}

impl Mix {
    fn draw(&self, random: &mut StdRng) -> Operation {
        match self.workload {
            Workload::Put => self.put(random),
            Workload::Get => self.get(random),
            Workload::Mixed50 if random.random_ratio(1, 2) => self.get(random),
            Workload::Mixed95 if random.random_ratio(95, 100) => self.get(random),
            Workload::Mixed50 | Workload::Mixed95 => self.put(random),
            Workload::Append => {
                let key = format!("bench-append/{:016}", self.keys.draw(random));
                Operation::Append { key, value: value(random, self.value_bytes) }
            }
            Workload::CompareAndSet => {
                let number = self.keys.draw(random);
                Operation::CompareAndSet { number, value: value(random, self.value_bytes) }
            }
            Workload::Scan => Operation::Scan { start: key(self.keys.draw(random)) },
            Workload::Batch => Operation::Batch((0..BATCH_PUTS).map(|_| self.record(random)).collect()),
        }
    }

    fn record(&self, random: &mut StdRng) -> (String, Vec<u8>) {
        (key(self.keys.draw(random)), value(random, self.value_bytes))
    }

    fn put(&self, random: &mut StdRng) -> Operation {
        let (key, value) = self.record(random);
        Operation::Put { key, value }
    }

    fn get(&self, random: &mut StdRng) -> Operation {
        Operation::Get { key: key(self.keys.draw(random)) }
    }
}

/// What the load's workers share.
#[derive(Clone)]
pub(crate) struct Load {
    client: Client,
    mix: Mix,
    /// The versions of keys as last seen, for compare-and-set.
    versions: Arc<Mutex<HashMap<u64, Version>>>,
}

impl Load {
    /// Looks at the keys where the workload needs to know their versions.
    ///
    /// # Errors
    /// The keys that it needs are not there, or the cluster does not say.
    pub(crate) async fn new(client: &Client, mix: Mix) -> Result<Self> {
        let mut versions = HashMap::new();
        if mix.workload == Workload::CompareAndSet {
            let mut scan = client.scan(Range::prefix(keys::PREFIX));
            while let Some(page) = scan.next_page().await? {
                let known = page.records.iter();
                versions
                    .extend(known.filter_map(|record| Some((keys::number(&record.key)?, record.version))));
            }
        }
        if mix.workload.reads() {
            let first = client.get(key(0)).await?;
            first.context("there are no keys: write all of them with --fill first")?;
        }
        Ok(Self { client: client.clone(), mix, versions: Arc::new(Mutex::new(versions)) })
    }

    /// So many workers, who draw different keys.
    pub(crate) fn workers(&self, count: u32) -> Vec<LoadWorker> {
        let worker =
            |seed: u32| LoadWorker { load: self.clone(), random: StdRng::seed_from_u64(seed.into()) };
        (0..count).map(worker).collect()
    }

    async fn carry_out(&self, operation: Operation) -> Result<u64> {
        match operation {
            Operation::Put { key, value } => {
                self.client.put(&key, &value).await?;
                Ok(stored_bytes(&key, &value))
            }
            Operation::Get { key } => {
                let found = self.client.get(&key).await?;
                found.with_context(|| format!("no key {key}: write all of them with --fill first"))?;
                Ok(0)
            }
            Operation::Append { key, value } => self.append(&key, &value).await,
            Operation::CompareAndSet { number, value } => self.compare_and_set(number, &value).await,
            Operation::Scan { start } => self.scan(start).await,
            Operation::Batch(puts) => self.batch(&puts).await,
        }
    }

    async fn append(&self, key: &str, value: &[u8]) -> Result<u64> {
        let written = self.client.append(key, value).await?;
        if written.length > APPENDED_VALUES * value.len() as u64 {
            self.client.put(key, "").await?;
        }
        Ok(stored_bytes(key, value))
    }

    /// Not again where another was quicker: where many want the same key, all but one would only try.
    async fn compare_and_set(&self, number: u64, value: &[u8]) -> Result<u64> {
        let key = key(number);
        let version = self.versions().get(&number).copied().unwrap_or(Version(0));
        match self.client.compare_and_set(&key, version, value).await {
            Ok(written) => {
                self.saw(number, written.version);
                Ok(stored_bytes(&key, value))
            }
            Err(Error::VersionMismatch { current }) => {
                self.saw(number, current);
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Versions only grow here, so that what comes late does not undo what is known.
    fn saw(&self, number: u64, version: Version) {
        let mut versions = self.versions();
        let known = versions.entry(number).or_insert(version);
        *known = version.max(*known);
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Version>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn scan(&self, start: String) -> Result<u64> {
        const { assert!(SCANNED_KEYS <= PAGE_RECORDS) };
        let range = Range { start: start.into(), page_records: SCANNED_KEYS, ..Range::prefix(keys::PREFIX) };
        let page = self.client.scan(range).next_page().await?;
        let found = page.is_some_and(|page| !page.records.is_empty());
        ensure!(found, "a scan found no keys: write all of them with --fill first");
        Ok(0)
    }

    async fn batch(&self, puts: &[(String, Vec<u8>)]) -> Result<u64> {
        let put = |(key, value): &(String, Vec<u8>)| client::Operation::put(key, value, Expect::Any);
        for reply in self.client.batch(puts.iter().map(put)).await {
            reply?;
        }
        Ok(puts.iter().map(|(key, value)| stored_bytes(key, value)).sum())
    }
}

fn stored_bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// Carries a load's operations out, one after the other.
pub(crate) struct LoadWorker {
    load: Load,
    random: StdRng,
}

impl Worker for LoadWorker {
    type Operation = Operation;

    fn draw(&mut self) -> Operation {
        self.load.mix.draw(&mut self.random)
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<u64> {
        self.load.carry_out(operation).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Distribution;

    fn drawn(workload: Workload) -> Vec<Operation> {
        let keys = Keys::new(100, Distribution::Uniform).expect("a distribution");
        let mix = Mix { workload, keys, value_bytes: 9 };
        let mut random = StdRng::seed_from_u64(7);
        (0..10_000).map(|_| mix.draw(&mut random)).collect()
    }

    /// Mixed workloads have the share of gets that their names say.
    #[test]
    fn mixes() {
        for (workload, share) in
            [(Workload::Put, 0), (Workload::Mixed50, 50), (Workload::Mixed95, 95), (Workload::Get, 100)]
        {
            let operations = drawn(workload);
            let gets = operations.iter().filter(|of| matches!(of, Operation::Get { .. })).count();
            assert!(gets.abs_diff(share * 100) < 150, "{workload:?}: {gets}");
        }
    }

    /// A batch is as many puts as are said, values have the size that was asked for, and appends keep to keys of their own.
    #[test]
    fn operations() {
        for operation in drawn(Workload::Batch) {
            let Operation::Batch(puts) = operation else { panic!("a batch") };
            assert!(puts.len() == 64 && puts.iter().all(|(_, value)| value.len() == 9));
        }
        for operation in drawn(Workload::Append) {
            let Operation::Append { key, value } = operation else { panic!("an append") };
            assert!(keys::number(key.as_bytes()).is_none() && value.len() == 9);
        }
    }

    /// What is read must be there first.
    #[test]
    fn who_reads() {
        let reading = Workload::value_variants().iter().filter(|workload| workload.reads());
        let names: Vec<String> = reading.map(|workload| workload.name()).collect();
        assert_eq!(names, ["get", "mixed-50", "mixed-95", "compare-and-set", "scan"]);
    }
}
