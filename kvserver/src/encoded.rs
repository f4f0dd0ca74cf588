//! Answers in their encoding: machines give them so, nodes pass them on so, and only whoever must know what an
//! answer says decodes it.
//!
//! Relies on a [`BatchReply`](proto::BatchReply) being, byte for byte, a version, the number of its answers, the
//! answers one after the other, and the lag; the tests below hold it to that. Must never decode and encode again
//! what it only passes on.

use bytes::{Buf, Bytes};
use proto::{Answer, Error, VERSION};
use std::time::Duration;

/// One answer, without the version that stands in front of a whole message. Clones share its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded(Bytes);

impl Encoded {
    /// The encoding of `answer`.
    pub(crate) fn of(answer: &Answer<'_>) -> Self {
        Self::from_message(Bytes::from(proto::encode(answer)))
    }

    /// The encoding of a refusal.
    pub(crate) fn refused(error: Error) -> Self {
        Self::of(&Err(error))
    }

    /// The answer in a message of its own, as machines give it.
    pub(crate) fn from_message(mut message: Bytes) -> Self {
        assert_eq!(message.first(), Some(&VERSION), "a machine of this build answers in this build's format");
        message.advance(1);
        Self(message)
    }

    /// How many bytes it takes in a reply.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes from which [`answer`](Self::answer) borrows.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// What it says.
    pub(crate) fn answer(&self) -> Answer<'_> {
        match proto::decode_part(&self.0) {
            Ok((answer, used)) if used == self.0.len() => answer,
            // `from_message` and `split` are the only ways in: the first takes what a machine encoded, the second
            // what decoded before.
            Ok(_) | Err(_) => unreachable!("an encoded answer decodes: {:?}", self.0),
        }
    }

    /// The refusal, where it is one. What is carried out is not looked at any further.
    pub(crate) fn refusal(&self) -> Option<Error> {
        const REFUSED: u8 = 1;
        if self.0.first() == Some(&REFUSED) { self.answer().err() } else { None }
    }
}

/// The bytes of a [`BatchReply`](proto::BatchReply) with these answers.
pub(crate) fn join(answers: &[Encoded], lag: Duration) -> Bytes {
    let lag = proto::encode(&u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
    let mut reply = proto::encode(&(answers.len() as u64));
    reply.reserve_exact(answers.iter().map(Encoded::len).sum::<usize>() + lag.len());
    answers.iter().for_each(|answer| reply.extend_from_slice(&answer.0));
    reply.extend_from_slice(&lag[1..]);
    Bytes::from(reply)
}

/// The answers of a [`BatchReply`](proto::BatchReply) and its lag; `None` where the bytes are not one with
/// `count` answers. The answers share its memory.
pub(crate) fn split(reply: &Bytes, count: usize) -> Option<(Vec<Encoded>, Duration)> {
    let (&version, mut rest) = reply.split_first()?;
    let (answers, used) = proto::decode_part::<u64>(rest).ok()?;
    if version != VERSION || usize::try_from(answers) != Ok(count) {
        return None;
    }
    rest = &rest[used..];
    let mut encoded = Vec::with_capacity(count);
    for _ in 0..count {
        let (_, used) = proto::decode_part::<Answer<'_>>(rest).ok()?;
        encoded.push(Encoded(reply.slice_ref(&rest[..used])));
        rest = &rest[used..];
    }
    let (lag_ms, used) = proto::decode_part(rest).ok()?;
    (used == rest.len()).then_some((encoded, Duration::from_millis(lag_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::{BatchReply, Code, Record, Reply, Revision, Version};

    fn answers() -> Vec<Answer<'static>> {
        let record = Record { key: b"k", value: b"vv", version: Version(2), revision: Revision(900) };
        vec![
            Ok(Reply::Value { value: b"value", version: Version(1), revision: Revision(3) }),
            Ok(Reply::Written { version: Version(400), revision: Revision(1 << 40), length: 6 }),
            Ok(Reply::Deleted { revision: Revision(8) }),
            Ok(Reply::Page { records: vec![record], more: true }),
            Err(Error::unknown(Code::Timeout, "write was not confirmed in time")),
        ]
    }

    fn encoded(answers: &[Answer<'_>]) -> Vec<Encoded> {
        answers.iter().map(Encoded::of).collect()
    }

    /// Joined answers are the very bytes of a reply, however many there are, and come apart again.
    #[test]
    fn joined_answers_are_a_reply() {
        for count in [0, 1, 5, 250, 251, 70_000] {
            let answers: Vec<Answer<'static>> = answers().into_iter().cycle().take(count).collect();
            for lag_ms in [0, 7, 300, 1 << 40] {
                let lag = Duration::from_millis(lag_ms);
                let reply = join(&encoded(&answers), lag);
                let whole = BatchReply { answers: answers.clone(), lag_ms };
                assert_eq!(reply, proto::encode(&whole), "{count} answers");
                assert_eq!(split(&reply, count), Some((encoded(&answers), lag)));
            }
        }
    }

    /// An answer says the same before and after it was encoded, and a machine's message is taken as it is.
    #[test]
    fn answers_come_back() {
        for answer in answers() {
            assert_eq!(Encoded::of(&answer).answer(), answer);
            assert_eq!(Encoded::of(&answer).refusal(), answer.clone().err());
            assert_eq!(Encoded::from_message(Bytes::from(proto::encode(&answer))), Encoded::of(&answer));
        }
    }

    /// A reply with another number of answers than there were items is no reply, and neither is one that is cut,
    /// prolonged or of another version.
    #[test]
    fn a_reply_answers_every_item() {
        let reply = join(&encoded(&answers()), Duration::ZERO);
        assert_eq!(split(&reply, 4), None);
        assert_eq!(split(&reply, 6), None);
        for length in 0..reply.len() {
            assert_eq!(split(&reply.slice(..length), 5), None, "{length} bytes");
        }
        assert_eq!(split(&[&reply[..], b"x"].concat().into(), 5), None);
        assert_eq!(split(&[&[2], &reply[1..]].concat().into(), 5), None);
    }

    proptest! {
        /// Hostile bytes are refused or read, never a panic.
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), count in 0usize..4) {
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            if let Some((answers, _)) = split(&Bytes::from(bytes), count) {
                prop_assert_eq!(answers.len(), count);
                answers.iter().for_each(|answer| drop(answer.answer()));
            }
        }
    }
}
