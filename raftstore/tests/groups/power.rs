//! Power: machines whose disk, network and life can be cut in one instant, also in the midst of a sync.
//!
//! A node that loses its power leaves its tasks behind in the test's runtime. They are as good as dead: their
//! disk refuses everything, their connections are gone and they can make no others. What becomes of unsynced
//! bytes is settled at that instant too, by the seed.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use raftstore::{
    Disk, DiskError, Effect, Listener, Network, SimulatedDisk, SimulatedNetwork, Stream, Syncs, Table,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The name of a node's host on the simulated network.
pub fn host_name(node: u64) -> String {
    format!("h{node}")
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process ends: unsynced bytes are lost too, and peers see their connections break.
    Abrupt,
    /// The machine vanishes: peers hear nothing more.
    Silent,
}

/// Which sync takes the power with it.
#[derive(Clone, Debug)]
struct Fuse {
    /// The number of the sync point, counted over `nodes` since [`Rack::arm`].
    at: u64,
    effect: Effect,
    /// Whose sync points count.
    counted: BTreeSet<u64>,
    /// Who loses power.
    victims: BTreeSet<u64>,
    seed: u64,
}

#[derive(Default)]
struct State {
    disks: BTreeMap<u64, SimulatedDisk>,
    plugs: BTreeMap<u64, Arc<AtomicBool>>,
    /// Directed pairs of nodes between which bytes vanish.
    cuts: BTreeSet<(u64, u64)>,
    /// Nodes that are cut off from all others, whatever `cuts` says.
    isolated: BTreeSet<u64>,
    /// Nodes that vanished and have not come back.
    silent: BTreeSet<u64>,
    fuse: Option<Fuse>,
    blown: bool,
}

/// All machines of a cluster, seen from their power cords.
pub struct Rack {
    pub network: SimulatedNetwork,
    nodes: BTreeSet<u64>,
    state: Mutex<State>,
    /// Sync points passed since the last [`arm`](Self::arm), of the nodes that count.
    points: AtomicU64,
}

