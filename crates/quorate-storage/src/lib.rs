//! Durable Raft logs and snapshots for many groups.

mod disk;
mod error;
mod log_store;
mod snapshot_store;

pub use disk::{Disk, DiskFile, DiskLock};
pub use error::{Damage, LogError, SnapshotError};
pub use log_store::{GroupState, GroupWrite, LogBatch, LogReader, LogStats, LogStore, WriteDone};
pub use snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter};
