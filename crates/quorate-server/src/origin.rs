//! How this node came to its cluster, written once into its data directory.
//!
//! ```text
//!   empty directory + start mode ──► origin ──► cluster.json ──► the group begins
//!   cluster.json ──────────────────────────────────┘  the same start, however often it is repeated
//! ```
//!
//! * The file is complete and durable before anything else of the node is: after a crash at any point the
//!   identical command goes on from there, and a joining node does not ask to be added a second time.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use quorate::{Member, MemberRole, NodeId, ReplicaId, Start};
use serde::{Deserialize, Serialize};

/// The file's name in the data directory.
pub(crate) const FILE: &str = "cluster.json";
const FORMAT: u32 = 1;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    format: u32,
    /// Hexadecimal.
    cluster_id: String,
    pub(crate) node_id: u64,
    pub(crate) beginning: Beginning,
}

/// How the node's replica began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Beginning {
    /// As one of the first members.
    First { members: Vec<FirstMember> },
    /// Added to a running cluster.
    Joined { replica_id: u64, seeds: Vec<Seed> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstMember {
    pub(crate) node_id: u64,
    pub(crate) peer_address: String,
    pub(crate) client_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seed {
    pub(crate) replica_id: u64,
    pub(crate) node_id: u64,
    pub(crate) peer_address: String,
}

impl Origin {
    pub(crate) fn new(cluster_id: u64, node: NodeId, beginning: Beginning) -> Self {
        Self { format: FORMAT, cluster_id: format!("{cluster_id:016x}"), node_id: node.0, beginning }
    }

    /// The cluster, if the file says one.
    pub(crate) fn cluster_id(&self) -> Option<u64> {
        u64::from_str_radix(&self.cluster_id, 16).ok()
    }

    /// Whether this node is the first in the list of a cluster's first members.
    pub(crate) fn is_first_of_new_cluster(&self) -> bool {
        match &self.beginning {
            Beginning::First { members } => {
                members.first().is_some_and(|first| first.node_id == self.node_id)
            }
            Beginning::Joined { .. } => false,
        }
    }

    pub(crate) fn start(&self) -> Start {
        match &self.beginning {
            Beginning::First { members } => Start::Bootstrap {
                members: members
                    .iter()
                    .map(|member| Member {
                        node: NodeId(member.node_id),
                        role: MemberRole::Voter,
                        peer_address: member.peer_address.clone(),
                        client_address: member.client_address.clone(),
                    })
                    .collect(),
            },
            Beginning::Joined { replica_id, seeds } => Start::Join {
                replica: ReplicaId(*replica_id),
                seeds: seeds
                    .iter()
                    .map(|seed| (ReplicaId(seed.replica_id), NodeId(seed.node_id), seed.peer_address.clone()))
                    .collect(),
            },
        }
    }

    /// What the directory says; `None` if it says nothing yet.
    ///
    /// # Errors
    /// The file cannot be read or makes no sense; the text says so.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>, String> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{FILE}: {error}")),
        };
        let origin: Self =
            serde_json::from_slice(&text).map_err(|error| format!("{FILE} is damaged ({error})"))?;
        if origin.format > FORMAT {
            return Err(format!("{FILE} has format {}: use a newer build", origin.format));
        }
        if origin.cluster_id().is_none() {
            return Err(format!("{FILE} is damaged (the cluster id is no hexadecimal number)"));
        }
        Ok(Some(origin))
    }

    /// Writes it so that it is there completely or not at all.
    ///
    /// # Errors
    /// The disk said no.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let (path, new) = (dir.join(FILE), dir.join("cluster.json.tmp"));
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Origin::load(dir.path()).unwrap(), None);
        let seed = Seed { replica_id: 1, node_id: 1, peer_address: "a:1".to_owned() };
        let origin = Origin::new(u64::MAX, NodeId(4), Beginning::Joined { replica_id: 4, seeds: vec![seed] });
        origin.save(dir.path()).unwrap();
        assert_eq!(Origin::load(dir.path()).unwrap().unwrap(), origin);
        assert_eq!(origin.cluster_id(), Some(u64::MAX));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for damage in ["", "{", "{\"format\":1}", "\u{fffd}"] {
            fs::write(dir.path().join(FILE), damage).unwrap();
            assert!(Origin::load(dir.path()).unwrap_err().contains(FILE), "{damage:?}");
        }
    }
}
