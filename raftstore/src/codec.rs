//! The bytes of log entries, votes and memberships, on disk and on the wire alike.
//!
//! Integers are little-endian and fixed. Nothing here carries a version: the record (disk) or frame (wire)
//! around it does. Reading takes slices out of the buffer it is given, so an entry's data is never copied.
//!
//! ```text
//! log id      term u64 · index u64                       optional: a byte 0 or 1 before it
//! vote        term u64 · node u64 · committed u8         optional: likewise
//! entry       log id · kind u8 (0 blank, 1 data, 2 membership) · length u32 · bytes
//! membership  configs u16 · per config: ids u16, id u64 … · nodes u16 ·
//!             per node: id u64, peer, http, incarnation u128, life u64
//! text        length u16 · UTF-8
//! ```

use crate::types::{
    Address, CommittedLeaderId, Data, Entry, LogId, Membership, Payload, ReplicaDescriptor, ReplicaId,
    SnapshotMeta, StoredMembership, Vote,
};
use bytes::{Buf, BufMut, Bytes};
use proto::Incarnation;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub(crate) struct Malformed {
    pub(crate) what: &'static str,
    pub(crate) why: &'static str,
}

fn malformed<T>(what: &'static str, why: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what, why })
}

type Taken<T> = Result<T, Malformed>;

const BLANK: u8 = 0;
const DATA: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The bytes that an entry takes beyond its payload.
pub(crate) const ENTRY_OVERHEAD: usize = 8 + 8 + 1 + 4;

pub(crate) fn take_u8(from: &mut impl Buf, what: &'static str) -> Taken<u8> {
    from.try_get_u8().or_else(|_| malformed(what, "ends early"))
}

pub(crate) fn take_u16(from: &mut impl Buf, what: &'static str) -> Taken<u16> {
    from.try_get_u16_le().or_else(|_| malformed(what, "ends early"))
}

pub(crate) fn take_u32(from: &mut impl Buf, what: &'static str) -> Taken<u32> {
    from.try_get_u32_le().or_else(|_| malformed(what, "ends early"))
}

pub(crate) fn take_u64(from: &mut impl Buf, what: &'static str) -> Taken<u64> {
    from.try_get_u64_le().or_else(|_| malformed(what, "ends early"))
}

pub(crate) fn take_u128(from: &mut impl Buf, what: &'static str) -> Taken<u128> {
    from.try_get_u128_le().or_else(|_| malformed(what, "ends early"))
}

/// A slice of `length` bytes, sharing memory with `from`.
pub(crate) fn take_bytes(from: &mut Bytes, length: usize, what: &'static str) -> Taken<Bytes> {
    if from.len() < length {
        return malformed(what, "ends early");
    }
    Ok(from.split_to(length))
}

fn put_text(into: &mut impl BufMut, text: &str) {
    let length =
        u16::try_from(text.len()).expect("addresses are shorter than 64 KiB: configuration refuses others");
    into.put_u16_le(length);
    into.put_slice(text.as_bytes());
}

fn take_text(from: &mut Bytes, what: &'static str) -> Taken<String> {
    let length = take_u16(from, what)?;
    let bytes = take_bytes(from, usize::from(length), what)?;
    String::from_utf8(bytes.to_vec()).or_else(|_| malformed(what, "text is not UTF-8"))
}

pub(crate) fn put_option<B: BufMut, T>(into: &mut B, value: Option<T>, put: impl FnOnce(&mut B, T)) {
    match value {
        None => into.put_u8(0),
        Some(value) => {
            into.put_u8(1);
            put(into, value);
        }
    }
}

pub(crate) fn take_option<T>(
    from: &mut Bytes,
    what: &'static str,
    take: impl FnOnce(&mut Bytes) -> Taken<T>,
) -> Taken<Option<T>> {
    match take_u8(from, what)? {
        0 => Ok(None),
        1 => take(from).map(Some),
        _ => malformed(what, "option is neither absent nor present"),
    }
}

pub(crate) fn put_log_id(into: &mut impl BufMut, id: &LogId) {
    into.put_u64_le(id.committed_leader_id().term);
    into.put_u64_le(id.index());
}

pub(crate) fn take_log_id(from: &mut Bytes) -> Taken<LogId> {
    let term = take_u64(from, "log id")?;
    let index = take_u64(from, "log id")?;
    Ok(LogId::new(CommittedLeaderId::new(term), index))
}

pub(crate) fn put_vote(into: &mut impl BufMut, vote: &Vote) {
    into.put_u64_le(vote.leader_id().term);
    into.put_u64_le(vote.leader_id().voted_for);
    into.put_u8(u8::from(vote.is_committed()));
}

