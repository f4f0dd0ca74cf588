//! The bytes of the controller's messages: they are on disks and on the wire.

use proto::{
    Birth, ClusterMap, ClusterSettings, ControllerAnswer, ControllerChange, ControllerCommand,
    ControllerError, ControllerReply, Epoch, GroupId, GroupState, GroupView, Incarnation, MembersReport,
    MoveState, MoveView, NewGroups, NodeId, NodeSpec, NodeState, NodeView, PlannedMove, SetbackView, ShardId,
    ShardMap, ShardRun, decode, encode,
};
use std::collections::BTreeMap;

fn spec() -> NodeSpec {
    NodeSpec {
        peer: "p".into(),
        http: "h".into(),
        zone: "z".into(),
        weight: 2,
        incarnation: Incarnation(0x0102),
    }
}

/// `spec()` in bytes.
const SPEC: &[u8] = b"\x01p\x01h\x01z\x02\xfb\x02\x01";

const NODE: NodeId = NodeId(7);
const GROUP: GroupId = GroupId(8);
const SHARD: ShardId = ShardId(9);

fn on(node: u64, disk: u128) -> BTreeMap<NodeId, Incarnation> {
    [(NodeId(node), Incarnation(disk))].into()
}

/// Every kind of change keeps its bytes: its number first, then its fields.
#[test]
fn golden_changes() {
    use ControllerChange as Change;
    let incarnation = Incarnation(3);
    let (from, to, id, judged) = (GroupId(1), GroupId(2), Epoch(4), Epoch(5));
    let report = MembersReport {
        group: GROUP,
        term: 1,
        index: 2,
        voters: on(7, 3),
        learners: on(6, 4),
        leader: Some(NODE),
    };
    let nodes = [(NODE, spec())].into();
    let golden: [(Change, Vec<u8>); 23] = [
        (
            Change::Birth(Birth { shards: 4, groups: 3, replicas: 2, nodes }),
            [b"\x00\x04\x03\x02\x01\x07", SPEC].concat(),
        ),
        (Change::NodeJoin { node: NODE, spec: spec() }, [b"\x01\x07", SPEC].concat()),
        (Change::NodeDrain { node: NODE }, b"\x02\x07".into()),
        (Change::NodeUndrain { node: NODE }, b"\x03\x07".into()),
        (Change::NodeRemove { node: NODE }, b"\x04\x07".into()),
        (Change::NodeDead { node: NODE, incarnation, judged }, b"\x05\x07\x03\x05".into()),
        (Change::NodeAlive { node: NODE, incarnation, judged }, b"\x06\x07\x03\x05".into()),
        (Change::GroupAdd { groups: NewGroups::Count(2), weight: 1 }, b"\x07\x00\x02\x01".into()),
        (
            Change::GroupAdd { groups: NewGroups::Ids([GROUP].into()), weight: 1 },
            b"\x07\x01\x01\x08\x01".into(),
        ),
        (Change::GroupRemove { group: GROUP }, b"\x08\x08".into()),
        (Change::GroupGone { group: GROUP }, b"\x09\x08".into()),
        (Change::GroupWeight { group: GROUP, weight: 300 }, b"\x0a\x08\xfb\x2c\x01".into()),
        (Change::ShardMove { shard: SHARD, to }, b"\x0b\x09\x02".into()),
        (Change::ShardRebalance, b"\x0c".into()),
        (Change::MoveCancel { shard: SHARD }, b"\x0d\x09".into()),
        (Change::MoveDone { shard: SHARD, from, to, id }, b"\x0e\x09\x01\x02\x04".into()),
        (Change::MoveAborted { shard: SHARD, id, why: "w".into() }, b"\x0f\x09\x04\x01w".into()),
        (Change::MovesPause, b"\x10".into()),
        (Change::MovesResume, b"\x11".into()),
        (Change::MovesThrottle { copy_bytes_per_second: None, moves_max: 4 }, b"\x12\x00\x04".into()),
        (Change::MovesThrottle { copy_bytes_per_second: Some(5), moves_max: 4 }, b"\x12\x01\x05\x04".into()),
        (Change::DeadAfter { ms: 6 }, b"\x13\x06".into()),
        (Change::MembersReport(report), b"\x14\x08\x01\x02\x01\x07\x03\x01\x06\x04\x01\x07".into()),
    ];
    for (change, bytes) in golden {
        let command = ControllerCommand { expect: None, change };
        let want = [b"\x01\x00", &bytes[..]].concat();
        assert_eq!(encode(&command), want, "{command:?}");
        assert_eq!(decode::<ControllerCommand>(&want), Ok(command));
    }
    let fenced = ControllerCommand { expect: Some(Epoch(9)), change: ControllerChange::ShardRebalance };
    assert_eq!(encode(&fenced), b"\x01\x01\x09\x0c");
}

