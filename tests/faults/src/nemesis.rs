//! Inflicts what the schedule says. Each fault is a task that takes what it needs, does its harm, waits, and
//! leaves everything in order; a fault that finds nothing free is left out, and said so.

use crate::admin::Changed;
use crate::clock::Pace;
use crate::disk::Trouble;
use crate::field::Field;
use crate::node::Node;
use crate::schedule::{Fault, Kind, Schedule};
use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A process that was told to stop takes no longer, unless something is wrong with it.
const STOP: Duration = Duration::from_secs(30);

/// How long a node that was started is waited for before the next one's turn.
const READY: Duration = Duration::from_secs(10);

/// How long a change of members is pursued.
const MEMBERSHIP: Duration = Duration::from_secs(60);

/// How much later than planned a fault may end, for one that is to hit all nodes.
const LATE: Duration = Duration::from_secs(2);

/// How long after its disk works again a node may still end of an error that it met before: it gives itself two seconds
/// to close. One that is ready after the first of these times has met none.
const NOTICED: Duration = Duration::from_millis(500);
const CLOSED: Duration = Duration::from_secs(5);

/// How often a full disk is filled again, and a change of members looked at.
const PACE: Duration = Duration::from_millis(200);

/// How many shards are moved at once.
const SHARDS: u64 = 4;

/// The clock's jumps, in seconds.
const JUMP: i32 = 10;

/// The clocks' drift, in thousandths.
const DRIFT: i32 = 10;

/// The kinds that can be inflicted here.
pub(crate) fn possible(field: &Field, kinds: &[Kind]) -> Vec<Kind> {
    let capabilities = &field.capabilities;
    let can = |kind: &Kind| match kind {
        Kind::ClockJump | Kind::ClockDrift | Kind::MonotonicJump => capabilities.shim.is_some(),
        Kind::WriteError | Kind::SyncError | Kind::SlowDisk => capabilities.shim.is_some(),
        Kind::DiskFull => capabilities.mounts || capabilities.shim.is_some(),
        _ => true,
    };
    kinds.iter().copied().filter(can).collect()
}

/// Inflicts the whole schedule, and returns when all is over.
///
/// # Errors
/// Where the harness itself fails.
pub(crate) async fn run(field: &Arc<Field>, schedule: &Schedule) -> Result<()> {
    let began = Instant::now();
    let mut inflicting = JoinSet::new();
    for fault in &schedule.faults {
        let until = began + fault.at;
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                Some(ended) = inflicting.join_next() => ended??,
            }
        }
        inflicting.spawn(inflict(field.clone(), fault.clone()));
    }
    while let Some(ended) = inflicting.join_next().await {
        ended??;
    }
    Ok(())
}

async fn inflict(field: Arc<Field>, fault: Fault) -> Result<()> {
    let inflicted = match fault.kind {
        Kind::Kill | Kind::Absence => kill(&field, &fault).await?,
        Kind::Pause => pause(&field, &fault).await?,
        Kind::Terminate => terminate(&field, &fault).await?,
        Kind::RollingRestart => rolling_restart(&field).await?,
        Kind::KillAll => kill_all(&field, &fault).await?,
        Kind::Halves | Kind::Isolation | Kind::OneWay | Kind::Loss | Kind::Delay => {
            links(&field, &fault).await?
        }
        Kind::ClockJump => clock_jump(&field, &fault).await?,
        Kind::ClockDrift | Kind::MonotonicJump => other_time(&field, &fault).await?,
        Kind::DiskFull | Kind::WriteError | Kind::SyncError | Kind::SlowDisk => disk(&field, &fault).await?,
        Kind::Membership => membership(&field).await?,
        Kind::ShardMoves => shard_moves(&field, &fault).await?,
        Kind::Groups => groups(&field, &fault).await?,
    };
    if inflicted {
        field.count(fault.kind.name());
    } else {
        field.say(&format!("{}: left out, nothing is free for it", fault.kind));
    }
    Ok(())
}

