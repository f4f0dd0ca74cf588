//! flotilla, by the Rust client and over HTTP.

use super::http::{Dialect, Gateway};
use super::store::{Doors, Native};
use crate::cluster::{Cluster, NODES};
use anyhow::{Context, Result};
use client::{Client, GroupId};

/// The group that holds the keys: a cluster is born with one beside the controller's.
const GROUP: GroupId = GroupId(1);

/// One client for all workers, as an application has: what many of them ask at the same time travels together.
pub(super) async fn connect(cluster: &Cluster) -> Result<Doors> {
    let client = Client::connect(cluster.http.iter().map(String::as_str)).await?;
    let cluster = client.cluster().await?;
    let leader = cluster.group(GROUP).and_then(|group| group.leader).context("nobody leads the keys")?;
    let leader = cluster.nodes.iter().find(|node| node.id == leader).context("the leader is unknown")?;
    Ok(Doors {
        http: Some(Gateway { dialect: Dialect::Flotilla, address: leader.http.clone() }),
        natives: vec![Native::Flotilla(client)],
        about: format!(
            "{}, {NODES} nodes, default settings; its Rust client, one for all; HTTP: the leader",
            env!("CARGO_PKG_VERSION")
        ),
    })
}
