//! The axum router: which path leads to which kind of route. Everything after that is [`Front`]'s.
//!
//! Only the matching is axum's. Keys are taken from the request's target as it came, by
//! [`target`](mod@crate::http::target): a path parameter would be decoded already, and must be UTF-8.

use crate::http::connection::Activity;
use crate::http::front::Front;
use crate::http::route::{KEY_PREFIX, Route};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::routing::{MethodRouter, any};
use std::sync::Arc;

/// Leads every request to `front`, with the kind of its route. The connection's [`Activity`] comes with each
/// request as an extension.
pub(crate) fn router(front: Arc<Front>) -> Router {
    lay_out(leads_to).with_state(front)
}

/// Puts a handler at every path, and one where no path matches.
fn lay_out<S: Clone + Send + Sync + 'static>(handler: impl Fn(Route) -> MethodRouter<S>) -> Router<S> {
    let served = Route::ALL.into_iter().filter(|route| *route != Route::Unknown);
    let router = served.fold(Router::new(), |router, route| match route {
        Route::Key => {
            let keys = format!("{KEY_PREFIX}{{*key}}");
            router.route(&keys, handler(route)).route(KEY_PREFIX, handler(route))
        }
        _ => router.route(route.path(), handler(route)),
    });
    router.fallback(handler(Route::Unknown))
}

fn leads_to(route: Route) -> MethodRouter<Arc<Front>> {
    any(async move |State(front): State<Arc<Front>>, activity: Extension<Arc<Activity>>, request: Request| {
        front.answer(route, request, &activity).await.map(Body::new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// The kinds of route that `paths` lead to, as the router of the front end lays them out.
    async fn lead(paths: &[&str]) -> Vec<Route> {
        use tower_service::Service;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = |route: Route| {
            let seen = Arc::clone(&seen);
            any(async move || seen.lock().unwrap().push(route))
        };
        let mut router: Router = lay_out(record);
        for path in paths {
            let request = Request::builder().uri(*path).body(axum::body::Body::empty()).unwrap();
            router.call(request).await.unwrap();
        }
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    /// A route's own path leads to it, and near misses lead nowhere.
    #[tokio::test]
    async fn paths_are_exact() {
        for route in Route::ALL.into_iter().filter(|route| *route != Route::Unknown) {
            assert_eq!(lead(&[route.path()]).await, [route]);
        }
        for path in ["/", "*", "/v1", "/v1/kvx", "//v1/kv/a", "/V1/kv/a", "/healthz/", "/v1/batch/"] {
            assert_eq!(lead(&[path]).await, [Route::Unknown], "{path}");
        }
        assert_eq!(lead(&["/v1/kv/", "/v1/kv//../x", "/v1/kv/%ff%00", "/v1/kv/a/"]).await, [Route::Key; 4]);
    }
}
