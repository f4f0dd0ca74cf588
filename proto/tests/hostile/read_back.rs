//! Bytes that are read as a message, and what follows from their being one.

use super::memory::Bound;
use bincode::{BorrowDecode, Encode};
use std::fmt::Debug;

/// Reads `bytes` as a message, within a bound of memory; what passes for one says the same when it is written
/// again.
pub fn read_back<M>(bytes: &[u8], bound: Bound)
where
    M: Encode + for<'a> BorrowDecode<'a, ()> + PartialEq + Debug,
{
    if let Ok(message) = bound.hold(bytes, || proto::decode::<M>(bytes)) {
        assert_eq!(proto::decode(&proto::encode(&message)), Ok(message));
    }
}
