//! A node's directory: whose it is, and that only one process uses it.
//!
//!   LOCK         held by the running process; its process id is inside
//!   NODE         format version, cluster, node, incarnation, kinds of log and of snapshot store (checksummed)
//!   PEERS        the incarnations of the nodes it has met (`known_peers`)
//!   STARTED      no content: the log has been made (below)
//!   wal/         the log of all groups, if it is the WAL
//!   log/         the log of all groups, if it is of another kind
//!   snapshots/   finished snapshots
//!   engine/      belongs to the server
//!
//! The incarnation is drawn when the directory is made. Peers refuse a node whose directory has
//! another one than they know: a wiped, swapped or copied directory must not vote on behalf of the
//! old one.
//!
//! The kind of log is drawn up once, too: a node that looked for its log in the wrong place would find none,
//! and forget what it promised. The kind of snapshot store is claimed by the first that is used
//! (`claim_snapshots`): another one would not find what the log was compacted below.
//!
//! For the same reason a log that is gone must not be taken for one that was never made. The first start goes
//!
//!   directories ──► NODE ──► the log, durable and empty ──► STARTED ──► the first promise
//!
//! with a sync behind every step. Interrupted anywhere, the next start finds STARTED only where the log is durable, and
//! no promise without STARTED. So STARTED without a log is a log that was lost, and nothing else is. A directory of a
//! build that knew nothing of STARTED gets it as soon as its log has been opened.
//!
//! Not here: drawing the incarnation (chance is an input), the contents of the directories.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::NodeId;

use crate::disk::{Disk, DiskLock, replace_file};
use crate::file_snapshot_store::is_snapshot_file;
use crate::known_peers::{self, KnownPeers};
use crate::log_kind::LogKind;
use crate::snapshot_kind::SnapshotKind;

const LOCK: &str = "LOCK";
const NODE: &str = "NODE";
const STARTED: &str = "STARTED";
const MAGIC: &[u8; 8] = b"QUORNODE";
/// The kind of log is not written: it is the WAL.
const VERSION_WAL: u32 = 1;
/// With the kind of log.
const VERSION_KIND: u32 = 2;
/// The newest version, with the kind of snapshot store as well.
const VERSION_SNAPSHOTS: u32 = 3;
/// Everything before the kind of log, or the checksum.
const FIXED_BYTES: usize = 44;
const CRC_BYTES: usize = 4;
/// The longest file: two names, each with a byte of length, between the fixed part and the checksum.
const NODE_BYTES_MAX: usize = FIXED_BYTES + 2 * (1 + LogKind::NAME_BYTES_MAX) + CRC_BYTES;

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u128,
    /// The node.
    pub node: NodeId,
    /// Drawn at random when a directory is made; never changes.
    pub incarnation: u64,
}

/// A directory that this process holds.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    identity: Identity,
    kind: LogKind,
    snapshot_kind: SnapshotKind,
    is_new: bool,
    _lock: Box<dyn DiskLock>,
}

