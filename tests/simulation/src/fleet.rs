//! The nodes: started, crashed and started again, on disks that keep what a crash leaves, let in and
//! dismissed; and the cuts between hosts.

use crate::clock::SkewedClock;
use crate::disk::{Refused, TracedDisk};
use crate::lock;
use crate::plan::{Plan, SHARDS};
use crate::report::{Check, Tally, Violations};
use crate::trace::Trace;
use crate::wire::{Detail, Plug, Wire};
use futures_util::FutureExt;
use kvserver::moves::watch::Watch;
use kvserver::{Join, Node, NodeConfig, StartError};
use proto::NodeId;
use raftstore::{Address, Disk, GroupStatus, SimulatedDisk, SimulatedNetwork};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a dead node's tasks are given to end, before its disk is closed.
const BURIAL: Duration = Duration::from_millis(10);

/// How long a node may go on after its disk has refused something.
const REFUSED_TIME_MAX: Duration = Duration::from_secs(2);

/// How often the nodes are asked whether they must stop.
const MONITOR_PACE: Duration = Duration::from_millis(20);

/// How long a node that was removed and whose power was cut may take to be gone.
const DISMISSAL_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a newcomer goes on asking to be let in, and the pause before it asks again.
const LETTING_IN_TIME_MAX: Duration = Duration::from_secs(240);
const LETTING_IN_PACE: Duration = Duration::from_secs(1);

/// A node's host.
pub fn host(node: u64) -> String {
    format!("10.0.0.{node}")
}

/// Where a node serves clients.
pub fn http_address(node: u64) -> String {
    format!("{}:7101", host(node))
}

fn peer_address(node: u64) -> String {
    format!("{}:7201", host(node))
}

/// A node that runs.
struct Running {
    node: Node,
    plug: Plug,
    refused: Refused,
    refused_since: Option<Instant>,
}

enum Place {
    /// Of no cluster: it has not joined yet, or was removed.
    Away,
    Down,
    /// Being started or buried.
    Busy,
    Up(Box<Running>),
    /// Its disk is damaged: it does not come back.
    Lost,
}

struct Slot {
    disk: SimulatedDisk,
    clock: SkewedClock,
    place: Place,
    /// A fault was armed, of which whoever runs on this disk may die.
    doomed: bool,
    /// A bit of its disk was flipped.
    flipped: bool,
    /// Its disk was lost, and is another now.
    wiped: bool,
    /// Its removal was asked for: it may find itself removed.
    leaving: bool,
}

/// Which hosts cannot reach which, and for how many reasons.
#[derive(Default)]
struct Cuts(BTreeMap<(String, String), u32>);

/// See the module.
pub struct Fleet {
    /// What the seed decided.
    pub plan: Plan,
    /// The network between all hosts.
    pub network: SimulatedNetwork,
    /// What happened.
    pub trace: Trace,
    /// What must not be.
    pub violations: Violations,
    /// How often faults happened.
    pub tally: Tally,
    slots: Mutex<BTreeMap<u64, Slot>>,
    cuts: Mutex<Cuts>,
    hosts: Vec<String>,
}

impl Fleet {
    /// Nodes that are not started.
    pub fn new(plan: Plan, trace: &Trace) -> Arc<Self> {
        let network = SimulatedNetwork::new();
        network.set_default_link(plan.link);
        let slot = |node: u64| {
            let disk = SimulatedDisk::new();
            disk.set_sync_delay(plan.sync_delay);
            let number = usize::try_from(node - 1).unwrap_or(usize::MAX);
            let (offset_ms, rate_ppm) = plan.clocks.get(number).copied().unwrap_or_default();
            let clock = SkewedClock::new(offset_ms, rate_ppm);
            let place = if node > plan.nodes { Place::Away } else { Place::Down };
            let (doomed, flipped, wiped, leaving) = (false, false, false, false);
            (node, Slot { disk, clock, place, doomed, flipped, wiped, leaving })
        };
        let all = 1..=plan.nodes + u64::from(plan.newcomer);
        let slots = all.clone().map(slot).collect();
        let walkers = (1..=plan.walkers).map(walker_host);
        let callers = (1..=plan.clients).map(client_host).chain(walkers).chain([operator_host()]);
        let hosts = all.map(host).chain(callers).collect();
        Arc::new(Self {
            plan,
            network,
            trace: trace.clone(),
            violations: Violations::default(),
            tally: Tally::default(),
            slots: Mutex::new(slots),
            cuts: Mutex::default(),
            hosts,
        })
    }

