//! Flow control: how much a replica's log may grow while its machine is copied, so that log and snapshots stay
//! within a bound on disk, however fast the writers and however slow the disk.
//!
//! While a snapshot is made, the disk holds the last one, the new one and the log since the last one; every byte
//! that the log grows by meanwhile may have to be copied again, so it counts twice. What of the bound these leave
//! free, halved, is what the log may grow by until the copy is done, and it is dealt out with the copy's progress:
//! for each byte copied, as many bytes of log as there are free ones for each byte still to be copied. So writers
//! are slowed to what the copy can bear and go on at that pace, instead of being stopped where the room ends; and
//! there is no clock in it: a disk that stalls deals out nothing.
//!
//! Whatever lets entries into the log asks first: a leader's proposer, and on a follower the stream of what its
//! leader appends. A follower that waits does not answer, and its leader goes on with the others: one slow disk
//! slows nobody but the replica on it and, where that leads, its group.

use crate::config::RaftConfig;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

/// How many times its live data the log and the snapshots of a replica may take on disk.
const DATA_TIMES: u64 = 3;

/// The part of the data that is kept free of that for what the disk's tables take beyond the bytes put into them: about
/// a hundredth of all.
const FORMAT_SHARE: u64 = 32;

/// What log and snapshots may take beyond that, in times the least log that makes a snapshot due.
const LOGS: u64 = 2;

/// The part of a copy's allowance that its writers need not wait for: what a calm writer never uses up.
const AHEAD_SHARE: u64 = 8;

/// A copy lets the log grow by at least this part of what it copies, however little room there is: writers are
/// slowed, never stopped. The bound has room for that wherever it did not shrink with the data under a copy's feet.
const LEAST_SHARE: u64 = 8;

/// What the log and the snapshots of a replica with so much live data may take on disk.
pub(crate) fn disk_bytes_max(config: &RaftConfig, data_bytes: u64) -> u64 {
    let logs = config.snapshot_log_bytes_min.saturating_mul(LOGS);
    (data_bytes.saturating_mul(DATA_TIMES) - data_bytes / FORMAT_SHARE).saturating_add(logs)
}

/// How far one copy lets the log grow. Pure.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// What the log and the new snapshot may take: the bound less the last snapshot.
    bytes_max: u64,
    copied: u64,
    /// See [`log_bytes_max`](Self::log_bytes_max).
    log_bytes_max: u64,
}

impl Allowance {
    /// A copy begins, with so much to be copied and so much log.
    pub(crate) fn new(bytes_max: u64, remaining: u64, log_bytes: u64) -> Self {
        let mut allowance = Self { bytes_max, copied: 0, log_bytes_max: log_bytes };
        allowance.log_bytes_max += allowance.free(remaining, log_bytes) / AHEAD_SHARE;
        allowance
    }

    /// What the log may still be allowed to grow by until the copy is done, beyond what it is allowed already.
    fn free(&self, remaining: u64, log_bytes: u64) -> u64 {
        let taken = self.copied.saturating_add(remaining).saturating_add(log_bytes);
        let promised = self.log_bytes_max.saturating_sub(log_bytes);
        (self.bytes_max.saturating_sub(taken) / 2).saturating_sub(promised)
    }

    /// So many `bytes` more were copied, and so many remain.
    pub(crate) fn copied(&mut self, bytes: u64, remaining: u64, log_bytes: u64) {
        let before = remaining.saturating_add(bytes);
        self.copied += bytes;
        let free = self.free(remaining, log_bytes);
        // In the worst case each byte let in now is one more to be copied, and one less that is free twice over:
        // then the share stays as it is to the end, where both are used up.
        let (bytes, shares) = (u128::from(bytes), u128::from(free) + u128::from(before));
        let dealt = u64::try_from(bytes * u128::from(free) / shares.max(1)).unwrap_or(free);
        let least = u64::try_from(bytes).unwrap_or(u64::MAX) / LEAST_SHARE;
        self.log_bytes_max = self.log_bytes_max.saturating_add(dealt.max(least));
    }

    /// The log's size beyond which nothing more is let in.
    pub(crate) fn log_bytes_max(&self) -> u64 {
        self.log_bytes_max
    }

