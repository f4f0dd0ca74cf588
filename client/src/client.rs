//! The handle that applications hold. It owns nothing but a share of the core: clones are cheap, share sessions,
//! lanes and view, and may be used from any task.

use crate::call::Core;
use crate::cluster::Cluster;
use crate::directory::Directory;
use crate::http::Http;
use crate::lane::Shared;
use crate::operation::{Deleted, Operation, Reply, Value, Written};
use crate::random::Random;
use crate::scan::{Range, Scan};
use crate::transport::Transport;
use crate::{Config, DEADLINE_MAX, Error};
use futures_util::future::join_all;
use proto::{Consistency, Expect, Version};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A connection to a cluster; see the [crate's chapter](crate).
#[derive(Clone, Debug)]
pub struct Client {
    core: Arc<Core>,
    consistency: Consistency,
    deadline: Duration,
}

/// Collects a [`Config`] and components, then connects.
#[derive(Debug, Default)]
pub struct Builder {
    config: Config,
    transport: Option<Arc<dyn Transport>>,
}

impl Builder {
    /// Replaces the whole configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Adds nodes to ask first, as `host:port` or `http://host:port`.
    #[must_use]
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.config.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// See [`Config::deadline`].
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// See [`Config::consistency`].
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.config.consistency = consistency;
        self
    }

    /// Replaces HTTP by another way to reach nodes: a simulated network, say.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Connects: asks the seeds for the cluster until one answers, within the deadline of one call; once, where all
    /// refuse the connection and [`Config::awaits_seeds`] is false.
    ///
    /// # Errors
    /// [`Error::Config`] where a setting is wrong, [`Error::Unavailable`] where no seed answered.
    pub async fn connect(self) -> Result<Client, Error> {
        let Self { config, transport } = self;
        config.validate()?;
        let transport = match transport {
            Some(transport) => transport,
            None => Arc::new(Http::new(&config)?),
        };
        let (consistency, deadline) = (config.consistency, config.deadline);
        let random = Random::new(config.seed);
        let shared = Arc::new(Shared {
            config,
            limits: Mutex::default(),
            epoch: AtomicU64::default(),
            transport,
            random,
        });
        let directory = Directory::connect(shared.clone()).await?;
        Ok(Client { core: Arc::new(Core::new(shared, directory)), consistency, deadline })
    }
}

/// Dropping the future of any call ends the call. A write that was sent by then may take effect once all the
/// same.
impl Client {
    /// Connects with the defaults.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect<S: Into<String>>(seeds: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        Self::builder().seeds(seeds).connect().await
    }

    /// Starts with the default configuration.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// This client with another freshness for its reads.
    #[must_use]
    pub fn with_consistency(&self, consistency: Consistency) -> Self {
        Self { consistency, ..self.clone() }
    }

    /// This client with another deadline for its calls.
    ///
    /// # Errors
    /// [`Error::Config`] where it is zero or beyond [`DEADLINE_MAX`].
    pub fn with_deadline(&self, deadline: Duration) -> Result<Self, Error> {
        if deadline.is_zero() || deadline > DEADLINE_MAX {
            let reason = format!("must be above 0 and at most 300 s: {deadline:?}");
            return Err(Error::Config { field: "deadline", reason });
        }
        Ok(Self { deadline, ..self.clone() })
    }

    /// The value of `key`; `None` where it does not exist.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Rejected`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        match self.one(Operation::get(key)).await? {
            Reply::Value(value) => Ok(value),
            other => mismatched(&other),
        }
    }

    /// Sets `key` to `value`, whatever it was.
    ///
    /// # Errors
    /// [`Error::Indeterminate`] where it may have happened, [`Error::Unavailable`] or [`Error::Rejected`] where
    /// it did not.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.put_if(key, value, Expect::Any).await
    }

    /// Sets `key` to `value` where `expect` holds.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`Error::VersionMismatch`] where the condition did not hold.
    pub async fn put_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expect: Expect,
    ) -> Result<Written, Error> {
        self.written(Operation::put(key, value, expect)).await
    }

    /// Sets `key` to `value` if it is at version `current`; `Version(0)` says that it must not exist.
    ///
    /// # Errors
    /// As [`put_if`](Self::put_if).
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        current: Version,
        value: impl AsRef<[u8]>,
    ) -> Result<Written, Error> {
        let expect = if current == Version(0) { Expect::Absent } else { Expect::Version(current) };
        self.put_if(key, value, expect).await
    }

    /// Adds `value` to the end of the value of `key`; an absent key counts as empty.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.append_if(key, value, Expect::Any).await
    }

    /// Adds `value` to the end of the value of `key` where `expect` holds.
    ///
    /// # Errors
    /// As [`put_if`](Self::put_if).
    pub async fn append_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expect: Expect,
    ) -> Result<Written, Error> {
        self.written(Operation::append(key, value, expect)).await
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`Error::NotFound`] where it does not exist.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        self.delete_if(key, Expect::Any).await
    }

    /// Removes `key` where `expect` holds.
    ///
    /// # Errors
    /// As [`delete`](Self::delete), and [`Error::VersionMismatch`] where the condition did not hold.
    pub async fn delete_if(&self, key: impl AsRef<[u8]>, expect: Expect) -> Result<Deleted, Error> {
        match self.one(Operation::delete(key, expect)).await? {
            Reply::Deleted(deleted) => Ok(deleted),
            other => mismatched(&other),
        }
    }

    /// Carries out independent operations, each answered on its own and in its place, each exactly once. Those
    /// for one node travel together. They are at work at the same time: no order among them is promised.
    pub async fn batch(&self, operations: impl IntoIterator<Item = Operation>) -> Vec<Result<Reply, Error>> {
        join_all(operations.into_iter().map(|operation| self.one(operation))).await
    }

    /// Lists the keys of `range` in byte order, page by page.
    pub fn scan(&self, range: Range) -> Scan {
        Scan::new(self.core.clone(), self.consistency, self.deadline, range)
    }

    /// The cluster as a node describes it now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no node answered.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        match tokio::time::timeout(self.deadline, self.core.directory.refresh()).await {
            Ok(cluster) => cluster.map(Arc::unwrap_or_clone),
            Err(_) => Err(Error::Unavailable { attempts: 1, last: "deadline passed".to_owned() }),
        }
    }

    async fn one(&self, operation: Operation) -> Result<Reply, Error> {
        self.core.reply(operation, self.consistency, self.deadline).await
    }

    async fn written(&self, operation: Operation) -> Result<Written, Error> {
        match self.one(operation).await? {
            Reply::Written(written) => Ok(written),
            other => mismatched(&other),
        }
    }
}

fn mismatched<T>(reply: &Reply) -> T {
    unreachable!("an answer of another kind is a fault of its attempt: {reply:?}")
}