async fn kill(field: &Field, fault: &Fault) -> Result<bool> {
    let Some(mut node) = field.seize(fault.victim).await else { return Ok(false) };
    field
        .say(&format!("{} ({}): SIGKILL to n{} for {:?}", fault.kind, fault.victim, node.id, fault.duration));
    node.process.begin_kill()?;
    node.process.wait(STOP).await?;
    sleep(fault.duration).await;
    node.start()?;
    field.say(&format!("{}: n{} is started", fault.kind, node.id));
    Ok(true)
}

async fn pause(field: &Field, fault: &Fault) -> Result<bool> {
    let Some(node) = field.seize(fault.victim).await else { return Ok(false) };
    field.say(&format!("pause ({}): SIGSTOP to n{} for {:?}", fault.victim, node.id, fault.duration));
    node.process.signal("STOP")?;
    sleep(fault.duration).await;
    node.process.signal("CONT")?;
    field.say(&format!("pause: SIGCONT to n{}", node.id));
    Ok(true)
}

/// SIGTERM, and waits for the end; one that does not come is a finding.
async fn stop(field: &Field, node: &mut Node) -> Result<()> {
    node.process.signal("TERM")?;
    let began = Instant::now();
    match node.process.wait(STOP).await? {
        Some(status) => {
            field.say(&format!("n{} ended with {status} after {:.1?}", node.id, began.elapsed()));
        }
        None => {
            field.find(&format!("n{} did not end within {STOP:?} of SIGTERM", node.id));
            node.process.begin_kill()?;
            node.process.wait(STOP).await?;
        }
    }
    Ok(())
}

async fn terminate(field: &Field, fault: &Fault) -> Result<bool> {
    let Some(mut node) = field.seize(fault.victim).await else { return Ok(false) };
    field.say(&format!("terminate ({}): SIGTERM to n{}", fault.victim, node.id));
    stop(field, &mut node).await?;
    sleep(fault.duration).await;
    node.start()?;
    field.say(&format!("terminate: n{} is started", node.id));
    Ok(true)
}

async fn rolling_restart(field: &Field) -> Result<bool> {
    for id in field.first() {
        let mut node = field.hold(id).await;
        if !node.process.is_running() {
            continue;
        }
        field.say(&format!("rolling-restart: SIGTERM to n{id}"));
        stop(field, &mut node).await?;
        node.start()?;
        field.ready(id, READY).await;
    }
    Ok(true)
}

async fn kill_all(field: &Field, fault: &Fault) -> Result<bool> {
    let mut nodes: Vec<OwnedMutexGuard<Node>> = Vec::new();
    for id in field.first().chain([field.spare()]) {
        // Nothing else is under way by the schedule; what is late is given a moment.
        let held = timeout(LATE, field.hold(id)).await;
        nodes.extend(held.ok().filter(|node| node.process.is_running()));
    }
    let names: Vec<String> = nodes.iter().map(|node| format!("n{}", node.id)).collect();
    field.say(&format!("kill-all: SIGKILL to {} for {:?}", names.join(" "), fault.duration));
    // All get the signal before any is waited for.
    for node in &mut nodes {
        node.process.begin_kill()?;
    }
    for node in &mut nodes {
        node.process.wait(STOP).await?;
    }
    sleep(fault.duration).await;
    for node in &mut nodes {
        node.start()?;
    }
    field.say("kill-all: all are started");
    Ok(!nodes.is_empty())
}

