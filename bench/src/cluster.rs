//! Three nodes of flotilla, each a process of its own on this machine with its settings as they are by default, but for
//! those that were asked for. Where they listen and where their data lies stays the same when they are started again.

use crate::ports;
use crate::servers::{Program, START_TIME, Servers};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many nodes there are, so that each has every group's keys.
pub(crate) const NODES: usize = 3;

/// What to do where the executable is gone, which is this very program.
const ADVICE: &str = "it is the program that measures: was it replaced meanwhile?";

/// The nodes, as they were started last.
#[derive(Debug)]
pub(crate) struct Cluster {
    executable: PathBuf,
    /// What each node is started with.
    arguments: Vec<Vec<OsString>>,
    /// Where they answer HTTP, `host:port`.
    pub(crate) http: Vec<String>,
    pub(crate) pids: Vec<u32>,
}

impl Cluster {
    /// Starts a new cluster that keeps its data in `dir`, with `settings` as `field=value`, and waits until each node is
    /// ready.
    ///
    /// # Errors
    /// There are no free ports, no such program, or a node that ended by itself or is not ready in time.
    pub(crate) async fn start(
        servers: &mut Servers,
        executable: &Path,
        dir: &Path,
        settings: &[String],
    ) -> Result<Self> {
        let mut cluster = Self::new(executable, dir, settings)?;
        cluster.spawn(servers)?;
        cluster.until_ready(servers, START_TIME).await?;
        Ok(cluster)
    }

    fn new(executable: &Path, dir: &Path, settings: &[String]) -> Result<Self> {
        let ports: [u16; 2 * NODES] = ports::free()?;
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let (peers, http) = ports.split_at(NODES);
        let peers: Vec<String> = peers.iter().map(address).collect();
        let http: Vec<String> = http.iter().map(address).collect();
        let nodes = peers.iter().zip(&http).zip(1..);
        let members: Vec<String> =
            nodes.clone().map(|((peer, http), node)| format!("{node}={peer}/{http}")).collect();
        let members = members.join(",");
        let of = |((peer, http), node): ((&String, &String), usize)| {
            let (node, data) = (node.to_string(), dir.join(format!("flotilla-{node}")));
            let text = ["server", "--node", &node, "--members", &members, "--peer-listen", peer];
            let mut arguments: Vec<OsString> = text.map(Into::into).into();
            arguments.extend([OsString::from("--http-listen"), http.into(), "--data".into(), data.into()]);
            arguments.extend(settings.iter().flat_map(|setting| [OsString::from("--set"), setting.into()]));
            arguments
        };
        let arguments = nodes.map(of).collect();
        Ok(Self { executable: executable.to_owned(), arguments, http, pids: Vec::new() })
    }

    /// Starts the nodes' processes, for the first time or again after all have ended.
    ///
    /// # Errors
    /// There is no such program, or it cannot be started.
    pub(crate) fn spawn(&mut self, servers: &mut Servers) -> Result<()> {
        self.pids.clear();
        for (arguments, node) in self.arguments.iter().zip(1..) {
            let name = format!("flotilla node {node}");
            let (path, arguments) = (self.executable.as_path(), arguments.clone());
            self.pids.push(servers.start(Program { name, path, arguments, advice: ADVICE })?);
        }
        Ok(())
    }

    /// Waits until each node is ready.
    ///
    /// # Errors
    /// One ended by itself, or they are not in time.
    pub(crate) async fn until_ready(&self, servers: &mut Servers, time: Duration) -> Result<()> {
        let pages = crate::http()?;
        let ready = async || {
            for node in &self.http {
                let answer = pages.get(format!("http://{node}/readyz")).send().await?;
                answer.error_for_status()?;
            }
            Ok(())
        };
        servers.until("flotilla's nodes are ready", time, ready).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each node has its own data and addresses, all know of each other, and settings reach each.
    #[test]
    fn arguments() {
        let dir = Path::new("/data");
        let cluster = Cluster::new(Path::new("flotilla"), dir, &["groups=4".into()]).expect("free ports");
        let said: Vec<Vec<&str>> = cluster
            .arguments
            .iter()
            .map(|all| all.iter().map(|argument| argument.to_str().expect("text")).collect())
            .collect();
        for (arguments, node) in said.iter().zip(1..) {
            let after = |flag: &str| {
                let at = arguments.iter().position(|argument| *argument == flag).expect(flag);
                arguments[at + 1]
            };
            assert_eq!(after("--node"), node.to_string());
            assert_eq!(after("--data"), format!("/data/flotilla-{node}"));
            assert_eq!(after("--set"), "groups=4");
            assert_eq!(after("--members").split(',').count(), NODES);
            let own = format!("{node}={}/{}", after("--peer-listen"), after("--http-listen"));
            assert!(after("--members").contains(&own), "{own}");
            assert_eq!(after("--http-listen"), cluster.http[node - 1]);
        }
        assert_eq!((said.len(), cluster.pids.len()), (NODES, 0));
    }
}
