//! `flotilla shard …`: which group serves which shard, and what would or shall move.

use crate::admin::{self, AdminArgs, AdminCommand, Asking, EXIT_CODES};
use crate::arguments::parse_wait;
use crate::kv::Failure;
use crate::terminal::columns;
use clap::{Args, Subcommand};
use kvserver::service::{ChangedJson, MapJson, PlanJson, SetbackJson, ShardMapJson};
use serde_json::{Value, json};
use std::time::Duration;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show which group serves which shards, and what moves
    #[command(after_help = EXIT_CODES)]
    Map {
        /// Which group served which shards at this epoch
        #[arg(long, value_name = "EPOCH")]
        epoch: Option<u64>,
    },
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
    /// Wait until every shard is where it is to be and no group is leaving
    #[command(after_help = EXIT_CODES)]
    Wait {
        /// How long: 30s (or 30), 10m; at most 1440m
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_wait)]
        time_max: Duration,
    },
    /// Bring the shards to where balance wants them, those that were moved by hand as well
    #[command(after_help = EXIT_CODES)]
    Rebalance,
    /// Let copies rest until they are resumed; a shard that is about to change hands still does
    #[command(after_help = EXIT_CODES)]
    Pause,
    /// Let copies go on
    #[command(after_help = EXIT_CODES)]
    Resume,
    /// Say how fast shards may move
    #[command(after_help = EXIT_CODES)]
    Throttle {
        /// The most moves at once
        #[arg(long, value_name = "COUNT")]
        moves_max: u32,
        /// The most bytes a second that all copies together may take of one node; without this option there is no limit (a cluster begins with 8 MiB a second)
        #[arg(long, value_name = "BYTES")]
        copy_bytes_per_second: Option<u64>,
    },
}

/// One of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PlanOf {
    /// So many groups more
    #[arg(long, value_name = "COUNT")]
    add_groups: Option<u32>,
    /// This group less
    #[arg(long, value_name = "GROUP")]
    remove_group: Option<u64>,
}

/// Carries the command out.
pub(crate) async fn run(asked: AdminCommand<Command>) -> Result<(), Failure> {
    let AdminCommand { admin, command } = asked;
    match command {
        Command::Map { epoch: None } => admin::ask(&admin, Asking::get("/v1/cluster/map"), map).await,
        Command::Map { epoch: Some(epoch) } => {
            let asking = Asking::get("/v1/cluster/map").with("epoch", epoch);
            admin::ask(&admin, asking, |map: &ShardMapJson| shards(map, "")).await
        }
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
        Command::Wait { time_max } => {
            let epoch = admin::wait(&admin, time_max, unsettled).await?.shard_map.epoch;
            let text = || Ok(format!("every shard is where it is to be (epoch {epoch})\n"));
            admin::show(&admin, &json!({ "epoch": epoch }).to_string(), text)
        }
        Command::Rebalance => {
            let done = |changed: &ChangedJson| format!("shards are balanced (epoch {})\n", changed.epoch);
            admin::ask(&admin, Asking::post("/v1/cluster/rebalance", None), done).await
        }
        Command::Pause => set_moves(&admin, json!({ "paused": true }), "moves rest").await,
        Command::Resume => set_moves(&admin, json!({ "paused": false }), "moves go on").await,
        Command::Throttle { moves_max, copy_bytes_per_second } => {
            let body = json!({ "moves_max": moves_max, "copy_bytes_per_second": copy_bytes_per_second });
            set_moves(&admin, body, "moves are limited").await
        }
    }
}

async fn set_moves(admin: &AdminArgs, body: Value, done: &str) -> Result<(), Failure> {
    let text = |changed: &ChangedJson| format!("{done} (epoch {})\n", changed.epoch);
    admin::ask(admin, Asking::put("/v1/cluster/moves", body), text).await
}

