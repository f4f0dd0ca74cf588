//! What a move costs those who use the shard meanwhile: one shard is filled, then moved to and fro between two groups
//! while clients write and read it, and others read other shards.

use crate::say;
use anyhow::{Context, Result, bail};
use clap::Args;
use client::{Client, Expect, Operation};
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// The tag of the keys that move.
const MOVING: &str = "bench-move";

/// How many tags other keys have at most, until enough of them are on other shards.
const TAGS_MAX: u32 = 64;
const OTHER_TAGS: usize = 8;
const OTHER_KEYS: u64 = 1_000;

/// How many writers fill the shard, and how much each writes at once.
const FILLERS: u64 = 16;
const FILL_BATCH: usize = 256;

/// How often the map is asked whether a move has ended.
const LOOK: Duration = Duration::from_millis(20);

/// For how long it is remembered when writes were acknowledged: a move's end is known much sooner after its switch.
const REMEMBERED: Duration = Duration::from_secs(10);

/// What to move, and who uses it meanwhile.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// How much the shard holds, in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    shard_mib: u64,
    /// The values' size in bytes.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    value_bytes: u64,
    /// How many clients use the shard; each writes and reads in turn, one operation after the other.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    clients: u64,
    /// How many clients read other shards.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    others: u64,
    /// How many times the shard moves.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    moves: u32,
    /// How long to measure without a move, before the first, in seconds: about as long as a move takes, so that it
    /// meets what a move meets.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    rest_seconds: u64,
    /// How long one move may take before this gives up, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    move_seconds_max: u64,
    /// The keys are there from an earlier run: do not write them again.
    #[arg(long)]
    filled: bool,
}

impl MoveArgs {
    fn keys(&self) -> u64 {
        let key_bytes = moving_key(0).len() as u64;
        ((self.shard_mib << 20) / (self.value_bytes + key_bytes)).max(1)
    }
}

fn moving_key(number: u64) -> String {
    format!("{{{MOVING}}}/{number:012}")
}

fn other_key(tag: u32, number: u64) -> String {
    format!("{{{MOVING}-other-{tag}}}/{number:012}")
}

/// What was seen in one stretch of time: at rest, during a move, or between two.
struct Seen {
    writes: Histogram<u64>,
    reads: Histogram<u64>,
    others: Histogram<u64>,
    /// When writes of the moving shard were acknowledged, the last [`REMEMBERED`] of them and one before.
    written: VecDeque<Instant>,
    /// The longest time in which no write of the moving shard was acknowledged.
    longest_gap: Duration,
    /// The longest by which the machine kept a thread waiting that asks for nothing but the time: what it holds up
    /// there it holds up everywhere.
    held_up: Duration,
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self {
            writes: Histogram::new(3)?,
            reads: Histogram::new(3)?,
            others: Histogram::new(3)?,
            written: VecDeque::from([Instant::now()]),
            longest_gap: Duration::ZERO,
            held_up: Duration::ZERO,
        })
    }

    /// An operation that took `micros` has ended.
    fn note(&mut self, what: What, micros: u64) -> Result<()> {
        match what {
            What::Write => {
                self.writes.record(micros)?;
                self.written_at(Instant::now());
            }
            What::Read => self.reads.record(micros)?,
            What::Other => self.others.record(micros)?,
        }
        Ok(())
    }

    fn written_at(&mut self, now: Instant) {
        if let Some(&last) = self.written.back() {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.written.push_back(now);
        while self.written.get(1).is_some_and(|second| now - *second > REMEMBERED) {
            self.written.pop_front();
        }
    }

    /// The longest time without an acknowledged write that lies in a switch, wholly or in part; `None` where that is
    /// too long ago, or no write has followed.
    fn gap_at(&self, switch: &Switch) -> Option<Duration> {
        let pairs = self.written.iter().zip(self.written.iter().skip(1));
        let reaches = pairs.filter(|(before, after)| **after >= switch.asked && **before <= switch.served);
        let is_known = self.written.front()? <= &switch.asked && self.written.back()? > &switch.served;
        reaches.map(|(before, after)| *after - *before).max().filter(|_| is_known)
    }
}

