//! Nodes come, go, drain, die, return, and lose their disks.

use super::*;

fn join(id: u64, spec: NodeSpec) -> ControllerChange {
    ControllerChange::NodeJoin { node: node(id), spec }
}

fn drain(id: u64) -> ControllerChange {
    ControllerChange::NodeDrain { node: node(id) }
}

fn remove(id: u64) -> ControllerChange {
    ControllerChange::NodeRemove { node: node(id) }
}

fn states(rig: &Rig) -> Vec<NodeState> {
    rig.controller.cluster_map().unwrap().nodes.iter().map(|node| node.state).collect()
}

/// Takes all steps that a driver would, as if every one succeeded at once; voters and learners at the end.
fn settle_members(rig: &mut Rig, group: u64) -> (Vec<u64>, Vec<u64>) {
    while let Some(step) = rig.controller.next_step(GroupId(group)) {
        let report = rig.after(GroupId(group), step);
        rig.tell(ControllerChange::MembersReport(report)).unwrap();
    }
    let (voters, learners) = rig.controller.state.groups[&GroupId(group)].members();
    let ids = |members: BTreeMap<NodeId, Incarnation>| members.into_keys().map(|node| node.0).collect();
    (ids(voters), ids(learners))
}

/// A node that joins takes its share of replicas, one from a group at most; under its old incarnation it only
/// changes what it says of itself.
#[test]
fn a_node_joins() {
    let mut rig = Rig::born(3, 4);
    let before = rig.controller.state.groups.clone();
    rig.tell(join(4, spec(4, "", 1))).unwrap();
    let after = &rig.controller.state.groups;
    let lost = |id| before[id].replicas.keys().filter(|node| !after[id].replicas.contains_key(node)).count();
    assert!(before.keys().all(|id| lost(id) <= 1));
    let held = |id| after.values().filter(|group| group.replicas.contains_key(&node(id))).count();
    assert_eq!([1, 2, 3, 4].map(held), [3, 3, 3, 3]);
    let epoch = rig.controller.epoch();
    rig.tell(join(4, spec(4, "", 1))).unwrap();
    assert_eq!(rig.controller.epoch(), epoch, "the same again is no change");
    rig.tell(join(4, NodeSpec { http: "elsewhere:1".into(), ..spec(4, "", 1) })).unwrap();
    assert_eq!(rig.controller.cluster_map().unwrap().nodes[3].spec.http, "elsewhere:1");
    assert_eq!(rig.controller.epoch(), Epoch(epoch.0 + 1));
    assert!(matches!(rig.tell(join(5, spec(4, "", 1))), Err(ControllerError::Invalid { .. })));
}

/// A newcomer whose HTTP address is a living node's is found out before its command is proposed; the command
/// itself does what it always did, for logs hold such. A node that is known may be at another's address, a dead
/// one's is free.
#[test]
fn an_http_address_is_one_nodes() {
    let mut rig = Rig::born(3, 1);
    let at = |id: u64, of: u64| NodeSpec { http: spec(of, "", 1).http, ..spec(id, "", 1) };
    let check = |rig: &Rig, id: u64, spec: &NodeSpec| rig.controller.check_http(node(id), spec);
    let taken = Err(ControllerError::Invalid { why: "http address n2:7101 is that of n2".into() });
    assert_eq!(check(&rig, 4, &at(4, 2)), taken);
    assert_eq!(check(&rig, 4, &spec(4, "", 1)), Ok(()));
    assert_eq!(check(&rig, 3, &at(3, 2)), Ok(()), "it is known by its disk");
    assert_eq!(check(&rig, 3, &NodeSpec { http: at(3, 2).http, ..wiped(3, 1) }), taken, "by its disk alone");
    rig.judge(2, true).unwrap();
    assert_eq!(check(&rig, 4, &at(4, 2)), Ok(()));
    rig.judge(2, false).unwrap();
    rig.tell(join(4, at(4, 2))).unwrap();
}

