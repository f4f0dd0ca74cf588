//! What is kept about a snapshot outside its tables, and the tables' names.
//!
//! ```text
//! manifest   version u8 (1) · number u64 · meta (see codec) · parts u32 · values u64 · pieces u64 · bytes u64
//! ```

use crate::codec::{Malformed, put_snapshot_meta, take_snapshot_meta, take_u8, take_u32, take_u64};
use crate::types::SnapshotMeta;
use bytes::{BufMut, Bytes};
use proto::GroupId;

const VERSION: u8 = 1;

/// What makes a snapshot whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    /// Rises with each snapshot of the group.
    pub(crate) number: u64,
    pub(crate) meta: SnapshotMeta,
    pub(crate) parts: u32,
    /// Values in all parts.
    pub(crate) values: u64,
    pub(crate) pieces: u64,
    /// Bytes in all pieces.
    pub(crate) bytes: u64,
}

impl Manifest {
    pub(crate) fn put(&self, into: &mut Vec<u8>) {
        into.put_u8(VERSION);
        into.put_u64_le(self.number);
        put_snapshot_meta(into, &self.meta);
        into.put_u32_le(self.parts);
        into.put_u64_le(self.values);
        into.put_u64_le(self.pieces);
        into.put_u64_le(self.bytes);
    }

    pub(crate) fn take(from: &mut Bytes) -> Result<Self, Malformed> {
        if take_u8(from, "manifest")? != VERSION {
            return Err(Malformed { what: "manifest", why: "unknown version" });
        }
        Ok(Self {
            number: take_u64(from, "manifest")?,
            meta: take_snapshot_meta(from)?,
            parts: take_u32(from, "manifest")?,
            values: take_u64(from, "manifest")?,
            pieces: take_u64(from, "manifest")?,
            bytes: take_u64(from, "manifest")?,
        })
    }
}

/// The name of a part's table.
pub(crate) fn table_name(group: GroupId, number: u64, part: u32) -> String {
    format!("snap-{group}-{number:08}-p{part:04}")
}

/// The group, the snapshot's number and the part, where a table's name is a part's.
pub(crate) fn parse_table_name(name: &str) -> Option<(GroupId, u64, u32)> {
    let mut fields = name.strip_prefix("snap-g")?.splitn(3, '-');
    let group = fields.next()?.parse().ok()?;
    let number = fields.next()?.parse().ok()?;
    let part = fields.next()?.strip_prefix('p')?.parse().ok()?;
    Some((GroupId(group), number, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout does not drift, and what is written is read back.
    #[test]
    fn golden_bytes() {
        let manifest =
            Manifest { number: 7, meta: SnapshotMeta::default(), parts: 2, values: 3, pieces: 4, bytes: 5 };
        let mut bytes = Vec::new();
        manifest.put(&mut bytes);
        let want: &[u8] = &[
            1, 7, 0, 0, 0, 0, 0, 0, 0, // version, number
            0, 0, 0, 0, 0, 0, // meta: no log id, a membership of no configs and no nodes
            2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, want);
        assert_eq!(Manifest::take(&mut bytes.into()), Ok(manifest));
    }

    /// A part's name says what it is, and other names are not taken for one.
    #[test]
    fn names() {
        let name = table_name(GroupId(12), 7, 3);
        assert_eq!(name, "snap-g12-00000007-p0003");
        assert_eq!(parse_table_name(&name), Some((GroupId(12), 7, 3)));
        for other in ["log-00000001", "snap-g1-1", "snap-gx-00000001-p0001", "snap-g1-00000001-0001"] {
            assert_eq!(parse_table_name(other), None, "{other}");
        }
    }
}
