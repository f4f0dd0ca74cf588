//! Hostile answers: whatever nodes say, a call ends with an answer or an error, nothing panics, and no more
//! memory is held than was sent.

#[path = "../../../proto/tests/hostile/damage.rs"]
mod damage;
mod http;
mod liar;
#[path = "../../../proto/tests/hostile/memory.rs"]
mod memory;
#[path = "../../../raftstore/tests/hostile/panics.rs"]
mod panics;

use damage::damaged;
use flotilla_client::Response;
use liar::{Liar, PROBLEM, VIEW, call, ok, replies};
use memory::Bound;
use proptest::prelude::*;
use proptest::sample::select;
use std::time::Duration;

/// What a client takes by itself, with a view of the most shards that there can be, and what it takes for
/// each byte of an answer: a node of a view has a way to it, with its queue.
const BOUND: Bound = Bound { own: 8 << 20, each: 256 };

/// Has a client make calls on a cluster that says so.
fn bounded(liar: &Liar) {
    let said = [&liar.view.body[..], &liar.batch.body].concat();
    let results = BOUND.hold(&said, || call(liar));
    let Ok(results) = results else { return };
    let done = results.replies.iter().any(Result::is_ok) || results.page.is_ok();
    // Statuses of batches say whether anything in them is an answer; what answers a key that is not there is
    // one, too.
    assert!(!done || liar.batch.status == 200, "{results:?}");
    let records = results.page.ok().flatten().map(|page| page.records).unwrap_or_default();
    assert!(records.is_sorted_by(|left, right| left.key < right.key), "{records:?}");
}

/// The right view is taken, and each right answer is that of some call.
#[test]
fn samples_are_understood() {
    let mut answered = [0; 6];
    for reply in replies() {
        let results = call(&Liar { view: ok(VIEW.as_bytes()), batch: ok(&reply) }).expect("a good view");
        let all =
            results.replies.iter().map(Result::is_ok).chain([results.page.is_ok(), results.cluster.is_ok()]);
        all.zip(&mut answered).for_each(|(is_ok, answered)| *answered += usize::from(is_ok));
    }
    // A value and that there is none; what was written, twice; what was removed; two pages; the view, every
    // time.
    assert_eq!(answered, [3, 1, 1, 1, 2, replies().len()]);
}

/// A view of nodes, groups and shards by numbers and addresses that somebody made up.
fn made_up_view() -> impl Strategy<Value = String> {
    let number = || select(vec![0, 1, 2, 3, u64::from(u32::MAX), 1 << 32, i64::MAX as u64, u64::MAX]);
    let count = select(vec![0_u64, 1, 4, 1 << 16, (1 << 16) + 1, u64::from(u32::MAX), u64::MAX]);
    let address =
        select(vec!["n1:1", "n2:1", "", "n1", ":1", "[::1]:1", "http://n3:1/", "https://n4:1", "n5:65536"]);
    let list = |numbers: Vec<u64>| format!("{numbers:?}");
    let nodes = prop::collection::vec((number(), address), 0..4).prop_map(|nodes| {
        let nodes = nodes.iter().map(|(id, http)| format!(r#"{{"id":{id},"http":"{http}"}}"#));
        nodes.collect::<Vec<_>>().join(",")
    });
    let replicas = prop::collection::vec(number(), 0..3).prop_map(list);
    let group = (number(), prop::option::of(number()), number(), replicas);
    let groups = prop::collection::vec(group, 0..3).prop_map(|groups| {
        let groups = groups.iter().map(|(id, leader, term, replicas)| {
            let leader = leader.map_or("null".to_owned(), |leader| leader.to_string());
            format!(r#"{{"id":{id},"leader":{leader},"term":{term},"replicas":{replicas}}}"#)
        });
        groups.collect::<Vec<_>>().join(",")
    });
    let whole = (count.clone(), number())
        .prop_map(|(shards, group)| (shards, format!("[0,{},{group}]", shards.saturating_sub(1))));
    let range =
        (number(), number(), number()).prop_map(|(first, last, group)| format!("[{first},{last},{group}]"));
    let parts =
        (count, prop::collection::vec(range, 0..3)).prop_map(|(shards, ranges)| (shards, ranges.join(",")));
    let shards = prop_oneof![3 => whole, 1 => parts];
    (number(), number(), shards, nodes, groups).prop_map(|(epoch, limit, (shards, ranges), nodes, groups)| {
        format!(
            r#"{{"cluster":"c","epoch":{epoch},"shards":{shards},"limits":{{"batch_bytes_max":{limit}}},
                "nodes":[{nodes}],"groups":[{groups}],"shard_groups":[{ranges}]}}"#
        )
    })
}

/// A response with a body and anything in its head.
fn response(body: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Response> {
    let others = select(vec![0, 100, 204, 302, 400, 404, 413, 429, 500, 503, u16::MAX]);
    let status = prop_oneof![3 => Just(200), 2 => others];
    let seconds = prop::option::of(select(vec![0, 1, u64::MAX]));
    let epoch = prop::option::of(select(vec![0, 9, u64::MAX]));
    let forwarded = select(vec![0, 1, u32::MAX]);
    (status, seconds, epoch, forwarded, body).prop_map(|(status, seconds, epoch, forwarded, body)| Response {
        status,
        retry_after: seconds.map(Duration::from_secs),
        epoch,
        forwarded,
        body: body.into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Views that are any bytes, or right ones that were damaged, are taken or refused.
    #[test]
    fn damaged_views(view in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        damaged(vec![VIEW.as_bytes().to_vec()]),
    ]) {
        bounded(&Liar { view: ok(&view), batch: ok(&replies()[0]) });
    }

    /// So are views that are well formed and say anything; where one is taken, it can be worked with.
    #[test]
    fn made_up_views(view in made_up_view(), reply in select(replies())) {
        bounded(&Liar { view: ok(view.as_bytes()), batch: ok(&reply) });
    }

    /// Answers to batches are believed where they are well formed, whatever they say, and no others.
    #[test]
    fn damaged_answers(batch in response(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        damaged(replies()),
        damaged(vec![PROBLEM.as_bytes().to_vec()]),
    ])) {
        bounded(&Liar { view: ok(VIEW.as_bytes()), batch });
    }
}
