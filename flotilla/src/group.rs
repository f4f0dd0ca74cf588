//! `flotilla group …`: groups that share the shards among them.

use crate::admin::{self, AdminArgs, Asking, EXIT_CODES};
use crate::kv::Failure;
use clap::{Args, Subcommand};
use kvserver::service::ChangedJson;
use serde_json::json;

/// Add groups and remove them.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GroupArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add groups, which then take their share of shards over
    #[command(after_help = EXIT_CODES)]
    Add {
        /// How many
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Move all shards off a group, then end it
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// The group
        group: u64,
    },
}

/// Carries the command out.
pub(crate) async fn run(args: GroupArgs) -> Result<(), Failure> {
    let GroupArgs { admin, command } = args;
    match command {
        Command::Add { count } => {
            let asking = Asking::post("/v1/cluster/groups", json!({ "count": count }));
            admin::ask(&admin, asking, added).await
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
