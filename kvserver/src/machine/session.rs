//! One client's exactly-once record with one shard.
//!
//! Owns which sequences were answered, and how. Relies on its callers to admit only sequences within
//! [`WINDOW`] of the lowest open one. It must never forget an answer that its client may still ask for.

use super::bounds::{SESSION_TTL_MS, WINDOW};
use super::outcome::Outcome;
use bincode::config::{Configuration, standard};
use proto::Sequence;
use std::collections::VecDeque;

/// How an answer's bytes are written inside a session's record; part of the format of copies.
const CONFIG: Configuration = standard();

/// The most bytes of one answer in a session's record: a distance within the window, a kind, three counters.
const ANSWER_BYTES_MAX: u64 = 3 + 1 + 3 * 9;

/// The answers from the lowest sequence up that the client still waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// Never goes back; no sequence below it is admitted or kept.
    lowest: Sequence,
    /// Replicated time of the last stamped write, in whole seconds, so that a busy session moves in the order
    /// of idleness once a second and not at every write.
    active_s: u64,
    /// Ascending by sequence, none below `lowest`, at most `WINDOW + 1`.
    answers: VecDeque<(Sequence, Outcome)>,
}

impl Session {
    /// A session that has answered nothing. Most sessions wait for one answer at a time: room for that.
    pub(super) fn new(active_s: u64, lowest: Sequence) -> Self {
        Self { lowest, active_s, answers: VecDeque::with_capacity(1) }
    }

    pub(super) fn lowest(&self) -> Sequence {
        self.lowest
    }

    pub(super) fn active_s(&self) -> u64 {
        self.active_s
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers.len() as u64
    }

    /// The most bytes that [`encode_answers`](Self::encode_answers) makes of them.
    pub(super) fn answer_bytes(&self) -> u64 {
        ANSWER_BYTES_MAX * self.answers()
    }

    /// Notes that the client wrote at `active_s` and waits for nothing below `lowest_open`. Says whether this
    /// changed anything.
    pub(super) fn touch(&mut self, active_s: u64, lowest_open: Sequence) -> bool {
        let changed = active_s > self.active_s || lowest_open > self.lowest;
        self.active_s = self.active_s.max(active_s);
        self.lowest = self.lowest.max(lowest_open);
        while self.answers.front().is_some_and(|(sequence, _)| *sequence < self.lowest) {
            self.answers.pop_front();
        }
        // A burst must not hold its memory for as long as the session lives.
        if self.answers.capacity() >= 32 && self.answers.len() * 4 <= self.answers.capacity() {
            self.answers.shrink_to(self.answers.len() * 2);
        }
        changed
    }

    /// How `sequence` was answered, if it was.
    pub(super) fn answer(&self, sequence: Sequence) -> Option<Outcome> {
        Some(self.answers[self.place(sequence).ok()?].1)
    }

    /// Keeps the answer to a sequence that has none.
    pub(super) fn settle(&mut self, sequence: Sequence, outcome: Outcome) {
        assert!(sequence >= self.lowest, "a sequence below the lowest open one was carried out: {sequence}");
        match self.place(sequence) {
            Ok(_) => panic!("a sequence was carried out twice: {sequence}"),
            Err(at) => self.answers.insert(at, (sequence, outcome)),
        }
    }

    /// Where the answer to `sequence` is, or else would be. Most come in order.
    fn place(&self, sequence: Sequence) -> Result<usize, usize> {
        match self.answers.back() {
            Some((last, _)) if *last >= sequence => {
                self.answers.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
            }
            _ => Err(self.answers.len()),
        }
    }

    /// The answers as a session's record holds them: each its distance from the lowest open sequence, then
    /// its outcome.
    pub(super) fn encode_answers(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 * self.answers.len());
        for (sequence, outcome) in &self.answers {
            let distance = sequence.0 - self.lowest.0;
            bincode::encode_into_std_write((distance, outcome), &mut bytes, CONFIG)
                .expect("writing to memory does not fail");
        }
        bytes
    }

    /// The session that [`encode_answers`](Self::encode_answers) and the two accessors described.
    pub(super) fn decode(lowest: Sequence, active_s: u64, mut answers: &[u8]) -> Result<Self, String> {
        if lowest < Sequence(1) || active_s > u64::MAX / 1000 {
            return Err(format!("session with lowest open sequence {lowest}, active at {active_s} s"));
        }
        let mut session = Self { lowest, active_s, answers: VecDeque::new() };
        while !answers.is_empty() {
            let ((distance, outcome), used): ((u64, Outcome), usize) =
                bincode::decode_from_slice(answers, CONFIG).map_err(|error| error.to_string())?;
            answers = &answers[used..];
            let sequence = lowest.0.checked_add(distance).ok_or("sequence overflows")?;
            let last = session.answers.back().map(|(Sequence(sequence), _)| *sequence);
            if distance > WINDOW || last.is_some_and(|last| last >= sequence) {
                return Err(format!("answer to sequence {sequence} out of order or of the window"));
            }
            session.answers.push_back((Sequence(sequence), outcome));
        }
        Ok(session)
    }
}

/// The first instant at which a session that was last active in second `active_s` has been idle for longer
/// than `idle_ms` whenever in that second it was active.
fn idle_since(active_s: u64, idle_ms: u64) -> u64 {
    active_s.saturating_add(1).saturating_mul(1000).saturating_add(idle_ms)
}

/// Whether a session last active in second `active_s` is certainly idle for longer than `idle_ms`.
pub(super) fn is_idle(active_s: u64, time_ms: u64, idle_ms: u64) -> bool {
    time_ms >= idle_since(active_s, idle_ms)
}

/// Whether a session last active in second `active_s` is to be forgotten.
pub(super) fn is_expired(active_s: u64, time_ms: u64) -> bool {
    is_idle(active_s, time_ms, SESSION_TTL_MS)
}

/// The second here in which a session was last active that was so in second `active_s` there, where it is
/// `there_ms` there and `here_ms` here: it stays as idle as it was. In that second it is taken to have been
/// active as late as can be, so that it is never forgotten too early.
pub(super) fn rebased_s(active_s: u64, there_ms: u64, here_ms: u64) -> u64 {
    let active_ms = active_s.saturating_mul(1000).saturating_add(999).min(there_ms);
    here_ms.saturating_sub(there_ms - active_ms) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever a session goes, it is as idle as it was, to the second, and never idler.
    #[test]
    fn idleness_travels() {
        assert_eq!(rebased_s(10, 10_500, 99_700), 99);
        assert_eq!(rebased_s(10, 12_000, 20_900), 19, "idle for 1,001 ms at least");
        assert_eq!(rebased_s(10, 11_998, 20_000), 19);
        assert_eq!(rebased_s(5, 3_605_999, 7_000_000), 3_400);
        assert_eq!(rebased_s(1, 1_000_000, 5), 0, "before the clock here began");
        assert_eq!(rebased_s(7, 3_000, 3_000), 3, "active later than now is active now");
        assert_eq!(rebased_s(u64::MAX, u64::MAX, 1_000), 1);
        for (there_ms, here_ms) in [(50_000, 50_000), (50_123, 99_876), (99_876, 60_123)] {
            for active_ms in [there_ms - 40_000, there_ms - 1_234, there_ms] {
                let at_most = (here_ms - (there_ms - active_ms)) / 1000;
                let rebased = rebased_s(active_ms / 1000, there_ms, here_ms);
                assert!((at_most..=at_most + 1).contains(&rebased), "{rebased}, not {at_most}");
            }
        }
    }
}