/// Why a data directory cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process has it.
    #[error("the data directory is in use{}: stop that process or use another directory", by(*.holder_pid))]
    InUse {
        /// The process, if it could be found out.
        holder_pid: Option<u32>,
    },
    /// It belongs to another cluster.
    #[error(
        "the data directory belongs to cluster {found:032x}, not to {expected:032x}: use the right one or an empty one"
    )]
    OtherCluster {
        /// The directory's.
        found: u128,
        /// Ours.
        expected: u128,
    },
    /// It belongs to another node.
    #[error(
        "the data directory belongs to node {found}, not to node {expected}: use the right one or an empty one"
    )]
    OtherNode {
        /// The directory's.
        found: NodeId,
        /// Ours.
        expected: NodeId,
    },
    /// Its log is of another kind.
    #[error(
        "the data directory keeps its log as `{found}`, not as `{expected}`: start with `{found}`, or remove this node from its groups and add it again with a new id and an empty directory"
    )]
    OtherLog {
        /// The directory's.
        found: LogKind,
        /// The one asked for.
        expected: LogKind,
    },
    /// Its snapshots are kept elsewhere.
    #[error(
        "the data directory keeps its snapshots as `{found}`, not as `{expected}`: start with `{found}`, or remove this node from its groups and add it again with a new id and an empty directory"
    )]
    OtherSnapshots {
        /// The directory's.
        found: SnapshotKind,
        /// The one asked for.
        expected: SnapshotKind,
    },
    /// It was written by a newer build.
    #[error(
        "the data directory has format version {found}, this build knows {known}: use a build at least as new as the last one"
    )]
    Version {
        /// The directory's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The NODE file is not what was written.
    #[error(
        "NODE is damaged ({what}): restore this node from its peers: remove it, then add it again with a new id and an empty directory"
    )]
    Damaged {
        /// What does not hold.
        what: &'static str,
    },
    /// The PEERS file is not what was written.
    #[error(
        "PEERS is damaged ({what}): restore this node from its peers: remove it, then add it again with a new id and an empty directory"
    )]
    PeersDamaged {
        /// What does not hold.
        what: &'static str,
    },
    /// There are data but no NODE file.
    #[error(
        "the data directory has no NODE file but contains {found}: it is not a data directory, or it has lost its identity"
    )]
    NoIdentity {
        /// What is there.
        found: String,
    },
    /// There is a NODE file but no log.
    #[error(
        "the data directory has lost its log (there is none in {directory}/): put its files back, or restore this node from its peers: remove it, then add it again with a new id and an empty directory"
    )]
    LostLog {
        /// Where it was.
        directory: &'static str,
    },
    /// There is something else in its place.
    #[error("it is a file, or a part of its path is: name a directory, or one that can be made")]
    NotADirectory,
    /// The disk said no.
    #[error("the data directory: {context}: {source}")]
    Io {
        /// What was being done.
        context: &'static str,
        /// The cause.
        source: Arc<io::Error>,
    },
}

