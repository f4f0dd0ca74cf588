//! A model of three nodes on one disk whose writers overwrite all the time, in which the rules of this module and
//! of [`crate::flow_control`] were chosen: why the bound holds, and what it costs.
//!
//! The disk's bandwidth is shared fairly by the three logs and the copies that are being made. The writers take what
//! the leader lets in, up to a rate of their own; an entry counts once two of the three have it. Records are chosen
//! evenly, or always among those that are copied already: the worst that writers can do.
//!
//! The third node may have a slow disk of its own. It waits for its own copies and falls behind; where the leader's log
//! has left it behind, it is sent the leader's snapshot, loads it, and goes on with the log from there.

use super::*;
use crate::flow_control::Allowance;

const MIB: u64 = 1 << 20;
const DATA: f64 = 1024.0 * MIB as f64;
const TICK_S: f64 = 0.01;
/// What a leader proposes ahead of what is committed.
const IN_FLIGHT: f64 = 4.0 * MIB as f64;
const COPY_BYTES_PER_SECOND: f64 = 256.0 * MIB as f64;
/// What a network carries of a snapshot, and the pace at which one is loaded.
const SEND_BYTES_PER_SECOND: f64 = 200.0 * MIB as f64;
const LOAD_BYTES_PER_SECOND: f64 = 200.0 * MIB as f64;

#[derive(Clone, Copy, Debug)]
struct Load {
    disk_mib_s: u64,
    writes_mib_s: u64,
    /// Whether all that is written has to be copied again.
    worst: bool,
    /// The third node's disk, where it has its own.
    slow_mib_s: Option<u64>,
}

struct Rules {
    /// The log that makes a snapshot due, by the last snapshot's size.
    due: fn(u64) -> u64,
    flow_control: bool,
    /// Whether a copy gives way to a snapshot that comes in.
    gives_way: bool,
    /// Whether followers hold the log by what is behind each of them, or all or nothing by all that there is.
    holds_by_each: bool,
    /// Whether a snapshot that is still being sent is withdrawn where its room is needed.
    withdraws: bool,
}

/// The rules in use.
const RULES: Rules = Rules { due, flow_control: true, gives_way: true, holds_by_each: true, withdraws: true };

#[derive(Default)]
struct Node {
    /// Bytes that were ever written to the log, those that the last snapshot holds, and those that are purged.
    log: f64,
    covered: f64,
    purged: f64,
    last: f64,
    copy: Option<Copy>,
    /// A snapshot before the last that is still being sent.
    sent: f64,
    incoming: Option<Incoming>,
    /// Snapshots that came in.
    received: u64,
    peak: f64,
}

/// A snapshot on its way from the leader: received first, then loaded.
struct Incoming {
    bytes: f64,
    upto: f64,
    received: f64,
    loaded: f64,
}

struct Copy {
    allowance: Allowance,
    reached: f64,
    dirty: f64,
    copied: f64,
}

impl Copy {
    fn remaining(&self) -> f64 {
        DATA - self.reached + self.dirty
    }
}

impl Node {
    fn log_bytes(&self) -> u64 {
        (self.log - self.purged) as u64
    }

    fn is_full(&self, rules: &Rules) -> bool {
        let limit = self.copy.as_ref().map_or(u64::MAX, |copy| copy.allowance.log_bytes_max());
        rules.flow_control && self.log_bytes() >= limit
    }

    fn write(&mut self, bytes: f64, worst: bool) {
        self.log += bytes;
        if let Some(copy) = &mut self.copy {
            let clean = copy.reached - copy.dirty;
            copy.dirty += if worst { bytes.min(clean) } else { bytes * clean / DATA };
        }
    }

    /// Copies `bytes`, or begins where a snapshot is due.
    fn copy(&mut self, bytes: f64, rules: &Rules) {
        let log_bytes = self.log_bytes();
        if let Some(copy) = &mut self.copy {
            copy.copied += bytes;
            let first = bytes.min(DATA - copy.reached);
            copy.reached += first;
            copy.dirty -= (bytes - first).min(copy.dirty);
            copy.allowance.copied(bytes as u64, copy.remaining() as u64, log_bytes);
        } else if self.incoming.is_none() && self.log - self.covered >= (rules.due)(self.last as u64) as f64 {
            let bytes_max =
                disk_bytes_max(&RaftConfig::default(), DATA as u64).saturating_sub(self.last as u64);
            let allowance = Allowance::new(bytes_max, DATA as u64, log_bytes);
            self.copy = Some(Copy { allowance, reached: 0.0, dirty: 0.0, copied: 0.0 });
        }
        let copied = self.copy.as_ref().map_or(0.0, |copy| copy.copied);
        let received = self.incoming.as_ref().map_or(0.0, |incoming| incoming.received);
        self.peak = self.peak.max(self.last + copied + received + self.sent + self.log - self.purged);
        if let Some(copy) = self.copy.take_if(|copy| copy.remaining() < 256.0 * 1024.0) {
            self.last = copy.copied;
            self.covered = self.log;
        }
    }