/// The end of a move, as the node that drove it has seen it.
#[derive(Clone, Copy, Debug)]
struct Switch {
    /// The source was asked to serve the shard no more.
    asked: Instant,
    /// The destination served it.
    served: Instant,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Write,
    Read,
    Other,
}

type Stretch = Arc<Mutex<Seen>>;

fn lock(stretch: &Stretch) -> MutexGuard<'_, Seen> {
    stretch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a shard is, as the controller's map says.
struct Place {
    /// The version of the map.
    epoch: u64,
    owner: u64,
    /// Where it is to be.
    target: u64,
    /// A group that serves and is not the owner.
    other: Option<u64>,
    moving: bool,
}

/// Moves a shard to and fro, and prints a row for each move and what they cost.
///
/// # Errors
/// The first operation that failed, a move that was refused or does not end, a cluster of one group.
pub async fn run(nodes: &[String], args: &MoveArgs) -> Result<()> {
    let http = crate::http()?;
    let node = nodes.first().context("no node is given")?.as_str();
    let client = Client::connect(nodes.iter().map(String::as_str)).await?;
    let shard = shard_of(&http, node, &client, &moving_key(0)).await?;
    if place(&http, node, shard).await?.other.is_none() {
        bail!("moves need two groups: `flotilla group add` adds one");
    }
    let tags = other_tags(&http, node, &client, shard).await?;
    if !args.filled {
        fill(nodes, args, &tags).await?;
    }

    let (stretches, current) = watch::channel(Arc::new(Mutex::new(Seen::new()?)));
    let mut users = JoinSet::new();
    for user in 0..args.clients + args.others {
        let client = Client::connect(nodes.iter().map(String::as_str)).await?;
        let user = User {
            client,
            current: current.clone(),
            random: StdRng::seed_from_u64(user),
            keys: args.keys(),
            value_bytes: usize::try_from(args.value_bytes)?,
            tags: tags.clone(),
        };
        match users.len() < usize::try_from(args.clients)? {
            true => users.spawn(user.use_shard()),
            false => users.spawn(user.read_others()),
        };
    }
    let watched = tokio::task::spawn_blocking(move || watch_clock(&current));
    let measured = tokio::select! {
        measured = measure(&http, nodes, shard, args, &stretches) => measured,
        // They go on until they are told to end; whoever ends now has failed.
        Some(ended) = users.join_next() => ended?.and_then(|()| bail!("a client has ended too soon")),
    };
    users.shutdown().await;
    drop(stretches);
    watched.await?;
    measured
}

/// Looks at the clock every millisecond, until there are no stretches any more.
#[expect(
    clippy::disallowed_methods,
    reason = "what is measured is a thread of its own, not a task among others"
)]
fn watch_clock(current: &watch::Receiver<Stretch>) {
    const EVERY: Duration = Duration::from_millis(1);
    while current.has_changed().is_ok() {
        let began = Instant::now();
        std::thread::sleep(EVERY);
        let stretch = current.borrow().clone();
        let mut seen = lock(&stretch);
        seen.held_up = seen.held_up.max(began.elapsed().saturating_sub(EVERY));
    }
}

