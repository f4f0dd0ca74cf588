//! A leader that is stopped and goes on, and what it says then: the moment at which it believes to lead and
//! has been replaced, aimed at rather than waited for.

use crate::calls::Reads;
use crate::field::Field;
use crate::run::{NetworkChoice, Options};
use client::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long the leader stands still.
const PAUSE: Duration = Duration::from_secs(10);

/// How long it is asked afterwards.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// How often a read is sent to it while it stands still, and afterwards.
const READ_PACE: Duration = Duration::from_millis(100);
const READ_PACE_AFTERWARDS: Duration = Duration::from_millis(2);

/// The time that a call is given: more than the pause.
const DEADLINE: Duration = Duration::from_secs(30);

const READY: Duration = Duration::from_secs(60);

/// The key whose value is a number that rises.
const KEY: &str = "number";

/// What one read was told, and what it may not be told.
struct Told {
    /// Whether it was sent while the leader stood still.
    during: bool,
    consistency: &'static str,
    /// The last number that was acknowledged before it was sent.
    at_least: u64,
    /// `None` where it was refused or not answered.
    value: Option<u64>,
}

async fn read(http: reqwest::Client, address: String, during: bool, number: u64, at_least: u64) -> Told {
    let consistency = if number.is_multiple_of(2) { "linearizable" } else { "follower" };
    let timeout = DEADLINE.as_millis();
    let url = format!("http://{address}/v1/kv/{KEY}?consistency={consistency}&timeout={timeout}");
    let value = async {
        let response = http.get(url).timeout(DEADLINE).send().await.ok()?.error_for_status().ok()?;
        response.text().await.ok()?.parse().ok()
    };
    Told { during, consistency, at_least, value: value.await }
}

/// A leader that is stopped for ten seconds while another leads and takes writes answers no read with what
/// was true before, neither those that have waited for it meanwhile nor those that come once it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leader_answers_nothing_stale() {
    let folder =
        tempfile::Builder::new().prefix("flotilla-faults-").tempdir().expect("a temporary directory");
    let options = Options {
        seed: 1,
        length: PAUSE,
        clients: 1,
        nodes: 3,
        groups: 1,
        kinds: Vec::new(),
        pace: PAUSE,
        reads: Reads::Linearizable,
        network: NetworkChoice::Auto,
        binary: tests::binary().to_owned(),
        folder: folder.path().to_owned(),
    };
    let field = Field::prepare(&options, &options.binary, folder.path()).await.expect("the harness works");
    field.start().await.expect("processes start");
    for id in field.first() {
        assert!(field.ready(id, READY).await, "n{id}: {}", field.hold(id).await.process.log_end());
    }
    let client = Client::builder().seeds(field.seeds()).deadline(DEADLINE).connect().await;
    let client = client.expect("a cluster that is ready");
    client.put(KEY, "1").await.expect("a cluster that is ready takes writes");
    let leader = field.admin.leader(1).await.expect("a group that takes writes has a leader");
    let address = field.seeds()[usize::try_from(leader - 1).expect("a handful of nodes")].clone();
    let stopped = field.hold(leader).await;

    stopped.process.signal("STOP").expect("a process of ours can be stopped");
    let (acknowledged, ends) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let writing = tokio::spawn({
        let (acknowledged, ends) = (acknowledged.clone(), ends.clone());
        async move {
            while !ends.load(Ordering::SeqCst) {
                let next = acknowledged.load(Ordering::SeqCst) + 1;
                client.put(KEY, next.to_string()).await.expect("two of three nodes take writes");
                acknowledged.store(next, Ordering::SeqCst);
            }
        }
    });
    // Each read on a connection of its own: none waits behind another.
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
    let mut reading = JoinSet::new();
    let stopped_at = Instant::now();
    let resumed = |at: Instant| at >= stopped_at + PAUSE;
    let mut at_resume = None;
    for number in 0.. {
        let now = Instant::now();
        if resumed(now) && at_resume.is_none() {
            at_resume = Some(acknowledged.load(Ordering::SeqCst));
            stopped.process.signal("CONT").expect("a process of ours can go on");
        }
        if resumed(now - AFTERWARDS) {
            break;
        }
        let at_least = acknowledged.load(Ordering::SeqCst);
        let during = at_resume.is_none();
        reading.spawn(read(http.clone(), address.clone(), during, number, at_least));
        sleep(if during { READ_PACE } else { READ_PACE_AFTERWARDS }).await;
    }
    ends.store(true, Ordering::SeqCst);
    writing.await.expect("writes are acknowledged");
    let told = reading.join_all().await;

    // Only a read that was sent after somebody else's write was acknowledged can be told something stale.
    let matters = |it: &&Told| it.at_least > 1 && it.value.is_some();
    let answered = |during| told.iter().filter(matters).filter(|it| it.during == during).count();
    println!(
        "n{leader} stood still during {} writes; of the reads after the first it answered {} that had waited, \
         {} later",
        at_resume.unwrap_or(0) - 1,
        answered(true),
        answered(false)
    );
    assert!(at_resume.is_some_and(|at_resume| at_resume > 1), "nobody else has led");
    assert!(answered(true) > 0 && answered(false) > 0, "nothing was answered that could have been stale");
    for Told { consistency, at_least, value, .. } in told {
        let Some(value) = value else { continue };
        assert!(
            value >= at_least,
            "a {consistency} read of n{leader} was told {value} after {at_least} was acknowledged"
        );
    }
}
