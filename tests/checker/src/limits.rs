//! What a search may cost, and what it says when that was not enough.

use std::time::Duration;

/// How long a search may take, and how much it may remember. Beyond either the verdict is
/// [`Unknown`](crate::Verdict::Unknown), which is neither good nor bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest time, for all keys of a history together.
    pub time: Duration,
    /// The most memory for configurations that were found to lead nowhere, in bytes, for one key at a time.
    pub memo_bytes: usize,
}

impl Default for Limits {
    /// A minute and half a gibibyte.
    fn default() -> Self {
        Self { time: Duration::from_secs(60), memo_bytes: 512 << 20 }
    }
}

/// Which limit ended a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// [`Limits::time`].
    #[error("the time limit was reached")]
    Time,
    /// [`Limits::memo_bytes`].
    #[error("the memory limit was reached")]
    Memory,
}

/// What a search finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<F> {
    /// There is an order of all operations that a correct object could have followed.
    Linearizable,
    /// There is none; the payload says how far one gets.
    NotLinearizable(F),
    /// The search was ended before it knew.
    Unknown(Exceeded),
}

impl<F> Verdict<F> {
    /// Whether an order was found.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }

    /// What failed, where it is certain that something did.
    pub fn failure(&self) -> Option<&F> {
        match self {
            Self::NotLinearizable(failure) => Some(failure),
            Self::Linearizable | Self::Unknown(_) => None,
        }
    }

    /// The same verdict with another account of the failure.
    pub fn map<G>(self, account: impl FnOnce(F) -> G) -> Verdict<G> {
        match self {
            Self::Linearizable => Verdict::Linearizable,
            Self::NotLinearizable(failure) => Verdict::NotLinearizable(account(failure)),
            Self::Unknown(exceeded) => Verdict::Unknown(exceeded),
        }
    }
}
