//! Replicas opened and dropped by maps made by hand: one node, which has a controller of its own.

use super::*;
use proto::{Epoch, GroupState, NodeSpec, NodeState, NodeView, ShardMap, ShardRun};
use raftstore::{
    Effect, HostConfig, RaftConfig, SimulatedDisk, SimulatedNetwork, StorageConfig, SystemClock,
    TransportConfig,
};
use shardctrler::{Settings, Shape};
use tokio::time::timeout;

const SHARDS: u32 = 4;

/// A group that the controller has never heard of.
const GROUP: GroupId = GroupId(9);

/// What is long enough for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    residence: Residence,
    /// What the controller says.
    map: Arc<ClusterMap>,
    births: JoinSet<()>,
    _tasks: JoinSet<()>,
}

impl Bench {
    async fn start() -> Self {
        let config = HostConfig {
            cluster: "test".into(),
            node: NodeId(1),
            listen: "n1:1".into(),
            raft: RaftConfig::default(),
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
        };
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let network = SimulatedNetwork::new().host("n1");
        let host = Host::start(config, disk.clone(), network, Arc::new(SystemClock)).await.unwrap();
        let address = Address { peer: "n1:1".into(), http: "n1:2".into() };
        let members = BTreeMap::from([(NodeId(1), address.clone())]);
        host.form(&members).await.unwrap();
        let own = host.open_group(CONTROLLER, ControllerMachine::new).await.unwrap();
        own.bootstrap(&members).await.unwrap();
        let Address { peer, http } = address;
        let spec = NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: host.incarnation() };
        let birth = Some(Shape { shards: SHARDS, groups: 1, replicas: 3 });
        let settings = Settings { seeds: BTreeMap::new(), named: Epoch(0), spec, birth };
        let (controller, tasks) = ControllerHandle::start(host.clone(), Some(own), settings);
        let mut map = controller.map();
        let born = timeout(PATIENCE, map.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        let restoration = Restoration::new(NodeId(1), host.incarnation(), true);
        let residence = Residence {
            host,
            controller,
            residents: Arc::default(),
            restoration: Arc::new(restoration),
            bounds: Bounds { shards: SHARDS, value_bytes_max: 100, answer_bytes_max: 1_000 },
            born: BornWith { shards: SHARDS, groups: 1 },
            known: None,
            disk,
        };
        Self { residence, map: born.unwrap(), births: JoinSet::new(), _tasks: tasks }
    }

    /// What the controller says, and one group more, which wants a replica here.
    fn map_with(&self, first: &[u64], voters: &[u64]) -> ClusterMap {
        let own = self.residence.host.incarnation();
        let on = |nodes: &[u64]| -> BTreeMap<NodeId, Incarnation> {
            let disk = |node| if node == 1 { own } else { Incarnation(7) };
            nodes.iter().map(|&node| (NodeId(node), disk(node))).collect()
        };
        let mut map = ClusterMap::clone(&self.map);
        map.groups.push(GroupView {
            group: GROUP,
            state: GroupState::Serving,
            weight: 1,
            first: on(first),
            replicas: on(&[1]),
            voters: on(voters),
            learners: BTreeMap::new(),
            leader: None,
            preferred: None,
        });
        map
    }

    async fn settle(&mut self, map: &ClusterMap) -> bool {
        self.residence.settle(map, &mut self.births).await
    }

    fn replica(&self) -> Option<Arc<Replica>> {
        self.residence.residents.get(GROUP)
    }
}

/// A replica that was opened to be added to its group, and is not wanted any more before it was, is dropped like any
/// other, though the disk holds nothing of it.
#[tokio::test]
async fn a_replica_that_was_never_added_is_dropped() {
    let mut bench = Bench::start().await;
    let (wanted, unwanted) = (bench.map_with(&[2, 3], &[2, 3]), bench.map.clone());
    assert!(bench.settle(&wanted).await);
    assert!(bench.replica().expect("it is open").waits());
    assert!(!bench.residence.host.stored_groups().contains(&GROUP));
    assert!(bench.settle(&unwanted).await);
    assert!(bench.replica().is_none());
    assert!(bench.residence.host.open_learner(GROUP, KvMachine::new).await.is_ok(), "it runs no more");
}

/// Where the map still counts on a replica that this disk has dropped since, another is opened, which waits to be
/// added in its place: it neither begins the group, nor stays out until the next start.
#[tokio::test]
async fn a_disk_that_had_a_replica_before_opens_one_that_waits() {
    let mut bench = Bench::start().await;
    let host = bench.residence.host.clone();
    host.open_group(GROUP, KvMachine::new).await.unwrap();
    host.drop_group(GROUP).await.unwrap();
    let map = bench.map_with(&[1, 2], &[1, 2]);
    assert!(bench.settle(&map).await);
    assert!(bench.replica().expect("it is open").waits());
    assert!(bench.settle(&map).await);
}

