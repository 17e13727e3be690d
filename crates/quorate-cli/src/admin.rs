//! `status`, `member` and `leader`: how the cluster is, and who is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_client::{Client, ClientError, ClientOptions, proto};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::args::{LeaderCommand, MemberCommand};
use crate::config::{ClientConfig, OutputFormat};
use crate::data::{connect, failure};
use crate::failure::{Exit, Failure};
use crate::output;

/// How long one node may take to say how it is.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a cluster is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every member answers and there is a leader.
    Healthy,
    /// The cluster works, but some member does not: repair it before the next one fails.
    Degraded,
    /// Nothing can be written.
    Unavailable,
}

impl Health {
    const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What the members of a cluster say, put together.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    /// The cluster.
    pub(crate) cluster_id: u64,
    /// The newest leader that a node which answered knows.
    pub(crate) leader: Option<u64>,
    /// The members, each with its own words, if it answered.
    pub(crate) nodes: Vec<(proto::Member, Option<proto::StatusResponse>)>,
}

impl Overview {
    /// In one word, and why.
    pub(crate) fn health(&self) -> (Health, String) {
        let voters = self.nodes.iter().filter(|(member, _)| member.voter).count();
        let answering = self.nodes.iter().filter(|node| node.0.voter && answers(node)).count();
        let silent = self.nodes.iter().filter(|node| !answers(node));
        let silent: Vec<String> = silent.map(|(member, _)| member.node_id.to_string()).collect();
        if answering * 2 <= voters {
            let line =
                format!("{answering} of {voters} voters answer, {} are needed: start nodes", voters / 2 + 1);
            return (Health::Unavailable, line);
        }
        let Some(leader) = self.leader else {
            return (Health::Unavailable, "no leader is known: an election may be going on".to_owned());
        };
        if silent.is_empty() {
            (Health::Healthy, format!("node {leader} leads, all {} nodes answer", self.nodes.len()))
        } else {
            (Health::Degraded, format!("node {leader} leads, but no answer from node {}", silent.join(", ")))
        }
    }

    fn commit_index(&self) -> u64 {
        self.nodes.iter().filter_map(|(_, status)| Some(status.as_ref()?.commit_index)).max().unwrap_or(0)
    }
}

/// Whether a member is there. One that has not announced yet where clients reach it cannot be asked, but the
/// leader hears from it.
fn answers((member, status): &(proto::Member, Option<proto::StatusResponse>)) -> bool {
    let heard_from = member.progress.as_ref().is_some_and(|progress| progress.recently_active);
    status.is_some() || (member.client_address.is_empty() && heard_from)
}

/// Asks one node how it is; `None` when it does not answer in time.
pub(crate) async fn ask(address: &str, limit: Duration) -> Option<proto::StatusResponse> {
    let options = ClientOptions { deadline: limit, ..ClientOptions::default() };
    let client = Client::connect([address], options).ok()?;
    tokio::time::timeout(limit, client.status_of(address)).await.ok()?.ok()
}

/// Asks the nodes at these addresses at once.
pub(crate) async fn ask_all(
    addresses: BTreeSet<String>,
    limit: Duration,
) -> BTreeMap<u64, proto::StatusResponse> {
    let mut asking = JoinSet::new();
    for address in addresses {
        asking.spawn(async move { ask(&address, limit).await });
    }
    let answers = asking.join_all().await;
    answers.into_iter().flatten().map(|status| (status.node_id, status)).collect()
}

/// Asks these nodes at once, and returns as soon as one says that it leads.
pub(crate) async fn ask_for_leader(addresses: Vec<String>, limit: Duration) -> Option<u64> {
    let mut asking = JoinSet::new();
    for address in addresses {
        asking.spawn(async move { ask(&address, limit).await });
    }
    while let Some(answer) = asking.join_next().await {
        if let Ok(Some(status)) = answer
            && status.role() == proto::Role::Leader
        {
            return Some(status.node_id);
        }
    }
    None
}

/// The leader according to the answer with the newest term that knows one.
pub(crate) fn leader_of(answers: &BTreeMap<u64, proto::StatusResponse>) -> Option<u64> {
    let knowing = answers.values().filter_map(|status| Some((status.term, status.leader.as_ref()?.node_id)));
    knowing.max().map(|(_, node)| node)
}

