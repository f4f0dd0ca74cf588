//! Waiting for conditions. Only patience is measured here, never speed: a slow machine makes a test slow, not red.

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// How long a condition may take that a working cluster reaches in seconds. Long, because the machine may be busy
/// with other things; a test that runs into it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at a condition.
const PACE: Duration = Duration::from_millis(20);

/// Looks until `look` finds something, and returns it.
///
/// # Panics
/// If nothing was found within [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(PACE).await;
    }
}
