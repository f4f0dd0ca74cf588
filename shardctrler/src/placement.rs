//! What belongs where: shards to groups, replicas to nodes, leaders to replicas.
//!
//! Pure functions of their arguments. They know neither epochs nor moves under way, and the same arguments
//! give the same placement on every replica of the controller. Each begins with what is there and changes as
//! little as it can.

mod leaders;
mod replicas;
mod shards;

pub use leaders::{Candidates, leaders};
pub use replicas::{Site, place};
pub use shards::{Held, assign, quotas};
