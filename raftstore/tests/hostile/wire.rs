//! The node-to-node wire as somebody uses it who says whatever comes to mind: a node of one group listens, a
//! peer greets it, or does not, and sends frames that are well sealed and make no sense. Also what fuzzing
//! runs.

use crate::log::Log;
use crate::panics;
use futures_util::FutureExt;
use proto::{GroupId, NodeId};
use raftstore::{
    Address, Host, HostConfig, Network, RaftConfig, SimulatedClock, SimulatedDisk, SimulatedNetwork,
    StorageConfig, TransportConfig,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const CLUSTER: &str = "c";
const GROUP: GroupId = GroupId(1);

/// The node, and the peer that talks to it.
const NODE: NodeId = NodeId(2);
const PEER: NodeId = NodeId(1);
const AT: &str = "10.0.0.2:1";

/// What is spoken after the greeting, as this file knows it.
const PROTOCOL: u16 = 2;

/// Longer than anything takes that is answered at all.
const SILENCE: Duration = Duration::from_secs(2);
const ELECTION: Duration = Duration::from_secs(10);

/// The first byte of what a peer says: the lanes by their numbers, and others for bytes without a greeting.
pub const LANES: std::ops::RangeInclusive<u8> = 1..=4;

/// Added to a lane's number: what follows are no frames, but bytes that are said after the greeting as they
/// are.
pub const RAW: u8 = 0x80;

/// A frame: length, CRC of what follows it, version, kind, group, id, payload.
pub fn frame(kind: u8, group: u64, id: u64, payload: &[u8]) -> Vec<u8> {
    let sealed = [&[1, kind][..], &group.to_le_bytes(), &id.to_le_bytes(), payload].concat();
    let length = u32::try_from(4 + sealed.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], &crc32fast::hash(&sealed).to_le_bytes(), &sealed].concat()
}

fn hello(lane: u8) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let head = [b"flotilla", &PROTOCOL.to_le_bytes()[..], &[lane]].concat();
    let nodes = [PEER.0.to_le_bytes(), NODE.0.to_le_bytes()].concat();
    frame(1, 0, 0, &[head, nodes, text(CLUSTER), text("10.0.0.1:1")].concat())
}

/// What frames for the group's replica on a disk of this incarnation are addressed to.
fn mailbox(incarnation: u128) -> u64 {
    let words = [(incarnation >> 64) as u64, incarnation as u64, GROUP.0, 0];
    words.into_iter().fold(0, |hash, word| {
        let word = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    })
}

/// What `input` has the peer say. Its first byte is the lane; what follows is frames: a kind, a byte for whom
/// and in which stream, the payload's length in two bytes, and as much of it as there is. Or it is what it
/// is.
fn said(input: &[u8], mailbox: u64) -> Vec<u8> {
    let Some((first, mut rest)) = input.split_first() else { return Vec::new() };
    let lane = first & !RAW;
    if !LANES.contains(&lane) {
        return rest.to_vec();
    }
    let mut said = hello(lane);
    if *first != lane {
        said.extend(rest);
        return said;
    }
    while let Some(([kind, whom, low, high], more)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (payload, more) = more.split_at(length);
        let group = [mailbox, 0, GROUP.0, u64::MAX][usize::from(whom & 3)];
        said.extend(frame(*kind, group, u64::from(whom >> 2), payload));
        rest = more;
    }
    said
}

/// Has a peer say what `input` makes of it, and returns what the node answered. Nothing may panic, and the
/// node must listen to the next.
pub fn talk(input: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    panics::none_in(|| runtime.expect("a runtime can be had").block_on(converse(input)))
}

