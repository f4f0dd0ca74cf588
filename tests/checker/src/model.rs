//! What a correct object does: the specification that a history is held against.

use std::hash::Hash;

/// A sequential object: from a state, an operation and its answer to the next state, or to the verdict that a
/// correct object would not have answered so. It is deterministic, and everything that it needs stands in its
/// arguments.
pub trait Model {
    /// What is asked. Equal operations are taken to be interchangeable wherever their answers are unknown.
    type Operation: PartialEq;
    /// What comes back.
    type Answer;
    /// What the object remembers. Equal states have the same future.
    type State: Clone + Eq + Hash;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `operation` took effect in `state`, or `None` where a correct object could not have
    /// given that answer there. Without an answer nothing is known but that it took effect.
    fn step(
        &self,
        state: &Self::State,
        operation: &Self::Operation,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;

    /// Whether an operation that was answered so leaves every state as it is in which it could be, like a
    /// read. The search need not try such an operation at different places. To say no is always right.
    fn is_read(&self, _operation: &Self::Operation, _answer: &Self::Answer) -> bool {
        false
    }

    /// About how many bytes of memory a state takes, for the search's bound.
    fn state_bytes(&self, _state: &Self::State) -> usize {
        size_of::<Self::State>()
    }
}
