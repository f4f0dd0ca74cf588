//! The machine under test: a list of commands in the order in which they were applied, and for each writer the
//! ordinal of its last one.
//!
//! The list only grows, so its copy is a tail; the writers' records change, so theirs are handed out again. Both
//! halves of "copy, then tail" are exercised by every snapshot.

use crate::truth::Truth;
use bytes::{Buf, BufMut, Bytes};
use raftstore::{CopyId, CopyStep, LoadError, Machine, Moment};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const COMMAND: u8 = 0;
const WRITER: u8 = 1;

/// See the module. A command's writer is what stands before its first `/`.
pub struct Journal {
    truth: Arc<Truth>,
    commands: Vec<Bytes>,
    writers: BTreeMap<Vec<u8>, u64>,
    /// The highest time that a command came with.
    time_ms: u64,
    copies: BTreeMap<CopyId, Copy>,
    next_copy: u64,
}

#[derive(Default)]
struct Copy {
    /// How many commands were handed out.
    commands: usize,
    /// Writers whose record changed since it was handed out.
    dirty: BTreeSet<Vec<u8>>,
}

fn writer_of(command: &[u8]) -> Vec<u8> {
    command.split(|&byte| byte == b'/').next().unwrap_or_default().to_vec()
}

impl Journal {
    pub fn new(truth: Arc<Truth>) -> Self {
        Self {
            truth,
            commands: Vec::new(),
            writers: BTreeMap::new(),
            time_ms: 0,
            copies: BTreeMap::new(),
            next_copy: 0,
        }
    }

    /// The commands applied so far.
    pub fn commands(&self) -> &[Bytes] {
        &self.commands
    }

    pub fn len(&self) -> u64 {
        self.commands.len() as u64
    }

    /// One number over the whole state.
    pub fn digest(&self) -> u64 {
        let commands = self.commands.iter().map(|command| &command[..]);
        let writers = self.writers.iter().map(|(writer, ordinal)| (&writer[..], *ordinal));
        let mut digest = Digest::default();
        commands.for_each(|command| digest.add(command));
        writers.for_each(|(writer, ordinal)| {
            digest.add(writer);
            digest.add(&ordinal.to_le_bytes());
        });
        digest.0
    }

    fn append(&mut self, command: Bytes) -> u64 {
        let ordinal = self.len();
        self.truth.applied(ordinal, &command);
        self.commands.push(command);
        ordinal
    }
}

/// FNV-1a: enough to tell two runs apart.
pub struct Digest(pub u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Machine for Journal {
    fn apply(&mut self, at: Moment, command: &[u8]) -> Bytes {
        if at.time_ms < self.time_ms {
            self.truth.violated(format!("time went back from {} to {}", self.time_ms, at.time_ms));
        }
        self.time_ms = self.time_ms.max(at.time_ms);
        let ordinal = self.append(Bytes::copy_from_slice(command));
        let writer = writer_of(command);
        self.copies.values_mut().for_each(|copy| {
            copy.dirty.insert(writer.clone());
        });
        self.writers.insert(writer, ordinal);
        Bytes::copy_from_slice(&ordinal.to_le_bytes())
    }

    fn copy_begin(&mut self) -> CopyId {
        self.next_copy += 1;
        let id = CopyId(self.next_copy);
        self.copies.insert(id, Copy { commands: 0, dirty: self.writers.keys().cloned().collect() });
        id
    }

    fn copy_next(&mut self, copy: CopyId, bytes_max: usize) -> CopyStep {
        let copy = self.copies.get_mut(&copy).expect("a copy that goes on was begun and has not ended");
        let mut bytes = Vec::new();
        while bytes.len() < bytes_max
            && let Some(command) = self.commands.get(copy.commands)
        {
            bytes.put_u8(COMMAND);
            bytes.put_u64_le(copy.commands as u64);
            bytes.put_u32_le(command.len() as u32);
            bytes.put_slice(command);
            copy.commands += 1;
        }
        while bytes.len() < bytes_max
            && let Some(writer) = copy.dirty.pop_first()
        {
            bytes.put_u8(WRITER);
            bytes.put_u64_le(self.writers[&writer]);
            bytes.put_u32_le(writer.len() as u32);
            bytes.put_slice(&writer);
        }
        let commands = self.commands[copy.commands..].iter().map(|command| command.len() as u64 + 13);
        let writers = copy.dirty.iter().map(|writer| writer.len() as u64 + 13);
        CopyStep { bytes, remaining: commands.chain(writers).sum() }
    }

    fn copy_end(&mut self, copy: CopyId) {
        self.copies.remove(&copy);
    }

    fn load(&mut self, mut piece: &[u8]) -> Result<(), LoadError> {
        let malformed = |why: &str| LoadError(why.to_owned());
        while !piece.is_empty() {
            let kind = piece.try_get_u8().map_err(|error| malformed(&error.to_string()))?;
            let ordinal = piece.try_get_u64_le().map_err(|error| malformed(&error.to_string()))?;
            let length = piece.try_get_u32_le().map_err(|error| malformed(&error.to_string()))? as usize;
            let (bytes, rest) = piece.split_at_checked(length).ok_or_else(|| malformed("ends early"))?;
            piece = rest;
            match kind {
                COMMAND if ordinal == self.len() => {
                    self.append(Bytes::copy_from_slice(bytes));
                }
                COMMAND => return Err(malformed("a command is missing or comes twice")),
                WRITER => {
                    self.writers.insert(bytes.to_vec(), ordinal);
                }
                _ => return Err(malformed("unknown kind")),
            }
        }
        Ok(())
    }
}

/// Whatever is applied between the pieces of a copy, the pieces loaded in order give the same state.
#[test]
fn a_copy_is_exact_whatever_happens_meanwhile() {
    let truth = Arc::new(Truth::default());
    let mut original = Journal::new(truth.clone());
    let mut write = |machine: &mut Journal, count: u64| {
        for number in 0..count {
            let command = format!("c{}/{}-{number}", number % 3, machine.len());
            machine.apply(Moment { index: 0, time_ms: 0 }, command.as_bytes());
        }
    };
    write(&mut original, 20);
    let copy = original.copy_begin();
    let mut loaded = Journal::new(truth.clone());
    let mut steps = 0;
    loop {
        let step = original.copy_next(copy, 64);
        loaded.load(&step.bytes).unwrap();
        if step.remaining == 0 {
            break;
        }
        steps += 1;
        write(&mut original, 1);
    }
    assert!(steps > 3, "the copy took one step more than {steps}");
    assert_eq!(loaded.digest(), original.digest());
    assert_eq!(loaded.len(), 20 + steps);
    original.copy_end(copy);
    truth.check();
}
