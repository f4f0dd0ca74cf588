//! Replicas of one group, without any front end: submissions are commands that are proposed to a replica, in
//! virtual time. A submission appends a word of its own to the one key, so that the answer, the key's
//! version, says at which place of the value that word must stand: an increment that knows whose it is.

use crate::fleet::{address, host};
use crate::form::seed_of;
use crate::history::History;
use crate::machine_rig::write;
use crate::plug::{Plug, Plugged};
use checker::{Answer, Operation};
use kvserver::machine::KvMachine;
use proto::{Command, Epoch, Expect, GroupId, LifecycleAnswer, NodeId, Operation as Asked, Reply, ShardId};
use raftstore::{
    Address, Group, GroupStatus, Host, HostConfig, Link, ProposeError, RaftConfig, SimulatedClock,
    SimulatedDisk, SimulatedNetwork, StorageConfig, TransportConfig,
};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How many there are.
pub(crate) const REPLICAS: u64 = 5;

/// A quorum that is connected has a leader within this time, and agrees within the next.
const ELECTION: Duration = Duration::from_secs(5);
const AGREEMENT: Duration = Duration::from_secs(10);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How long a disk takes to sync, and a message at most: what was submitted at once is at different stages
/// then.
const SYNC_TIME: Duration = Duration::from_millis(2);
const DELAY_MAX: Duration = Duration::from_millis(2);

const GROUP: GroupId = GroupId(1);
const SHARD: ShardId = ShardId(0);
const KEY: &str = "log";

/// A submission and what it was answered: the word that it appends, and at which place of the value that now
/// stands.
pub(crate) type Told = (String, Result<u64, ProposeError>);

struct Replica {
    host: Arc<Host>,
    group: Group<KvMachine>,
    plug: Plug,
    formation: JoinHandle<()>,
}

/// See the module.
pub(crate) struct Replicas {
    seed: u64,
    raft: RaftConfig,
    network: SimulatedNetwork,
    disks: BTreeMap<u64, SimulatedDisk>,
    running: BTreeMap<u64, Replica>,
    /// Nodes on the smaller side of a cut.
    minority: BTreeSet<u64>,
    crashes: u64,
    submissions: Cell<u64>,
    history: Arc<History>,
}

fn members() -> BTreeMap<NodeId, Address> {
    (1..=REPLICAS).map(|node| (NodeId(node), address(node))).collect()
}

/// Waits until `condition` gives something, and panics with `what` after `within`.
async fn eventually<T, F>(what: &str, within: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        sleep(LOOK).await;
    }
}

/// Lets `test` run on new replicas, whose history is then held against what the value has become.
pub(crate) async fn examine(raft: RaftConfig, seed: u64, test: impl AsyncFnOnce(&mut Replicas)) {
    let seed = seed_of(seed);
    println!("seed {seed}");
    raftstore::seed(seed);
    let history = Arc::new(History::new(seed));
    let network = SimulatedNetwork::new();
    network.set_default_link(Link { delay_max: DELAY_MAX, ..Link::default() });
    let mut replicas = Replicas {
        seed,
        raft,
        network,
        disks: (1..=REPLICAS).map(|node| (node, SimulatedDisk::new())).collect(),
        running: BTreeMap::new(),
        minority: BTreeSet::new(),
        crashes: 0,
        submissions: Cell::new(0),
        history: history.clone(),
    };
    replicas.disks.values().for_each(|disk| disk.set_sync_delay(SYNC_TIME));
    let examined = async {
        replicas.boot_all().await;
        replicas.own_shard().await;
        test(&mut replicas).await;
        replicas.end().await;
    };
    history.kept(examined).await;
}

impl Replicas {
    // Power and cables.

    async fn boot(&mut self, node: u64) {
        let config = HostConfig {
            cluster: "test".into(),
            node: NodeId(node),
            listen: address(node).peer,
            raft: self.raft.clone(),
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
        };
        let plug = Plug::default();
        let network = Arc::new(Plugged { network: self.network.host(&host(node)), plug: plug.clone() });
        let (disk, clock) = (self.disks[&node].clone(), SimulatedClock::starting_at(node * 1_000_000));
        let host = Host::start(config, Arc::new(disk), network, Arc::new(clock)).await.unwrap();
        let group = host.open_group(GROUP, KvMachine::new).await.unwrap();
        let (forming, formed) = (host.clone(), group.clone());
        let formation = tokio::spawn(async move {
            let outcome = async {
                forming.form(&members()).await?;
                formed.bootstrap(&members()).await
            };
            if let Err(fatal) = outcome.await {
                forming.fail(fatal);
            }
        });
        let before = self.running.insert(node, Replica { host, group, plug, formation });
        assert!(before.is_none(), "n{node} runs already");
    }

    /// Starts whoever does not run.
    pub(crate) async fn boot_all(&mut self) {
        for node in 1..=REPLICAS {
            if !self.running.contains_key(&node) {
                self.boot(node).await;
            }
        }
    }

    /// Takes the power of all at once: what was not synced is lost. Returns once nothing is left of them.
    pub(crate) async fn crash_all(&mut self) {
        let crashed = std::mem::take(&mut self.running);
        for (node, replica) in &crashed {
            self.crashes += 1;
            replica.plug.pull();
            let survived = self.disks[node].crash(self.seed ^ (self.crashes << 8));
            self.disks.insert(*node, survived);
            (1..=REPLICAS).for_each(|other| self.network.reset(&host(*node), &host(other)));
        }
        for replica in crashed.into_values() {
            replica.formation.abort();
            let _without_power = replica.host.shutdown().await.err();
        }
    }

