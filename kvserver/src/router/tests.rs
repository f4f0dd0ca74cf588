//! A shard's move as its router meets it, step by step: one node, two groups of one voter, and the steps
//! taken by hand.

use super::*;
use crate::machine::bounds::KEY_BYTES_MAX;
use crate::replica::Bounds;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::{
    Answer, ClientId, ClusterSettings, Command, CopyToken, Epoch, Expect, GroupState, GroupView,
    LifecycleAnswer, MoveCommand, MoveState, MoveStep, MoveView, NodeId, NodeSpec, NodeState, NodeView,
    Outcome, PieceEnd, Reply, Sequence, ShardMap, ShardRun, ShardSet, Stamp, Version,
};
use raftstore::{
    Address, HostConfig, RaftConfig, Services, SimulatedDisk, SimulatedNetwork, StorageConfig, SystemClock,
    TransportConfig,
};
use std::io;
use std::sync::Mutex;
use tokio::sync::watch;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::format::FmtSpan;

const SHARDS: u32 = 4;
pub(crate) const SOURCE: GroupId = GroupId(1);
const DESTINATION: GroupId = GroupId(2);
const COPY: CopyToken = CopyToken(7);
const MOVE: Epoch = Epoch(5);

/// The shard that moves; the first group is born with all of them.
const SHARD: ShardId = ShardId(1);

/// What is long enough for what must happen, and never waited for where it does.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long what must not happen is given to happen.
const A_WHILE: Duration = Duration::from_millis(30);

pub(crate) struct Bench {
    pub(crate) router: Arc<Router>,
    map: watch::Sender<Option<Arc<ClusterMap>>>,
    network: SimulatedNetwork,
}

/// Answers batches of other nodes.
struct Peer(Arc<Router>);

impl Services for Peer {
    fn call(
        &self,
        _from: NodeId,
        _service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let router = self.0.clone();
        Box::pin(async move { router.serve(body, deadline).await })
    }
}

async fn host(network: &SimulatedNetwork, node: u64) -> Arc<Host> {
    let config = HostConfig {
        cluster: "test".into(),
        node: NodeId(node),
        listen: format!("n{node}:1"),
        raft: RaftConfig::default(),
        storage: StorageConfig::default(),
        transport: TransportConfig::default(),
    };
    let (disk, network) = (Arc::new(SimulatedDisk::new()), network.host(&format!("n{node}")));
    Host::start(config, disk, network, Arc::new(SystemClock)).await.unwrap()
}

/// A node that knows of no replica yet.
async fn node(
    network: &SimulatedNetwork,
    node: u64,
    map: watch::Receiver<Option<Arc<ClusterMap>>>,
) -> Arc<Router> {
    let router = Arc::new(Router {
        host: host(network, node).await,
        residents: Arc::default(),
        routes: Routes::new(map),
        shards: SHARDS,
        limits: Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: 100, batch_bytes_max: 1_000 },
        payload_bytes_max: 1 << 20,
        stopping: AtomicBool::new(false),
    });
    router.host.set_services(Arc::new(Peer(router.clone())));
    router
}

const BOUNDS: Bounds = Bounds { shards: SHARDS, value_bytes_max: 100, answer_bytes_max: 1 << 20 };

