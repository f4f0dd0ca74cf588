//! What the machine itself takes for the two things that a durable write cannot do without: one sync of the disk, and
//! one way to another process and back. A lone operation's latency is judged against them.

use crate::report::{Fact, fact};
use crate::statistics::median;
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// How often each is done.
const TIMES: usize = 200;

/// What one write before a sync writes.
const BLOCK_BYTES: usize = 4 << 10;

/// What travels to and fro.
const MESSAGE_BYTES: usize = 256;

/// How long all of one kind may take.
const TIME_MAX: Duration = Duration::from_secs(60);

/// The machine's own times, medians in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// `fdatasync` of 4 KiB, written to a file that had its size already.
    pub(crate) sync_us: f64,
    /// 256 bytes over TCP on loopback to another task and back.
    pub(crate) round_trip_us: f64,
}

impl Probe {
    /// Measures with a file in `dir`, which it removes.
    ///
    /// # Errors
    /// The disk's or the network's, or neither ended in time.
    pub(crate) async fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("sync-probe");
        let syncing = tokio::task::spawn_blocking(move || syncs(&path));
        let syncs =
            timeout(TIME_MAX, syncing).await.ok().context("syncs of the disk did not end in time")??;
        let trips = timeout(TIME_MAX, round_trips()).await.ok().context("loopback did not answer in time")?;
        let middle = |times: Vec<Duration>| median(times.iter().map(|time| time.as_secs_f64() * 1e6));
        let sync_us = middle(syncs?).context("no syncs")?;
        Ok(Self { sync_us, round_trip_us: middle(trips?).context("no round trips")? })
    }

    /// For people.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        vec![
            fact("fdatasync of 4 KiB", format!("{:.0} µs", self.sync_us)),
            fact("256 bytes over loopback and back", format!("{:.0} µs", self.round_trip_us)),
        ]
    }
}

fn syncs(path: &Path) -> Result<Vec<Duration>> {
    let context = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(context)?;
    // Written and not only reserved: a first write to reserved room changes what the file system has to sync.
    file.write_all_at(&vec![0; TIMES * BLOCK_BYTES], 0).with_context(context)?;
    file.sync_all().with_context(context)?;
    let mut times = Vec::new();
    for index in 0..TIMES {
        let began = Instant::now();
        file.write_all_at(&[b'x'; BLOCK_BYTES], (index * BLOCK_BYTES) as u64).with_context(context)?;
        file.sync_data().with_context(context)?;
        times.push(began.elapsed());
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(times)
}

async fn round_trips() -> Result<Vec<Duration>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut stream = TcpStream::connect(listener.local_addr()?).await?;
    stream.set_nodelay(true)?;
    let echoing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE_BYTES];
        for _ in 0..TIMES {
            stream.read_exact(&mut message).await?;
            stream.write_all(&message).await?;
        }
        anyhow::Ok(())
    });
    let mut times = Vec::new();
    let mut message = [b'x'; MESSAGE_BYTES];
    for _ in 0..TIMES {
        let began = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        times.push(began.elapsed());
    }
    echoing.await??;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are measured, and no file is left.
    #[tokio::test]
    async fn both_are_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        let probe = Probe::take(dir.path()).await.expect("disk and loopback work");
        assert!(probe.sync_us > 0.0 && probe.round_trip_us > 0.0, "{probe:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
        assert!(Probe::take(&dir.path().join("missing")).await.is_err());
    }
}
