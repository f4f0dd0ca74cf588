//! Shards move.

use super::*;
use crate::bounds::{MOVES_PER_SIDE_MAX, WHY_BYTES_MAX};

fn to(shard: u32, group: u64) -> ControllerChange {
    ControllerChange::ShardMove { shard: ShardId(shard), to: GroupId(group) }
}

fn cancel(shard: u32) -> ControllerChange {
    ControllerChange::MoveCancel { shard: ShardId(shard) }
}

fn aborted(moved: &MoveView, why: &str) -> ControllerChange {
    ControllerChange::MoveAborted { shard: moved.shard, id: moved.id, why: why.into() }
}

/// No more moves run at once than allowed, over all and on either side, and the end of one starts the next.
#[test]
fn moves_start_a_few_at_a_time() {
    let mut rig = Rig::born(3, 3);
    rig.tell(ControllerChange::MovesThrottle { copy_bytes_per_second: None, moves_max: 3 }).unwrap();
    rig.add_groups(3);
    let (mut ended, mut most) = (0, 0);
    while let Some(moved) = rig.moves().first() {
        most = most.max(rig.moves().len());
        for group in 1..=6 {
            let moves = rig.moves();
            let gives = moves.iter().filter(|moved| moved.from == GroupId(group)).count();
            let takes = moves.iter().filter(|moved| moved.to == GroupId(group)).count();
            assert!(gives.max(takes) <= MOVES_PER_SIDE_MAX as usize);
        }
        rig.finish(moved).unwrap();
        ended += 1;
    }
    assert_eq!((ended, most), (43 + 42 + 42, 3), "the three that were there keep 43 each");
    let map = rig.controller.shard_map(None).unwrap();
    assert!(map.runs.iter().all(|run| run.owner == run.target));
    rig.check_history();
}

/// While moves are paused none starts, and those under way may end.
#[test]
fn a_pause_starts_nothing() {
    let mut rig = Rig::born(3, 3);
    rig.add_groups(1);
    let moves = rig.moves();
    rig.tell(ControllerChange::MovesPause).unwrap();
    for moved in &moves {
        rig.finish(moved).unwrap();
    }
    assert_eq!(rig.moves(), []);
    rig.tell(ControllerChange::MovesResume).unwrap();
    assert_eq!(rig.moves().len(), moves.len());
}

/// Only the move that is meant ends, and its end may be told again and again, whatever came after it.
#[test]
fn ends_are_fenced_and_may_be_repeated() {
    let mut rig = Rig::born(3, 3);
    rig.tell(to(0, 2)).unwrap();
    let moved = rig.moves()[0].clone();
    assert_eq!((moved.from, moved.to, moved.id), (GroupId(1), GroupId(2), rig.controller.epoch()));
    let wrong = [
        MoveView { from: GroupId(3), ..moved.clone() },
        MoveView { to: GroupId(3), ..moved.clone() },
        MoveView { id: Epoch(moved.id.0 - 1), ..moved.clone() },
        MoveView { shard: ShardId(1), ..moved.clone() },
    ];
    for other in &wrong {
        assert!(matches!(rig.finish(other), Err(ControllerError::Stale { .. })), "{other:?}");
    }
    for other in &wrong[2..] {
        assert!(matches!(rig.tell(aborted(other, "")), Err(ControllerError::Stale { .. })), "{other:?}");
    }
    rig.finish(&moved).unwrap();
    let done = rig.controller.epoch();
    assert_eq!(rig.finish(&moved), Ok(ControllerReply::Done { epoch: done }));
    rig.tell(to(0, 3)).unwrap();
    rig.finish(&moved).unwrap();
    assert_eq!(rig.moves()[0].to, GroupId(3));
    for other in &wrong {
        assert!(matches!(rig.finish(other), Err(ControllerError::Stale { .. })), "{other:?}");
    }
    assert!(matches!(rig.tell(aborted(&moved, "")), Err(ControllerError::Stale { .. })));
    let beyond = MoveView { shard: ShardId(256), ..moved };
    assert_eq!(rig.finish(&beyond), Err(ControllerError::UnknownShard { shard: ShardId(256) }));
    rig.check_history();
}

