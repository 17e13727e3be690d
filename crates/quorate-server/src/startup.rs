//! From a configuration to a node that knows its cluster: addresses, and what an empty directory becomes.
//!
//! ```text
//!   directory has an origin ──► check that the flags do not contradict it
//!   empty ─┬─ Bootstrap ──────► a random cluster id, this node alone
//!          ├─ InitialCluster ─► a cluster id made from the list, the same on every node
//!          ├─ Join ───────────► ask the endpoints: cluster id, replica id, whom to hear from
//!          └─ Resume ─────────► an error
//! ```

use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::time::Duration;

use quorate::NodeId;
use quorate_client::{Client, ClientError, ClientOptions, ErrorCode};

use crate::config::{InitialMember, ServerConfig, StartMode};
use crate::convert::fnv1a;
use crate::members::is_address;
use crate::origin::{Beginning, FirstMember, Origin, Seed};
use crate::server::StartError;

/// How long a node that goes on waits to hear whether its endpoints belong to another cluster.
const MISMATCH_CHECK: Duration = Duration::from_millis(500);
/// The largest value that can be configured: a write must fit into a frame between nodes.
const VALUE_BYTES_MAX: usize = 16 << 20;

/// Where others reach this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advertised {
    pub(crate) peer: String,
    pub(crate) client: String,
}

/// Checks what can be checked without changing anything.
pub(crate) fn check(config: &ServerConfig) -> Result<(), StartError> {
    let wrong = |flag, problem: &str| Err(StartError::InvalidConfig { flag, problem: problem.to_owned() });
    if config.node == NodeId(0) {
        return wrong("--id", "node ids begin with 1");
    }
    if config.limits.value_bytes_max == 0 || config.limits.value_bytes_max > VALUE_BYTES_MAX {
        return wrong("--value-bytes-max", "write a number of bytes from 1 to 16777216 (16 MiB)");
    }
    for (flag, address) in
        [("--peer-advertise", &config.peer_advertise), ("--client-advertise", &config.client_advertise)]
    {
        if address.as_ref().is_some_and(|address| !is_address(address)) {
            return wrong(flag, "write host:port, as others reach this node");
        }
    }
    crate::certificates::check(config)?;
    match &config.start {
        StartMode::InitialCluster(members) => check_initial(config.node, members),
        StartMode::Join { endpoints, .. } => match Client::connect(endpoints, ClientOptions::default()) {
            Ok(_) => Ok(()),
            Err(error) => wrong("--join", &error.to_string()),
        },
        StartMode::Bootstrap | StartMode::Resume => Ok(()),
    }
}

fn check_initial(node: NodeId, members: &[InitialMember]) -> Result<(), StartError> {
    let flag = "--initial-cluster";
    let wrong = |problem| Err(StartError::InvalidConfig { flag, problem });
    if !members.iter().any(|member| member.node == node) {
        return wrong(format!("node {node} is not in the list: it must hold every first node, this one too"));
    }
    for (at, member) in members.iter().enumerate() {
        if member.node == NodeId(0) {
            return wrong("node ids begin with 1".to_owned());
        }
        if !is_address(&member.peer_address) {
            return wrong(format!("{:?} is not host:port", member.peer_address));
        }
        if members[..at].iter().any(|other| other.node == member.node) {
            return wrong(format!("node {} is there twice", member.node));
        }
        if members[..at].iter().any(|other| other.peer_address == member.peer_address) {
            return wrong(format!("{} is there twice", member.peer_address));
        }
    }
    Ok(())
}

/// Where peers should reach this node if it is not said: as the list says, or where it listens.
pub(crate) fn peer_advertise(config: &ServerConfig, listening: &str) -> Result<String, StartError> {
    if let Some(address) = &config.peer_advertise {
        return Ok(address.clone());
    }
    if let StartMode::InitialCluster(members) = &config.start
        && let Some(member) = members.iter().find(|member| member.node == config.node)
    {
        return Ok(member.peer_address.clone());
    }
    reachable("--peer-advertise", listening)
}

/// Where clients should reach this node if it is not said: where it listens.
pub(crate) fn client_advertise(config: &ServerConfig, listening: SocketAddr) -> Result<String, StartError> {
    match &config.client_advertise {
        Some(address) => Ok(address.clone()),
        None => reachable("--client-advertise", &listening.to_string()),
    }
}

