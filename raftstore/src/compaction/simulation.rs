//! A model of three nodes on one disk whose writers overwrite all the time, in which the rules of this module and
//! of [`crate::flow_control`] were chosen: why the bound holds, and what it costs.
//!
//! The disk's bandwidth is shared fairly by the three logs and the copies that are being made. The writers take what
//! the leader lets in, up to a rate of their own; an entry counts once two of the three have it. Records are chosen
//! evenly, or always among those that are copied already: the worst that writers can do.

use super::*;
use crate::flow_control::Allowance;

const MIB: u64 = 1 << 20;
const DATA: f64 = 1024.0 * MIB as f64;
const TICK_S: f64 = 0.005;
/// What a leader proposes ahead of what is committed.
const IN_FLIGHT: f64 = 4.0 * MIB as f64;
const COPY_BYTES_PER_SECOND: f64 = 256.0 * MIB as f64;

#[derive(Clone, Copy, Debug)]
struct Load {
    disk_mib_s: u64,
    writes_mib_s: u64,
    /// Whether all that is written has to be copied again.
    worst: bool,
}

struct Rules {
    /// The log that makes a snapshot due, by the last snapshot's size.
    due: fn(u64) -> u64,
    flow_control: bool,
}

#[derive(Default)]
struct Node {
    /// Bytes that were ever written to the log, and those that the last snapshot holds.
    log: f64,
    covered: f64,
    last: f64,
    copy: Option<Copy>,
    peak: f64,
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
        (self.log - self.covered) as u64
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
        } else if log_bytes >= (rules.due)(self.last as u64) {
            let bytes_max =
                disk_bytes_max(&RaftConfig::default(), DATA as u64).saturating_sub(self.last as u64);
            let allowance = Allowance::new(bytes_max, DATA as u64, log_bytes);
            self.copy = Some(Copy { allowance, reached: 0.0, dirty: 0.0, copied: 0.0 });
        }
        let copied = self.copy.as_ref().map_or(0.0, |copy| copy.copied);
        self.peak = self.peak.max(self.last + copied + self.log - self.covered);
        if let Some(copy) = self.copy.take_if(|copy| copy.remaining() < 256.0 * 1024.0) {
            self.last = copy.copied;
            self.covered = self.log;
        }
    }
}

#[derive(Debug)]
struct Outcome {
    peak_mib: u64,
    /// Committed bytes a second over all, and in the slowest second after the first ten.
    mean_mib_s: f64,
    least_mib_s: f64,
}

/// Fills the bandwidth fairly: nobody gets more than it demands.
fn share(demands: [f64; 6], capacity: f64) -> [f64; 6] {
    let (mut left, mut shares, mut order) = (capacity, [0.0; 6], [0, 1, 2, 3, 4, 5]);
    order.sort_by(|&one, &other| demands[one].total_cmp(&demands[other]));
    for (place, &who) in order.iter().enumerate() {
        shares[who] = demands[who].min(left / (6 - place) as f64);
        left -= shares[who];
    }
    shares
}

/// Writes twelve times the data.
fn run(load: Load, rules: &Rules) -> Outcome {
    let mut nodes: [Node; 3] = Default::default();
    // Their turns, as they stand after the first snapshots.
    for (place, node) in nodes.iter_mut().enumerate() {
        node.last = DATA;
        node.covered = -(place as f64) * DATA / 6.0;
    }
    let (disk, writes) = (load.disk_mib_s as f64 * MIB as f64, load.writes_mib_s as f64 * MIB as f64);
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
            demands[place] = if node.is_full(rules) { 0.0 } else { wanted.max(0.0) };
            demands[3 + place] = if node.copy.is_some() { COPY_BYTES_PER_SECOND * TICK_S } else { 0.0 };
        }
        let shares = share(demands, disk * TICK_S);
        for (place, node) in nodes.iter_mut().enumerate() {
            node.write(shares[place], load.worst);
            node.copy(shares[3 + place], rules);
        }
        ticks += 1;
        if ticks.is_multiple_of(200) {
            if ticks > 2_000 {
                least = least.min(committed(&nodes) - second);
            }
            second = committed(&nodes);
        }
    }
    let peak = nodes.iter().map(|node| node.peak).fold(0.0, f64::max);
    let mean = committed(&nodes) / (ticks as f64 * TICK_S);
    let mib = MIB as f64;
    Outcome { peak_mib: (peak / mib) as u64, mean_mib_s: mean / mib, least_mib_s: least / mib }
}