/// What moves yet, is to move, or is to end, and what hinders it; `None` where nothing does.
fn unsettled(map: &MapJson) -> Option<String> {
    let due = map.shard_map.shard_runs.iter().filter(|(_, _, owner, target)| owner != target);
    let due: u32 = due.map(|(first, last, ..)| last - first + 1).sum();
    let leaving = map.groups.iter().filter(|group| group.state == "leaving");
    let leaving: Vec<String> = leaving.map(|group| format!("g{} is leaving", group.id)).collect();
    if due == 0 && map.moves.is_empty() && leaving.is_empty() {
        return None;
    }
    let paused = map.settings.moves_paused.then(|| "moves are paused".to_owned());
    let count = format!("{due} shards are not where they are to be, {} are on their way", map.moves.len());
    let parts = paused.into_iter().chain([count]).chain(leaving).chain(map.setbacks.iter().map(setback));
    Some(parts.collect::<Vec<_>>().join("; "))
}

fn setback(of: &SetbackJson) -> String {
    format!("shard {} failed to move {} times: {}", of.shard, of.count, of.why)
}

fn range(first: u32, last: u32) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn shards(map: &ShardMapJson, paused: &str) -> String {
    let mut rows = vec![["SHARDS", "GROUP", "TO"].map(String::from).to_vec()];
    for (first, last, owner, target) in &map.shard_runs {
        let to = if owner == target { "-".to_owned() } else { format!("g{target}") };
        rows.push(vec![range(*first, *last), format!("g{owner}"), to]);
    }
    format!("epoch {}, {} shards{paused}\n\n{}", map.epoch, map.shards, columns(&rows))
}

/// Who owns what, and what is on its way.
fn map(map: &MapJson) -> String {
    let paused = if map.settings.moves_paused { ", moves are paused" } else { "" };
    let mut text = shards(&map.shard_map, paused);
    if !map.moves.is_empty() {
        let mut rows = vec![["MOVE", "FROM", "TO", "STATE"].map(String::from).to_vec()];
        rows.extend(map.moves.iter().map(|of| {
            vec![of.shard.to_string(), format!("g{}", of.from), format!("g{}", of.to), of.state.clone()]
        }));
        text += &format!("\n{}", columns(&rows));
    }
    for of in &map.setbacks {
        text += &format!("\n{}\n", setback(of));
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

    /// A map is settled once nothing moves, is to move, or is to end; until then is said what does, and what hinders it.
    #[test]
    fn settled_maps() {
        let lacks = |runs: &str, groups: &str, moves: &str, paused: bool, setbacks: &str| {
            let json = format!(
                r#"{{"epoch":7,"shards":4,"shard_runs":{runs},"settings":{{"moves_paused":{paused},
                "copy_bytes_per_second":null,"moves_max":2,"replicas":3,"dead_after_ms":9}},"nodes":[],
                "groups":{groups},"moves":{moves},"setbacks":{setbacks}}}"#
            );
            unsettled(&serde_json::from_str(&json).unwrap())
        };
        let group = |state| {
            format!(
                r#"[{{"id":1,"state":"{state}","weight":1,"replicas":[],"voters":[],"learners":[],"leader":null,"preferred":null}}]"#
            )
        };
        let (here, away, serving) = ("[[0,3,1,1]]", "[[0,1,1,1],[2,3,1,2]]", &group("serving"));
        let moving = r#"[{"shard":3,"from":1,"to":2,"id":6,"state":"running"}]"#;
        let full = r#"[{"shard":3,"count":2,"why":"full"}]"#;
        assert_eq!(lacks(here, serving, "[]", true, "[]"), None, "a pause hinders nothing then");
        let due = "2 shards are not where they are to be, 0 are on their way";
        assert_eq!(lacks(away, serving, "[]", false, "[]").as_deref(), Some(due));
        let hindered = format!("moves are paused; {due}; shard 3 failed to move 2 times: full");
        assert_eq!(lacks(away, serving, "[]", true, full), Some(hindered));
        let late = "0 shards are not where they are to be, 1 are on their way";
        assert_eq!(lacks(here, serving, moving, false, "[]").as_deref(), Some(late));
        let leaving = lacks(here, &group("leaving"), "[]", false, "[]").expect("it is to end");
        assert!(leaving.ends_with("; g1 is leaving"), "{leaving}");
    }
}
