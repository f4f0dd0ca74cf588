//! A bound on what is held at once: requests in flight, bytes of bodies, bytes of answers. Nobody waits at it: who
//! does not fit is told so, because a queue in front of a full queue only makes answers late.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// At most `max` units are held at any time.
#[derive(Debug)]
pub(crate) struct Gate {
    /// `held <= max`.
    held: AtomicUsize,
    max: usize,
}

impl Gate {
    pub(crate) fn new(max: usize) -> Self {
        Self { held: AtomicUsize::new(0), max }
    }

    /// Holds `units` until the permit is dropped; `None` where they do not fit.
    pub(crate) fn enter(&self, units: usize) -> Option<Permit<'_>> {
        self.admits(units).then(|| Permit { gate: self, units })
    }

    /// `bytes`, counted until the last reference to any of them is dropped; `None` where they do not fit.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Option<Bytes> {
        let units = bytes.len();
        self.admits(units).then(|| Bytes::from_owner(Held { bytes, units, gate: Arc::clone(self) }))
    }

    /// How many units are held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    fn admits(&self, units: usize) -> bool {
        let fits = |held: usize| held.checked_add(units).filter(|&sum| sum <= self.max);
        self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    fn leave(&self, units: usize) {
        self.held.fetch_sub(units, Ordering::AcqRel);
    }
}

/// Units of a [`Gate`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    gate: &'a Gate,
    units: usize,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.units);
    }
}

/// Bytes that are units of a [`Gate`], given back when dropped.
struct Held {
    bytes: Bytes,
    units: usize,
    gate: Arc<Gate>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.leave(self.units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not fit is refused, and what is given back fits again.
    #[test]
    fn a_gate_is_never_overfull() {
        let gate = Gate::new(10);
        let first = gate.enter(6).unwrap();
        assert!(gate.enter(5).is_none());
        assert!(gate.enter(usize::MAX).is_none());
        let second = gate.enter(4).unwrap();
        assert_eq!(gate.held(), 10);
        drop(first);
        assert!(gate.enter(6).is_some());
        drop(second);
        assert_eq!(gate.held(), 0);
    }

    /// Bytes are counted for as long as any part of them is held.
    #[test]
    fn held_bytes_are_counted_to_the_last() {
        let gate = Arc::new(Gate::new(10));
        let mut whole = gate.hold(Bytes::from_static(b"12345678")).unwrap();
        assert!(gate.hold(Bytes::from_static(b"123")).is_none());
        let part = whole.split_to(2);
        drop(whole);
        assert_eq!((&part[..], gate.held()), (&b"12"[..], 8));
        drop(part);
        assert_eq!(gate.held(), 0);
    }
}