/// Nodes that came back at each other's addresses get them once each has given up its own; nobody else may be without
/// one, nor takes one that is in use.
#[test]
fn nodes_change_places() {
    let mut rig = Rig::born(3, 1);
    let at = |id: u64, of: u64| NodeSpec { peer: spec(of, "", 1).peer, ..spec(id, "", 1) };
    let nowhere = |id: u64| NodeSpec { peer: String::new(), ..spec(id, "", 1) };
    for (id, of) in [(1, 2), (2, 3)] {
        assert!(matches!(rig.tell(join(id, at(id, of))), Err(ControllerError::Invalid { .. })));
        rig.tell(join(id, nowhere(id))).unwrap();
    }
    for (id, of) in [(3, 1), (1, 2), (2, 3)] {
        rig.tell(join(id, at(id, of))).unwrap();
    }
    let map = rig.controller.cluster_map().unwrap();
    let peers: Vec<String> = map.nodes.into_iter().map(|view| view.spec.peer).collect();
    assert_eq!(peers, [2, 3, 1].map(|of| spec(of, "", 1).peer));
    assert!(matches!(rig.tell(join(4, nowhere(4))), Err(ControllerError::Invalid { .. })));
    rig.judge(3, true).unwrap();
    let wiped = NodeSpec { incarnation: Incarnation(33), ..nowhere(3) };
    assert!(matches!(rig.tell(join(3, wiped)), Err(ControllerError::Invalid { .. })));
}

/// A dead node's replicas are placed elsewhere as far as there are places, and kept where there are none; a
/// judgement about another disk, or by a map from before the node's last change, is refused.
#[test]
fn a_node_dies_and_returns() {
    let mut rig = Rig::born(4, 1);
    assert_eq!(rig.replicas(1), BTreeSet::from([1, 2, 3]));
    let judged = rig.controller.epoch();
    rig.judge(2, true).unwrap();
    assert_eq!(states(&rig)[1], NodeState::Dead);
    assert_eq!(rig.replicas(1), BTreeSet::from([1, 3, 4]));
    rig.judge(3, true).unwrap();
    assert_eq!(rig.replicas(1), BTreeSet::from([1, 3, 4]), "there is no other place");
    let epoch = rig.controller.epoch();
    rig.judge(3, true).unwrap();
    assert_eq!(rig.controller.epoch(), epoch, "it is dead already");

    let incarnation = Incarnation(2);
    let late = ControllerChange::NodeAlive { node: node(2), incarnation, judged };
    assert!(matches!(rig.tell(late), Err(ControllerError::Stale { .. })));
    let other_disk =
        ControllerChange::NodeAlive { node: node(2), incarnation: Incarnation(7), judged: epoch };
    assert!(matches!(rig.tell(other_disk), Err(ControllerError::Stale { .. })));
    let ahead = ControllerChange::NodeAlive { node: node(2), incarnation, judged: Epoch(epoch.0 + 1) };
    assert_eq!(rig.tell(ahead), Err(ControllerError::EpochAhead { current: epoch }));
    let unknown = ControllerChange::NodeAlive { node: node(9), incarnation, judged: epoch };
    assert_eq!(rig.tell(unknown), Err(ControllerError::UnknownNode { node: node(9) }));

    rig.judge(2, false).unwrap();
    assert_eq!(
        rig.replicas(1),
        BTreeSet::from([1, 2, 4]),
        "it takes the place of the one that is still dead"
    );
    rig.tell(join(3, spec(3, "", 1))).unwrap();
    assert_eq!(states(&rig), [NodeState::Up; 4]);
}

/// A group begins with as many voters as it is to have, on dead nodes where there are too few others, never on one
/// that is to give its replicas away; and gives those up for the first live one.
#[test]
fn groups_begin_whole() {
    let mut rig = Rig::born(3, 1);
    rig.judge(3, true).unwrap();
    rig.add_groups(1);
    assert_eq!(rig.replicas(2), BTreeSet::from([1, 2, 3]));
    rig.tell(join(4, spec(4, "", 1))).unwrap();
    assert_eq!(rig.replicas(2), BTreeSet::from([1, 2, 4]));
    rig.add_groups(1);
    assert_eq!(rig.replicas(3), BTreeSet::from([1, 2, 4]));
    rig.tell(ControllerChange::NodeDrain { node: node(3) }).unwrap();
    rig.judge(4, true).unwrap();
    rig.add_groups(1);
    assert_eq!(rig.replicas(4), BTreeSet::from([1, 2, 4]), "n3 drains");
}