async fn measure(
    http: &reqwest::Client,
    nodes: &[String],
    shard: u32,
    args: &MoveArgs,
    stretches: &watch::Sender<Stretch>,
) -> Result<()> {
    let node = nodes.first().context("no node is given")?.as_str();
    sleep(Duration::from_secs(args.rest_seconds) / 5).await;
    let begin = || -> Result<Stretch> {
        let stretch = Arc::new(Mutex::new(Seen::new()?));
        stretches.send_replace(stretch.clone());
        Ok(stretch)
    };
    let rest = begin()?;
    sleep(Duration::from_secs(args.rest_seconds)).await;
    say(&format!(
        "shard {shard}, {} keys of {} bytes, {} clients on it, {} on other shards",
        args.keys(),
        args.value_bytes,
        args.clients,
        args.others
    ))?;
    say("                                             longest ms       ms between writes   pause  held up")?;
    say("move      from   to  seconds  writes/s    write     read    longest  at switch      ms       ms")?;
    let mut pauses = Histogram::<u64>::new(3)?;
    let (mut gaps, mut gaps_at_switches) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let (mut writes, mut others) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    begin()?;
    for number in 1..=args.moves {
        let at = place(http, node, shard).await?;
        let to = at.other.context("the second group is gone")?;
        let moving = begin()?;
        let began = Instant::now();
        let epoch = start_move(http, node, shard, to).await?;
        let ended =
            timeout(Duration::from_secs(args.move_seconds_max), arrival(http, node, shard, to, epoch)).await;
        ended.with_context(|| format!("move {number} has not ended in {} s", args.move_seconds_max))??;
        let took = began.elapsed();
        // Not before the shard is written again.
        let switch = switch(http, nodes, shard, epoch).await?;
        let gap = match &switch {
            Some(switch) => Some(gap_at(&moving, switch).await?),
            None => None,
        };
        begin()?;
        let row = {
            let seen = lock(&moving);
            let pause = switch.map(|switch| switch.served - switch.asked);
            gaps.record(micros(seen.longest_gap)?)?;
            for (times, time) in [(&mut pauses, pause), (&mut gaps_at_switches, gap)] {
                time.map(micros).transpose()?.map_or(Ok(()), |micros| times.record(micros))?;
            }
            let known = |time: Option<Duration>| {
                time.map_or_else(|| "-".into(), |time| format!("{:.1}", in_millis(time)))
            };
            writes.add(&seen.writes)?;
            others.add(&seen.others)?;
            format!(
                "{number:<8}  {:>4}  {:>3}  {:>7.2}  {:>8.0}  {:>7.1}  {:>7.1}  {:>9.1}  {:>9}  {:>6}  {:>7.1}",
                format!("g{}", at.owner),
                format!("g{to}"),
                took.as_secs_f64(),
                seen.writes.len() as f64 / took.as_secs_f64(),
                millis(seen.writes.max()),
                millis(seen.reads.max()),
                in_millis(seen.longest_gap),
                known(gap),
                known(pause),
                in_millis(seen.held_up),
            )
        };
        say(&row)?;
        // The source drops what it gave away; the next move waits for nothing of that, as an operator would not.
        sleep(LOOK).await;
    }
    let rest = lock(&rest);
    say("")?;
    say(&quantiles("pause: asked to freeze until served", &pauses)?)?;
    say(&quantiles("gap between writes at the switch", &gaps_at_switches)?)?;
    say(&quantiles("longest gap between writes of a move", &gaps)?)?;
    let (gap, held_up) = (in_millis(rest.longest_gap), in_millis(rest.held_up));
    say(&format!(
        "longest gap between writes at rest, in {} s: {gap:.1} ms, held up for {held_up:.1} ms at most",
        args.rest_seconds
    ))?;
    say(&quantiles("writes at rest", &rest.writes)?)?;
    say(&quantiles("writes during moves", &writes)?)?;
    say(&quantiles("reads of other shards at rest", &rest.others)?)?;
    say(&quantiles("reads of other shards during moves", &others)?)?;
    let (before, during) = (rest.others.value_at_quantile(0.99), others.value_at_quantile(0.99));
    say(&format!(
        "reads of other shards, p99 during moves / at rest: {:.2}",
        during as f64 / before.max(1) as f64
    ))
}

fn micros(time: Duration) -> Result<u64> {
    Ok(u64::try_from(time.as_micros())?)
}

fn in_millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn quantiles(name: &str, of: &Histogram<u64>) -> Result<String> {
    let mut line = format!("{name:<38}");
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        write!(line, "  {label} {:>7.1} ms", millis(of.value_at_quantile(quantile)))?;
    }
    write!(line, "  of {}", of.len())?;
    Ok(line)
}

/// Somebody who uses the cluster, one operation after the other.
struct User {
    client: Client,
    current: watch::Receiver<Stretch>,
    random: StdRng,
    keys: u64,
    value_bytes: usize,
    tags: Vec<u32>,
}

