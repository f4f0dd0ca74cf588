//! What really happened in a group: the one order of commands that all replicas must show, and what clients were
//! told of theirs.

use crate::journal::Head;
use bytes::Bytes;
use raftstore::ProposeError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// See the module. Shared by all replicas of a group, whatever crashes meanwhile.
#[derive(Default)]
pub struct Truth {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the first replica to get there applied at each ordinal.
    commands: Vec<Bytes>,
    /// `heads[n]` is the head after `n` commands.
    heads: Vec<Head>,
    violations: Vec<String>,
    /// Acknowledged commands and the ordinals that they were acknowledged with.
    acknowledged: BTreeMap<Bytes, u64>,
    /// Commands whose refusal promised no effect.
    refused: BTreeMap<Bytes, ProposeError>,
    /// Commands whose outcome is open.
    unknown: BTreeSet<Bytes>,
    /// The first time that a command carried, and when it was applied.
    birth: Option<(u64, Instant)>,
}

/// How a proposal ended, as its client saw it.
pub type Told = Result<u64, ProposeError>;

impl Truth {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica applied a command at an ordinal.
    pub fn applied(&self, ordinal: u64, command: &[u8]) {
        let mut state = self.lock();
        let ordinal = ordinal as usize;
        let command = &Bytes::copy_from_slice(command);
        match state.commands.get(ordinal) {
            Some(known) if known == command => {}
            Some(known) => {
                let violation = format!("ordinal {ordinal} is {known:?} here and {command:?} there");
                state.violations.push(violation);
            }
            None if ordinal == state.commands.len() => {
                let mut head = state.heads.last().copied().unwrap_or_default();
                if state.heads.is_empty() {
                    state.heads.push(head);
                }
                head.push(command);
                state.heads.push(head);
                state.commands.push(command.clone());
            }
            None => {
                let violation = format!("{command:?} was applied at {ordinal} after a gap");
                state.violations.push(violation);
            }
        }
    }

    /// A command carried this time: no more may have passed in the group than did in the world, whatever the
    /// wall clocks of its leaders say.
    pub fn time(&self, time_ms: u64) {
        let mut state = self.lock();
        let (birth_ms, at) = *state.birth.get_or_insert_with(|| (time_ms, Instant::now()));
        let passed_ms = at.elapsed().as_millis() as u64;
        if time_ms > birth_ms + passed_ms + 1_000 {
            state.violations.push(format!("{} ms passed in {passed_ms} ms", time_ms - birth_ms));
        }
    }

    /// A replica took in a snapshot with this head.
    pub fn loaded(&self, head: Head) {
        let known = self.lock().heads.get(head.count as usize).copied();
        if known.unwrap_or_default() != head {
            self.violated(format!("a snapshot holds {head:?} where {known:?} was applied"));
        }
    }

    /// Something happened that must not.
    pub fn violated(&self, what: String) {
        self.lock().violations.push(what);
    }

    /// A client is about to propose a command; its outcome is unknown until it is told otherwise.
    pub fn proposed(&self, command: &Bytes) {
        assert!(self.lock().unknown.insert(command.clone()), "every command is proposed once: {command:?}");
    }

    /// A client was told how its proposal ended.
    pub fn told(&self, command: &Bytes, told: &Told) {
        let mut state = self.lock();
        match told {
            Ok(ordinal) => {
                state.unknown.remove(command);
                state.acknowledged.insert(command.clone(), *ordinal);
            }
            Err(ProposeError::Unknown { .. }) => {}
            Err(refused) => {
                state.unknown.remove(command);
                state.refused.insert(command.clone(), refused.clone());
            }
        }
    }

    /// How many commands any replica has applied.
    pub fn len(&self) -> u64 {
        self.lock().commands.len() as u64
    }

    pub fn acknowledged(&self) -> usize {
        self.lock().acknowledged.len()
    }

    /// How many commands stand up to the last one that was acknowledged: what a read must see at least.
    pub fn acknowledged_len(&self) -> u64 {
        self.lock().acknowledged.values().max().map_or(0, |ordinal| ordinal + 1)
    }

    pub fn refused(&self) -> usize {
        self.lock().refused.len()
    }

    /// Whether any replica has applied a command.
    pub fn holds(&self, command: &[u8]) -> bool {
        self.lock().commands.iter().any(|applied| applied == command)
    }

    /// Panics unless all replicas agreed, every acknowledged command stands where it was said to stand, none
    /// stands twice, and none stands that was refused without effect.
    pub fn check(&self) {
        let state = self.lock();
        assert!(state.violations.is_empty(), "replicas disagree: {:#?}", state.violations);
        let mut places = BTreeMap::new();
        for (ordinal, command) in state.commands.iter().enumerate() {
            if let Some(before) = places.insert(command, ordinal as u64) {
                panic!("{command:?} took effect twice, at {before} and {ordinal}");
            }
        }
        for (command, ordinal) in &state.acknowledged {
            assert_eq!(places.get(command), Some(ordinal), "{command:?} was acknowledged at {ordinal}");
        }
        for (command, refused) in &state.refused {
            assert_eq!(places.get(command), None, "{command:?} was refused ({refused}) and took effect");
        }
    }
}

/// Records a proposal from its start to its end, even where its client gives up.
pub async fn recorded<F>(truth: Arc<Truth>, command: Bytes, propose: F) -> Told
where
    F: Future<Output = Result<Bytes, ProposeError>>,
{
    truth.proposed(&command);
    let told = propose.await.map(|answer| {
        let answer = <[u8; 8]>::try_from(&answer[..]).expect("the journal answers with an ordinal");
        u64::from_le_bytes(answer)
    });
    truth.told(&command, &told);
    told
}
