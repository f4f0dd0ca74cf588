//! A machine that keeps what it is given.

use bytes::Bytes;
use raftstore::{CopyId, CopyStep, LoadError, Machine, Moment};

/// The bytes of all commands, one after the other.
#[derive(Debug, Default)]
pub struct Log(pub Vec<u8>);

impl Machine for Log {
    fn apply(&mut self, _at: Moment, command: &[u8]) -> Bytes {
        self.0.extend_from_slice(command);
        Bytes::new()
    }

    fn time_ms(&self) -> u64 {
        0
    }

    fn copy_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn copy_begin(&mut self) -> CopyId {
        CopyId(0)
    }

    fn copy_next(&mut self, _copy: CopyId, _bytes_max: usize) -> CopyStep {
        CopyStep { bytes: self.0.clone(), remaining: 0 }
    }

    fn copy_end(&mut self, _copy: CopyId) {}

    fn load(&mut self, piece: &[u8]) -> Result<(), LoadError> {
        self.0 = piece.to_vec();
        Ok(())
    }
}
