//! Bounds of one crate that rest on those of another which it does not see.

use client::{DEADLINE_MAX, IDLE_MAX, WINDOW};
use kvserver::machine::bounds;
use std::time::Duration;

/// No machine forgets a session while a client may still write under it: the last write under a session that a
/// client holds on to ends before even a machine under pressure forgets what it knows of the session.
#[test]
fn clients_give_sessions_up_before_machines_forget_them() {
    let forgotten_min = Duration::from_millis(bounds::SESSION_IDLE_MIN_MS);
    assert!(IDLE_MAX + DEADLINE_MAX < forgotten_min, "{IDLE_MAX:?} and {DEADLINE_MAX:?}, {forgotten_min:?}");
    const { assert!(bounds::SESSION_IDLE_MIN_MS < bounds::SESSION_TTL_MS) };
}

/// A client that uses its window to the full stays within the machine's.
#[test]
fn clients_keep_to_the_window() {
    assert!(u64::from(WINDOW) <= bounds::WINDOW, "{WINDOW}, {}", bounds::WINDOW);
}
