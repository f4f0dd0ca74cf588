//! The shard controller: it knows the nodes, the groups and which group serves which shard, and decides what
//! belongs where.
//!
//! # The problem
//!
//! Keys are hashed to shards, shards are served by groups, and a group's replicas are on nodes. Nodes come,
//! die, lose their disks and return; groups are added and removed; and at every moment each shard must have
//! exactly one owner on whom everybody agrees. So the map is itself a replicated machine, group 0, and
//! whatever changes it is a command in its log. This crate is that machine, without a runtime, a clock or
//! randomness, and beside it each node's handle on it, which has them: that follows the map, asks whoever leads,
//! and has the leader judge who lives. Who sends the commands, copies shards and changes members asks it what is to be
//! done, and tells it what was.
//!
//! # The words
//!
//! The map's version is its *epoch*; it rises with every change but that of a group's leader. A shard has an
//! *owner*, who serves it, and a *target*, who is to; where they differ it is *due*. A few due shards at a
//! time have a *move*, known by the epoch at which it started. A group has *replicas* that are wanted, each
//! under the *incarnation* of its node (what the node's disk is), and *members* that its leader reported
//! last, each on the disk that it was added with. Group 0 is such a group too, from its leader's first report on: it
//! is placed like the others, but owns no shard and never leaves. A group that was removed is *leaving* until it owns
//! nothing, then *spent*, then gone; its id is never used again.
//!
//! # How a change travels
//!
//! ```text
//!  operator ─ GroupAdd, NodeDrain, ShardMove … ─▶ ┌────────────┐ epoch e+1
//!  driver ─── NodeDead, NodeAlive, GroupGone ───▶ │ Controller │ ─── ClusterMap ──▶ routers, replicas
//!  node ───── NodeJoin ─────────────────────────▶ └────────────┘
//!                                                    ▲  │ moves, a few at a time
//!  shard: MoveDone{from, to, id} or MoveAborted{id} ─┤  ├──▶ the destination's leader copies the shard
//!  group: MembersReport{term, index, voters, …} ─────┘  └──▶ next_step: a learner, a vote, a removal
//! ```
//!
//! A move's end is told by the destination alone, and only the move that is meant can end (shard, groups and
//! id must match), so of rivals the one who was superseded is refused. The owner changes in the very command
//! that says that the destination serves. Operators may name the epoch that they decided by, and are refused
//! where it is past.
//!
//! # What is promised
//!
//! - A refused command has changed nothing, and its error says what to do next.
//! - At equal weights no group is to have two shards more than another; otherwise shares follow the weights
//!   after Webster's method. As few shards as possible change their target, and none between groups that give
//!   and take nothing. What is put somewhere by [`ShardMove`](proto::ControllerChange::ShardMove) stays there
//!   until shards are next balanced: by a group that is added, removed or weighed anew, or by
//!   [`ShardRebalance`](proto::ControllerChange::ShardRebalance).
//! - Replicas of a group are on distinct nodes in as many zones as there are; a node that drains or is dead
//!   is given none; a group never gives up a replica on a dead node before there is another place for it.
//! - Every epoch's map can be asked for, thousands of epochs back.
//!
//! # An example
//!
//! Three nodes and three groups; a fourth group takes its share of shards, one move after another.
//!
//! ```
//! use proto::*;
//! use shardctrler::Controller;
//! use std::collections::BTreeMap;
//!
//! let mut controller = Controller::new();
//! let tell = |controller: &mut Controller, change| {
//!     controller.execute(&ControllerCommand { expect: None, change })
//! };
//! let node = |id: u64| {
//!     let (peer, http, zone) = (format!("10.0.0.{id}:7201"), format!("10.0.0.{id}:7101"), String::new());
//!     (NodeId(id), NodeSpec { peer, http, zone, weight: 1, incarnation: Incarnation(u128::from(id) << 64) })
//! };
//! let nodes: BTreeMap<NodeId, NodeSpec> = (1..=3).map(node).collect();
//! let birth = Birth { shards: 256, groups: 3, replicas: 3, nodes };
//! tell(&mut controller, ControllerChange::Birth(birth))?;
//! assert_eq!(controller.shard_map(None)?.owner_of(ShardId(0)), Some(GroupId(1)));
//!
//! // What would happen, then the same for good, unless somebody else has changed the map.
//! let change = ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 };
//! let add = ControllerCommand { expect: Some(controller.epoch()), change };
//! assert_eq!(controller.plan(&add)?.len(), 64);
//! controller.execute(&add)?;
//!
//! // Destinations do what they are asked to, two at a time.
//! while let Some(moved) = controller.cluster_map()?.moves.first().cloned() {
//!     let MoveView { shard, from, to, id, .. } = moved;
//!     tell(&mut controller, ControllerChange::MoveDone { shard, from, to, id })?;
//! }
//! let map = controller.shard_map(None)?;
//! let arrived = map.runs.iter().filter(|run| run.owner == GroupId(4)).map(|run| run.count).sum::<u32>();
//! assert_eq!(arrived, 64);
//! assert_eq!(controller.shard_map(Some(Epoch(1)))?.owner_of(ShardId(0)), Some(GroupId(1)));
//! # Ok::<(), ControllerError>(())
//! ```
//!
//! # What is missing
//!
//! The number of replicas of a group is that of the birth. A move whose destination has lost its quorum for good
//! cannot be ended, since only the destination may say how it ended; its shard is served where it was. Placement looks at weights and counts, not at bytes or load.

mod api;
pub mod bounds;
mod controller;
pub mod failpoint;
mod handle;
mod liveness;
mod machine;
mod membership;
pub mod placement;
mod seed;

pub use api::{CONTROLLER_SERVICE, Plan};
pub use controller::Controller;
pub use handle::{ControllerHandle, ExecuteError, Settings, Shape};
pub use liveness::spent;
pub use machine::ControllerMachine;
pub use membership::{Disk, Members, MembershipStep, has_quorum, next_step};
pub use seed::{SeedError, map_of, silence_of};
