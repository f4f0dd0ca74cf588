//! Free ports on loopback for processes that must be told theirs beforehand. They come from below the range that the
//! system hands out on its own, so that no outgoing connection takes one between our look and the node's.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// The range, `FIRST..FIRST + COUNT`.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// Where this process goes on looking; each process starts somewhere else.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Consecutive free ports.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    first: u16,
}

impl Ports {
    /// `count` consecutive ports that nobody listens on now. Never handed out twice by one process.
    ///
    /// # Panics
    /// If there are none.
    pub fn take(count: u16) -> Self {
        let start = std::process::id().wrapping_mul(97) % COUNT;
        for _ in 0..COUNT {
            let offset = start + NEXT.fetch_add(count.into(), Ordering::Relaxed);
            let first = FIRST + offset % (COUNT - u32::from(count));
            let first = u16::try_from(first).expect("the range lies below 65536");
            if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return Self { first };
            }
        }
        panic!("no {count} consecutive free ports from {FIRST} on");
    }

    /// The `index`th of them, from 0.
    pub fn port(&self, index: u16) -> u16 {
        self.first + index
    }

    /// The `index`th of them as an address.
    pub fn address(&self, index: u16) -> String {
        format!("127.0.0.1:{}", self.port(index))
    }
}