/// What a node is, in one word.
pub(crate) fn role_name(status: &proto::StatusResponse) -> &'static str {
    let voter = status.members.iter().any(|member| member.node_id == status.node_id && member.voter);
    match status.role() {
        proto::Role::Leader => "leader",
        proto::Role::Follower if !voter => "learner",
        proto::Role::Follower => "follower",
        proto::Role::PreCandidate | proto::Role::Candidate => "candidate",
    }
}

async fn overview(config: &ClientConfig) -> Result<Overview, ClientError> {
    let first = connect_unchecked(config)?.status().await?;
    // Members where they say they are, and where the user says there is something.
    let announced = first.members.iter().map(|member| member.client_address.clone());
    let addresses = announced.filter(|address| !address.is_empty()).chain(config.endpoints.clone()).collect();
    let mut answers = ask_all(addresses, NODE_TIMEOUT.min(config.timeout)).await;
    answers.retain(|_, status| status.cluster_id == first.cluster_id);
    answers.entry(first.node_id).or_insert_with(|| first.clone());
    // The one that knows most about the members is the one that has come furthest.
    let best = answers.values().max_by_key(|status| (status.term, status.last_index)).unwrap_or(&first);
    let members = best.members.clone();
    let leader = leader_of(&answers);
    let nodes = members.into_iter().map(|member| {
        let status = answers.get(&member.node_id).cloned();
        (member, status)
    });
    Ok(Overview { cluster_id: first.cluster_id, leader, nodes: nodes.collect() })
}

fn connect_unchecked(config: &ClientConfig) -> Result<Client, ClientError> {
    connect(config).map_err(|failure| ClientError::NotApplied { message: failure.line })
}

/// `status`.
pub(crate) async fn status(config: &ClientConfig) -> Result<(), Failure> {
    let overview = overview(config).await.map_err(|error| failure(error, config))?;
    let (health, why) = overview.health();
    match config.output {
        OutputFormat::Table => {
            output::line(format!("{}: {why}\n", health.name()))?;
            output::line(output::render(&status_table(&overview)))?;
        }
        OutputFormat::Json => output::json(&status_json(&overview, health, &why))?,
    }
    match health {
        Health::Healthy | Health::Degraded => Ok(()),
        Health::Unavailable => Err(Failure::new(Exit::Unavailable, why)),
    }
}

fn status_table(overview: &Overview) -> comfy_table::Table {
    let header = ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "PEERS AT", "CLIENTS AT"];
    let mut table = output::table(header);
    let newest = overview.commit_index();
    for (member, status) in &overview.nodes {
        let text = |of: fn(&proto::StatusResponse) -> u64| {
            status.as_ref().map_or("-".to_owned(), |s| of(s).to_string())
        };
        table.add_row([
            member.node_id.to_string(),
            status.as_ref().map_or("no answer", role_name).to_owned(),
            text(|status| status.term),
            text(|status| status.commit_index),
            text(|status| status.applied_index),
            status.as_ref().map_or("-".to_owned(), |s| newest.saturating_sub(s.applied_index).to_string()),
            member.peer_address.clone(),
            member.client_address.clone(),
        ]);
    }
    table
}