/// An address to listen on is one to connect to, unless it means "everywhere".
fn reachable(flag: &'static str, listening: &str) -> Result<String, StartError> {
    let everywhere = listening.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    if everywhere {
        let problem = format!(
            "needed, because {listening} listens everywhere: say host:port where others reach this node"
        );
        return Err(StartError::InvalidConfig { flag, problem });
    }
    Ok(listening.to_owned())
}

/// A free port instead of port 0, for addresses that must be known before they are listened on. The
/// port is free again when this returns, and may be taken by somebody else: for tests and demonstrations.
pub(crate) fn settle_port(flag: &'static str, address: &str) -> Result<String, StartError> {
    if !address.ends_with(":0") {
        return Ok(address.to_owned());
    }
    let bound = StdListener::bind(address).and_then(|listener| listener.local_addr());
    bound.map(|address| address.to_string()).map_err(|source| StartError::Listen {
        flag,
        address: address.to_owned(),
        source,
    })
}

/// The origin of a node whose directory is empty.
pub(crate) async fn begin(config: &ServerConfig, advertised: &Advertised) -> Result<Origin, StartError> {
    let node = config.node;
    let first = |node: NodeId, peer_address: &str, client_address: &str| FirstMember {
        node_id: node.0,
        peer_address: peer_address.to_owned(),
        client_address: client_address.to_owned(),
    };
    match &config.start {
        StartMode::Bootstrap => {
            let members = vec![first(node, &advertised.peer, &advertised.client)];
            Ok(Origin::new(random_cluster_id(), node, Beginning::First { members }))
        }
        StartMode::InitialCluster(list) => {
            let mut list = list.clone();
            list.sort_by_key(|member| member.node);
            let members = list.iter().map(|member| {
                first(member.node, &member.peer_address, member.client_address.as_deref().unwrap_or(""))
            });
            let beginning = Beginning::First { members: members.collect() };
            Ok(Origin::new(cluster_id_of(&list), node, beginning))
        }
        StartMode::Join { endpoints, .. } => join(config, endpoints, advertised).await,
        StartMode::Resume => Err(StartError::NothingToResume { dir: config.data_dir.clone() }),
    }
}

/// The same list gives the same cluster on every node, in whatever order it is written.
fn cluster_id_of(sorted: &[InitialMember]) -> u64 {
    let lines = sorted.iter().map(|member| format!("{}={}\n", member.node, member.peer_address));
    fnv1a(lines.collect::<String>().as_bytes()).max(1)
}

/// Two clusters must not meet by accident; a clock and an address in memory are chance enough for that.
fn random_cluster_id() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u128(std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos()));
    hasher.finish().max(1)
}

async fn join(
    config: &ServerConfig,
    endpoints: &[String],
    advertised: &Advertised,
) -> Result<Origin, StartError> {
    let failed = |problem: String| StartError::Join { endpoints: endpoints.join(","), problem };
    let options = ClientOptions { deadline: config.timings.join_timeout, ..ClientOptions::default() };
    let client = Client::connect(endpoints, options).map_err(|error| failed(error.to_string()))?;
    let added = client.member_add(config.node.0, &advertised.peer, &advertised.client).await;
    let added = added.map_err(|error| failed(join_problem(&error)))?;
    let seeds = added.seeds.into_iter().map(|seed| Seed {
        replica_id: seed.replica_id,
        node_id: seed.node_id,
        peer_address: seed.peer_address,
    });
    let beginning = Beginning::Joined { replica_id: added.replica_id, seeds: seeds.collect() };
    Ok(Origin::new(added.cluster_id, config.node, beginning))
}

fn join_problem(error: &ClientError) -> String {
    if let ClientError::Rejected(rejection) = error
        && rejection.code == ErrorCode::MembershipRefused
    {
        return rejection.message.clone();
    }
    format!("no cluster took this node: {error}; check that these are client addresses of a running cluster")
}

