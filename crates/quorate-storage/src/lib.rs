//! Durable Raft logs and snapshots for many groups.
//!
//! ```text
//!   log writer ──► LogStore ◄── MemLogStore, Wal ──┐
//!   applier, peers ──► LogReader                   ├──► Disk ◄── OsDisk, MemDisk, the simulator's
//!   snapshotter ──► SnapshotStore ◄── Mem…, File… ─┘    (and Discard…, which keeps nothing)
//! ```
//!
//! * [`LogStore`] holds term, vote and log of every group of a node; one [`LogBatch`] is one atomic
//!   write. [`Wal`] is the durable one: all groups share its segments and its syncs. With the
//!   feature `redb` there is `RedbLogStore`, a single file, for small and quiet logs.
//! * [`SnapshotStore`] holds finished snapshots, verified chunk by chunk.
//! * [`DataDir`] says whose directory it is and that one process uses it; [`KnownPeers`] whom that one has met.
//! * [`Disk`] is the only way to files. [`MemDisk`] forgets, tears and fails on demand; [`OverlayDisk`] looks at a
//!   disk without changing it.
//! * [`wal_tools`] look at a log without opening it, and cut a damaged one by consent.
//! * [`conformance`] is for those who write another store.
//!
//! Nothing here spawns threads, reads a clock or knows what commands mean. The bytes on disk are in
//! `docs/formats.md`.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use quorate_core::{Entry, EntryPayload, GroupId, LogId, LogIndex};
//! use quorate_storage::{GroupWrite, LogBatch, LogStore, MemDisk, Wal, WalConfig};
//!
//! let disk = MemDisk::new();
//! let open = || Wal::open(Arc::new(disk.clone()), Path::new("wal"), WalConfig::default());
//!
//! let mut wal = open()?;
//! let entry = Entry { id: LogId::new(1, 1), payload: EntryPayload::Command("hello".into()) };
//! let write = GroupWrite { group: GroupId(1), entries: vec![entry.clone()].into(), ..GroupWrite::default() };
//! wal.write(LogBatch { groups: vec![write] }, true, Box::new(|outcome| assert!(outcome.is_ok())));
//! wal.flush()?; // One sync for everything queued, then the completions.
//!
//! drop(wal);
//! disk.crash(0);
//! let found = open()?.reader().read(GroupId(1), LogIndex(1)..LogIndex(2), 1 << 20)?;
//! assert_eq!(found, [entry]);
//! # Ok::<(), quorate_storage::LogError>(())
//! ```

pub mod conformance;
mod data_dir;
mod discard_snapshot_store;
mod disk;
mod entry_window;
mod error;
mod file_snapshot_store;
mod group_log;
mod known_peers;
mod log_kind;
mod log_store;
mod mem_disk;
mod mem_log_store;
mod mem_snapshot_store;
mod os_disk;
mod overlay_disk;
#[cfg(feature = "redb")]
mod redb_log_store;
mod shared_members;
mod snapshot_kind;
mod snapshot_store;
mod staging;
mod wal;

pub use data_dir::{DataDir, DataDirError, Identity};
pub use discard_snapshot_store::DiscardSnapshotStore;
pub use disk::{Disk, DiskFile, DiskLock, DiskSpace};
pub use error::{Damage, DamagedEntries, LogError, SnapshotError};
pub use file_snapshot_store::FileSnapshotStore;
pub use known_peers::{KnownPeers, RecogniseError};
pub use log_kind::LogKind;
pub use log_store::{GroupState, GroupWrite, LogBatch, LogReader, LogStats, LogStore, WriteDone, write_now};
pub use mem_disk::{DiskFault, MemDisk, SECTOR_BYTES};
pub use mem_log_store::MemLogStore;
pub use mem_snapshot_store::MemSnapshotStore;
pub use os_disk::OsDisk;
pub use overlay_disk::OverlayDisk;
#[cfg(feature = "redb")]
pub use redb_log_store::{RedbConfig, RedbLogStore};
pub use snapshot_kind::SnapshotKind;
pub use snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter, read_to_end};
pub use staging::{MemStaging, Staging};
pub use wal::tools as wal_tools;
pub use wal::{RecoveryReport, Wal, WalConfig};