    /// Receives `bytes` of a snapshot, or loads what has come.
    fn take_in(&mut self, bytes: f64) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.received < incoming.bytes {
            incoming.received += bytes;
            if incoming.received >= incoming.bytes {
                (self.last, self.covered, self.log) = (incoming.bytes, incoming.upto, incoming.upto);
                (self.purged, incoming.received) = (self.covered, 0.0);
                incoming.bytes = 0.0;
            }
            return;
        }
        incoming.loaded += LOAD_BYTES_PER_SECOND * TICK_S;
        if incoming.loaded >= self.last {
            self.incoming = None;
            self.received += 1;
        }
    }

    /// The log that is behind a follower is not purged, unless that is too much.
    fn holds(&self, follower: &Node, rules: &Rules) -> Option<f64> {
        let held_bytes_max = held_bytes_max(&RaftConfig::default(), self.last as u64, DATA as u64);
        let needed = follower.incoming.as_ref().map_or(follower.log, |incoming| incoming.upto);
        let held = if rules.holds_by_each { self.log - needed } else { self.log - self.purged };
        (held < held_bytes_max as f64).then_some(needed)
    }
}

/// Purges what may be, and sends those a snapshot whom the leader's log has left behind.
fn purge([leader, followers @ ..]: &mut [Node; 3], rules: &Rules) {
    // A compactor that waits for its copy purges nothing.
    if leader.copy.is_none() {
        let held = followers.iter().filter_map(|follower| leader.holds(follower, rules));
        leader.purged = leader.purged.max(held.fold(leader.covered, f64::min));
    }
    leader.sent = 0.0;
    for follower in followers {
        follower.purged = follower.covered;
        let (copies, covered, purged) = (leader.copy.is_some(), leader.covered, leader.purged);
        let withdrawn = |incoming: &Incoming| rules.withdraws && copies && incoming.upto < purged;
        follower.incoming.take_if(|incoming| incoming.received < incoming.bytes && withdrawn(incoming));
        let older = follower.incoming.as_ref().filter(|incoming| incoming.upto < covered);
        leader.sent = older.map_or(leader.sent, |incoming| leader.sent.max(incoming.bytes));
        if follower.log < leader.purged && follower.incoming.is_none() {
            let (bytes, upto) = (leader.last, leader.covered);
            follower.incoming = Some(Incoming { bytes, upto, received: 0.0, loaded: 0.0 });
            follower.copy.take_if(|_| rules.gives_way);
        }
    }
}

#[derive(Debug)]
struct Outcome {
    /// Of all nodes, and of the third.
    peak_mib: u64,
    third_mib: u64,
    /// Committed bytes a second over all, and in the slowest second after the first ten.
    mean_mib_s: f64,
    least_mib_s: f64,
    /// How many snapshots the third node was sent.
    received: u64,
}

/// Fills the bandwidth fairly: nobody gets more than it demands.
fn share<const N: usize>(demands: [f64; N], capacity: f64) -> [f64; N] {
    let (mut left, mut shares) = (capacity, [0.0; N]);
    let mut order = std::array::from_fn::<usize, N, _>(|who| who);
    order.sort_by(|&one, &other| demands[one].total_cmp(&demands[other]));
    for (place, &who) in order.iter().enumerate() {
        shares[who] = demands[who].min(left / (N - place) as f64);
        left -= shares[who];
    }
    shares
}

/// The same with a disk of its own for the third node, where it has one.
fn share_disks(mut demands: [f64; 6], load: Load) -> [f64; 6] {
    let capacity = |mib_s: u64| mib_s as f64 * MIB as f64 * TICK_S;
    let Some(slow) = load.slow_mib_s else { return share(demands, capacity(load.disk_mib_s)) };
    let own = share([demands[2], demands[5]], capacity(slow));
    (demands[2], demands[5]) = (0.0, 0.0);
    let mut shares = share(demands, capacity(load.disk_mib_s));
    (shares[2], shares[5]) = (own[0], own[1]);
    shares
}

