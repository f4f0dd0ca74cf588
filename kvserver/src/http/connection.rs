//! One connection: hyper over a socket that notices who is slow, who is idle and how to part.
//!
//! hyper has one timer for the head of a request, which also runs between requests. Here the two are told apart: a
//! head that has begun must arrive soon, while a connection between requests may rest for longer. And a connection
//! that closes while its peer still sends first reads what comes, for a bounded time: closing with bytes unread
//! makes the kernel reset the connection, and the peer would lose the answer that says why.
//!
//! An answer has a deadline of its own beside the idle timer, which each byte resets: a peer that took one now and
//! then would hold the answer's memory for as long as it likes.

use crate::http::front::Front;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use axum::Router;
use axum::response::Response;
use futures_util::future::BoxFuture;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service as HyperService;
use hyper_util::rt::TokioIo;
use raftstore::Stream;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tower_service::Service as _;

/// How long a closing connection goes on reading what its peer still sends.
pub(crate) const PARTING_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of it is read at most, in bytes.
const PARTING_BYTES_MAX: usize = 16 << 20;

/// How fast an answer must be taken, in bytes a second, beside an idle timeout for it to start.
const ANSWER_RATE_MIN: u64 = 64 << 10;

/// No answer waits to be sent.
const SENT: u64 = u64::MAX;

/// Between requests: nothing of the next one has come.
const IDLE: u8 = 0;
/// Some of a head has come.
const HEAD: u8 = 1;
/// A request is worked on; its own deadlines hold.
const REQUEST: u8 = 2;

/// What a connection is at. Shared by its socket, its requests and the timer that watches both; all three run in
/// one task, so the atomics are never contended.
#[derive(Debug)]
pub(crate) struct Activity {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase began or, while idle or while an answer is sent, when the last byte moved; milliseconds since
    /// `opened`.
    since_ms: AtomicU64,
    /// By when the answer must be sent, in milliseconds since `opened`; [`SENT`] where none is on its way. hyper
    /// reads no further request meanwhile.
    due_ms: AtomicU64,
    /// The peer may still be sending when the connection closes.
    parting: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        let (phase, since_ms) = (AtomicU8::new(IDLE), AtomicU64::new(0));
        let (due_ms, parting) = (AtomicU64::new(SENT), AtomicBool::new(false));
        Self { opened: Instant::now(), phase, since_ms, due_ms, parting }
    }

    /// The connection is to close in spite of what its peer still sends.
    pub(crate) fn part_gently(&self) {
        self.parting.store(true, Ordering::Relaxed);
    }

    fn enter(&self, phase: u8) {
        self.moved();
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Notes that something moved now; gives the time back.
    fn moved(&self) -> u64 {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(now_ms, Ordering::Relaxed);
        now_ms
    }

    /// A request was answered: `bytes` of body are to be sent.
    fn answered(&self, bytes: u64, idle_timeout: Duration) {
        let now_ms = self.moved();
        let lasts = idle_timeout + Duration::from_millis(bytes.saturating_mul(1_000) / ANSWER_RATE_MIN);
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        self.due_ms.store(now_ms.saturating_add(lasts_ms).min(SENT - 1), Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    fn sent(&self) {
        self.due_ms.store(SENT, Ordering::Relaxed);
    }

    fn is_sending(&self) -> bool {
        self.due_ms.load(Ordering::Relaxed) != SENT
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    /// When the phase has lasted too long, which a request's never does, or the answer is not taken fast enough.
    fn deadline(&self, front: &Front) -> Option<Instant> {
        let since = self.opened + Duration::from_millis(self.since_ms.load(Ordering::Relaxed));
        if self.is_sending() {
            let due = self.opened + Duration::from_millis(self.due_ms.load(Ordering::Relaxed));
            return Some(due.min(since + front.config.idle_timeout()));
        }
        let lasts = match self.phase() {
            IDLE => front.config.idle_timeout(),
            HEAD => front.config.header_read_timeout(),
            _ => return None,
        };
        Some(since + lasts)
    }
}

/// Serves one connection until it ends, is too slow, or `stop` says that it is enough: then the request in flight
/// is finished and no other taken.
pub(crate) async fn serve(
    stream: Box<dyn Stream>,
    front: Arc<Front>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let _open = front.traffic.connection();
    let activity = Arc::new(Activity::new());
    let socket = Socket { stream, front: Arc::clone(&front), activity: Arc::clone(&activity), closing: None };
    let idle_timeout = front.config.idle_timeout();
    let requests = Requests { router, activity: Arc::clone(&activity), idle_timeout };
    let mut connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_header_size(front.config.header_bytes_max)
        .serve_connection(TokioIo::new(socket), requests);
    let mut timer = std::pin::pin!(sleep(idle_timeout));
    let mut stopping = false;
    loop {
        let ended = poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ended::Closed(result));
            }
            poll_overdue(cx, timer.as_mut(), &activity, &front).map(|()| Ended::Overdue)
        });
        tokio::select! {
            biased;
            ended = ended => match ended {
                Ended::Closed(Ok(())) => return,
                Ended::Closed(Err(error)) => return tracing::debug!("connection ended: {error}"),
                Ended::Overdue => break,
            },
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let socket = connection.into_parts().io.into_inner();
    if activity.is_sending() {
        front.traffic.answer_timed_out();
    } else if activity.phase() == HEAD {
        front.traffic.head_timed_out();
        let waited = front.config.header_read_timeout_ms;
        let problem = Problem::request_timeout(format!("head did not arrive within {waited} ms"));
        part(socket.stream, &problem.into_message(RequestId::fresh())).await;
    }
}

/// Ends when the server is told to stop, or is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        if stop.changed().await.is_err() {
            return;
        }
    }
}

