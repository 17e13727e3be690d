//! A client that is nothing but HTTP: it names each write with an idempotency key and sends it again, to one node
//! after the other, until somebody answers. Half of its reads ask for the leader's lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_sim::linearizability::{Operation, Outcome};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::clients::CLIENT_DEADLINE;
use crate::harness::let_pass;

pub(crate) struct KeyedClient {
    agent: Agent,
    /// Gives up before most answers come.
    impatient: Agent,
    endpoints: Vec<String>,
    number: u64,
    /// How many operations there were so far, which names the writes.
    operations: u64,
    /// The endpoint that is asked first, as it answered last.
    preferred: usize,
    give_up: Arc<AtomicBool>,
}

/// What one node said, or did not say.
enum Said {
    Final(Outcome),
    /// It did nothing, and will not.
    NotApplied,
    /// It may have done something, or may yet.
    Nothing,
}

impl KeyedClient {
    pub(crate) fn new(endpoints: Vec<String>, number: u64, give_up: Arc<AtomicBool>) -> Self {
        let agent = |patience| {
            let config = Agent::config_builder()
                .timeout_global(Some(patience))
                .timeout_connect(Some(Duration::from_secs(1)))
                .http_status_as_error(false);
            Agent::from(config.build())
        };
        let (agent, impatient) = (agent(Duration::from_secs(3)), agent(Duration::from_millis(12)));
        Self { agent, impatient, endpoints, number, operations: 0, preferred: 0, give_up }
    }

    pub(crate) fn perform(&mut self, operation: &Operation) -> Outcome {
        self.operations += 1;
        let name = format!("{}-{}", self.number, self.operations);
        let begun = Instant::now();
        let mut may_be_applied = false;
        // Now and then nobody waits for the answer, so that the write is sent again though it is being done.
        let mut agent = if self.operations.is_multiple_of(5) { &self.impatient } else { &self.agent }.clone();
        while begun.elapsed() < CLIENT_DEADLINE && !self.give_up.load(Ordering::Relaxed) {
            match self.ask(&agent, operation, &name) {
                Said::Final(outcome) => return outcome,
                Said::NotApplied => {}
                Said::Nothing => may_be_applied = true,
            }
            agent = self.agent.clone();
            self.preferred = (self.preferred + 1) % self.endpoints.len();
            let_pass(Duration::from_millis(50));
        }
        if may_be_applied { Outcome::Unknown } else { Outcome::NotApplied }
    }

    fn ask(&self, agent: &Agent, operation: &Operation, name: &str) -> Said {
        let url = |key: &Bytes| {
            let key = String::from_utf8(key.to_vec()).expect("keys of these tests are words");
            format!("http://{}/v1/kv/{key}", self.endpoints[self.preferred])
        };
        let answer = match operation {
            // Every other read is answered from the leader's lease, if it has one, and is to be as good as any.
            Operation::Get { key } if self.operations.is_multiple_of(2) => {
                agent.get(url(key)).query("consistency", "lease").call()
            }
            Operation::Get { key } => agent.get(url(key)).call(),
            Operation::Put { key, value } => {
                agent.put(url(key)).header("Idempotency-Key", name).send(&value[..])
            }
            Operation::Delete { key } => agent.delete(url(key)).header("Idempotency-Key", name).call(),
            Operation::Swap { key, value, .. } => agent
                .put(url(key))
                .header("Idempotency-Key", name)
                .header("If-None-Match", "*")
                .send(&value.clone().unwrap_or_default()[..]),
        };
        match answer {
            Ok(answer) => said(operation, answer),
            Err(_) => Said::Nothing,
        }
    }
}

/// What an answer means for the operation.
fn said(operation: &Operation, mut answer: Response<Body>) -> Said {
    let status = answer.status().as_u16();
    let Ok(body) = answer.body_mut().read_to_vec() else { return Said::Nothing };
    match (operation, status) {
        (Operation::Get { .. }, 200) => Said::Final(Outcome::Found(Some(body.into()))),
        (Operation::Get { .. }, 404) => Said::Final(Outcome::Found(None)),
        (_, 200 | 201) => Said::Final(Outcome::Done),
        (_, 412) => Said::Final(Outcome::Refused),
        (_, 429 | 503 | 504) => {
            let error: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            if error["error"]["applied"] == "no" { Said::NotApplied } else { Said::Nothing }
        }
        (_, _) => panic!("{operation:?} was answered with {status}: {}", String::from_utf8_lossy(&body)),
    }
}