/// A move that the destination gave up starts again under another id, after those that did not fail; how
/// often and why is told until the shard has arrived.
#[test]
fn a_move_that_failed_is_tried_again() {
    let mut rig = Rig::born(3, 3);
    rig.tell(to(0, 2)).unwrap();
    let why = "ö".repeat(WHY_BYTES_MAX);
    let first = rig.moves()[0].clone();
    rig.tell(aborted(&first, &why)).unwrap();
    let second = rig.moves()[0].clone();
    assert_eq!((second.shard, second.to), (first.shard, first.to));
    assert!(second.id > first.id);
    for shard in 1..=2 {
        rig.tell(to(shard, 2)).unwrap();
    }
    assert_eq!(rig.moves().len(), 2, "a group takes two at a time");
    rig.tell(aborted(&second, "disk full")).unwrap();
    let moving: Vec<u32> = rig.moves().iter().map(|moved| moved.shard.0).collect();
    assert_eq!(moving, [1, 2]);
    let setbacks = rig.controller.cluster_map().unwrap().setbacks;
    assert_eq!((setbacks.len(), setbacks[0].count, setbacks[0].why.as_str()), (1, 2, "disk full"));
    rig.finish_all();
    assert_eq!(rig.controller.cluster_map().unwrap().setbacks, []);
}

/// An operator's move is refused where there is nothing to do, or not now; each refusal says which.
#[test]
fn refused_moves() {
    let mut rig = Rig::born(3, 3);
    assert_eq!(rig.tell(to(256, 2)), Err(ControllerError::UnknownShard { shard: ShardId(256) }));
    assert_eq!(rig.tell(to(0, 4)), Err(ControllerError::UnknownGroup { group: GroupId(4) }));
    assert_eq!(rig.tell(to(0, 1)), Err(ControllerError::ShardThere { shard: ShardId(0) }));
    assert_eq!(rig.tell(cancel(0)), Err(ControllerError::ShardNotMoving { shard: ShardId(0) }));
    assert_eq!(rig.tell(cancel(256)), Err(ControllerError::UnknownShard { shard: ShardId(256) }));
    rig.tell(to(0, 2)).unwrap();
    assert_eq!(rig.tell(to(0, 3)), Err(ControllerError::ShardMoving { shard: ShardId(0) }));
}

/// A shard that was put somewhere stays there through whatever does not balance shards, and until something
/// does.
#[test]
fn a_pinned_shard_stays_until_the_next_balancing() {
    let mut rig = Rig::born(4, 3);
    rig.tell(to(0, 2)).unwrap();
    rig.finish_all();
    rig.judge(4, true).unwrap();
    rig.judge(4, false).unwrap();
    rig.tell(ControllerChange::NodeDrain { node: node(1) }).unwrap();
    assert_eq!(rig.target_of_each()[0], GroupId(2));
    let pinned = rig.targets();
    assert_eq!(pinned.values().copied().max(), Some(86));
    rig.tell(to(1, 2)).unwrap();
    assert_eq!(rig.targets().values().copied().max(), Some(87));
    rig.finish_all();
    rig.tell(ControllerChange::ShardRebalance).unwrap();
    assert!(rig.targets().values().all(|&count| count == 85 || count == 86));
}

/// Cancelling leaves a shard where it is: one that has not started is not due any more, one that has is
/// called off, and what arrived too late goes back.
#[test]
fn a_cancelled_move_is_called_off_or_undone() {
    let mut rig = Rig::born(3, 3);
    for shard in 0..3 {
        rig.tell(to(shard, 2)).unwrap();
    }
    rig.tell(cancel(2)).unwrap();
    assert_eq!(rig.moves().len(), 2);
    let moves = rig.moves();
    for shard in 0..2 {
        rig.tell(cancel(shard)).unwrap();
        let epoch = rig.controller.epoch();
        rig.tell(cancel(shard)).unwrap();
        assert_eq!(rig.controller.epoch(), epoch, "it is being called off already");
        assert_eq!(rig.tell(to(shard, 2)), Err(ControllerError::ShardMoving { shard: ShardId(shard) }));
    }
    assert!(rig.moves().iter().all(|moved| moved.state == MoveState::Cancelling));
    rig.tell(aborted(&moves[0], "asked to")).unwrap();
    assert_eq!(rig.controller.cluster_map().unwrap().setbacks, [], "that was no failure");
    rig.finish(&moves[1]).unwrap();
    let back = rig.moves();
    assert_eq!(back.len(), 1);
    assert_eq!((back[0].shard, back[0].from, back[0].to), (ShardId(1), GroupId(2), GroupId(1)));
    assert_eq!(back[0].state, MoveState::Running);
    rig.finish_all();
    assert_eq!(rig.controller.shard_map(None).unwrap().runs, rig.recorded[&Epoch(1)].runs);
}

/// A shard cannot be left with a group that is leaving.
#[test]
fn nothing_stays_with_a_leaving_group() {
    let mut rig = Rig::born(3, 2);
    rig.tell(ControllerChange::GroupRemove { group: GroupId(1) }).unwrap();
    let shard = rig.moves()[0].shard.0;
    assert_eq!(rig.tell(cancel(shard)), Err(ControllerError::GroupLeaving { group: GroupId(1) }));
}
