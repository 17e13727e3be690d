//! Clients that never stop asking, and the book in which they write what they asked and were told.
//!
//! * Shared keys are written, removed, compared and swapped by all; their history must have one explanation.
//! * Kept keys are written once, by one client, and never touched again: what was acknowledged must be there at
//!   the end, on every node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_client::{Client, ClientError, ClientOptions, Condition};
use quorate_sim::linearizability::{History, OpId, Operation, Outcome};

use crate::dice::Dice;
use crate::keyed::KeyedClient;

/// Clients with sessions.
const SESSIONS: u64 = 24;
/// Clients over HTTP with idempotency keys.
const KEYED: u64 = 4;
/// Keys that all write. Few enough to be fought over, many enough for the check to be quick.
const SHARED_KEYS: u64 = 32;
/// How long one operation is tried before its outcome is unknown.
pub(crate) const CLIENT_DEADLINE: Duration = Duration::from_secs(20);
/// Between two operations: not as fast as possible, as the history must be checked afterwards.
const PAUSE: Duration = Duration::from_millis(40);

/// What all clients write into, with a clock that all share.
pub(crate) struct Book {
    begun: Instant,
    history: Mutex<History>,
    kept: Mutex<BTreeMap<Bytes, Bytes>>,
    answered: AtomicU64,
    unknown: AtomicU64,
}

impl Book {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            history: Mutex::default(),
            kept: Mutex::default(),
            answered: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    pub(crate) fn invoke(&self, client: u64, operation: Operation) -> OpId {
        let mut history = self.history.lock().unwrap();
        history.invoke(client, operation, self.now())
    }

    pub(crate) fn complete(&self, id: OpId, outcome: Outcome) {
        let is_answer = !matches!(outcome, Outcome::Unknown | Outcome::NotApplied);
        let counter = if is_answer { &self.answered } else { &self.unknown };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut history = self.history.lock().unwrap();
        history.complete(id, outcome, self.now());
    }

    /// Operations that got an answer, and those that did not.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn unanswered(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Keys that were written once, and acknowledged.
    pub(crate) fn kept(&self) -> BTreeMap<Bytes, Bytes> {
        self.kept.lock().unwrap().clone()
    }

    /// Panics if nothing explains what the clients saw.
    pub(crate) fn check(&self, story: &str) {
        let history = self.history.lock().unwrap();
        let begun = Instant::now();
        if let Err(violation) = history.check() {
            panic!("{story}: what clients saw is not linearizable: {violation}");
        }
        eprintln!("{story}: {} operations have an explanation ({:?})", history.len(), begun.elapsed());
    }
}

/// What one client is going to ask: the same for the same seed and the same answers.
pub(crate) struct Wishes {
    number: u64,
    round: u64,
    dice: Dice,
    seen: BTreeMap<Bytes, Option<Bytes>>,
}

impl Wishes {
    fn new(number: u64, seed: u64) -> Self {
        Self { number, round: 0, dice: Dice::new(seed), seen: BTreeMap::new() }
    }

    fn next(&mut self) -> Operation {
        self.round += 1;
        let value = Bytes::from(format!("{}-{}", self.number, self.round));
        let key = Bytes::from(format!("shared-{:02}", self.dice.throw(SHARED_KEYS)));
        match self.dice.throw(20) {
            0..7 => Operation::Get { key },
            7..11 => Operation::Put { key, value },
            11 => Operation::Delete { key },
            12..16 => {
                let expected = self.seen.get(&key).cloned().flatten();
                Operation::Swap { key, expected, value: Some(value) }
            }
            _ => Operation::Put { key: Bytes::from(format!("kept-{}-{}", self.number, self.round)), value },
        }
    }

