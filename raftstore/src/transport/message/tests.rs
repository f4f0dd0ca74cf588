//! Layouts held fast, and hostile payloads.

use super::*;
use crate::types::{CommittedLeaderId, Data, Membership, Payload, StoredMembership};
use proptest::prelude::*;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut into = Vec::new();
    put(&mut into);
    Bytes::from(into)
}

fn append() -> AppendEntriesRequest {
    AppendEntriesRequest {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(id(2, 6)),
        leader_commit: Some(id(2, 5)),
        entries: vec![
            Entry { log_id: id(3, 7), payload: Payload::Blank },
            Entry { log_id: id(3, 8), payload: Payload::Normal(Data(Bytes::from_static(b"abc"))) },
        ],
    }
}

fn append_bytes(request: &AppendEntriesRequest) -> Bytes {
    bytes(|into| put_append(into, 9, &AppendHead::of(request), &request.entries))
}

/// The layouts on the wire do not drift.
#[test]
fn golden_bytes() {
    let one = AppendEntriesRequest { entries: append().entries[..1].to_vec(), ..append() };
    #[rustfmt::skip]
    let want: &[u8] = &[
        9, 0, 0, 0, 0, 0, 0, 0,
        3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1,
        1, 2, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0,
        1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0,
        3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(&append_bytes(&one)[..], want);

    let appended = bytes(|into| put_appended(into, 2, &Err(StreamAppendError::Conflict(id(1, 4)))));
    assert_eq!(&appended[..], [2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);

    let mut vote = VoteRequest::new(Vote::new(2, 3), None);
    vote.leadership_transfer = true;
    let vote = bytes(|into| put_vote_request(into, &vote));
    assert_eq!(&vote[..], [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    let request = bytes(|into| put_request(into, 7, 258, &Bytes::from_static(b"b")));
    assert_eq!(&request[..], [7, 2, 1, 0, 0, b'b']);
}

/// What is written is read back.
#[test]
fn everything_comes_back() {
    let (sequence, read) = take_append(append_bytes(&append())).unwrap();
    assert_eq!(
        (sequence, AppendHead::of(&read), read.entries),
        (9, AppendHead::of(&append()), append().entries)
    );

    let beat = take_heartbeat(bytes(|into| put_heartbeat(into, &AppendHead::of(&append())))).unwrap();
    assert_eq!((AppendHead::of(&beat), beat.entries.len()), (AppendHead::of(&append()), 0));

    let outcomes: [StreamAppendResult; 4] = [
        Ok(None),
        Ok(Some(id(1, 2))),
        Err(StreamAppendError::Conflict(id(3, 4))),
        Err(StreamAppendError::HigherVote(Vote::new(5, 6))),
    ];
    for outcome in outcomes {
        assert_eq!(take_outcome(bytes(|into| put_outcome(into, &outcome))), Ok(outcome.clone()));
        assert_eq!(take_appended(bytes(|into| put_appended(into, 1, &outcome))), Ok((1, outcome)));
    }

    let response = VoteResponse::new(Vote::new(1, 2), Some(id(3, 4)), true);
    assert_eq!(take_vote_response(bytes(|into| put_vote_response(into, &response))), Ok(response));

    let transfer = TransferLeaderRequest::new(Vote::new_committed(1, 2), 3, Some(id(4, 5)));
    assert_eq!(take_transfer(bytes(|into| put_transfer(into, &transfer))), Ok(transfer));

    let answers: [TransferLeaderResponse; 3] = [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: Vote::new(1, 2), actual: Vote::new(3, 4) }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(id(1, 2)), actual: None }),
    ];
    for answer in answers {
        assert_eq!(take_transfer_response(bytes(|into| put_transfer_response(into, &answer))), Ok(answer));
    }

    let meta = SnapshotMeta { last_log_id: Some(id(1, 2)), ..SnapshotMeta::default() };
    let leader = Vote::new_committed(1, 2);
    let begin = bytes(|into| put_snapshot_begin(into, &leader, &meta));
    assert_eq!(take_snapshot_begin(begin), Ok((leader, meta)));
}

/// What openraft would trust, and what no leader says, is refused: entries that leave a gap or whose terms fall, and a
/// log of a later term than its leader's.
#[test]
fn logs_out_of_order_are_refused() {
    let refused = |change: fn(&mut AppendEntriesRequest)| {
        let mut request = append();
        change(&mut request);
        take_append(append_bytes(&request)).unwrap_err().why
    };
    assert_eq!(refused(|append| append.entries[1].log_id = id(3, 9)), "entries are not consecutive");
    assert_eq!(refused(|append| append.entries[1].log_id = id(2, 8)), "the entries' terms fall");
    assert_eq!(refused(|append| append.prev_log_id = Some(id(4, 6))), "the entries' terms fall");
    let later = "the log is of a later term than its leader";
    assert_eq!(refused(|append| append.entries[1].log_id = id(4, 8)), later);
    let candidate = "nobody has elected the leader";
    assert_eq!(refused(|append| append.vote = Vote::new(3, 1)), candidate);
    let beat = AppendHead { vote: Vote::new(3, 1), ..AppendHead::of(&append()) };
    assert_eq!(take_heartbeat(bytes(|into| put_heartbeat(into, &beat))).unwrap_err().why, candidate);
    let beat = AppendHead { vote: Vote::new_committed(1, 1), ..AppendHead::of(&append()) };
    assert_eq!(take_heartbeat(bytes(|into| put_heartbeat(into, &beat))).unwrap_err().why, later);
}

/// So is a snapshot that its leader cannot have.
#[test]
fn impossible_snapshots_are_refused() {
    let refused = |vote: Vote, members: LogId| {
        let last_membership = StoredMembership::new(Some(members), Membership::default());
        let meta = SnapshotMeta { last_log_id: Some(id(3, 7)), last_membership };
        take_snapshot_begin(bytes(|into| put_snapshot_begin(into, &vote, &meta))).err().map(|e| e.why)
    };
    assert_eq!(refused(Vote::new_committed(3, 1), id(3, 7)), None);
    assert_eq!(refused(Vote::new(3, 1), id(3, 7)), Some("nobody has elected the leader"));
    assert_eq!(
        refused(Vote::new_committed(2, 1), id(2, 1)),
        Some("the log is of a later term than its leader")
    );
    assert_eq!(refused(Vote::new_committed(3, 1), id(3, 8)), Some("its members are of after its end"));
}

/// A count of entries that are not there reserves nothing to speak of.
#[test]
fn a_count_without_entries_costs_nothing() {
    let none = AppendEntriesRequest { entries: Vec::new(), ..append() };
    let mut payload = append_bytes(&none).to_vec();
    let count_at = payload.len() - 4;
    payload[count_at..].fill(0xff);
    let payload = Bytes::from(payload);
    let mut is_refused = false;
    let held = allocation_counter::measure(|| is_refused = take_append(payload.clone()).is_err()).bytes_max;
    assert!(is_refused && held <= 1_000, "{held} bytes were held for {}", payload.len());
}

/// A text that is too long is cut between characters.
#[test]
fn long_texts_are_cut() {
    let mut read = bytes(|into| put_text(into, &"ü".repeat(1_000)));
    assert_eq!(take_text(&mut read, "text").unwrap(), "ü".repeat(TEXT_BYTES_MAX / 2));
}

proptest! {
    /// Hostile payloads are refused or read back to the same bytes; never a panic.
    #[test]
    fn arbitrary_bytes(payload in proptest::collection::vec(0u8..4, 0..120)) {
        let payload = Bytes::from(payload);
        if let Ok((sequence, request)) = take_append(payload.clone()) {
            let head = AppendHead::of(&request);
            prop_assert_eq!(bytes(|into| put_append(into, sequence, &head, &request.entries)), payload.clone());
        }
        if let Ok(outcome) = take_outcome(payload.clone()) {
            prop_assert_eq!(bytes(|into| put_outcome(into, &outcome)), payload.clone());
        }
        if let Ok(request) = take_vote_request(payload.clone()) {
            prop_assert_eq!(bytes(|into| put_vote_request(into, &request)), payload.clone());
        }
        if let Ok(request) = take_transfer(payload.clone()) {
            prop_assert_eq!(bytes(|into| put_transfer(into, &request)), payload.clone());
        }
        if let Ok((vote, meta)) = take_snapshot_begin(payload.clone()) {
            prop_assert_eq!(bytes(|into| put_snapshot_begin(into, &vote, &meta)), payload);
        }
    }

    /// Every cut of an append is refused.
    #[test]
    fn a_cut_append_is_refused(at in 0usize..1000) {
        let whole = append_bytes(&append());
        prop_assert!(take_append(whole.slice(..at % whole.len())).is_err());
    }
}
