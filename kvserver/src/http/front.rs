//! One request from its head to its answer: id, route, permit, handler, problem, metrics.
//!
//! Whatever a handler returns, the answer carries the request's id and leaves the connection in order: a body that
//! was refused is either read away or takes the connection with it.

use crate::http::body::{BodyLimits, RequestBody};
use crate::http::config::Config;
use crate::http::connection::Activity;
use crate::http::permit::Gate;
use crate::http::problem::Problem;
use crate::http::request_id::{REQUEST_ID, RequestId};
use crate::http::route::Route;
use crate::http::target::Query;
use crate::http::traffic::Traffic;
use crate::http::{admin, batch, key, list, observe};
use crate::service::{Answers, Call, IdempotencyKey, Operation, Service};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use proto::{Code, Consistency, Error, Limits, Outcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

/// An answer: its body is always whole in memory, and bounded by what handlers ask the service for.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// Names a request so that it takes effect once however often it is sent.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAG_MS: HeaderName = HeaderName::from_static("flotilla-lag-ms");
const NODE: HeaderName = HeaderName::from_static("flotilla-node");

/// How much longer than the deadline the service is waited for, so that its own answer, which knows the outcome,
/// comes first.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// Answers of up to this many bytes are not counted. A connection holds one at most: all 4,096 hold 256 MiB of them.
const ANSWER_BYTES_UNCOUNTED: usize = 64 << 10;

/// The most bytes of larger answers that are held at once, until they are sent; what finds no room is answered 429.
const ANSWER_BYTES_IN_FLIGHT_MAX: usize = 256 << 20;

/// How many requests look at the node at once; further ones wait for their turn.
const LOOKS_MAX: usize = 8;

/// What all connections share.
pub(crate) struct Front {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) shards: u32,
    /// The cluster's name, to which cursors are tied.
    pub(crate) cluster: String,
    pub(crate) traffic: Traffic,
    pub(crate) requests: Gate,
    pub(crate) bodies: Gate,
    pub(crate) answers: Arc<Gate>,
    /// Looking takes a thread from those that may block, which are for others, too.
    pub(crate) looks: Arc<Semaphore>,
}

/// One request's head.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a Parts,
    pub(crate) id: RequestId,
}

impl Front {
    pub(crate) fn new(config: Config, service: Arc<dyn Service>) -> Self {
        Self {
            limits: service.limits(),
            shards: service.shards(),
            cluster: service.cluster().cluster,
            traffic: Traffic::default(),
            requests: Gate::new(config.requests_in_flight_max),
            bodies: Gate::new(config.body_bytes_in_flight_max),
            answers: Arc::new(Gate::new(ANSWER_BYTES_IN_FLIGHT_MAX)),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            config,
            service,
        }
    }

    /// Answers one request; never fails.
    pub(crate) async fn answer(
        &self,
        route: Route,
        request: Request<Body>,
        connection: &Activity,
    ) -> Response {
        let began = Instant::now();
        let (head, incoming) = request.into_parts();
        let mut body = RequestBody::new(incoming, &head.headers);
        let asked = Asked { head: &head, id: RequestId::of(&head.headers) };
        let span =
            tracing::debug_span!("request", id = %asked.id, method = %head.method, route = route.path());
        let mut response = self.dispatch(route, &asked, &mut body).instrument(span).await;
        self.traffic.answered(route, &head.method, response.status(), began.elapsed());
        response.headers_mut().insert(REQUEST_ID, asked.id.header());
        if !body.settle().await {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            connection.part_gently();
        }
        response
    }

    async fn dispatch(&self, route: Route, asked: &Asked<'_>, body: &mut RequestBody) -> Response {
        match self.handle(route, asked, body).await {
            Ok(response) => {
                tracing::debug!(status = response.status().as_u16(), "answered");
                response
            }
            Err(problem) => {
                let (status, code, outcome) = (problem.status.as_u16(), problem.code, problem.outcome());
                if problem.status == StatusCode::INTERNAL_SERVER_ERROR {
                    tracing::error!(id = %asked.id, status, code, outcome, "refused: {}", problem.detail);
                } else {
                    tracing::debug!(status, code, outcome, "refused: {}", problem.detail);
                }
                problem.into_response(asked.id)
            }
        }
    }

