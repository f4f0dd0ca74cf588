//! One page out of the pages of several groups.

use crate::encoded::Encoded;
use proto::{Code, Error, Operation, Record, Reply};

/// Merges each group's page of a scan into one, in byte order of keys.
///
/// A group that has more may hold keys right after its last record, so nothing beyond the least such record is
/// handed out. An error of any group is the answer: a page with holes would pass for the whole.
pub(crate) fn pages(scan: &Operation<'_>, mut pages: Vec<Encoded>) -> Encoded {
    if pages.len() == 1 {
        return pages.remove(0);
    }
    match merged(scan, &pages) {
        Ok(page) => Encoded::of(&Ok(page)),
        Err(error) => Encoded::refused(error),
    }
}

fn merged<'a>(scan: &Operation<'_>, pages: &'a [Encoded]) -> Result<Reply<'a>, Error> {
    let Operation::Scan { limit, bytes_max, .. } = *scan else {
        return Err(Error::new(Code::BadRequest, "only scans have pages"));
    };
    let mut all: Vec<Record<'a>> = Vec::new();
    // Up to where every group has told all; `None` where all have told all that they have.
    let mut complete_to: Option<&[u8]> = None;
    for page in pages {
        let Reply::Page { records, more } = page.answer()? else {
            return Err(Error::new(Code::Internal, "a scan was answered with something else than a page"));
        };
        if more {
            let last = records.last().map_or(&b""[..], |record| record.key);
            complete_to = Some(complete_to.map_or(last, |least| least.min(last)));
        }
        all.extend(records);
    }
    all.sort_unstable_by(|a, b| a.key.cmp(b.key));
    let told = all.len();
    all.retain(|record| complete_to.is_none_or(|last| record.key <= last));
    all.truncate(fitting(&all, limit as usize, bytes_max as usize));
    let more = complete_to.is_some() || all.len() < told;
    Ok(Reply::Page { records: all, more })
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

    fn group_page(keys: &Keys, after: Option<&[u8]>, limit: usize) -> Encoded {
        let rest: Vec<&Vec<u8>> =
            keys.iter().filter(|key| after.is_none_or(|after| key.as_slice() > after)).collect();
        let records = rest.iter().take(limit).map(|key| record(key)).collect();
        let page = Reply::Page { records, more: rest.len() > limit };
        Encoded::of(&Ok(page))
    }

    proptest! {
        /// Page after page, the keys of all groups come out once each, in order, wherever each group cuts its own.
        #[test]
        fn pages_join_to_the_whole(
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
                let page_of = |(keys, cut): (&Keys, &usize)| group_page(keys, after.as_deref(), limit.min(*cut));
                let page = pages(&scan(after.as_deref(), limit as u32), groups.iter().zip(&cuts).map(page_of).collect());
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
        let good = group_page(&Keys::from([b"a".to_vec()]), None, 5);
        let page = pages(&scan(None, 5), vec![good, bad]);
        assert!(matches!(page.answer(), Err(error) if error.code == Code::NoLeader));
    }
}