enum Ended {
    Closed(Result<(), hyper::Error>),
    Overdue,
}

/// Ready when the phase has lasted too long. The timer is moved only where it would come too late: a connection in
/// use touches it once in an idle timeout.
fn poll_overdue(
    cx: &mut Context<'_>,
    mut timer: Pin<&mut Sleep>,
    activity: &Activity,
    front: &Front,
) -> Poll<()> {
    let now = Instant::now();
    match activity.deadline(front) {
        Some(deadline) if deadline <= now => return Poll::Ready(()),
        Some(deadline) if deadline < timer.deadline() => timer.as_mut().reset(deadline),
        _ => {}
    }
    while timer.as_mut().poll(cx).is_ready() {
        let next = activity.deadline(front).unwrap_or(now + front.config.idle_timeout());
        if next <= now {
            return Poll::Ready(());
        }
        timer.as_mut().reset(next);
    }
    Poll::Pending
}

/// Sends a last message and reads what still comes, so that the peer gets to see the message.
pub(crate) async fn part(mut stream: Box<dyn Stream>, message: &[u8]) {
    let parting = async {
        stream.write_all(message).await?;
        stream.shutdown().await?;
        let mut scratch = [0; 4 << 10];
        let mut read = 0;
        while read < PARTING_BYTES_MAX {
            match stream.read(&mut scratch).await? {
                0 => break,
                bytes => read += bytes,
            }
        }
        io::Result::Ok(())
    };
    match timeout(PARTING_TIMEOUT, parting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("peer left before it was told: {error}"),
        Err(_) => tracing::debug!("peer goes on sending, closing"),
    }
}

/// What hyper calls with each request.
struct Requests {
    router: Router,
    activity: Arc<Activity>,
    idle_timeout: Duration,
}

impl HyperService<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let (mut router, activity) = (self.router.clone(), Arc::clone(&self.activity));
        let idle_timeout = self.idle_timeout;
        activity.enter(REQUEST);
        request.extensions_mut().insert(Arc::clone(&activity));
        Box::pin(async move {
            let Ok(response) = router.call(request).await;
            activity.answered(response.body().size_hint().exact().unwrap_or(0), idle_timeout);
            Ok(response)
        })
    }
}

/// The socket, counted and watched.
struct Socket {
    stream: Box<dyn Stream>,
    front: Arc<Front>,
    activity: Arc<Activity>,
    /// Set once this side has shut down and only reads what still comes.
    closing: Option<Closing>,
}

struct Closing {
    timer: Pin<Box<Sleep>>,
    read: usize,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let read = into.filled().len() - before;
        self.front.traffic.received(read);
        if read > 0 && self.activity.phase() == IDLE {
            self.activity.enter(HEAD);
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    fn wrote(&self, written: usize) {
        self.front.traffic.sent(written);
        if self.activity.is_sending() || self.activity.phase() == IDLE {
            self.activity.moved();
        }
    }

    /// Whether the peer may still be sending: told so, or in the middle of a head.
    fn is_parting(&self) -> bool {
        self.activity.parting.load(Ordering::Relaxed) || self.activity.phase() == HEAD
    }

    /// Reads and forgets until the peer closes, too.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timer = || Box::pin(sleep_until(Instant::now() + PARTING_TIMEOUT));
        let closing = self.closing.get_or_insert_with(|| Closing { timer: timer(), read: 0 });
        let mut scratch = [0; 4 << 10];
        while closing.timer.as_mut().poll(cx).is_pending() && closing.read < PARTING_BYTES_MAX {
            let mut into = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
            match into.filled().len() {
                0 => break,
                read => closing.read += read,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, from))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, from))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the socket once it has written all that it holds, and holds an answer whole.
        self.activity.sent();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.is_parting() { self.poll_part(cx) } else { Poll::Ready(Ok(())) }
    }
}