fn by(holder_pid: Option<u32>) -> String {
    holder_pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

fn failed(context: &'static str) -> impl Fn(io::Error) -> DataDirError {
    move |source| DataDirError::Io { context, source: Arc::new(source) }
}

impl DataDir {
    /// Where the log is, relative to the data directory, if it is the WAL.
    pub const WAL: &'static str = "wal";
    /// Where the log is if it is of another kind.
    pub const LOG: &'static str = "log";
    /// Where snapshots are.
    pub const SNAPSHOTS: &'static str = "snapshots";
    /// Where the server's engine is.
    pub const ENGINE: &'static str = "engine";

    /// Takes the directory, whose log is the WAL, for the node that `identity` says. A directory without identity gets
    /// it; one that has an identity must have the same cluster and node, and keeps its incarnation.
    ///
    /// # Errors
    /// In use, another's, newer, damaged, or the disk said no.
    pub fn open(disk: Arc<dyn Disk>, identity: Identity) -> Result<Self, DataDirError> {
        Self::open_with(disk, identity, LogKind::default())
    }

    /// The same for a log of any kind: a new directory gets this kind, any other must have it.
    ///
    /// # Errors
    /// As for `open`; `OtherLog`: the log is of another kind.
    pub fn open_with(disk: Arc<dyn Disk>, identity: Identity, kind: LogKind) -> Result<Self, DataDirError> {
        disk.create_dir_all(Path::new("")).map_err(|error| {
            let is_in_the_way = [io::ErrorKind::AlreadyExists, io::ErrorKind::NotADirectory];
            if is_in_the_way.contains(&error.kind()) {
                DataDirError::NotADirectory
            } else {
                failed("creating it")(error)
            }
        })?;
        let lock = disk.lock(Path::new(LOCK)).map_err(failed("taking LOCK"))?;
        let Some(lock) = lock else {
            return Err(DataDirError::InUse { holder_pid: holder(&*disk) });
        };
        let found = read_node(&*disk)?;
        let is_new = found.is_none();
        let (identity, snapshot_kind) = match found {
            Some(Node { identity: found, log, snapshots }) => {
                check(found, identity)?;
                if log != kind {
                    return Err(DataDirError::OtherLog { found: log, expected: kind });
                }
                refuse_lost_log(&*disk, &kind)?;
                // The process that made the names may have been killed before they were durable.
                disk.sync_dir(Path::new("")).map_err(failed("syncing names"))?;
                (found, snapshots)
            }
            None => {
                refuse_lost_identity(&*disk)?;
                for directory in [kind.directory(), Self::SNAPSHOTS, Self::ENGINE] {
                    disk.create_dir_all(Path::new(directory)).map_err(failed("creating directories"))?;
                }
                // Last, and only once the rest is durable: a directory with NODE has everything else.
                disk.sync_dir(Path::new("")).map_err(failed("syncing names"))?;
                let snapshots = SnapshotKind::default();
                write_node(&*disk, identity, &kind, &snapshots)?;
                (identity, snapshots)
            }
        };
        Ok(Self { disk, identity, kind, snapshot_kind, is_new, _lock: lock })
    }

    /// Notes that the snapshots are of this kind, durably, or refuses it because they are of another. A directory that
    /// has no snapshots in files, of a kind that was never noted, takes any; so does one that kept none.
    ///
    /// # Errors
    /// `OtherSnapshots`, or the disk said no.
    pub fn claim_snapshots(&mut self, kind: SnapshotKind) -> Result<(), DataDirError> {
        let found = &self.snapshot_kind;
        if *found == kind {
            return Ok(());
        }
        // Builds that noted nothing may have been started with any kind.
        let is_free = found.keeps_nothing() || (found.is_files() && !has_snapshot_files(&*self.disk)?);
        if !is_free {
            return Err(DataDirError::OtherSnapshots { found: found.clone(), expected: kind });
        }
        write_node(&*self.disk, self.identity, &self.kind, &kind)?;
        self.snapshot_kind = kind;
        Ok(())
    }

    /// The kind of its snapshots.
    #[must_use]
    pub const fn snapshot_kind(&self) -> &SnapshotKind {
        &self.snapshot_kind
    }

    /// Whose directory it is, without taking it; `None` if it is nobody's yet (or does not exist).
    ///
    /// # Errors
    /// Newer, damaged, or the disk said no.
    pub fn inspect(disk: &dyn Disk) -> Result<Option<Identity>, DataDirError> {
        Ok(Self::read(disk)?.map(|(identity, _)| identity))
    }

    /// Whose directory it is and which kind of log it has, without taking it.
    ///
    /// # Errors
    /// As for `inspect`.
    pub fn read(disk: &dyn Disk) -> Result<Option<(Identity, LogKind)>, DataDirError> {
        Ok(read_node(disk)?.map(|node| (node.identity, node.log)))
    }

    /// Notes that the log is there, so that from now on a directory without it is refused. Called after the
    /// log was opened, which made it durable, and before anything is promised from it. Does nothing if there
    /// is no file of a log yet, or if it is noted already.
    ///
    /// # Errors
    /// The disk said no; nothing may be promised then.
    pub fn note_log(&self) -> Result<(), DataDirError> {
        let noting = failed("writing STARTED");
        let path = Path::new(STARTED);
        if self.disk.exists(path).map_err(&noting)? || Files::of(&*self.disk, &self.kind)? != Files::Log {
            return Ok(());
        }
        replace_file(&*self.disk, path, &[]).map_err(noting)
    }

    /// Whether a process uses the directory now, without taking it.
    ///
    /// # Errors
    /// `InUse`: it does. `Io`: the disk said no.
    pub fn check_unused(disk: &dyn Disk) -> Result<(), DataDirError> {
        match disk.is_locked(Path::new(LOCK)).map_err(failed("looking at LOCK"))? {
            true => Err(DataDirError::InUse { holder_pid: holder(disk) }),
            false => Ok(()),
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// The kind of its log.
    #[must_use]
    pub const fn log_kind(&self) -> &LogKind {
        &self.kind
    }

    /// Whether this call of `open` gave the directory its identity.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// The nodes it has met.
    ///
    /// # Errors
    /// Newer, damaged, or the disk said no.
    pub fn known_peers(&self) -> Result<KnownPeers, DataDirError> {
        KnownPeers::open(self.disk())
    }

    /// The disk it is on.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// The path of the log, for [`crate::Wal::open`].
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        PathBuf::from(Self::WAL)
    }

    /// The path of the log, of whichever kind.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        PathBuf::from(self.kind.directory())
    }

    /// The path of the snapshots, for [`crate::FileSnapshotStore::open`].
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        PathBuf::from(Self::SNAPSHOTS)
    }
}

