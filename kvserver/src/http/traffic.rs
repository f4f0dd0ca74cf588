//! The front end's own counters. Every place that counts touches a few atomics and nothing else; what is worth
//! adding up is added up when somebody reads the page.

use crate::http::route::Route;
use crate::service::{MetricKind, MetricsText};
use hyper::{Method, StatusCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The methods that are told apart; all others count as `other`.
const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "other"];

/// The statuses that this front end answers; 0 counts all others.
const STATUSES: [u16; 18] =
    [200, 201, 204, 304, 400, 404, 405, 408, 409, 412, 413, 415, 422, 429, 500, 503, 504, 0];

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 60_000_000,
];

type StatusCounts = [[AtomicU64; STATUSES.len()]; METHODS.len()];

/// Latencies of one route; the last bucket takes what no bound takes.
#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Everything that the front end counts.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: [StatusCounts; Route::ALL.len()],
    latencies: [Histogram; Route::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    slow: AtomicU64,
    untaken: AtomicU64,
}

/// What is held now, as the gates count it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) requests: usize,
    pub(crate) body_bytes: usize,
    pub(crate) answer_bytes: usize,
}

impl Traffic {
    /// Counts a request that was answered.
    pub(crate) fn answered(&self, route: Route, method: &Method, status: StatusCode, took: Duration) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let status = STATUSES.iter().position(|code| *code == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        self.requests[route as usize][method][status].fetch_add(1, Ordering::Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BUCKETS_US.len());
        let histogram = &self.latencies[route as usize];
        histogram.counts[bucket].fetch_add(1, Ordering::Relaxed);
        histogram.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a connection that is refused because too many are open.
    pub(crate) fn connection_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that is closed because a request's head did not arrive in time.
    pub(crate) fn head_timed_out(&self) {
        self.slow.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that is closed because an answer was not taken in time.
    pub(crate) fn answer_timed_out(&self) {
        self.untaken.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection as open for as long as the guard lives.
    pub(crate) fn connection(&self) -> impl Drop + use<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    /// Writes everything down.
    pub(crate) fn write(&self, into: &mut MetricsText, held: InFlight) {
        use MetricKind::{Counter, Gauge};
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.write_requests(into);
        self.write_latencies(into);
        let singles = [
            ("flotilla_http_requests_in_flight", Gauge, "Requests worked on now.", held.requests as u64),
            (
                "flotilla_http_body_bytes_in_flight",
                Gauge,
                "Bytes of bodies held now.",
                held.body_bytes as u64,
            ),
            (
                "flotilla_http_answer_bytes_in_flight",
                Gauge,
                "Bytes of large answers held until they are sent.",
                held.answer_bytes as u64,
            ),
            ("flotilla_http_connections", Gauge, "Connections open now.", read(&self.connections)),
            (
                "flotilla_http_connections_refused_total",
                Counter,
                "Connections refused because too many were open.",
                read(&self.refused),
            ),
            (
                "flotilla_http_heads_timed_out_total",
                Counter,
                "Connections closed because a request's head did not arrive in time.",
                read(&self.slow),
            ),
            (
                "flotilla_http_answers_timed_out_total",
                Counter,
                "Connections closed because an answer was not taken in time.",
                read(&self.untaken),
            ),
            (
                "flotilla_http_received_bytes_total",
                Counter,
                "Bytes read from connections.",
                read(&self.received_bytes),
            ),
            (
                "flotilla_http_sent_bytes_total",
                Counter,
                "Bytes written to connections.",
                read(&self.sent_bytes),
            ),
        ];
        for (name, kind, help, value) in singles {
            into.single(name, kind, help, value);
        }
    }

    fn write_requests(&self, into: &mut MetricsText) {
        const NAME: &str = "flotilla_http_requests_total";
        into.family(NAME, MetricKind::Counter, "Requests answered, by route, method and status.");
        for route in Route::ALL {
            for (method, statuses) in METHODS.iter().zip(&self.requests[route as usize]) {
                for (status, count) in STATUSES.iter().zip(statuses) {
                    let count = count.load(Ordering::Relaxed);
                    if count > 0 {
                        let status = status.to_string();
                        let labels =
                            [("route", route.path()), ("method", method), ("status", status.as_str())];
                        into.sample(NAME, &labels, count);
                    }
                }
            }
        }
    }

    fn write_latencies(&self, into: &mut MetricsText) {
        const NAME: &str = "flotilla_http_request_seconds";
        into.family(NAME, MetricKind::Histogram, "Time from a request's head to its answer.");
        for route in Route::ALL {
            let histogram = &self.latencies[route as usize];
            let mut sum = 0;
            for (place, count) in histogram.counts.iter().enumerate() {
                sum += count.load(Ordering::Relaxed);
                let bound = BUCKETS_US.get(place).map_or("+Inf".into(), |us| seconds(*us));
                into.sample(&format!("{NAME}_bucket"), &[("route", route.path()), ("le", &bound)], sum);
            }
            let total = seconds(histogram.sum_us.load(Ordering::Relaxed));
            into.sample(&format!("{NAME}_sum"), &[("route", route.path())], total);
            into.sample(&format!("{NAME}_count"), &[("route", route.path())], sum);
        }
    }
}

struct OpenConnection<'a>(&'a Traffic);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn seconds(us: u64) -> String {
    format!("{}", us as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request is counted once under its labels, and its latency in every bucket that holds it.
    #[test]
    fn a_request_is_counted() {
        let traffic = Traffic::default();
        traffic.answered(Route::Key, &Method::PUT, StatusCode::CREATED, Duration::from_micros(700));
        traffic.answered(
            Route::Key,
            &Method::PATCH,
            StatusCode::METHOD_NOT_ALLOWED,
            Duration::from_secs(100),
        );
        let mut page = MetricsText::default();
        traffic.write(&mut page, InFlight { requests: 3, body_bytes: 9, answer_bytes: 70_000 });
        let page = page.into_string();
        for line in [
            r#"flotilla_http_requests_total{route="/v1/kv/{key}",method="PUT",status="201"} 1"#,
            r#"flotilla_http_requests_total{route="/v1/kv/{key}",method="other",status="405"} 1"#,
            r#"flotilla_http_request_seconds_bucket{route="/v1/kv/{key}",le="0.0005"} 0"#,
            r#"flotilla_http_request_seconds_bucket{route="/v1/kv/{key}",le="0.001"} 1"#,
            r#"flotilla_http_request_seconds_bucket{route="/v1/kv/{key}",le="60"} 1"#,
            r#"flotilla_http_request_seconds_bucket{route="/v1/kv/{key}",le="+Inf"} 2"#,
            r#"flotilla_http_request_seconds_count{route="/v1/kv/{key}"} 2"#,
            "flotilla_http_requests_in_flight 3",
            "flotilla_http_body_bytes_in_flight 9",
            "flotilla_http_answer_bytes_in_flight 70000",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
