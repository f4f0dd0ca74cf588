//! The paths that look at a node: cluster, status, health, readiness, metrics and the API's own description.
//!
//! None of them waits, so that they answer while everything else is stuck.

use crate::http::batch::json_body;
use crate::http::front::{self, Asked, Front, Response};
use crate::http::problem::Problem;
use crate::http::route::Route;
use crate::http::target::Query;
use crate::service::MetricsText;
use proto::{Code, Error};

/// The description of what is served; tests hold it to the routes and to the statuses that really occur.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// Answers one of these paths.
pub(crate) fn answer(front: &Front, route: Route, asked: &Asked<'_>) -> Result<Response, Problem> {
    Query::parse(asked.head.uri.query(), &[])?;
    match route {
        Route::Cluster => Ok(json_body(&front.service.cluster())),
        Route::Status => Ok(json_body(&front.service.status())),
        Route::Health => Ok(front::body("text/plain", "ok\n")),
        Route::Ready => match front.service.readiness() {
            Ok(()) => Ok(front::body("text/plain", "ready\n")),
            Err(missing) => Err(Error::new(Code::Unavailable, missing).into()),
        },
        Route::Metrics => Ok(metrics(front)),
        Route::OpenApi => Ok(front::body("application/json", OPENAPI)),
        Route::Key | Route::List | Route::Batch | Route::Unknown => Err(Problem::unknown_path()),
    }
}

fn metrics(front: &Front) -> Response {
    let mut page = MetricsText::default();
    front.traffic.write(&mut page, front.requests.held(), front.bodies.held());
    front.service.metrics(&mut page);
    front::body(MetricsText::CONTENT_TYPE, page.into_string())
}