/// A new disk knows that it waits before it knows that a map has named it, wherever the power goes between the two;
/// once nothing is lacking, it knows that as well.
#[tokio::test]
async fn a_disk_knows_that_it_waits_before_it_knows_its_name() {
    let mut bench = Bench::start().await;
    let own = bench.residence.host.incarnation();
    let mut lacking = bench.map_with(&[1, 2, 3], &[2, 3]);
    for node in [2, 3] {
        let (id, spec) = (NodeId(node), lacking.nodes[0].spec.clone());
        let spec = NodeSpec { peer: format!("n{node}:1"), incarnation: Incarnation(7), ..spec };
        lacking.nodes.push(NodeView { node: id, spec, state: NodeState::Up });
    }
    let group = lacking.groups.last_mut().unwrap();
    group.replicas.extend(group.voters.clone());
    let start = async |disk: &Arc<dyn Disk>| {
        let known = Acquaintance::load(disk).await.unwrap();
        let is_new = known.is_none_or(|known| known.named == Epoch(0));
        (is_new, Arc::new(Restoration::load(disk, NodeId(1), own, is_new).await.unwrap()))
    };
    for (written, effect) in [(0, Effect::Lost), (0, Effect::Done), (1, Effect::Lost), (1, Effect::Done)] {
        let disk = SimulatedDisk::new();
        disk.die_at(written, effect);
        bench.residence.disk = Arc::new(disk.clone());
        bench.residence.known = None;
        bench.residence.restoration = start(&bench.residence.disk).await.1;
        bench.residence.restoration.follow(&lacking);
        bench.residence.note(&lacking).await.unwrap_err();
        let after: Arc<dyn Disk> = Arc::new(disk.crash(0));
        let (is_new, restoration) = start(&after).await;
        assert_eq!(is_new, (written, effect) != (1, Effect::Done), "two cells, and its name in the second");
        assert_eq!(restoration.missing(&lacking), ["g9 has 2 of 3 voters"], "{written} {effect:?}");
        if !is_new {
            (bench.residence.disk, bench.residence.restoration) = (after, restoration);
        }
    }
    let whole = bench.map.clone();
    bench.residence.restoration.follow(&whole);
    bench.residence.note(&whole).await.unwrap();
    let (is_new, restoration) = start(&bench.residence.disk).await;
    assert!(!is_new && restoration.missing(&elsewhere(lacking)).is_empty());
}

/// The same without a part for this node in the last group.
fn elsewhere(mut map: ClusterMap) -> ClusterMap {
    let group = map.groups.last_mut().unwrap();
    group.replicas.remove(&NodeId(1));
    group.replicas.insert(NodeId(4), Incarnation(7));
    map
}

/// A node that was told of another number of shards or groups than its cluster was born with may not go on; one that
/// joined was told nothing of groups.
#[tokio::test]
async fn births_are_compared() {
    let bench = Bench::start().await;
    let told = |shards, groups| check_birth(BornWith { shards, groups }, &bench.map);
    let why = |shards, groups| told(shards, groups).unwrap_err().to_string();
    assert!(told(SHARDS, 1).is_ok() && told(SHARDS, 0).is_ok());
    assert!(why(SHARDS, 2).contains("groups is 2 here, the cluster was born with 1"));
    assert!(why(5, 1).contains("shards is 5 here, the cluster was born with 4"));
}

/// A group is born with what the map says is its own and nobody else's, whatever the node that asks was told; one that
/// was added since is born with nothing.
#[tokio::test]
async fn shards_are_born_where_the_map_has_them() {
    let mut map = ClusterMap::clone(&Bench::start().await.map);
    let run = |first: u32, count, owner| {
        let owner = GroupId(owner);
        ShardRun { first: ShardId(first), count, owner, target: owner }
    };
    let runs = vec![run(0, 1, 1), run(1, 1, 2), run(2, 1, 3), run(3, 1, 1)];
    map.shard_map = ShardMap { runs, ..map.shard_map };
    map.groups_at_birth = 2;
    let born = |group| born_with(&map, GroupId(group)).iter().map(|shard| shard.0).collect::<Vec<_>>();
    assert_eq!([born(1), born(2), born(3), born(4)], [vec![0, 3], vec![1], vec![], vec![]]);
}
