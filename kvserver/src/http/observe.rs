//! The paths that look at a node: cluster, status, health, readiness, metrics and the API's own description.
//!
//! The node's locks may be held for long and its disk be slow, so it is looked at on threads that may block, by a
//! few requests at a time: no other request waits for one of these. `/healthz` looks at nothing, and answers while
//! everything else is stuck.

use crate::http::batch::json_body;
use crate::http::front::{self, Asked, Front, Response};
use crate::http::problem::Problem;
use crate::http::route::Route;
use crate::http::target::Query;
use crate::http::traffic::InFlight;
use crate::service::{MetricsText, Service};
use proto::{Code, Error};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The description of what is served; tests hold it to the routes and to the statuses that really occur.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// Answers one of these paths.
pub(crate) async fn answer(front: &Front, route: Route, asked: &Asked<'_>) -> Result<Response, Problem> {
    Query::parse(asked.head.uri.query(), &[])?;
    match route {
        Route::Cluster => Ok(json_body(&look(front, |node| node.cluster()).await)),
        Route::Status => Ok(json_body(&look(front, |node| node.status()).await)),
        Route::Health => Ok(front::body("text/plain", "ok\n")),
        Route::Ready => match look(front, |node| node.readiness()).await {
            Ok(()) => Ok(front::body("text/plain", "ready\n")),
            Err(missing) => Err(Error::new(Code::Unavailable, missing).into()),
        },
        Route::Metrics => Ok(metrics(front).await),
        Route::OpenApi => Ok(front::body("application/json", OPENAPI)),
        _ => Err(Problem::unknown_path()),
    }
}

async fn metrics(front: &Front) -> Response {
    let mut page = MetricsText::default();
    let held = InFlight {
        requests: front.requests.held(),
        body_bytes: front.bodies.held(),
        answer_bytes: front.answers.held(),
    };
    front.traffic.write(&mut page, held);
    let page = look(front, |node| {
        node.metrics(&mut page);
        page
    })
    .await;
    front::body(MetricsText::CONTENT_TYPE, page.into_string())
}

/// What `at` sees of the node, on a thread that may block. The turn ends with the look, also where its caller is gone.
pub(crate) async fn look<T, F>(front: &Front, at: F) -> T
where
    T: Send + 'static,
    F: FnOnce(&dyn Service) -> T + Send + 'static,
{
    let turn = Arc::clone(&front.looks).acquire_owned().await.expect("turns to look are never closed");
    let node = Arc::clone(&front.service);
    let (tell, told) = oneshot::channel();
    let looking = Arc::clone(&node).offload(Box::pin(async move {
        let seen = at(&*node);
        drop(turn);
        if tell.send(seen).is_err() {
            tracing::debug!("nobody waits for this look any more");
        }
    }));
    looking.await;
    told.await.expect("looking at the node does not panic")
}