impl Rack {
    pub fn new(nodes: impl Iterator<Item = u64>) -> Arc<Self> {
        let nodes: BTreeSet<u64> = nodes.collect();
        let disks = nodes.iter().map(|&node| (node, SimulatedDisk::new())).collect();
        let state = Mutex::new(State { disks, ..State::default() });
        Arc::new(Self { network: SimulatedNetwork::new(), nodes, state, points: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's disk as it would be found now.
    pub fn disk(&self, node: u64) -> SimulatedDisk {
        self.lock().disks[&node].clone()
    }

    /// Puts another disk into a node that does not run.
    pub fn replace_disk(&self, node: u64, disk: SimulatedDisk) {
        self.lock().disks.insert(node, disk);
    }

    /// Connects a node's new life to its disk and network.
    pub fn plug_in(self: &Arc<Self>, node: u64) -> (Arc<dyn Disk>, Arc<dyn Network>) {
        let pulled = Arc::new(AtomicBool::new(false));
        let mut state = self.lock();
        state.plugs.insert(node, pulled.clone());
        state.silent.remove(&node);
        let disk = state.disks[&node].clone();
        drop(state);
        self.rewire();
        let disk = PoweredDisk { rack: self.clone(), node, disk };
        let network = PluggedNetwork { network: self.network.host(&host_name(node)), pulled };
        (Arc::new(disk), Arc::new(network))
    }

    /// Takes a node's power. Its disk is then what survived, by `seed`.
    pub fn pull(&self, node: u64, death: Death, seed: u64) {
        let mut state = self.lock();
        let Some(pulled) = state.plugs.remove(&node) else { return };
        pulled.store(true, Ordering::SeqCst);
        let survived = state.disks[&node].crash(seed.wrapping_add(node));
        state.disks.insert(node, survived);
        if death == Death::Silent {
            state.silent.insert(node);
        }
        drop(state);
        let own = host_name(node);
        for other in self.nodes.iter().filter(|&&other| other != node) {
            match death {
                Death::Abrupt => self.network.reset(&own, &host_name(*other)),
                Death::Silent => self.network.partition(&[&own], &[&host_name(*other)]),
            }
        }
    }

    /// Lets bytes vanish between two nodes, both ways.
    pub fn cut(&self, one: u64, other: u64) {
        self.lock().cuts.extend([(one, other), (other, one)]);
        self.rewire();
    }

    /// Lets bytes vanish from one node to another, not those that come back.
    pub fn cut_one_way(&self, from: u64, to: u64) {
        self.lock().cuts.insert((from, to));
        self.rewire();
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: u64) {
        self.lock().isolated.insert(node);
        self.rewire();
    }

    /// Takes a node back, except where both ends of a link are isolated or it is cut besides.
    pub fn connect(&self, node: u64) {
        self.lock().isolated.remove(&node);
        self.rewire();
    }

    /// Ends all cuts and isolations.
    pub fn mend(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        state.isolated.clear();
        drop(state);
        self.rewire();
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        let state = self.lock();
        let isolated = |node| from != to && state.isolated.contains(&node);
        state.cuts.contains(&(from, to)) || isolated(from) || isolated(to)
    }

    /// Heals the network and cuts it again where it must be: it has no finer knife.
    fn rewire(&self) {
        let state = self.lock();
        let mut cuts = state.cuts.clone();
        for &silent in state.silent.union(&state.isolated) {
            cuts.extend(self.nodes.iter().flat_map(|&other| [(silent, other), (other, silent)]));
        }
        drop(state);
        self.network.heal();
        cuts.iter().for_each(|&(from, to)| self.network.cut(&host_name(from), &host_name(to)));
    }

    /// Lets the power of `victims` go at the sync point `at` (from 0) of `counted` from now on.
    pub fn arm(&self, at: u64, effect: Effect, counted: &[u64], victims: &[u64], seed: u64) {
        let (counted, victims) = (counted.iter().copied().collect(), victims.iter().copied().collect());
        let mut state = self.lock();
        state.fuse = Some(Fuse { at, effect, counted, victims, seed });
        state.blown = false;
        self.points.store(0, Ordering::SeqCst);
    }

    /// Counts the sync points of `counted` from now on and cuts nothing.
    pub fn count(&self, counted: &[u64]) {
        self.arm(u64::MAX, Effect::Done, counted, &[], 0);
    }

    /// Sync points passed since [`arm`](Self::arm) or [`count`](Self::count).
    pub fn points(&self) -> u64 {
        self.points.load(Ordering::SeqCst)
    }

    /// Takes the fuse out again.
    pub fn disarm(&self) {
        self.lock().fuse = None;
    }

    /// Whether the armed fuse has blown.
    pub fn blown(&self) -> bool {
        self.lock().blown
    }

    /// A sync of `node` begins; returns what happens to it if the fuse blows with it.
    fn sync_point(&self, node: u64) -> Option<Fuse> {
        let mut state = self.lock();
        let fuse = state.fuse.clone().filter(|fuse| fuse.counted.contains(&node))?;
        if self.points.fetch_add(1, Ordering::SeqCst) != fuse.at {
            return None;
        }
        state.fuse = None;
        Some(fuse)
    }

    fn blow(&self, fuse: &Fuse) {
        self.lock().blown = true;
        for &victim in &fuse.victims {
            let death = if fuse.seed.is_multiple_of(2) { Death::Abrupt } else { Death::Silent };
            self.pull(victim, death, fuse.seed);
        }
    }

    /// Carries out something durable on `node`, and the loss of power with it.
    fn through<T>(&self, node: u64, work: impl FnOnce() -> Result<T, DiskError>) -> Result<T, DiskError> {
        let Some(fuse) = self.sync_point(node) else { return work() };
        if fuse.effect == Effect::Lost {
            self.blow(&fuse);
            return work();
        }
        let done = work();
        self.blow(&fuse);
        done.and(Err(DiskError::Gone("the power went")))
    }
}

/// A disk whose every sync may be the last.
struct PoweredDisk {
    rack: Arc<Rack>,
    node: u64,
    disk: SimulatedDisk,
}

impl fmt::Debug for PoweredDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk of n{}", self.node)
    }
}

impl PoweredDisk {
    fn table(&self, table: Arc<dyn Table>) -> Arc<dyn Table> {
        Arc::new(PoweredTable { rack: self.rack.clone(), node: self.node, table })
    }
}

impl Disk for PoweredDisk {
    fn create(&self, table: &str, syncs: Syncs) -> Result<Arc<dyn Table>, DiskError> {
        self.disk.create(table, syncs).map(|table| self.table(table))
    }

