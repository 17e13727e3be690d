//! Whom this node has met: every other node's id with the incarnation of its data directory.
//!
//! ```text
//!   first contact ──► recognise ──► PEERS.tmp, sync, rename, sync ──► only now the peer is heard
//!   later contact ──► recognise ──► the same incarnation: yes. Another one: no, for ever
//! ```
//!
//! A wiped directory has forgotten the votes it gave. If those it gave them to have been restarted
//! since, only what they have on disk tells that the node which now has this id is another one.
//!
//! * A node is noted durably before anything it says counts.
//! * A note is never changed and never removed: node ids are not used twice.
//! * A write that failed has noted nothing; the next contact writes the whole file again, under a
//!   temporary name, so that nothing depends on what the failed write left.
//!
//! Not here: who is asked, and what a refusal looks like (`quorate::transport`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use quorate_core::NodeId;

use crate::data_dir::DataDirError;
use crate::disk::{Disk, replace_file};

/// The file.
pub(crate) const PEERS: &str = "PEERS";
const MAGIC: &[u8; 8] = b"QUORPEER";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const PEER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// The nodes that this one has met, on disk.
pub struct KnownPeers {
    disk: Arc<dyn Disk>,
    incarnations: BTreeMap<NodeId, u64>,
}

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecogniseError {
    /// The id belongs to another data directory.
    #[error("node {node} is known with another data directory")]
    OtherDirectory {
        /// The node.
        node: NodeId,
    },
    /// There is no room for another node.
    #[error("{} nodes are known already", KnownPeers::PEERS_MAX)]
    Full,
    /// It could not be noted.
    #[error("writing PEERS in the data directory: {0}")]
    Io(#[from] io::Error),
}

impl KnownPeers {
    /// The most nodes that are ever noted: every id that was ever in contact counts.
    pub const PEERS_MAX: usize = 1 << 16;

    /// Reads what is known on `disk`; a directory without the file knows nobody.
    ///
    /// # Errors
    /// Newer, damaged, or the disk said no.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { context: "reading PEERS", source: Arc::new(source) };
        let incarnations = match disk.open(Path::new(PEERS)) {
            Ok(file) => {
                // One byte more than the longest file: a longer one is not ours, whatever is in it.
                let longest = HEADER_BYTES + Self::PEERS_MAX * PEER_BYTES + CRC_BYTES + 1;
                let size = usize::try_from(file.size().map_err(failed)?).unwrap_or(longest);
                let mut bytes = vec![0; size.min(longest)];
                let found = file.read_at(&mut bytes, 0).map_err(failed)?;
                bytes.truncate(found);
                decode(&bytes)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { disk, incarnations })
    }

    /// The nodes that were ever met, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.incarnations.keys().copied()
    }

    /// Whether `node` may speak from the directory with this incarnation. A node that was never met
    /// is noted first, durably: this may wait for the disk.
    ///
    /// # Errors
    /// It is another directory, there is no room, or the disk said no. Nothing has changed then.
    pub fn recognise(&mut self, node: NodeId, incarnation: u64) -> Result<(), RecogniseError> {
        match self.incarnations.get(&node) {
            Some(known) if *known == incarnation => return Ok(()),
            Some(_) => return Err(RecogniseError::OtherDirectory { node }),
            None => {}
        }
        if self.incarnations.len() >= Self::PEERS_MAX {
            return Err(RecogniseError::Full);
        }
        self.incarnations.insert(node, incarnation);
        if let Err(error) = replace_file(&*self.disk, Path::new(PEERS), &encode(&self.incarnations)) {
            self.incarnations.remove(&node);
            return Err(error.into());
        }
        Ok(())
    }
}

fn encode(incarnations: &BTreeMap<NodeId, u64>) -> Vec<u8> {
    let count = u32::try_from(incarnations.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + incarnations.len() * PEER_BYTES + CRC_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    for (node, incarnation) in incarnations {
        bytes.extend_from_slice(&node.0.to_le_bytes());
        bytes.extend_from_slice(&incarnation.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<NodeId, u64>, DataDirError> {
    let damaged = |what| DataDirError::PeersDamaged { what };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged("it does not start as it should"));
    }
    let version = number(bytes, 8).map(u32::from_le_bytes).ok_or_else(|| damaged("it is too short"))?;
    if version > FORMAT_VERSION {
        return Err(DataDirError::Version { found: version, known: FORMAT_VERSION });
    }
    let count = number(bytes, 12).map(u32::from_le_bytes).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count <= KnownPeers::PEERS_MAX);
    let end = count.map(|count| HEADER_BYTES + count * PEER_BYTES);
    let Some(end) = end.filter(|end| version == FORMAT_VERSION && bytes.len() == end + CRC_BYTES) else {
        return Err(damaged("it has the wrong length or version"));
    };
    let (content, crc) = bytes.split_at(end);
    if crc != crc32c::crc32c(content).to_le_bytes() {
        return Err(damaged("its checksum does not hold"));
    }
    let (peers, _) = content[HEADER_BYTES..].as_chunks::<PEER_BYTES>();
    let mut incarnations = BTreeMap::new();
    for peer in peers {
        let (Some(node), Some(incarnation)) = (number(peer, 0), number(peer, 8)) else {
            return Err(damaged("it is too short"));
        };
        incarnations.insert(NodeId(u64::from_le_bytes(node)), u64::from_le_bytes(incarnation));
    }
    Ok(incarnations)
}

fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<[u8; BYTES]> {
    bytes.get(at..)?.first_chunk().copied()
}
