//! What groups' leaders report, and who is to lead.

use super::*;

/// A newer report replaces an older one and never the other way round; a leader's change alone is no new
/// epoch.
#[test]
fn reports_never_go_back() {
    let mut rig = Rig::born(4, 2);
    rig.report(1, 5, &[1, 2, 3], &[]).unwrap();
    let epoch = rig.controller.epoch();
    rig.report(1, 5, &[1, 2, 3], &[]).unwrap();
    let mut other_leader = report(1, 2, 3, &[1, 2, 3], &[]);
    other_leader.leader = Some(node(3));
    rig.tell(ControllerChange::MembersReport(other_leader)).unwrap();
    assert_eq!(rig.controller.epoch(), epoch);
    assert_eq!(rig.controller.cluster_map().unwrap().groups[0].leader, Some(node(3)));
    for (term, index) in [(2, 3), (2, 2), (1, 9)] {
        let old = ControllerChange::MembersReport(report(1, term, index, &[1, 2], &[4]));
        assert!(matches!(rig.tell(old), Err(ControllerError::Stale { .. })));
    }
    rig.tell(ControllerChange::MembersReport(report(1, 2, 4, &[1, 2, 3], &[4]))).unwrap();
    assert_eq!(rig.controller.cluster_map().unwrap().groups[0].learners, [(node(4), Incarnation(4))].into());
    assert!(rig.controller.epoch() > epoch);
}

/// Members that cannot be are refused.
#[test]
fn odd_reports_are_refused() {
    let mut rig = Rig::born(4, 2);
    assert_eq!(rig.report(9, 1, &[1], &[]), Err(ControllerError::UnknownGroup { group: GroupId(9) }));
    let many: Vec<u64> = (1..100).collect();
    for (voters, learners) in [(&[][..], &[][..]), (&[1], &[1]), (&many, &[]), (&[1], &many[1..])] {
        let answer = rig.report(1, 1, voters, learners);
        assert!(matches!(answer, Err(ControllerError::Invalid { .. })), "{answer:?}");
    }
}

/// Leaders are spread over the nodes that are up and vote, and stay where they are as long as that is so.
#[test]
fn leaders_are_spread_and_stay() {
    let mut rig = Rig::born(3, 6);
    let preferred = |rig: &Rig| {
        let groups = rig.controller.cluster_map().unwrap().groups;
        groups.iter().map(|group| group.preferred.map_or(0, |node| node.0)).collect::<Vec<_>>()
    };
    let count = |rig: &Rig, node| preferred(rig).iter().filter(|&&leader| leader == node).count();
    assert_eq!([1, 2, 3].map(|node| count(&rig, node)), [2, 2, 2]);
    let before = preferred(&rig);
    rig.judge(3, true).unwrap();
    assert_eq!([1, 2, 3].map(|node| count(&rig, node)), [3, 3, 0]);
    let stayed = before.iter().zip(preferred(&rig)).filter(|(before, after)| **before == *after).count();
    assert_eq!(stayed, 4);
    rig.judge(3, false).unwrap();
    assert_eq!([1, 2, 3].map(|node| count(&rig, node)), [2, 2, 2]);
    rig.report(1, 1, &[2, 3], &[1]).unwrap();
    assert_ne!(preferred(&rig)[0], 1, "a learner cannot lead");
}
