//! The payloads of frames. Layouts by kind (see [`super::frame::Kind`]):
//!
//! ```text
//! append         sequence u64 · vote · log id? (before the entries) · log id? (commit) · count u32 · entries
//! appended       sequence u64 · outcome
//! heartbeat      vote · log id? · log id?                          answered by an outcome
//! outcome        0 log id? (matching) | 1 log id (conflict) | 2 vote (higher)
//! vote, pre-vote vote · log id? (last) · transfer u8               answered by: vote · granted u8 · log id? (last)
//! transfer       vote · to u64 · log id? (last)                    answered by: 0 | 1 vote vote | 2 log id? log id?
//! snapshot begin vote · meta    piece: the bytes    end: pieces u64    progress: bytes u64    answered by: vote
//! request        service u8 · deadline in ms u32 · body            answered by: body
//! failed, end    code u8 · text
//! ```
//!
//! Log ids, votes, entries and metas are laid out in [`crate::codec`]; `?` marks a leading byte 0 or 1.

use crate::codec::{
    ENTRY_OVERHEAD, Malformed, put_entry, put_log_id, put_option, put_snapshot_meta, put_vote, take_bytes,
    take_entry, take_log_id, take_option, take_snapshot_meta, take_u8, take_u16, take_u32, take_u64,
    take_vote,
};
use crate::types::{
    AppendEntriesRequest, CommittedLeaderId, Entry, LogId, SnapshotMeta, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use bytes::{BufMut, Bytes};
use openraft::raft::{StreamAppendError, TransferLeaderError};

type Taken<T> = Result<T, Malformed>;

/// The bytes of an append beyond its entries, at most.
pub(crate) const APPEND_OVERHEAD: usize = 8 + 17 + 17 + 17 + 4;

/// Texts are for people; what does not fit is cut.
const TEXT_BYTES_MAX: usize = 1_000;

/// What an append says beside its entries and its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendHead {
    pub(crate) vote: Vote,
    pub(crate) prev_log_id: Option<LogId>,
    pub(crate) leader_commit: Option<LogId>,
}

impl AppendHead {
    pub(crate) fn of(request: &AppendEntriesRequest) -> Self {
        Self { vote: request.vote, prev_log_id: request.prev_log_id, leader_commit: request.leader_commit }
    }

    fn put(&self, into: &mut Vec<u8>) {
        put_vote(into, &self.vote);
        put_optional_log_id(into, self.prev_log_id.as_ref());
        put_optional_log_id(into, self.leader_commit.as_ref());
    }

    fn take(from: &mut Bytes) -> Taken<Self> {
        let vote = take_vote(from)?;
        let prev_log_id = take_optional_log_id(from)?;
        Ok(Self { vote, prev_log_id, leader_commit: take_optional_log_id(from)? })
    }
}

fn put_optional_log_id(into: &mut Vec<u8>, id: Option<&LogId>) {
    put_option(into, id, put_log_id);
}

fn take_optional_log_id(from: &mut Bytes) -> Taken<Option<LogId>> {
    take_option(from, "log id", take_log_id)
}

/// Cuts at a character's border below the longest text.
pub(crate) fn put_text(into: &mut Vec<u8>, text: &str) {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    into.put_u16_le(u16::try_from(end).expect("texts are cut far below 64 KiB"));
    into.put_slice(&text.as_bytes()[..end]);
}

pub(crate) fn take_text(from: &mut Bytes, what: &'static str) -> Taken<String> {
    let length = take_u16(from, what)?;
    let bytes = take_bytes(from, usize::from(length), what)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed { what, why: "text is not UTF-8" })
}

fn end<T>(from: &Bytes, what: &'static str, value: T) -> Taken<T> {
    if from.is_empty() { Ok(value) } else { Err(Malformed { what, why: "stray bytes follow" }) }
}

fn take_flag(from: &mut Bytes, what: &'static str) -> Taken<bool> {
    match take_u8(from, what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed { what, why: "flag is neither 0 nor 1" }),
    }
}

pub(crate) fn put_append(into: &mut Vec<u8>, sequence: u64, head: &AppendHead, entries: &[Entry]) {
    into.put_u64_le(sequence);
    head.put(into);
    into.put_u32_le(
        u32::try_from(entries.len()).expect("an append is bounded in bytes far below 4 Gi entries"),
    );
    entries.iter().for_each(|entry| put_entry(into, entry));
}

