//! What operators see of the controller's map: the JSON of `/v1/cluster/map` and of the changes beside it. Field
//! names are part of the HTTP API; they may be added to, never renamed.

use proto::{
    ClusterMap, GroupId, GroupState, GroupView, MoveState, MoveView, NodeState, NodeView, PlannedMove,
    ShardMap,
};
use serde::{Deserialize, Serialize};

/// The controller's map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapJson {
    /// Which group serves which shard.
    #[serde(flatten)]
    pub shard_map: ShardMapJson,
    /// What operators set.
    pub settings: SettingsJson,
    /// All nodes, by id.
    pub nodes: Vec<NodeJson>,
    /// All groups of data, by id.
    pub groups: Vec<GroupJson>,
    /// The controller's own group, once its leader has reported its members.
    #[serde(default)]
    pub controller: Option<GroupJson>,
    /// The moves that have started, by shard.
    pub moves: Vec<MoveJson>,
    /// The shards that failed to move and are still to, by shard.
    pub setbacks: Vec<SetbackJson>,
}

/// Which group serves which shard, at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMapJson {
    /// The version of the map.
    pub epoch: u64,
    /// How many shards there are.
    pub shards: u32,
    /// `[first_shard, last_shard, owner, target]` ranges, ascending; together they cover every shard.
    pub shard_runs: Vec<(u32, u32, u64, u64)>,
}

/// What operators set for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsJson {
    /// Whether moves rest.
    pub moves_paused: bool,
    /// What all copies together may take of one node; none for no limit.
    pub copy_bytes_per_second: Option<u64>,
    /// The most moves at once.
    pub moves_max: u32,
    /// How many replicas a group is to have.
    pub replicas: u32,
    /// How long a node may be silent before it counts as dead.
    pub dead_after_ms: u64,
}

/// A node on the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeJson {
    /// The node's id.
    pub id: u64,
    /// `host:port` of the node-to-node transport.
    pub peer: String,
    /// `host:port` of the HTTP front end.
    pub http: String,
    /// `up`, `draining` or `dead`.
    pub state: String,
    /// What fails together with it.
    pub zone: String,
    /// How much it can carry, beside the others.
    pub weight: u32,
}

/// A group on the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupJson {
    /// The group's id.
    pub id: u64,
    /// `serving` or `leaving`.
    pub state: String,
    /// Its share of shards, beside the others'.
    pub weight: u32,
    /// The nodes where its replicas are to be.
    pub replicas: Vec<u64>,
    /// The members with a vote, as last reported.
    pub voters: Vec<u64>,
    /// The members without a vote, as last reported.
    pub learners: Vec<u64>,
    /// Who leads it, as far as this node knows.
    pub leader: Option<u64>,
    /// Who is to lead it, so that leaders are spread.
    pub preferred: Option<u64>,
}

/// A move on the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveJson {
    /// The shard.
    pub shard: u32,
    /// Where it is.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
    /// The move's id.
    pub id: u64,
    /// `running` or `cancelling`.
    pub state: String,
}

/// A shard that failed to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetbackJson {
    /// The shard.
    pub shard: u32,
    /// How often.
    pub count: u32,
    /// What the last destination said.
    pub why: String,
}

/// What a change answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedJson {
    /// The epoch of the map after the change.
    pub epoch: u64,
    /// The groups that were added, where groups were to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<u64>>,
}

/// What a change would bring about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanJson {
    /// The epoch of the map by which it was planned.
    pub epoch: u64,
    /// The moves, by shard.
    pub moves: Vec<PlannedMoveJson>,
}

/// A move that a change would bring about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMoveJson {
    /// The shard.
    pub shard: u32,
    /// Where it is.
    pub from: u64,
    /// Where it would go.
    pub to: u64,
}

impl From<&ClusterMap> for MapJson {
    fn from(map: &ClusterMap) -> Self {
        let settings = &map.settings;
        let setbacks = map.setbacks.iter().map(|setback| SetbackJson {
            shard: setback.shard.0,
            count: setback.count,
            why: setback.why.clone(),
        });
        let (own, data): (Vec<&GroupView>, Vec<&GroupView>) =
            map.groups.iter().partition(|view| view.group == GroupId(0));
        Self {
            shard_map: ShardMapJson::from(&map.shard_map),
            settings: SettingsJson {
                moves_paused: settings.moves_paused,
                copy_bytes_per_second: settings.copy_bytes_per_second,
                moves_max: settings.moves_max,
                replicas: settings.replicas,
                dead_after_ms: settings.dead_after_ms,
            },
            nodes: map.nodes.iter().map(NodeJson::from).collect(),
            groups: data.into_iter().map(GroupJson::from).collect(),
            controller: own.into_iter().next().map(GroupJson::from),
            moves: map.moves.iter().map(MoveJson::from).collect(),
            setbacks: setbacks.collect(),
        }
    }
}