/// The map at `epoch`, with the shard under way or not, and at its `owner`.
fn map(epoch: Epoch, under_way: bool, owner: GroupId) -> Arc<ClusterMap> {
    let run = |first: u32, count, owner| ShardRun { first: ShardId(first), count, owner, target: owner };
    let (from, to, state) = (SOURCE, DESTINATION, MoveState::Running);
    let moving = MoveView { shard: SHARD, from, to, id: MOVE, state };
    Arc::new(ClusterMap {
        shard_map: ShardMap {
            epoch,
            shards: SHARDS,
            runs: vec![run(0, 1, SOURCE), run(SHARD.0, 1, owner), run(2, 2, SOURCE)],
        },
        settings: ClusterSettings {
            moves_paused: false,
            copy_bytes_per_second: None,
            moves_max: 4,
            replicas: 1,
            dead_after_ms: 1,
        },
        nodes: vec![],
        groups: vec![],
        moves: if under_way { vec![moving] } else { vec![] },
        setbacks: vec![],
        groups_at_birth: 1,
    })
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let network = SimulatedNetwork::new();
        let before = watch::Sender::new(Some(map(Epoch(1), false, SOURCE)));
        let router = node(&network, 1, before.subscribe()).await;
        let host = &router.host;
        let address = Address { peer: "n1:1".into(), http: String::new() };
        let members = BTreeMap::from([(NodeId(1), address)]);
        host.form(&members).await.unwrap();
        for id in [SOURCE, DESTINATION] {
            let group = host.open_group(id, KvMachine::new).await.unwrap();
            group.bootstrap(&members).await.unwrap();
            let all = (0..SHARDS).map(ShardId).filter(|_| id == SOURCE).collect::<ShardSet>();
            let replica = Arc::new(Replica::new(group, all, BOUNDS));
            replica.give_birth().await;
            replica.ready(PATIENCE).await.unwrap();
            router.residents.insert(replica);
        }
        Self { router, map: before, network }
    }

    /// Another node, on which a replica of the first group waits to be added.
    pub(crate) async fn neighbour(&self) -> Arc<Router> {
        let router = node(&self.network, 2, self.map.subscribe()).await;
        let mut map = ClusterMap::clone(&map(Epoch(2), false, SOURCE));
        let of = |node: u64, incarnation| NodeView {
            node: NodeId(node),
            spec: NodeSpec {
                peer: format!("n{node}:1"),
                http: String::new(),
                zone: String::new(),
                weight: 1,
                incarnation,
            },
            state: NodeState::Up,
        };
        let disks = [self.router.host.incarnation(), router.host.incarnation()];
        map.nodes = vec![of(1, disks[0]), of(2, disks[1])];
        let (first, second) = ((NodeId(1), disks[0]), (NodeId(2), disks[1]));
        map.groups = vec![GroupView {
            group: SOURCE,
            state: GroupState::Serving,
            weight: 1,
            first: [first].into(),
            replicas: [first, second].into(),
            voters: [first].into(),
            learners: BTreeMap::new(),
            leader: Some(NodeId(1)),
            preferred: None,
        }];
        self.map.send_replace(Some(Arc::new(map)));
        let group = router.host.open_learner(SOURCE, KvMachine::new).await.unwrap();
        router.residents.insert(Arc::new(Replica::new(group, ShardSet::default(), BOUNDS)));
        router
    }

    pub(crate) fn replica(&self, group: GroupId) -> Arc<Replica> {
        self.router.residents.get(group).unwrap()
    }

    async fn step(&self, group: GroupId, step: MoveStep<'_>) {
        let command = Command::Move(MoveCommand { shard: SHARD, epoch: MOVE, step });
        let answer = self.replica(group).group.propose(Bytes::from(proto::encode(&command))).await.unwrap();
        let answer: LifecycleAnswer = proto::decode(&answer).unwrap();
        answer.unwrap();
    }

    /// Goes as far as the frozen shard, of which nothing is left to copy but its end.
    async fn freeze(&self) {
        self.map.send_replace(Some(map(MOVE, true, SOURCE)));
        self.step(DESTINATION, MoveStep::ImportBegin { from: SOURCE, copy: COPY }).await;
        let source = self.replica(SOURCE);
        source.group.read_stale(|machine| machine.shard_copy_begin(SHARD, COPY)).unwrap();
        self.step(SOURCE, MoveStep::Freeze { to: DESTINATION }).await;
    }

    /// Has the frozen shard arrive.
    async fn arrive(&self) {
        let source = self.replica(SOURCE);
        for number in 0.. {
            let next = source.group.read_stale(|machine| machine.shard_copy_next(COPY, 1 << 20)).unwrap();
            let end = if next.remaining == 0 { PieceEnd::Activate } else { PieceEnd::More };
            let piece = MoveStep::ImportPiece { copy: COPY, number, end, bytes: &next.bytes };
            self.step(DESTINATION, piece).await;
            if end == PieceEnd::Activate {
                return;
            }
        }
    }

    async fn ask(&self, items: &[Item<'_>]) -> Vec<Encoded> {
        self.ask_within(items, PATIENCE).await
    }

    async fn ask_within(&self, items: &[Item<'_>], time: Duration) -> Vec<Encoded> {
        self.router.route(items, terms(time, Consistency::Linearizable)).await.answers
    }

    fn log_of(&self, group: GroupId) -> Option<u64> {
        self.replica(group).group.status().last_index
    }
}

fn terms(time: Duration, consistency: Consistency) -> Terms {
    Terms { deadline: Instant::now() + time, consistency, request_id: 7, forward: true }
}

/// A key of `shard`.
fn key_of(shard: ShardId) -> &'static [u8] {
    let keys: [&'static [u8]; 16] =
        [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j", b"k", b"l", b"m", b"n", b"o", b"p"];
    keys.into_iter().find(|key| proto::shard_of(key, SHARDS) == shard).expect("each shard has one of them")
}

fn append(shard: ShardId, sequence: u64) -> Item<'static> {
    let stamp = Stamp { client: ClientId(1), sequence: Sequence(sequence), lowest_open: Sequence(1) };
    let operation = Operation::Append { key: key_of(shard), value: b"x", expect: Expect::Any };
    Item { stamp: Some(stamp), operation }
}

fn get(shard: ShardId) -> Item<'static> {
    Item { stamp: None, operation: Operation::Get { key: key_of(shard) } }
}

