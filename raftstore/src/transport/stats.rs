//! What the transport counts, by lane; plain numbers for whoever renders them.

use super::frame::{KINDS, Kind};
use super::lane::LaneKind;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One lane's numbers over all peers; all but `in_flight` only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LaneStats { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct LaneCounters { $(pub(crate) $name: AtomicU64,)* }

        impl LaneCounters {
            fn read(&self) -> LaneStats {
                LaneStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Frames written.
    frames_sent,
    /// Bytes written, headers included.
    bytes_sent,
    /// Writes that the frames left in: fewer than frames where they were gathered.
    writes,
    /// Frames read.
    frames_received,
    /// Bytes read, headers included.
    bytes_received,
    /// Connections made.
    connects,
    /// Attempts to connect that failed.
    connect_failures,
    /// Connections lost after they were made.
    connections_lost,
    /// Connections accepted from peers.
    accepted,
    /// Calls and streams that wait for an answer now.
    in_flight,
    /// Calls and streams that ended without an answer in time.
    timeouts,
    /// Calls refused unsent, because a bounded queue was full.
    refused,
}

/// Everything that the transport counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Appends and votes.
    pub entries: LaneStats,
    /// Heartbeats and the confirmations that reads wait for.
    pub heartbeat: LaneStats,
    /// Snapshots.
    pub bulk: LaneStats,
    /// Calls between front ends.
    pub request: LaneStats,
    /// Raft's remote calls sent, by what they ask.
    pub sent: RaftCalls,
}

/// Raft's remote calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftCalls {
    /// Appends with entries, or with news of the commit index.
    pub appends: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Requests for votes.
    pub votes: u64,
    /// Questions whether a vote would be granted.
    pub pre_votes: u64,
    /// Words that another shall lead.
    pub transfers: u64,
    /// Snapshot transfers begun.
    pub snapshots: u64,
    /// Pieces of snapshots.
    pub snapshot_pieces: u64,
}

/// The counters behind [`TransportStats`].
#[derive(Debug)]
pub(crate) struct Counters {
    lanes: [LaneCounters; LaneKind::ALL.len()],
    sent: [AtomicU64; KINDS],
}

impl Default for Counters {
    fn default() -> Self {
        Self { lanes: Default::default(), sent: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counters {
    pub(crate) fn lane(&self, lane: LaneKind) -> &LaneCounters {
        &self.lanes[lane as usize - 1]
    }

    pub(crate) fn count_sent(&self, kind: Kind) {
        add(&self.sent[kind as usize], 1);
    }

    pub(crate) fn read(&self) -> TransportStats {
        let sent = |kind: Kind| self.sent[kind as usize].load(Ordering::Relaxed);
        TransportStats {
            entries: self.lane(LaneKind::Entries).read(),
            heartbeat: self.lane(LaneKind::Heartbeat).read(),
            bulk: self.lane(LaneKind::Bulk).read(),
            request: self.lane(LaneKind::Request).read(),
            sent: RaftCalls {
                appends: sent(Kind::Append),
                heartbeats: sent(Kind::Heartbeat),
                votes: sent(Kind::Vote),
                pre_votes: sent(Kind::PreVote),
                transfers: sent(Kind::TransferLeader),
                snapshots: sent(Kind::SnapshotBegin),
                snapshot_pieces: sent(Kind::SnapshotPiece),
            },
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
