//! One run: a seed, from the first start to the verdict.

use crate::clients::{Workload, shown, told};
use crate::comings::Comings;
use crate::faults::Faults;
use crate::fleet::{Fleet, client_host, operator_host, walker_host};
use crate::http::{Http, Mishaps, SharedMishaps};
use crate::operator::Operator;
use crate::plan::{Plan, Stream, seed_of};
use crate::report::{Check, Report};
use crate::sentinel::Sentinel;
use crate::trace::Trace;
use crate::walkers::Walker;
use crate::wire::{Detail, Plug, Wire};
use checker::register::State;
use checker::{Core, End, History, Limits, Verdict, check};
use hyper::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long the cluster may take to be formed.
const FORMING_TIME_MAX: Duration = Duration::from_secs(60);

/// How long the cluster may take to come to rest once everything is mended.
const REST_TIME_MAX: Duration = Duration::from_secs(120);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(200);

/// How much is told of a history that is wrong: states of a key, and characters of a state or an answer.
const STATES_SHOWN: usize = 3;
const TOLD_CHARS: usize = 160;

/// As much as the main thread of a program has.
const STACK_BYTES: usize = 8 << 20;

/// Runs a plan; prints every event where it is asked to.
///
/// It has a thread of its own, whose hash maps order their keys by the seed alone: by how many others were made in a
/// thread before, too, and one that logs makes some.
///
/// # Errors
/// Where no thread or runtime can be had.
///
/// # Panics
/// Where the simulation itself does; a panic in one of its tasks is theirs.
pub fn run(plan: Plan, prints: bool) -> std::io::Result<Report> {
    let run = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        Ok(runtime.block_on(simulate(plan, prints)))
    };
    let thread = std::thread::Builder::new().name("simulation".into()).stack_size(STACK_BYTES).spawn(run)?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn simulate(plan: Plan, prints: bool) -> Report {
    let (seed, time) = (plan.seed, plan.time);
    raftstore::seed(seed_of(seed, Stream::Product, 0));
    if let Some(mutation) = plan.mutation {
        raftstore::mutation::turn_on(mutation);
    }
    let trace = Trace::new(prints);
    trace.note(format_args!("{plan:?}"));
    let fleet = Fleet::new(plan, &trace);
    let workload = Workload::new(&fleet);
    let lived = live(&fleet, &workload, time);
    lived.await;
    if !fleet.violations.any() {
        match check(&workload.history(), &Limits::default()) {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable(failure) => {
                let key = String::from_utf8_lossy(&failure.key).into_owned();
                fleet
                    .violations
                    .add(Check::Linearizability, unexplained(&workload.history(), &key, &failure.core));
            }
            Verdict::Unknown(exceeded) => {
                fleet.violations.add(Check::Linearizability, format!("the check was given up: {exceeded}"))
            }
        }
    }
    let ((hash, events), (operations, answered)) = (trace.hash(), workload.counts());
    Report {
        seed,
        trace_hash: format!("{hash:016x}"),
        events,
        operations,
        answered,
        faults: fleet.tally.counts(),
        simulated_ms: trace.now_ns() / 1_000_000,
        violations: fleet.violations.list(),
    }
}

/// Where a key's history goes wrong: the call that does not fit, and what the key may hold before it.
fn unexplained(history: &History, key: &str, core: &Core<State>) -> String {
    let short = |text: String| text.chars().take(TOLD_CHARS).collect::<String>();
    let state = |state: &State| match state {
        State::Absent => "nothing".to_owned(),
        State::Present { value, version } => {
            let value = value.as_deref().map(String::from_utf8_lossy);
            short(format!("version {version} {}", value.unwrap_or_default()))
        }
    };
    let calls = history.calls();
    let stuck = &calls[core.stuck];
    let end = match &stuck.end {
        End::Answered(answer) => told(answer),
        other => format!("{other:?}"),
    };
    let call = short(format!("{} told {end}", shown(stuck.operation)));
    let states: Vec<String> = core.states.iter().take(STATES_SHOWN).map(state).collect();
    let count = core.prefix.len();
    format!("key {key}: after {count} calls it holds {}; that does not explain {call}", states.join(" or "))
}

fn caller(fleet: &Fleet, host: &str, mishaps: &SharedMishaps) -> Http {
    let network = fleet.network.host(host);
    let wire = Wire::new(network, host, &Plug::default(), &fleet.trace, Detail::Length);
    Http::new(Arc::new(wire), mishaps.clone(), fleet.violations.clone())
}