    fn open(&self, table: &str) -> Result<Arc<dyn Table>, DiskError> {
        self.disk.open(table).map(|table| self.table(table))
    }

    fn remove(&self, table: &str) -> Result<(), DiskError> {
        self.disk.remove(table)
    }

    fn remove_leftovers(&self) -> Result<(), DiskError> {
        self.disk.remove_leftovers()
    }

    fn release(&self, table: Arc<dyn Table>) {
        self.disk.release(table);
    }

    fn tables(&self) -> Result<Vec<String>, DiskError> {
        self.disk.tables()
    }

    fn read_cell(&self, name: &str) -> Result<Option<Bytes>, DiskError> {
        self.disk.read_cell(name)
    }

    fn write_cell(&self, name: &str, value: &[u8]) -> Result<(), DiskError> {
        self.rack.through(self.node, || self.disk.write_cell(name, value))
    }

    fn read_mark(&self) -> Result<Option<u64>, DiskError> {
        self.disk.read_mark()
    }

    fn write_mark(&self, mark: u64) -> Result<(), DiskError> {
        self.disk.write_mark(mark)
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        self.rack.through(self.node, || self.disk.sync_mark())
    }

    fn bytes(&self) -> Result<u64, DiskError> {
        self.disk.bytes()
    }

    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> Result<(), DiskError> {
        self.disk.drive(name, task)
    }

    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        self.disk.offload(work)
    }
}

struct PoweredTable {
    rack: Arc<Rack>,
    node: u64,
    table: Arc<dyn Table>,
}

impl fmt::Debug for PoweredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of n{}", self.table, self.node)
    }
}

impl Table for PoweredTable {
    fn put(&self, key: u64, value: &[u8]) -> Result<(), DiskError> {
        self.table.put(key, value)
    }

    fn scan(&self, from: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, DiskError> {
        self.table.scan(from, bytes_max)
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let Some(fuse) = self.rack.sync_point(self.node) else { return self.table.sync().await };
            if fuse.effect == Effect::Lost {
                self.rack.blow(&fuse);
                return self.table.sync().await;
            }
            let done = self.table.sync().await;
            self.rack.blow(&fuse);
            done.and(Err(DiskError::Gone("the power went")))
        })
    }
}

/// A host's network until its plug is pulled: then no connection is made or taken any more. Those that stand are
/// cut by [`Rack::pull`].
struct PluggedNetwork {
    network: Arc<dyn Network>,
    pulled: Arc<AtomicBool>,
}

impl fmt::Debug for PluggedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.network)
    }
}

fn without_power() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkDown, "the power went")
}

impl Network for PluggedNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            if self.pulled.load(Ordering::SeqCst) {
                return Err(without_power());
            }
            let stream = self.network.connect(address).await?;
            // It may have been made while the plug was pulled.
            if self.pulled.load(Ordering::SeqCst) { Err(without_power()) } else { Ok(stream) }
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.network.listen(address).await?;
            let pulled = self.pulled.clone();
            Ok(Box::new(PluggedListener { listener, pulled }) as Box<dyn Listener>)
        })
    }
}

struct PluggedListener {
    listener: Box<dyn Listener>,
    pulled: Arc<AtomicBool>,
}

impl Listener for PluggedListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            loop {
                let accepted = self.listener.accept().await?;
                if !self.pulled.load(Ordering::SeqCst) {
                    return Ok(accepted);
                }
            }
        })
    }

    fn local_address(&self) -> &str {
        self.listener.local_address()
    }
}