impl User {
    /// Writes and reads the moving shard in turn.
    async fn use_shard(mut self) -> Result<()> {
        let mut value = vec![0; self.value_bytes];
        loop {
            let key = moving_key(self.random.random_range(0..self.keys));
            self.random.fill_bytes(&mut value);
            let (stretch, began) = (self.stretch(), Instant::now());
            self.client.put(&key, &value).await?;
            self.note(&stretch, What::Write, began)?;
            let key = moving_key(self.random.random_range(0..self.keys));
            let (stretch, began) = (self.stretch(), Instant::now());
            let read = self.client.get(&key).await?;
            self.note(&stretch, What::Read, began)?;
            read.with_context(|| format!("key {key} is gone"))?;
        }
    }

    /// Reads other shards.
    async fn read_others(mut self) -> Result<()> {
        loop {
            let tag = self.tags[self.random.random_range(0..self.tags.len())];
            let key = other_key(tag, self.random.random_range(0..OTHER_KEYS));
            let (stretch, began) = (self.stretch(), Instant::now());
            let read = self.client.get(&key).await?;
            self.note(&stretch, What::Other, began)?;
            read.with_context(|| format!("key {key} is gone"))?;
        }
    }

    fn stretch(&self) -> Stretch {
        self.current.borrow().clone()
    }

    /// Notes an operation in the stretch in which it began, and in that in which it ended.
    fn note(&self, stretch: &Stretch, what: What, began: Instant) -> Result<()> {
        let micros = u64::try_from(began.elapsed().as_micros())?;
        lock(stretch).note(what, micros)?;
        let now = self.stretch();
        if !Arc::ptr_eq(stretch, &now) {
            lock(&now).note(what, micros)?;
        }
        Ok(())
    }
}

/// The shard of a key, as the front end says.
async fn shard_of(http: &reqwest::Client, node: &str, client: &Client, key: &str) -> Result<u32> {
    client.put(key, "").await?;
    let path: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = http.get(format!("{node}/v1/kv/{path}")).send().await?.error_for_status()?;
    let shard = answer.headers().get("flotilla-shard").context("the answer names no shard")?;
    Ok(shard.to_str()?.parse()?)
}

/// Tags whose keys are on other shards than the moving one.
async fn other_tags(http: &reqwest::Client, node: &str, client: &Client, moving: u32) -> Result<Vec<u32>> {
    let mut tags = Vec::new();
    for tag in 0..TAGS_MAX {
        if shard_of(http, node, client, &other_key(tag, 0)).await? != moving {
            tags.push(tag);
        }
        if tags.len() == OTHER_TAGS {
            return Ok(tags);
        }
    }
    if tags.is_empty() { bail!("there is only one shard") } else { Ok(tags) }
}

