//! `flotilla shard …`: which group serves which shard, and what would or shall move.

use crate::admin::{self, AdminArgs, Asking, EXIT_CODES};
use crate::kv::Failure;
use crate::terminal::columns;
use clap::{Args, Subcommand};
use kvserver::service::{ChangedJson, MapJson, PlanJson};
use serde_json::json;

/// Look at shards and move them.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ShardArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which group serves which shards, and what moves
    #[command(after_help = EXIT_CODES)]
    Map,
    /// Show which shards a change of groups would move, without changing anything
    #[command(after_help = EXIT_CODES)]
    Plan {
        #[command(flatten)]
        of: PlanOf,
    },
    /// Move a shard to another group; it stays there until shards are next balanced
    #[command(after_help = EXIT_CODES)]
    Move {
        /// The shard
        shard: u32,
        /// The group
        #[arg(long, value_name = "GROUP")]
        to: u64,
    },
    /// Leave a shard where it is, also where its move has begun
    #[command(after_help = EXIT_CODES)]
    Cancel {
        /// The shard
        shard: u32,
    },
}

/// One of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PlanOf {
    /// So many groups more
    #[arg(long, value_name = "COUNT")]
    add_groups: Option<u32>,
    /// This group less
    #[arg(long, value_name = "GROUP")]
    remove_group: Option<u64>,
}

/// Carries the command out.
pub(crate) async fn run(args: ShardArgs) -> Result<(), Failure> {
    let ShardArgs { admin, command } = args;
    match command {
        Command::Map => admin::ask(&admin, Asking::get("/v1/cluster/map"), map).await,
        Command::Plan { of } => {
            let body = match of.remove_group {
                Some(group) => json!({ "remove_group": group }),
                None => json!({ "add_groups": of.add_groups }),
            };
            admin::ask(&admin, Asking::post("/v1/cluster/plan", body), plan).await
        }
        Command::Move { shard, to } => {
            let asking = Asking::post(format!("/v1/cluster/shards/{shard}/move"), json!({ "to": to }));
            let done =
                |changed: &ChangedJson| format!("shard {shard} moves to g{to} (epoch {})\n", changed.epoch);
            admin::ask(&admin, asking, done).await
        }
        Command::Cancel { shard } => {
            let asking = Asking::delete(format!("/v1/cluster/moves/{shard}"));
            let done = |changed: &ChangedJson| {
                format!("shard {shard} is to stay where it is (epoch {})\n", changed.epoch)
            };
            admin::ask(&admin, asking, done).await
        }
    }
}

fn range(first: u32, last: u32) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Who owns what, and what is on its way.
fn map(map: &MapJson) -> String {
    let paused = if map.settings.moves_paused { ", moves are paused" } else { "" };
    let mut text = format!("epoch {}, {} shards{paused}\n\n", map.shard_map.epoch, map.shard_map.shards);
    let mut rows = vec![["SHARDS", "GROUP", "TO"].map(String::from).to_vec()];
    for (first, last, owner, target) in &map.shard_map.shard_runs {
        let to = if owner == target { "-".to_owned() } else { format!("g{target}") };
        rows.push(vec![range(*first, *last), format!("g{owner}"), to]);
    }
    text += &columns(&rows);
    if !map.moves.is_empty() {
        let mut rows = vec![["MOVE", "FROM", "TO", "STATE"].map(String::from).to_vec()];
        rows.extend(map.moves.iter().map(|of| {
            vec![of.shard.to_string(), format!("g{}", of.from), format!("g{}", of.to), of.state.clone()]
        }));
        text += &format!("\n{}", columns(&rows));
    }
    for setback in &map.setbacks {
        text +=
            &format!("\nshard {} failed to move {} times: {}\n", setback.shard, setback.count, setback.why);
    }
    text
}

fn plan(plan: &PlanJson) -> String {
    let mut text = format!("at epoch {} these {} shards would move\n", plan.epoch, plan.moves.len());
    if !plan.moves.is_empty() {
        let mut rows = vec![["SHARD", "FROM", "TO"].map(String::from).to_vec()];
        rows.extend(
            plan.moves
                .iter()
                .map(|of| vec![of.shard.to_string(), format!("g{}", of.from), format!("g{}", of.to)]),
        );
        text += &format!("\n{}", columns(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The map's table shows ranges, where they go, and what went wrong.
    #[test]
    fn the_map_as_text() {
        let json = r#"{"epoch":7,"shards":4,"shard_runs":[[0,2,1,1],[3,3,1,2]],
            "settings":{"moves_paused":true,"copy_bytes_per_second":null,"moves_max":2,"replicas":3,
            "dead_after_ms":9},"nodes":[],"groups":[],
            "moves":[{"shard":3,"from":1,"to":2,"id":6,"state":"running"}],
            "setbacks":[{"shard":3,"count":2,"why":"full"}]}"#;
        let text = map(&serde_json::from_str(json).unwrap());
        let want = "epoch 7, 4 shards, moves are paused\n\nSHARDS  GROUP  TO\n0-2     g1     -\n3       g1     g2\n\n\
                    MOVE  FROM  TO  STATE\n3     g1    g2  running\n\nshard 3 failed to move 2 times: full\n";
        assert_eq!(text, want);
    }
}
