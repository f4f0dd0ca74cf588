//! The receiving side of one append stream: requests go to the replica in order, its answers come back in order.
//!
//! After an answer that is not a success the stream is over here; what its sender had already sent is dropped.

use super::batch::Hold;
use super::config::STREAM_REQUESTS_MAX;
use super::frame::Kind;
use super::inbound::Replica;
use super::message::put_appended;
use super::receive::Outbox;
use crate::codec::Malformed;
use crate::types::AppendEntriesRequest;
use futures_util::StreamExt;
use proto::GroupId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::{AbortHandle, JoinSet};

/// A stream whose task runs.
pub(crate) struct OpenStream {
    /// The sequence that the next request must have.
    next: u64,
    requests: mpsc::Sender<(AppendEntriesRequest, Hold)>,
    task: AbortHandle,
}

/// Starts the task of a stream; it returns `id` when the stream is over.
pub(crate) fn open(
    tasks: &mut JoinSet<u64>,
    replica: Arc<dyn Replica>,
    group: GroupId,
    id: u64,
    outbox: Arc<Outbox>,
) -> OpenStream {
    let (requests, receiver) = mpsc::channel(STREAM_REQUESTS_MAX);
    let task = tasks.spawn(run(replica, group, id, receiver, outbox));
    OpenStream { next: 0, requests, task }
}

impl OpenStream {
    /// Passes a request on. `Some` says why the stream is over instead.
    pub(crate) fn push(
        &mut self,
        sequence: u64,
        request: AppendEntriesRequest,
        hold: Hold,
    ) -> Result<Option<&'static str>, Malformed> {
        if sequence != self.next {
            return Err(Malformed { what: "append", why: "out of the stream's order" });
        }
        self.next += 1;
        match self.requests.try_send((request, hold)) {
            Ok(()) => Ok(None),
            // Where the task has said more before, this is dropped by the sender, which has left the stream.
            Err(TrySendError::Closed(_)) => Ok(Some("the stream is over")),
            Err(TrySendError::Full(_)) => Ok(Some("too many requests are under way")),
        }
    }

    /// Drops what is still to be done: the sender has left.
    pub(crate) fn abort(self) {
        self.task.abort();
    }
}

/// What the two directions of a stream share.
#[derive(Default)]
struct Progress {
    /// The room that unanswered requests hold, oldest first.
    holds: VecDeque<Hold>,
    /// Whether the sender has ended the stream.
    ended: bool,
}

async fn run(
    replica: Arc<dyn Replica>,
    group: GroupId,
    id: u64,
    requests: mpsc::Receiver<(AppendEntriesRequest, Hold)>,
    outbox: Arc<Outbox>,
) -> u64 {
    let progress = Arc::new(Mutex::new(Progress::default()));
    let shared = progress.clone();
    let input = futures_util::stream::unfold((requests, shared), |(mut requests, shared)| async move {
        let next = requests.recv().await;
        let mut progress = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((request, hold)) = next else {
            progress.ended = true;
            return None;
        };
        progress.holds.push_back(hold);
        drop(progress);
        Some((request, (requests, shared)))
    });
    let mut outcomes = replica.stream_append(input.boxed());
    let mut sequence = 0;
    while let Some(outcome) = outcomes.next().await {
        let hold = progress.lock().unwrap_or_else(PoisonError::into_inner).holds.pop_front();
        match outcome {
            Ok(outcome) => {
                outbox.push(Kind::Appended, group, id, hold, |into| put_appended(into, sequence, &outcome));
                if outcome.is_err() {
                    return id;
                }
            }
            Err(stopped) => {
                outbox.fail(Kind::End, group, id, hold, stopped);
                return id;
            }
        }
        sequence += 1;
    }
    if !progress.lock().unwrap_or_else(PoisonError::into_inner).ended {
        outbox.fail(Kind::End, group, id, None, "the replica ended the stream");
    }
    id
}