async fn fill(nodes: &[String], args: &MoveArgs, tags: &[u32]) -> Result<()> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let others = tags.iter().flat_map(|&tag| (0..OTHER_KEYS).map(move |number| other_key(tag, number)));
    let others: Vec<String> = others.collect();
    let client = Client::connect(nodes.iter().map(String::as_str)).await?;
    for keys in others.chunks(FILL_BATCH) {
        put_all(&client, keys.iter().cloned(), &[b'x'; 256]).await?;
    }
    for filler in 0..FILLERS {
        let client = Client::connect(nodes.iter().map(String::as_str)).await?;
        let (keys, mut value) = (args.keys(), vec![0; usize::try_from(args.value_bytes)?]);
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(filler);
            let mut numbers = (filler..keys).step_by(usize::try_from(FILLERS)?);
            loop {
                let batch: Vec<String> = numbers.by_ref().take(FILL_BATCH).map(moving_key).collect();
                if batch.is_empty() {
                    return anyhow::Ok(());
                }
                random.fill_bytes(&mut value);
                put_all(&client, batch.into_iter(), &value).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    say(&format!("filled in {:.1} s", began.elapsed().as_secs_f64()))
}

async fn put_all(client: &Client, keys: impl Iterator<Item = String>, value: &[u8]) -> Result<()> {
    for reply in client.batch(keys.map(|key| Operation::put(key, value, Expect::Any))).await {
        reply?;
    }
    Ok(())
}

async fn place(http: &reqwest::Client, node: &str, shard: u32) -> Result<Place> {
    let map: Value =
        serde_json::from_str(&http.get(format!("{node}/v1/cluster/map")).send().await?.text().await?)?;
    place_on(&map, shard).with_context(|| format!("the map does not know shard {shard}"))
}

fn place_on(map: &Value, shard: u32) -> Option<Place> {
    let runs = map["shard_runs"].as_array()?;
    let run = runs
        .iter()
        .find(|run| run[0].as_u64() <= Some(shard.into()) && Some(shard.into()) <= run[1].as_u64())?;
    let owner = run[2].as_u64()?;
    let groups = map["groups"].as_array()?;
    let mut serving =
        groups.iter().filter(|group| group["state"] == "serving").filter_map(|group| group["id"].as_u64());
    let moving = map["moves"].as_array()?.iter().any(|of| of["shard"].as_u64() == Some(shard.into()));
    let (epoch, target) = (map["epoch"].as_u64()?, run[3].as_u64()?);
    Some(Place { epoch, owner, target, other: serving.find(|group| *group != owner), moving })
}

/// Has a shard moved, and returns the epoch of the map that says so.
async fn start_move(http: &reqwest::Client, node: &str, shard: u32, to: u64) -> Result<u64> {
    let asking = http.post(format!("{node}/v1/cluster/shards/{shard}/move"));
    let body = json!({ "to": to }).to_string();
    let answer = asking.header("content-type", "application/json").body(body).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        bail!("the move was refused: {status}: {text}");
    }
    let changed: Value = serde_json::from_str(&text)?;
    changed["epoch"].as_u64().context("the answer to the move has no epoch")
}

/// Waits until the map says that the move that was asked for at `epoch` has ended; an error where somebody else has
/// sent the shard elsewhere.
async fn arrival(http: &reqwest::Client, node: &str, shard: u32, to: u64, epoch: u64) -> Result<()> {
    while !place(http, node, shard).await?.has_arrived(to, epoch)? {
        sleep(LOOK).await;
    }
    Ok(())
}

/// When the move of a shard was decided that was asked for at `epoch` or later, as the node says that drove it; `None`
/// where none does, because its driver was followed by another.
async fn switch(http: &reqwest::Client, nodes: &[String], shard: u32, epoch: u64) -> Result<Option<Switch>> {
    let looking = async {
        loop {
            for node in nodes {
                let answer = http.get(format!("{node}/v1/status")).send().await?.text().await?;
                let now = Instant::now();
                if let Some((paused, ago)) = switch_in(&serde_json::from_str(&answer)?, shard, epoch) {
                    let at =
                        |ago: Duration| now.checked_sub(ago).context("it lies before the clock's beginning");
                    return anyhow::Ok(Switch { asked: at(ago + paused)?, served: at(ago)? });
                }
            }
            sleep(LOOK).await;
        }
    };
    timeout(REMEMBERED / 2, looking).await.ok().transpose()
}

/// How long the switch of a move took and how long ago it was, where a node's status tells.
fn switch_in(status: &Value, shard: u32, epoch: u64) -> Option<(Duration, Duration)> {
    let ended = status["ended_moves"].as_array()?.iter().rev();
    let ended = ended
        .filter(|of| of["shard"].as_u64() == Some(shard.into()) && of["id"].as_u64() >= Some(epoch))
        .find(|of| of["aborted"].is_null())?;
    let time = |name: &str| ended[name].as_u64().map(Duration::from_micros);
    Some((time("freeze_pause_us")?, time("served_us_ago")?))
}

/// The longest time without an acknowledged write at a switch, once a write has followed it.
async fn gap_at(stretch: &Stretch, switch: &Switch) -> Result<Duration> {
    let looking = async {
        loop {
            if let Some(gap) = lock(stretch).gap_at(switch) {
                return gap;
            }
            sleep(LOOK).await;
        }
    };
    timeout(REMEMBERED / 2, looking).await.context("nothing was written around the switch of a move")
}

