//! What all nodes' reports add up to: pure data in, a table or JSON out.

use super::Report;
use crate::terminal::{columns, human_bytes, human_time};
use kvserver::service::{GroupStatus, NodeStatus, Role};
use serde::Serialize;
use std::collections::BTreeMap;

/// The cluster at a glance.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    cluster: String,
    nodes: Vec<Report>,
    groups: Vec<Group>,
}

/// One group, as the replica with the best knowledge sees it.
#[derive(Debug, PartialEq, Serialize)]
struct Group {
    id: u64,
    /// The leader, only where its own node answered and says so of the newest term.
    leader: Option<u64>,
    term: u64,
    committed_index: u64,
    keys: u64,
    bytes: u64,
    log_bytes: u64,
    /// Followers that lack entries, with how many.
    lagging: BTreeMap<u64, u64>,
}

impl Summary {
    /// Adds up `reports`.
    pub(super) fn of(reports: Vec<Report>) -> Self {
        let statuses = || reports.iter().filter_map(|report| report.status.as_ref());
        let cluster = statuses().map(|status| status.cluster.clone()).next().unwrap_or_default();
        let mut views: BTreeMap<u64, Vec<(u64, &GroupStatus)>> = BTreeMap::new();
        for status in statuses() {
            for group in &status.groups {
                views.entry(group.id).or_default().push((status.id, group));
            }
        }
        let groups = views.into_iter().map(|(id, views)| Group::of(id, &views)).collect();
        Self { cluster, groups, nodes: reports }
    }

    /// Whether every group has a leader that answered.
    pub(super) fn all_led(&self) -> bool {
        !self.groups.is_empty() && self.groups.iter().all(|group| group.leader.is_some())
    }

    /// Two tables, one of nodes and one of groups.
    pub(super) fn to_text(&self) -> String {
        let mut nodes =
            vec![row(["NODE", "ADDRESS", "VERSION", "UPTIME", "DISK", "MEMORY", "REPLICAS", "LEADS"])];
        nodes.extend(self.nodes.iter().map(Report::row));
        let mut groups =
            vec![row(["GROUP", "LEADER", "TERM", "COMMITTED", "KEYS", "BYTES", "LOG", "LAGGING"])];
        groups.extend(self.groups.iter().map(Group::row));
        format!("cluster {}\n\n{}\n{}", self.cluster, columns(&nodes), columns(&groups))
    }
}

impl Group {
    /// `views`: what each node says of the group, with the node's id. Never empty.
    fn of(id: u64, views: &[(u64, &GroupStatus)]) -> Self {
        let term = views.iter().map(|(_, view)| view.term).max().unwrap_or(0);
        let leads = |(node, view): &&(u64, &GroupStatus)| {
            view.role == Role::Leader && view.term == term && view.leader == Some(*node)
        };
        let leader = views.iter().find(leads);
        let newest = views.iter().max_by_key(|(_, view)| (view.applied_index, view.committed_index));
        let best = leader.or(newest).map(|(_, view)| *view).cloned().unwrap_or_default();
        let followers = leader.map(|(_, view)| view.followers.as_slice()).unwrap_or_default();
        let lagging = followers.iter().filter(|follower| follower.lag_entries > 0);
        Self {
            id,
            leader: leader.map(|(node, _)| *node),
            term,
            committed_index: best.committed_index,
            keys: best.keys,
            bytes: best.bytes,
            log_bytes: best.log_bytes,
            lagging: lagging.map(|follower| (follower.node, follower.lag_entries)).collect(),
        }
    }

    fn row(&self) -> Vec<String> {
        let lagging: Vec<String> =
            self.lagging.iter().map(|(node, lag)| format!("n{node} by {lag}")).collect();
        vec![
            format!("g{}", self.id),
            self.leader.map_or("NONE".into(), |node| format!("n{node}")),
            self.term.to_string(),
            self.committed_index.to_string(),
            self.keys.to_string(),
            human_bytes(self.bytes),
            human_bytes(self.log_bytes),
            if lagging.is_empty() { "-".into() } else { lagging.join(", ") },
        ]
    }
}

impl Report {
    fn row(&self) -> Vec<String> {
        match &self.status {
            None => vec![
                "?".into(),
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
        .filter(|group| group.role == Role::Leader)
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
            Role::Leader => vec![FollowerStatus { node: 3, matched_index: 5, lag_entries: 2 }],
            _ => Vec::new(),
        };
        let group = GroupStatus { id: 1, role, term, leader, followers, keys: 9, ..GroupStatus::default() };
        let status =
            NodeStatus { id: node, cluster: "c".into(), groups: vec![group], ..NodeStatus::default() };
        Report { address: format!("h{node}:1"), status: Some(status), error: None }
    }

    fn unreachable(node: u64) -> Report {
        Report { address: format!("h{node}:1"), status: None, error: Some("connection refused".into()) }
    }

    /// The leader of the newest term is shown with its laggards, and a node that does not answer as such.
    #[test]
    fn a_led_group() {
        let summary = Summary::of(vec![
            report(1, Role::Leader, 7, Some(1)),
            report(2, Role::Follower, 7, Some(1)),
            unreachable(3),
        ]);
        assert!(summary.all_led());
        let text = summary.to_text();
        assert!(text.contains("n3 by 2") && text.contains("unreachable: connection refused"), "{text}");
    }

    /// One who still believes to lead an older term, or whose leader does not answer, leaves the group unled.
    #[test]
    fn an_unled_group() {
        let deposed = vec![report(1, Role::Leader, 6, Some(1)), report(2, Role::Candidate, 7, None)];
        let lost = vec![report(2, Role::Follower, 7, Some(1)), unreachable(1)];
        for reports in [deposed, lost, vec![]] {
            let summary = Summary::of(reports);
            assert!(!summary.all_led(), "{summary:?}");
        }
    }
}
