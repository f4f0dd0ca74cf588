//! `flotilla node …`: which nodes there are, and those that are to be emptied, kept or forgotten.

use crate::admin::{self, AdminCommand, Asking, EXIT_CODES};
use crate::arguments::parse_time;
use crate::kv::Failure;
use crate::terminal::{columns, human_time};
use clap::Subcommand;
use kvserver::service::{ChangedJson, MapJson};
use serde_json::json;
use shardctrler::bounds::DEAD_AFTER_MIN_MS;
use std::time::Duration;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the nodes on the map, where they are, and whether they count as dead
    #[command(after_help = EXIT_CODES)]
    List,
    /// Move all replicas off a node
    #[command(after_help = EXIT_CODES)]
    Drain {
        /// The node
        node: u64,
    },
    /// Take a drain back
    #[command(after_help = EXIT_CODES)]
    Undrain {
        /// The node
        node: u64,
    },
    /// Forget a node that holds no replica
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// The node
        node: u64,
    },
    /// Say how long any node may be silent before it counts as dead and its replicas are rebuilt on others
    #[command(after_help = EXIT_CODES)]
    DeadAfter {
        /// How long: 30s (or 30), 10m; at least 5s
        #[arg(value_parser = parse_silence)]
        time: Duration,
    },
}

fn parse_silence(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    let least = Duration::from_millis(DEAD_AFTER_MIN_MS);
    match time < least {
        true => Err(format!("must be at least {} s: {text}", least.as_secs())),
        false => Ok(time),
    }
}

/// Carries the command out.
pub(crate) async fn run(asked: AdminCommand<Command>) -> Result<(), Failure> {
    let AdminCommand { admin, command } = asked;
    let (asking, done) = match command {
        Command::List => return admin::ask(&admin, Asking::get("/v1/cluster/map"), list).await,
        Command::Drain { node } => {
            let asking = Asking::post(format!("/v1/cluster/nodes/{node}/drain"), None);
            (asking, format!("n{node} gives its replicas away"))
        }
        Command::Undrain { node } => {
            let asking = Asking::post(format!("/v1/cluster/nodes/{node}/undrain"), None);
            (asking, format!("n{node} keeps its replicas"))
        }
        Command::Remove { node } => {
            let asking = Asking::delete(format!("/v1/cluster/nodes/{node}"));
            (asking, format!("n{node} is forgotten"))
        }
        Command::DeadAfter { time } => {
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let asking = Asking::put("/v1/cluster/nodes", json!({ "dead_after_ms": ms }));
            (asking, format!("a node counts as dead after {} of silence", silence(ms)))
        }
    };
    admin::ask(&admin, asking, |changed: &ChangedJson| format!("{done} (epoch {})\n", changed.epoch)).await
}

/// To the millisecond where it is not whole seconds.
fn silence(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { human_time(ms) } else { format!("{ms}ms") }
}

fn list(map: &MapJson) -> String {
    let mut rows =
        vec![["NODE", "STATE", "ADDRESS", "PEER ADDRESS", "ZONE", "WEIGHT"].map(String::from).to_vec()];
    let said = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    rows.extend(map.nodes.iter().map(|of| {
        let (id, weight) = (format!("n{}", of.id), of.weight.to_string());
        vec![id, of.state.clone(), said(&of.http), said(&of.peer), said(&of.zone), weight]
    }));
    let dead_after = silence(map.settings.dead_after_ms);
    format!(
        "epoch {}, a node counts as dead after {dead_after} of silence\n\n{}",
        map.shard_map.epoch,
        columns(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table shows what the map knows of nodes, and when one counts as dead.
    #[test]
    fn nodes_as_text() {
        let json = r#"{"epoch":7,"shards":4,"shard_runs":[],
            "settings":{"moves_paused":false,"copy_bytes_per_second":null,"moves_max":2,"replicas":3,
            "dead_after_ms":90000},
            "nodes":[{"id":1,"peer":"a:1","http":"a:2","state":"up","zone":"r1","weight":1},
            {"id":12,"peer":"","http":"b:2","state":"dead","zone":"","weight":2}],
            "groups":[],"moves":[],"setbacks":[]}"#;
        let text = list(&serde_json::from_str(json).expect("a map"));
        let want = "epoch 7, a node counts as dead after 1m30s of silence\n\n\
                    NODE  STATE  ADDRESS  PEER ADDRESS  ZONE  WEIGHT\n\
                    n1    up     a:2      a:1           r1    1\n\
                    n12   dead   b:2      -             -     2\n";
        assert_eq!(text, want);
    }

    /// Times are said as exactly as they were given, and what no cluster takes is refused.
    #[test]
    fn silences() {
        for (text, said) in [("30s", "30s"), ("5500ms", "5500ms"), ("10m", "10m0s")] {
            let ms = parse_silence(text).expect(text).as_millis() as u64;
            assert_eq!(silence(ms), said);
        }
        for bad in ["0", "0ms", "soon", "1s", "4999ms"] {
            parse_silence(bad).expect_err(bad);
        }
        assert_eq!(parse_silence("1s"), Err("must be at least 5 s: 1s".to_owned()));
    }
}
