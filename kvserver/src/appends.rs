//! What writes under way may make of a value, so that many at once do not outgrow together what each alone would be
//! allowed.
//!
//! A machine knows no configured limit, see [`machine`](crate::machine): it is enforced where a leader proposes.
//! Nobody knows in which order writes on their way take effect, hence the rule: the longest value that a key has or
//! is about to be given by a put, and all appends on their way, together keep to the limit. A write whose outcome
//! became unknown is no longer counted, so a change of leaders or a deadline may let a value end up above the limit
//! by what is in a log by then; never above what the machine's format allows.

use crate::machine::KvMachine;
use proto::{Code, Error, Item, Operation, ShardId};
use raftstore::Group;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The keys that puts and appends are on their way to; none with nothing on its way.
type UnderWay = BTreeMap<Arc<[u8]>, Writes>;

/// What is on its way to one key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Writes {
    /// The bytes of all appends.
    append_bytes: usize,
    /// The lengths of the puts' values, ascending, and how many there are of each.
    puts: Vec<(usize, usize)>,
}

/// What one write does to a value's length.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A put of so many bytes.
    To(usize),
    /// An append of so many.
    By(usize),
}

/// The writes that one replica has proposed and not yet seen answered.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    under_way: Arc<Mutex<UnderWay>>,
}

/// A write under way; dropped once it is answered.
#[derive(Debug)]
pub(crate) struct Hold {
    under_way: Arc<Mutex<UnderWay>>,
    key: Arc<[u8]>,
    change: Change,
}

impl Writes {
    /// Whether `change` may join them where the value has `present` bytes by now.
    fn fits(&self, present: usize, change: Change, bytes_max: usize) -> Result<(), Error> {
        let (floor, more) = match change {
            Change::To(length) => (length, 0),
            Change::By(more) => (present, more),
        };
        if floor + more > bytes_max {
            let why = format!("value would become {} bytes long, limit is {bytes_max}", floor + more);
            return Err(Error::new(Code::ValueTooLarge, why));
        }
        let longest = self.puts.last().map_or(0, |(length, _)| *length).max(floor);
        let appended = self.append_bytes + more;
        // Without appends, each put keeps to the limit alone.
        if appended > 0 && longest + appended > bytes_max {
            let why =
                format!("writes under way would make the value longer than its limit of {bytes_max} bytes");
            return Err(Error::new(Code::Overloaded, why));
        }
        Ok(())
    }

    /// Where puts of this length are counted, or else would be.
    fn place(&self, length: usize) -> Result<usize, usize> {
        self.puts.binary_search_by_key(&length, |(length, _)| *length)
    }

    fn add(&mut self, change: Change) {
        match change {
            Change::To(length) => match self.place(length) {
                Ok(at) => self.puts[at].1 += 1,
                Err(at) => self.puts.insert(at, (length, 1)),
            },
            Change::By(more) => self.append_bytes += more,
        }
    }

    fn remove(&mut self, change: Change) {
        match change {
            Change::By(more) => self.append_bytes -= more,
            Change::To(length) => {
                let at = self.place(length).expect("a put under way is counted");
                self.puts[at].1 -= 1;
                if self.puts[at].1 == 0 {
                    self.puts.remove(at);
                }
            }
        }
    }
}

impl Appends {
    /// Lets `item` pass: a delete always, a put or an append where it fits `bytes_max`.
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
        let (key, change) = match item.operation {
            Operation::Put { key, value, .. } => (key, Change::To(value.len())),
            Operation::Append { key, value, .. } => (key, Change::By(value.len())),
            _ => return Ok(None),
        };
        // The lock comes first: an append that is applied in between is counted twice rather than not at all.
        let mut under_way = lock(&self.under_way);
        let nothing = Writes::default();
        let writes = under_way.get(key).unwrap_or(&nothing);
        // A put with no append beside it needs no look at the machine.
        if matches!(change, Change::By(_)) || writes.append_bytes > 0 {
            let (present, answered) = group.read_stale(|machine| {
                let present = machine.get(shard, key).map_or(0, |record| record.value.len());
                (present, item.stamp.is_some_and(|stamp| machine.has_answered(shard, &stamp)))
            });
            if answered {
                return Ok(None);
            }
            writes.fits(present, change, bytes_max)?;
        }
        let key: Arc<[u8]> = key.into();
        under_way.entry(key.clone()).or_default().add(change);
        Ok(Some(Hold { under_way: self.under_way.clone(), key, change }))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        let writes = under_way.get_mut(&self.key).expect("a key with a write under way is counted");
        writes.remove(self.change);
        if writes.append_bytes == 0 && writes.puts.is_empty() {
            under_way.remove(&self.key);
        }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Change::{By, To};
    use super::*;

    /// What of `changes` is let in after the ones before, where the limit is 10 bytes.
    fn told(present: usize, changes: &[Change]) -> Vec<Result<(), Code>> {
        let mut writes = Writes::default();
        let mut admit = |change: &Change| {
            writes.fits(present, *change, 10).map_err(|error| error.code)?;
            writes.add(*change);
            Ok(())
        };
        changes.iter().map(&mut admit).collect()
    }

    /// What is there decides for good, what is under way only for now.
    #[test]
    fn bytes_under_way_count() {
        let full = Err(Code::Overloaded);
        assert_eq!(told(4, &[By(3), By(3), By(1)]), [Ok(()), Ok(()), full.clone()]);
        assert_eq!(told(4, &[By(7)]), [Err(Code::ValueTooLarge)]);
        assert_eq!(told(4, &[By(6), By(0)]), [Ok(()), Ok(())]);
    }

    /// A put and appends on their way fit in whatever order they take effect; puts replace each other.
    #[test]
    fn puts_under_way_count() {
        let full = Err(Code::Overloaded);
        assert_eq!(told(0, &[To(10), By(1)]), [Ok(()), full.clone()]);
        assert_eq!(told(0, &[By(1), To(10), To(9)]), [Ok(()), full.clone(), Ok(())]);
        assert_eq!(told(0, &[To(4), To(6), By(4), By(1)]), [Ok(()), Ok(()), Ok(()), full]);
        assert_eq!(told(9, &[To(10), To(10), To(2)]), [Ok(()), Ok(()), Ok(())]);
    }

    /// Writes that were answered leave nothing behind.
    #[test]
    fn what_is_answered_is_forgotten() {
        let mut writes = Writes::default();
        let changes = [To(3), By(2), To(3), To(10), By(5)];
        changes.iter().for_each(|change| writes.add(*change));
        changes.iter().for_each(|change| writes.remove(*change));
        assert_eq!(writes, Writes::default());
    }
}