fn scan() -> Item<'static> {
    let operation = Operation::Scan { prefix: b"", after: None, start: b"", limit: 10, bytes_max: 1_000 };
    Item { stamp: None, operation }
}

/// The version after a write, or of what was read; or a refusal's code and outcome.
fn told(answer: &Encoded) -> Result<u64, (Code, Outcome)> {
    match answer.answer() {
        Ok(
            Reply::Written { version: Version(version), .. } | Reply::Value { version: Version(version), .. },
        ) => Ok(version),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err((error.code, error.outcome)),
    }
}

/// A request for a frozen shard is not answered, and takes no place in any log, until the shard has arrived;
/// then its new group answers it.
#[tokio::test]
async fn requests_wait_for_the_arrival() {
    let bench = Bench::start().await;
    assert_eq!(told(&bench.ask(&[append(SHARD, 1)]).await[0]), Ok(1));
    bench.freeze().await;
    let logs = [SOURCE, DESTINATION].map(|group| bench.log_of(group));
    let items = [append(SHARD, 2), get(SHARD)];
    let mut asked = std::pin::pin!(bench.ask(&items));
    tokio::time::timeout(A_WHILE, &mut asked).await.unwrap_err();
    assert_eq!([SOURCE, DESTINATION].map(|group| bench.log_of(group)), logs);
    let (answers, ()) = tokio::join!(asked, bench.arrive());
    assert_eq!(told(&answers[0]), Ok(2));
    assert!(matches!(told(&answers[1]), Ok(1 | 2)), "they are carried out in any order: {answers:?}");
    bench.map.send_replace(Some(map(Epoch(6), false, DESTINATION)));
    assert_eq!(told(&bench.ask(&[get(SHARD)]).await[0]), Ok(2));
}

/// A batch of which nothing is served here is refused without asking anybody, least of all a quorum that may be gone.
#[tokio::test]
async fn what_is_not_served_is_refused_at_once() {
    let bench = Bench::start().await;
    bench.freeze().await;
    let items = [get(SHARD), append(SHARD, 1)];
    let (replica, items) = (bench.replica(SOURCE), items.each_ref());
    let routed = served(&replica, &items, SHARDS, terms(PATIENCE, Consistency::Linearizable)).now_or_never();
    for answer in &routed.expect("nothing is waited for").answers {
        let told = told(answer);
        assert!(matches!(told, Err((Code::WrongGroup { shard: SHARD, .. }, Outcome::None))), "{told:?}");
    }
}

