//! The short form of a run: as the long one, with whatever faults the machine allows.

mod whole;

use faults::Kind;
use std::time::Duration;

/// How long faults are inflicted, one about every second.
const LENGTH: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_secs(1);

/// While five clients work on three processes that are killed, stopped, cut off and misled, and whose disks
/// fail, nobody sees what a correct store could not have shown, and nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread")]
async fn clients_see_a_correct_store_under_faults() {
    let report = whole::passes(&Kind::ALL, LENGTH, PACE).await;
    assert!(report.faults().0 > 0, "nothing happened");
}