impl Place {
    /// Whether what was asked for at `epoch` has come about; a node may know older maps for a while.
    fn has_arrived(&self, to: u64, epoch: u64) -> Result<bool> {
        if self.epoch < epoch {
            return Ok(false);
        }
        if self.target != to {
            bail!("the shard was sent to g{} meanwhile", self.target);
        }
        Ok(self.owner == to && !self.moving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a shard is and where it could go is read off the map.
    #[test]
    fn places() {
        let map = json!({
            "epoch": 7,
            "shard_runs": [[0, 3, 1, 1], [4, 4, 2, 1], [5, 7, 2, 2]],
            "groups": [{"id": 1, "state": "leaving"}, {"id": 2, "state": "serving"}, {"id": 3, "state": "serving"}],
            "moves": [{"shard": 4}],
        });
        let at = |shard| place_on(&map, shard).map(|at| (at.owner, at.other, at.moving));
        assert_eq!(at(3), Some((1, Some(2), false)));
        assert_eq!(at(4), Some((2, Some(3), true)));
        assert_eq!(at(8), None);
    }

    /// A switch is found in the status of the node that drove the move, and not taken for that of an earlier one.
    #[test]
    fn switches() {
        let ended = |id: u64, aborted: Option<&str>| {
            let pause = id * 1_000;
            json!({"shard": 4, "id": id, "aborted": aborted, "freeze_pause_us": pause, "served_us_ago": 7})
        };
        let status =
            json!({"ended_moves": [ended(3, None), ended(5, None), ended(6, Some("it was cancelled"))]});
        let found = Some((Duration::from_millis(5), Duration::from_micros(7)));
        assert_eq!(switch_in(&status, 4, 4), found);
        assert_eq!(switch_in(&status, 4, 5), found);
        assert_eq!(switch_in(&status, 4, 6), None, "given up");
        assert_eq!(switch_in(&status, 3, 1), None);
        assert_eq!(switch_in(&json!({}), 4, 1), None);
    }

    /// The gap at a switch is the longest that reaches into it; it is not known before a write has followed.
    #[test]
    fn gaps_at_switches() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut seen = Seen::new().expect("a histogram");
        seen.written = VecDeque::from([at(0)]);
        [100, 200, 210, 240].into_iter().for_each(|ms| seen.written_at(at(ms)));
        let switch = |asked, served| Switch { asked: at(asked), served: at(served) };
        assert_eq!(seen.gap_at(&switch(205, 230)), Some(Duration::from_millis(30)));
        assert_eq!(seen.gap_at(&switch(195, 199)), Some(Duration::from_millis(100)));
        assert_eq!(seen.gap_at(&switch(205, 240)), None);
        assert_eq!(seen.longest_gap, Duration::from_millis(100));
        seen.written_at(at(240) + REMEMBERED);
        assert_eq!(seen.gap_at(&switch(195, 230)), None, "not remembered any more");
    }

    /// A move has ended where the shard is where it was sent and nothing moves, by a map that knows of it; a shard that
    /// somebody sent elsewhere is not waited for.
    #[test]
    fn arrivals() {
        let at = |epoch, owner, target, moving| Place { epoch, owner, target, other: None, moving };
        let ended = |place: Place| place.has_arrived(2, 7).ok();
        assert_eq!(ended(at(6, 1, 1, false)), Some(false), "the map is older");
        assert_eq!(ended(at(7, 1, 2, true)), Some(false));
        assert_eq!(ended(at(8, 2, 2, false)), Some(true));
        assert_eq!(ended(at(8, 1, 1, true)), None);
    }

    /// As many keys as the shard is to hold, and one at least.
    #[test]
    fn sizes() {
        #[derive(Debug, clap::Parser)]
        struct Command {
            #[command(flatten)]
            moves: MoveArgs,
        }
        let of = |arguments: &[&str]| {
            let arguments = std::iter::once("bench").chain(arguments.iter().copied());
            <Command as clap::Parser>::try_parse_from(arguments).map(|command| command.moves.keys())
        };
        assert_eq!(of(&["--shard-mib", "1", "--value-bytes", "231"]).expect("good arguments"), 4_096);
        assert_eq!(of(&["--shard-mib", "1", "--value-bytes", "1048576"]).expect("good arguments"), 1);
        assert!(of(&["--moves", "0"]).is_err());
    }
}
