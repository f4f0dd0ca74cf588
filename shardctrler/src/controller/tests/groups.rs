//! Groups come and go.

use super::*;
use proto::GroupState;

fn add_ids(ids: &[u64], weight: u32) -> ControllerChange {
    let groups = NewGroups::Ids(ids.iter().map(|&id| GroupId(id)).collect());
    ControllerChange::GroupAdd { groups, weight }
}

fn remove(group: u64) -> ControllerChange {
    ControllerChange::GroupRemove { group: GroupId(group) }
}

/// A group that is removed gives its shards away, is spent when it owns none and takes part in no move, and
/// is gone when the driver says so; its id is not used again.
#[test]
fn a_group_leaves() {
    let mut rig = Rig::born(3, 3);
    let gone = |rig: &mut Rig| rig.tell(ControllerChange::GroupGone { group: GroupId(2) });
    assert_eq!(gone(&mut rig), Err(ControllerError::GroupInUse { group: GroupId(2) }));
    rig.report(2, 1, &[1, 2, 3], &[]).unwrap();
    rig.tell(remove(2)).unwrap();
    let epoch = rig.controller.epoch();
    rig.tell(remove(2)).unwrap();
    assert_eq!(rig.controller.epoch(), epoch, "it is leaving already");
    assert_eq!(rig.targets().values().copied().collect::<Vec<_>>(), [128, 128]);
    assert_eq!(gone(&mut rig), Err(ControllerError::GroupInUse { group: GroupId(2) }));
    assert_eq!(rig.controller.spent_groups(), []);
    let weight = ControllerChange::GroupWeight { group: GroupId(2), weight: 3 };
    assert_eq!(rig.tell(weight), Err(ControllerError::GroupLeaving { group: GroupId(2) }));
    let to_it = ControllerChange::ShardMove { shard: ShardId(0), to: GroupId(2) };
    assert_eq!(rig.tell(to_it), Err(ControllerError::GroupLeaving { group: GroupId(2) }));

    rig.finish_all();
    assert_eq!(rig.controller.spent_groups(), [GroupId(2)]);
    assert_eq!(rig.controller.next_step(GroupId(2)), None);
    let taken_back = rig.tell(add_ids(&[2], 1));
    assert_eq!(
        taken_back,
        Err(ControllerError::GroupIdUsed { group: GroupId(2) }),
        "its replicas are dropped"
    );
    gone(&mut rig).unwrap();
    assert_eq!(gone(&mut rig), Err(ControllerError::UnknownGroup { group: GroupId(2) }));
    assert_eq!(rig.controller.spent_groups(), []);
    assert_eq!(rig.tell(add_ids(&[2], 1)), Err(ControllerError::GroupIdUsed { group: GroupId(2) }));
    assert_eq!(rig.add_groups(2), [GroupId(4), GroupId(5)]);
    rig.check_history();
}

/// A group that is removed before its shards arrived calls their moves off, and is in use until they have
/// ended.
#[test]
fn a_group_leaves_before_it_came() {
    let mut rig = Rig::born(3, 3);
    rig.add_groups(1);
    let moves = rig.moves();
    assert_eq!(moves.len(), 2, "a group takes two at a time");
    rig.tell(remove(4)).unwrap();
    assert!(rig.moves().iter().all(|moved| moved.state == MoveState::Cancelling));
    let gone = ControllerChange::GroupGone { group: GroupId(4) };
    assert_eq!(rig.tell(gone.clone()), Err(ControllerError::GroupInUse { group: GroupId(4) }));
    let (shard, id, why) = (moves[0].shard, moves[0].id, String::new());
    rig.tell(ControllerChange::MoveAborted { shard, id, why }).unwrap();
    rig.finish(&moves[1]).unwrap();
    assert_eq!(rig.moves().len(), 1, "what arrived too late goes back");
    assert_eq!((rig.moves()[0].from, rig.moves()[0].to), (GroupId(4), moves[1].from));
    rig.finish_all();
    rig.tell(gone).unwrap();
    assert_eq!(rig.controller.shard_map(None).unwrap().runs, rig.recorded[&Epoch(1)].runs);
}

