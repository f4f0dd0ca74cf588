//! One direction of a simulated connection: bytes that arrive later, in order, or never.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep};

/// What the buffers of both ends hold together; a writer waits beyond it.
const BUFFER_BYTES: usize = 1 << 20;

/// The most that one write takes, so that a slow link delivers smoothly.
const CHUNK_BYTES: usize = 64 << 10;

/// How a chunk travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives after the delay, and after the time that the link takes to carry it.
    Arrives { delay: Duration, bytes_per_second: Option<u64> },
    /// It never arrives, nor does anything after it: a gap ends a stream of bytes.
    Vanishes,
}

struct Chunk {
    due: Instant,
    bytes: Bytes,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Chunk>,
    /// Written and not yet read, vanished bytes included.
    buffered: usize,
    /// When the link has carried what was written so far.
    free: Option<Instant>,
    /// When the last chunk, or the end, arrives; nothing overtakes.
    last_due: Option<Instant>,
    /// Bytes are missing: nothing arrives any more.
    lost: bool,
    /// The writer has ended; the reader sees it at `last_due`.
    ended: bool,
    /// The reader is gone, and the writer may know.
    unread: bool,
    /// Both ends see an error at once.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake_all(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Pipe(Mutex<State>);

fn was_reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection was reset")
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks the pipe; whatever is on its way is gone.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.reset = true;
        state.chunks.clear();
        state.wake_all();
    }

    /// Whether bytes of it vanished.
    pub(crate) fn lost(&self) -> bool {
        self.lock().lost
    }

    /// The writer ends; where its word cannot arrive, nobody learns of it.
    pub(crate) fn end(&self, fate: Fate) {
        let mut state = self.lock();
        match fate {
            Fate::Vanishes => state.lost = true,
            Fate::Arrives { delay, .. } if !state.ended => {
                state.ended = true;
                let due = Instant::now() + delay;
                state.last_due = Some(state.last_due.map_or(due, |last| last.max(due)));
            }
            Fate::Arrives { .. } => {}
        }
        state.wake_all();
    }

    /// The reader is gone and the writer's next write fails.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.unread = true;
        state.wake_all();
    }

    /// How many of `length` bytes a write would take now.
    pub(crate) fn poll_room(&self, context: &Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.reset || state.unread {
            return Poll::Ready(Err(was_reset()));
        }
        if state.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match BUFFER_BYTES - state.buffered {
            0 => {
                state.writer = Some(context.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(Ok(length.min(room).min(CHUNK_BYTES))),
        }
    }

    /// Takes bytes for which there is room.
    pub(crate) fn write(&self, bytes: &[u8], fate: Fate) {
        let mut state = self.lock();
        state.buffered += bytes.len();
        let Fate::Arrives { delay, bytes_per_second } = fate else {
            state.lost = true;
            return;
        };
        if state.lost || state.reset {
            return;
        }
        let now = Instant::now();
        let carried = bytes_per_second
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes.len() as f64 / rate.max(1) as f64));
        let free = state.free.map_or(now, |free| free.max(now)) + carried;
        let due = state.last_due.map_or(free + delay, |last| last.max(free + delay));
        (state.free, state.last_due) = (Some(free), Some(due));
        state.chunks.push_back(Chunk { due, bytes: Bytes::copy_from_slice(bytes) });
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Reads what has arrived. `alarm` is the reader's own, for what is still on its way.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        alarm: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut state = self.lock();
            if state.reset {
                return Poll::Ready(Err(was_reset()));
            }
            state.reader = Some(context.waker().clone());
            let due = match (state.chunks.front(), state.last_due) {
                (Some(chunk), _) => chunk.due,
                (None, Some(last)) if state.ended && !state.lost => last,
                _ => return Poll::Pending,
            };
            if due <= Instant::now() {
                state.read(into);
                return Poll::Ready(Ok(()));
            }
            drop(state);
            let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if alarm.deadline() != due {
                alarm.as_mut().reset(due);
            }
            std::task::ready!(alarm.as_mut().poll(context));
        }
    }
}

impl State {
    /// Moves bytes of the first chunk; leaves `into` as it is at the end of all.
    fn read(&mut self, into: &mut ReadBuf<'_>) {
        let Some(chunk) = self.chunks.front_mut() else { return };
        let count = chunk.bytes.len().min(into.remaining());
        into.put_slice(&chunk.bytes[..count]);
        chunk.bytes.advance(count);
        if chunk.bytes.is_empty() {
            self.chunks.pop_front();
        }
        self.buffered -= count;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}
