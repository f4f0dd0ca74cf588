//! Free ports on loopback for servers that must be told theirs beforehand. They come from below the range that the
//! system hands out on its own, so that no outgoing connection takes one between our look and the server's.

use anyhow::{Result, ensure};
use std::net::TcpListener;

/// The range, `FIRST..FIRST + COUNT`.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// So many ports that nobody listens on now. Each process begins to look somewhere else.
///
/// # Errors
/// There are not as many.
pub(crate) fn free<const N: usize>() -> Result<[u16; N]> {
    let begin = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT))?;
    let mut listeners = Vec::new();
    for offset in 0..COUNT {
        let port = FIRST + (begin + offset) % COUNT;
        if listeners.len() < N
            && let Ok(listener) = TcpListener::bind(("127.0.0.1", port))
        {
            listeners.push(listener);
        }
    }
    ensure!(listeners.len() == N, "there are no {N} free ports on loopback from {FIRST} on");
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ports are different ones, and what is taken is passed over.
    #[test]
    fn ports_are_free() {
        let [first, second, third] = free().expect("free ports");
        assert!(first != second && second != third && first != third);
        // Somebody listens there now: we, or who was quicker.
        let taken = TcpListener::bind(("127.0.0.1", first));
        assert!(!free::<3>().expect("free ports").contains(&first), "{taken:?}");
    }
}
