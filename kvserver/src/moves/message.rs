//! What a shard's destination asks of its source, on the request lane.

use crate::machine::Held;
use bincode::{Decode, Encode};
use proto::{CopyToken, Epoch, GroupId, LifecycleAnswer, NodeId, ShardId};

/// The number of this service on the request lane.
pub(crate) const MOVE_SERVICE: u8 = 18;

/// What is asked of a node that leads the source.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Question {
    /// Export a shard, and begin a copy of it.
    Begin {
        /// The source.
        group: GroupId,
        /// The shard.
        shard: ShardId,
        /// The move.
        epoch: Epoch,
    },
    /// Hand out a piece.
    Next {
        /// The copy.
        copy: CopyToken,
        /// Which piece: one of a window's length from the first that is not known to be taken in.
        number: u64,
        /// About how large, in bytes.
        bytes_max: u32,
    },
    /// Freeze the shard.
    Freeze {
        /// The source.
        group: GroupId,
        /// The shard.
        shard: ShardId,
        /// The destination.
        to: GroupId,
        /// The move.
        epoch: Epoch,
    },
    /// The copy is not needed any more.
    End {
        /// The copy.
        copy: CopyToken,
    },
    /// Go on with a copy that another node has begun and lost.
    Resume {
        /// The source.
        group: GroupId,
        /// The shard.
        shard: ShardId,
        /// The copy.
        copy: CopyToken,
        /// The piece that comes next: no other node can hand out one of this number or above.
        number: u64,
        /// What has come in of it.
        held: Held,
    },
    /// Say whether the shard is frozen.
    State {
        /// The source.
        group: GroupId,
        /// The shard.
        shard: ShardId,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Word {
    /// The copy was begun.
    Begun {
        /// About how much there is to copy, in bytes.
        bytes: u64,
        /// The move for which the shard is frozen already.
        frozen: Option<Epoch>,
        /// The copy.
        copy: CopyToken,
    },
    /// A piece.
    Piece {
        /// The bytes, as the machine handed them out.
        bytes: Vec<u8>,
        /// About how many are left.
        remaining: u64,
        /// The move for which the shard is frozen.
        frozen: Option<Epoch>,
    },
    /// The copy is not here, or not at that piece: begin another.
    Ended,
    /// The step was taken, or refused.
    Taken(LifecycleAnswer),
    /// The copy has ended.
    Done,
    /// Ask whoever leads the source.
    NotLeader(Option<NodeId>),
    /// Not now: ask again later; the step may have been taken.
    Busy(String),
    /// Whether the shard is frozen.
    State {
        /// The move for which it is.
        frozen: Option<Epoch>,
    },
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ClientId, Revision};

    /// What goes over the wire does not drift.
    #[test]
    fn golden_messages() {
        let (group, shard, copy, to, epoch) = (GroupId(1), ShardId(2), CopyToken(3), GroupId(4), Epoch(5));
        let (key, session) = (Some(b"ky".to_vec()), Some(ClientId(9)));
        let held = Held { key, session, revision: Revision(7), bytes: 8 };
        let questions = [
            (Question::Begin { group, shard, epoch }, vec![1, 0, 1, 2, 5]),
            (Question::Next { copy, number: 6, bytes_max: 7 }, vec![1, 1, 3, 6, 7]),
            (Question::Freeze { group, shard, to, epoch }, vec![1, 2, 1, 2, 4, 5]),
            (Question::End { copy }, vec![1, 3, 3]),
            (
                Question::Resume { group, shard, copy, number: 6, held },
                vec![1, 4, 1, 2, 3, 6, 1, 2, b'k', b'y', 1, 9, 7, 8],
            ),
            (Question::State { group, shard }, vec![1, 5, 1, 2]),
        ];
        for (question, bytes) in questions {
            assert_eq!(proto::encode(&question), bytes, "{question:?}");
            assert_eq!(proto::decode::<Question>(&bytes), Ok(question));
        }
        let words = [
            (Word::Begun { bytes: 9, frozen: Some(epoch), copy }, vec![1, 0, 9, 1, 5, 3]),
            (Word::Piece { bytes: vec![8, 9], remaining: 1, frozen: None }, vec![1, 1, 2, 8, 9, 1, 0]),
            (Word::Ended, vec![1, 2]),
            (Word::Taken(Ok(())), vec![1, 3, 0]),
            (Word::NotLeader(Some(NodeId(2))), vec![1, 5, 1, 2]),
            (Word::State { frozen: Some(epoch) }, vec![1, 7, 1, 5]),
        ];
        for (word, bytes) in words {
            assert_eq!(proto::encode(&word), bytes, "{word:?}");
            assert_eq!(proto::decode::<Word>(&bytes), Ok(word));
        }
    }
}
