//! The promise: kill any node with SIGKILL at any moment, start it again, and no acknowledged write is
//! lost, and what concurrent clients saw can be explained by one order of their operations.
//!
//! ```text
//!   clients   put, get, delete, compare-and-swap, all the time     ──► history ──► checked at the end
//!   storm     kill -9 one of three (often the leader), start it again, next …
//! ```
//!
//! `QUORATE_TEST_KILLS` says how many kills (default 6); `QUORATE_TEST_SEED` which ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_client::{Client, ClientError, ClientOptions, Condition};
use quorate_sim::linearizability::{History, Operation, Outcome};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, ELECTION_TIMEOUT, eventually};

const CLIENTS: u64 = 4;
const KEYS: u64 = 6;

/// Small, and the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }
}

/// What all clients write into, with a clock that all share.
struct Book {
    history: Mutex<History>,
    begun: Instant,
}

impl Book {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// One client: one operation after the other until it is told to stop. Returns how many were answered.
async fn client(
    number: u64,
    endpoints: Vec<String>,
    seed: u64,
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
) -> u64 {
    let options = ClientOptions { deadline: Duration::from_secs(20), ..ClientOptions::default() };
    let client = Client::connect(endpoints, options).unwrap();
    let mut dice = Dice(seed);
    let mut answered = 0;
    let mut last_read: Option<Bytes> = None;
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = Bytes::from(format!("key-{}", dice.throw(KEYS)));
        let value = Bytes::from(format!("{number}-{round}"));
        let operation = match dice.throw(10) {
            0..4 => Operation::Get { key },
            4..8 => Operation::Put { key, value },
            8 => Operation::Delete { key },
            _ => Operation::Swap { key, expected: last_read.clone(), value: Some(value) },
        };
        let id = book.history.lock().unwrap().invoke(number, operation.clone(), book.now());
        let outcome = perform(&client, operation).await;
        if let Outcome::Found(found) = &outcome {
            last_read.clone_from(found);
        }
        answered += u64::from(!matches!(outcome, Outcome::Unknown | Outcome::NotApplied));
        let now = book.now();
        book.history.lock().unwrap().complete(id, outcome, now);
        // Not as fast as possible: the history must be checked afterwards.
        tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>()).await.unwrap_err();
    }
    answered
}

async fn perform(client: &Client, operation: Operation) -> Outcome {
    let result = match operation {
        Operation::Get { key } => {
            client.get(key).await.map(|item| Outcome::Found(item.map(|item| item.value)))
        }
        Operation::Put { key, value } => client.put(key, value).await.map(|_| Outcome::Done),
        Operation::Delete { key } => client.delete(key).await.map(|_| Outcome::Done),
        Operation::Swap { key, expected, value } => {
            let condition = expected.map_or(Condition::Absent, Condition::Value);
            client.put_if(key, value.unwrap(), condition).await.map(|_| Outcome::Done)
        }
    };
    match result {
        Ok(outcome) => outcome,
        Err(ClientError::ConditionFailed { .. }) => Outcome::Refused,
        Err(ClientError::NotApplied { .. }) => Outcome::NotApplied,
        Err(ClientError::OutcomeUnknown { .. }) => Outcome::Unknown,
        Err(other) => panic!("a client was told: {other}"),
    }
}

#[test]
fn kill_storm_loses_nothing_that_was_acknowledged() {
    let kills = setting("QUORATE_TEST_KILLS", 6);
    let seed = setting("QUORATE_TEST_SEED", u64::from(std::process::id()));
    // Small enough that logs are compacted during the storm, and snapshots are sent.
    let policy = ["--snapshot-entries", "200", "--snapshot-trailing-entries", "20", "--log", "warn"];
    let mut cluster = Cluster::of_three(&policy);
    let book = Arc::new(Book { history: Mutex::default(), begun: Instant::now() });
    let stop = Arc::new(AtomicBool::new(false));
    let endpoints: Vec<String> = (1..=3).map(|node| cluster.ports.client(node)).collect();
    let clients: Vec<JoinHandle<u64>> = (0..CLIENTS)
        .map(|number| {
            let task = client(number, endpoints.clone(), seed * 31 + number + 1, book.clone(), stop.clone());
            cluster.runtime.spawn(task)
        })
        .collect();

    let mut dice = Dice(seed + 1);
    let mut replaced: Vec<Duration> = Vec::new();
    for kill in 0..kills {
        let leader = cluster.wait_for_leader(None);
        let victim = if dice.throw(3) < 2 { leader } else { 1 + dice.throw(3) };
        let begun = Instant::now();
        cluster.take(victim).kill();
        if victim == leader {
            cluster.wait_for_leader(Some(victim));
            replaced.push(begun.elapsed());
        }
        // Sometimes at once, sometimes when the others have gone on without it.
        if dice.throw(2) == 0 {
            let before = book.history.lock().unwrap().len();
            eventually("the others go on", || {
                (book.history.lock().unwrap().len() > before + 40).then_some(())
            });
        }
        cluster.restart(victim);
        if kill % 20 == 19 {
            eprintln!("{} of {kills} kills, {} operations", kill + 1, book.history.lock().unwrap().len());
        }
    }
    cluster.wait_for_leader(None);
    stop.store(true, Ordering::Relaxed);
    let answered: u64 = clients.into_iter().map(|client| cluster.runtime.block_on(client).unwrap()).sum();

    replaced.sort();
    let history = book.history.lock().unwrap();
    eprintln!("seed {seed}: {kills} kills, {} operations, {answered} answered", history.len());
    if let (Some(median), Some(longest)) = (replaced.get(replaced.len() / 2), replaced.last()) {
        let (median, longest) = (median.as_millis(), longest.as_millis());
        eprintln!("{} leaders replaced, after {median} ms (median), {longest} ms (longest)", replaced.len());
    }
    if let Err(violation) = history.check() {
        panic!("seed {seed}: {violation:?}");
    }
    assert!(answered > kills * 10, "the storm was survived by doing nothing");
    // A timeout is drawn from T to 2T; a split vote costs another one.
    let late = replaced.iter().filter(|time| **time > 3 * ELECTION_TIMEOUT).count();
    assert!(
        late * 10 <= replaced.len(),
        "{late} of {} leaders were replaced late: {replaced:?}",
        replaced.len()
    );
}

#[test]
fn killed_leader_is_replaced_within_three_election_timeouts() {
    let mut cluster = Cluster::of_three(&[]);
    cluster.quorate(&["put", "k", "v"]).expect_ok();
    let leader = cluster.wait_for_leader(None);
    let begun = Instant::now();
    cluster.take(leader).kill();
    cluster.wait_for_leader(Some(leader));
    let took = begun.elapsed();
    assert!(took <= 3 * ELECTION_TIMEOUT, "{took:?} with an election timeout of {ELECTION_TIMEOUT:?}");
    // A command sees a short wait and not an error.
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "v");
}
