//! Room for one more: beside the snapshot that is current, a replica's disk holds one that its own machine is copied
//! into or one that its leader sends, never both, for the disk's bound has room for one.
//!
//! The leader's goes first: it is newer than what the copy would end with, and its log goes where it is taken in. So a
//! copy gives way to it, and none begins before it is installed or has failed. A snapshot that is taken in replaces
//! the machine, too, and whoever copies a machine must not find it exchanged.

use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// One replica's room; see the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Room(watch::Sender<Holders>);

/// Who holds the room, or waits for it.
#[derive(Debug, Default)]
struct Holders {
    copying: bool,
    /// Snapshots that are being received, by the order in which they began. The first holds the room, the others
    /// wait for it to leave.
    receiving: BTreeSet<u64>,
    /// How many ever were.
    received: u64,
    /// Snapshots that take the machine's place.
    installing: u64,
}

impl Holders {
    /// Whether a copy is to give way.
    fn comes_in(&self) -> bool {
        !self.receiving.is_empty() || self.installing > 0
    }
}

impl Room {
    /// Waits until nothing comes in and nobody else copies.
    pub(crate) async fn copy(self: &Arc<Self>) -> CopyRoom {
        let mut holders = self.0.subscribe();
        while !self.try_copy() {
            // The sender is in here.
            holders.changed().await.expect("the room is there as long as somebody waits for it");
        }
        CopyRoom(self.clone())
    }

    fn try_copy(&self) -> bool {
        self.0.send_if_modified(|holders| {
            let free = !holders.copying && !holders.comes_in();
            holders.copying |= free;
            free
        })
    }

    /// Has a copy, and what is being received, give way, and waits until they have.
    pub(crate) async fn receive(self: &Arc<Self>) -> ReceiveRoom {
        let mut number = 0;
        self.0.send_modify(|holders| {
            holders.received += 1;
            number = holders.received;
            holders.receiving.insert(number);
        });
        let room = ReceiveRoom { room: self.clone(), number };
        self.reached(|holders| !holders.copying && holders.receiving.first() == Some(&number)).await;
        room
    }

    /// Has a copy give way, and waits until it has.
    pub(crate) async fn install(self: &Arc<Self>) -> InstallRoom {
        self.0.send_modify(|holders| holders.installing += 1);
        let room = InstallRoom(self.clone());
        self.reached(|holders| !holders.copying).await;
        room
    }

    async fn reached(&self, condition: impl FnMut(&Holders) -> bool) {
        let mut holders = self.0.subscribe();
        drop(holders.wait_for(condition).await.expect("the room is there as long as somebody waits for it"));
    }
}

/// Held by whoever copies the machine.
#[derive(Debug)]
pub(crate) struct CopyRoom(Arc<Room>);

impl CopyRoom {
    /// Resolves once the copy is to give way.
    pub(crate) async fn wanted(&self) {
        self.0.reached(Holders::comes_in).await;
    }
}

impl Drop for CopyRoom {
    fn drop(&mut self) {
        self.0.0.send_modify(|holders| holders.copying = false);
    }
}

/// Held by whoever takes in a snapshot's pieces, until it is installed.
#[derive(Debug)]
pub(crate) struct ReceiveRoom {
    room: Arc<Room>,
    number: u64,
}

impl ReceiveRoom {
    /// Resolves once another snapshot is to be received in the place of this one.
    pub(crate) async fn wanted(&self) {
        self.room.reached(|holders| holders.receiving.last() > Some(&self.number)).await;
    }
}

impl Drop for ReceiveRoom {
    fn drop(&mut self) {
        self.room.0.send_modify(|holders| {
            holders.receiving.remove(&self.number);
        });
    }
}

/// Held while a snapshot takes the machine's place.
#[derive(Debug)]
pub(crate) struct InstallRoom(Arc<Room>);

impl Drop for InstallRoom {
    fn drop(&mut self) {
        self.0.0.send_modify(|holders| holders.installing -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::Future;
    use std::pin::pin;

    fn waits(future: impl Future) -> bool {
        pin!(future).now_or_never().is_none()
    }

    /// What comes in has a copy give way, and no other begins before it has been taken in, or has failed.
    #[tokio::test]
    async fn a_copy_gives_way() {
        let room = Arc::new(Room::default());
        let copy = room.copy().await;
        assert!(waits(room.copy()), "one copy at a time");
        assert!(waits(copy.wanted()));
        let mut receive = Box::pin(room.receive());
        assert!(waits(&mut receive), "not before the copy is gone");
        assert!(!waits(copy.wanted()));
        drop(copy);
        let received = receive.await;
        assert!(waits(room.copy()));
        let installed = room.install().await;
        drop(received);
        assert!(waits(room.copy()), "not before the machine is replaced");
        drop(installed);
        assert!(!waits(room.copy()));
    }

    /// Of two snapshots the one that begins later is received, once the other is gone. Who gives up waiting leaves
    /// nothing behind.
    #[tokio::test]
    async fn the_later_one_is_received() {
        let room = Arc::new(Room::default());
        let first = room.receive().await;
        assert!(waits(first.wanted()));
        assert!(waits(room.receive()), "and given up at once");
        assert!(waits(first.wanted()));
        let mut second = Box::pin(room.receive());
        assert!(waits(&mut second) && !waits(first.wanted()));
        drop(first);
        let second = second.await;
        assert!(waits(second.wanted()));
        drop(second);
        assert!(!waits(room.copy()));
    }
}
