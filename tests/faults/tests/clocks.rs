//! Clocks that are wrong, and nothing else that is.

mod whole;

use faults::Kind;
use std::time::Duration;

/// How long faults are inflicted; up to three are under way at once.
const LENGTH: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_secs(1);

/// While wall clocks are set ten seconds ahead or back and processes run whose clocks are a hundredth fast or
/// slow, five clients see nothing that a correct store could not have shown, and nothing acknowledged is
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_clocks_break_nothing() {
    let report = whole::passes(&[Kind::ClockJump, Kind::ClockDrift], LENGTH, PACE).await;
    assert_eq!(report.faults().1, 2, "clocks jumped and drifted; for that a C compiler named cc is needed");
}
