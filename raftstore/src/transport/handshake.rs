//! The greeting: who connects, to whom, in which cluster, for which lane; and the refusal, where that is wrong.
//!
//! ```text
//! hello    magic "flotilla" · protocol u16 · lane u8 · from u64 · to u64 · cluster text
//! welcome  protocol u16
//! refused  code u8 · text
//! text     length u16 · UTF-8
//! ```
//!
//! These three layouts and the frame's header around them are fixed for ever, so that builds of different
//! protocols can tell each other so. A node that answers under another's address (a disk swapped, a DNS record
//! gone stale) must never be taken for it: it would vote and acknowledge in its name.

use super::frame::{Frame, FrameReader, Kind, encode};
use super::lane::LaneKind;
use super::message::{put_text, take_text};
use crate::codec::{Malformed, take_bytes, take_u8, take_u16, take_u64};
use bytes::{BufMut, Bytes};
use proto::{GroupId, NodeId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// What is spoken after the greeting. Raised when any payload changes.
pub(crate) const PROTOCOL: u16 = 1;

const MAGIC: &[u8; 8] = b"flotilla";

/// The largest frame before a connection is welcome.
pub(crate) const HELLO_BYTES_MAX: usize = 1 << 10;

/// The longest cluster name, in bytes: it fits the hello with room to spare.
pub(crate) const CLUSTER_BYTES_MAX: usize = 255;

/// What the maker of a connection says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) lane: LaneKind,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) cluster: String,
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Unwelcome {
    #[error("protocol does not match: {0}")]
    Protocol(String),
    #[error("cluster does not match: {0}")]
    Cluster(String),
    #[error("node does not match: {0}")]
    Node(String),
    #[error("node takes no connection: {0}")]
    Busy(String),
    #[error("greeting is malformed: {0}")]
    Malformed(String),
}

impl Unwelcome {
    fn parts(&self) -> (u8, &str) {
        match self {
            Self::Protocol(why) => (1, why),
            Self::Cluster(why) => (2, why),
            Self::Node(why) => (3, why),
            Self::Busy(why) => (4, why),
            Self::Malformed(why) => (5, why),
        }
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        encode(Kind::Hello, GroupId(0), 0, 64, |into| {
            into.put_slice(MAGIC);
            into.put_u16_le(self.protocol);
            into.put_u8(self.lane as u8);
            into.put_u64_le(self.from.0);
            into.put_u64_le(self.to.0);
            put_text(into, &self.cluster);
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
        Ok(Ok(Self { protocol, lane, from: sender, to, cluster: take_text(&mut from, what)? }))
    }

    /// Whether `node` of `cluster` is the one that the sender means.
    fn check(&self, node: NodeId, cluster: &str) -> Result<(), Unwelcome> {
        if self.cluster != cluster {
            let why = format!("you are of {:?}, this node is of {cluster:?}", self.cluster);
            return Err(Unwelcome::Cluster(why));
        }
        if self.to != node {
            return Err(Unwelcome::Node(format!("you look for {}, this is {node}", self.to)));
        }
        if self.from == node {
            return Err(Unwelcome::Node(format!("you call yourself {node}, and so does this node")));
        }
        Ok(())
    }
}

/// Greets as the maker of a connection.
///
/// # Errors
/// A sentence for logs: the connection failed, or the peer's refusal.
pub(crate) async fn greet<R, W>(
    hello: &Hello,
    reader: &mut FrameReader<R>,
    writer: &mut W,
) -> Result<(), String>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    writer.write_all(&hello.encode()).await.map_err(|error| error.to_string())?;
    let answer = reader.next().await.map_err(|error| error.to_string())?;
    let mut answer = answer.ok_or("connection ended before it was welcome")?;
    match answer.kind {
        Kind::Welcome => Ok(()),
        Kind::Refused => {
            let code = take_u8(&mut answer.payload, "refusal").map_err(|error| error.to_string())?;
            let why = take_text(&mut answer.payload, "refusal").map_err(|error| error.to_string())?;
            Err(refusal(code, why).to_string())
        }
        kind => Err(format!("peer answered the greeting with {kind:?}")),
    }
}

fn refusal(code: u8, why: String) -> Unwelcome {
    match code {
        1 => Unwelcome::Protocol(why),
        2 => Unwelcome::Cluster(why),
        3 => Unwelcome::Node(why),
        4 => Unwelcome::Busy(why),
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

/// The frame that lets the peer go on.
pub(crate) fn welcome() -> Bytes {
    encode(Kind::Welcome, GroupId(0), 0, 2, |into| into.put_u16_le(PROTOCOL))
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
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            lane: LaneKind::Bulk,
            from: NodeId(1),
            to: NodeId(2),
            cluster: "c".into(),
        }
    }

    async fn judge(bytes: &[u8]) -> Result<Hello, Unwelcome> {
        receive(&mut FrameReader::new(bytes, HELLO_BYTES_MAX), NodeId(2), "c").await
    }

    /// The greetings' layouts are fixed for ever.
    #[test]
    fn golden_bytes() {
        let want: &[u8] = &[
            b'f', b'l', b'o', b't', b'i', b'l', b'l', b'a', 1, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0,
            0, 0, 0, 1, 0, b'c',
        ];
        assert_eq!(&hello().encode()[super::super::frame::HEADER..], want);
        assert_eq!(&welcome()[super::super::frame::HEADER..], [1, 0]);
        let refused = refuse(&Unwelcome::Node("no".into()));
        assert_eq!(&refused[super::super::frame::HEADER..], [3, 2, 0, b'n', b'o']);
    }

    /// Only the node that is meant, in its own cluster and protocol, answers with a welcome.
    #[tokio::test]
    async fn strangers_are_refused() {
        assert_eq!(judge(&hello().encode()).await, Ok(hello()));
        let wrong_cluster = Hello { cluster: "d".into(), ..hello() };
        assert!(matches!(judge(&wrong_cluster.encode()).await, Err(Unwelcome::Cluster(_))));
        let wrong_node = Hello { to: NodeId(3), ..hello() };
        assert!(matches!(judge(&wrong_node.encode()).await, Err(Unwelcome::Node(_))));
        let namesake = Hello { from: NodeId(2), ..hello() };
        assert!(matches!(judge(&namesake.encode()).await, Err(Unwelcome::Node(_))));
        let newer = Hello { protocol: 2, ..hello() };
        assert!(matches!(judge(&newer.encode()).await, Err(Unwelcome::Protocol(_))));
        assert!(matches!(judge(b"GET / HTTP/1.1\r\nHost: n2\r\n\r\n").await, Err(Unwelcome::Malformed(_))));
        assert!(matches!(judge(b"").await, Err(Unwelcome::Malformed(_))));
    }

    /// The refused side learns the reason in words.
    #[tokio::test]
    async fn the_reason_arrives() {
        let refused = refuse(&Unwelcome::Node("you look for n3, this is n2".into()));
        let mut reader = FrameReader::new(&refused[..], HELLO_BYTES_MAX);
        let error = greet(&hello(), &mut reader, &mut tokio::io::sink()).await.unwrap_err();
        assert_eq!(error, "node does not match: you look for n3, this is n2");
    }
}