/// A write that is sent again under its stamp is answered as it was and not carried out again, whether the
/// shard has moved meanwhile or is frozen half-way.
#[tokio::test]
async fn a_write_takes_effect_once_over_a_move() {
    let bench = Bench::start().await;
    let first = bench.ask(&[append(SHARD, 1)]).await;
    bench.freeze().await;
    let again = [append(SHARD, 1)];
    let mut half_way = std::pin::pin!(bench.ask(&again));
    tokio::time::timeout(A_WHILE, &mut half_way).await.unwrap_err();
    let (half_way, ()) = tokio::join!(half_way, bench.arrive());
    assert_eq!(half_way, first);
    assert_eq!(bench.ask(&again).await, first);
    bench.map.send_replace(Some(map(Epoch(6), false, DESTINATION)));
    assert_eq!(bench.ask(&again).await, first);
    assert_eq!(told(&bench.ask(&[append(SHARD, 2)]).await[0]), Ok(2), "the session goes on");
}

/// A request that waits for a shard is answered by its old group where the move is given up.
#[tokio::test]
async fn requests_outlive_a_move_that_is_given_up() {
    let bench = Bench::start().await;
    bench.ask(&[append(SHARD, 1)]).await;
    bench.freeze().await;
    let items = [append(SHARD, 2)];
    let mut asked = std::pin::pin!(bench.ask(&items));
    tokio::time::timeout(A_WHILE, &mut asked).await.unwrap_err();
    let give_up = async {
        bench.step(DESTINATION, MoveStep::Abort).await;
        bench.map.send_replace(Some(map(Epoch(6), false, SOURCE)));
        bench.step(SOURCE, MoveStep::Thaw).await;
    };
    let (answers, ()) = tokio::join!(asked, give_up);
    assert_eq!(told(&answers[0]), Ok(2));
}

/// A batch is not held up for long by a shard that hangs between two groups: what concerns others is
/// answered, and the rest is told of item by item, as not carried out.
#[tokio::test]
async fn other_items_do_not_wait_for_a_shard_that_hangs() {
    let bench = Bench::start().await;
    bench.freeze().await;
    let (near, far) = (ShardId(0), ShardId(3));
    let answers = bench.ask(&[append(near, 1), append(SHARD, 1), append(far, 1), get(SHARD)]).await;
    assert_eq!((told(&answers[0]), told(&answers[2])), (Ok(1), Ok(1)));
    for at in [1, 3] {
        let told = told(&answers[at]);
        assert!(matches!(told, Err((Code::WrongGroup { shard: SHARD, .. }, Outcome::None))), "{told:?}");
    }
    // Alone it waits longer, but not beyond its deadline.
    let alone = bench.ask_within(&[append(SHARD, 1)], A_WHILE).await;
    assert!(matches!(told(&alone[0]), Err((Code::WrongGroup { .. }, Outcome::None))), "{alone:?}");
    bench.arrive().await;
    let told_of = |answer: Vec<Encoded>| told(&answer[0]);
    assert_eq!(told_of(bench.ask(&[append(SHARD, 1)]).await), Ok(1), "nothing of it was carried out before");
}

/// A page of all shards waits for one that is frozen, and has every key once when it has arrived, also where
/// the map does not know yet that a group serves anything.
#[tokio::test]
async fn pages_wait_for_a_shard_on_its_way() {
    let bench = Bench::start().await;
    for shard in (0..SHARDS).map(ShardId) {
        bench.ask(&[append(shard, 1)]).await;
    }
    let keys = |answers: &[Encoded]| -> Vec<Vec<u8>> {
        let answer: Answer<'_> = answers[0].answer();
        let Ok(Reply::Page { records, more: false }) = answer else { panic!("{answer:?}") };
        records.iter().map(|record| record.key.to_vec()).collect()
    };
    let mut all: Vec<Vec<u8>> = (0..SHARDS).map(|shard| key_of(ShardId(shard)).to_vec()).collect();
    all.sort_unstable();
    assert_eq!(keys(&bench.ask(&[scan()]).await), all);
    bench.freeze().await;
    let items = [scan()];
    let mut asked = std::pin::pin!(bench.ask(&items));
    tokio::time::timeout(A_WHILE, &mut asked).await.unwrap_err();
    let (answers, ()) = tokio::join!(asked, bench.arrive());
    assert_eq!(keys(&answers), all);
    bench.map.send_replace(Some(map(Epoch(6), false, DESTINATION)));
    assert_eq!(keys(&bench.ask(&[scan()]).await), all);
}

