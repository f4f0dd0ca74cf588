//! `flotilla node …`: nodes that are to be emptied, kept or forgotten.

use crate::admin::{self, AdminArgs, Asking, EXIT_CODES};
use crate::kv::Failure;
use clap::{Args, Subcommand};
use kvserver::service::ChangedJson;

/// Empty nodes and forget them.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
}

/// Carries the command out.
pub(crate) async fn run(args: NodeArgs) -> Result<(), Failure> {
    let NodeArgs { admin, command } = args;
    let (asking, done) = match command {
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
    };
    admin::ask(&admin, asking, |changed: &ChangedJson| format!("{done} (epoch {})\n", changed.epoch)).await
}
