//! One page out of the shares of several groups.

use crate::encoded::Encoded;
use proto::{Code, Epoch, Error, Operation, Record, Reply, ShardId, ShardSet};

/// Merges each group's share of a scan over `shards` shards into one page, in byte order of keys.
///
/// A group that has more may hold keys right after its last record, so nothing beyond the least such record
/// is handed out. An error of any group is the answer: a page with holes would pass for the whole. So would
/// one whose shares lack a shard, or have one twice, because it moved while they were read: then the scan is
/// to be asked again.
pub(crate) fn shares(scan: &Operation<'_>, shares: &[Encoded], shards: u32) -> Encoded {
    match merged(scan, shares, shards) {
        Ok(page) => Encoded::of(&Ok(page)),
        Err(error) => Encoded::refused(error),
    }
}

fn merged<'a>(scan: &Operation<'_>, shares: &'a [Encoded], shards: u32) -> Result<Reply<'a>, Error> {
    let Operation::Scan { limit, bytes_max, .. } = *scan else {
        return Err(Error::new(Code::BadRequest, "only scans have pages"));
    };
    let mut all: Vec<Record<'a>> = Vec::new();
    let mut told_of = ShardSet::default();
    // Up to where every group has told all; `None` where all have told all that they have.
    let mut complete_to: Option<&[u8]> = None;
    for share in shares {
        let Reply::Share { shards, records, more } = share.answer()? else {
            let why = "a scan was answered with something else than a share of a page";
            return Err(Error::new(Code::Internal, why));
        };
        if let Some(twice) = shards.iter().find(|shard| !told_of.insert(*shard)) {
            return Err(moving(twice, "two groups"));
        }
        if more {
            let last = records.last().map_or(&b""[..], |record| record.key);
            complete_to = Some(complete_to.map_or(last, |least| least.min(last)));
        }
        all.extend(records);
    }
    if let Some(missing) = (0..shards).map(ShardId).find(|shard| !told_of.contains(*shard)) {
        return Err(moving(missing, "no group"));
    }
    all.sort_unstable_by(|a, b| a.key.cmp(b.key));
    let told = all.len();
    all.retain(|record| complete_to.is_none_or(|last| record.key <= last));
    all.truncate(fitting(&all, limit as usize, bytes_max as usize));
    let more = complete_to.is_some() || all.len() < told;
    Ok(Reply::Page { records: all, more })
}

/// A shard was not in just one share.
fn moving(shard: ShardId, told_by: &str) -> Error {
    let code = Code::WrongGroup { shard, to: None, epoch: Epoch(0) };
    Error::new(code, format!("{shard} was told of by {told_by}: it is moving, ask again"))
}

/// How many of the first records fit; the first always does.
fn fitting(records: &[Record<'_>], limit: usize, bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    let fits = |record: &&Record<'_>| {
        let first = bytes == 0;
        bytes += record.key.len() + record.value.len();
        first || bytes <= bytes_max
    };
    records.iter().take(limit).take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use proto::{Revision, Version};
    use std::collections::BTreeSet;

    type Keys = BTreeSet<Vec<u8>>;

    fn record(key: &[u8]) -> Record<'_> {
        Record { key, value: b"v", version: Version(1), revision: Revision(1) }
    }

    fn scan(after: Option<&[u8]>, limit: u32) -> Operation<'_> {
        Operation::Scan { prefix: b"", after, start: b"", limit, bytes_max: 1 << 20 }
    }

    /// The share of the group that serves shard `shard` alone.
    fn share(shard: u32, keys: &Keys, after: Option<&[u8]>, limit: usize) -> Encoded {
        let rest: Vec<&Vec<u8>> =
            keys.iter().filter(|key| after.is_none_or(|after| key.as_slice() > after)).collect();
        let records = rest.iter().take(limit).map(|key| record(key)).collect();
        let shards = ShardSet::from_iter([ShardId(shard)]);
        Encoded::of(&Ok(Reply::Share { shards, records, more: rest.len() > limit }))
    }

    proptest! {
        /// Page after page, the keys of all groups come out once each, in order, wherever each group cuts its
        /// own.
        #[test]
        fn shares_join_to_the_whole(
            groups in vec(btree_set(vec(any::<u8>(), 1..3), 0..20), 1..4),
            limit in 1usize..8,
            cuts in vec(1usize..8, 4),
        ) {
            let mut seen = BTreeSet::new();
            let mut own = |keys: Keys| -> Keys { keys.into_iter().filter(|key| seen.insert(key.clone())).collect() };
            let groups: Vec<Keys> = groups.into_iter().map(&mut own).collect();
            let mut got: Vec<Vec<u8>> = Vec::new();
            loop {
                let after = got.last().cloned();
                let share_of = |(shard, (keys, cut)): (u32, (&Keys, &usize))| {
                    share(shard, keys, after.as_deref(), limit.min(*cut))
                };
                let of_groups: Vec<Encoded> = (0..).zip(groups.iter().zip(&cuts)).map(share_of).collect();
                let page = shares(&scan(after.as_deref(), limit as u32), &of_groups, of_groups.len() as u32);
                let Ok(Reply::Page { records, more }) = page.answer() else { panic!("a page") };
                prop_assert!(records.len() <= limit);
                got.extend(records.iter().map(|record| record.key.to_vec()));
                if !more { break }
                prop_assert!(!records.is_empty(), "a page that has more moves on");
            }
            prop_assert_eq!(got, seen.into_iter().collect::<Vec<_>>());
        }
    }

    /// A group that could not answer makes the whole page an error.
    #[test]
    fn an_error_is_the_answer() {
        let bad = Encoded::refused(Error::new(Code::NoLeader, "g2 has no leader"));
        let good = share(0, &Keys::from([b"a".to_vec()]), None, 5);
        let page = shares(&scan(None, 5), &[good, bad], 2);
        assert!(matches!(page.answer(), Err(error) if error.code == Code::NoLeader));
    }

    /// A page is made only of shares that have each shard once: one that moved meanwhile may be in none or in
    /// two.
    #[test]
    fn every_shard_is_told_of_once() {
        let of = |shards: &[u32]| {
            let all: Vec<Encoded> = shards.iter().map(|shard| share(*shard, &Keys::new(), None, 5)).collect();
            let error = shares(&scan(None, 5), &all, 3).answer().err();
            error.map(|error| (error.code.clone(), error.retryable()))
        };
        let moving =
            |shard| Some((Code::WrongGroup { shard: ShardId(shard), to: None, epoch: Epoch(0) }, true));
        assert_eq!(of(&[0, 1, 2]), None);
        assert_eq!(of(&[2, 0, 1]), None);
        assert_eq!(of(&[0, 2]), moving(1));
        assert_eq!(of(&[]), moving(0));
        assert_eq!(of(&[0, 1, 2, 1]), moving(1));
    }
}
