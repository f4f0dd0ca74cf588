//! What is left when a transport has been shut down: nothing.

use super::*;

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

async fn leaves_nothing(world: World) {
    let before = tasks();
    let pair = Pair::start(world, TransportConfig::default(), FakeNode::default()).await;
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed.send(append(1, 10));
    assert!(answers.next().await.unwrap().is_ok());
    beat(&mut pair.heartbeat_client(GROUP).await).await.unwrap().unwrap();
    pair.one.call(NodeId(2), &pair.address.peer, 1, Bytes::new(), SECOND).await.unwrap();
    let hanging = pair.one.call(NodeId(2), &pair.address.peer, 2, Bytes::new(), 60 * SECOND);
    let stopping = async {
        pair.node.calls.subscribe().wait_for(|calls| *calls == 2).await.unwrap();
        pair.one.shutdown().await;
        pair.two.shutdown().await;
        pair.server.shutdown().await;
    };
    let (hanging, ()) = tokio::join!(hanging, stopping);
    assert!(hanging.unwrap_err().may_have_happened(), "what was sent fails with an open outcome");
    feed.send(append(2, 10));
    assert!(answers.next().await.unwrap().is_err(), "streams fail");
    drop(answers);
    let refused = pair.one.call(NodeId(2), &pair.address.peer, 1, Bytes::new(), SECOND).await.unwrap_err();
    assert!(!refused.may_have_happened(), "what comes later is refused unsent: {refused}");
    until(|| tasks() == before).await;
    let network = &pair.world.networks[1];
    network.listen(&pair.address.peer).await.unwrap();
}

/// After the shutdown no task is left, whatever waited has failed, and the port is free.
#[tokio::test]
async fn shutdown_leaves_nothing_over_tcp() {
    leaves_nothing(World::tcp()).await;
}

/// The same in the simulation.
#[tokio::test(start_paused = true)]
async fn shutdown_leaves_nothing_when_simulated() {
    leaves_nothing(World::simulated()).await;
}

/// A listener on a taken port is a clear error.
#[tokio::test]
async fn a_taken_port_is_an_error() {
    let pair = Pair::start(World::tcp(), TransportConfig::default(), FakeNode::default()).await;
    let error = pair.one.serve(&pair.address.peer, pair.node.clone()).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