/// A node that drains gives its replicas away, keeps to it through death and return, and can be removed once
/// no group counts it among its members.
#[test]
fn a_node_drains_and_is_removed() {
    let mut rig = Rig::born(4, 3);
    rig.tell(drain(1)).unwrap();
    let epoch = rig.controller.epoch();
    rig.tell(drain(1)).unwrap();
    assert_eq!(rig.controller.epoch(), epoch, "it drains already");
    assert!((1..=3).all(|group| !rig.replicas(group).contains(&1)));
    rig.judge(1, true).unwrap();
    rig.judge(1, false).unwrap();
    assert_eq!(states(&rig)[0], NodeState::Draining);
    assert!(matches!(rig.tell(remove(1)), Err(ControllerError::NodeInUse { .. })));
    for group in 1..=3 {
        assert_eq!(settle_members(&mut rig, group), (vec![2, 3, 4], vec![]));
    }
    rig.tell(remove(1)).unwrap();
    assert_eq!(rig.tell(remove(1)), Err(ControllerError::UnknownNode { node: node(1) }));
    assert_eq!(rig.tell(remove(2)), Err(ControllerError::NodeInUse { node: node(2), replicas: 3 }));
}

/// A drain is refused where the replicas would have no place to go, and where a group could not change its
/// members; taken back, the node takes replicas again.
#[test]
fn refused_drains() {
    let mut rig = Rig::born(3, 1);
    assert_eq!(rig.tell(drain(1)), Err(ControllerError::NoPlace { needed: 3, live: 2 }));
    assert_eq!(rig.tell(drain(9)), Err(ControllerError::UnknownNode { node: node(9) }));
    for id in 4..=6 {
        rig.tell(join(id, spec(id, "", 1))).unwrap();
    }
    rig.judge(1, true).unwrap();
    rig.judge(2, true).unwrap();
    assert_eq!(rig.tell(drain(3)), Err(ControllerError::NoQuorum { group: GroupId(1) }));
    rig.judge(1, false).unwrap();
    rig.tell(drain(3)).unwrap();
    assert!(!rig.replicas(1).contains(&3));
    for id in [4, 5] {
        rig.judge(id, true).unwrap();
    }
    assert_eq!(rig.replicas(1).len(), 3);
    rig.tell(ControllerChange::NodeUndrain { node: node(3) }).unwrap();
    assert!(rig.replicas(1).contains(&3));
}

/// A number that is in use is not given to another disk, which may be another process, and the refusal
/// changes nothing; once the node was found dead it is its own disk that was lost.
#[test]
fn a_number_in_use_is_not_taken_over() {
    let mut rig = Rig::born(4, 1);
    let epoch = rig.controller.epoch();
    let refused = rig.tell(join(4, wiped(4, 1))).unwrap_err();
    assert!(
        matches!(&refused, ControllerError::Invalid { why } if why.contains("n4 is in use")),
        "{refused}"
    );
    assert_eq!(rig.controller.epoch(), epoch);
    rig.judge(4, true).unwrap();
    rig.tell(join(4, wiped(4, 1))).unwrap();
    let late = rig.tell(join(4, spec(4, "", 1)));
    assert!(matches!(late, Err(ControllerError::Invalid { .. } | ControllerError::Stale { .. })), "{late:?}");
}