/// A group that the map does not say to serve anything need not answer for a page; one that it does say so of
/// must.
#[tokio::test]
async fn groups_that_serve_nothing_yet_do_not_hold_pages_up() {
    let bench = Bench::start().await;
    let mut early = ClusterMap::clone(&map(MOVE, true, SOURCE));
    early.moves[0].to = GroupId(9);
    bench.map.send_replace(Some(Arc::new(early)));
    let page = bench.ask(&[scan()]).await;
    assert!(matches!(page[0].answer(), Ok(Reply::Page { .. })), "{page:?}");
    bench.map.send_replace(Some(map(Epoch(6), false, GroupId(9))));
    let page = bench.ask_within(&[scan()], A_WHILE).await;
    assert_eq!(told(&page[0]), Err((Code::NoLeader, Outcome::None)));
}

/// A node whose own replica waits to be added answers as one without a replica does, by asking whoever leads; so it
/// does for reads that any replica may answer.
#[tokio::test]
async fn a_replica_that_waits_is_passed_over() {
    let bench = Bench::start().await;
    let neighbour = bench.neighbour().await;
    assert!(neighbour.residents.get(SOURCE).is_some_and(|replica| replica.waits()));
    for (sequence, consistency) in [
        (1, Consistency::Linearizable),
        (2, Consistency::Follower),
        (3, Consistency::Stale { lag_ms_max: None }),
    ] {
        let items = [append(SHARD, sequence), get(SHARD)];
        let answers = neighbour.route(&items, terms(PATIENCE, consistency)).await.answers;
        assert_eq!(told(&answers[0]), Ok(sequence), "{consistency:?}");
        let read = neighbour.route(&items[1..], terms(PATIENCE, consistency)).await.answers;
        assert_eq!(told(&read[0]), Ok(sequence), "{consistency:?}");
    }
    // What was sent to it as the leader's node is not sent on.
    let sent = Terms { forward: false, ..terms(PATIENCE, Consistency::Linearizable) };
    let answers = neighbour.route(&[get(SHARD)], sent).await.answers;
    assert_eq!(told(&answers[0]), Err((Code::NoLeader, Outcome::None)));
}

/// A node that answers as the leader of a group does, of which it tells nothing itself: no single items, and more of
/// them only where it is to.
struct Uneven {
    leader: Arc<Router>,
    answers_more: bool,
}

impl Services for Uneven {
    fn call(
        &self,
        _from: NodeId,
        _service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let (_, batch) = forward::of_group(&body).expect("it names its group");
        let is_single = proto::decode::<BatchRequest<'_>>(batch).expect("it is a batch").items.len() == 1;
        let (leader, answers_more) = (self.leader.clone(), self.answers_more);
        Box::pin(async move {
            match is_single {
                true => Err(Refusal::Unavailable("it answers no single items".into())),
                false if answers_more => leader.serve(body, deadline).await,
                false => std::future::pending().await,
            }
        })
    }
}

/// Who the map says leads where a leader is [`Uneven`].
const UNEVEN: NodeId = NodeId(3);

impl Bench {
    /// A neighbour, and a third node that is said to lead the first group; the latter is there until it is dropped.
    async fn uneven(&self, answers_more: bool) -> (Arc<Router>, Arc<Host>) {
        let (neighbour, third) = (self.neighbour().await, host(&self.network, UNEVEN.0).await);
        third.set_services(Arc::new(Uneven { leader: self.router.clone(), answers_more }));
        let mut map = ClusterMap::clone(&self.router.routes.map().unwrap());
        let spec =
            NodeSpec { peer: "n3:1".into(), incarnation: third.incarnation(), ..map.nodes[0].spec.clone() };
        map.nodes.push(NodeView { node: UNEVEN, spec, state: NodeState::Up });
        map.groups[0].leader = Some(UNEVEN);
        self.map.send_replace(Some(Arc::new(map)));
        (neighbour, third)
    }
}