    /// Remembers what is likely to be there, for the next swap.
    fn learn(&mut self, operation: Operation, outcome: &Outcome, book: &Book) {
        match (operation, outcome) {
            (Operation::Get { key }, Outcome::Found(found)) => {
                self.seen.insert(key, found.clone());
            }
            (Operation::Put { key, value }, Outcome::Done) if key.starts_with(b"kept-") => {
                book.kept.lock().unwrap().insert(key, value);
            }
            (Operation::Swap { key, value: Some(value), .. }, Outcome::Done) if key.starts_with(b"kept-") => {
                book.kept.lock().unwrap().insert(key, value);
            }
            (Operation::Put { key, value }, Outcome::Done) => {
                self.seen.insert(key, Some(value));
            }
            (Operation::Delete { key }, Outcome::Done) => {
                self.seen.insert(key, None);
            }
            (Operation::Swap { key, value, .. }, Outcome::Done) => {
                self.seen.insert(key, value);
            }
            (_, _) => {}
        }
    }
}

/// All the clients of a story.
pub(crate) struct Crowd {
    pub(crate) book: Arc<Book>,
    /// After what they have begun.
    stop: Arc<AtomicBool>,
    /// At once: the story has failed. Nodes of another one may soon be at the same addresses.
    give_up: Arc<AtomicBool>,
    sessions: Vec<tokio::task::JoinHandle<()>>,
    keyed: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    pub(crate) fn start(runtime: &tokio::runtime::Runtime, endpoints: &[String], seed: u64) -> Self {
        let (book, stop) = (Arc::new(Book::new()), Arc::new(AtomicBool::new(false)));
        let give_up = Arc::new(AtomicBool::new(false));
        let wishes = |number: u64| Wishes::new(number, seed.wrapping_mul(1000) + number);
        let sessions = (1..=SESSIONS).map(|number| {
            let task = in_session(wishes(number), endpoints.to_vec(), book.clone(), stop.clone());
            runtime.spawn(task)
        });
        let sessions = sessions.collect();
        let keyed = (1..=KEYED).map(|number| {
            let (wishes, book, stop) = (wishes(100 + number), book.clone(), stop.clone());
            let client = KeyedClient::new(endpoints.to_vec(), 100 + number, give_up.clone());
            std::thread::spawn(move || with_keys(wishes, client, &book, &stop))
        });
        let keyed = keyed.collect();
        Self { book, stop, give_up, sessions, keyed }
    }

    /// Lets every client finish what it has begun.
    pub(crate) fn stop(&mut self, runtime: &tokio::runtime::Runtime) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.sessions.drain(..) {
            runtime.block_on(client).unwrap();
        }
        for client in self.keyed.drain(..) {
            client.join().unwrap();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.give_up.store(true, Ordering::Relaxed);
        self.sessions.iter().for_each(tokio::task::JoinHandle::abort);
        for client in self.keyed.drain(..) {
            // What it panicked with has been printed.
            drop(client.join());
        }
    }
}

async fn in_session(mut wishes: Wishes, endpoints: Vec<String>, book: Arc<Book>, stop: Arc<AtomicBool>) {
    let options = ClientOptions { deadline: CLIENT_DEADLINE, ..ClientOptions::default() };
    let client = Client::connect(endpoints, options).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let operation = wishes.next();
        let id = book.invoke(wishes.number, operation.clone());
        let outcome = perform(&client, operation.clone()).await;
        wishes.learn(operation, &outcome, &book);
        book.complete(id, outcome);
        tokio::time::timeout(PAUSE, std::future::pending::<()>()).await.unwrap_err();
    }
}

fn with_keys(mut wishes: Wishes, mut client: KeyedClient, book: &Book, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut operation = wishes.next();
        // Over HTTP no value can be expected, but nothing can: on a key of its own that is refused only if it
        // is done twice.
        if let Operation::Swap { key, expected, value } = &mut operation {
            let once = String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
            (*key, *expected) = (Bytes::from(format!("kept-once-{once}")), None);
        }
        let id = book.invoke(wishes.number, operation.clone());
        let outcome = client.perform(&operation);
        wishes.learn(operation, &outcome, book);
        book.complete(id, outcome);
        crate::harness::let_pass(PAUSE);
    }
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
