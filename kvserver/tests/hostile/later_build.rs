//! Commands that this build can read, and not carry out.

use proto::{Command, MoveCommand, MoveStep};

/// Whether a command brings in a piece of a copy in another format than `ours` has, which is a piece as this
/// build writes them. A machine stops there, as at bytes that are no command.
pub fn is_of_a_later_build(command: &Command<'_>, ours: &[u8]) -> bool {
    let Command::Move(MoveCommand { step: MoveStep::ImportPiece { bytes, .. }, .. }) = command else {
        return false;
    };
    bytes.first().is_some_and(|version| *version != ours[0])
}