/// Writes twelve times the data.
fn run(load: Load, rules: &Rules) -> Outcome {
    let mut nodes: [Node; 3] = Default::default();
    // Their turns, as they stand after the first snapshots.
    for (place, node) in nodes.iter_mut().enumerate() {
        node.last = DATA;
        node.covered = -(place as f64) * DATA / 6.0;
        node.purged = node.covered;
    }
    let writes = load.writes_mib_s as f64 * MIB as f64;
    let committed = |nodes: &[Node; 3]| {
        let mut logs = nodes.each_ref().map(|node| node.log);
        logs.sort_by(f64::total_cmp);
        logs[1]
    };
    let (mut ticks, mut second, mut least) = (0_u64, 0.0, f64::MAX);
    while committed(&nodes) < 12.0 * DATA {
        let (leader, ahead) = (nodes[0].log, committed(&nodes) + IN_FLIGHT);
        let mut demands = [0.0; 6];
        for (place, node) in nodes.iter().enumerate() {
            let wanted = if place == 0 { (writes * TICK_S).min(ahead - leader) } else { leader - node.log };
            let waits = node.is_full(rules) || node.incoming.is_some();
            demands[place] = if waits { 0.0 } else { wanted.max(0.0) };
            demands[3 + place] = if node.copy.is_some() { COPY_BYTES_PER_SECOND * TICK_S } else { 0.0 };
            if let Some(incoming) = &node.incoming {
                let left = incoming.bytes - incoming.received;
                demands[3 + place] += left.min(SEND_BYTES_PER_SECOND * TICK_S);
            }
        }
        let shares = share_disks(demands, load);
        for (place, node) in nodes.iter_mut().enumerate() {
            node.write(shares[place], load.worst);
            // Only without giving way are there both, and then they share.
            let both = if node.copy.is_some() && node.incoming.is_some() { 2.0 } else { 1.0 };
            node.copy(shares[3 + place] / both, rules);
            node.take_in(shares[3 + place] / both);
        }
        purge(&mut nodes, rules);
        ticks += 1;
        if ticks.is_multiple_of(100) {
            if ticks > 1_000 {
                least = least.min(committed(&nodes) - second);
            }
            second = committed(&nodes);
        }
    }
    let peak = nodes.iter().map(|node| node.peak).fold(0.0, f64::max);
    let mean = committed(&nodes) / (ticks as f64 * TICK_S);
    let mib = MIB as f64;
    Outcome {
        peak_mib: (peak / mib) as u64,
        third_mib: (nodes[2].peak / mib) as u64,
        mean_mib_s: mean / mib,
        least_mib_s: least / mib,
        received: nodes[2].received,
    }
}

/// The rule in use.
fn due(last_bytes: u64) -> u64 {
    due_bytes(&RaftConfig::default(), last_bytes, DATA as u64)
}

/// The same, with room for a copy of so many eighths of the data.
fn due_with_room<const EIGHTHS: u64>(last_bytes: u64) -> u64 {
    let (config, data_bytes) = (RaftConfig::default(), DATA as u64);
    let room = room(&config, last_bytes, data_bytes, data_bytes / 8 * EIGHTHS);
    room.min(replayed_bytes_max(last_bytes, data_bytes)).max(data_bytes / LEAST_DUE_SHARE)
}

fn bound_mib() -> u64 {
    disk_bytes_max(&RaftConfig::default(), DATA as u64) / MIB
}

/// However fast the disks and the writers, and whichever records they choose, log and snapshots stay within the
/// bound on every node, but for what is let in at once; also on a follower whose own disk is slow, and that is sent one
/// snapshot after another. And the writers never stop: there is no second in which they get less than an eighth of
/// what the disk could carry of logs alone.
#[test]
fn the_bound_holds_whatever_the_load() {
    for (disk_mib_s, writes_mib_s) in [(100, 25), (100, 100), (200, 30), (400, 100), (800, 100)] {
        for (worst, slow_mib_s) in [false, true]
            .into_iter()
            .flat_map(|worst| [None, Some(20), Some(60), Some(100)].map(|slow| (worst, slow)))
        {
            let load = Load { disk_mib_s, writes_mib_s, worst, slow_mib_s };
            let outcome = run(load, &RULES);
            assert!(outcome.peak_mib <= bound_mib() + 8, "{load:?}: {outcome:?}");
            let could = (disk_mib_s as f64 / 3.0).min(writes_mib_s as f64);
            assert!(outcome.least_mib_s >= could / 8.0, "{load:?}: {outcome:?}");
        }
    }
}

