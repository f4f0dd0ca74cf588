//! What all nodes' reports add up to: pure data in, a table or JSON out.

use super::Report;
use crate::terminal::{columns, human_bytes, human_time};
use kvserver::service::{ClusterGroup, GroupStatus, MoveStatus, NodeStatus, Role};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The controller's own group.
const CONTROLLER: u64 = 0;

/// The cluster at a glance.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    cluster: String,
    nodes: Vec<Report>,
    groups: Vec<Group>,
    /// The moves under way, by shard, as the nodes say that drive them.
    moves: Vec<MoveStatus>,
}

/// One group, as the replica with the best knowledge sees it.
#[derive(Debug, PartialEq, Serialize)]
struct Group {
    id: u64,
    state: State,
    /// The leader, only where its own node answered and says so of the newest term.
    leader: Option<u64>,
    term: u64,
    committed_index: u64,
    keys: u64,
    bytes: u64,
    log_bytes: u64,
    /// All that are known of, by node.
    replicas: Vec<Replica>,
}

/// Whether a group answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Its leader says that it serves.
    Serving,
    /// Its leader says that it does not: no quorum confirmed it of late, or since it was elected; or it has not
    /// recovered yet what it held before its start, or the group has no shards yet. `/readyz` of its node says which.
    NotServing,
    /// No node that answered leads it.
    NoLeader,
}

/// One replica of a group.
#[derive(Debug, PartialEq, Serialize)]
struct Replica {
    node: u64,
    /// What it is by its own word; none where its node does not answer.
    role: Option<Role>,
    /// How many entries it lacks of the newest log that is known; none where nobody knows how far it has come.
    lag_entries: Option<u64>,
}

impl Summary {
    /// Adds up `reports`; `members` says which nodes hold a replica of which group, as far as somebody answered that.
    pub(super) fn of(reports: Vec<Report>, members: &[ClusterGroup]) -> Self {
        let statuses = || reports.iter().filter_map(|report| report.status.as_ref());
        let cluster = statuses().map(|status| status.cluster.clone()).next().unwrap_or_default();
        let mut views: BTreeMap<u64, Vec<(u64, &GroupStatus)>> = BTreeMap::new();
        for status in statuses() {
            for group in &status.groups {
                views.entry(group.id).or_default().push((status.id, group));
            }
        }
        // None of a group's nodes may have answered.
        for group in members {
            views.entry(group.id).or_default();
        }
        let members =
            |id| members.iter().find(|group| group.id == id).map_or(&[][..], |group| &group.replicas);
        let groups = views.into_iter().map(|(id, views)| Group::of(id, &views, members(id))).collect();
        let mut moves: Vec<MoveStatus> = statuses().flat_map(|status| status.moves.clone()).collect();
        moves.sort_by_key(|of| (of.shard, of.id));
        Self { cluster, groups, moves, nodes: reports }
    }

    /// Whether every group serves, the controller's own among them where a node that answers holds it, and there is one
    /// that holds data.
    pub(super) fn all_serve(&self) -> bool {
        let has_data = self.groups.iter().any(|group| group.id != CONTROLLER);
        has_data && self.groups.iter().all(|group| group.state == State::Serving)
    }

    /// A table of nodes, one of groups, and one of moves where any is under way.
    pub(super) fn to_text(&self) -> String {
        let mut nodes =
            vec![row(["NODE", "ADDRESS", "VERSION", "UPTIME", "DISK", "MEMORY", "REPLICAS", "LEADS"])];
        nodes.extend(self.nodes.iter().map(Report::row));
        let mut groups =
            vec![row(["GROUP", "STATE", "LEADER", "TERM", "COMMITTED", "KEYS", "BYTES", "LOG", "LAGGING"])];
        groups.extend(self.groups.iter().map(Group::row));
        let mut text = format!("cluster {}\n\n{}\n{}", self.cluster, columns(&nodes), columns(&groups));
        if !self.moves.is_empty() {
            let mut moves = vec![row(["MOVE", "FROM", "TO", "PHASE", "COPIED", "LEFT", "RATE", "TIME"])];
            moves.extend(self.moves.iter().map(move_row));
            text += &format!("\n{}", columns(&moves));
        }
        text
    }
}

