//! A node in memory: the rules of the key/value machine without consensus, and a record of what reached it.

use crate::controller_rig::{born, spec};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kvserver::service::{
    Answer, Answers, BatchAnswer, Call, ClusterView, MetricKind, MetricsText, NodeStatus, Operation, Record,
    Reply, Service,
};
use proto::{
    ClusterMap, Code, ControllerChange, ControllerCommand, ControllerReply, Epoch, Error, Expect, Limits,
    NodeId, Revision, ShardMap, Version,
};
use shardctrler::{Controller, ExecuteError, Plan};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) version: u64,
    pub(crate) revision: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: BTreeMap<Bytes, Entry>,
    pub(crate) calls: Vec<Call>,
    pub(crate) batches: Vec<Bytes>,
    /// What every call answers instead of being carried out.
    pub(crate) failure: Option<Error>,
    pub(crate) not_ready: Option<String>,
    pub(crate) lag_ms: u64,
    /// Calls are carried out without being recorded.
    pub(crate) forgets: bool,
    pub(crate) controller: Controller,
    /// What every question to the controller answers instead of being carried out.
    pub(crate) controller_failure: Option<ExecuteError>,
    revision: u64,
}

pub(crate) struct Fake {
    pub(crate) state: Mutex<State>,
    /// While true, calls wait before they are carried out.
    held: watch::Sender<bool>,
    /// Calls that wait.
    waiting: watch::Sender<usize>,
    /// While true, looks at the node block their thread.
    blind: Mutex<bool>,
    sighted: Condvar,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            blind: Mutex::default(),
            sighted: Condvar::new(),
        }
    }
}

impl Fake {
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until `count` calls wait.
    pub(crate) async fn holds(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        crate::wire::patiently(waiting.wait_for(|waiting| *waiting == count)).await.unwrap();
    }

    pub(crate) fn blind(&self, blind: bool) {
        *self.blind.lock().unwrap() = blind;
        self.sighted.notify_all();
    }

    fn look(&self) {
        let (blind, patience) = (self.blind.lock().unwrap(), Duration::from_secs(10));
        let (_blind, waited) = self.sighted.wait_timeout_while(blind, patience, |blind| *blind).unwrap();
        assert!(!waited.timed_out(), "nobody was left to end this");
    }

    /// Puts a value of any length under a key.
    pub(crate) fn store(&self, key: &'static [u8], value: Vec<u8>) {
        let entry = Entry { value: value.into(), version: 1, revision: 1 };
        self.state.lock().unwrap().keys.insert(Bytes::from_static(key), entry);
    }

    pub(crate) fn fail(&self, error: impl Into<Option<Error>>) {
        self.state.lock().unwrap().failure = error.into();
    }

    /// Has a cluster of three nodes, two groups and sixteen shards begin, with a fourth node that drains.
    pub(crate) fn bear(&self) {
        let mut controller = born(3);
        let join = ControllerChange::NodeJoin { node: NodeId(4), spec: spec(4) };
        let drain = ControllerChange::NodeDrain { node: NodeId(4) };
        for change in [join, drain] {
            controller.execute(&ControllerCommand { expect: None, change }).unwrap();
        }
        self.state.lock().unwrap().controller = controller;
    }

    pub(crate) fn fail_controller(&self, error: impl Into<Option<ExecuteError>>) {
        self.state.lock().unwrap().controller_failure = error.into();
    }

    /// What `ask` says of the controller, unless it is to fail.
    async fn controller<T>(
        &self,
        ask: impl FnOnce(&mut Controller) -> Result<T, proto::ControllerError>,
    ) -> Result<T, ExecuteError> {
        let mut state = self.state.lock().unwrap();
        match &state.controller_failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(ask(&mut state.controller)?),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls.len()
    }