async fn converse(input: &[u8]) -> Vec<u8> {
    raftstore::seed(1);
    let network = SimulatedNetwork::new();
    let config = HostConfig {
        cluster: CLUSTER.into(),
        node: NODE,
        listen: AT.into(),
        raft: RaftConfig::default(),
        storage: StorageConfig::default(),
        transport: TransportConfig::default(),
    };
    let (disk, clock) = (Arc::new(SimulatedDisk::new()), Arc::new(SimulatedClock::starting_at(1)));
    let host = Host::start(config, disk, network.host("10.0.0.2"), clock).await.expect("a new node starts");
    let members = BTreeMap::from([(NODE, Address { peer: AT.into(), http: String::new() })]);
    host.form(&members).await.expect("it is alone");
    let group = host.open_group(GROUP, Log::default).await.expect("a group opens");
    group.bootstrap(&members).await.expect("it is alone");
    group.wait_for_leader(ELECTION).await.expect("it is alone");
    group.propose("held".into()).await.expect("it is alone");

    let peer = network.host("10.0.0.1");
    let heard = exchange(&*peer, &said(input, mailbox(host.incarnation().0))).await;
    let failed = host.failed().now_or_never();
    assert!(failed.is_none(), "a peer's bytes end its connection, never the node: {failed:?}");
    let next = exchange(&*peer, &hello(4)).await;
    assert!(next.get(9) == Some(&2), "the next peer is welcome: {next:?}");
    host.shutdown().await.expect("nothing has failed");
    heard
}

/// Says something on a connection of its own; what is answered until nothing more comes.
async fn exchange(peer: &dyn Network, say: &[u8]) -> Vec<u8> {
    let mut stream = peer.connect(AT).await.expect("the node listens");
    let mut heard = Vec::new();
    // Where the node has enough, it closes: whoever still writes hears of that below.
    if let Ok(Ok(())) = timeout(SILENCE, stream.write_all(say)).await {
        drop(stream.flush().await);
    }
    while let Ok(Ok(1..)) = timeout(SILENCE, stream.read_buf(&mut heard)).await {}
    heard
}

/// What peers say, one of each kind: appends, heartbeats, votes, pieces of a snapshot, calls.
pub fn samples() -> Vec<Vec<u8>> {
    let number = |number: u64| number.to_le_bytes().to_vec();
    let log_id = |term: u64, index: u64| [number(term), number(index)].concat();
    let some = |bytes: Vec<u8>| [vec![1], bytes].concat();
    // Of the term that the node leads: it answers, and goes on to lead.
    let vote = [number(1), number(PEER.0), vec![1]].concat();
    // Of one that it has yet to see: it follows.
    let later = [number(1_000), number(PEER.0), vec![1]].concat();
    let entry = |index: u64, kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_le_bytes();
        [log_id(1, index), vec![kind], length.to_vec(), payload.to_vec()].concat()
    };
    let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let member = [number(NODE.0), text(AT), text(""), 7_u128.to_le_bytes().to_vec(), number(0)].concat();
    let membership = [vec![1, 0, 1, 0], number(NODE.0), vec![1, 0], member].concat();
    let entries = [entry(1, 0, b""), entry(2, 1, b"data"), entry(3, 2, &membership)].concat();
    let head = [vote.clone(), some(log_id(1, 0)), vec![0]].concat();
    let append = [number(0), head.clone(), 3_u32.to_le_bytes().to_vec(), entries].concat();
    let meta = [some(log_id(1, 3)), some(log_id(1, 3)), membership].concat();
    let call =
        |service: u8, body: &[u8]| [vec![service], 1_000_u32.to_le_bytes().to_vec(), body.to_vec()].concat();
    let part = |kind: u8, whom: u8, payload: Vec<u8>| {
        let length = u16::try_from(payload.len()).unwrap_or(0).to_le_bytes();
        [vec![kind, whom], length.to_vec(), payload].concat()
    };
    let vote_request = [vote.clone(), some(log_id(1, 0)), vec![0]].concat();
    let transfer = [vote.clone(), number(NODE.0), vec![0]].concat();
    vec![
        [vec![1], part(16, 4, append)].concat(),
        [vec![1], part(33, 0, vote_request.clone()), part(34, 0, vote_request), part(35, 0, transfer)]
            .concat(),
        [vec![2], part(32, 0, head), part(4, 0, vec![])].concat(),
        [
            vec![3],
            part(48, 4, [later, meta].concat()),
            part(49, 4, b"piece".to_vec()),
            part(50, 4, number(1)),
        ]
        .concat(),
        [
            vec![4],
            part(64, 1, call(1, b"")),
            part(64, 5, call(2, &number(1))),
            part(64, 9, call(3, &number(1))),
        ]
        .concat(),
        [vec![0], hello(4)].concat(),
    ]
}
