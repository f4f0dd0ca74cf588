//! Waiting for conditions, as all tests of whole nodes in real time do.

use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What must happen, happens within this time even on a busy machine and over a network that loses messages.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something, and panics with `what` where it never does.
pub(crate) async fn eventually<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < until, "never came: {what}");
        sleep(LOOK).await;
    }
}