/// The directed links among nodes 1 to `nodes` that a partition around `victim` cuts.
fn cut_links(nodes: u64, fault: &Fault, victim: u64) -> Vec<(u64, u64)> {
    let is_of_its_side = |node: u64| match fault.kind {
        Kind::Halves => node == victim || node == victim % nodes + 1,
        _ => node == victim,
    };
    let pairs = (1..=nodes).flat_map(|from| (1..=nodes).map(move |to| (from, to)));
    let is_cut = |(from, to): &(u64, u64)| {
        let is_between = is_of_its_side(*from) != is_of_its_side(*to);
        // One way, either what the victim says is lost or what is said to it.
        let is_kept = fault.kind == Kind::OneWay && is_of_its_side(*from) == fault.choice.is_multiple_of(2);
        is_between && !is_kept
    };
    pairs.filter(is_cut).collect()
}

async fn links(field: &Field, fault: &Fault) -> Result<bool> {
    let victim = field.resolve(fault.victim).await;
    let Ok(network) = field.network.clone().try_lock_owned() else { return Ok(false) };
    let everybody: Vec<u64> = field.first().chain([field.spare()]).collect();
    let nodes = if fault.choice.is_multiple_of(3) { everybody } else { vec![victim] };
    let number = u32::try_from(fault.choice % 1_000)?;
    match fault.kind {
        Kind::Loss => {
            let percent = 5 + number % 26;
            field.say(&format!("loss: {percent} % to {nodes:?} for {:?}", fault.duration));
            network.lose(&nodes, percent)?;
        }
        Kind::Delay => {
            let milliseconds = 20 + number % 181;
            field.say(&format!("delay: {milliseconds} ms around {nodes:?} for {:?}", fault.duration));
            network.delay(&nodes, milliseconds)?;
        }
        _ => {
            let links = cut_links(field.spare(), fault, victim);
            let shown: Vec<String> = links.iter().map(|(from, to)| format!("{from}→{to}")).collect();
            let (kind, victim) = (fault.kind, fault.victim);
            field.say(&format!("{kind} ({victim}): cut {} for {:?}", shown.join(" "), fault.duration));
            links.iter().try_for_each(|(from, to)| network.cut(*from, *to))?;
        }
    }
    sleep(fault.duration).await;
    network.heal()?;
    field.say(&format!("{}: the network is healed", fault.kind));
    Ok(true)
}

async fn clock_jump(field: &Field, fault: &Fault) -> Result<bool> {
    let Some(node) = field.seize(fault.victim).await else { return Ok(false) };
    let Some(clock) = &node.clock else { return Ok(false) };
    let seconds = if fault.choice.is_multiple_of(2) { JUMP } else { -JUMP };
    let (id, lasts) = (node.id, fault.duration);
    field.say(&format!("clock-jump ({}): {seconds:+} s on n{id} for {lasts:?}", fault.victim));
    clock.set_wall(seconds)?;
    sleep(fault.duration).await;
    clock.set_right()?;
    field.say(&format!("clock-jump: n{id} is right again"));
    Ok(true)
}

/// Lets both clocks of a process jump, or starts one whose clocks drift.
async fn other_time(field: &Field, fault: &Fault) -> Result<bool> {
    let Some(mut node) = field.seize(fault.victim).await else { return Ok(false) };
    let sign: i32 = if fault.choice.is_multiple_of(2) { 1 } else { -1 };
    let (id, kind, lasts) = (node.id, fault.kind, fault.duration);
    let jumps = kind == Kind::MonotonicJump;
    let how = if jumps { format!("{:+} s", sign * JUMP) } else { format!("{:+} ‰", sign * DRIFT) };
    field.say(&format!("{kind} ({}): {how} on n{id} for {lasts:?}", fault.victim));
    match &node.clock {
        Some(clock) if jumps => clock.set_both(sign * JUMP)?,
        _ => {
            stop(field, &mut node).await?;
            node.start_at(Pace::Drifting(sign * DRIFT))?;
        }
    }
    sleep(fault.duration).await;
    // Whatever it did meanwhile: it goes on with true clocks.
    match node.process.ended()? {
        Some(status) => {
            field.find(&format!("n{id} ended by itself with {status}:\n{}", node.process.log_end()));
        }
        None => stop(field, &mut node).await?,
    }
    node.start()?;
    field.say(&format!("{kind}: n{id} is right again"));
    Ok(true)
}

