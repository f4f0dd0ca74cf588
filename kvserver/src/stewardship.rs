//! What a group's leader does for the controller: it changes the group's members, one step at a time, reports
//! who they are, and hands leadership to whom it belongs.
//!
//! The controller's own group is looked after like any other, by whoever leads it. Relies on
//! [`shardctrler::next_step`] for what to do and on raftstore for doing it safely: every step may be said
//! again by a successor, and a step that was decided by an old map is refused or does no harm. Must never
//! take two steps at once in one group.

use crate::node::CONTROLLER;
use crate::replica::Replica;
use crate::residence::Residents;
use proto::{
    ClusterMap, ControllerChange, Epoch, GroupId, GroupView, Incarnation, MembersReport, NodeId, NodeSpec,
    NodeState,
};
use raftstore::{Address, Group, GroupStatus, Machine, Member, MemberError, Role};
use shardctrler::{ControllerHandle, ControllerMachine, Disk, Members, MembershipStep, next_step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How often groups are looked at.
const PACE: Duration = Duration::from_millis(500);

/// How long one step may take before it is looked at again.
const STEP_TIME: Duration = Duration::from_secs(10);

/// How long the controller may take to hear a report.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// How long a group stays with whoever leads it before leadership is handed to whom it belongs.
const REST: Duration = Duration::from_secs(5);

/// How many entries a voter may lack and still be given the lead.
const LAG_ENTRIES_MAX: u64 = 1_000;

/// The task that looks after the groups that this node leads.
pub(crate) struct Stewardship {
    pub(crate) controller: Arc<ControllerHandle>,
    pub(crate) residents: Arc<Residents>,
}

impl Stewardship {
    fn held(&self) -> Vec<Held> {
        let data = self.residents.all().into_iter().map(Held::Data);
        data.chain(self.controller.group().map(Held::Own)).collect()
    }

    /// Runs until it is dropped, and what it has begun with it.
    pub(crate) async fn run(self) {
        let map = self.controller.map();
        let mut under_way = UnderWay::default();
        let mut led_since: BTreeMap<GroupId, (u64, Instant)> = BTreeMap::new();
        // The map's leaders are hints that do not raise its epoch: who waits for them to come back would
        // report for ever.
        let mut heard: BTreeMap<GroupId, MembersReport> = BTreeMap::new();
        loop {
            heard.extend(under_way.ended());
            let known = map.borrow().clone();
            if let Some(map) = known {
                for held in self.held() {
                    let group = held.id();
                    if !held.leads() {
                        led_since.remove(&group);
                        heard.remove(&group);
                        continue;
                    }
                    let status = held.status();
                    if status.role != Role::Leader {
                        continue;
                    }
                    let since = led_since.entry(group).or_insert((status.term, Instant::now()));
                    if since.0 != status.term {
                        *since = (status.term, Instant::now());
                    }
                    let rested = since.1.elapsed() >= REST;
                    if under_way.contains(group) || !status.settled || status.joint {
                        continue;
                    }
                    if let Some(duty) = duty(&map, &status, heard.get(&group), rested) {
                        let controller = self.controller.clone();
                        under_way.begin(group, async move { held.carry_out(&controller, duty).await });
                    }
                }
            }
            sleep(PACE).await;
        }
    }
}

/// The steps that are being taken, one for a group at most.
#[derive(Default)]
struct UnderWay {
    groups: BTreeMap<GroupId, tokio::task::Id>,
    tasks: JoinSet<Option<MembersReport>>,
}

impl UnderWay {
    fn contains(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    fn begin(&mut self, group: GroupId, step: impl Future<Output = Option<MembersReport>> + Send + 'static) {
        let task = self.tasks.spawn(step).id();
        self.groups.insert(group, task);
    }

    /// The reports that the controller has heard since the last look.
    fn ended(&mut self) -> Vec<(GroupId, MembersReport)> {
        let mut reports = Vec::new();
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            let task = match &ended {
                Ok((task, _)) => *task,
                Err(error) => error.id(),
            };
            self.groups.retain(|_, under_way| *under_way != task);
            match ended {
                Ok((_, report)) => reports.extend(report.map(|report| (report.group, report))),
                Err(error) => tracing::error!(%error, "a step of a membership change was lost"),
            }
        }
        reports
    }
}

/// A group of which this node has a replica.
enum Held {
    Data(Arc<Replica>),
    Own(Group<ControllerMachine>),
}

impl Held {
    fn id(&self) -> GroupId {
        match self {
            Self::Data(replica) => replica.group.id(),
            Self::Own(group) => group.id(),
        }
    }

    fn leads(&self) -> bool {
        match self {
            Self::Data(replica) => replica.group.leads(),
            Self::Own(group) => group.leads(),
        }
    }

    fn status(&self) -> GroupStatus {
        match self {
            Self::Data(replica) => replica.group.status(),
            Self::Own(group) => group.status(),
        }
    }

    /// Does it; the report that the controller has heard, where it was one.
    async fn carry_out(&self, controller: &ControllerHandle, duty: Duty) -> Option<MembersReport> {
        match self {
            Self::Data(replica) => {
                // Only those who were there at the birth know which shards the group is born with.
                if let (Duty::Step(_), Err(missing)) = (&duty, replica.ready(Duration::ZERO).await) {
                    tracing::debug!(group = %self.id(), missing, "members do not change yet");
                    return None;
                }
                carry_out(controller, &replica.group, duty).await
            }
            Self::Own(group) => carry_out(controller, group, duty).await,
        }
    }
}

/// What is to be done for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Duty {
    Report(MembersReport),
    Step(Step),
    /// Leadership belongs to another.
    HandOver(NodeId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    AddLearner(NodeId, Member),
    ChangeVoters(BTreeSet<NodeId>),
    Remove(NodeId),
    SetAddress(NodeId, Address),
}

/// What is to be done next for a group that this node leads, if anything; `heard` is what the controller last
/// heard of it from here.
fn duty(map: &ClusterMap, status: &GroupStatus, heard: Option<&MembersReport>, rested: bool) -> Option<Duty> {
    let of = |nodes: &[NodeId]| -> BTreeMap<NodeId, Incarnation> {
        nodes.iter().map(|node| (*node, status.incarnations.get(node).copied().unwrap_or_default())).collect()
    };
    let (voters, learners) = (of(&status.voters), of(&status.learners));
    let view = map.groups.iter().find(|view| view.group == status.group);
    if view.is_none() && status.group != CONTROLLER {
        return None;
    }
    let is_heard = heard.is_some_and(|heard| {
        heard.term == status.term && heard.voters == voters && heard.learners == learners
    });
    if !is_heard {
        return Some(Duty::Report(MembersReport {
            group: status.group,
            term: status.term,
            index: status.applied_index.unwrap_or(0),
            voters,
            learners,
            leader: Some(status.node),
        }));
    }
    let moved =
        map.nodes.iter().find_map(|node| moved(&node.spec, status.members.get(&node.node)?, node.node));
    if let Some((node, address)) = moved {
        return Some(Duty::Step(Step::SetAddress(node, address)));
    }
    let view: &GroupView = view?;
    let disks = map.nodes.iter().map(|node| {
        let live = node.state != NodeState::Dead;
        (node.node, Disk { incarnation: node.spec.incarnation, live })
    });
    let members = Members { voters: &voters, learners: &learners, leader: Some(status.node) };
    let is_spent = shardctrler::spent(map).any(|spent| spent == view.group);
    let step = next_step(&view.replicas, &members, &disks.collect()).filter(|_| !is_spent);
    if let Some(step) = step {
        return Some(Duty::Step(match step {
            MembershipStep::AddLearner { node, incarnation } => {
                let spec = &map.nodes.iter().find(|view| view.node == node)?.spec;
                let address = Address { peer: spec.peer.clone(), http: spec.http.clone() };
                Step::AddLearner(node, Member { address, incarnation })
            }
            MembershipStep::Promote { node, replacing } => {
                let mut voters: BTreeSet<NodeId> = voters.keys().copied().collect();
                voters.insert(node);
                replacing.map(|replaced| voters.remove(&replaced));
                Step::ChangeVoters(voters)
            }
            MembershipStep::RemoveVoter { node } | MembershipStep::RemoveLearner { node } => {
                Step::Remove(node)
            }
        }));
    }
    let preferred = view.preferred.filter(|preferred| *preferred != status.node && rested)?;
    let last = status.last_index.unwrap_or(0);
    let caught_up = status.matched.get(&preferred).copied().flatten();
    let is_up = map.nodes.iter().any(|node| node.node == preferred && node.state == NodeState::Up);
    let ready = is_up
        && voters.contains_key(&preferred)
        && caught_up.is_some_and(|matched| matched + LAG_ENTRIES_MAX >= last);
    ready.then_some(Duty::HandOver(preferred))
}

/// Where a member is to be reached that the group knows at another address. That it may be there with another disk does
/// not matter: whoever is there is still addressed as the replica that it was.
fn moved(spec: &NodeSpec, known: &Address, node: NodeId) -> Option<(NodeId, Address)> {
    let address = Address { peer: spec.peer.clone(), http: spec.http.clone() };
    (!address.peer.is_empty() && address != *known).then_some((node, address))
}

async fn carry_out<M: Machine>(
    controller: &ControllerHandle,
    group: &Group<M>,
    duty: Duty,
) -> Option<MembersReport> {
    let taken = match &duty {
        Duty::Report(report) => {
            let change = ControllerChange::MembersReport(report.clone());
            let told = controller.execute(None::<Epoch>, change, REPORT_TIME).await;
            if let Err(error) = &told {
                tracing::debug!(group = %group.id(), %error, "members were not reported");
            }
            return told.is_ok().then(|| report.clone());
        }
        Duty::Step(Step::AddLearner(node, member)) => group.add_learner(*node, member, STEP_TIME).await,
        Duty::Step(Step::ChangeVoters(voters)) => group.change_voters(voters, STEP_TIME).await,
        Duty::Step(Step::SetAddress(node, address)) => group.set_address(*node, address, STEP_TIME).await,
        Duty::Step(Step::Remove(node)) => group.remove(*node, STEP_TIME).await,
        Duty::HandOver(to) => group.hand_over(Some(*to), STEP_TIME).await,
    };
    match taken {
        Ok(()) => match &duty {
            Duty::HandOver(to) => tracing::info!(group = %group.id(), %to, "leadership was handed over"),
            duty => tracing::info!(group = %group.id(), ?duty, "members changed"),
        },
        // They are as expected as they are common: the next look decides anew.
        Err(
            error @ (MemberError::NotReady { .. }
            | MemberError::NotCaughtUp { .. }
            | MemberError::UnderWay(_)),
        ) => {
            tracing::debug!(group = %group.id(), ?duty, %error, "members do not change yet");
        }
        Err(error) => tracing::info!(group = %group.id(), ?duty, %error, "members did not change"),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Birth, ControllerCommand};
    use shardctrler::Controller;
    use std::future::{pending, ready};

    const NODES: [u64; 3] = [1, 2, 3];

    fn spec(node: u64) -> NodeSpec {
        let (peer, http) = (format!("n{node}:1"), format!("n{node}:2"));
        NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: Incarnation(node.into()) }
    }

    /// What n1 has to do next for g1, which it leads, whose members are those of the birth, and which has reported them.
    fn due(controller: &Controller) -> Option<Duty> {
        let members = NODES.map(|node| {
            let NodeSpec { peer, http, .. } = spec(node);
            (NodeId(node), Address { peer, http })
        });
        let status = GroupStatus {
            group: GroupId(1),
            node: NodeId(1),
            role: Role::Leader,
            term: 2,
            leader: Some(NodeId(1)),
            voters: NODES.map(NodeId).to_vec(),
            learners: Vec::new(),
            joint: false,
            settled: true,
            membership_index: Some(1),
            members: members.into(),
            incarnations: NODES.map(|node| (NodeId(node), spec(node).incarnation)).into(),
            last_index: Some(7),
            committed_index: Some(7),
            applied_index: Some(7),
            snapshot_index: None,
            snapshot_bytes: 0,
            purged_index: None,
            log_bytes: 0,
            matched: BTreeMap::new(),
            lag: Some(Duration::ZERO),
            recovered: true,
        };
        let voters: BTreeMap<NodeId, Incarnation> = status.incarnations.clone();
        let (group, learners, leader) = (status.group, BTreeMap::new(), Some(NodeId(1)));
        let heard = MembersReport { group, term: 2, index: 7, voters, learners, leader };
        duty(&controller.cluster_map().unwrap(), &status, Some(&heard), false)
    }

    /// Where the map says that a member has come back elsewhere, its group's leader has the group know, once; a node
    /// that has no address for a while stays where it was.
    #[test]
    fn members_are_where_the_map_says() {
        let mut controller = Controller::new();
        let mut tell = |change| {
            controller.execute(&ControllerCommand { expect: None, change }).unwrap();
            due(&controller)
        };
        let nodes = NODES.map(|node| (NodeId(node), spec(node))).into();
        assert_eq!(tell(ControllerChange::Birth(Birth { shards: 8, groups: 1, replicas: 3, nodes })), None);
        let mut join = |spec: NodeSpec| tell(ControllerChange::NodeJoin { node: NodeId(3), spec });
        assert_eq!(join(NodeSpec { peer: String::new(), ..spec(3) }), None);
        let there = |peer: &str, http: &str| {
            let address = Address { peer: peer.into(), http: http.into() };
            Some(Duty::Step(Step::SetAddress(NodeId(3), address)))
        };
        assert_eq!(join(NodeSpec { peer: "m3:1".into(), ..spec(3) }), there("m3:1", "n3:2"));
        assert_eq!(join(NodeSpec { http: "m3:2".into(), ..spec(3) }), there("n3:1", "m3:2"));
        assert_eq!(join(spec(3)), None);
    }

    /// A group whose step was lost to a panic is looked at again, also while steps of other groups go on.
    #[tokio::test]
    async fn a_lost_step_holds_no_group_up() {
        let (lost, slow, quick) = (GroupId(1), GroupId(2), GroupId(3));
        let mut under_way = UnderWay::default();
        under_way.begin(lost, async { panic!("lost") });
        under_way.begin(slow, pending());
        let (voters, learners) = (BTreeMap::new(), BTreeMap::new());
        let report = MembersReport { group: quick, term: 1, index: 1, voters, learners, leader: None };
        under_way.begin(quick, ready(Some(report.clone())));
        let mut reports = Vec::new();
        while under_way.contains(lost) || under_way.contains(quick) {
            reports.extend(under_way.ended());
            tokio::task::yield_now().await;
        }
        assert_eq!(reports, [(quick, report)]);
        assert!(under_way.contains(slow));
    }
}
