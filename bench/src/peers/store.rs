//! A way into one of the systems, and who carries operations out through it.

use super::etcd::Kv;
use super::http::{Connection, Gateway};
use crate::keys::{Keys, key, value};
use crate::measure::Worker;
use ::redis::aio::MultiplexedConnection;
use anyhow::{Context, Result};
use client::Client;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The ways into one system.
pub(super) struct Doors {
    /// Through its own client; workers are spread over these.
    pub(super) natives: Vec<Native>,
    /// Over plain HTTP, where it speaks that.
    pub(super) http: Option<Gateway>,
    /// What it is.
    pub(super) about: String,
}

impl Doors {
    /// The way in for one of several workers; `None` where there is no such.
    pub(super) async fn store(&self, http: bool, worker: u32) -> Result<Option<Store>> {
        if !http {
            let index = usize::try_from(worker)? % self.natives.len();
            return Ok(Some(Store::Native(self.natives[index].clone())));
        }
        let Some(gateway) = &self.http else { return Ok(None) };
        Ok(Some(Store::Http(gateway.connect().await?)))
    }
}

/// A system's own client, with everything that makes it fast. Clones share connections.
#[derive(Clone)]
pub(super) enum Native {
    Flotilla(Client),
    Etcd(Kv),
    Redis(MultiplexedConnection),
}

impl Native {
    pub(super) async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        match self {
            Self::Flotilla(client) => Ok(client.put(key, value).await.map(drop)?),
            Self::Etcd(kv) => kv.put(key, value).await,
            Self::Redis(connection) => {
                Ok(::redis::cmd("SET").arg(key).arg(value).query_async(connection).await?)
            }
        }
    }

    /// Whether the key is there.
    async fn get(&mut self, key: &str) -> Result<bool> {
        match self {
            Self::Flotilla(client) => Ok(client.get(key).await?.is_some()),
            Self::Etcd(kv) => kv.get(key).await,
            Self::Redis(connection) => {
                let value: Option<Vec<u8>> = ::redis::cmd("GET").arg(key).query_async(connection).await?;
                Ok(value.is_some())
            }
        }
    }
}

/// One worker's way in.
pub(super) enum Store {
    Native(Native),
    Http(Connection),
}

/// Puts or gets, one after the other.
pub(super) struct StoreWorker {
    store: Store,
    writes: bool,
    keys: Keys,
    value_bytes: usize,
    random: StdRng,
}

impl StoreWorker {
    pub(super) fn new(store: Store, writes: bool, keys: Keys, value_bytes: usize, seed: u32) -> Self {
        Self { store, writes, keys, value_bytes, random: StdRng::seed_from_u64(seed.into()) }
    }

    async fn put(&mut self, key: &str, value: Vec<u8>) -> Result<u64> {
        let stored_bytes = (key.len() + value.len()) as u64;
        match &mut self.store {
            Store::Native(native) => native.put(key, &value).await?,
            Store::Http(connection) => connection.put(key, value).await?,
        }
        Ok(stored_bytes)
    }

    async fn get(&mut self, key: &str) -> Result<u64> {
        let found = match &mut self.store {
            Store::Native(native) => native.get(key).await?,
            Store::Http(connection) => connection.get(key).await?,
        };
        found.then_some(0).with_context(|| format!("key {key} is gone"))
    }
}

impl Worker for StoreWorker {
    /// A key, and what to put there.
    type Operation = (String, Option<Vec<u8>>);

    fn draw(&mut self) -> Self::Operation {
        let key = key(self.keys.draw(&mut self.random));
        (key, self.writes.then(|| value(&mut self.random, self.value_bytes)))
    }

    async fn carry_out(&mut self, (key, value): Self::Operation) -> Result<u64> {
        match value {
            Some(value) => self.put(&key, value).await,
            None => self.get(&key).await,
        }
    }
}