fn check(found: Identity, expected: Identity) -> Result<(), DataDirError> {
    if found.cluster != expected.cluster {
        return Err(DataDirError::OtherCluster { found: found.cluster, expected: expected.cluster });
    }
    if found.node != expected.node {
        return Err(DataDirError::OtherNode { found: found.node, expected: expected.node });
    }
    Ok(())
}

/// The process id in the LOCK file.
fn holder(disk: &dyn Disk) -> Option<u32> {
    let mut bytes = [0; 16];
    let found = disk.open(Path::new(LOCK)).and_then(|file| file.read_at(&mut bytes, 0)).ok()?;
    std::str::from_utf8(&bytes[..found]).ok()?.trim().parse().ok()
}

/// A directory that was used has an identity; without one it must not be taken for an empty one.
fn refuse_lost_identity(disk: &dyn Disk) -> Result<(), DataDirError> {
    // Both are only written next to NODE.
    for name in [STARTED, known_peers::PEERS] {
        if disk.exists(Path::new(name)).map_err(failed("looking around"))? {
            return Err(DataDirError::NoIdentity { found: name.to_owned() });
        }
    }
    for directory in [DataDir::WAL, DataDir::LOG, DataDir::SNAPSHOTS] {
        if let Some(name) = names_in(disk, directory)?.first() {
            return Err(DataDirError::NoIdentity { found: format!("{directory}/{name}") });
        }
    }
    Ok(())
}

/// A directory with an identity has a log, unless the very first start was interrupted before it was made:
/// one that has had a log and has none has forgotten what it promised.
fn refuse_lost_log(disk: &dyn Disk, kind: &LogKind) -> Result<(), DataDirError> {
    let directory = kind.directory();
    let lost = || DataDirError::LostLog { directory };
    // Made before NODE.
    if !disk.exists(Path::new(directory)).map_err(failed("looking around"))? {
        return Err(lost());
    }
    let has_had_one = match Files::of(disk, kind)? {
        Files::Log => return Ok(()),
        Files::Leftovers => true,
        Files::None => {
            let started = disk.exists(Path::new(STARTED)).map_err(failed("looking around"))?;
            // Builds that knew nothing of STARTED took snapshots as well.
            started || !names_in(disk, DataDir::SNAPSHOTS)?.is_empty()
        }
    };
    if has_had_one { Err(lost()) } else { Ok(()) }
}

/// What is in the directory of a log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    /// The log, or part of it: opening it says whether it is whole.
    Log,
    /// What is there only next to a log, and no log.
    Leftovers,
    /// Nothing but what an interrupted attempt to make a log may leave.
    None,
}

impl Files {
    fn of(disk: &dyn Disk, kind: &LogKind) -> Result<Self, DataDirError> {
        let names = names_in(disk, kind.directory())?;
        let is_any = |is: &dyn Fn(&str) -> bool| names.iter().any(|name| is(name));
        let found = if is_any(&|name| kind.is_file_of_log(name)) {
            Self::Log
        } else if is_any(&|name| kind.is_beside_log(name)) {
            Self::Leftovers
        } else {
            Self::None
        };
        Ok(found)
    }
}

/// The names in a directory, none if it is missing.
fn names_in(disk: &dyn Disk, directory: &str) -> Result<Vec<String>, DataDirError> {
    let path = Path::new(directory);
    match disk.exists(path).map_err(failed("looking around"))? {
        true => disk.list(path).map_err(failed("looking around")),
        false => Ok(Vec::new()),
    }
}

/// What NODE says.
struct Node {
    identity: Identity,
    log: LogKind,
    snapshots: SnapshotKind,
}