/// Every answer keeps its bytes.
#[test]
fn golden_answers() {
    use ControllerError as Error;
    let why = || "w".to_owned();
    let golden: [(ControllerAnswer, &[u8]); 22] = [
        (Ok(ControllerReply::Done { epoch: Epoch(3) }), b"\x00\x00\x03"),
        (Ok(ControllerReply::GroupsAdded { epoch: Epoch(3), groups: vec![GROUP] }), b"\x00\x01\x03\x01\x08"),
        (Err(Error::EpochMismatch { current: Epoch(3) }), b"\x01\x00\x03"),
        (Err(Error::Stale { why: why() }), b"\x01\x01\x01w"),
        (Err(Error::Unborn), b"\x01\x02"),
        (Err(Error::Born), b"\x01\x03"),
        (Err(Error::Invalid { why: why() }), b"\x01\x04\x01w"),
        (Err(Error::UnknownNode { node: NODE }), b"\x01\x05\x07"),
        (Err(Error::UnknownGroup { group: GROUP }), b"\x01\x06\x08"),
        (Err(Error::UnknownShard { shard: SHARD }), b"\x01\x07\x09"),
        (Err(Error::GroupIdUsed { group: GROUP }), b"\x01\x08\x08"),
        (Err(Error::GroupLeaving { group: GROUP }), b"\x01\x09\x08"),
        (Err(Error::LastGroup { group: GROUP }), b"\x01\x0a\x08"),
        (Err(Error::GroupInUse { group: GROUP }), b"\x01\x0b\x08"),
        (Err(Error::NoPlace { needed: 3, live: 2 }), b"\x01\x0c\x03\x02"),
        (Err(Error::NoQuorum { group: GROUP }), b"\x01\x0d\x08"),
        (Err(Error::NodeInUse { node: NODE, replicas: 2 }), b"\x01\x0e\x07\x02"),
        (Err(Error::ShardMoving { shard: SHARD }), b"\x01\x0f\x09"),
        (Err(Error::ShardThere { shard: SHARD }), b"\x01\x10\x09"),
        (Err(Error::ShardNotMoving { shard: SHARD }), b"\x01\x11\x09"),
        (Err(Error::EpochAhead { current: Epoch(3) }), b"\x01\x12\x03"),
        (Err(Error::EpochForgotten { oldest: Epoch(3) }), b"\x01\x13\x03"),
    ];
    for (answer, bytes) in golden {
        let want = [b"\x01", bytes].concat();
        assert_eq!(encode(&answer), want, "{answer:?}");
        assert_eq!(decode::<ControllerAnswer>(&want), Ok(answer));
    }
}

/// The map keeps its bytes.
#[test]
fn golden_map() {
    let run = ShardRun { first: ShardId(0), count: 4, owner: GroupId(1), target: GroupId(2) };
    let settings = ClusterSettings {
        moves_paused: true,
        copy_bytes_per_second: Some(2),
        moves_max: 4,
        replicas: 3,
        dead_after_ms: 5,
    };
    let group = GroupView {
        group: GROUP,
        state: GroupState::Leaving,
        weight: 1,
        first: on(1, 2),
        replicas: on(3, 4),
        voters: on(5, 6),
        learners: on(7, 8),
        leader: Some(NODE),
        preferred: None,
    };
    let moved = MoveView {
        shard: SHARD,
        from: GroupId(1),
        to: GroupId(2),
        id: Epoch(3),
        state: MoveState::Cancelling,
    };
    let map = ClusterMap {
        shard_map: ShardMap { epoch: Epoch(6), shards: 4, runs: vec![run] },
        settings,
        nodes: vec![NodeView { node: NODE, spec: spec(), state: NodeState::Dead }],
        groups: vec![group],
        moves: vec![moved],
        setbacks: vec![SetbackView { shard: SHARD, count: 2, why: "w".into() }],
        groups_at_birth: 3,
    };
    let want: &[&[u8]] = &[
        b"\x01",
        b"\x06\x04\x01\x00\x04\x01\x02", // shard map: epoch, shards, runs
        b"\x01\x01\x02\x04\x03\x05",     // settings
        b"\x01\x07",
        SPEC,
        b"\x02",                                                             // nodes: state last
        b"\x01\x08\x01\x01\x01\x01\x02\x01\x03\x04\x01\x05\x06\x01\x07\x08", // groups
        b"\x01\x07\x00",             // their leader and preferred leader
        b"\x01\x09\x01\x02\x03\x01", // moves
        b"\x01\x09\x02\x01w",        // setbacks
        b"\x03",                     // groups at birth
    ];
    assert_eq!(encode(&map), want.concat());
    assert_eq!(decode::<ClusterMap>(&want.concat()), Ok(map));
    let planned = PlannedMove { shard: SHARD, from: GroupId(1), to: GroupId(2) };
    assert_eq!(encode(&vec![planned]), b"\x01\x01\x09\x01\x02");
}
