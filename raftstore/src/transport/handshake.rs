//! The greeting: who connects, from where, to whom, in which cluster, for which lane; and the refusal, where that is
//! wrong.
//!
//! ```text
//! hello    magic "flotilla" · protocol u16 · lane u8 · from u64 · to u64 · cluster text · at text
//! welcome  protocol u16 · node u64
//! refused  code u8 · text
//! text     length u16 · UTF-8
//! ```
//!
//! A refusal, a hello up to its protocol, and the frame's header around them are fixed for ever, so that builds of
//! different protocols can tell each other so. The rest belongs to the protocol.
//!
//! `to` is the node that is meant, and a node that answers under another's address (a disk swapped, a DNS record gone
//! stale) must never be taken for it: it would vote and acknowledge in its name. `to` 0 asks who is there: the welcome
//! names the node, and the connection ends. `at` is where the sender is reached by others, empty where it does not say.

use super::frame::{Frame, FrameReader, Kind, encode};
use super::lane::{LaneKind, Local};
use super::message::{put_text, take_text};
use crate::codec::{Malformed, take_bytes, take_u8, take_u16, take_u64};
use bytes::{BufMut, Bytes};
use proto::{GroupId, NodeId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// What is spoken after the greeting. Raised when any payload changes.
pub(crate) const PROTOCOL: u16 = 2;

const MAGIC: &[u8; 8] = b"flotilla";

/// The largest frame before a connection is welcome.
pub(crate) const HELLO_BYTES_MAX: usize = 1 << 10;

/// The longest cluster name, in bytes: it fits the hello with room to spare.
pub(crate) const CLUSTER_BYTES_MAX: usize = 255;

/// The longest address that a node says of itself, in bytes: it fits the hello beside the longest cluster name.
pub(crate) const ADDRESS_BYTES_MAX: usize = 255;

/// Whom a hello means that asks who is there.
pub(crate) const ANYBODY: NodeId = NodeId(0);

/// What the maker of a connection says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) lane: LaneKind,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) cluster: String,
    /// Where others reach the sender; empty where it does not say.
    pub(crate) at: String,
}

/// Why a node refuses a connection, each with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unwelcome {
    /// It speaks another protocol.
    #[error("protocol does not match: {0}")]
    Protocol(String),
    /// It is of another cluster.
    #[error("cluster does not match: {0}")]
    Cluster(String),
    /// It is not the node that is meant.
    #[error("node does not match: {0}")]
    Node(String),
    /// It has enough to do; later it may not refuse.
    #[error("node takes no connection: {0}")]
    Busy(String),
    /// It cannot read the greeting.
    #[error("greeting is malformed: {0}")]
    Malformed(String),
    /// It goes by the sender's own number.
    #[error("number is in use: {0}")]
    NumberInUse(String),
}

/// Why a greeting did not end in a welcome, by what the greeter does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetError {
    /// Correct the address, or what this node calls itself: whoever is there will not have it.
    #[error(transparent)]
    Refused(#[from] Unwelcome),
    /// Try again: nobody answered, or not as a node does.
    #[error("{0}")]
    Unreached(String),
}

impl From<Malformed> for GreetError {
    fn from(error: Malformed) -> Self {
        Self::Unreached(error.to_string())
    }
}

impl Unwelcome {
    fn parts(&self) -> (u8, &str) {
        match self {
            Self::Protocol(why) => (1, why),
            Self::Cluster(why) => (2, why),
            Self::Node(why) => (3, why),
            Self::Busy(why) => (4, why),
            Self::Malformed(why) => (5, why),
            Self::NumberInUse(why) => (6, why),
        }
    }
}

impl Hello {
    /// What `local` says to `to`.
    pub(crate) fn of(local: &Local, lane: LaneKind, to: NodeId) -> Self {
        let at = local.addresses.own();
        Self { protocol: PROTOCOL, lane, from: local.node, to, cluster: local.cluster.clone(), at }
    }

    pub(crate) fn encode(&self) -> Bytes {
        encode(Kind::Hello, GroupId(0), 0, 64, |into| {
            into.put_slice(MAGIC);
            into.put_u16_le(self.protocol);
            into.put_u8(self.lane as u8);
            into.put_u64_le(self.from.0);
            into.put_u64_le(self.to.0);
            put_text(into, &self.cluster);
            put_text(into, &self.at);
        })
    }

    fn decode(frame: &Frame) -> Result<Self, Unwelcome> {
        if frame.kind != Kind::Hello {
            return Err(Unwelcome::Malformed(format!("expected a hello, found {:?}", frame.kind)));
        }
        Self::take(frame.payload.clone()).map_err(|error| Unwelcome::Malformed(error.to_string()))?
    }

