//! Nodes that are asked who they are, and that come back elsewhere.

use super::*;
use crate::transport::{GreetError, Unwelcome};

/// Whoever is at an address says who it is, to whom it likes; and whoever asks loses none of its connections there.
#[tokio::test(start_paused = true)]
async fn a_node_says_who_it_is() {
    let pair = Pair::simulated().await;
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed.send(append(1, 10));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(1))));
    pair.one.call(NodeId(2), &pair.address.peer, 1, Bytes::new(), SECOND).await.unwrap();
    for _ in 0..3 {
        assert_eq!(pair.one.who_is(&pair.address.peer).await, Ok(NodeId(2)));
    }
    feed.send(append(2, 10));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(2))));
    pair.one.call(NodeId(2), &pair.address.peer, 1, Bytes::new(), SECOND).await.unwrap();
    let stats = pair.one.stats();
    assert_eq!((stats.entries.connects, stats.request.connects), (1, 1), "the lanes kept their connections");

    let network = &pair.world.networks[0];
    let foreign = Transport::new(NodeId(1), "other".into(), network.clone(), TransportConfig::default());
    let refused = foreign.who_is(&pair.address.peer).await;
    assert!(matches!(refused, Err(GreetError::Refused(Unwelcome::Cluster(_)))), "{refused:?}");
    let namesake = transport(2, network, &TransportConfig::default());
    let refused = namesake.who_is(&pair.address.peer).await;
    assert!(matches!(refused, Err(GreetError::Refused(Unwelcome::NumberInUse(_)))), "{refused:?}");
    let nobody = pair.one.who_is("b:9").await;
    assert!(matches!(nobody, Err(GreetError::Unreached(_))), "{nobody:?}");
}

/// A node that came back elsewhere is found by whoever it speaks to, with what waits for it.
#[tokio::test(start_paused = true)]
async fn a_node_tells_where_it_is() {
    let mut pair = Pair::simulated().await;
    let inbound = Arc::new(FakeNode::default());
    let server = pair.one.serve("a:1", inbound).await.unwrap();
    beat(&mut pair.heartbeat_client(GROUP).await).await.unwrap().unwrap();
    pair.server.shutdown().await;
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed.send(append(1, 10));
    assert!(tokio::time::timeout(SECOND, answers.next()).await.is_err(), "nobody knows where it is");
    pair.server = pair.two.serve("b:2", pair.node.clone()).await.unwrap();
    pair.two.advertise("b:2");
    let first = Address { peer: server.local_address().to_owned(), http: String::new() };
    beat(&mut pair.two.client(GROUP, NodeId(1), &first)).await.unwrap().unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(1))));
}

/// A node is reached at whichever of its addresses it is, whatever stands before it: one where nobody is, one that
/// swallows everything, one of another node.
#[tokio::test(start_paused = true)]
async fn every_address_is_tried() {
    let pair = Pair::simulated().await;
    let third = transport(3, &pair.world.networks[1], &TransportConfig::default());
    let server = third.serve("b:3", Arc::new(FakeNode::default())).await.unwrap();
    let mut client = pair.client(GROUP);
    for wrong in [server.local_address(), "b:9", "c:1"] {
        pair.one.locate(NodeId(2), wrong);
    }
    pair.world.network().partition(&["a"], &["c"]);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(5 * SECOND)).await.unwrap();
    feed.send(append(1, 10));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(1))));
}