pub(crate) fn take_vote(from: &mut Bytes) -> Taken<Vote> {
    let term = take_u64(from, "vote")?;
    let node = take_u64(from, "vote")?;
    match take_u8(from, "vote")? {
        0 => Ok(Vote::new(term, node)),
        1 => Ok(Vote::new_committed(term, node)),
        _ => malformed("vote", "committed is neither 0 nor 1"),
    }
}

pub(crate) fn put_entry(into: &mut Vec<u8>, entry: &Entry) {
    put_log_id(into, &entry.log_id);
    let kind = match &entry.payload {
        Payload::Blank => BLANK,
        Payload::Normal(_) => DATA,
        Payload::Membership(_) => MEMBERSHIP,
    };
    into.put_u8(kind);
    let length_at = into.len();
    into.put_u32_le(0);
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(Data(bytes)) => into.put_slice(bytes),
        Payload::Membership(membership) => put_membership(into, membership),
    }
    let length = u32::try_from(into.len() - length_at - 4)
        .expect("an entry is bounded by the proposer's batch limit, far below 4 GiB");
    into[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// The entry's bytes are its own: entries stay in memory long after what they were read from, which would be held
/// whole by a slice of it.
pub(crate) fn take_entry(from: &mut Bytes) -> Taken<Entry> {
    let log_id = take_log_id(from)?;
    let kind = take_u8(from, "entry")?;
    let length = take_u32(from, "entry")?;
    let mut payload = take_bytes(from, length as usize, "entry")?;
    let payload = match kind {
        BLANK if payload.is_empty() => Payload::Blank,
        BLANK => return malformed("entry", "a blank entry carries bytes"),
        DATA => Payload::Normal(Data(Bytes::copy_from_slice(&payload))),
        MEMBERSHIP => {
            let membership = take_membership(&mut payload)?;
            if payload.has_remaining() {
                return malformed("membership", "stray bytes follow");
            }
            Payload::Membership(membership)
        }
        _ => return malformed("entry", "unknown kind"),
    };
    Ok(Entry { log_id, payload })
}

fn put_count(into: &mut impl BufMut, count: usize) {
    into.put_u16_le(u16::try_from(count).expect("a membership names fewer than 65,536 nodes"));
}

fn put_membership(into: &mut impl BufMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(into, configs.len());
    for config in configs {
        put_count(into, config.len());
        config.iter().for_each(|&id| into.put_u64_le(id));
    }
    put_count(into, membership.nodes().count());
    for (&id, node) in membership.nodes() {
        let ReplicaDescriptor { address, replica } = &**node;
        into.put_u64_le(id);
        put_text(into, &address.peer);
        put_text(into, &address.http);
        put_replica_id(into, *replica);
    }
}

pub(crate) fn put_replica_id(into: &mut impl BufMut, ReplicaId { incarnation, life }: ReplicaId) {
    into.put_u128_le(incarnation.0);
    into.put_u64_le(life);
}

pub(crate) fn take_replica_id(from: &mut Bytes) -> Taken<ReplicaId> {
    let incarnation = Incarnation(take_u128(from, "replica id")?);
    Ok(ReplicaId { incarnation, life: take_u64(from, "replica id")? })
}

fn take_membership(from: &mut Bytes) -> Taken<Membership> {
    let what = "membership";
    let mut configs = Vec::new();
    for _ in 0..take_u16(from, what)? {
        let mut config = BTreeSet::new();
        for _ in 0..take_u16(from, what)? {
            config.insert(take_u64(from, what)?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_u16(from, what)? {
        let id = take_u64(from, what)?;
        let peer = take_text(from, what)?;
        let address = Address { peer, http: take_text(from, what)? };
        nodes.insert(id, Arc::new(ReplicaDescriptor { address, replica: take_replica_id(from)? }));
    }
    if configs.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).or_else(|_| malformed(what, "a voter has no address"))
}

pub(crate) fn put_stored_membership(into: &mut impl BufMut, stored: &StoredMembership) {
    put_option(into, stored.log_id().as_ref(), |into, id| put_log_id(into, id));
    put_membership(into, stored.membership());
}

pub(crate) fn take_stored_membership(from: &mut Bytes) -> Taken<StoredMembership> {
    let log_id = take_option(from, "membership", take_log_id)?;
    Ok(StoredMembership::new(log_id, take_membership(from)?))
}

pub(crate) fn put_snapshot_meta(into: &mut impl BufMut, meta: &SnapshotMeta) {
    put_option(into, meta.last_log_id.as_ref(), |into, id| put_log_id(into, id));
    put_stored_membership(into, &meta.last_membership);
}

pub(crate) fn take_snapshot_meta(from: &mut Bytes) -> Taken<SnapshotMeta> {
    let last_log_id = take_option(from, "snapshot meta", take_log_id)?;
    let last_membership = take_stored_membership(from)?;
    Ok(SnapshotMeta { last_log_id, last_membership })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term), index)
    }

    fn membership() -> Membership {
        let node = |n: u64| {
            let address = Address { peer: format!("h:{n}"), http: format!("w:{n}") };
            let replica = ReplicaId { incarnation: Incarnation(u128::MAX / u128::from(n)), life: n };
            Arc::new(ReplicaDescriptor { address, replica })
        };
        Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            (1..=4).map(|n| (n, node(n))).collect::<BTreeMap<_, _>>(),
        )
        .unwrap()
    }

    fn entries() -> Vec<Entry> {
        vec![
            Entry { log_id: id(1, 0), payload: Payload::Blank },
            Entry { log_id: id(2, 7), payload: Payload::Normal(Data(Bytes::from_static(b"abc"))) },
            Entry { log_id: id(3, 9), payload: Payload::Membership(membership()) },
        ]
    }

    /// The layout on disk and wire does not drift.
    #[test]
    fn golden_bytes() {
        let mut bytes = Vec::new();
        put_entry(&mut bytes, &entries()[1]);
        let want: &[u8] = &[2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, b'a', b'b', b'c'];
        assert_eq!(bytes, want);
        assert_eq!(bytes.len(), ENTRY_OVERHEAD + 3);

        let mut bytes = Vec::new();
        put_vote(&mut bytes, &Vote::new_committed(5, 2));
        assert_eq!(bytes, [5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);

        let mut bytes = Vec::new();
        let address = Address { peer: "p".into(), http: "w".into() };
        let replica = ReplicaId { incarnation: Incarnation(5 << 120 | 7), life: 3 };
        let one = Arc::new(ReplicaDescriptor { address, replica });
        let one = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, one)]));
        put_membership(&mut bytes, &one.unwrap());
        let want: &[u8] =
            &[1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'p', 1, 0, b'w'];
        assert_eq!(bytes[..want.len()], *want);
        let want: &[u8] = &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[28..], *want);
    }

    /// What is written is read back, and nothing is left over.
    #[test]
    fn everything_comes_back() {
        let mut bytes = Vec::new();
        entries().iter().for_each(|entry| put_entry(&mut bytes, entry));
        let meta = SnapshotMeta {
            last_log_id: Some(id(3, 9)),
            last_membership: StoredMembership::new(Some(id(3, 9)), membership()),
        };
        put_snapshot_meta(&mut bytes, &meta);
        put_snapshot_meta(&mut bytes, &SnapshotMeta::default());
        let mut from = Bytes::from(bytes);
        for entry in entries() {
            assert_eq!(take_entry(&mut from).unwrap(), entry);
        }
        assert_eq!(take_snapshot_meta(&mut from).unwrap(), meta);
        assert_eq!(take_snapshot_meta(&mut from).unwrap(), SnapshotMeta::default());
        assert!(from.is_empty());
    }

    proptest! {
        /// Hostile bytes give an error, or a value that is written as it was read; never a panic.
        #[test]
        fn arbitrary_bytes_are_refused_or_exact(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let mut from = bytes.clone();
            // A membership may name its nodes in any order; it is written in theirs.
            if let Ok(entry) = take_entry(&mut from) && !matches!(entry.payload, Payload::Membership(_)) {
                let mut written = Vec::new();
                put_entry(&mut written, &entry);
                prop_assert_eq!(&written[..], &bytes[..bytes.len() - from.len()]);
            }
            let mut from = bytes.clone();
            if let Ok(vote) = take_vote(&mut from) {
                let mut written = Vec::new();
                put_vote(&mut written, &vote);
                prop_assert_eq!(&written[..], &bytes[..17]);
            }
            let mut from = bytes.clone();
            if let Ok(meta) = take_snapshot_meta(&mut from) {
                prop_assert!(meta.last_log_id.is_none() || bytes[0] == 1);
            }
        }

        /// Every cut of valid bytes is refused.
        #[test]
        fn a_cut_entry_is_refused(at in 0usize..1000) {
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &entries()[2]);
            let cut = Bytes::copy_from_slice(&bytes[..at % bytes.len()]);
            prop_assert!(take_entry(&mut cut.clone()).is_err());
        }
    }
}
