//! What nodes ask each other about the controller, on the request lane.
//!
//! ```text
//!   Execute{command} ─▶ whoever leads group 0 ─▶ Executed{answer}, or NotLeader{leader}
//!   Follow{above}    ─▶ any node              ─▶ Map{map} once it knows a later one, or Nothing when the wait is over
//!   Alive{node, …}   ─▶ whoever leads group 0 ─▶ Heard, or NotLeader{leader}
//!   Member{group, n} ─▶ whoever leads group   ─▶ Member{yes or no}, or NotLeader{leader}
//!   Plan{command}    ─▶ whoever leads group 0 ─▶ Planned{epoch, moves}, or NotLeader{leader}
//!   Silence{n, disk} ─▶ whoever leads group 0 ─▶ Silent{since}, or NotLeader{leader}; any node with `relay`
//! ```

use bincode::{Decode, Encode};
use proto::{
    ClusterMap, ControllerAnswer, ControllerCommand, ControllerError, Epoch, GroupId, Incarnation, NodeId,
    PlannedMove, ShardMap,
};
use std::collections::BTreeSet;

/// The number of this service on the request lane.
pub const CONTROLLER_SERVICE: u8 = 17;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Question {
    /// Carry out a command.
    Execute(ControllerCommand),
    /// Tell the map as soon as its epoch is above this one.
    Follow {
        /// The epoch that the asker knows.
        above: Epoch,
        /// How long to wait for it, in milliseconds.
        wait_ms: u32,
    },
    /// Which group served which shard at an epoch, or does now.
    History(Option<Epoch>),
    /// A node lives.
    Alive(Sign),
    /// Is the node a member of the group? For whoever leads that group.
    Member {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// Which moves would a command bring about? It is not carried out.
    Plan(ControllerCommand),
    /// For how long was nothing heard of a node?
    Silence {
        /// The node.
        node: NodeId,
        /// On which disk.
        incarnation: Incarnation,
        /// Whether a node that does not lead asks whoever does: the asker may go by the leader's own number,
        /// and would reach nobody there.
        relay: bool,
    },
}

/// What a command would bring about.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Plan {
    /// The epoch of the map by which it was planned: expect it, and the command brings about just this.
    pub epoch: Epoch,
    /// The moves, by shard.
    pub moves: Vec<PlannedMove>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Sign {
    /// Who.
    pub(crate) node: NodeId,
    /// On which disk.
    pub(crate) incarnation: Incarnation,
    /// The groups of which the disk holds a replica.
    pub(crate) groups: BTreeSet<GroupId>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Word {
    /// The command was carried out, or refused.
    Executed(ControllerAnswer),
    /// The command may have been carried out.
    Unknown(String),
    /// Ask whoever leads.
    NotLeader(Option<NodeId>),
    /// Not now: ask again later; nothing was done.
    Busy(String),
    /// The map.
    Map(Box<ClusterMap>),
    /// Nothing newer.
    Nothing,
    /// The map of an epoch.
    History(Result<ShardMap, ControllerError>),
    /// The sign was heard.
    Heard,
    /// Whether the node is a member, as a leader knows that a quorum has just confirmed.
    Member(bool),
    /// What the command would bring about, or why it would be refused.
    Planned(Result<Plan, ControllerError>),
    /// For how long nothing was heard of a node, in milliseconds; `None` where it was not heard at all by
    /// whoever leads.
    Silent(Option<u64>),
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ControllerChange, ShardId};

    /// What goes over the wire does not drift.
    #[test]
    fn golden_messages() {
        let execute = Question::Execute(ControllerCommand {
            expect: Some(Epoch(7)),
            change: ControllerChange::MovesPause,
        });
        let rebalance = ControllerCommand { expect: None, change: ControllerChange::ShardRebalance };
        let sign = Sign {
            node: NodeId(2),
            incarnation: Incarnation(3),
            groups: BTreeSet::from([GroupId(1), GroupId(4)]),
        };
        let questions = [
            (execute, vec![1, 0, 1, 7, 16]),
            (Question::Follow { above: Epoch(5), wait_ms: 100 }, vec![1, 1, 5, 100]),
            (Question::History(None), vec![1, 2, 0]),
            (Question::Alive(sign), vec![1, 3, 2, 3, 2, 1, 4]),
            (Question::Plan(rebalance), vec![1, 5, 0, 12]),
            (
                Question::Silence { node: NodeId(4), incarnation: Incarnation(9), relay: true },
                vec![1, 6, 4, 9, 1],
            ),
        ];
        for (question, bytes) in questions {
            assert_eq!(proto::encode(&question), bytes, "{question:?}");
            assert_eq!(proto::decode::<Question>(&bytes), Ok(question));
        }
        let planned = PlannedMove { shard: ShardId(7), from: GroupId(1), to: GroupId(2) };
        let plan = Plan { epoch: Epoch(4), moves: vec![planned] };
        let words = [
            (Word::NotLeader(Some(NodeId(3))), vec![1, 2, 1, 3]),
            (Word::Nothing, vec![1, 5]),
            (Word::Heard, vec![1, 7]),
            (Word::Planned(Ok(plan)), vec![1, 9, 0, 4, 1, 7, 1, 2]),
            (Word::Silent(Some(7)), vec![1, 10, 1, 7]),
        ];
        for (word, bytes) in words {
            assert_eq!(proto::encode(&word), bytes, "{word:?}");
            assert_eq!(proto::decode::<Word>(&bytes), Ok(word));
        }
    }
}
