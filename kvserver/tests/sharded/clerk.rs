//! A client of the examination: one request at a time, said again under the same name until it is answered.

use crate::cluster::Cluster;
use crate::door::{Answer, Door};
use crate::request::{Seen, What};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long a node may take over one request, so that another is asked soon where it is cut off.
const ATTEMPT_MS: u64 = 1_000;

/// The pause before a request is said again.
const PACE: Duration = Duration::from_millis(20);

/// A request that is not answered within this time never will be. Longer than any fault of these tests lasts.
const PATIENCE: Duration = Duration::from_secs(60);

/// On an unreliable network: the longest time on the way, and one in so many requests, and answers, that are lost.
const DELAY_MS_MAX: u64 = 26;
const LOSS: u32 = 10;

/// See the module.
pub(crate) struct Clerk {
    cluster: Arc<Cluster>,
    id: u64,
    dice: StdRng,
    requests: u64,
    appended: u64,
    named: bool,
}

impl Clerk {
    pub(crate) fn new(cluster: Arc<Cluster>, id: u64, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed ^ (id << 32));
        Self { cluster, id, dice, requests: 0, appended: 0, named: true }
    }

    /// Its writes have no names: said again after a lost answer, they take effect twice, and the check says so.
    pub(crate) fn without_names(mut self) -> Self {
        self.named = false;
        self
    }

    pub(crate) async fn put(&mut self, key: &str, value: &str) {
        self.carry_out(key, What::Put(value.to_owned())).await;
    }

    pub(crate) async fn append(&mut self, key: &str, value: &str) {
        self.carry_out(key, What::Append(value.to_owned())).await;
    }

    /// Appends what nobody else appends.
    pub(crate) async fn append_own(&mut self, key: &str) {
        let value = format!("<{}.{}>", self.id, self.appended);
        self.appended += 1;
        self.append(key, &value).await;
    }

    pub(crate) async fn get(&mut self, key: &str) -> Option<String> {
        self.carry_out(key, What::Get).await
    }

    /// A read that is given up after a while; `None` where it was.
    pub(crate) async fn get_within(&mut self, key: &str, time: Duration) -> Option<Option<String>> {
        timeout(time, self.get(key)).await.ok()
    }

    /// One random request for one of `keys`: as many reads as writes, few of which replace the value.
    pub(crate) async fn anything(&mut self, keys: &[String]) {
        let key = &keys[self.dice.random_range(0..keys.len())];
        match self.dice.random_range(0..10) {
            0..5 => drop(self.get(key).await),
            5..9 => self.append_own(key).await,
            _ => {
                let value = format!("[{}.{}]", self.id, self.requests);
                self.put(key, &value).await;
            }
        }
    }

    /// Says a request until it is answered, and records both.
    async fn carry_out(&mut self, key: &str, what: What) -> Option<String> {
        let name = format!("{}-{}-{}", self.cluster.seed(), self.id, self.requests);
        self.requests += 1;
        let history = self.cluster.history.clone();
        let asked = history.invoke(self.id, key, what.clone());
        let answered = timeout(PATIENCE, self.answered(&name, key, &what)).await;
        let seen = answered.unwrap_or_else(|_| panic!("{name} is never answered: {what:?} of {key}"));
        let value = seen.value.clone();
        history.complete(asked, seen);
        value
    }

    async fn answered(&mut self, name: &str, key: &str, what: &What) -> Seen {
        loop {
            if let Some(answer) = self.attempt(name, key, what).await {
                match (answer.status, what) {
                    (200, What::Get) => {
                        let value = Some(answer.text().to_owned());
                        return Seen { version: version(&answer), value };
                    }
                    (404, What::Get) => return Seen { version: 0, value: None },
                    (200 | 201, _) => return Seen { version: version(&answer), value: None },
                    (429 | 503 | 504, _) => {}
                    _ => panic!("{name}: {what:?} of {key}: {answer:?}"),
                }
            }
            sleep(PACE).await;
        }
    }

    /// One attempt at a node that runs; `None` where no answer came.
    async fn attempt(&mut self, name: &str, key: &str, what: &What) -> Option<Answer> {
        let doors = self.cluster.doors();
        let door: &Door = doors.get(self.dice.random_range(0..doors.len().max(1)))?;
        let path = format!("/v1/kv/{key}?timeout={ATTEMPT_MS}");
        let once = self.named.then_some(("idempotency-key", name));
        let (method, headers, body) = match what {
            What::Get => (Method::GET, None, String::new()),
            What::Put(value) => (Method::PUT, once, value.clone()),
            What::Append(value) => (Method::POST, once, value.clone()),
        };
        let unreliable = self.cluster.is_unreliable();
        if unreliable {
            sleep(Duration::from_millis(self.dice.random_range(0..=DELAY_MS_MAX))).await;
            if self.dice.random_ratio(1, LOSS) {
                return None;
            }
        }
        let answer = door.try_ask(method, &path, headers.as_slice(), body).await.ok();
        answer.filter(|_| !(unreliable && self.dice.random_ratio(1, LOSS)))
    }
}

/// The key's version that an answer tells.
fn version(answer: &Answer) -> u64 {
    let tag = answer.header("etag").unwrap_or_else(|| panic!("{answer:?}"));
    tag.trim_matches('"').parse().unwrap_or_else(|_| panic!("{answer:?}"))
}
