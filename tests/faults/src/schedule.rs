//! All faults of a run, drawn from its seed before it begins. The same seed, length and kinds give the same
//! schedule.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How many faults are under way at once at most.
const AT_ONCE_MAX: usize = 3;

/// What can be inflicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL to a process, which is started again.
    Kill,
    /// SIGSTOP to a process, then SIGCONT.
    Pause,
    /// SIGTERM to a process, which is started again.
    Terminate,
    /// SIGTERM to one process after another, each started again before the next.
    RollingRestart,
    /// SIGKILL to all processes at once.
    KillAll,
    /// SIGKILL to a process that stays away until its replicas are rebuilt elsewhere.
    Absence,
    /// Nodes in two halves that hear nothing of each other.
    Halves,
    /// A node that hears nothing of the others, nor they of it.
    Isolation,
    /// A node that is not heard by the others, or does not hear them.
    OneWay,
    /// A share of packets is lost.
    Loss,
    /// Packets come late.
    Delay,
    /// A process's wall clock is set ten seconds wrong, and then right again.
    ClockJump,
    /// Both clocks of a process run a hundredth fast or slow, from its start on.
    ClockDrift,
    /// Both clocks of a process are set ten seconds wrong, as happens on no machine.
    MonotonicJump,
    /// A disk without room.
    DiskFull,
    /// Changes of files fail with EIO.
    WriteError,
    /// Syncs fail with EIO.
    SyncError,
    /// Syncs take a fifth of a second longer.
    SlowDisk,
    /// The spare node joins, or is drained and removed.
    Membership,
    /// Some shards are moved to other groups.
    ShardMoves,
    /// A group is added, and removed again.
    Groups,
}

impl Kind {
    /// Every kind that happens in the world: all but the jump of a monotonic clock.
    pub const ALL: [Self; 20] = [
        Self::Kill,
        Self::Pause,
        Self::Terminate,
        Self::RollingRestart,
        Self::KillAll,
        Self::Absence,
        Self::Halves,
        Self::Isolation,
        Self::OneWay,
        Self::Loss,
        Self::Delay,
        Self::ClockJump,
        Self::ClockDrift,
        Self::DiskFull,
        Self::WriteError,
        Self::SyncError,
        Self::SlowDisk,
        Self::Membership,
        Self::ShardMoves,
        Self::Groups,
    ];

    /// As it is told and asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Terminate => "terminate",
            Self::RollingRestart => "rolling-restart",
            Self::KillAll => "kill-all",
            Self::Absence => "absence",
            Self::Halves => "halves",
            Self::Isolation => "isolation",
            Self::OneWay => "one-way",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::ClockJump => "clock-jump",
            Self::ClockDrift => "clock-drift",
            Self::MonotonicJump => "monotonic-jump",
            Self::DiskFull => "disk-full",
            Self::WriteError => "write-error",
            Self::SyncError => "sync-error",
            Self::SlowDisk => "slow-disk",
            Self::Membership => "membership",
            Self::ShardMoves => "shard-moves",
            Self::Groups => "groups",
        }
    }

    /// What it does to links: these wait for each other.
    fn is_of_network(self) -> bool {
        matches!(self, Self::Halves | Self::Isolation | Self::OneWay | Self::Loss | Self::Delay)
    }

    /// Whether nothing else is under way meanwhile.
    fn is_alone(self) -> bool {
        matches!(self, Self::RollingRestart | Self::KillAll)
    }

    /// How long it lasts, in milliseconds.
    fn duration_ms(self) -> RangeInclusive<u64> {
        match self {
            Self::Kill | Self::Terminate => 200..=6_000,
            Self::Pause => 500..=10_000,
            Self::RollingRestart => 8_000..=8_000,
            Self::KillAll => 200..=3_000,
            Self::Absence => 18_000..=24_000,
            Self::Halves | Self::Isolation | Self::OneWay => 1_000..=10_000,
            Self::Loss | Self::Delay => 3_000..=10_000,
            Self::ClockJump => 2_000..=10_000,
            Self::ClockDrift | Self::MonotonicJump => 6_000..=15_000,
            Self::DiskFull => 2_000..=8_000,
            Self::WriteError | Self::SyncError => 500..=5_000,
            Self::SlowDisk => 2_000..=8_000,
            Self::Membership => 2_000..=2_000,
            Self::ShardMoves => 500..=500,
            Self::Groups => 5_000..=15_000,
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().chain([Self::MonotonicJump]).find(|kind| kind.name() == text);
        named.ok_or_else(|| format!("there is no fault of this kind: {text}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom a fault is to hit. Where another fault has that node already, the next one that is free is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// This node.
    Node(u64),
    /// The node that leads this group when the fault comes; group 0 is the controller's.
    Leader(u32),
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "n{id}"),
            Self::Leader(group) => write!(f, "leader of g{group}"),
        }
    }
}