async fn disk(field: &Field, fault: &Fault) -> Result<bool> {
    let Some(mut node) = field.seize(fault.victim).await else { return Ok(false) };
    let (id, kind) = (node.id, fault.kind);
    field.say(&format!("{kind} ({}): on n{id} for {:?}", fault.victim, fault.duration));
    let until = Instant::now() + fault.duration;
    match kind {
        Kind::WriteError => node.disk.fail(Trouble::Write)?,
        Kind::SyncError => node.disk.fail(Trouble::Sync)?,
        Kind::SlowDisk => node.disk.fail(Trouble::Slow)?,
        _ => {}
    }
    let mut ended = None;
    while Instant::now() < until {
        if kind == Kind::DiskFull {
            node.disk.fill()?;
        }
        if ended.is_none() {
            ended = node.process.ended()?;
        }
        sleep(PACE).await;
    }
    node.disk.heal()?;
    let healed = Instant::now();
    while ended.is_none() && kind != Kind::SlowDisk && healed.elapsed() < CLOSED {
        sleep(PACE).await;
        ended = node.process.ended()?;
        if healed.elapsed() > NOTICED && field.admin.look(id, "/readyz").await.is_some() {
            break;
        }
    }
    let Some(status) = ended else {
        field.say(&format!("{kind}: n{id} has gone on, and its disk works again"));
        return Ok(true);
    };
    let why = node.process.log_end();
    let why = why.lines().last().unwrap_or_default();
    field.say(&format!("{kind}: n{id} had ended with {status} ({why}), and is started"));
    if kind == Kind::SlowDisk || status.code() != Some(1) {
        field.find(&format!("n{id} ended with {status} of {kind}:\n{}", node.process.log_end()));
    }
    node.start()?;
    Ok(true)
}

async fn membership(field: &Field) -> Result<bool> {
    let Ok(_members) = field.members.try_lock() else { return Ok(false) };
    let Some(mut node) = field.try_hold(field.spare()) else { return Ok(false) };
    let id = node.id;
    if !node.wanted {
        return join(field, &mut node).await;
    }
    field.say(&format!("membership: n{id} is drained"));
    let until = Instant::now() + MEMBERSHIP;
    let mut drained = false;
    while Instant::now() < until {
        if !drained {
            let drain = format!("/v1/cluster/nodes/{id}/drain");
            drained = matches!(field.admin.change(Method::POST, &drain, "").await?, Changed::Done(_));
        }
        let remove = format!("/v1/cluster/nodes/{id}");
        // Done, or done earlier though nobody said so.
        let removed = match field.admin.change(Method::DELETE, &remove, "").await? {
            Changed::Done(_) => true,
            Changed::Refused(code) => code == "unknown_node",
            Changed::Unknown => false,
        };
        if removed {
            // It ends by itself once it hears of it; where it does not hear, it is of no use any more.
            let ended = node.process.wait(STOP).await?;
            field.say(&format!("membership: n{id} is removed, and ended with {ended:?}"));
            node.process.begin_kill()?;
            node.process.wait(STOP).await?;
            node.wanted = false;
            node.disk.wipe()?;
            return Ok(true);
        }
        sleep(PACE).await;
    }
    field.say(&format!("membership: n{id} could not be removed in time, and stays"));
    field.admin.change(Method::POST, &format!("/v1/cluster/nodes/{id}/undrain"), "").await?;
    Ok(true)
}

/// The spare joins; where the others cannot be reached it ends, and is started again.
async fn join(field: &Field, node: &mut Node) -> Result<bool> {
    let id = node.id;
    field.say(&format!("membership: n{id} joins"));
    node.disk.wipe()?;
    let until = Instant::now() + MEMBERSHIP;
    while Instant::now() < until {
        if node.process.ended()?.is_some() || !node.process.is_running() {
            node.start()?;
        }
        if field.ready(id, Duration::from_secs(2)).await {
            field.say(&format!("membership: n{id} has joined"));
            return Ok(true);
        }
    }
    field.say(&format!("membership: n{id} could not join in time: {}", node.process.log_end()));
    Ok(true)
}

