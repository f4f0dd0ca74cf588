//! The measurements as a command of their own.

use anyhow::Result;
use bench::LoadArgs;
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Where the nodes answer HTTP, as host:port.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103")]
    nodes: Vec<String>,
    #[command(flatten)]
    load: LoadArgs,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let nodes: Vec<String> = args.nodes.iter().map(|node| format!("http://{node}")).collect();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(bench::load(&nodes, &args.load))
}