pub(crate) fn take_append(mut from: Bytes) -> Taken<(u64, AppendEntriesRequest)> {
    let from = &mut from;
    let sequence = take_u64(from, "append")?;
    let AppendHead { vote, prev_log_id, leader_commit } = AppendHead::take(from)?;
    let count = take_u32(from, "append")? as usize;
    let mut entries = Vec::with_capacity(count.min(from.len() / ENTRY_OVERHEAD));
    for _ in 0..count {
        entries.push(take_entry(from)?);
    }
    check_order(prev_log_id, &entries)?;
    check_leader("append", &vote, entries.last().map(|entry| entry.log_id).or(prev_log_id))?;
    end(from, "append", (sequence, AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }))
}

/// openraft takes the entries' order for granted, so it is made sure of here.
fn check_order(before: Option<LogId>, entries: &[Entry]) -> Taken<()> {
    let mut next = before.map_or(0, |id| id.index().saturating_add(1));
    let mut last = before;
    for entry in entries {
        if entry.log_id.index() != next {
            return Err(Malformed { what: "append", why: "entries are not consecutive" });
        }
        if last >= Some(entry.log_id) {
            return Err(Malformed { what: "append", why: "the entries' terms fall" });
        }
        (next, last) = (next.saturating_add(1), Some(entry.log_id));
    }
    Ok(())
}

/// So is that whoever leads was elected, and that its log holds nothing of a later term than its own.
fn check_leader(what: &'static str, vote: &Vote, last: Option<LogId>) -> Taken<()> {
    if !vote.is_committed() {
        return Err(Malformed { what, why: "nobody has elected the leader" });
    }
    if last.is_some_and(|last| *last.committed_leader_id() > CommittedLeaderId::new(vote.leader_id().term)) {
        return Err(Malformed { what, why: "the log is of a later term than its leader" });
    }
    Ok(())
}

pub(crate) fn put_heartbeat(into: &mut Vec<u8>, head: &AppendHead) {
    head.put(into);
}

pub(crate) fn take_heartbeat(mut from: Bytes) -> Taken<AppendEntriesRequest> {
    let AppendHead { vote, prev_log_id, leader_commit } = AppendHead::take(&mut from)?;
    check_leader("heartbeat", &vote, prev_log_id)?;
    end(&from, "heartbeat", AppendEntriesRequest { vote, prev_log_id, entries: Vec::new(), leader_commit })
}