    /// All is copied: what the log grows by from now on counts once.
    fn end(&mut self, log_bytes: u64) {
        let taken = self.copied.saturating_add(log_bytes);
        let free = self.bytes_max.saturating_sub(taken);
        self.log_bytes_max = self.log_bytes_max.max(log_bytes.saturating_add(free));
    }
}

/// One replica's flow control, shared by those who write to its log and the one who copies its machine.
pub(crate) struct FlowControl {
    config: RaftConfig,
    /// Bytes of this replica's log that are not purged.
    log_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    /// `u64::MAX` while nothing is copied.
    log_bytes_max: watch::Sender<u64>,
    /// How long those waited who let entries in, since this replica started.
    waited_micros: AtomicU64,
}

impl FlowControl {
    pub(crate) fn new(config: &RaftConfig, log_bytes: Box<dyn Fn() -> u64 + Send + Sync>) -> Self {
        let log_bytes_max = watch::Sender::new(u64::MAX);
        Self { config: config.clone(), log_bytes, log_bytes_max, waited_micros: AtomicU64::new(0) }
    }

    /// Waits until the log may grow. What is let in at once may exceed the bound, so let it be an entry or two.
    pub(crate) async fn admit(&self) {
        if !self.is_full() {
            return;
        }
        let started = Instant::now();
        let mut log_bytes_max = self.log_bytes_max.subscribe();
        // An error means that nobody copies any more, for the sender is in here.
        while (self.log_bytes)() >= *log_bytes_max.borrow_and_update()
            && log_bytes_max.changed().await.is_ok()
        {}
        let waited_micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited_micros.fetch_add(waited_micros, Ordering::Relaxed);
    }

    /// Whether whoever wants to write has to wait.
    pub(crate) fn is_full(&self) -> bool {
        let log_bytes_max = *self.log_bytes_max.borrow();
        log_bytes_max < u64::MAX && (self.log_bytes)() >= log_bytes_max
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        (self.log_bytes)()
    }

    /// How long whoever let entries in has waited, since this replica started.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_micros.load(Ordering::Relaxed))
    }

    /// A copy of `data_bytes` begins beside a snapshot of `last_bytes`. The limits end with what is returned.
    pub(crate) fn begin(&self, last_bytes: u64, data_bytes: u64) -> CopyFlow<'_> {
        let bytes_max = disk_bytes_max(&self.config, data_bytes).saturating_sub(last_bytes);
        let allowance = Allowance::new(bytes_max, data_bytes, (self.log_bytes)());
        CopyFlow { control: self, last_bytes, allowance }
    }
}

impl fmt::Debug for FlowControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FlowControl").field(&*self.log_bytes_max.borrow()).finish()
    }
}

/// The limits that one copy sets; dropped with it, however it ends.
#[derive(Debug)]
pub(crate) struct CopyFlow<'a> {
    control: &'a FlowControl,
    last_bytes: u64,
    allowance: Allowance,
}

impl CopyFlow<'_> {
    /// The data has grown or shrunk to so many bytes, and the bound with it.
    pub(crate) fn resize(&mut self, data_bytes: u64) {
        let bytes_max = disk_bytes_max(&self.control.config, data_bytes).saturating_sub(self.last_bytes);
        self.allowance.bytes_max = bytes_max;
    }

    /// So many `bytes` more were copied, and about so many remain.
    pub(crate) fn copied(&mut self, bytes: u64, remaining: u64) {
        let log_bytes = (self.control.log_bytes)();
        self.allowance.copied(bytes, remaining, log_bytes);
        if remaining == 0 {
            self.allowance.end(log_bytes);
        }
        self.control.log_bytes_max.send_replace(self.allowance.log_bytes_max());
    }
}

