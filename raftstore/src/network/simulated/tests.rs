//! What the simulation promises to those who test on it.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

async fn connect(network: &SimulatedNetwork) -> (Box<dyn Stream>, Box<dyn Stream>) {
    let (one, two) = (network.host("a"), network.host("b"));
    let mut listener = two.listen("b:1").await.unwrap();
    let (near, far) = tokio::join!(one.connect("b:1"), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A byte takes the link's delay, and a kilobyte the time that the bandwidth gives it beside.
#[tokio::test(start_paused = true)]
async fn delay_and_bandwidth_are_exact() {
    let network = SimulatedNetwork::new();
    let (mut near, mut far) = connect(&network).await;
    let link =
        Link { delay_min: 30 * MS, delay_max: 30 * MS, bytes_per_second: Some(10_000), ..Link::default() };
    network.set_link("a", "b", link);
    let start = Instant::now();
    near.write_all(&[7; 1_000]).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO, "a write that fits the buffers waits for nothing");
    far.read_exact(&mut [0; 1_000]).await.unwrap();
    assert_eq!(start.elapsed(), 130 * MS);
    far.write_all(b"x").await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();
    assert_eq!(start.elapsed(), 130 * MS, "the way back is another link");
}

/// Bytes arrive in order whatever delays they draw, and the same seed draws the same delays.
#[tokio::test(start_paused = true)]
async fn order_is_kept_and_seeds_repeat() {
    let mut elapsed = Vec::new();
    for _ in 0..2 {
        crate::seed(11);
        let network = SimulatedNetwork::new();
        let (mut near, mut far) = connect(&network).await;
        network.set_default_link(Link { delay_max: 50 * MS, ..Link::default() });
        let start = Instant::now();
        for byte in 0..100 {
            near.write_all(&[byte]).await.unwrap();
        }
        let mut read = [0; 100];
        far.read_exact(&mut read).await.unwrap();
        assert!(read.iter().copied().eq(0..100));
        elapsed.push(start.elapsed());
    }
    assert_eq!(elapsed[0], elapsed[1]);
    assert!(elapsed[0] > Duration::ZERO);
}

/// A cut link loses bytes without a word, one way; healed, the connection that lost some is reset, and others go
/// on.
#[tokio::test(start_paused = true)]
async fn a_cut_loses_silently() {
    let network = SimulatedNetwork::new();
    let (mut near, mut far) = connect(&network).await;
    let (mut calm, mut calm_far) = connect(&network).await;
    network.cut("a", "b");
    near.write_all(b"lost").await.unwrap();
    far.write_all(b"back").await.unwrap();
    near.read_exact(&mut [0; 4]).await.unwrap();
    assert!(tokio::time::timeout(1_000 * MS, far.read_u8()).await.is_err());
    network.heal();
    assert_eq!(far.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(near.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    calm.write_all(b"x").await.unwrap();
    calm_far.read_exact(&mut [0]).await.unwrap();
    assert_eq!(network.counters("a", "b").bytes_lost, 4);
}

/// Over a cut link, connecting hangs; over a whole one to nobody, it is refused.
#[tokio::test(start_paused = true)]
async fn connecting_hangs_or_is_refused() {
    let network = SimulatedNetwork::new();
    let host = network.host("a");
    assert_eq!(host.connect("b:1").await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    let listener = network.host("b").listen("b:1").await.unwrap();
    network.cut("b", "a");
    assert!(tokio::time::timeout(10_000 * MS, host.connect("b:1")).await.is_err());
    network.heal();
    assert!(host.connect("b:1").await.is_ok());
    drop(listener);
    assert_eq!(host.connect("b:1").await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
}

/// An end that is dropped ends the other's reading after what was sent, and fails its writing.
#[tokio::test(start_paused = true)]
async fn an_end_is_seen() {
    let network = SimulatedNetwork::new();
    let (mut near, mut far) = connect(&network).await;
    near.write_all(b"last").await.unwrap();
    drop(near);
    let mut read = Vec::new();
    far.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"last");
    assert!(far.write_all(b"x").await.is_err());
}

/// Writers wait for readers: no more than the buffers is ever on the way.
#[tokio::test(start_paused = true)]
async fn buffers_are_bounded() {
    let network = SimulatedNetwork::new();
    let (mut near, mut far) = connect(&network).await;
    let all = vec![1; 3 << 20];
    assert!(tokio::time::timeout(1_000 * MS, near.write_all(&all)).await.is_err());
    assert_eq!(network.counters("a", "b").bytes, 1 << 20);
    far.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    near.write_all(&[1; 10]).await.unwrap();
}

/// A port is taken once, and free again when its listener is gone.
#[tokio::test]
async fn ports_are_taken_and_freed() {
    let host = SimulatedNetwork::new().host("a");
    let first = host.listen("a:0").await.unwrap();
    let address = first.local_address().to_owned();
    assert_eq!(host.listen(&address).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert!(host.listen(&address).await.is_ok());
    assert!(host.listen("b:1").await.is_err());
}
