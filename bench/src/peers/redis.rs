//! One Redis that appends every write to its log and syncs that before it answers: no replicas, so that what it
//! acknowledged is on one disk.

use super::CONNECTIONS;
use super::store::{Doors, Native};
use crate::ports;
use crate::servers::{Program, START_TIME, Servers};
use ::redis::AsyncConnectionConfig;
use ::redis::aio::MultiplexedConnection;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// How long a connection may take to be made, and an answer to come: a slow disk is measured, not given up.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What to do where it is missing.
const ADVICE: &str =
    "install Redis (on Debian: redis-server), name it with --redis PATH, or leave it out with --vs etcd";

/// The server, as it was started.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) pids: Vec<u32>,
    port: u16,
}

impl Server {
    /// Starts the server, and waits until it answers.
    pub(super) async fn start(servers: &mut Servers, executable: &Path, dir: &Path) -> Result<Self> {
        let [port] = ports::free()?;
        let name = "redis".to_owned();
        let data = dir.join("redis-data");
        std::fs::create_dir(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let listen = port.to_string();
        let text = [
            ["--bind", "127.0.0.1"],
            ["--port", &listen],
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            // No snapshots beside the log.
            ["--save", ""],
        ];
        let mut arguments: Vec<_> = text.concat().into_iter().map(Into::into).collect();
        arguments.extend(["--dir".into(), data.into()]);
        let pids = vec![servers.start(Program { name, path: executable, arguments, advice: ADVICE })?];
        let server = Self { pids, port };
        servers.until("Redis answers", START_TIME, async || server.version().await).await?;
        Ok(server)
    }

    async fn connection(&self) -> Result<MultiplexedConnection> {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIME))
            .set_response_timeout(Some(ANSWER_TIME));
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    async fn version(&self) -> Result<String> {
        let mut connection = self.connection().await?;
        let info: String = ::redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        version(&info).map(str::to_owned).context("Redis does not say its version")
    }

    pub(super) async fn connect(&self) -> Result<Doors> {
        let mut natives = Vec::new();
        for _ in 0..CONNECTIONS {
            natives.push(Native::Redis(self.connection().await?));
        }
        let version = self.version().await?;
        Ok(Doors {
            natives,
            http: None,
            about: format!(
                "{version}, one node, appendfsync always; pipelined over {CONNECTIONS} connections"
            ),
        })
    }
}

/// The version on the page that a server has about itself.
fn version(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version is found on the server's page, where it is there.
    #[test]
    fn versions() {
        assert_eq!(version("# Server\r\nredis_version:7.0.15\r\nos:Linux\r\n"), Some("7.0.15"));
        assert_eq!(version("# Server\r\n"), None);
    }
}
