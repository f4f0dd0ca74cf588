//! One way to take a lock. The critical sections of this crate are short, never await, and do not panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes `mutex`. A poisoned one is taken all the same: every section leaves its data whole at every step, so a
/// panic elsewhere on that thread says nothing about the data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
