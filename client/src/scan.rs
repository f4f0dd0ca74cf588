//! Listing keys in order, page by page. Each page is a read of its own: keys that others change between two
//! pages may be seen in either state, but no key is seen twice and none that stays is missed.

use crate::Error;
use crate::call::Core;
use crate::operation::{Answered, Kind, Operation, Record, owned};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use proto::{Code, Consistency};
use std::sync::Arc;
use std::time::Duration;

/// The most records of a page unless told otherwise.
pub const PAGE_RECORDS: u32 = 1000;

/// The most bytes of a page unless told otherwise.
pub const PAGE_BYTES: u32 = 256 << 10;

/// Which keys to list, and in what pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Only keys that start so. Default: empty, all.
    pub prefix: Bytes,
    /// Only keys at or after this one. Default: empty, all.
    pub start: Bytes,
    /// Only keys strictly after this one: the cursor of an earlier [`Page`]. Default: none.
    pub after: Option<Bytes>,
    /// The most records of a page, at least 1. Default [`PAGE_RECORDS`].
    pub page_records: u32,
    /// The most bytes of keys and values of a page; a single larger record still comes. Default [`PAGE_BYTES`].
    pub page_bytes: u32,
}

impl Default for Range {
    fn default() -> Self {
        Self {
            prefix: Bytes::new(),
            start: Bytes::new(),
            after: None,
            page_records: PAGE_RECORDS,
            page_bytes: PAGE_BYTES,
        }
    }
}

impl Range {
    /// All keys that start with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self { prefix: owned(prefix), ..Self::default() }
    }
}

/// A piece of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In byte order of their keys.
    pub records: Vec<Record>,
    /// Where the next page goes on ([`Range::after`]); `None` after the last one.
    pub cursor: Option<Bytes>,
}

/// A listing under way: made by [`Client::scan`](crate::Client::scan). A failed page can be asked for again.
#[derive(Debug)]
pub struct Scan {
    core: Arc<Core>,
    consistency: Consistency,
    deadline: Duration,
    range: Range,
    ended: bool,
}

impl Scan {
    pub(crate) fn new(core: Arc<Core>, consistency: Consistency, deadline: Duration, range: Range) -> Self {
        Self { core, consistency, deadline, range, ended: false }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// As any read; the scan stays where it was.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        if self.ended {
            return Ok(None);
        }
        let (records, more) = self.read().await?;
        let cursor = records.last().filter(|_| more).map(|record| record.key.clone());
        self.ended = cursor.is_none();
        self.range.after.clone_from(&cursor);
        Ok(Some(Page { records, cursor }))
    }

    async fn read(&self) -> Result<(Vec<Record>, bool), Error> {
        let Range { prefix, start, after, page_records, page_bytes } = self.range.clone();
        if page_records == 0 {
            return Err(Error::rejected(Code::BadRequest, "page_records must be at least 1: 0"));
        }
        let batch_bytes_max = self.core.shared.limits().batch_bytes_max;
        let bytes_max = page_bytes.min(u32::try_from(batch_bytes_max).unwrap_or(u32::MAX));
        let operation = Operation(Kind::Scan { prefix, start, after, limit: page_records, bytes_max });
        match self.core.call(operation, self.consistency, self.deadline).await? {
            Answered::Page { records, more } if self.is_in_order(&records) => Ok((records, more)),
            Answered::Page { .. } => {
                Err(Error::Unavailable { attempts: 1, last: "page is out of order".to_owned() })
            }
            _ => unreachable!("an answer of another kind is a fault of its attempt"),
        }
    }

    /// A page that does not go on strictly after the last one would make the scan loop or lose keys.
    fn is_in_order(&self, records: &[Record]) -> bool {
        let after = self.range.after.iter();
        let keys: Vec<&Bytes> = after.chain(records.iter().map(|record| &record.key)).collect();
        keys.is_sorted_by(|left, right| left < right)
    }

    /// The pages as a stream, up to the first error.
    pub fn pages(self) -> impl Stream<Item = Result<Page, Error>> + Send {
        try_unfold(self, |mut scan| async move {
            let page = scan.next_page().await?;
            Ok(page.map(|page| (page, scan)))
        })
    }

    /// The records of all pages, at most `limit` of them, in memory.
    ///
    /// # Errors
    /// As any read.
    pub async fn collect(mut self, limit: usize) -> Result<Vec<Record>, Error> {
        let mut all = Vec::new();
        while all.len() < limit {
            let left = u32::try_from(limit - all.len()).unwrap_or(u32::MAX);
            self.range.page_records = self.range.page_records.min(left);
            let Some(page) = self.next_page().await? else { break };
            all.extend(page.records);
        }
        all.truncate(limit);
        Ok(all)
    }
}
