//! Scans: one group's page where the prefix decides the group, or one page out of the shares of all.

use super::{Routed, Router, Terms, spent, unmapped};
use crate::encoded::Encoded;
use crate::merge;
use crate::replica::ANSWER_OVERHEAD;
use futures_util::future::join_all;
use proto::{ClusterMap, Code, Error, Item, Operation};
use std::time::Duration;

/// The most records of one page of a scan, whatever its caller wants.
const PAGE_RECORDS_MAX: usize = 16 << 10;

impl Router {
    /// Scans one after the other, as many as there is time and one reply has room for: each may bring a page
    /// from every group.
    pub(super) async fn scans(
        &self,
        map: &ClusterMap,
        items: &[Item<'_>],
        at: &[usize],
        terms: Terms,
    ) -> (Vec<Encoded>, Duration) {
        let mut bytes_left = self.payload_bytes_max;
        let (mut answers, mut lag) = (Vec::with_capacity(at.len()), Duration::ZERO);
        for &at in at {
            let answer = match turn(bytes_left, terms).await {
                Err(refused) => refused,
                Ok(()) => {
                    let (answer, of) = self.scan(map, &items[at], terms).await;
                    lag = lag.max(of);
                    bytes_left = bytes_left.saturating_sub(answer.len());
                    answer
                }
            };
            answers.push(answer);
        }
        (answers, lag)
    }

    /// A scan asks the one group of its prefix, or else every group, and merges their shares. A group that
    /// need not serve anything yet need not answer either: where it serves a shard all the same, the page
    /// lacks that, and is not made.
    async fn scan(&self, map: &ClusterMap, item: &Item<'_>, terms: Terms) -> (Encoded, Duration) {
        let item = &self.page_of(item);
        let Operation::Scan { prefix, .. } = item.operation else { unreachable!("only scans have no key") };
        if let Some(shard) = proto::shard_of_prefix(prefix, self.shards) {
            let Some(group) = self.routes.group_of(map, shard) else {
                return (Encoded::refused(unmapped(shard)), Duration::ZERO);
            };
            let (mut routed, _) = self.group(map, group, &[item], terms).await;
            return (routed.answers.remove(0), routed.lag);
        }
        let asked = self.routes.groups(map).into_iter().map(|(group, serves)| async move {
            let (Routed { answers, lag }, _) = self.group(map, group, &[item], terms).await;
            let share = answers.into_iter().find(|answer| serves || answer.refusal().is_none());
            (share, lag)
        });
        let mut lag = Duration::ZERO;
        let mut shares = Vec::new();
        for (share, of) in join_all(asked).await {
            lag = lag.max(of);
            shares.extend(share);
        }
        (merge::shares(&item.operation, &shares, self.shards), lag)
    }

    /// The same scan, asking for no more than fits a reply with room to spare.
    fn page_of<'a>(&self, scan: &Item<'a>) -> Item<'a> {
        let half = self.payload_bytes_max / 2;
        let most = |bound: usize| u32::try_from(bound).unwrap_or(u32::MAX);
        let mut page = scan.clone();
        if let Operation::Scan { limit, bytes_max, .. } = &mut page.operation {
            *bytes_max = most(half).min(*bytes_max);
            *limit =
                most(PAGE_RECORDS_MAX.min((half / ANSWER_OVERHEAD).saturating_sub(2).max(1))).min(*limit);
        }
        page
    }
}

/// Whether one more scan may be made. Lets others run first: a stale one never waits for anything.
async fn turn(bytes_left: usize, terms: Terms) -> Result<(), Encoded> {
    if bytes_left == 0 {
        return Err(spent());
    }
    if terms.left().is_zero() {
        return Err(Encoded::refused(Error::new(Code::Timeout, "deadline passed before the scan was made")));
    }
    tokio::task::yield_now().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proto::{Consistency, Outcome};
    use tokio::time::Instant;

    /// Between scans others have their turn; one that is out of time or room is refused by name and waits for
    /// nothing.
    #[tokio::test(start_paused = true)]
    async fn scans_take_turns() {
        let deadline = Instant::now() + Duration::from_millis(10);
        let terms = Terms { deadline, consistency: Consistency::Linearizable, request_id: 7, forward: true };
        let mut first = std::pin::pin!(turn(1, terms));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert_eq!(first.await, Ok(()));
        let told = |refused: Result<(), Encoded>| {
            let refused = refused.unwrap_err();
            let error = refused.answer().unwrap_err();
            (error.code, error.outcome)
        };
        assert_eq!(turn(0, terms).now_or_never().map(told), Some((Code::Overloaded, Outcome::None)));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(turn(1, terms).now_or_never().map(told), Some((Code::Timeout, Outcome::None)));
    }
}
