//! The receiving side of a snapshot: pieces go to a sink of their own, each is acknowledged once the sink has
//! taken it, and after the last the sink is installed. While any of that takes its time, the sender hears that it
//! goes on. A transfer that breaks off leaves nothing behind: its sink is dropped, also where its sender has vanished
//! without a word, for until then the replica has no room for another snapshot.

use super::batch::Hold;
use super::config::TransportConfig;
use super::frame::Kind;
use super::inbound::Replica;
use super::receive::Outbox;
use crate::codec::put_vote;
use crate::types::{SnapshotMeta, SnapshotResponse, Vote};
use bytes::{BufMut, Bytes};
use proto::GroupId;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A transfer of which nothing comes for so many times its sender's own patience is over: a sender that is there has
/// given it up by then, and said so.
const SILENCE_FACTOR: u32 = 2;

/// What a transfer consists of after its beginning. What waits is bounded by the room that each part holds in the
/// connection's budget.
pub(crate) enum Part {
    /// A piece of the machine's state.
    Piece(Bytes, Hold),
    /// The last piece has come; how many there were.
    End(u64, Hold),
}

/// A transfer as its sender follows it.
struct Receiving {
    group: GroupId,
    id: u64,
    outbox: Arc<Outbox>,
    /// How often the sender hears that something goes on.
    tick: Duration,
    pieces: u64,
    bytes: u64,
}

/// Receives a snapshot; returns `id` when that is over.
#[expect(clippy::too_many_arguments, reason = "one place calls this, with what it has just taken apart")]
pub(crate) async fn run(
    replica: Arc<dyn Replica>,
    group: GroupId,
    id: u64,
    vote: Vote,
    meta: SnapshotMeta,
    mut parts: mpsc::UnboundedReceiver<Part>,
    outbox: Arc<Outbox>,
    config: Arc<TransportConfig>,
) -> u64 {
    let tick = (config.silence_timeout() / 2).min(config.progress_timeout() / 4);
    let mut receiving = Receiving { group, id, outbox: outbox.clone(), tick, pieces: 0, bytes: 0 };
    match receiving.receive(replica, vote, meta, &mut parts, &config).await {
        Ok(Some(response)) => {
            outbox.push(Kind::Reply, group, id, None, |into| put_vote(into, &response.vote))
        }
        Ok(None) => tracing::info!(%group, "snapshot's sender gave up"),
        Err(error) => {
            tracing::warn!(%group, "snapshot was not taken: {error}");
            outbox.fail(Kind::Failed, group, id, None, error);
        }
    }
    id
}

impl Receiving {
    /// `None` where the sender has gone.
    async fn receive(
        &mut self,
        replica: Arc<dyn Replica>,
        vote: Vote,
        meta: SnapshotMeta,
        parts: &mut mpsc::UnboundedReceiver<Part>,
        config: &TransportConfig,
    ) -> io::Result<Option<SnapshotResponse>> {
        let silence = config.progress_timeout() * SILENCE_FACTOR;
        let mut sink = self.going_on(replica.receive_snapshot(vote)).await?;
        // The last part's room is held until the answer is on its way.
        let _room = loop {
            let part = tokio::select! {
                biased;
                why = sink.given_up() => return Err(io::Error::other(why)),
                part = tokio::time::timeout(silence, parts.recv()) => part,
            };
            match part.map_err(|_| io::Error::other(format!("nothing came for {silence:?}")))? {
                None => return Ok(None),
                Some(Part::Piece(piece, hold)) => {
                    let bytes = piece.len() as u64;
                    self.going_on(sink.append(piece)).await?;
                    self.pieces += 1;
                    self.bytes += bytes;
                    self.progress(Some(hold));
                }
                Some(Part::End(pieces, hold)) if pieces == self.pieces => break hold,
                Some(Part::End(pieces, _)) => {
                    return Err(io::Error::other(format!("{} pieces came of {pieces}", self.pieces)));
                }
            }
        };
        let install = tokio::time::timeout(config.install_timeout(), sink.install(vote, meta));
        let response = self.going_on(install).await;
        response.map_err(|_| io::Error::other("snapshot was not installed in time"))?.map(Some)
    }

    fn progress(&self, hold: Option<Hold>) {
        self.outbox
            .push(Kind::SnapshotProgress, self.group, self.id, hold, |into| into.put_u64_le(self.bytes));
    }

    /// Waits for `future` and tells the sender every now and then that it is not in vain.
    async fn going_on<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = tokio::time::sleep(self.tick) => self.progress(None),
            }
        }
    }
}