fn move_row(of: &MoveStatus) -> Vec<String> {
    let rate = u128::from(of.copied_bytes) * 1_000 / u128::from(of.took_ms.max(1));
    vec![
        format!("s{}", of.shard),
        format!("g{}", of.from),
        format!("g{}", of.to),
        of.phase.clone(),
        human_bytes(of.copied_bytes),
        human_bytes(of.remaining_bytes),
        format!("{}/s", human_bytes(u64::try_from(rate).unwrap_or(u64::MAX))),
        human_time(of.took_ms),
    ]
}

impl Group {
    /// `views`: what each node that answers says of the group, with the node's id. `members`: the nodes that are
    /// said to hold a replica.
    fn of(id: u64, views: &[(u64, &GroupStatus)], members: &[u64]) -> Self {
        let term = views.iter().map(|(_, view)| view.term).max().unwrap_or(0);
        let leads = |(node, view): &&(u64, &GroupStatus)| {
            view.role == Role::Leader && view.term == term && view.leader == Some(*node)
        };
        let leader = views.iter().find(leads);
        let newest = views.iter().max_by_key(|(_, view)| (view.applied_index, view.committed_index));
        let best = leader.or(newest).map(|(_, view)| *view).cloned().unwrap_or_default();
        Self {
            id,
            state: match leader {
                Some((_, view)) if view.serving => State::Serving,
                Some(_) => State::NotServing,
                None => State::NoLeader,
            },
            leader: leader.map(|(node, _)| *node),
            term,
            committed_index: best.committed_index,
            keys: best.keys,
            bytes: best.bytes,
            log_bytes: best.log_bytes,
            replicas: replicas(views, leader.map(|(_, view)| *view), members),
        }
    }

    fn row(&self) -> Vec<String> {
        // The controller's has no keys.
        let data = |text: String| if self.id == CONTROLLER { "-".to_owned() } else { text };
        let lagging: Vec<String> = self.replicas.iter().filter_map(Replica::complaint).collect();
        let state = match self.state {
            State::Serving => "serving",
            State::NotServing => "NOT SERVING",
            State::NoLeader => "NO LEADER",
        };
        vec![
            format!("g{}", self.id),
            state.into(),
            self.leader.map_or("-".into(), |node| format!("n{node}")),
            self.term.to_string(),
            self.committed_index.to_string(),
            data(self.keys.to_string()),
            data(human_bytes(self.bytes)),
            human_bytes(self.log_bytes),
            if lagging.is_empty() { "-".into() } else { lagging.join(", ") },
        ]
    }
}

/// Every replica that anybody knows of. A leader knows how far its followers have come, once they have answered it;
/// otherwise each that answers here is compared with the longest log among them.
fn replicas(views: &[(u64, &GroupStatus)], leader: Option<&GroupStatus>, members: &[u64]) -> Vec<Replica> {
    let followers = leader.map(|view| view.followers.as_slice()).unwrap_or_default();
    let answering = views.iter().map(|(node, _)| *node);
    let nodes: BTreeSet<u64> = answering
        .chain(followers.iter().map(|follower| follower.node))
        .chain(members.iter().copied())
        .collect();
    let longest = views.iter().map(|(_, view)| view.last_index).max().unwrap_or(0);
    let replica = |node| {
        let own = views.iter().find(|(answering, _)| *answering == node).map(|(_, view)| *view);
        // A new leader shows a follower that it has not heard of yet at 0, as if it lacked the whole log.
        let heard_of = followers.iter().find(|follower| follower.node == node && follower.matched_index > 0);
        let known = heard_of.map(|follower| follower.lag_entries);
        let lag_entries = known.or_else(|| Some(longest.saturating_sub(own?.last_index)));
        Replica { node, role: own.map(|view| view.role), lag_entries }
    };
    nodes.into_iter().map(replica).collect()
}

impl Replica {
    /// What is wrong with it, where anything is. One that is out of reach is named even if it lacked nothing when it
    /// was last heard of: nothing says that it still has it.
    fn complaint(&self) -> Option<String> {
        let behind = match self.lag_entries {
            Some(lag) if lag > 0 => format!(" by {lag}"),
            _ => String::new(),
        };
        let away = match self.role {
            None => " (unreachable)",
            Some(Role::Stopped) => " (stopped)",
            Some(_) => "",
        };
        let is_well = behind.is_empty() && away.is_empty();
        (!is_well).then(|| format!("n{}{behind}{away}", self.node))
    }
}

