//! Many operations in one message: what front ends forward and what the Rust client sends.

use crate::{Answer, Operation, Stamp};
use bincode::{BorrowDecode, Decode, Encode};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Consistency {
    /// Sees every write acknowledged before it began (ReadIndex on the leader).
    #[default]
    Linearizable,
    /// As linearizable, answered by any replica that asks the leader for its index.
    Follower,
    /// Whatever this replica has applied; refused with `too_stale` beyond `lag_ms_max`, where given.
    Stale {
        /// The largest lag to accept, in milliseconds.
        lag_ms_max: Option<u64>,
    },
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Item<'a> {
    /// For writes: the place in the client's session with the key's shard.
    pub stamp: Option<Stamp>,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// Independent operations, each answered on its own.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BatchRequest<'a> {
    /// The time left to answer, in milliseconds; the receiver drops what it cannot answer by then.
    pub deadline_ms: u32,
    /// For the reads among them.
    pub consistency: Consistency,
    /// One id through answers, logs and traces of every node that the request touches.
    pub request_id: u128,
    /// The operations, at most [`Limits::batch_bytes_max`](crate::Limits::batch_bytes_max) in all.
    pub items: Vec<Item<'a>>,
}

/// The answers, in the order of the items.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BatchReply<'a> {
    /// One for each item.
    pub answers: Vec<Answer<'a>>,
    /// How far the answering replica was behind the leader, in milliseconds; 0 for linearizable reads.
    pub lag_ms: u64,
}
