//! Exactly once over a bad network: clients as they are meant to be, with many requests in flight, over a
//! network that loses, repeats and reorders what it likes.

mod machine_rig;

use kvserver::machine::KvMachine;
use machine_rig::{owning, write};
use proptest::prelude::*;
use proto::{Answer, ClientId, Expect, Operation, Reply, Sequence, ShardId, Stamp};
use raftstore::{Machine, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A client sends its next write.
    Send(usize),
    /// A client sends again what it waits for.
    Retry(usize, prop::sample::Index),
    /// The network delivers any message that was ever sent, and the answer comes back or is lost.
    Deliver(prop::sample::Index, bool),
    /// The machine is replaced by one loaded from a copy of it.
    Restart(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Event::Send),
        2 => (0..3_usize, any::<prop::sample::Index>()).prop_map(|(client, which)| Event::Retry(client, which)),
        8 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, back)| Event::Deliver(which, back)),
        1 => (1..500_usize).prop_map(Event::Restart),
    ]
}

/// A client of one shard: its writes append their own numbers, each followed by a comma.
#[derive(Default)]
struct Client {
    sent: u64,
    /// Sequences without an answer.
    open: BTreeSet<u64>,
    answers: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone)]
struct Message {
    client: usize,
    sequence: u64,
    bytes: Vec<u8>,
}

impl Client {
    fn message(&self, client: usize, sequence: u64) -> Message {
        let lowest_open = self.open.first().copied().expect("the sequence is open");
        let value = format!("{client}.{sequence},");
        let (id, sequence_no) = (ClientId(client as u128), Sequence(sequence));
        let stamp = Stamp { client: id, sequence: sequence_no, lowest_open: Sequence(lowest_open) };
        let operation = Operation::Append { key: b"all", value: value.as_bytes(), expect: Expect::Any };
        Message { client, sequence, bytes: write(ShardId(0), Some(stamp), operation) }
    }
}

struct World {
    machine: KvMachine,
    clients: Vec<Client>,
    /// All that was ever sent: any of it may arrive again.
    network: Vec<Message>,
}

impl World {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Send(client) => {
                let sender = &mut self.clients[*client];
                sender.sent += 1;
                sender.open.insert(sender.sent);
                self.network.push(sender.message(*client, sender.sent));
            }
            Event::Retry(client, which) => {
                let sender = &self.clients[*client];
                if !sender.open.is_empty() {
                    let sequence = *sender.open.iter().nth(which.index(sender.open.len())).expect("within");
                    self.network.push(sender.message(*client, sequence));
                }
            }
            Event::Deliver(which, back) => {
                if !self.network.is_empty() {
                    let message = self.network[which.index(self.network.len())].clone();
                    self.deliver(&message, *back);
                }
            }
            Event::Restart(bytes_max) => self.restart(*bytes_max),
        }
    }

    fn deliver(&mut self, message: &Message, back: bool) {
        let answer = self.machine.apply(Moment { index: 1, time_ms: 1 }, &message.bytes);
        let client = &mut self.clients[message.client];
        if !client.open.contains(&message.sequence) {
            return;
        }
        // A write that its client still waits for is never refused, and never answered in two ways.
        let reply = proto::decode::<Answer<'_>>(&answer).expect("an answer is well formed");
        assert!(matches!(reply, Ok(Reply::Written { .. })), "{reply:?}");
        let first = client.answers.entry(message.sequence).or_insert_with(|| answer.to_vec());
        assert_eq!(*first, answer);
        if back {
            client.open.remove(&message.sequence);
        }
    }

    fn restart(&mut self, bytes_max: usize) {
        let copy = self.machine.copy_begin();
        let mut machine = KvMachine::new();
        loop {
            let step = self.machine.copy_next(copy, bytes_max);
            machine.load(&step.bytes).expect("the pieces of a copy load");
            if step.remaining == 0 {
                break;
            }
        }
        self.machine = machine;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the network and restarts do, every write takes effect once, and once only.
    #[test]
    fn every_write_takes_effect_once(events in prop::collection::vec(event(), 1..500)) {
        let clients = (0..3).map(|_| Client::default()).collect();
        let mut world = World { machine: owning(KvMachine::new(), 1), clients, network: vec![] };
        events.iter().for_each(|event| world.take(event));
        // At last the network delivers everything once more, lowest sequences last.
        let everything: Vec<_> = world.network.iter().rev().cloned().collect();
        everything.iter().for_each(|message| world.deliver(message, true));
        let value = world.machine.get(ShardId(0), b"all").map_or(vec![], |record| record.value.to_vec());
        let value = String::from_utf8(value).unwrap();
        let mut seen: Vec<_> = value.split_terminator(',').map(str::to_owned).collect();
        seen.sort_unstable();
        let of = |(number, client): (usize, &Client)| {
            (1..=client.sent).map(move |sequence| format!("{number}.{sequence}")).collect::<Vec<_>>()
        };
        let mut wanted: Vec<_> = world.clients.iter().enumerate().flat_map(of).collect();
        wanted.sort_unstable();
        prop_assert_eq!(seen, wanted);
    }
}