/// Why a copy gives way to a snapshot that comes in: the bound has room for one beside the last.
#[test]
fn beside_a_copy_there_is_no_room_for_what_comes_in() {
    let load = Load { disk_mib_s: 400, writes_mib_s: 40, worst: false, slow_mib_s: Some(60) };
    let both = run(load, &Rules { gives_way: false, withdraws: false, ..RULES });
    assert!(both.third_mib > bound_mib() + 256 && both.received > 5, "{both:?}");
    let one = run(load, &Rules { withdraws: false, ..RULES });
    assert!(one.third_mib <= bound_mib() + 8 && one.received > 5, "{one:?}");
}

/// Why a snapshot is withdrawn that is still being sent when the leader needs the room for the next but one: there is no
/// room for three. Nothing is lost by it: the log that would have to follow it is gone by then.
#[test]
fn a_leader_has_no_room_for_three_snapshots() {
    let load = Load { disk_mib_s: 400, writes_mib_s: 100, worst: false, slow_mib_s: Some(60) };
    let three = run(load, &Rules { withdraws: false, ..RULES });
    assert!(three.peak_mib > bound_mib() + 256, "{three:?}");
    let two = run(load, &RULES);
    assert!(two.peak_mib <= bound_mib() + 8, "{two:?}");
}

/// Why the log is held by what is behind each follower, and not all or nothing by how long it is: at the end of a copy
/// it is at its longest, and followers that are as fast as their leader, but behind it by their own last copy, would
/// be sent snapshots over and over, at the cost of everybody's disk.
#[test]
fn followers_that_keep_up_are_not_sent_snapshots() {
    for (disk_mib_s, writes_mib_s) in [(100, 25), (200, 30), (400, 100)] {
        let load = Load { disk_mib_s, writes_mib_s, worst: false, slow_mib_s: None };
        let by_each = run(load, &RULES);
        let all_or_nothing = run(load, &Rules { holds_by_each: false, ..RULES });
        assert!(by_each.received == 0 && all_or_nothing.received > 5, "{by_each:?} {all_or_nothing:?}");
        assert!(by_each.mean_mib_s > 1.3 * all_or_nothing.mean_mib_s, "{by_each:?} {all_or_nothing:?}");
    }
}

/// A disk that keeps up delays nobody: the writers get all they ask for, in every second.
#[test]
fn writers_are_not_slowed_where_the_disk_keeps_up() {
    for worst in [false, true] {
        let load = Load { disk_mib_s: 400, writes_mib_s: 30, worst, slow_mib_s: None };
        let outcome = run(load, &RULES);
        assert!(outcome.least_mib_s > 29.9 && outcome.peak_mib < bound_mib(), "{outcome:?}");
    }
}

/// Without flow control nothing bounds the log on a disk that does not keep up: the copy never catches up with its
/// writers. It ends only where they let it.
#[test]
fn without_flow_control_there_is_no_bound() {
    let load = Load { disk_mib_s: 200, writes_mib_s: 100, worst: false, slow_mib_s: None };
    let outcome = run(load, &Rules { flow_control: false, ..RULES });
    assert!(outcome.peak_mib > 3 * bound_mib(), "{outcome:?}");
}

/// Why a snapshot is due while half of the data is free for its copy: with a quarter, a copy that has all writes
/// behind it does not fit into the bound; with all of it, there are so many copies that the writers get less, on
/// disks that do not keep up, than half leaves them.
#[test]
fn half_of_the_data_is_the_room_of_a_copy() {
    let worst = Load { disk_mib_s: 200, writes_mib_s: 30, worst: true, slow_mib_s: None };
    let quarter = run(worst, &Rules { due: due_with_room::<2>, ..RULES });
    assert!(quarter.peak_mib > bound_mib() + 64, "{quarter:?}");
    let load = Load { worst: false, ..worst };
    let half = run(load, &RULES);
    let whole = run(load, &Rules { due: due_with_room::<8>, ..RULES });
    assert!(half.mean_mib_s > 1.1 * whole.mean_mib_s, "{half:?} {whole:?}");
}