    /// Stops one in good order.
    pub(crate) async fn stop(&mut self, node: u64) {
        let stopped = self.running.remove(&node).unwrap();
        stopped.formation.abort();
        stopped.host.shutdown().await.unwrap();
    }

    /// Cuts these off from the others.
    pub(crate) fn cut_off(&mut self, minority: &[u64]) {
        self.minority = minority.iter().copied().collect();
        for &node in minority {
            for other in (1..=REPLICAS).filter(|other| !minority.contains(other)) {
                self.network.partition(&[&host(node)], &[&host(other)]);
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.minority.clear();
        self.network.heal();
    }

    // Leaders and logs.

    /// Who leads those that run and are not cut off, as a quorum has just confirmed.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("somebody leads", ELECTION, async || {
            for (node, replica) in self.running.iter().filter(|(node, _)| !self.minority.contains(node)) {
                if replica.group.leads() && replica.group.read(|_| ()).await.is_ok() {
                    return Some(*node);
                }
            }
            None
        })
        .await
    }

    pub(crate) fn statuses(&self) -> Vec<GroupStatus> {
        self.running.values().map(|replica| replica.group.status()).collect()
    }

    /// Has the group serve its only shard.
    async fn own_shard(&self) {
        let command = Command::Own { shards: [SHARD].into_iter().collect(), epoch: Epoch(1) };
        let leader = self.leader().await;
        let owned = self.running[&leader].group.propose(proto::encode(&command).into()).await.unwrap();
        assert_eq!(proto::decode::<LifecycleAnswer>(&owned), Ok(Ok(())));
    }

    // Submissions.

    /// One that nobody else makes, to the replica on `node`, for as long as that takes.
    pub(crate) fn submission(&self, node: u64) -> impl Future<Output = Told> + Send + use<> {
        let (group, history) = (self.running[&node].group.clone(), self.history.clone());
        let process = self.submissions.get();
        self.submissions.set(process + 1);
        async move {
            let word = format!("{process},");
            let ticket = history.recorder().invoke(process, Operation::append(KEY, &word));
            let append = Asked::Append { key: KEY.as_bytes(), value: word.as_bytes(), expect: Expect::Any };
            match group.propose(write(SHARD, None, append).into()).await {
                Ok(answer) => {
                    let place = place_of(&answer);
                    ticket.ok(Answer::written(place));
                    (word, Ok(place))
                }
                Err(error) => {
                    match &error {
                        ProposeError::Unknown { .. } => ticket.info(),
                        _ => ticket.fail(),
                    }
                    (word, Err(error))
                }
            }
        }
    }

    /// So many at once.
    pub(crate) fn submissions(&self, node: u64, count: u64) -> Vec<JoinHandle<Told>> {
        (0..count).map(|_| tokio::spawn(self.submission(node))).collect()
    }

    /// One more to whoever leads; the place that its word has.
    pub(crate) async fn increment(&self) -> u64 {
        let submitted = async {
            loop {
                match self.submission(self.leader().await).await.1 {
                    Ok(place) => return place,
                    // Whoever led a moment ago may not any more; nothing has happened then.
                    Err(ProposeError::NotLeader { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(AGREEMENT, submitted).await.expect("agreement within its time")
    }

    /// The value, word by word.
    pub(crate) async fn words(&self) -> Vec<String> {
        let process = self.submissions.get();
        self.submissions.set(process + 1);
        let ticket = self.history.recorder().invoke(process, Operation::get(KEY));
        let get = |machine: &KvMachine| {
            let record = machine.get(SHARD, KEY.as_bytes());
            record.map(|record| (String::from_utf8(record.value.to_vec()).unwrap(), record.version.0))
        };
        let read = self.running[&self.leader().await].group.read(get).await.unwrap();
        let (value, version) = read.unwrap_or_default();
        match version {
            0 => ticket.ok(Answer::Absent),
            _ => ticket.ok(Answer::value(&value, version)),
        }
        value.split_inclusive(',').map(str::to_owned).collect()
    }

    /// Every word stands once, and each that was acknowledged at the place that its submission was told.
    pub(crate) async fn check(&self, told: &[Told]) {
        let words = self.words().await;
        let distinct: BTreeSet<&String> = words.iter().collect();
        assert_eq!(distinct.len(), words.len(), "no submission takes effect twice");
        for (word, answer) in told {
            match answer {
                Ok(place) => assert_eq!(words.get(*place as usize - 1), Some(word), "of {words:?}"),
                Err(ProposeError::Unknown { .. }) => {}
                Err(refused) => assert!(!distinct.contains(word), "{word} has taken effect: {refused}"),
            }
        }
    }

    // The end.

    async fn end(&mut self) {
        self.heal();
        self.boot_all().await;
        let last = self.increment().await;
        assert_eq!(self.words().await.len() as u64, last);
        self.history.check();
        eventually("all replicas hold the same", AGREEMENT, async || {
            let held = self.running.values().map(|replica| replica.group.read_stale(KvMachine::digest));
            (held.collect::<BTreeSet<u64>>().len() == 1).then_some(())
        })
        .await;
        self.crash_all().await;
    }
}

/// The key's version, as a submission was answered.
fn place_of(answer: &[u8]) -> u64 {
    match proto::decode::<proto::Answer<'_>>(answer) {
        Ok(Ok(Reply::Written { version, .. })) => version.0,
        other => panic!("{other:?}"),
    }
}