impl From<&ShardMap> for ShardMapJson {
    fn from(map: &ShardMap) -> Self {
        let runs = map.runs.iter().map(|run| {
            let (first, last) = (run.first.0, run.first.0 + (run.count - 1));
            (first, last, run.owner.0, run.target.0)
        });
        Self { epoch: map.epoch.0, shards: map.shards, shard_runs: runs.collect() }
    }
}

impl From<&NodeView> for NodeJson {
    fn from(view: &NodeView) -> Self {
        let state = match view.state {
            NodeState::Up => "up",
            NodeState::Draining => "draining",
            NodeState::Dead => "dead",
        };
        let spec = view.spec.clone();
        Self {
            id: view.node.0,
            peer: spec.peer,
            http: spec.http,
            state: state.into(),
            zone: spec.zone,
            weight: spec.weight,
        }
    }
}

impl From<&GroupView> for GroupJson {
    fn from(view: &GroupView) -> Self {
        let state = match view.state {
            GroupState::Serving => "serving",
            GroupState::Leaving => "leaving",
        };
        Self {
            id: view.group.0,
            state: state.into(),
            weight: view.weight,
            replicas: view.replicas.keys().map(|node| node.0).collect(),
            voters: view.voters.keys().map(|node| node.0).collect(),
            learners: view.learners.keys().map(|node| node.0).collect(),
            leader: view.leader.map(|node| node.0),
            preferred: view.preferred.map(|node| node.0),
        }
    }
}

impl From<&MoveView> for MoveJson {
    fn from(view: &MoveView) -> Self {
        let state = match view.state {
            MoveState::Running => "running",
            MoveState::Cancelling => "cancelling",
        };
        let (shard, from, to, id) = (view.shard.0, view.from.0, view.to.0, view.id.0);
        Self { shard, from, to, id, state: state.into() }
    }
}

impl From<&PlannedMove> for PlannedMoveJson {
    fn from(planned: &PlannedMove) -> Self {
        Self { shard: planned.shard.0, from: planned.from.0, to: planned.to.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{
        ClusterSettings, Epoch, GroupId, Incarnation, NodeId, NodeSpec, SetbackView, ShardId, ShardRun,
    };
    use std::collections::BTreeMap;

    /// The map's JSON is what operators' tools were built against.
    #[test]
    fn golden_map() {
        let run = |first, count, owner, target| ShardRun {
            first: ShardId(first),
            count,
            owner: GroupId(owner),
            target: GroupId(target),
        };
        let spec = NodeSpec {
            peer: "n1:1".into(),
            http: "n1:2".into(),
            zone: "a".into(),
            weight: 1,
            incarnation: Incarnation(5),
        };
        let members: BTreeMap<NodeId, Incarnation> = [(NodeId(1), Incarnation(5))].into();
        let of = |group, state| GroupView {
            group: GroupId(group),
            state,
            weight: 1,
            first: members.clone(),
            replicas: members.clone(),
            voters: members.clone(),
            learners: BTreeMap::new(),
            leader: Some(NodeId(1)),
            preferred: None,
        };
        let map = ClusterMap {
            shard_map: ShardMap { epoch: Epoch(7), shards: 4, runs: vec![run(0, 3, 1, 1), run(3, 1, 1, 2)] },
            settings: ClusterSettings {
                moves_paused: false,
                copy_bytes_per_second: None,
                moves_max: 2,
                replicas: 3,
                dead_after_ms: 9,
            },
            nodes: vec![NodeView { node: NodeId(1), spec, state: NodeState::Draining }],
            groups: vec![of(0, GroupState::Serving), of(1, GroupState::Leaving)],
            moves: vec![MoveView {
                shard: ShardId(3),
                from: GroupId(1),
                to: GroupId(2),
                id: Epoch(6),
                state: MoveState::Cancelling,
            }],
            setbacks: vec![SetbackView { shard: ShardId(3), count: 1, why: "full".into() }],
            groups_at_birth: 1,
        };
        let golden = r#"{"epoch":7,"shards":4,"shard_runs":[[0,2,1,1],[3,3,1,2]],"settings":{"moves_paused":false,"copy_bytes_per_second":null,"moves_max":2,"replicas":3,"dead_after_ms":9},"nodes":[{"id":1,"peer":"n1:1","http":"n1:2","state":"draining","zone":"a","weight":1}],"groups":[{"id":1,"state":"leaving","weight":1,"replicas":[1],"voters":[1],"learners":[],"leader":1,"preferred":null}],"controller":{"id":0,"state":"serving","weight":1,"replicas":[1],"voters":[1],"learners":[],"leader":1,"preferred":null},"moves":[{"shard":3,"from":1,"to":2,"id":6,"state":"cancelling"}],"setbacks":[{"shard":3,"count":1,"why":"full"}]}"#;
        let view = MapJson::from(&map);
        assert_eq!(serde_json::to_string(&view).unwrap(), golden);
        assert_eq!(serde_json::from_str::<MapJson>(golden).unwrap(), view);
    }
}