fn read_node(disk: &dyn Disk) -> Result<Option<Node>, DataDirError> {
    let file = match disk.open(Path::new(NODE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening NODE")(error)),
    };
    let mut bytes = [0; NODE_BYTES_MAX + 1];
    let found = file.read_at(&mut bytes, 0).map_err(failed("reading NODE"))?;
    decode(&bytes[..found]).map(Some)
}

fn write_node(
    disk: &dyn Disk,
    identity: Identity,
    kind: &LogKind,
    snapshots: &SnapshotKind,
) -> Result<(), DataDirError> {
    let bytes = encode(identity, kind, snapshots);
    replace_file(disk, Path::new(NODE), &bytes).map_err(failed("writing NODE"))
}

fn has_snapshot_files(disk: &dyn Disk) -> Result<bool, DataDirError> {
    Ok(names_in(disk, DataDir::SNAPSHOTS)?.iter().any(|name| is_snapshot_file(name)))
}

fn encode(identity: Identity, kind: &LogKind, snapshots: &SnapshotKind) -> Vec<u8> {
    // A directory with the WAL and files is as it always was, and builds that know nothing else can use it.
    let version = match (kind.is_wal(), snapshots.is_files()) {
        (_, false) => VERSION_SNAPSHOTS,
        (false, true) => VERSION_KIND,
        (true, true) => VERSION_WAL,
    };
    let mut bytes = Vec::with_capacity(NODE_BYTES_MAX);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&identity.cluster.to_le_bytes());
    bytes.extend_from_slice(&identity.node.0.to_le_bytes());
    bytes.extend_from_slice(&identity.incarnation.to_le_bytes());
    let names = [(VERSION_KIND, kind.name()), (VERSION_SNAPSHOTS, snapshots.name())];
    for (_, name) in names.into_iter().filter(|(since, _)| version >= *since) {
        // Names are short.
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(name.as_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Node, DataDirError> {
    let damaged = |what| DataDirError::Damaged { what };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged("it does not start as it should"));
    }
    let version = number::<4>(bytes, 8).map(u32::from_le_bytes).ok_or_else(|| damaged("it is too short"))?;
    if version > VERSION_SNAPSHOTS {
        return Err(DataDirError::Version { found: version, known: VERSION_SNAPSHOTS });
    }
    let mut end = FIXED_BYTES;
    let mut names = Vec::new();
    for since in [VERSION_KIND, VERSION_SNAPSHOTS] {
        if version >= since {
            let length = usize::from(*bytes.get(end).ok_or_else(|| damaged("it is too short"))?);
            names.push(bytes.get(end + 1..end + 1 + length).ok_or_else(|| damaged("it is too short"))?);
            end += 1 + length;
        }
    }
    if bytes.len() != end + CRC_BYTES {
        return Err(damaged("it has the wrong length"));
    }
    let fields = (number(bytes, 12), number(bytes, 28), number(bytes, 36), number(bytes, end));
    let (Some(cluster), Some(node), Some(incarnation), Some(crc)) = fields else {
        return Err(damaged("it is too short"));
    };
    if version < VERSION_WAL {
        return Err(damaged("it has the wrong version"));
    }
    if crc32c::crc32c(&bytes[..end]) != u32::from_le_bytes(crc) {
        return Err(damaged("its checksum does not hold"));
    }
    let mut names = names.into_iter().map(std::str::from_utf8);
    let log = match names.next() {
        None => Some(LogKind::default()),
        Some(name) => {
            name.ok().and_then(LogKind::new).filter(|kind| version > VERSION_KIND || !kind.is_wal())
        }
    };
    let snapshots = match names.next() {
        None => Some(SnapshotKind::default()),
        Some(name) => name.ok().and_then(SnapshotKind::new).filter(|kind| !kind.is_files()),
    };
    let identity = Identity {
        cluster: u128::from_le_bytes(cluster),
        node: NodeId(u64::from_le_bytes(node)),
        incarnation: u64::from_le_bytes(incarnation),
    };
    let log = log.ok_or_else(|| damaged("its kind of log has no proper name"))?;
    let snapshots = snapshots.ok_or_else(|| damaged("its kind of snapshot store has no proper name"))?;
    Ok(Node { identity, log, snapshots })
}

fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<[u8; BYTES]> {
    bytes.get(at..)?.first_chunk().copied()
}
