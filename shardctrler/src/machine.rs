//! The controller as a replicated machine: commands and answers in bytes, and copies of it.
//!
//! Commands are [`ControllerCommand`]s and answers [`ControllerAnswer`]s, both in the encoding of
//! [`proto::encode`]. The state is small, so a copy is one picture of it, handed out in pieces; where the
//! state has changed before the last piece, the copy begins again with a new picture. Whoever copies bounds
//! how often: raftstore finishes a copy that its writers outrun under one hold of its lock.

mod picture;
#[cfg(test)]
mod tests;

use crate::controller::Controller;
use bytes::Bytes;
use picture::{Album, Pieces};
use proto::{ControllerAnswer, ControllerCommand};
use raftstore::{CopyId, CopyStep, LoadError, Machine, Moment};

/// Group 0.
#[derive(Debug, Default)]
pub struct ControllerMachine {
    controller: Controller,
    copies: Album,
    loading: Pieces,
}

impl ControllerMachine {
    /// A machine whose cluster is not born yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is replicated.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    fn execute(&mut self, command: &ControllerCommand) -> ControllerAnswer {
        let answer = self.controller.execute(command);
        if answer.is_ok() {
            self.copies.outdate();
        }
        answer
    }
}

impl Machine for ControllerMachine {
    fn apply(&mut self, at: Moment, command: &[u8]) -> Bytes {
        let command = proto::decode(command).unwrap_or_else(|error| raftstore::unreadable(at, &error));
        Bytes::from(proto::encode(&self.execute(&command)))
    }

    /// The controller has no use for time: its driver judges by its own clock, and says so in a command.
    fn time_ms(&self) -> u64 {
        0
    }

    fn copy_bytes(&self) -> u64 {
        proto::encode(&self.controller).len() as u64
    }

    fn copy_begin(&mut self) -> CopyId {
        self.copies.begin()
    }

    fn copy_next(&mut self, copy: CopyId, bytes_max: usize) -> CopyStep {
        self.copies.step(copy, &self.controller, bytes_max)
    }

    fn copy_end(&mut self, copy: CopyId) {
        self.copies.end(copy);
    }

    fn load(&mut self, piece: &[u8]) -> Result<(), LoadError> {
        if let Some(picture) = self.loading.add(piece).map_err(LoadError)? {
            let controller: Controller =
                proto::decode(&picture).map_err(|error| LoadError(error.to_string()))?;
            controller.check().map_err(LoadError)?;
            self.controller = controller;
        }
        Ok(())
    }
}
