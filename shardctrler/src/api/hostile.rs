//! Hostile bytes: what nodes ask each other about the controller, and what they answer, as anybody may have
//! made it up.

#[path = "../../../proto/tests/hostile/damage.rs"]
mod damage;
#[path = "../../../proto/tests/hostile/memory.rs"]
mod memory;
#[path = "../../../proto/tests/hostile/read_back.rs"]
mod read_back;

use super::{Plan, Question, Sign, Word};
use crate::Controller;
use damage::damaged;
use memory::Bound;
use proptest::prelude::*;
use proto::{
    Birth, ControllerChange, ControllerCommand, ControllerError, Epoch, GroupId, Incarnation, NodeId,
    NodeSpec, PlannedMove, ShardId,
};
use read_back::read_back;
use std::collections::{BTreeMap, BTreeSet};

/// What reading takes. Maps are the dearest: the first pair makes room for eleven.
const BOUND: Bound = Bound { own: 4 << 10, each: 256 };

fn samples() -> Vec<Vec<u8>> {
    let (node, incarnation) = (NodeId(2), Incarnation(3 << 100));
    let spec = |node: u64| {
        let (peer, http, zone) = (format!("n{node}:1"), format!("n{node}:2"), "z".to_owned());
        (NodeId(node), NodeSpec { peer, http, zone, weight: 1, incarnation })
    };
    let nodes: BTreeMap<_, _> = (1..=3).map(spec).collect();
    let birth = ControllerCommand {
        expect: None,
        change: ControllerChange::Birth(Birth { shards: 16, groups: 2, replicas: 3, nodes }),
    };
    let mut controller = Controller::new();
    controller.execute(&birth).expect("a cluster is born");
    let map = controller.cluster_map().expect("it is born");
    let groups = BTreeSet::from([GroupId(1), GroupId(400)]);
    let rebalance = ControllerCommand { expect: Some(Epoch(1)), change: ControllerChange::ShardRebalance };
    let questions = [
        Question::Execute(birth),
        Question::Follow { above: Epoch(5), wait_ms: 100 },
        Question::History(Some(Epoch(1))),
        Question::Alive(Sign { node, incarnation, groups }),
        Question::Member { group: GroupId(1), node },
        Question::Plan(rebalance),
        Question::Silence { node, incarnation, relay: true },
    ];
    let moves = vec![PlannedMove { shard: ShardId(7), from: GroupId(1), to: GroupId(2) }; 3];
    let words = [
        Word::Executed(Err(ControllerError::Stale { why: "why".into() })),
        Word::Unknown("why".into()),
        Word::NotLeader(Some(node)),
        Word::Busy("why".into()),
        Word::History(Ok(map.shard_map.clone())),
        Word::Map(Box::new(map)),
        Word::Planned(Ok(Plan { epoch: Epoch(4), moves })),
        Word::Silent(Some(7)),
    ];
    questions.iter().map(proto::encode).chain(words.iter().map(proto::encode)).collect()
}

/// Reads `bytes` as either.
fn read(bytes: &[u8]) {
    read_back::<Question>(bytes, BOUND);
    read_back::<Word>(bytes, BOUND);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 999, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes are a message or none, and so are messages that were damaged; neither takes more memory than
    /// its bytes pay for.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100), damaged in damaged(samples())) {
        read(&[&[proto::VERSION][..], &bytes].concat());
        read(&damaged);
    }
}