    fn take(mut from: Bytes) -> Result<Result<Self, Unwelcome>, Malformed> {
        let what = "hello";
        if take_bytes(&mut from, MAGIC.len(), what)? != MAGIC[..] {
            return Err(Malformed { what, why: "does not begin with flotilla's name" });
        }
        let protocol = take_u16(&mut from, what)?;
        if protocol != PROTOCOL {
            // What follows may be laid out in a way that this build does not know.
            let why = format!("you speak {protocol}, this node speaks {PROTOCOL}");
            return Ok(Err(Unwelcome::Protocol(why)));
        }
        let lane = take_u8(&mut from, what)?;
        let lane = LaneKind::from_byte(lane).ok_or(Malformed { what, why: "unknown lane" })?;
        let (sender, to) = (NodeId(take_u64(&mut from, what)?), NodeId(take_u64(&mut from, what)?));
        let (cluster, at) = (take_text(&mut from, what)?, take_text(&mut from, what)?);
        if at.len() > ADDRESS_BYTES_MAX {
            return Err(Malformed { what, why: "address is too long" });
        }
        if !from.is_empty() {
            return Err(Malformed { what, why: "stray bytes follow" });
        }
        Ok(Ok(Self { protocol, lane, from: sender, to, cluster, at }))
    }

    /// Whether `node` of `cluster` is one that the sender means.
    fn check(&self, node: NodeId, cluster: &str) -> Result<(), Unwelcome> {
        if self.cluster != cluster {
            let why = format!("you are of {:?}, this node is of {cluster:?}", self.cluster);
            return Err(Unwelcome::Cluster(why));
        }
        if self.to != node && self.to != ANYBODY {
            return Err(Unwelcome::Node(format!("you look for {}, this is {node}", self.to)));
        }
        if self.from == node {
            return Err(Unwelcome::NumberInUse(format!("you call yourself {node}, and so does this node")));
        }
        Ok(())
    }
}

/// Greets as the maker of a connection; who has answered.
///
/// # Errors
/// [`GreetError`].
pub(crate) async fn greet<R, W>(
    hello: &Hello,
    reader: &mut FrameReader<R>,
    writer: &mut W,
) -> Result<NodeId, GreetError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let failed = |error: &dyn std::fmt::Display| GreetError::Unreached(error.to_string());
    writer.write_all(&hello.encode()).await.map_err(|error| failed(&error))?;
    let answer = reader.next().await.map_err(|error| failed(&error))?;
    let mut answer = answer.ok_or_else(|| failed(&"connection ended before it was welcome"))?;
    match answer.kind {
        Kind::Welcome => {
            let node = take_welcome(answer.payload)?;
            if hello.to == ANYBODY || hello.to == node {
                return Ok(node);
            }
            Err(Unwelcome::Node(format!("{} was looked for, and welcome by {node}", hello.to)).into())
        }
        Kind::Refused => {
            let code = take_u8(&mut answer.payload, "refusal")?;
            Err(refusal(code, take_text(&mut answer.payload, "refusal")?).into())
        }
        kind => Err(GreetError::Unreached(format!("peer answered the greeting with {kind:?}"))),
    }
}

fn take_welcome(mut from: Bytes) -> Result<NodeId, Malformed> {
    let what = "welcome";
    let (protocol, node) = (take_u16(&mut from, what)?, NodeId(take_u64(&mut from, what)?));
    if protocol != PROTOCOL {
        return Err(Malformed { what, why: "of another protocol" });
    }
    if node == ANYBODY {
        return Err(Malformed { what, why: "names no node" });
    }
    if !from.is_empty() {
        return Err(Malformed { what, why: "stray bytes follow" });
    }
    Ok(node)
}

/// Asks whoever is at `address` who that is.
///
/// # Errors
/// [`GreetError`].
pub(crate) async fn who_is(local: &Local, address: &str) -> Result<NodeId, GreetError> {
    let attempt = async {
        let stream = local.network.connect(address).await;
        let stream = stream.map_err(|error| GreetError::Unreached(error.to_string()))?;
        let (from, mut into) = tokio::io::split(stream);
        let hello = Hello::of(local, LaneKind::Request, ANYBODY);
        greet(&hello, &mut FrameReader::new(from, HELLO_BYTES_MAX), &mut into).await
    };
    let timeout = local.config.connect_timeout();
    let late = || GreetError::Unreached(format!("no answer within {} ms", timeout.as_millis()));
    tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| Err(late()))
}

