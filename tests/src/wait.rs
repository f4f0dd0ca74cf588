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
/// If nothing was found within [`PATIENCE`], or a look took longer than was left of it; `what` says what was waited
/// for.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(found)) = tokio::time::timeout_at(until, look()).await {
            return found;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that never ends is given up with the patience.
    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "in vain until somebody answers")]
    async fn endless_looks_end() {
        eventually("somebody answers", std::future::pending::<Option<()>>).await;
    }
}