/// A node that lost its disk is no member until it was removed and added again, as a learner first; a late
/// message from the lost disk is refused.
#[test]
fn a_wiped_node_begins_again() {
    let mut rig = Rig::born(3, 1);
    rig.report(1, 5, &[1, 2, 3], &[]).unwrap();
    rig.judge(3, true).unwrap();
    rig.tell(join(3, wiped(3, 1))).unwrap();
    let incarnation = wiped(3, 1).incarnation;
    assert_eq!(rig.controller.state.groups[&GroupId(1)].replicas[&node(3)], incarnation);
    assert_eq!(rig.controller.state.groups[&GroupId(1)].first[&node(3)], Incarnation(3), "it never began so");
    assert!(matches!(rig.tell(join(3, spec(3, "", 1))), Err(ControllerError::Stale { .. })));
    let step = |rig: &Rig| rig.controller.next_step(GroupId(1));
    assert_eq!(step(&rig), Some(MembershipStep::RemoveVoter { node: node(3) }));
    rig.tell(ControllerChange::MembersReport(report(1, 1, 6, &[1, 2, 3], &[]))).unwrap();
    assert_eq!(step(&rig), Some(MembershipStep::RemoveVoter { node: node(3) }), "that is the lost disk");
    rig.report(1, 7, &[1, 2], &[]).unwrap();
    assert_eq!(step(&rig), Some(MembershipStep::AddLearner { node: node(3), incarnation }));
    rig.report(1, 8, &[1, 2], &[3]).unwrap();
    assert_eq!(step(&rig), Some(MembershipStep::Promote { node: node(3), replacing: None }));
    rig.report(1, 9, &[1, 2, 3], &[]).unwrap();
    assert_eq!(step(&rig), None);
}

/// A node that lost its disk while it was being added is removed and added again, although it had never been
/// seen as a member.
#[test]
fn a_node_wiped_on_its_way_in_begins_again() {
    let mut rig = Rig::born(4, 1);
    rig.judge(3, true).unwrap();
    assert_eq!(rig.replicas(1), BTreeSet::from([1, 2, 4]));
    rig.judge(4, true).unwrap();
    rig.tell(join(4, wiped(4, 1))).unwrap();
    rig.tell(ControllerChange::MembersReport(report(1, 1, 6, &[1, 2, 3], &[4]))).unwrap();
    let step = |rig: &Rig| rig.controller.next_step(GroupId(1));
    assert_eq!(step(&rig), Some(MembershipStep::RemoveLearner { node: node(4) }));
    assert_eq!(settle_members(&mut rig, 1), (vec![1, 2, 4], vec![]));
}

/// A group without another place keeps a node that lost its disk, under its new incarnation, though it
/// drains.
#[test]
fn a_wiped_node_may_be_the_only_place() {
    let mut rig = Rig::born(4, 1);
    rig.tell(drain(1)).unwrap();
    rig.judge(4, true).unwrap();
    rig.tell(ControllerChange::NodeUndrain { node: node(1) }).unwrap();
    rig.tell(join(5, spec(5, "", 1))).unwrap();
    rig.tell(drain(1)).unwrap();
    for id in [2, 5, 1, 3] {
        rig.judge(id, true).unwrap();
    }
    rig.tell(join(1, wiped(1, 1))).unwrap();
    rig.tell(join(3, wiped(3, 1))).unwrap();
    assert_eq!(rig.replicas(1).len(), 3);
}

/// The same node may lose any number of disks; the last few are remembered.
#[test]
fn lost_disks_are_remembered() {
    let mut rig = Rig::born(3, 1);
    let last = 2 * crate::bounds::FORMER_MAX as u128;
    for disk in 1..=last {
        rig.judge(3, true).unwrap();
        rig.tell(join(3, wiped(3, disk))).unwrap();
    }
    for disk in last - crate::bounds::FORMER_MAX as u128..last {
        assert!(matches!(rig.tell(join(3, wiped(3, disk))), Err(ControllerError::Stale { .. })));
    }
}

/// A node's address may be taken over when it is dead, so that its successor can join before it is replaced.
#[test]
fn a_dead_nodes_address_is_free() {
    let mut rig = Rig::born(3, 1);
    let heir = NodeSpec { incarnation: Incarnation(44), ..spec(3, "", 1) };
    assert!(matches!(rig.tell(join(4, heir.clone())), Err(ControllerError::Invalid { .. })));
    rig.judge(3, true).unwrap();
    rig.tell(join(4, heir)).unwrap();
    assert_eq!(rig.replicas(1), BTreeSet::from([1, 2, 4]));
    assert_eq!(settle_members(&mut rig, 1), (vec![1, 2, 4], vec![]));
    assert!(matches!(rig.judge(3, false), Err(ControllerError::Invalid { .. })), "its address is another's");
    rig.tell(remove(3)).unwrap();
}