/// The groups that serve, by the newest map.
async fn serving_groups(field: &Field) -> Vec<u64> {
    let Some(map) = field.admin.map().await else { return Vec::new() };
    let groups = map["groups"].as_array().cloned().unwrap_or_default();
    let serves = |group: &&Value| group["state"] == "serving" && group["id"] != 0;
    groups.iter().filter(serves).filter_map(|group| group["id"].as_u64()).collect()
}

async fn shard_moves(field: &Field, fault: &Fault) -> Result<bool> {
    let groups = serving_groups(field).await;
    if groups.len() < 2 {
        return Ok(false);
    }
    let mut moved = Vec::new();
    for number in 0..SHARDS {
        let shard = fault.choice.wrapping_add(number * 67) % 256;
        let to = groups[usize::try_from(fault.choice.wrapping_add(number) % groups.len() as u64)?];
        let path = format!("/v1/cluster/shards/{shard}/move");
        let changed = field.admin.change(Method::POST, &path, &json!({ "to": to }).to_string()).await?;
        moved.push(match changed {
            Changed::Done(_) => format!("s{shard} to g{to}"),
            Changed::Refused(code) => format!("s{shard} to g{to}: {code}"),
            Changed::Unknown => format!("s{shard} to g{to}: unknown"),
        });
    }
    field.say(&format!("shard-moves: {}", moved.join(", ")));
    Ok(true)
}

async fn groups(field: &Field, fault: &Fault) -> Result<bool> {
    let Ok(_groups) = field.groups.try_lock() else { return Ok(false) };
    let before = serving_groups(field).await;
    if before.is_empty() {
        return Ok(false);
    }
    let added = field.admin.change(Method::POST, "/v1/cluster/groups", r#"{"count":1}"#).await?;
    field.say(&format!("groups: one is added to {before:?}: {added:?}"));
    sleep(fault.duration).await;
    // Whatever the answer was: what is there now and was not before is removed again.
    for group in serving_groups(field).await {
        if !before.contains(&group) {
            let path = format!("/v1/cluster/groups/{group}");
            let removed = field.admin.change(Method::DELETE, &path, "").await?;
            field.say(&format!("groups: g{group} is removed: {removed:?}"));
        }
    }
    Ok(true)
}

/// Sets everything right that a fault may have left behind, and starts whoever is to run.
///
/// # Errors
/// Where the harness itself fails.
pub(crate) async fn heal(field: &Field) -> Result<()> {
    field.network.lock().await.heal()?;
    for id in field.first().chain([field.spare()]) {
        let mut node = field.hold(id).await;
        node.disk.heal()?;
        if let Some(clock) = &node.clock {
            clock.set_right()?;
        }
        if node.wanted && !node.process.is_running() {
            node.start()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Victim;

    /// A victim is cut off in both directions or in one; halves are two nodes and the others.
    #[test]
    fn partitions_cut_what_they_say() {
        let cut = |kind, choice| {
            let (at, duration) = (Duration::ZERO, Duration::ZERO);
            cut_links(3, &Fault { at, kind, victim: Victim::Node(2), duration, choice }, 2)
        };
        assert_eq!(cut(Kind::Isolation, 0), [(1, 2), (2, 1), (2, 3), (3, 2)]);
        assert_eq!(cut(Kind::OneWay, 0), [(1, 2), (3, 2)]);
        assert_eq!(cut(Kind::OneWay, 1), [(2, 1), (2, 3)]);
        assert_eq!(cut(Kind::Halves, 0), [(1, 2), (1, 3), (2, 1), (3, 1)]);
    }
}