fn status_json(overview: &Overview, health: Health, why: &str) -> Value {
    let newest = overview.commit_index();
    let node = |(member, status): &(proto::Member, Option<proto::StatusResponse>)| {
        let mut object = json!({
            "id": member.node_id,
            "replica": member.replica_id,
            "voter": member.voter,
            "answers": status.is_some(),
            "peer_address": member.peer_address,
            "client_address": member.client_address,
        });
        if let Some(status) = status {
            object["role"] = json!(role_name(status));
            object["ready"] = json!(status.ready);
            object["term"] = json!(status.term);
            object["commit"] = json!(status.commit_index);
            object["applied"] = json!(status.applied_index);
            object["lag"] = json!(newest.saturating_sub(status.applied_index));
            object["last"] = json!(status.last_index);
            object["snapshot"] = json!(status.snapshot_index);
            object["version"] = json!(status.server_version);
        }
        object
    };
    json!({
        "health": health.name(),
        "why": why,
        "cluster": format!("{:016x}", overview.cluster_id),
        "leader": overview.leader,
        "nodes": overview.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

/// `member`.
pub(crate) async fn member(command: MemberCommand, config: &ClientConfig) -> Result<(), Failure> {
    let client = connect(config)?;
    let fail = |error| failure(error, config);
    match command {
        MemberCommand::List => {
            let list = client.member_list().await.map_err(fail)?;
            match config.output {
                OutputFormat::Table => output::line(output::render(&member_table(&list.members))),
                OutputFormat::Json => output::json(&json!({
                    "cluster": format!("{:016x}", list.cluster_id),
                    "index": list.index,
                    "members": list.members.iter().map(member_json).collect::<Vec<_>>(),
                })),
            }
        }
        MemberCommand::Add { id, peer, client: address } => {
            let added = client.member_add(id, &peer, &address).await.map_err(fail)?;
            let said = format!(
                "node {id} is a learner now (replica {}): start it with serve --join",
                added.replica_id
            );
            changed(config, id, added.index, &said)
        }
        MemberCommand::Promote { id } => {
            let index = client.member_promote(id).await.map_err(fail)?;
            changed(config, id, index, &format!("node {id} votes now"))
        }
        MemberCommand::Remove { id } => {
            let index = client.member_remove(id).await.map_err(fail)?;
            let said = format!("node {id} is removed: stop it and delete its data directory");
            changed(config, id, index, &said)
        }
    }
}

fn changed(config: &ClientConfig, node: u64, index: u64, said: &str) -> Result<(), Failure> {
    match config.output {
        OutputFormat::Table => output::line(said),
        OutputFormat::Json => output::json(&json!({ "id": node, "index": index })),
    }
}

fn member_table(members: &[proto::Member]) -> comfy_table::Table {
    let mut table =
        output::table(["NODE", "REPLICA", "VOTES", "LEADS", "HAS UP TO", "PEERS AT", "CLIENTS AT"]);
    let yes = |it: bool| if it { "yes" } else { "no" }.to_owned();
    for member in members {
        table.add_row([
            member.node_id.to_string(),
            member.replica_id.to_string(),
            yes(member.voter),
            yes(member.leader),
            member.progress.as_ref().map_or("-".to_owned(), |progress| progress.matched_index.to_string()),
            member.peer_address.clone(),
            member.client_address.clone(),
        ]);
    }
    table
}

fn member_json(member: &proto::Member) -> Value {
    json!({
        "id": member.node_id,
        "replica": member.replica_id,
        "voter": member.voter,
        "leader": member.leader,
        "matched": member.progress.as_ref().map(|progress| progress.matched_index),
        "active": member.progress.as_ref().map(|progress| progress.recently_active),
        "peer_address": member.peer_address,
        "client_address": member.client_address,
    })
}

/// `leader`.
pub(crate) async fn leader(command: LeaderCommand, config: &ClientConfig) -> Result<(), Failure> {
    let LeaderCommand::Transfer { id } = command;
    let leader = connect(config)?.transfer_leadership(id).await.map_err(|error| failure(error, config))?;
    match config.output {
        OutputFormat::Table => output::line(format!("node {leader} leads now")),
        OutputFormat::Json => output::json(&json!({ "leader": leader })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, answers: bool, leader: Option<u64>) -> (proto::Member, Option<proto::StatusResponse>) {
        let member = proto::Member { node_id: id, voter: true, ..Default::default() };
        let hint = leader.map(|node_id| proto::LeaderHint { node_id, client_address: String::new() });
        let status = proto::StatusResponse { node_id: id, term: 3, leader: hint, ..Default::default() };
        (member, answers.then_some(status))
    }

    fn health(leader: Option<u64>, answers: [bool; 3]) -> (Health, String) {
        let nodes = (1..).zip(answers).map(|(id, answers)| node(id, answers, leader)).collect();
        Overview { cluster_id: 1, leader, nodes }.health()
    }

    #[test]
    fn verdict_says_whether_the_cluster_works_and_what_does_not() {
        assert_eq!(health(Some(2), [true; 3]).0, Health::Healthy);
        let (verdict, why) = health(Some(2), [true, true, false]);
        assert_eq!((verdict, why.as_str()), (Health::Degraded, "node 2 leads, but no answer from node 3"));
        assert_eq!(health(None, [true; 3]).0, Health::Unavailable);
        let (verdict, why) = health(Some(2), [false, true, false]);
        assert_eq!(verdict, Health::Unavailable);
        assert_eq!(why, "1 of 3 voters answer, 2 are needed: start nodes");
    }

    #[test]
    fn newest_term_knows_the_leader_best() {
        let mut answers = BTreeMap::new();
        for (id, term, leader) in [(1, 3, Some(1)), (2, 5, Some(3)), (3, 6, None)] {
            let (_, status) = node(id, true, leader);
            answers.insert(id, proto::StatusResponse { term, ..status.unwrap() });
        }
        assert_eq!(leader_of(&answers), Some(3));
    }
}