    async fn handle(
        &self,
        route: Route,
        asked: &Asked<'_>,
        body: &mut RequestBody,
    ) -> Result<Response, Problem> {
        route.admit(&asked.head.method)?;
        let full = || Error::new(Code::Overloaded, "requests in flight have reached their limit");
        let _permit = match route.is_bounded() {
            true => Some(self.requests.enter(1).ok_or_else(full)?),
            false => None,
        };
        match route {
            Route::Key if matches!(asked.head.method, Method::GET | Method::HEAD) => {
                key::read(self, asked).await
            }
            Route::Key => key::write(self, asked, body).await,
            Route::List => list::list(self, asked).await,
            Route::Batch => batch::batch(self, asked, body).await,
            route if route.is_admin() => admin::answer(self, route, asked, body).await,
            _ => observe::answer(self, route, asked).await,
        }
    }

    /// Has the service carry out `operations`, and holds it to one answer each and to the deadline.
    pub(crate) async fn execute(&self, call: Call) -> Result<Answers, Problem> {
        let questions = call.operations.len();
        let outcome = outcome_unanswered(&call.operations);
        let deadline = call.deadline + GRACE;
        match timeout_at(deadline, self.service.execute(call)).await {
            Ok(Ok(answers)) if answers.answers.len() == questions => Ok(answers),
            Ok(Ok(_)) => Err(Problem::internal("answers do not match the operations in number", outcome)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let message = "the service did not answer within the deadline".into();
                Err(Error { code: Code::Timeout, outcome, message }.into())
            }
        }
    }

    /// An answer with a body that may be large. Such a body holds its share of the memory for answers until its last
    /// byte is written or its connection is gone: hyper drops it no sooner.
    ///
    /// # Errors
    /// `overloaded` where there is no room, with `outcome`: what was asked was done by now.
    pub(crate) fn counted_body(
        &self,
        content_type: &'static str,
        bytes: impl Into<Bytes>,
        outcome: Outcome,
    ) -> Result<Response, Problem> {
        let bytes = bytes.into();
        if bytes.len() <= ANSWER_BYTES_UNCOUNTED {
            return Ok(body(content_type, bytes));
        }
        let message = "answers that are not sent yet take up all memory set aside for them";
        let full = || Error { code: Code::Overloaded, outcome, message: message.into() };
        let held = self.answers.hold(bytes).ok_or_else(full)?;
        Ok(body(content_type, held))
    }

    /// When the answer is due: `timeout` of the query from now on.
    pub(crate) fn deadline(&self, query: &Query<'_>) -> Result<Instant, Problem> {
        let given = query.number("timeout", 1, self.config.timeout_ms_max)?;
        Ok(Instant::now() + Duration::from_millis(given.unwrap_or(self.config.timeout_ms_default)))
    }

    /// How a body of up to `bytes_max` bytes is read.
    pub(crate) fn body_limits(&self, bytes_max: usize, too_large: Code) -> BodyLimits<'_> {
        BodyLimits { bytes_max, too_large, timeout: self.config.body_read_timeout(), gate: &self.bodies }
    }
}

/// `consistency` and `max-lag` of the query. `lease` is answered by ReadIndex, which is more than it asks for.
pub(crate) fn consistency(query: &Query<'_>) -> Result<Consistency, Problem> {
    let lag_ms_max = query.number("max-lag", 0, u64::MAX)?;
    let consistency = match query.bytes("consistency") {
        None | Some(b"linearizable" | b"lease") => Consistency::Linearizable,
        Some(b"follower") => Consistency::Follower,
        Some(b"stale") => return Ok(Consistency::Stale { lag_ms_max }),
        Some(other) => {
            return Err(Problem::bad_request(format!(
                "query parameter consistency must be linearizable, lease, follower or stale, not {}",
                String::from_utf8_lossy(other)
            )));
        }
    };
    match lag_ms_max {
        None => Ok(consistency),
        Some(_) => Err(Problem::bad_request("query parameter max-lag goes with consistency=stale alone")),
    }
}

/// The caller's own name for the request.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::bad_request("header is given twice: idempotency-key")),
        (Some(value), None) => match IdempotencyKey::new(value.as_bytes()) {
            Some(key) => Ok(Some(key)),
            None => Err(Problem::bad_request("idempotency-key must be 1 to 128 visible ascii characters")),
        },
    }
}

/// Tells who answered a read that need not come from the leader, and how old the answer may be.
pub(crate) fn tell_lag(response: &mut Response, consistency: Consistency, answers: &Answers) {
    if consistency != Consistency::Linearizable {
        response.headers_mut().insert(LAG_MS, HeaderValue::from(answers.lag_ms));
        response.headers_mut().insert(NODE, HeaderValue::from(answers.node.0));
    }
}

/// What becomes of a call whose answer never gets to the caller.
pub(crate) fn outcome_unanswered(operations: &[Operation]) -> Outcome {
    if operations.iter().all(Operation::is_read) { Outcome::None } else { Outcome::Unknown }
}

/// An answer with a body of `content_type`.
pub(crate) fn body(content_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(bytes.into()));
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
