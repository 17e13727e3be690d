//! Keeps the membership true about this node: its addresses, its promotion after a join, and whether it is
//! still a member at all.
//!
//! ```text
//!   membership says ─┬─ other addresses ─────────► member_update, through the leader
//!                    ├─ learner, should vote ────► member_promote, until it has caught up
//!                    ├─ all as it should be ─────► wait for the next change
//!                    └─ not there, or no leader ─► ask the others: removed? at an old address?
//! ```
//!
//! * A leader cannot reach a node that has moved, so that node hears of no leader. It knows where clients
//!   reach the other members, and announces itself there.
//! * A removed node is told so by nobody in Raft. It is certain only when a leader's own list lacks our
//!   replica; a membership replayed from an old log proves nothing.

use std::sync::Arc;
use std::time::Duration;

use quorate::{GroupStatus, MemberRole, RoleName};
use quorate_client::{Client, ClientError, ClientOptions};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::server::ServerFailure;
use crate::service::Service;

/// How long one request about the membership may take.
const REQUEST_MILLIS: u32 = 5_000;

/// See the module's head.
pub(crate) struct Announcer {
    pub(crate) service: Arc<Service>,
    /// Ask for promotion when this node is a learner.
    pub(crate) promote: bool,
    /// Where this node was told to find its cluster: known even if its log names no client address yet.
    pub(crate) endpoints: Vec<String>,
    pub(crate) failure: watch::Sender<Option<ServerFailure>>,
}

/// What the membership lacks.
#[derive(Debug, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Addresses,
    Vote,
    Certainty,
}

/// What a leader's list says of this replica.
enum Found {
    Member,
    Removed,
}

impl Announcer {
    /// Runs until the node stops or finds that it has been removed.
    pub(crate) async fn run(self) {
        let mut alone_since = Instant::now();
        let patience = self.service.timings.election_timeout * 4;
        loop {
            let status = self.service.raft.status();
            let lacks = self.lacks(&status);
            if lacks != Lacks::Certainty {
                alone_since = Instant::now();
            }
            let outcome = match lacks {
                Lacks::Nothing => Ok(()),
                Lacks::Addresses => self.announce().await,
                Lacks::Vote => self.ask_for_vote().await,
                Lacks::Certainty if alone_since.elapsed() < patience => Ok(()),
                Lacks::Certainty => {
                    alone_since = Instant::now();
                    match self.ask_others(&status).await {
                        Ok(Found::Removed) => {
                            self.failure.send_replace(Some(ServerFailure::Removed(self.service.node)));
                            return;
                        }
                        Ok(Found::Member) => Ok(()),
                        Err(error) => Err(error.to_string()),
                    }
                }
            };
            if let Err(error) = outcome {
                tracing::debug!(error = %error, "the membership is not as it should be yet");
            }
            self.wait().await;
        }
    }

    fn lacks(&self, status: &GroupStatus) -> Lacks {
        let knows_leader = status.role == RoleName::Leader || status.leader.is_some();
        let Some(member) = status.membership.get(status.replica).filter(|_| knows_leader) else {
            return Lacks::Certainty;
        };
        let (peer, client) = (&self.service.peer_address, &self.service.client_address);
        if member.peer_address != *peer || member.client_address != *client {
            return Lacks::Addresses;
        }
        match member.role {
            MemberRole::Learner if self.promote => Lacks::Vote,
            MemberRole::Learner | MemberRole::Voter | MemberRole::Witness => Lacks::Nothing,
        }
    }

    async fn announce(&self) -> Result<(), String> {
        let service = &self.service;
        let context = service.context_for(REQUEST_MILLIS, false);
        let (peer, client) = (&service.peer_address, &service.client_address);
        service
            .member_update(context, service.node, peer, client)
            .await
            .map(|_| ())
            .map_err(|error| error.message)
    }

    async fn ask_for_vote(&self) -> Result<(), String> {
        let context = self.service.context_for(REQUEST_MILLIS, false);
        self.service
            .member_promote(context, self.service.node)
            .await
            .map(|_| ())
            .map_err(|error| error.message)
    }

    /// Asks the other members what a leader's list says of this replica, and corrects it.
    async fn ask_others(&self, status: &GroupStatus) -> Result<Found, ClientError> {
        let others = status.membership.members().filter(|(replica, _)| *replica != status.replica);
        let addresses = others.map(|(_, member)| member.client_address.clone());
        let addresses = addresses.filter(|address| !address.is_empty()).chain(self.endpoints.iter().cloned());
        let addresses: Vec<String> = addresses.collect();
        let options = ClientOptions {
            deadline: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(1),
            cluster_id: Some(self.service.cluster_id),
            ..ClientOptions::default()
        };
        let Ok(client) = Client::connect(addresses, options) else {
            return Ok(Found::Member);
        };
        let list = client.member_list().await?;
        let Some(member) = list.members.iter().find(|member| member.replica_id == status.replica.0) else {
            return Ok(Found::Removed);
        };
        let service = &self.service;
        let (peer, client_address) = (&service.peer_address, &service.client_address);
        if member.peer_address != *peer || member.client_address != *client_address {
            client.member_update(service.node.0, peer, client_address).await?;
        }
        Ok(Found::Member)
    }

    /// A moment, or until the replica's status changes, but not at every entry.
    async fn wait(&self) {
        let pause = self.service.timings.heartbeat_interval * 2;
        let mut status = self.service.raft.watch();
        tokio::time::sleep_until(Instant::now() + pause).await;
        let longest = Instant::now() + pause * 5;
        if let Ok(Err(_stopped)) = timeout_at(longest, status.changed()).await {
            // The replica has stopped; whoever waits for that ends this task.
            std::future::pending::<()>().await;
        }
    }
}
