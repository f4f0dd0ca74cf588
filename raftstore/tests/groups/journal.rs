//! The machine under test: it counts and digests the commands in the order in which they were applied, and keeps
//! for each writer the ordinal of its last one.
//!
//! Its records change while they are copied and are then handed out again. A writer's name may be long, so that a
//! few of them make a snapshot that takes its time.

use crate::truth::Truth;
use bytes::{Buf, BufMut, Bytes};
use raftstore::{CopyId, CopyStep, LoadError, Machine, Moment};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const HEAD: u8 = 0;
const WRITER: u8 = 1;

/// What a record takes beside its name.
const RECORD_BYTES: u64 = 1 + 8 + 8 + 4;

/// See the module. A command's writer is what stands before its first `/`.
pub struct Journal {
    truth: Arc<Truth>,
    /// How many commands were applied, and the digest of their sequence.
    head: Head,
    writers: BTreeMap<Vec<u8>, u64>,
    /// The highest time that a command came with.
    time_ms: u64,
    copies: BTreeMap<CopyId, Copy>,
    next_copy: u64,
}

/// A sequence of commands, in two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub count: u64,
    pub digest: Digest,
}

impl Head {
    pub fn push(&mut self, command: &[u8]) {
        self.count += 1;
        self.digest.add(command);
    }
}

/// What changed since it was handed out.
struct Copy {
    head: bool,
    writers: BTreeSet<Vec<u8>>,
}

fn writer_of(command: &[u8]) -> Vec<u8> {
    command.split(|&byte| byte == b'/').next().unwrap_or_default().to_vec()
}

fn put_record(into: &mut Vec<u8>, kind: u8, first: u64, second: u64, name: &[u8]) {
    into.put_u8(kind);
    into.put_u64_le(first);
    into.put_u64_le(second);
    into.put_u32_le(name.len() as u32);
    into.put_slice(name);
}

impl Journal {
    pub fn new(truth: Arc<Truth>) -> Self {
        Self {
            truth,
            head: Head::default(),
            writers: BTreeMap::new(),
            time_ms: 0,
            copies: BTreeMap::new(),
            next_copy: 0,
        }
    }

    /// How many commands were applied.
    pub fn len(&self) -> u64 {
        self.head.count
    }

    /// One number over the whole state.
    pub fn digest(&self) -> u64 {
        let mut digest = self.head.digest;
        for (writer, ordinal) in &self.writers {
            digest.add(writer);
            digest.add(&ordinal.to_le_bytes());
        }
        digest.0
    }
}

/// FNV-1a: enough to tell two runs apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        self.truth.time(at.time_ms);
        self.time_ms = self.time_ms.max(at.time_ms);
        let ordinal = self.head.count;
        self.truth.applied(ordinal, command);
        self.head.push(command);
        let writer = writer_of(command);
        for copy in self.copies.values_mut() {
            copy.head = true;
            copy.writers.insert(writer.clone());
        }
        self.writers.insert(writer, ordinal);
        Bytes::copy_from_slice(&ordinal.to_le_bytes())
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn copy_bytes(&self) -> u64 {
        self.writers.keys().map(|writer| writer.len() as u64 + RECORD_BYTES).sum()
    }

    fn copy_begin(&mut self) -> CopyId {
        self.next_copy += 1;
        let id = CopyId(self.next_copy);
        self.copies.insert(id, Copy { head: true, writers: self.writers.keys().cloned().collect() });
        id
    }

    fn copy_next(&mut self, copy: CopyId, bytes_max: usize) -> CopyStep {
        let copy = self.copies.get_mut(&copy).expect("a copy that goes on was begun and has not ended");
        let mut bytes = Vec::new();
        if std::mem::take(&mut copy.head) {
            put_record(&mut bytes, HEAD, self.head.count, self.head.digest.0, &self.time_ms.to_le_bytes());
        }
        while bytes.len() < bytes_max
            && let Some(writer) = copy.writers.pop_first()
        {
            put_record(&mut bytes, WRITER, self.writers[&writer], 0, &writer);
        }
        let remaining = copy.writers.iter().map(|writer| writer.len() as u64 + RECORD_BYTES).sum();
        CopyStep { bytes, remaining }
    }

    fn copy_end(&mut self, copy: CopyId) {
        self.copies.remove(&copy);
    }

    fn load(&mut self, mut piece: &[u8]) -> Result<(), LoadError> {
        let malformed = |why: &str| LoadError(why.to_owned());
        while !piece.is_empty() {
            let kind = piece.try_get_u8().map_err(|error| malformed(&error.to_string()))?;
            let first = piece.try_get_u64_le().map_err(|error| malformed(&error.to_string()))?;
            let second = piece.try_get_u64_le().map_err(|error| malformed(&error.to_string()))?;
            let length = piece.try_get_u32_le().map_err(|error| malformed(&error.to_string()))? as usize;
            let (name, rest) = piece.split_at_checked(length).ok_or_else(|| malformed("ends early"))?;
            piece = rest;
            match kind {
                HEAD => {
                    self.head = Head { count: first, digest: Digest(second) };
                    self.time_ms =
                        name.try_into().map(u64::from_le_bytes).map_err(|_| malformed("no time"))?;
                    self.truth.loaded(self.head);
                }
                WRITER => {
                    self.writers.insert(name.to_vec(), first);
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
    let write = |machine: &mut Journal, writer: u64| {
        let command = format!("{writer:020}/{}", machine.len());
        machine.apply(Moment { index: 0, time_ms: 0 }, command.as_bytes());
    };
    (0..20).for_each(|writer| write(&mut original, writer));
    let copy = original.copy_begin();
    let (mut loaded, mut steps) = (Journal::new(truth.clone()), 0);
    loop {
        let step = original.copy_next(copy, 80);
        loaded.load(&step.bytes).unwrap();
        if step.remaining == 0 {
            break;
        }
        write(&mut original, steps % 7);
        steps += 1;
    }
    assert!(steps > 3, "the copy took one step more than {steps}");
    assert_eq!(loaded.digest(), original.digest());
    assert_eq!(loaded.len(), 20 + steps);
    original.copy_end(copy);
    truth.check();
}