impl Report {
    fn row(&self) -> Vec<String> {
        match &self.status {
            None => vec![
                self.id.map_or("?".into(), |id| format!("n{id}")),
                self.address.clone(),
                format!("unreachable: {}", self.error.as_deref().unwrap_or("no answer")),
            ],
            Some(status) => status_row(&self.address, status),
        }
    }
}

fn status_row(address: &str, status: &NodeStatus) -> Vec<String> {
    let leads: Vec<String> = status
        .groups
        .iter()
        .filter(|group| group.role == Role::Leader && group.serving)
        .map(|group| format!("g{}", group.id))
        .collect();
    vec![
        format!("n{}", status.id),
        address.to_owned(),
        status.version.clone(),
        human_time(status.uptime_ms),
        human_bytes(status.disk_bytes),
        human_bytes(status.memory_rss_bytes),
        status.groups.len().to_string(),
        if leads.is_empty() { "-".into() } else { leads.join(" ") },
    ]
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvserver::service::FollowerStatus;

    fn report(node: u64, role: Role, term: u64, leader: Option<u64>) -> Report {
        let followers = match role {
            Role::Leader => vec![
                FollowerStatus { node: 2, matched_index: 7, lag_entries: 0 },
                FollowerStatus { node: 3, matched_index: 5, lag_entries: 2 },
            ],
            _ => Vec::new(),
        };
        let status = GroupStatus { id: 1, role, term, leader, followers, keys: 9, ..GroupStatus::default() };
        let group = GroupStatus { serving: true, last_index: 7, ..status };
        let status =
            NodeStatus { id: node, cluster: "c".into(), groups: vec![group], ..NodeStatus::default() };
        Report { id: Some(node), address: format!("h{node}:1"), status: Some(status), error: None }
    }

    fn unreachable(node: u64) -> Report {
        let error = Some("connection refused".into());
        Report { id: Some(node), address: format!("h{node}:1"), status: None, error }
    }

    fn summary(reports: Vec<Report>) -> Summary {
        let group = ClusterGroup { id: 1, replicas: vec![1, 2, 3], ..ClusterGroup::default() };
        Summary::of(reports, &[group])
    }

    /// The leader of the newest term is shown with its laggards, and a node that does not answer as such.
    #[test]
    fn a_group_that_serves() {
        let summary = summary(vec![
            report(1, Role::Leader, 7, Some(1)),
            report(2, Role::Follower, 7, Some(1)),
            unreachable(3),
        ]);
        assert!(summary.all_serve());
        let text = summary.to_text();
        assert!(text.contains("n3    h3:1     unreachable: connection refused"), "{text}");
        assert!(text.contains("serving") && text.contains("  n3 by 2 (unreachable)\n"), "{text}");
    }

    /// A replica that lacked nothing when it was last heard of is shown all the same once it does not answer.
    #[test]
    fn a_dead_replica_is_not_hidden() {
        let reports =
            vec![report(1, Role::Leader, 7, Some(1)), unreachable(2), report(3, Role::Follower, 7, Some(1))];
        let text = summary(reports).to_text();
        assert!(text.contains("  n2 (unreachable), n3 by 2\n"), "{text}");
    }

    /// How far a replica is behind of which its leader has not heard is not known, unless it says so itself.
    #[test]
    fn a_replica_not_heard_of() {
        let mut leader = report(1, Role::Leader, 7, Some(1));
        let followers = &mut leader.status.as_mut().expect("it answers").groups[0].followers;
        followers.iter_mut().for_each(|follower| (follower.matched_index, follower.lag_entries) = (0, 7));
        let text = summary(vec![leader, report(2, Role::Follower, 7, Some(1)), unreachable(3)]).to_text();
        assert!(text.ends_with("  n3 (unreachable)\n"), "{text}");
    }

    /// A leader that does not serve, whyever, is shown as its group's leader, leads nothing, and the group does not
    /// serve; nothing is said of a quorum, which it may have.
    #[test]
    fn a_leader_that_does_not_serve() {
        let mut alone = report(1, Role::Leader, 7, Some(1));
        alone.status.as_mut().expect("it answers").groups[0].serving = false;
        let summary = summary(vec![alone, unreachable(2), unreachable(3)]);
        assert!(!summary.all_serve());
        let text = summary.to_text();
        assert!(text.contains("NOT SERVING  n1") && !text.contains("  g1"), "{text}");
        assert!(text.contains("n2 (unreachable), n3 by 2 (unreachable)"), "{text}");
    }

    /// One who still believes to lead an older term, or whose leader does not answer, leaves the group unled.
    #[test]
    fn an_unled_group() {
        let deposed = vec![report(1, Role::Leader, 6, Some(1)), report(2, Role::Candidate, 7, None)];
        let lost = vec![report(2, Role::Follower, 7, Some(1)), unreachable(1)];
        for reports in [deposed, lost] {
            let summary = summary(reports);
            assert!(!summary.all_serve() && summary.to_text().contains("NO LEADER"), "{summary:?}");
        }
        assert!(!summary(vec![]).all_serve());
    }

    /// A group none of whose nodes answers is shown as such, beside those that serve, and is not counted as serving.
    #[test]
    fn a_group_out_of_reach() {
        let reports = vec![report(1, Role::Leader, 7, Some(1)), unreachable(2), unreachable(3)];
        let group = |id, replicas| ClusterGroup { id, replicas, ..ClusterGroup::default() };
        let summary = Summary::of(reports, &[group(1, vec![1]), group(2, vec![2, 3])]);
        assert!(!summary.all_serve());
        let text = summary.to_text();
        assert!(text.contains("g1     serving"), "{text}");
        let lost = text.lines().last().expect("there are groups");
        assert!(lost.starts_with("g2     NO LEADER"), "{text}");
        assert!(lost.ends_with("  n2 (unreachable), n3 (unreachable)"), "{text}");
    }

    /// The controller's group is shown among the others, without keys, and counts: a cluster whose controller is unled
    /// does not wholly serve, and a controller alone serves nothing.
    #[test]
    fn the_controller_is_counted() {
        let own = |node, role, leader| GroupStatus {
            id: CONTROLLER,
            role,
            term: 4,
            leader,
            serving: role == Role::Leader && leader == Some(node),
            ..GroupStatus::default()
        };
        let with = |role, leader| {
            let mut report = report(1, Role::Leader, 7, Some(1));
            report.status.as_mut().expect("it answers").groups.insert(0, own(1, role, leader));
            summary(vec![report])
        };
        let led = with(Role::Leader, Some(1));
        assert!(led.all_serve());
        let text = led.to_text();
        let line = text.lines().find(|line| line.starts_with("g0")).expect("it is shown");
        let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["g0", "serving", "n1", "4", "0", "-", "-", "0 B", "-"]);
        let unled = with(Role::Candidate, None);
        assert!(!unled.all_serve() && unled.to_text().contains("g0     NO LEADER"), "{unled:?}");
        let mut alone = led;
        alone.groups.retain(|group| group.id == CONTROLLER);
        assert!(!alone.all_serve());
    }

    /// Without a leader, each replica that answers is compared with the longest log among them.
    #[test]
    fn lag_without_a_leader() {
        let mut short = report(2, Role::Candidate, 7, None);
        short.status.as_mut().expect("it answers").groups[0].last_index = 3;
        let text = summary(vec![unreachable(1), short, report(3, Role::Follower, 7, None)]).to_text();
        assert!(text.contains("  n1 (unreachable), n2 by 4\n"), "{text}");
    }

    /// A move is shown with how far it has come, whichever node drives it; where none is, there is no table.
    #[test]
    fn moves_are_shown() {
        let mut reports = vec![report(1, Role::Leader, 2, Some(1)), report(2, Role::Follower, 2, Some(1))];
        assert!(!Summary::of(reports.clone(), &[]).to_text().contains("MOVE"));
        let (shard, from, to, id, phase) = (7, 1, 2, 9, "copying".to_owned());
        let (copied_bytes, remaining_bytes) = (3 << 20, 5 << 20);
        let moving = MoveStatus {
            shard,
            from,
            to,
            id,
            phase,
            copied_bytes,
            remaining_bytes,
            copies: 1,
            took_ms: 2_000,
        };
        reports[1].status.as_mut().unwrap().moves.push(moving);
        let text = Summary::of(reports, &[]).to_text();
        let line = text.lines().find(|line| line.starts_with("s7")).unwrap();
        let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["s7", "g1", "g2", "copying", "3.0 MiB", "5.0 MiB", "1.5 MiB/s", "2s"]);
    }
}