/// A batch that travels in two parts, the second of them a single item.
fn two_parts() -> Vec<Item<'static>> {
    vec![get(SHARD); forward::ITEMS_MAX + 1]
}

/// A leader that did not answer a part of a batch is doubted at once, while other parts wait, and also where the caller
/// does not wait for them.
#[tokio::test]
async fn a_leader_is_doubted_before_the_last_part_is_back() {
    let bench = Bench::start().await;
    let (neighbour, _third) = bench.uneven(false).await;
    let items = two_parts();
    let asked = neighbour.route(&items, terms(PATIENCE, Consistency::Linearizable));
    let doubted = async {
        while !neighbour.routes.is_doubted(SOURCE, UNEVEN) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = doubted => {}
        routed = asked => panic!("its first part was not answered: {:?}", routed.answers.first()),
    }
}

/// Where another part of the batch shows that it leads, it is doubted no more when the batch is back.
#[tokio::test]
async fn a_leader_that_answers_a_part_is_not_doubted_in_the_end() {
    let bench = Bench::start().await;
    let (neighbour, _third) = bench.uneven(true).await;
    let answers = neighbour.route(&two_parts(), terms(PATIENCE, Consistency::Linearizable)).await.answers;
    // The part that it did not answer was answered by another, whom it was sent to next.
    for answer in [answers.first(), answers.last()] {
        assert_eq!(told(answer.unwrap()), Err((Code::NotFound, Outcome::None)));
    }
    assert!(!neighbour.routes.is_doubted(SOURCE, UNEVEN));
}

/// What a node logs, as text.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Everything that is logged on this thread, until the guard is dropped.
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_span_events(FmtSpan::NEW)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// The id of a request stands in the traces of the node to which it was sent on.
#[tokio::test]
async fn request_ids_travel() {
    let bench = Bench::start().await;
    let neighbour = bench.neighbour().await;
    let (log, _ends) = Log::start();
    let id = 0x0123_4567_89ab_cdef_u128;
    let terms = Terms { request_id: id, ..terms(PATIENCE, Consistency::Linearizable) };
    assert_eq!(told(&neighbour.route(&[append(SHARD, 1)], terms).await.answers[0]), Ok(1));
    let text = log.text();
    assert!(text.contains("forwarded{id=00000000000000000123456789abcdef group=g1}"), "{text}");
}

/// Bytes that are no batch are refused before anything is proposed; where bytes that are no command stand in a log all
/// the same, the node stops with the reason, because another build may have carried them out.
#[tokio::test]
async fn only_what_was_read_is_proposed() {
    let bench = Bench::start().await;
    let before = bench.log_of(SOURCE);
    let group = SOURCE.0.to_le_bytes();
    let request = BatchRequest {
        deadline_ms: 1_000,
        consistency: Consistency::Linearizable,
        request_id: 7,
        items: vec![append(SHARD, 1)],
    };
    let good = proto::encode(&request);
    let later = [&[2][..], &good[1..]].concat();
    for bad in [&b""[..], b"\x01", &good[..good.len() - 1], &later] {
        let served = bench.router.serve(Bytes::from([&group, bad].concat()), PATIENCE).await;
        assert!(matches!(served, Err(Refusal::Unsupported(_))), "{served:?} to {bad:?}");
    }
    assert_eq!(bench.log_of(SOURCE), before);
    let lost = bench.replica(SOURCE).group.propose(Bytes::from_static(b"\x02\x00")).await;
    assert!(matches!(lost, Err(raftstore::ProposeError::Unknown { .. })), "{lost:?}");
    let why = tokio::time::timeout(PATIENCE, bench.router.host.failed()).await.unwrap().to_string();
    let expected = "cannot be read by this build: message has format version 2, this build reads 1";
    assert!(why.starts_with("g1 stopped") && why.contains(expected), "{why}");
}
