//! The messages of etcd's gRPC interface that are needed here, with the fields that are: others are skipped when read,
//! and have their defaults where they are not written. Field numbers are those of etcd's `rpc.proto` and `kv.proto`.

use prost::Message;

/// Stands in every answer.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    pub(super) member_id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PutResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// Whether the node may answer from what it has, without asking the others whether that is all.
    #[prost(bool, tag = "7")]
    pub(super) serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    /// The member that leads; 0 where nobody does.
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests are written as etcd reads them, byte for byte.
    #[test]
    fn requests() {
        let put = PutRequest { key: b"k".into(), value: b"v".into() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let range = RangeRequest { key: b"k".into(), serializable: false };
        assert_eq!(range.encode_to_vec(), b"\x0a\x01k", "linearizable is the default");
        let stale = RangeRequest { serializable: true, ..range };
        assert_eq!(stale.encode_to_vec(), b"\x0a\x01k\x38\x01");
    }

    /// Answers are read with fields that are not known here, and damaged ones are errors.
    #[test]
    fn answers() {
        let header = b"\x0a\x06\x08\x01\x10\x07\x18\x09";
        let status = StatusResponse::decode(&[&header[..], b"\x12\x033.5\x18\x05\x20\x07"].concat()[..]);
        let status = status.expect("a good answer");
        assert_eq!((status.version.as_str(), status.leader), ("3.5", 7));
        assert_eq!(status.header.expect("a header").member_id, 7);
        let range = RangeResponse::decode(&[&header[..], b"\x12\x06\x0a\x01k\x2a\x01v\x20\x01"].concat()[..]);
        assert_eq!(range.expect("a good answer").kvs, [KeyValue { key: b"k".into(), value: b"v".into() }]);
        assert!(RangeResponse::decode(&b"\x12\x09\x0a"[..]).is_err());
    }
}