fn refusal(code: u8, why: String) -> Unwelcome {
    match code {
        1 => Unwelcome::Protocol(why),
        2 => Unwelcome::Cluster(why),
        3 => Unwelcome::Node(why),
        4 => Unwelcome::Busy(why),
        6 => Unwelcome::NumberInUse(why),
        _ => Unwelcome::Malformed(why),
    }
}

/// Reads a hello and judges it.
///
/// # Errors
/// The refusal to send (see [`refuse`]) and log.
pub(crate) async fn receive<R>(
    reader: &mut FrameReader<R>,
    node: NodeId,
    cluster: &str,
) -> Result<Hello, Unwelcome>
where
    R: AsyncRead + Unpin,
{
    let frame = reader.next().await.map_err(|error| Unwelcome::Malformed(error.to_string()))?;
    let frame = frame.ok_or_else(|| Unwelcome::Malformed("connection ended before the hello".into()))?;
    let hello = Hello::decode(&frame)?;
    hello.check(node, cluster)?;
    Ok(hello)
}

/// The frame by which `node` lets the peer go on.
pub(crate) fn welcome(node: NodeId) -> Bytes {
    encode(Kind::Welcome, GroupId(0), 0, 10, |into| {
        into.put_u16_le(PROTOCOL);
        into.put_u64_le(node.0);
    })
}

/// The frame that sends the peer away.
pub(crate) fn refuse(why: &Unwelcome) -> Bytes {
    let (code, text) = why.parts();
    encode(Kind::Refused, GroupId(0), 0, 64, |into| {
        into.put_u8(code);
        put_text(into, text);
    })
}

