//! The controller's own group: placed like the others, and in nobody's way.

use super::*;

fn join(id: u64) -> ControllerChange {
    ControllerChange::NodeJoin { node: node(id), spec: spec(id, "", 1) }
}

/// Takes the next step of the controller's own group, as if it succeeded at once; whether there was one.
fn step(rig: &mut Rig) -> bool {
    let Some(step) = rig.controller.next_step(GroupId(0)) else { return false };
    let report = rig.after(GroupId(0), step);
    rig.tell(ControllerChange::MembersReport(report)).unwrap();
    true
}

/// The group is known from its leader's first report, with as many replicas as any group, its leader among
/// them; who leads it and what the data groups hold is none the different.
#[test]
fn it_is_known_from_its_first_report() {
    let mut rig = Rig::born(5, 3);
    let before = rig.controller.cluster_map().unwrap();
    assert!(before.groups.iter().all(|view| view.group != GroupId(0)));
    let mut first = report(0, 1, 1, &[1, 2, 3, 4, 5], &[]);
    first.leader = Some(node(4));
    rig.tell(ControllerChange::MembersReport(first)).unwrap();
    let after = rig.controller.cluster_map().unwrap();
    assert_eq!(rig.replicas(0), BTreeSet::from([1, 2, 4]));
    assert_eq!(after.groups[0].preferred, None);
    assert_eq!(after.groups[1..], before.groups);
    assert_eq!(after.shard_map.runs, before.shard_map.runs);
    while step(&mut rig) {}
    let (voters, _) = rig.controller.state.groups[&GroupId(0)].members();
    assert_eq!(voters.into_keys().collect::<Vec<_>>(), [node(1), node(2), node(4)]);
}

/// A node that is drained, or dead for too long, gives its replica of the controller away: a learner first,
/// then one joint change; then it can be removed, and not before.
#[test]
fn its_replicas_move_off_nodes() {
    let mut rig = Rig::born(3, 1);
    rig.report(0, 1, &[1, 2, 3], &[]).unwrap();
    let drain = |id| ControllerChange::NodeDrain { node: node(id) };
    assert_eq!(rig.tell(drain(1)), Err(ControllerError::NoPlace { needed: 3, live: 2 }));
    rig.tell(join(4)).unwrap();
    assert_eq!(rig.replicas(0), BTreeSet::from([1, 2, 3]), "it stays as long as its nodes are fit");
    rig.tell(drain(1)).unwrap();
    assert_eq!(rig.replicas(0), BTreeSet::from([2, 3, 4]));
    let add = MembershipStep::AddLearner { node: node(4), incarnation: Incarnation(4) };
    assert_eq!(rig.controller.next_step(GroupId(0)), Some(add));
    assert!(step(&mut rig));
    let promote = MembershipStep::Promote { node: node(4), replacing: Some(node(1)) };
    assert_eq!(rig.controller.next_step(GroupId(0)), Some(promote));
    let remove = ControllerChange::NodeRemove { node: node(1) };
    while let Some(step) = rig.controller.next_step(GroupId(1)) {
        let report = rig.after(GroupId(1), step);
        rig.tell(ControllerChange::MembersReport(report)).unwrap();
    }
    assert_eq!(rig.tell(remove.clone()), Err(ControllerError::NodeInUse { node: node(1), replicas: 1 }));
    assert!(step(&mut rig) && !step(&mut rig));
    rig.tell(remove).unwrap();
    rig.tell(join(5)).unwrap();
    rig.judge(2, true).unwrap();
    assert_eq!(rig.replicas(0), BTreeSet::from([3, 4, 5]));
    while step(&mut rig) {}
    let (voters, _) = rig.controller.state.groups[&GroupId(0)].members();
    assert_eq!(voters.into_keys().collect::<Vec<_>>(), [node(3), node(4), node(5)]);
}

/// It holds no shards and never leaves: whatever would have it otherwise is refused by name, and shards are
/// balanced as if it were not there.
#[test]
fn it_serves_no_shards() {
    let mut rig = Rig::born(3, 2);
    rig.report(0, 1, &[1, 2, 3], &[]).unwrap();
    let own = GroupId(0);
    for change in [
        ControllerChange::GroupRemove { group: own },
        ControllerChange::GroupWeight { group: own, weight: 7 },
        ControllerChange::ShardMove { shard: ShardId(1), to: own },
    ] {
        let refused = rig.tell(change).unwrap_err();
        assert!(matches!(&refused, ControllerError::Invalid { why } if why.contains("g0")), "{refused}");
    }
    let gone = ControllerChange::GroupGone { group: own };
    assert_eq!(rig.tell(gone), Err(ControllerError::GroupInUse { group: own }));
    let again = ControllerChange::GroupAdd { groups: NewGroups::Ids([own].into()), weight: 1 };
    assert_eq!(rig.tell(again), Err(ControllerError::GroupIdUsed { group: own }));
    rig.tell(ControllerChange::GroupRemove { group: GroupId(1) }).unwrap();
    rig.finish_all();
    let last = ControllerChange::GroupRemove { group: GroupId(2) };
    assert_eq!(rig.tell(last), Err(ControllerError::LastGroup { group: GroupId(2) }));
    assert_eq!(rig.targets(), BTreeMap::from([(GroupId(2), 256)]));
    rig.add_groups(1);
    rig.finish_all();
    assert_eq!(rig.targets(), BTreeMap::from([(GroupId(2), 128), (GroupId(3), 128)]));
}
