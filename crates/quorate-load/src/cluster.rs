//! A cluster as the target: one client of the client library per connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_client::{Client, ClientError, ClientOptions, ConnectError, Consistency};
use tokio::time::Instant;

use crate::plan::{Kind, Plan};
use crate::record::Outcome;
use crate::run::{Operation, Pacing, Target};

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The pipelined stream, as the client library does by itself.
    Stream,
    /// A call of its own for each.
    Unary,
}

impl Transport {
    /// Its name on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Unary => "unary",
        }
    }
}

/// The clients of a run.
#[derive(Debug)]
pub(crate) struct Cluster {
    clients: Vec<Client>,
    over: Arc<AtomicBool>,
    pacers: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Cluster {
    /// Clients for `plan`. The n-th begins with the n-th endpoint, so that stale reads, which any node answers, go
    /// to all of them; everything else follows the leader.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(crate) fn connect(
        plan: &Plan,
        endpoints: &[String],
        transport: Transport,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let clients = (0..plan.connections).map(|number| {
            let mut endpoints = endpoints.to_vec();
            let first = number % endpoints.len().max(1);
            endpoints.rotate_left(first);
            let options = ClientOptions {
                deadline: timeout,
                in_flight_max: plan.in_flight.div_ceil(plan.connections),
                unary: transport == Transport::Unary,
                ..ClientOptions::default()
            };
            Client::connect(endpoints, options)
        });
        let clients = clients.collect::<Result<_, _>>()?;
        Ok(Self { clients, over: Arc::default(), pacers: Mutex::default() })
    }

    /// Whether a leader answers, before anything else is done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn answers(&self) -> Result<(), ClientError> {
        self.clients[0].member_list().await.map(drop)
    }

    /// The nodes by number and where to ask them: those behind `endpoints`, and the other members, which may not
    /// have said yet where they are reached.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn nodes(&self, endpoints: &[String]) -> Result<BTreeMap<u64, String>, ClientError> {
        let mut asking = tokio::task::JoinSet::new();
        for endpoint in endpoints {
            let (client, endpoint) = (self.clients[0].clone(), endpoint.clone());
            asking.spawn(async move { (client.status_of(&endpoint).await, endpoint) });
        }
        let mut nodes = BTreeMap::new();
        while let Some(Ok((answer, endpoint))) = asking.join_next().await {
            if let Ok(status) = answer {
                nodes.insert(status.node_id, endpoint);
            }
        }
        for member in self.clients[0].member_list().await?.members {
            if !member.client_address.is_empty() {
                nodes.entry(member.node_id).or_insert(member.client_address);
            }
        }
        Ok(nodes)
    }

    /// Connects every client, lets it find the leader and open its session: none of that is load.
    ///
    /// # Errors
    /// What the first operation of a client failed with.
    pub(crate) async fn warm(&self, plan: &Plan) -> Result<(), ClientError> {
        const AT_ONCE: usize = 32;
        for clients in self.clients.chunks(AT_ONCE) {
            let mut warming = tokio::task::JoinSet::new();
            for client in clients {
                let (client, kinds) = (client.clone(), plan.mix.kinds().collect::<Vec<_>>());
                let key = format!("{}connect", plan.prefix);
                warming.spawn(async move {
                    for (kind, _) in kinds {
                        match consistency(kind) {
                            None => drop(client.put(key.clone(), "").await?),
                            Some(consistency) => drop(client.get_with(key.clone(), consistency).await?),
                        }
                    }
                    Ok(())
                });
            }
            while let Some(warmed) = warming.join_next().await {
                warmed.expect("a client never panics")?;
            }
        }
        Ok(())
    }
}

/// How a read of this kind is asked for; `None` for a write.
const fn consistency(kind: Kind) -> Option<Consistency> {
    match kind {
        Kind::Write => None,
        Kind::Linearizable => Some(Consistency::Linearizable),
        Kind::Lease => Some(Consistency::Lease),
        Kind::Stale => Some(Consistency::Stale),
    }
}

impl Target for Cluster {
    async fn operate(&self, connection: usize, operation: Operation) -> Outcome {
        let client = &self.clients[connection];
        let ended = match consistency(operation.kind) {
            None => client.put(operation.key, operation.value).await.map(|_| true),
            Some(consistency) => {
                client.get_with(operation.key, consistency).await.map(|read| read.value.is_some())
            }
        };
        match ended {
            Ok(found) => Outcome::Done { found },
            Err(error) => Outcome::Failed { kind: kind_of(&error), message: error.to_string() },
        }
    }

    /// On a thread of its own: the runtime's timers have whole milliseconds, which would be part of every latency.
    fn pace(&self, mut pacing: Pacing) {
        let over = self.over.clone();
        let pacer = std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            while let Some(next) = pacing.step(Instant::now())
                && !over.load(Ordering::Relaxed)
            {
                wait_until(next);
            }
        });
        let mut pacers = self.pacers.lock().unwrap_or_else(PoisonError::into_inner);
        pacers.retain(|pacer| !pacer.is_finished());
        // Without a thread nothing would ever be sent, and the figures would say so: `not_sent` is counted by slots.
        pacers.extend(pacer.ok());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let pacers = std::mem::take(&mut *self.pacers.lock().unwrap_or_else(PoisonError::into_inner));
        for pacer in pacers {
            drop(pacer.join());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the schedule of an open loop: waiting is what it is for")]
fn wait_until(next: Instant) {
    /// So that a slow schedule notices the end of the run.
    const PAUSE_MAX: Duration = Duration::from_millis(50);
    std::thread::sleep(next.saturating_duration_since(Instant::now()).min(PAUSE_MAX));
}

/// The kinds of failures in results: few, and stable.
fn kind_of(error: &ClientError) -> &'static str {
    match error {
        ClientError::NotApplied { .. } => "not_applied",
        ClientError::OutcomeUnknown { .. } => "outcome_unknown",
        ClientError::ConditionFailed { .. } => "condition_failed",
        ClientError::Rejected(rejection) => rejection.code.name(),
        _ => "other",
    }
}