impl Drop for CopyFlow<'_> {
    fn drop(&mut self) {
        self.control.log_bytes_max.send_replace(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const KIB: u64 = 1 << 10;

    fn config() -> RaftConfig {
        RaftConfig { snapshot_log_bytes_min: 100 * KIB, ..RaftConfig::default() }
    }

    /// Writers who take all they are allowed to, and whose every byte has to be copied again, end exactly with the
    /// room, and are let in evenly until then: no stretch of the copy lets in less than half of any other.
    #[test]
    fn the_worst_writers_use_up_the_room_evenly() {
        let (bytes_max, log) = (1_800 * KIB, 300 * KIB);
        let (mut remaining, mut grown, mut stretches) = (1_000 * KIB, 0, vec![0; 10]);
        let mut allowance = Allowance::new(bytes_max, remaining, log);
        let mut copied = 0;
        grown += allowance.log_bytes_max() - log;
        while remaining > 0 {
            let bytes = remaining.min(KIB);
            copied += bytes;
            allowance.copied(bytes, remaining - bytes, log + grown);
            let more = allowance.log_bytes_max() - log - grown;
            grown += more;
            remaining = if bytes < KIB { 0 } else { remaining - bytes + more };
            if let Some(stretch) = stretches.get_mut((copied / (100 * KIB)) as usize) {
                *stretch += more;
            }
        }
        let taken = log + grown + copied;
        assert!(
            (bytes_max - 16 * KIB..=bytes_max + KIB).contains(&taken),
            "{} of {}",
            taken / KIB,
            bytes_max / KIB
        );
        let (least, most) = (stretches.iter().min().unwrap(), stretches.iter().max().unwrap());
        assert!(*least > most / 2, "{stretches:?}");
    }

    /// What calm writers leave is not lost to them, nor promised twice.
    #[test]
    fn what_is_not_used_is_kept() {
        let mut allowance = Allowance::new(1_800 * KIB, 1_000 * KIB, 300 * KIB);
        for left in (0..1_000).rev() {
            allowance.copied(KIB, left * KIB, 300 * KIB);
        }
        let allowed = allowance.log_bytes_max() - 300 * KIB;
        assert!((240 * KIB..=250 * KIB).contains(&allowed), "{} KiB", allowed / KIB);
        allowance.end(300 * KIB);
        assert_eq!(allowance.log_bytes_max(), 800 * KIB, "all that is free, once nothing is copied again");
    }

    /// Where there is no room at all, a copy still lets in an eighth of what it copies.
    #[test]
    fn writers_are_never_stopped() {
        let mut allowance = Allowance::new(0, 1_000 * KIB, 300 * KIB);
        allowance.copied(800 * KIB, 200 * KIB, 300 * KIB);
        assert_eq!(allowance.log_bytes_max(), 400 * KIB);
    }

    /// Whoever finds the log full waits for the copy: for its progress, or for its end, however it ends.
    #[tokio::test(start_paused = true)]
    async fn writers_wait_for_the_copy() {
        let log = Arc::new(AtomicU64::new(0));
        let bytes = log.clone();
        let control = FlowControl::new(&config(), Box::new(move || bytes.load(Ordering::Relaxed)));
        log.store(u64::MAX - 1, Ordering::Relaxed);
        control.admit().await;
        log.store(400 * KIB, Ordering::Relaxed);
        let mut copy = control.begin(1_000 * KIB, 1_000 * KIB);
        assert!(!control.is_full());
        copy.copied(KIB, 999 * KIB);
        assert!(!control.is_full());
        log.store(500 * KIB, Ordering::Relaxed);
        assert!(control.is_full());
        let copying = async {
            for left in (0..999).rev() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                copy.copied(KIB, left * KIB);
                if !control.is_full() {
                    break;
                }
            }
        };
        tokio::join!(control.admit(), copying);
        let waited = control.waited();
        assert!(waited > Duration::ZERO);
        log.store(2_000 * KIB, Ordering::Relaxed);
        assert!(control.is_full());
        let ends = async { drop(copy) };
        tokio::join!(control.admit(), ends);
    }

    /// Data that grows while it is copied raises the bound: who fills an empty machine need not wait for that.
    #[test]
    fn the_bound_follows_the_data() {
        let control = FlowControl::new(&config(), Box::new(|| 900 * KIB));
        let limit = |data_bytes: u64| {
            let mut copy = control.begin(500 * KIB, 600 * KIB);
            copy.resize(data_bytes);
            copy.copied(100 * KIB, 500 * KIB);
            copy.allowance.log_bytes_max()
        };
        assert!(limit(900 * KIB) > limit(600 * KIB) + 20 * KIB);
        assert_eq!(limit(0), limit(100 * KIB), "the least share alone");
    }
}
