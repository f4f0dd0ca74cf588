//! What appends under way will add, so that many at once do not outgrow together what each alone would be
//! allowed.
//!
//! A machine knows no configured limit, see [`machine`](crate::machine): it is enforced where a leader proposes,
//! by the value as it stands and by what is on its way to it. An append whose outcome became unknown is no
//! longer counted, so a change of leaders may let a value end up above the limit by what was in the old leader's
//! log; never above what the machine's format allows.

use crate::machine::KvMachine;
use proto::{Code, Error, Item, Operation, ShardId};
use raftstore::Group;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bytes on their way to each key; no key stands here with 0.
type UnderWay = BTreeMap<Box<[u8]>, usize>;

/// The appends that one replica has proposed and not yet seen answered.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    under_way: Arc<Mutex<UnderWay>>,
}

/// An append under way; dropped once it is answered.
#[derive(Debug)]
pub(crate) struct Hold {
    under_way: Arc<Mutex<UnderWay>>,
    key: Box<[u8]>,
    bytes: usize,
}

impl Appends {
    /// Lets `item` pass: anything but an append always, an append where it fits `bytes_max`.
    ///
    /// One that is sent again may have been the one that filled the value, so it goes to the machine, which
    /// remembers.
    ///
    /// # Errors
    /// `value_too_large` where the value is too long already; `overloaded` where it would become so through
    /// others under way, which may yet fail.
    pub(crate) fn admit(
        &self,
        group: &Group<KvMachine>,
        shard: ShardId,
        item: &Item<'_>,
        bytes_max: usize,
    ) -> Result<Option<Hold>, Error> {
        let Operation::Append { key, value, .. } = item.operation else { return Ok(None) };
        // The lock comes first: an append that is applied in between is counted twice rather than not at all.
        let mut under_way = lock(&self.under_way);
        let (present, answered) = group.read_stale(|machine| {
            let present = machine.get(shard, key).map_or(0, |record| record.value.len());
            (present, item.stamp.is_some_and(|stamp| machine.has_answered(shard, &stamp)))
        });
        if answered {
            return Ok(None);
        }
        let before = under_way.get(key).copied().unwrap_or(0);
        fits(present, before, value.len(), bytes_max)?;
        under_way.insert(key.into(), before + value.len());
        let hold = Hold { under_way: self.under_way.clone(), key: key.into(), bytes: value.len() };
        Ok(Some(hold))
    }
}

fn fits(present: usize, before: usize, more: usize, bytes_max: usize) -> Result<(), Error> {
    let length = present + more;
    if length > bytes_max {
        let why = format!("value would become {length} bytes long, limit is {bytes_max}");
        return Err(Error::new(Code::ValueTooLarge, why));
    }
    if length + before > bytes_max {
        let why =
            format!("appends under way would make the value longer than its limit of {bytes_max} bytes");
        return Err(Error::new(Code::Overloaded, why));
    }
    Ok(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        match under_way.get_mut(&self.key) {
            Some(bytes) if *bytes > self.bytes => *bytes -= self.bytes,
            _ => {
                under_way.remove(&self.key);
            }
        }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is there decides for good, what is under way only for now.
    #[test]
    fn bytes_under_way_count() {
        let code = |present, before, more| fits(present, before, more, 10).map_err(|error| error.code);
        assert_eq!(code(4, 3, 3), Ok(()));
        assert_eq!(code(4, 3, 4), Err(Code::Overloaded));
        assert_eq!(code(4, 0, 7), Err(Code::ValueTooLarge));
    }
}
