//! A bound on what is held at once: requests in flight, bytes of bodies. Nobody waits at it: who does not fit is
//! told so, because a queue in front of a full queue only makes answers late.

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
        let fits = |held: usize| held.checked_add(units).filter(|&sum| sum <= self.max);
        let entered = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        entered.ok().map(|_| Permit { gate: self, units })
    }

    /// How many units are held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
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
        self.gate.held.fetch_sub(self.units, Ordering::AcqRel);
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
}
