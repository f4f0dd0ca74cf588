//! Every kind of message, read from bytes that anybody may have made up. Also what fuzzing runs.

use bincode::Encode;
use proto::{
    Answer, BatchReply, BatchRequest, Birth, ClientId, ClusterMap, Code, Command, Consistency,
    ControllerAnswer, ControllerChange, ControllerCommand, ControllerReply, CopyToken, Epoch, Error, Expect,
    GroupId, Incarnation, Item, LifecycleAnswer, MembersReport, MoveCommand, MoveStep, NewGroups, NodeId,
    NodeSpec, Operation, PieceEnd, Record, Reply, Revision, Sequence, ShardId, Stamp, Version, Write, decode,
    encode,
};
use std::collections::BTreeMap;

/// Reads `bytes` as each kind of message. What passes for one is written again: that takes no more bytes
/// (bincode takes a number that is longer than it must be), and says the same.
pub fn read(bytes: &[u8]) {
    macro_rules! as_each {
        ($($message:ty),*) => { $(
            if let Ok(message) = decode::<$message>(bytes) {
                let again = encode(&message);
                assert!(again.len() <= bytes.len(), "{} bytes became {}", bytes.len(), again.len());
                assert_eq!(decode::<$message>(&again), Ok(message));
            }
        )* };
    }
    as_each!(BatchRequest<'_>, BatchReply<'_>, Command<'_>, Answer<'_>, LifecycleAnswer);
    as_each!(ControllerCommand, ControllerAnswer, ClusterMap);
}

/// Messages as they are sent, of every shape that has a length in it.
pub fn samples() -> Vec<Vec<u8>> {
    fn put(into: &mut Vec<Vec<u8>>, message: &impl Encode) {
        into.push(encode(message));
    }
    let stamp = Stamp { client: ClientId(7 << 64), sequence: Sequence(300), lowest_open: Sequence(1) };
    let spec = || NodeSpec {
        peer: "n1:7201".into(),
        http: "n1:7101".into(),
        zone: "z".into(),
        weight: 1,
        incarnation: Incarnation(1 << 100),
    };
    let record = Record { key: b"key", value: b"value", version: Version(1), revision: Revision(2) };
    let operations = [
        Operation::Get { key: b"key" },
        Operation::Put { key: b"key", value: b"value", expect: Expect::Version(Version(3)) },
        Operation::Scan { prefix: b"k", after: Some(b"ka"), start: b"", limit: 10, bytes_max: 1_000 },
    ];
    let items = operations.iter().map(|operation| Item { stamp: Some(stamp), operation: operation.clone() });
    let mut all = Vec::new();
    let consistency = Consistency::Stale { lag_ms_max: Some(9) };
    put(&mut all, &BatchRequest { deadline_ms: 1_000, consistency, request_id: 5, items: items.collect() });
    let shards = || [ShardId(1), ShardId(9)].into_iter().collect();
    let answers: Vec<Answer<'_>> = vec![
        Ok(Reply::Page { records: vec![record.clone(), record.clone()], more: true }),
        Ok(Reply::Share { shards: shards(), records: vec![record], more: false }),
        Err(Error::unknown(Code::NotLeader { group: GroupId(1), leader: Some(NodeId(2)) }, "elsewhere")),
    ];
    answers.iter().for_each(|answer| put(&mut all, answer));
    put(&mut all, &BatchReply { answers, lag_ms: 4 });
    let write = Write { shard: ShardId(1), stamp: Some(stamp), operation: operations[1].clone() };
    let copy = CopyToken(1);
    let piece = MoveStep::ImportPiece { copy, number: 2, end: PieceEnd::More, bytes: b"piece" };
    let moved = MoveCommand { shard: ShardId(7), epoch: Epoch(5), step: piece };
    let commands =
        [Command::Write(write), Command::Own { shards: shards(), epoch: Epoch(1) }, Command::Move(moved)];
    commands.iter().for_each(|command| put(&mut all, command));
    let nodes: BTreeMap<_, _> = (1..=3).map(|node| (NodeId(node), spec())).collect();
    let on = |node: u64| BTreeMap::from([(NodeId(node), Incarnation(node.into()))]);
    let report = MembersReport {
        group: GroupId(1),
        term: 2,
        index: 3,
        voters: on(1),
        learners: on(2),
        leader: Some(NodeId(1)),
    };
    let groups = NewGroups::Ids([GroupId(4), GroupId(5)].into());
    let changes = [
        ControllerChange::Birth(Birth { shards: 16, groups: 2, replicas: 3, nodes }),
        ControllerChange::NodeJoin { node: NodeId(4), spec: spec() },
        ControllerChange::GroupAdd { groups, weight: 1 },
        ControllerChange::MoveAborted { shard: ShardId(1), id: Epoch(2), why: "the source is gone".into() },
        ControllerChange::MembersReport(report),
    ];
    for change in changes {
        put(&mut all, &ControllerCommand { expect: Some(Epoch(1)), change });
    }
    let added: ControllerAnswer =
        Ok(ControllerReply::GroupsAdded { epoch: Epoch(3), groups: vec![GroupId(4), GroupId(5)] });
    put(&mut all, &added);
    all
}