    /// All nodes that have been let in and not been dismissed.
    pub fn nodes(&self) -> Vec<u64> {
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, slot)| !matches!(slot.place, Place::Away)).map(|(node, _)| *node).collect()
    }

    /// The node that joins, where one does.
    pub fn newcomer(&self) -> Option<u64> {
        self.plan.newcomer.then_some(self.plan.nodes + 1)
    }

    /// Those that run.
    pub fn up(&self) -> Vec<u64> {
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, slot)| matches!(slot.place, Place::Up(_))).map(|(node, _)| *node).collect()
    }

    /// Those that are down and can be started.
    pub fn down(&self) -> Vec<u64> {
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, slot)| matches!(slot.place, Place::Down)).map(|(node, _)| *node).collect()
    }

    /// How many are being started or buried.
    pub fn busy(&self) -> usize {
        lock(&self.slots).values().filter(|slot| matches!(slot.place, Place::Busy)).count()
    }

    /// Those that never come back.
    pub fn lost(&self) -> Vec<u64> {
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, slot)| matches!(slot.place, Place::Lost)).map(|(node, _)| *node).collect()
    }

    /// The running nodes' replicas.
    pub fn watches(&self) -> BTreeMap<u64, Watch> {
        let slots = lock(&self.slots);
        let up = slots.iter().filter_map(|(node, slot)| match &slot.place {
            Place::Up(running) => Some((*node, running.node.watch().clone())),
            _ => None,
        });
        up.collect()
    }

    /// A node's disk, as it is now.
    pub fn disk(&self, node: u64) -> SimulatedDisk {
        lock(&self.slots)[&node].disk.clone()
    }

    /// A node's clock.
    pub fn clock(&self, node: u64) -> SkewedClock {
        lock(&self.slots)[&node].clock.clone()
    }

    /// Notes that a fault was armed on a node's disk.
    pub fn doom(&self, node: u64) {
        if let Some(slot) = lock(&self.slots).get_mut(&node) {
            slot.doomed = true;
        }
    }

    fn config(&self, node: u64) -> NodeConfig {
        let plan = &self.plan;
        let address = |node| Address { peer: peer_address(node), http: http_address(node) };
        let first = 1..=plan.nodes;
        let (members, join) = match first.contains(&node) {
            true => (first.map(|node| (NodeId(node), address(node))).collect(), None),
            false => {
                let join = Join { seeds: first.map(peer_address).collect(), address: address(node) };
                (BTreeMap::new(), Some(join))
            }
        };
        NodeConfig {
            peer_listen: peer_address(node),
            http_listen: http_address(node),
            join,
            groups: plan.groups,
            shards: SHARDS,
            raft: plan.raft.clone(),
            storage: plan.storage.clone(),
            ..NodeConfig::founder("simulation", NodeId(node), members)
        }
    }

    /// Starts a node that is down; what it says where it does not start. A node that refuses its disk stays
    /// down.
    ///
    /// # Errors
    /// The node's reason.
    pub async fn start(&self, node: u64) -> Result<(), StartError> {
        let (disk, clock) = {
            let mut slots = lock(&self.slots);
            let slot = slots.get_mut(&node).expect("every node has a slot");
            if !matches!(slot.place, Place::Down) {
                return Ok(());
            }
            slot.place = Place::Busy;
            (slot.disk.clone(), slot.clock.clone())
        };
        let (plug, refused) = (Plug::default(), Refused::default());
        let network = self.network.host(&host(node));
        let peers = Wire::new(network.clone(), &format!("n{node}"), &plug, &self.trace, Detail::Bytes);
        let clients = Wire::new(network, &format!("n{node}/http"), &plug, &self.trace, Detail::Length);
        let lies = self.plan.lying_disks;
        let traced = TracedDisk::new(disk, node, &self.trace, &refused, lies, &plug);
        let (traced, peers, clients) = (Arc::new(traced), Arc::new(peers), Arc::new(clients));
        let started = Node::start_within(self.config(node), traced, peers, clients, Arc::new(clock)).await;
        let (place, result) = match started {
            Ok(node) => {
                let running = Running { node, plug, refused, refused_since: None };
                (Place::Up(Box::new(running)), Ok(()))
            }
            Err(error) => (Place::Down, Err(error)),
        };
        let told = result.as_ref().map_err(StartError::to_string);
        self.trace.note(format_args!("n{node} starts: {told:?}"));
        if let Some(slot) = lock(&self.slots).get_mut(&node) {
            slot.place = place;
        }
        result
    }

    /// Starts a node that is down on what its disk holds, and first, for a test of whether it notices, on a
    /// copy of that with one bit flipped: the node either refuses it, or finds it later and is lost, or
    /// nothing is wrong.
    pub async fn start_flipped(&self, node: u64, seed: u64) {
        let whole = self.disk(node);
        let Some(flipped) = self.flipped(node, &whole, seed) else { return self.start_or_lose(node).await };
        self.set_disk(node, flipped, true);
        if self.start(node).await.is_err() {
            self.tally.count("flip refused");
            self.set_disk(node, whole, false);
            self.start_or_lose(node).await;
        }
    }

    /// Whether every group outlives the loss of this node's disk: no other was lost in the run or may be, and as far
    /// as all others know three vote.
    fn may_forget(&self, node: u64) -> bool {
        let is_maimed = |slot: &Slot| slot.flipped || slot.wiped || matches!(slot.place, Place::Lost);
        if lock(&self.slots).values().any(is_maimed) {
            return false;
        }
        let watches = self.watches();
        let has_three = |status: Option<GroupStatus>| status.is_none_or(|status| status.voters.len() >= 3);
        let mut others = self.nodes().into_iter().filter(|other| *other != node);
        others.all(|other| {
            watches.get(&other).is_some_and(|watch| {
                has_three(watch.controller())
                    && watch.groups().into_iter().all(|group| has_three(watch.status(group)))
            })
        })
    }

    /// Gives a node that is down another disk, with nothing on it; says whether it did. One node in a run,
    /// and none where another's disk may be lost to a flip: a majority must remain that has not forgotten.
    pub fn wipe(&self, node: u64) -> bool {
        if !self.may_forget(node) {
            return false;
        }
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(&node).expect("every node has a slot");
        if !matches!(slot.place, Place::Down) {
            return false;
        }
        let disk = SimulatedDisk::new();
        disk.set_sync_delay(self.plan.sync_delay);
        (slot.disk, slot.doomed, slot.wiped) = (disk, false, true);
        self.trace.note(format_args!("n{node} has lost its disk"));
        true
    }

    /// A copy of a disk with one bit flipped. `None` where a majority might be lost to flips, and where the
    /// bit belongs to a log's last record: nobody can tell that from a write that was cut short.
    fn flipped(&self, node: u64, whole: &SimulatedDisk, seed: u64) -> Option<SimulatedDisk> {
        if !self.may_forget(node) {
            return None;
        }
        let flipped = whole.duplicate();
        let (table, key) = flipped.flip_bit(seed)?;
        let follows = flipped.open(&table).ok()?.scan(key + 1, 1).ok()?;
        self.trace.note(format_args!("n{node} has a bit flipped in {table} at {key}"));
        (!follows.is_empty()).then_some(flipped)
    }

    fn set_disk(&self, node: u64, disk: SimulatedDisk, flipped: bool) {
        if let Some(slot) = lock(&self.slots).get_mut(&node) {
            (slot.disk, slot.flipped) = (disk, flipped);
        }
    }

    /// Starts a node that is down, again where a fault of its disk hits it meanwhile, and where a newcomer
    /// finds nobody who lets it in. One that does not start though nothing is wrong with its disk is a
    /// violation.
    pub async fn start_or_lose(&self, node: u64) {
        let until = Instant::now() + LETTING_IN_TIME_MAX;
        while let Err(error) = self.start(node).await {
            if matches!(error, StartError::Join(_)) && Instant::now() < until {
                sleep(LETTING_IN_PACE).await;
                continue;
            }
            let mut slots = lock(&self.slots);
            let slot = slots.get_mut(&node).expect("every node has a slot");
            if slot.doomed {
                (slot.disk, slot.doomed) = (slot.disk.crash(self.plan.seed), false);
                continue;
            }
            slot.place = Place::Lost;
            match slot.flipped {
                true => self.tally.count("lost by a flip"),
                false => self.violations.add(Check::Start, format!("n{node} does not start again: {error}")),
            }
            return;
        }
    }

    /// Has a newcomer join.
    pub async fn let_in(&self, node: u64) {
        if let Some(slot) = lock(&self.slots).get_mut(&node) {
            slot.place = Place::Down;
        }
        self.start_or_lose(node).await;
    }

    /// Whether a node's removal was asked for.
    pub fn is_leaving(&self, node: u64) -> bool {
        lock(&self.slots)[&node].leaving
    }

    /// Notes that a node may find itself removed from here on, or may not.
    pub fn expect_leaving(&self, node: u64, leaving: bool) {
        if let Some(slot) = lock(&self.slots).get_mut(&node) {
            slot.leaving = leaving;
        }
    }

    /// Sees to it that a node that was removed is gone: it ends by itself where it hears of it in time, and
    /// what would start it again finds it away. One that does not go is a violation.
    pub async fn dismiss(&self, node: u64, hearing: Duration) {
        let until = Instant::now() + hearing;
        loop {
            {
                let mut slots = lock(&self.slots);
                let slot = slots.get_mut(&node).expect("every node has a slot");
                // One whose disk is damaged is lost, and does not come back either.
                let has_ended = matches!(slot.place, Place::Down | Place::Lost);
                if has_ended {
                    slot.place = Place::Away;
                    break;
                }
            }
            if Instant::now() >= until + DISMISSAL_TIME_MAX {
                return self.violations.add(Check::Stop, format!("n{node} was removed, and does not go"));
            }
            if Instant::now() >= until {
                self.crash(node, self.plan.seed, false).await;
            }
            sleep(MONITOR_PACE).await;
        }
        self.trace.note(format_args!("n{node} is gone"));
    }

    /// Cuts a node's power: what it did not sync is gone, or torn. Those who talk to it hear nothing, or,
    /// where it is only its process that ends, that their connections are closed.
    pub async fn crash(&self, node: u64, seed: u64, silent: bool) {
        let running = {
            let mut slots = lock(&self.slots);
            let slot = slots.get_mut(&node).expect("every node has a slot");
            match std::mem::replace(&mut slot.place, Place::Busy) {
                Place::Up(running) => {
                    (slot.disk, slot.doomed) = (slot.disk.crash(seed), false);
                    running
                }
                other => {
                    slot.place = other;
                    return;
                }
            }
        };
        self.trace.note(format_args!("n{node} crashes{}", if silent { ", silently" } else { "" }));
        if silent {
            self.cut_off(node);
        }
        running.plug.pull();
        // Its log cannot be closed any more.
        drop(running.node.shutdown(BURIAL).await);
        if silent {
            self.join_up(node);
        }
        self.trace.note(format_args!("n{node} is buried"));
        if let Some(slot) = lock(&self.slots).get_mut(&node) {
            slot.place = Place::Down;
        }
    }

    /// Ends nodes that say that they must stop, and starts them again later. One that has no reason to is a
    /// violation, and so is one that goes on with a disk that has refused something.
    pub async fn monitor(self: Arc<Self>) {
        let mut number = 0;
        loop {
            for node in self.up() {
                let Some(reason) = self.must_stop(node) else { continue };
                number += 1;
                self.trace.note(format_args!("n{node} must stop: {reason}"));
                let (fleet, seed) =
                    (self.clone(), crate::plan::seed_of(self.plan.seed, crate::plan::Stream::Plan, number));
                tokio::spawn(async move {
                    fleet.crash(node, seed, false).await;
                    sleep(Duration::from_millis(500)).await;
                    fleet.start_or_lose(node).await;
                });
            }
            sleep(MONITOR_PACE).await;
        }
    }

    fn must_stop(&self, node: u64) -> Option<String> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(&node)?;
        let Place::Up(running) = &mut slot.place else { return None };
        let excused = slot.doomed || slot.flipped || slot.leaving;
        if let Some(reason) = running.node.failed().now_or_never() {
            if !excused {
                self.violations.add(Check::Stop, format!("n{node} stops by itself: {reason}"));
            }
            return Some(reason);
        }
        if slot.disk.is_dead() {
            return Some("its power went".to_owned());
        }
        if running.refused.has() {
            let since = *running.refused_since.get_or_insert_with(Instant::now);
            if since.elapsed() > REFUSED_TIME_MAX {
                self.violations
                    .add(Check::Stop, format!("n{node} goes on though its disk has refused something"));
                return Some("its disk has refused something".to_owned());
            }
        }
        None
    }

    /// The plug of a node that runs.
    pub fn plug(&self, node: u64) -> Option<Plug> {
        match &lock(&self.slots)[&node].place {
            Place::Up(running) => Some(running.plug.clone()),
            _ => None,
        }
    }

    /// Makes what `from` sends to `to` vanish.
    pub fn cut(&self, from: &str, to: &str) {
        *lock(&self.cuts).0.entry((from.to_owned(), to.to_owned())).or_default() += 1;
        self.network.cut(from, to);
    }

    /// Takes one [`cut`](Self::cut) back for each pair.
    pub fn mend(&self, pairs: &[(String, String)]) {
        let mut cuts = lock(&self.cuts);
        for pair in pairs {
            if let Some(count) = cuts.0.get_mut(pair) {
                *count = count.saturating_sub(1);
            }
        }
        cuts.0.retain(|_, count| *count > 0);
        self.network.heal();
        cuts.0.keys().for_each(|(from, to)| self.network.cut(from, to));
    }

    fn around(&self, node: u64) -> Vec<(String, String)> {
        let own = host(node);
        let others = self.hosts.iter().filter(|other| **other != own);
        others.flat_map(|other| [(own.clone(), other.clone()), (other.clone(), own.clone())]).collect()
    }

    fn cut_off(&self, node: u64) {
        self.around(node).iter().for_each(|(from, to)| self.cut(from, to));
    }

    fn join_up(&self, node: u64) {
        self.mend(&self.around(node));
    }
}

/// A client's host.
pub fn client_host(client: u64) -> String {
    format!("10.0.1.{client}")
}

/// A walker's host.
pub fn walker_host(walker: u64) -> String {
    format!("10.0.3.{walker}")
}

/// The operator's host.
pub fn operator_host() -> String {
    "10.0.2.1".to_owned()
}
