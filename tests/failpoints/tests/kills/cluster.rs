//! Three processes with three groups, each led by a node of its own, and a shard that moves between the two
//! whose leaders do not lead the controller.

use crate::clients::Clients;
use crate::gate::Gate;
use kvserver::moves::failpoint::{Failpoint, gates};
use reqwest::Method;
use std::future::pending;
use tempfile::TempDir;
use tests::{Cluster, Program, Shape, eventually};

/// What the shard that moves holds beside what clients append: a few pieces more than are on their way at a
/// time.
const VALUES: usize = 24;
const VALUE_BYTES: usize = 100 << 10;

const NODES: [u64; 3] = [1, 2, 3];

/// How many appends are to be acknowledged after a node has come back, before the next is killed.
const SERVED: usize = 20;

/// Who is killed while a node is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// Whoever has come to the step.
    Held,
    /// The leader of the shard's source, whoever is held.
    Source,
    /// That of its destination.
    Destination,
    /// That of the controller.
    Controller,
}

impl Victim {
    pub(crate) const LEADERS: [Self; 3] = [Self::Source, Self::Destination, Self::Controller];
}

/// A way for the shard, between groups neither of whose leaders leads the controller.
#[derive(Clone, Copy, Debug)]
struct Route {
    from: u64,
    to: u64,
}

/// See the module.
pub(crate) struct MovingShard {
    cluster: Cluster,
    /// Where gates are shut and opened.
    gates: TempDir,
    clients: Clients,
    shard: u64,
    /// How many nodes were killed.
    kills: usize,
}

fn value_key(number: usize) -> String {
    format!("{{moving}}/{number}")
}

impl MovingShard {
    pub(crate) async fn start() -> Self {
        let gates = tempfile::tempdir().expect("a temporary directory");
        let directory = gates.path().to_str().expect("the system's temporary directory is text");
        let program = Program {
            path: Some(env!("CARGO_BIN_EXE_flotilla-failpoints").into()),
            environment: vec![(gates::VARIABLE.to_owned(), directory.to_owned())],
        };
        let shape = Shape { groups: 3, program, ..Shape::default() }.with_fast_elections();
        let cluster = Cluster::start(shape).await;
        let client = crate::clients::connect(&cluster).await;
        for number in 0..VALUES {
            let put = client.put(value_key(number), vec![b'v'; VALUE_BYTES]).await;
            put.expect("a cluster that is ready takes writes");
        }
        let shard = cluster.shard_of("%7Bmoving%7D/0").await;
        let clients = Clients::start(&cluster).await;
        Self { cluster, gates, clients, shard, kills: 0 }
    }

    /// Finds a way for the shard, once every group is led by a node of its own.
    async fn route(&self) -> Route {
        loop {
            let leaders = self.cluster.leaders().await;
            let controller = self.cluster.leader(0).await;
            let from = self.cluster.owner(self.shard).await;
            let source = leaders[&from];
            let is_other = |(_, leader): &(&u64, &u64)| **leader != controller && **leader != source;
            let (&to, _) = leaders.iter().find(is_other).expect("leaders are spread");
            if source != controller {
                return Route { from, to };
            }
            self.ask_for_move(to).await;
        }
    }

    /// Asks for a move until the shard is to be at `to`. An answer that is lost says nothing: the map does.
    async fn ask_for_move(&self, to: u64) {
        eventually("the shard is to be elsewhere", async || {
            if self.cluster.place(self.shard).await?.target == to {
                return Some(());
            }
            let path = format!("/v1/cluster/shards/{}/move", self.shard);
            self.cluster.ask(Method::POST, &path, &format!(r#"{{"to":{to}}}"#)).await?;
            None
        })
        .await;
    }

    /// Has the move begin that brings somebody to the gate; who it is.
    async fn move_to(&self, to: u64, gate: &Gate) -> u64 {
        let asking = async {
            self.ask_for_move(to).await;
            pending().await
        };
        tokio::select! {
            held = gate.reached(&NODES) => held,
            () = asking => unreachable!("it waits for ever"),
        }
    }

    /// Kills the `victim` while the gate holds somebody, and lets the move go on.
    async fn kill(&mut self, route: Route, victim: Victim, point: Failpoint, gate: Gate, held: u64) {
        // Who leads is asked now: since the move began, another may have been elected.
        let killed = match victim {
            Victim::Held => held,
            Victim::Source => self.cluster.leader(route.from).await,
            Victim::Destination => self.cluster.leader(route.to).await,
            Victim::Controller => self.cluster.leader(0).await,
        };
        self.kills += 1;
        println!("{}. {point:?}: n{held} is held, n{killed} dies, {victim:?}; {route:?}", self.kills);
        self.cluster.node(killed).kill().await;
        gate.open(held);
    }

    /// The node that was killed comes back, and everybody is served.
    async fn recover(&mut self) {
        self.cluster.start_all().await;
        self.clients.served(SERVED).await;
        self.clients.begin_round(self.kills);
    }

    /// A move arrives while the `victim` is killed at a step of it.
    pub(crate) async fn arrives_over_a_kill(&mut self, point: Failpoint, victim: Victim) {
        let route = self.route().await;
        let gate = Gate::shut(self.gates.path(), point, self.shard);
        let held = self.move_to(route.to, &gate).await;
        self.kill(route, victim, point, gate, held).await;
        self.ask_for_move(route.to).await;
        assert_eq!(self.cluster.owner(self.shard).await, route.to, "{point:?}");
        self.recover().await;
    }

    /// A move is called off while the shard is frozen, and the `victim` is killed at a step of the way back.
    pub(crate) async fn returns_over_a_kill(&mut self, point: Failpoint, victim: Victim) {
        let route = self.route().await;
        let frozen = Gate::shut(self.gates.path(), Failpoint::FreezeAnswered, self.shard);
        let destination = self.move_to(route.to, &frozen).await;
        let path = format!("/v1/cluster/moves/{}", self.shard);
        self.cluster.change(Method::DELETE, &path, "").await;
        self.all_know_of_the_cancel().await;
        let gate = Gate::shut(self.gates.path(), point, self.shard);
        frozen.open(destination);
        let held = gate.reached(&NODES).await;
        self.kill(route, victim, point, gate, held).await;
        assert_eq!(self.cluster.owner(self.shard).await, route.from, "{point:?}");
        self.recover().await;
    }

    async fn all_know_of_the_cancel(&self) {
        eventually("all know of the cancel", async || {
            for node in self.cluster.nodes() {
                let map = node.get_json("/v1/cluster/map").await?;
                let moves = map["moves"].as_array()?;
                let moving = moves.iter().find(|moving| moving["shard"] == self.shard)?;
                (moving["state"] == "cancelling").then_some(())?;
            }
            Some(())
        })
        .await;
    }

    /// Nothing was lost, nothing doubled, nothing served twice.
    pub(crate) async fn finish(self) {
        let client = crate::clients::connect(&self.cluster).await;
        self.clients.finish(&client).await;
        for number in 0..VALUES {
            let value = client.get(value_key(number)).await.expect("a cluster that is ready answers");
            assert_eq!(value.expect("it was put").bytes, vec![b'v'; VALUE_BYTES]);
        }
        println!("{} kills", self.kills);
    }
}