#[cfg(test)]
mod tests {
    use super::super::frame::HEADER;
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            lane: LaneKind::Bulk,
            from: NodeId(1),
            to: NodeId(2),
            cluster: "c".into(),
            at: "a:1".into(),
        }
    }

    async fn judge(bytes: &[u8]) -> Result<Hello, Unwelcome> {
        receive(&mut FrameReader::new(bytes, HELLO_BYTES_MAX), NodeId(2), "c").await
    }

    async fn answered(hello: &Hello, answer: &[u8]) -> Result<NodeId, GreetError> {
        greet(hello, &mut FrameReader::new(answer, HELLO_BYTES_MAX), &mut tokio::io::sink()).await
    }

    fn framed(kind: Kind, payload: &[u8]) -> Bytes {
        encode(kind, GroupId(0), 0, 0, |into| into.put_slice(payload))
    }

    /// The greetings' layouts do not drift, and those of refusals never change.
    #[test]
    fn golden_bytes() {
        let want: &[u8] = &[
            b'f', b'l', b'o', b't', b'i', b'l', b'l', b'a', 2, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0,
            0, 0, 0, 1, 0, b'c', 3, 0, b'a', b':', b'1',
        ];
        assert_eq!(&hello().encode()[HEADER..], want);
        assert_eq!(&welcome(NodeId(258))[HEADER..], [2, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let refusals: [fn(String) -> Unwelcome; 6] = [
            Unwelcome::Protocol,
            Unwelcome::Cluster,
            Unwelcome::Node,
            Unwelcome::Busy,
            Unwelcome::Malformed,
            Unwelcome::NumberInUse,
        ];
        for (code, why) in (1..).zip(refusals) {
            assert_eq!(&refuse(&why("no".into()))[HEADER..], [code, 2, 0, b'n', b'o']);
        }
    }

    /// The longest names fit a hello.
    #[tokio::test]
    async fn the_longest_hello_fits() {
        let (cluster, at) = ("c".repeat(CLUSTER_BYTES_MAX), "a".repeat(ADDRESS_BYTES_MAX));
        let longest = Hello { cluster: cluster.clone(), at, ..hello() };
        let bytes = longest.encode();
        let mut bytes = FrameReader::new(&bytes[..], HELLO_BYTES_MAX);
        assert_eq!(receive(&mut bytes, NodeId(2), &cluster).await, Ok(longest));
    }

    /// Only the node that is meant, in its own cluster and protocol, answers with a welcome; and any node to
    /// whoever asks who is there.
    #[tokio::test]
    async fn strangers_are_refused() {
        for to in [NodeId(2), ANYBODY] {
            let known = Hello { to, ..hello() };
            assert_eq!(judge(&known.encode()).await, Ok(known.clone()));
            let wrong_cluster = Hello { cluster: "d".into(), ..known.clone() };
            assert!(matches!(judge(&wrong_cluster.encode()).await, Err(Unwelcome::Cluster(_))));
            let namesake = Hello { from: NodeId(2), ..known.clone() };
            assert!(matches!(judge(&namesake.encode()).await, Err(Unwelcome::NumberInUse(_))));
            let newer = Hello { protocol: PROTOCOL + 1, ..known };
            assert!(matches!(judge(&newer.encode()).await, Err(Unwelcome::Protocol(_))));
        }
        let wrong_node = Hello { to: NodeId(3), ..hello() };
        assert!(matches!(judge(&wrong_node.encode()).await, Err(Unwelcome::Node(_))));
    }

    /// What is no hello is refused as such: another protocol's bytes, one that is cut anywhere, an address that is
    /// too long, no lane, stray bytes.
    #[tokio::test]
    async fn hostile_hellos_are_malformed() {
        let malformed = async |bytes: &[u8]| matches!(judge(bytes).await, Err(Unwelcome::Malformed(_)));
        assert!(malformed(b"GET / HTTP/1.1\r\nHost: n2\r\n\r\n").await);
        assert!(malformed(b"").await);
        assert!(malformed(&Hello { at: "a".repeat(ADDRESS_BYTES_MAX + 1), ..hello() }.encode()).await);
        let whole = hello().encode().slice(HEADER..);
        for length in 0..whole.len() {
            assert!(malformed(&framed(Kind::Hello, &whole[..length])).await, "{length}");
        }
        assert!(malformed(&framed(Kind::Hello, &[&whole[..], &[0]].concat())).await);
        assert!(malformed(&framed(Kind::Hello, &[&whole[..10], &[9], &whole[11..]].concat())).await);
        assert!(malformed(&framed(Kind::Welcome, &whole)).await);
    }

    /// Whoever asks who is there is told; whoever means a node takes no other's welcome.
    #[tokio::test]
    async fn the_welcome_names_the_node() {
        let anybody = Hello { to: ANYBODY, ..hello() };
        assert_eq!(answered(&anybody, &welcome(NodeId(17))).await, Ok(NodeId(17)));
        assert_eq!(answered(&hello(), &welcome(NodeId(2))).await, Ok(NodeId(2)));
        let other = answered(&hello(), &welcome(NodeId(17))).await;
        assert!(matches!(other, Err(GreetError::Refused(Unwelcome::Node(_)))), "{other:?}");
    }

    /// The refused side learns what is wrong, and the reason in words; of a kind that it does not know, the words.
    #[tokio::test]
    async fn the_reason_arrives() {
        let why = Unwelcome::Node("you look for n3, this is n2".into());
        let error = answered(&hello(), &refuse(&why)).await.unwrap_err();
        assert_eq!(error.to_string(), "node does not match: you look for n3, this is n2");
        assert_eq!(error, GreetError::Refused(why));
        let in_use = Unwelcome::NumberInUse("no".into());
        assert_eq!(answered(&hello(), &refuse(&in_use)).await, Err(GreetError::Refused(in_use)));
        let unknown = answered(&hello(), &framed(Kind::Refused, &[99, 2, 0, b'n', b'o'])).await;
        assert_eq!(unknown, Err(GreetError::Refused(Unwelcome::Malformed("no".into()))));
    }

    /// No other bytes pass for a welcome or a refusal: cut, with stray bytes, of another protocol, naming nobody, or of
    /// another kind.
    #[tokio::test]
    async fn hostile_answers_are_none() {
        let anybody = Hello { to: ANYBODY, ..hello() };
        let unreached =
            async |answer: &[u8]| matches!(answered(&anybody, answer).await, Err(GreetError::Unreached(_)));
        let welcomed = welcome(NodeId(17));
        for length in 0..welcomed.len() - HEADER {
            assert!(unreached(&framed(Kind::Welcome, &welcomed[HEADER..][..length])).await, "{length}");
            assert!(unreached(&welcomed[..HEADER + length]).await, "{length}");
        }
        assert!(unreached(&framed(Kind::Welcome, &[&welcomed[HEADER..], &[0]].concat())).await);
        assert!(unreached(&framed(Kind::Welcome, &[1, 0, 17, 0, 0, 0, 0, 0, 0, 0])).await);
        assert!(unreached(&welcome(ANYBODY)).await);
        assert!(unreached(&framed(Kind::Pong, &welcomed[HEADER..])).await);
        for cut in [&[][..], &[3], &[3, 2], &[3, 2, 0, b'n'], &[3, 1, 0, 0xff]] {
            assert!(unreached(&framed(Kind::Refused, cut)).await, "{cut:?}");
        }
        assert!(unreached(b"").await);
    }
}