/// The rule in use.
fn due(last_bytes: u64) -> u64 {
    due_bytes(&RaftConfig::default(), last_bytes, DATA as u64)
}

/// The same, with room for a copy of so many eighths of the data.
fn due_with_room<const EIGHTHS: u64>(last_bytes: u64) -> u64 {
    let (config, data_bytes) = (RaftConfig::default(), DATA as u64);
    let room = room(&config, last_bytes, data_bytes, data_bytes / 8 * EIGHTHS);
    room.min(last_bytes / 2).max(data_bytes / LEAST_DUE_SHARE)
}

fn bound_mib() -> u64 {
    disk_bytes_max(&RaftConfig::default(), DATA as u64) / MIB
}

/// However fast the disk and the writers, and whichever records they choose, log and snapshots stay within the
/// bound, but for what is let in at once; and the writers never stop: there is no second in which they get less than
/// an eighth of what the disk could carry of logs alone.
#[test]
fn the_bound_holds_whatever_the_load() {
    let rules = Rules { due, flow_control: true };
    for (disk_mib_s, writes_mib_s) in [(100, 25), (100, 100), (200, 30), (400, 100), (800, 100)] {
        for worst in [false, true] {
            let load = Load { disk_mib_s, writes_mib_s, worst };
            let outcome = run(load, &rules);
            assert!(outcome.peak_mib <= bound_mib() + 8, "{load:?}: {outcome:?}");
            let could = (disk_mib_s as f64 / 3.0).min(writes_mib_s as f64);
            assert!(outcome.least_mib_s >= could / 8.0, "{load:?}: {outcome:?}");
        }
    }
}

/// A disk that keeps up delays nobody: the writers get all they ask for, in every second.
#[test]
fn writers_are_not_slowed_where_the_disk_keeps_up() {
    for worst in [false, true] {
        let load = Load { disk_mib_s: 400, writes_mib_s: 30, worst };
        let outcome = run(load, &Rules { due, flow_control: true });
        assert!(outcome.least_mib_s > 29.9 && outcome.peak_mib < bound_mib(), "{outcome:?}");
    }
}

/// Without flow control nothing bounds the log on a disk that does not keep up: the copy never catches up with its
/// writers. It ends only where they let it.
#[test]
fn without_flow_control_there_is_no_bound() {
    let load = Load { disk_mib_s: 200, writes_mib_s: 100, worst: false };
    let outcome = run(load, &Rules { due, flow_control: false });
    assert!(outcome.peak_mib > 3 * bound_mib(), "{outcome:?}");
}

/// Why a snapshot is due while half of the data is free for its copy: with a quarter, a copy that has all writes
/// behind it does not fit into the bound; with all of it, there are so many copies that the writers get less, on
/// disks that do not keep up, than half leaves them.
#[test]
fn half_of_the_data_is_the_room_of_a_copy() {
    let worst = Load { disk_mib_s: 200, writes_mib_s: 30, worst: true };
    let quarter = run(worst, &Rules { due: due_with_room::<2>, flow_control: true });
    assert!(quarter.peak_mib > bound_mib() + 64, "{quarter:?}");
    let load = Load { worst: false, ..worst };
    let half = run(load, &Rules { due: due_with_room::<4>, flow_control: true });
    let whole = run(load, &Rules { due: due_with_room::<8>, flow_control: true });
    assert!(half.mean_mib_s > 1.1 * whole.mean_mib_s, "{half:?} {whole:?}");
}
