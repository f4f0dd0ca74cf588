//! `flotilla group …`: groups that share the shards among them.

use crate::admin::{self, AdminCommand, Asking, EXIT_CODES};
use crate::kv::Failure;
use clap::Subcommand;
use kvserver::service::ChangedJson;
use serde_json::json;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add groups, which then take their share of shards over
    #[command(after_help = EXIT_CODES)]
    Add {
        /// How many [default: 1]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// These, in place of a number: groups that are leaving stay after all, others must be above all that were
        #[arg(long, value_name = "GROUP,GROUP", value_delimiter = ',', conflicts_with = "count")]
        ids: Option<Vec<u64>>,
        /// Their share of shards, beside the others'
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        weight: u32,
    },
    /// Give a group another share of shards, beside the others'
    #[command(after_help = EXIT_CODES)]
    Weight {
        /// The group
        group: u64,
        /// The share: a group of 2 has twice the shards of a group of 1
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        weight: u32,
    },
    /// Move all shards off a group, then end it
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// The group
        group: u64,
    },
}

/// Carries the command out.
pub(crate) async fn run(asked: AdminCommand<Command>) -> Result<(), Failure> {
    let AdminCommand { admin, command } = asked;
    match command {
        Command::Add { count, ids, weight } => {
            let body = match ids {
                Some(ids) => json!({ "ids": ids, "weight": weight }),
                None => json!({ "count": count.unwrap_or(1), "weight": weight }),
            };
            admin::ask(&admin, Asking::post("/v1/cluster/groups", body), added).await
        }
        Command::Weight { group, weight } => {
            let asking = Asking::put(format!("/v1/cluster/groups/{group}"), json!({ "weight": weight }));
            let done =
                |changed: &ChangedJson| format!("g{group} weighs {weight} (epoch {})\n", changed.epoch);
            admin::ask(&admin, asking, done).await
        }
        Command::Remove { group } => {
            let asking = Asking::delete(format!("/v1/cluster/groups/{group}"));
            let done = |changed: &ChangedJson| {
                format!("g{group} gives its shards away, then ends (epoch {})\n", changed.epoch)
            };
            admin::ask(&admin, asking, done).await
        }
    }
}

fn added(changed: &ChangedJson) -> String {
    let groups: Vec<String> = changed.groups.iter().flatten().map(|group| format!("g{group}")).collect();
    format!("added {} (epoch {})\n", groups.join(", "), changed.epoch)
}