/// Checks that a directory that is not empty is the one meant.
pub(crate) async fn check_origin(config: &ServerConfig, origin: &Origin) -> Result<(), StartError> {
    let wrong = |problem| Err(StartError::WrongDirectory { dir: config.data_dir.clone(), problem });
    if origin.node_id != config.node.0 {
        return wrong(format!(
            "it belongs to node {}, not to node {}: use this node's own directory or an empty one",
            origin.node_id, config.node
        ));
    }
    let ours = origin.cluster_id();
    let theirs = match &config.start {
        StartMode::InitialCluster(list) if matches!(origin.beginning, Beginning::First { .. }) => {
            let mut list = list.clone();
            list.sort_by_key(|member| member.node);
            Some(cluster_id_of(&list))
        }
        StartMode::Join { endpoints, .. } => cluster_behind(endpoints).await,
        StartMode::InitialCluster(_) | StartMode::Bootstrap | StartMode::Resume => None,
    };
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => wrong(format!(
            "it belongs to cluster {ours:016x}, not to {theirs:016x}: use a directory of that cluster or an empty one"
        )),
        _ => Ok(()),
    }
}

/// The cluster that the endpoints belong to, if one of them says so soon.
async fn cluster_behind(endpoints: &[String]) -> Option<u64> {
    let options = ClientOptions { deadline: MISMATCH_CHECK, ..ClientOptions::default() };
    let client = Client::connect(endpoints, options).ok()?;
    Some(client.status().await.ok()?.cluster_id)
}

/// Whether there is something that is no directory, there or on the way there.
fn is_something_else(dir: &Path) -> bool {
    match std::fs::metadata(dir) {
        Ok(found) => !found.is_dir(),
        Err(error) => error.kind() == std::io::ErrorKind::NotADirectory,
    }
}

/// The origin as the directory says it, in words for people if it cannot be read.
pub(crate) fn load(dir: &Path) -> Result<Option<Origin>, StartError> {
    if is_something_else(dir) {
        let problem =
            "it is a file, or a part of its path is: name a directory, or one that can be made".to_owned();
        return Err(StartError::WrongDirectory { dir: dir.to_owned(), problem });
    }
    Origin::load(dir).map_err(|problem| StartError::Storage { dir: dir.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64, peer_address: &str) -> InitialMember {
        InitialMember { node: NodeId(node), peer_address: peer_address.to_owned(), client_address: None }
    }

    fn config(start: StartMode) -> ServerConfig {
        ServerConfig::new(NodeId(1), "unused", start)
    }

    #[tokio::test]
    async fn all_nodes_make_the_same_cluster_of_the_same_list() {
        let advertised = Advertised { peer: "a:1".to_owned(), client: "a:2".to_owned() };
        let forward = config(StartMode::InitialCluster(vec![member(1, "a:1"), member(2, "b:1")]));
        let mut backward = config(StartMode::InitialCluster(vec![member(2, "b:1"), member(1, "a:1")]));
        backward.node = NodeId(2);
        let (one, two) =
            (begin(&forward, &advertised).await.unwrap(), begin(&backward, &advertised).await.unwrap());
        assert_eq!((one.cluster_id(), &one.beginning), (two.cluster_id(), &two.beginning));
        let other = config(StartMode::InitialCluster(vec![member(1, "a:1"), member(2, "c:1")]));
        assert_ne!(begin(&other, &advertised).await.unwrap().cluster_id(), one.cluster_id());
        let problem = check_origin(&other, &one).await.unwrap_err().to_string();
        assert!(problem.contains("belongs to cluster"), "{problem}");
    }

    #[test]
    fn lists_that_cannot_work_are_refused() {
        for list in [
            vec![member(2, "b:1")],
            vec![member(1, "a:1"), member(1, "b:1")],
            vec![member(1, "a:1"), member(2, "a:1")],
            vec![member(1, "a")],
            vec![member(1, "a:1"), member(0, "b:1")],
        ] {
            let error = check(&config(StartMode::InitialCluster(list.clone()))).unwrap_err();
            assert!(error.to_string().starts_with("--initial-cluster"), "{list:?}: {error}");
        }
    }

    #[test]
    fn an_address_that_means_everywhere_is_not_advertised() {
        let mut config = config(StartMode::Bootstrap);
        let error = peer_advertise(&config, "0.0.0.0:7001").unwrap_err().to_string();
        assert!(error.starts_with("--peer-advertise"), "{error}");
        config.peer_advertise = Some("node-1:7001".to_owned());
        assert_eq!(peer_advertise(&config, "0.0.0.0:7001").unwrap(), "node-1:7001");
    }
}