/// One fault of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it comes, from the run's beginning.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// To whom; what a kind hits that concerns many is drawn from `choice`.
    pub victim: Victim,
    /// For how long.
    pub duration: Duration,
    /// Whatever else has to be chosen.
    pub choice: u64,
}

impl Fault {
    fn end(&self) -> Duration {
        self.at + self.duration
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.duration.as_secs_f64());
        write!(f, "{at:8.2}s  {:<16}{:<13} {lasts:5.2}s", self.kind.name(), self.victim.to_string())
    }
}

/// The faults of a run in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The faults.
    pub faults: Vec<Fault>,
}

impl Schedule {
    /// Draws faults of these kinds for a run of that length, on so many nodes and groups. Each kind comes
    /// once before any comes twice; those of a `pace` of one second come about one second apart.
    pub fn draw(
        seed: u64,
        length: Duration,
        kinds: &[Kind],
        nodes: u64,
        groups: u32,
        pace: Duration,
    ) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let (mut faults, mut deck) = (Vec::<Fault>::new(), Vec::new());
        let mut at = pace;
        while !kinds.is_empty() {
            if deck.is_empty() {
                deck = kinds.to_vec();
                deck.shuffle(&mut chance);
            }
            let Some(kind) = deck.pop() else { break };
            let duration = Duration::from_millis(chance.random_range(kind.duration_ms()));
            let victim = match chance.random_ratio(1, 2) {
                true => Victim::Leader(chance.random_range(0..=groups)),
                false => Victim::Node(chance.random_range(1..=nodes)),
            };
            at = free_from(&faults, kind, at);
            if at + duration > length {
                // Another kind may be shorter; where none is, the run is full.
                if at + pace > length || deck.is_empty() {
                    break;
                }
                continue;
            }
            faults.push(Fault { at, kind, victim, duration, choice: chance.random() });
            at += pace.mul_f64(chance.random_range(0.3..1.7));
        }
        Self { faults }
    }
}

/// The first moment from `at` on when a fault of this kind may begin.
fn free_from(faults: &[Fault], kind: Kind, mut at: Duration) -> Duration {
    loop {
        let under_way: Vec<&Fault> = faults.iter().filter(|fault| fault.end() > at).collect();
        let in_the_way = |fault: &&&Fault| {
            kind.is_alone()
                || fault.kind.is_alone()
                || (kind.is_of_network() && fault.kind.is_of_network())
                || under_way.len() >= AT_ONCE_MAX
        };
        let Some(end) = under_way.iter().filter(in_the_way).map(|fault| fault.end()).min() else { return at };
        at = end;
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64) -> Schedule {
        let (length, pace) = (Duration::from_secs(1_800), Duration::from_secs(4));
        Schedule::draw(seed, length, &Kind::ALL, 5, 3, pace)
    }

    /// A seed repeats its schedule; another seed gives another.
    #[test]
    fn seeds_repeat_schedules() {
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    /// Half an hour has well over a hundred faults of every kind, never more than three at once, and what
    /// must be alone is.
    #[test]
    fn schedules_are_dense_and_bounded() {
        let Schedule { faults } = draw(7);
        assert!(faults.len() > 200, "{}", faults.len());
        for kind in Kind::ALL {
            assert!(faults.iter().filter(|fault| fault.kind == kind).count() >= 5, "{kind}");
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        for fault in &faults {
            let with = |other: &&Fault| other.at <= fault.at && other.end() > fault.at;
            let meanwhile: Vec<&Fault> = faults.iter().filter(with).collect();
            assert!(meanwhile.len() <= AT_ONCE_MAX, "{fault}");
            assert!(meanwhile.len() == 1 || meanwhile.iter().all(|it| !it.kind.is_alone()), "{fault}");
            assert!(meanwhile.iter().filter(|it| it.kind.is_of_network()).count() <= 1, "{fault}");
        }
    }

    /// A short run holds some faults all the same.
    #[test]
    fn short_runs_have_faults() {
        let length = Duration::from_secs(20);
        let faults = Schedule::draw(3, length, &Kind::ALL, 3, 2, Duration::from_secs(1)).faults;
        assert!(faults.len() >= 4, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.end() <= length));
    }
}
