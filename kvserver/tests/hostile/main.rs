//! Hostile bytes at the front end and at the machine: whatever is sent is answered as it deserves, and what
//! is no piece of a copy is refused. Nothing panics, no answer is an error of the front end's own making, and
//! no more memory is held than was sent.

#[path = "../../../proto/tests/hostile/damage.rs"]
mod damage;
mod http;
mod machine;
#[path = "../../../proto/tests/hostile/memory.rs"]
mod memory;
#[path = "../../../raftstore/tests/hostile/panics.rs"]
mod panics;

use damage::damaged;
use memory::Bound;
use proptest::prelude::*;
use proptest::sample::select;

/// What a front end takes by itself, with its buffers and the answers to what is asked here, and what it
/// takes for each byte that it is sent. A batch in JSON is the dearest: an operation of ten bytes.
const BOUND: Bound = Bound { own: 4 << 20, each: 64 };

/// The same for the machine, for each byte of a piece: a key of one byte is a key.
const MACHINE_BOUND: Bound = Bound { own: 1 << 20, each: 1 << 10 };

fn bounded(said: &[u8]) -> Vec<u8> {
    BOUND.hold(said, || http::ask(said))
}

/// Each sample is answered as something that was understood: only what does not fit the moment is refused.
#[test]
fn samples_are_understood() {
    let mut refused = Vec::new();
    for sample in http::samples() {
        let heard = bounded(&sample);
        let status = heard.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        let line = sample.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let is_foreign = line.contains("cursor=AAAA") && status == "400";
        if !["200", "201", "204", "304", "409", "412"].contains(&status) && !is_foreign {
            refused.push((line, String::from_utf8_lossy(&heard).into_owned()));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Parts of requests, whole and broken, that are strung together below.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let known = select(vec![
        "GET ",
        "PUT ",
        "POST ",
        "DELETE ",
        "HEAD ",
        "OPTIONS ",
        "/v1/kv/",
        "/v1/kv?",
        "/v1/batch",
        "/v1/cluster/",
        "nodes",
        "groups",
        "shards",
        "moves",
        "/",
        "?",
        "&",
        "=",
        "prefix",
        "cursor",
        "limit",
        "timeout",
        "%ff",
        "%",
        "%zz",
        "+",
        "18446744073709551616",
        "-1",
        "0",
        "\"1\"",
        "*",
        ", ",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "\r\n",
        "\r\n\r\n",
        "host: h\r\n",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
        "expect: 100-continue\r\n",
        "connection: close\r\n",
        "if-match: ",
        "if-none-match: ",
        "idempotency-key: ",
        "content-type: ",
        "application/json",
        "application/vnd.flotilla.batch",
        "{\"operations\":[",
        "{\"op\":\"put\",\"key\":\"",
        "\\ud800",
        "\",\"b64\":true}",
        "]}",
        "{",
        "[",
        "1e999",
        "null",
        "ffffffff\r\n",
    ]);
    prop_oneof![
        6 => known.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

/// At a piece of a later build's a machine stops rather than to answer as no other replica would: nobody has
/// it carry such a command out here.
#[test]
fn later_pieces_are_not_carried_out() {
    machine::apply(&machine::import_piece(&[u8::MAX]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes are answered or not worth an answer.
    #[test]
    fn arbitrary_bytes(said in prop::collection::vec(any::<u8>(), 0..300)) {
        bounded(&said);
    }

    /// So is whatever is made of a request's parts.
    #[test]
    fn arbitrary_words(said in prop::collection::vec(word(), 0..30)) {
        bounded(&said.concat());
    }

    /// And requests in which bytes were replaced, which break off or go on, and on which others follow.
    #[test]
    fn damaged_requests(said in damaged(http::samples()), next in select(http::samples())) {
        bounded(&[said, next].concat());
    }

    /// And bodies of JSON that say anything.
    #[test]
    fn arbitrary_json(
        path in select(vec!["/v1/batch", "/v1/cluster/groups", "/v1/cluster/moves", "/v1/cluster/nodes"]),
        body in prop::collection::vec(word(), 0..20),
    ) {
        let body = body.concat();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        bounded(&[head.as_bytes(), &body].concat());
    }

    /// A machine takes a damaged piece in, or refuses it, within what the piece's bytes may take.
    #[test]
    fn damaged_pieces(piece in damaged(machine::pieces())) {
        MACHINE_BOUND.hold(&piece, || machine::load(&piece));
    }

    /// And carries out what is left of a damaged command.
    #[test]
    fn damaged_commands(command in damaged(machine::commands())) {
        machine::apply(&command);
    }
}
