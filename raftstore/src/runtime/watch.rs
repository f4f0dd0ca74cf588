//! openraft's watch channel, with waiters woken in the order in which they came.
//!
//! tokio's own spreads its waiters by a random number of the runtime's, which no seed reaches. Whom a change wakes
//! first decides which of two followers is sent an entry first, and with it the whole of a simulated run. So here they
//! wait in one queue, which also takes less than tokio's eight: openraft sends something in each turn of its core.
//! Must never lose a wake-up: whoever waits takes its place in the queue before it looks a last time.

use openraft::OptionalSend;
use openraft::OptionalSync;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug)]
pub struct OrderedWatch;

/// What both sides share.
struct Shared<T> {
    value: RwLock<T>,
    /// How often the value has changed, times two, and one more once the last sender has gone. Changes are counted under
    /// the value's lock.
    state: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiting: Notify,
}

const CLOSED: u64 = 1;
const CHANGE: u64 = 2;

impl<T> Shared<T> {
    // A lock is poisoned where `modify` of a sender panicked: openraft's task has ended by that, and whoever watches
    // it is to see the last value and then the end.
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.value.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to say at once to who has seen the changes up to `seen`, if anything.
    fn look(&self, seen: &mut u64) -> Option<Result<(), RecvError>> {
        let state = self.state.load(Ordering::Acquire);
        if state & !CLOSED != *seen {
            *seen = state & !CLOSED;
            return Some(Ok(()));
        }
        (state & CLOSED != 0).then_some(Err(RecvError(())))
    }

    fn sender(self: &Arc<Self>) -> Sender<T> {
        self.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.clone())
    }

    /// A receiver that has seen the changes up to `seen`.
    fn receiver(self: &Arc<Self>, seen: u64) -> Receiver<T> {
        self.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver { shared: self.clone(), seen }
    }
}

/// The sending side of an [`OrderedWatch`].
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.sender()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.state.fetch_or(CLOSED, Ordering::AcqRel);
            self.0.waiting.notify_waiters();
        }
    }
}

/// The receiving side of an [`OrderedWatch`].
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The state, without [`CLOSED`], whose value was seen.
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receiver(self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            state: AtomicU64::new(0),
            senders: AtomicUsize::new(0),
            receivers: AtomicUsize::new(0),
            waiting: Notify::new(),
        });
        (shared.sender(), shared.receiver(0))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            // What was there before is dropped once the lock is let go of.
            std::mem::swap(current, &mut value);
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let mut value = self.0.write();
        let modified = modify(&mut value);
        if modified {
            self.0.state.fetch_add(CHANGE, Ordering::AcqRel);
        }
        drop(value);
        if modified {
            self.0.waiting.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receiver(self.0.state.load(Ordering::Acquire) & !CLOSED)
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let Self { shared, seen } = self;
        loop {
            if let Some(change) = shared.look(seen) {
                return change;
            }
            let mut turn = pin!(shared.waiting.notified());
            turn.as_mut().enable();
            if let Some(change) = shared.look(seen) {
                return change;
            }
            turn.await;
        }
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.state.load(Ordering::Acquire) & !CLOSED;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A change wakes those who wait in the order in which they began to, and the end of the channel wakes them too.
    #[tokio::test]
    async fn waiters_are_woken_in_their_order() {
        for _ in 0..10 {
            let (sender, receiver) = OrderedWatch::channel(0);
            let order = Arc::new(Mutex::new(Vec::new()));
            let tasks: Vec<_> = (0..20)
                .map(|number| {
                    let (mut receiver, order) = (receiver.clone(), order.clone());
                    tokio::spawn(async move {
                        receiver.changed().await.unwrap();
                        order.lock().unwrap().push(number);
                        receiver.changed().await.unwrap_err();
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            sender.send(1).unwrap();
            tokio::task::yield_now().await;
            assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
            drop(sender);
            for task in tasks {
                task.await.unwrap();
            }
        }
    }

    /// A change that nobody has seen is reported although the sender is gone.
    #[tokio::test]
    async fn the_last_change_is_not_lost() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        sender.send(1).unwrap();
        drop(sender);
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow_and_update(), 1);
        receiver.changed().await.unwrap_err();
    }

    /// What nobody can see any more is given back, and who comes later waits for what is sent after that.
    #[tokio::test]
    async fn a_value_for_nobody_is_given_back() {
        let (sender, receiver) = OrderedWatch::channel(0);
        let other = receiver.clone();
        drop(receiver);
        sender.send(1).unwrap();
        drop(other);
        assert_eq!(sender.send(2).unwrap_err().0, 2);
        let mut late = sender.subscribe();
        assert_eq!(*late.borrow_watched(), 1);
        assert!(!sender.send_if_different(1));
        sender.send(3).unwrap();
        late.changed().await.unwrap();
        assert_eq!(*late.borrow_watched(), 3);
    }

    /// No change is missed by one who waits on another thread, whenever it comes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost_between_threads() {
        let (sender, mut receiver) = OrderedWatch::channel(0_u32);
        let (answer, mut answered) = OrderedWatch::channel(0_u32);
        let echo = tokio::spawn(async move {
            while receiver.changed().await.is_ok() {
                let seen = *receiver.borrow_and_update();
                answer.send(seen).unwrap();
            }
        });
        for round in 1..=20_000 {
            sender.send(round).unwrap();
            answered.wait_until_ge(&round).await.unwrap();
        }
        drop(sender);
        echo.await.unwrap();
        answered.changed().await.unwrap_err();
    }
}
