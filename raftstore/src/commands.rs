//! An entry's data: replicated time and the commands that were gathered into one entry.
//!
//! ```text
//! version u8 (1) · time_ms u64 · count u32 · per command: length u32 · bytes
//! ```

use crate::codec::{Malformed, take_u8, take_u32, take_u64};
use bytes::{BufMut, Bytes};

const VERSION: u8 = 1;

/// The bytes around one command.
pub(crate) const COMMAND_OVERHEAD: usize = 4;

/// The bytes around all commands.
pub(crate) const HEADER: usize = 1 + 8 + 4;

/// The data of an entry that carries `commands`, proposed at `time_ms`.
pub(crate) fn pack(time_ms: u64, commands: &[&[u8]]) -> Bytes {
    let length = HEADER + commands.iter().map(|command| COMMAND_OVERHEAD + command.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(length);
    bytes.put_u8(VERSION);
    bytes.put_u64_le(time_ms);
    bytes.put_u32_le(u32::try_from(commands.len()).expect("the proposer bounds an entry's commands"));
    for command in commands {
        bytes.put_u32_le(u32::try_from(command.len()).expect("the proposer bounds a command's bytes"));
        bytes.put_slice(command);
    }
    debug_assert_eq!(bytes.len(), length);
    Bytes::from(bytes)
}

/// The time and the commands of an entry's data.
///
/// # Errors
/// [`Malformed`] where the data was not written by [`pack`]. The record around it carries a checksum, so this
/// is a newer format or a defect, never a flipped bit.
pub(crate) fn unpack(data: &[u8]) -> Result<(u64, Vec<&[u8]>), Malformed> {
    let malformed = |why| Malformed { what: "commands", why };
    let mut from = data;
    if take_u8(&mut from, "commands")? != VERSION {
        return Err(malformed("unknown version"));
    }
    let time_ms = take_u64(&mut from, "commands")?;
    let count = take_u32(&mut from, "commands")? as usize;
    if count > from.len() / COMMAND_OVERHEAD {
        return Err(malformed("count exceeds the bytes"));
    }
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        let length = take_u32(&mut from, "commands")? as usize;
        let (command, rest) = from.split_at_checked(length).ok_or_else(|| malformed("ends early"))?;
        commands.push(command);
        from = rest;
    }
    if !from.is_empty() {
        return Err(malformed("stray bytes follow"));
    }
    Ok((time_ms, commands))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The layout does not drift.
    #[test]
    fn golden_bytes() {
        let packed = pack(258, &[b"a", b""]);
        assert_eq!(&packed[..], [1, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 0]);
    }

    proptest! {
        /// Commands come back as they went in.
        #[test]
        fn round_trip(time in any::<u64>(), commands in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let commands: Vec<&[u8]> = commands.iter().map(|command| &command[..]).collect();
            let packed = pack(time, &commands);
            prop_assert_eq!(unpack(&packed), Ok((time, commands)));
        }

        /// Hostile bytes are refused or read, never a panic and never a large allocation.
        #[test]
        fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            if let Ok((time, commands)) = unpack(&bytes) {
                prop_assert_eq!(pack(time, &commands), bytes);
            }
        }
    }
}
