//! openraft's watch channel: tokio's, with waiters woken in the order in which they came.
//!
//! tokio's own spreads its waiters by a random number of the runtime's, which no seed reaches. Whom a change wakes
//! first decides which of two followers is sent an entry first, and with it the whole of a simulated run. So the
//! value is tokio's, and the waiting is done on one queue. Must never lose a wake-up: whoever waits takes its place
//! in the queue before it looks.

use futures_util::future::FutureExt;
use openraft::OptionalSend;
use openraft::OptionalSync;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// See the module.
#[derive(Debug)]
pub struct OrderedWatch;

/// Wakes whoever waits when the last sender goes.
struct Hangup(Arc<Notify>);

impl Drop for Hangup {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// The sending side of an [`OrderedWatch`].
pub struct Sender<T> {
    // Goes before `hangup`, so that those who are woken find the channel closed.
    value: watch::Sender<T>,
    hangup: Arc<Hangup>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), hangup: self.hangup.clone() }
    }
}

/// The receiving side of an [`OrderedWatch`].
pub struct Receiver<T> {
    value: watch::Receiver<T>,
    changes: Arc<Notify>,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), changes: self.changes.clone() }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let changes = Arc::new(Notify::new());
        let hangup = Arc::new(Hangup(changes.clone()));
        (Sender { value: sender, hangup }, Receiver { value: receiver, changes })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value).map_err(|error| SendError(error.0))?;
        self.hangup.0.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.value.send_if_modified(modify);
        if modified {
            self.hangup.0.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), changes: self.hangup.0.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let waiting = self.changes.notified();
            tokio::pin!(waiting);
            waiting.as_mut().enable();
            // A look, not a wait: it must not be put off by the task's budget, for nobody would look again.
            let look = tokio::task::unconstrained(self.value.changed()).now_or_never();
            if let Some(changed) = look {
                return changed.map_err(|_| RecvError(()));
            }
            waiting.await;
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.value.borrow_and_update()
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
}