pub(crate) fn put_outcome(into: &mut Vec<u8>, outcome: &StreamAppendResult) {
    match outcome {
        Ok(matching) => {
            into.put_u8(0);
            put_optional_log_id(into, matching.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            into.put_u8(1);
            put_log_id(into, id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            into.put_u8(2);
            put_vote(into, vote);
        }
    }
}

pub(crate) fn take_outcome(mut from: Bytes) -> Taken<StreamAppendResult> {
    let outcome = match take_u8(&mut from, "outcome")? {
        0 => Ok(take_optional_log_id(&mut from)?),
        1 => Err(StreamAppendError::Conflict(take_log_id(&mut from)?)),
        2 => Err(StreamAppendError::HigherVote(take_vote(&mut from)?)),
        _ => return Err(Malformed { what: "outcome", why: "unknown kind" }),
    };
    end(&from, "outcome", outcome)
}

pub(crate) fn put_appended(into: &mut Vec<u8>, sequence: u64, outcome: &StreamAppendResult) {
    into.put_u64_le(sequence);
    put_outcome(into, outcome);
}

pub(crate) fn take_appended(mut from: Bytes) -> Taken<(u64, StreamAppendResult)> {
    let sequence = take_u64(&mut from, "appended")?;
    Ok((sequence, take_outcome(from)?))
}

pub(crate) fn put_vote_request(into: &mut Vec<u8>, request: &VoteRequest) {
    put_vote(into, &request.vote);
    put_optional_log_id(into, request.last_log_id.as_ref());
    into.put_u8(u8::from(request.leadership_transfer));
}

pub(crate) fn take_vote_request(mut from: Bytes) -> Taken<VoteRequest> {
    let mut request = VoteRequest::new(take_vote(&mut from)?, take_optional_log_id(&mut from)?);
    request.leadership_transfer = take_flag(&mut from, "vote request")?;
    end(&from, "vote request", request)
}

pub(crate) fn put_vote_response(into: &mut Vec<u8>, response: &VoteResponse) {
    put_vote(into, &response.vote);
    into.put_u8(u8::from(response.vote_granted));
    put_optional_log_id(into, response.last_log_id.as_ref());
}

pub(crate) fn take_vote_response(mut from: Bytes) -> Taken<VoteResponse> {
    let vote = take_vote(&mut from)?;
    let granted = take_flag(&mut from, "vote response")?;
    let response = VoteResponse::new(vote, take_optional_log_id(&mut from)?, granted);
    end(&from, "vote response", response)
}

pub(crate) fn put_transfer(into: &mut Vec<u8>, request: &TransferLeaderRequest) {
    put_vote(into, request.from_leader());
    into.put_u64_le(*request.to_node_id());
    put_optional_log_id(into, request.last_log_id());
}

pub(crate) fn take_transfer(mut from: Bytes) -> Taken<TransferLeaderRequest> {
    let vote = take_vote(&mut from)?;
    let to = take_u64(&mut from, "transfer")?;
    let request = TransferLeaderRequest::new(vote, to, take_optional_log_id(&mut from)?);
    end(&from, "transfer", request)
}

pub(crate) fn put_transfer_response(into: &mut Vec<u8>, response: &TransferLeaderResponse) {
    match response {
        Ok(()) => into.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            into.put_u8(1);
            put_vote(into, expected);
            put_vote(into, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            into.put_u8(2);
            put_optional_log_id(into, expected.as_ref());
            put_optional_log_id(into, actual.as_ref());
        }
    }
}

pub(crate) fn take_transfer_response(mut from: Bytes) -> Taken<TransferLeaderResponse> {
    let response = match take_u8(&mut from, "transfer response")? {
        0 => Ok(()),
        1 => {
            let expected = take_vote(&mut from)?;
            Err(TransferLeaderError::VoteChanged { expected, actual: take_vote(&mut from)? })
        }
        2 => {
            let expected = take_optional_log_id(&mut from)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: take_optional_log_id(&mut from)? })
        }
        _ => return Err(Malformed { what: "transfer response", why: "unknown kind" }),
    };
    end(&from, "transfer response", response)
}

pub(crate) fn put_snapshot_begin(into: &mut Vec<u8>, vote: &Vote, meta: &SnapshotMeta) {
    put_vote(into, vote);
    put_snapshot_meta(into, meta);
}

pub(crate) fn take_snapshot_begin(mut from: Bytes) -> Taken<(Vote, SnapshotMeta)> {
    let vote = take_vote(&mut from)?;
    let meta = take_snapshot_meta(&mut from)?;
    check_leader("snapshot begin", &vote, meta.last_log_id)?;
    if *meta.last_membership.log_id() > meta.last_log_id {
        return Err(Malformed { what: "snapshot begin", why: "its members are of after its end" });
    }
    end(&from, "snapshot begin", (vote, meta))
}

/// A lone number: the pieces that were sent, or the bytes that were taken.
pub(crate) fn take_count(mut from: Bytes) -> Taken<u64> {
    let count = take_u64(&mut from, "count")?;
    end(&from, "count", count)
}

/// A lone vote: what a snapshot is answered with.
pub(crate) fn take_lone_vote(mut from: Bytes) -> Taken<Vote> {
    let vote = take_vote(&mut from)?;
    end(&from, "vote", vote)
}

pub(crate) fn put_request(into: &mut Vec<u8>, service: u8, deadline_ms: u32, body: &Bytes) {
    into.put_u8(service);
    into.put_u32_le(deadline_ms);
    into.put_slice(body);
}

pub(crate) fn take_request(mut from: Bytes) -> Taken<(u8, u32, Bytes)> {
    let service = take_u8(&mut from, "request")?;
    let deadline_ms = take_u32(&mut from, "request")?;
    Ok((service, deadline_ms, from))
}

#[cfg(test)]
mod tests;