/// From the first start until the last read.
async fn live(fleet: &Arc<Fleet>, workload: &Arc<Workload>, time: Duration) {
    let mishaps = SharedMishaps::default();
    let operator = Operator::new(fleet, caller(fleet, &operator_host(), &SharedMishaps::default()));
    for node in fleet.nodes() {
        fleet.start_or_lose(node).await;
    }
    let sentinel = Sentinel::new(fleet);
    let mut watchers = JoinSet::new();
    watchers.spawn(sentinel.clone().run());
    watchers.spawn(fleet.clone().monitor());
    if let Err(missing) = ready(fleet, &operator, FORMING_TIME_MAX).await {
        return fleet.violations.add(Check::Rest, format!("the cluster is not formed: {missing}"));
    }
    operator.set_dead_after().await;
    let mut callers = JoinSet::new();
    let calls_each = fleet.plan.calls;
    for number in 1..=fleet.plan.clients {
        let (workload, http) = (workload.clone(), caller(fleet, &client_host(number), &mishaps));
        callers.spawn(async move {
            let client = workload.connect(number, http).await;
            let mut calls = JoinSet::new();
            if number == 1 {
                calls.spawn(workload.clone().weigh_down(client.clone()));
            }
            for call in 0..calls_each {
                calls.spawn(workload.clone().call_on(client.clone(), number, call));
            }
            while calls.join_next().await.is_some() {}
        });
    }
    for number in 1..=fleet.plan.walkers {
        let http = caller(fleet, &walker_host(number), &SharedMishaps::default());
        callers.spawn(Walker::new(fleet, workload, http, number).run());
    }
    let troubles = async {
        let faults = Faults::new(fleet, &mishaps).run(time);
        let comings = Comings::new(fleet, &operator).run(time);
        tokio::join!(biased; faults, operator.clone().run(time), comings);
    };
    tokio::select! {
        biased;
        () = violated(fleet) => return,
        () = troubles => {}
    }
    *crate::lock(&mishaps) = Mishaps::default();
    workload.end();
    fleet.trace.note(format_args!("everything is mended"));
    let ended = async { while callers.join_next().await.is_some() {} };
    tokio::select! {
        biased;
        () = violated(fleet) => return,
        () = ended => {}
    }
    if let Err(unrest) = rest(fleet, &operator, &sentinel).await {
        return fleet.violations.add(Check::Rest, format!("the cluster does not come to rest: {unrest}"));
    }
    let client = workload.connect(1 << 20, caller(fleet, &client_host(1), &mishaps)).await;
    if !workload.read_all(&client).await {
        fleet.violations.add(Check::Rest, "a key cannot be read though everything is mended");
    }
}

/// Ends once something was seen that must not be.
async fn violated(fleet: &Fleet) {
    while !fleet.violations.any() {
        sleep(LOOK).await;
    }
}

/// Waits until all nodes that can run do and say that they are ready.
async fn ready(fleet: &Fleet, operator: &Operator, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    loop {
        let mut missing = None;
        for node in fleet.nodes().into_iter().filter(|node| !fleet.lost().contains(node)) {
            match operator.ask(node, Method::GET, "/readyz", String::new()).await {
                Some((200, _)) => {}
                Some((status, body)) => {
                    missing = Some(format!("n{node} says {status}: {}", String::from_utf8_lossy(&body)));
                }
                None => missing = Some(format!("n{node} does not answer")),
            }
        }
        match missing {
            None => return Ok(()),
            Some(missing) if Instant::now() >= until => return Err(missing),
            Some(_) => sleep(LOOK).await,
        }
    }
}

/// Waits until nobody has anything left to do: all nodes ready, all shards where they are to be, all replicas
/// even.
async fn rest(fleet: &Fleet, operator: &Operator, sentinel: &Sentinel) -> Result<(), String> {
    let until = Instant::now() + REST_TIME_MAX;
    let left = || until.saturating_duration_since(Instant::now());
    let mut resumed = false;
    loop {
        // Whoever was being buried meanwhile.
        for node in fleet.down() {
            fleet.start_or_lose(node).await;
        }
        ready(fleet, operator, left()).await?;
        // Once: each word is an epoch of the map.
        resumed = resumed || timeout(left(), operator.resume()).await.unwrap_or(false);
        let mut unrest = (!resumed).then(|| "moves cannot be resumed".to_owned());
        if let Some(&node) = fleet.up().first() {
            match operator.map(node).await {
                None => unrest = Some(format!("n{node} has no map")),
                Some(map) => {
                    let moves = map["moves"].as_array().map_or(0, Vec::len);
                    if moves > 0 {
                        unrest = Some(format!("{moves} moves are under way: {}", map["moves"]));
                    }
                }
            }
        }
        let unrest = unrest.or_else(|| sentinel.unrest());
        if let Some(unrest) = &unrest {
            fleet.trace.note(format_args!("unrest: {unrest}"));
        }
        match unrest {
            None if fleet.busy() == 0 && fleet.down().is_empty() => return Ok(()),
            _ if fleet.violations.any() => return Ok(()),
            unrest if Instant::now() >= until => {
                return Err(unrest.unwrap_or_else(|| "nodes are being started".to_owned()));
            }
            _ => sleep(LOOK).await,
        }
    }
}
