//! Replicated machines on disk.

mod codec;
mod commands;
mod compaction;
mod config;
mod disk;
mod error;
mod formation;
mod group;
mod host;
mod log;
mod machine;
mod network;
mod peer;
mod proposer;
mod read_index;
mod replica;
mod runtime;
mod snapshot;
mod staleness;
mod status;
mod storage;
mod transport;
mod types;

pub use config::RaftConfig;
pub use disk::{
    Disk, DiskCounters, DiskError, Effect, Fault, SimulatedDisk, SledDisk, Table, VALUE_BYTES_MAX,
};
pub use error::{Fatal, MemberError, ProposeError, ReadError};
pub use group::Group;
pub use host::{Host, HostConfig, Services};
pub use machine::{CopyId, CopyStep, LoadError, Machine, Moment};
pub use network::{Link, LinkCounters, Listener, Network, Observer, SimulatedNetwork, Stream, TcpNetwork};
pub use runtime::{Clock, Random, SimulatedClock, SystemClock, random, seed};
pub use status::{GroupStatus, Role};
pub use storage::{Identity, LATENCY_BUCKETS, StorageConfig, StorageError, StorageStats};
pub use transport::{CallError, LaneStats, RaftCalls, Refusal, TransportConfig, TransportStats};
pub use types::Address;