    pub(crate) fn last_call(&self) -> Call {
        self.state.lock().unwrap().calls.last().unwrap().clone()
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<Bytes> {
        self.state.lock().unwrap().keys.get(key).map(|entry| entry.value.clone())
    }

    pub(crate) fn keys(&self) -> Vec<Bytes> {
        self.state.lock().unwrap().keys.keys().cloned().collect()
    }

    async fn passage(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// The new value from the old; none deletes.
type Change<'a> = Option<&'a dyn Fn(&[u8]) -> Bytes>;

impl State {
    fn write(&mut self, key: &Bytes, expect: Expect, value: Change<'_>) -> Answer {
        let current = self.keys.get(key).cloned();
        let version = current.as_ref().map_or(0, |entry| entry.version);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => version == 0,
            Expect::Present => version != 0,
            Expect::Version(Version(wanted)) => wanted == version,
        };
        if !holds {
            let code = Code::VersionMismatch { current: Version(version) };
            return Err(Error::new(
                code,
                format!("the condition does not hold, key is at version {version}"),
            ));
        }
        let Some(value) = value else {
            self.keys.remove(key).ok_or_else(|| Error::new(Code::NotFound, "key does not exist"))?;
            self.revision += 1;
            return Ok(Reply::Deleted { revision: Revision(self.revision) });
        };
        let value = value(current.as_ref().map_or(&b""[..], |entry| &entry.value));
        self.revision += 1;
        let (version, revision, length) = (version + 1, self.revision, value.len() as u64);
        self.keys.insert(key.clone(), Entry { value, version, revision });
        Ok(Reply::Written { version: Version(version), revision: Revision(revision), length })
    }

    fn carry_out(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Get { key } => match self.keys.get(key) {
                Some(entry) => Ok(Reply::Value {
                    value: entry.value.clone(),
                    version: Version(entry.version),
                    revision: Revision(entry.revision),
                }),
                None => Err(Error::new(Code::NotFound, "key does not exist")),
            },
            Operation::Put { key, value, expect } => self.write(key, *expect, Some(&|_| value.clone())),
            Operation::Append { key, value, expect } => {
                self.write(key, *expect, Some(&|old| [old, value].concat().into()))
            }
            Operation::Delete { key, expect } => self.write(key, *expect, None),
            Operation::Scan { prefix, after, start, limit, bytes_max } => {
                let mut bytes = 0;
                let mut records = Vec::new();
                let mut more = false;
                for (key, entry) in self.keys.range(start.clone()..) {
                    if !key.starts_with(prefix) || after.as_ref().is_some_and(|after| key <= after) {
                        continue;
                    }
                    bytes += key.len() + entry.value.len();
                    more = records.len() == *limit as usize
                        || (!records.is_empty() && bytes > *bytes_max as usize);
                    if more {
                        break;
                    }
                    let (version, revision) = (Version(entry.version), Revision(entry.revision));
                    records.push(Record { key: key.clone(), value: entry.value.clone(), version, revision });
                }
                Ok(Reply::Page { records, more })
            }
        }
    }
}

impl Service for Fake {
    fn batch(&self, request: Bytes) -> BoxFuture<'_, Result<BatchAnswer, Error>> {
        async move {
            self.passage().await;
            let mut state = self.state.lock().unwrap();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state.batches.push(request.clone());
            let decoded: proto::BatchRequest<'_> =
                proto::decode(&request).map_err(|error| Error::new(Code::BadRequest, error.to_string()))?;
            let answers = decoded.items.iter().map(|_| Err(Error::new(Code::NotFound, "nothing here")));
            let reply = proto::BatchReply { answers: answers.collect(), lag_ms: 0 };
            let reply = Bytes::from(proto::encode(&reply));
            Ok(BatchAnswer { reply, epoch: Some(Epoch(7)), forwarded: decoded.items.len() / 2 })
        }
        .boxed()
    }

    fn execute(&self, call: Call) -> BoxFuture<'_, Result<Answers, Error>> {
        async move {
            self.passage().await;
            assert!(call.operations[0] != Operation::Get { key: Bytes::from_static(b"panic") }, "as asked");
            let mut state = self.state.lock().unwrap();
            if !state.forgets {
                state.calls.push(call.clone());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let mut left = Some(call.answer_bytes_max);
            let mut bounded = |answer: Answer| {
                let Ok(Reply::Value { value, .. }) = &answer else { return answer };
                left = left.and_then(|left| left.checked_sub(value.len()));
                left.map_or_else(|| Err(Error::new(Code::BatchTooLarge, "too much to answer")), |_| answer)
            };
            let answers =
                call.operations.iter().map(|operation| bounded(state.carry_out(operation))).collect();
            Ok(Answers { answers, lag_ms: state.lag_ms, node: NodeId(7) })
        }
        .boxed()
    }

    fn cluster_map(&self) -> Result<ClusterMap, Error> {
        self.look();
        let state = self.state.lock().unwrap();
        state.controller.cluster_map().map_err(|error| Error::new(Code::Unavailable, error.to_string()))
    }

    fn shard_map(&self, epoch: Epoch, _deadline: Instant) -> BoxFuture<'_, Result<ShardMap, ExecuteError>> {
        self.controller(move |controller| controller.shard_map(Some(epoch))).boxed()
    }

    fn change(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<ControllerReply, ExecuteError>> {
        self.controller(move |controller| controller.execute(&ControllerCommand { expect, change })).boxed()
    }

    fn plan(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Plan, ExecuteError>> {
        let plan = move |controller: &mut Controller| {
            let moves = controller.plan(&ControllerCommand { expect, change })?;
            Ok(Plan { epoch: controller.epoch(), moves })
        };
        self.controller(plan).boxed()
    }

    fn cluster(&self) -> ClusterView {
        self.look();
        ClusterView { cluster: "test".into(), shards: 256, ..ClusterView::default() }
    }

    fn status(&self) -> NodeStatus {
        self.look();
        NodeStatus { id: 7, cluster: "test".into(), ..NodeStatus::default() }
    }

    fn readiness(&self) -> Result<(), String> {
        self.look();
        self.state.lock().unwrap().not_ready.clone().map_or(Ok(()), Err)
    }

    fn metrics(&self, into: &mut MetricsText) {
        self.look();
        into.single("fake_keys", MetricKind::Gauge, "Keys of the fake.", self.keys().len());
    }

    fn shards(&self) -> u32 {
        256
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }
}