/// A group that is leaving may be told to stay: nothing else moves then than back.
#[test]
fn a_group_stays_after_all() {
    let mut rig = Rig::born(3, 3);
    let before = rig.target_of_each();
    rig.tell(remove(3)).unwrap();
    let moved = rig.moves()[0].clone();
    rig.finish(&moved).unwrap();
    rig.tell(add_ids(&[3], 1)).unwrap();
    assert_eq!(rig.target_of_each(), before);
    assert!(rig.moves().iter().any(|back| (back.shard, back.to) == (moved.shard, moved.from)));
    rig.finish_all();
    assert_eq!(rig.tell(add_ids(&[3], 1)), Err(ControllerError::GroupIdUsed { group: GroupId(3) }));
}

/// The last group that serves stays, and so does the id of the controller's own.
#[test]
fn refused_groups() {
    let mut rig = Rig::born(3, 2);
    assert_eq!(rig.tell(remove(9)), Err(ControllerError::UnknownGroup { group: GroupId(9) }));
    rig.tell(remove(1)).unwrap();
    assert_eq!(rig.tell(remove(2)), Err(ControllerError::LastGroup { group: GroupId(2) }));
    assert_eq!(rig.tell(add_ids(&[0], 1)), Err(ControllerError::GroupIdUsed { group: GroupId(0) }));
    let many = ControllerChange::GroupAdd { groups: NewGroups::Count(u32::MAX), weight: 1 };
    let bad = [add_ids(&[], 1), add_ids(&[7], 0), add_ids(&[u64::MAX], 1), many];
    for change in bad {
        assert!(matches!(rig.tell(change), Err(ControllerError::Invalid { .. })));
    }
    let weight = |group, weight| ControllerChange::GroupWeight { group: GroupId(group), weight };
    assert!(matches!(rig.tell(weight(2, 0)), Err(ControllerError::Invalid { .. })));
    assert_eq!(rig.tell(weight(9, 1)), Err(ControllerError::UnknownGroup { group: GroupId(9) }));
}

/// Weights share out shards, and a group may be given an id above the next.
#[test]
fn weights_share_out_shards() {
    let mut rig = Rig::born(3, 2);
    rig.tell(add_ids(&[7], 2)).unwrap();
    assert_eq!(rig.targets(), [(1, 64), (2, 64), (7, 128)].map(|(id, count)| (GroupId(id), count)).into());
    rig.tell(ControllerChange::GroupWeight { group: GroupId(1), weight: 5 }).unwrap();
    assert_eq!(rig.targets(), [(1, 160), (2, 32), (7, 64)].map(|(id, count)| (GroupId(id), count)).into());
    assert_eq!(rig.add_groups(1), [GroupId(8)]);
}

/// New groups have replicas on distinct live nodes and begin with them; without a live node there are none.
#[test]
fn new_groups_have_places() {
    let mut rig = Rig::born(4, 1);
    rig.judge(2, true).unwrap();
    rig.add_groups(1);
    assert_eq!(rig.replicas(2), BTreeSet::from([1, 3, 4]));
    let group = rig.controller.cluster_map().unwrap().groups[1].clone();
    assert_eq!(group.first, group.replicas);
    assert_eq!(group.voters, group.first);
    assert_eq!(group.state, GroupState::Serving);
    for node in [1, 3, 4] {
        rig.judge(node, true).unwrap();
    }
    let add = ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 };
    assert_eq!(rig.tell(add), Err(ControllerError::NoPlace { needed: 1, live: 0 }));
}

/// A plan names the shards that a change would move, as the change then does, and changes nothing itself.
#[test]
fn a_plan_is_what_happens() {
    let mut rig = Rig::born(3, 3);
    let change = ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 };
    let before = rig.controller.clone();
    let plan = rig.controller.plan(&ControllerCommand { expect: None, change: change.clone() }).unwrap();
    assert_eq!(rig.controller, before);
    rig.tell(change).unwrap();
    let due = rig.controller.state.shards.iter().zip(0..).filter(|(shard, _)| shard.is_due());
    let due: Vec<PlannedMove> = due
        .map(|(shard, id)| PlannedMove { shard: ShardId(id), from: shard.owner, to: shard.target })
        .collect();
    assert_eq!(plan, due);
    assert_eq!(plan.len(), 64);
    let command = ControllerCommand { expect: None, change: remove(4) };
    assert_eq!(rig.controller.plan(&command), Ok(vec![]), "nothing has moved yet, so nothing has to move");
}
