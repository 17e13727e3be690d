//! Durable Raft logs and snapshots for many groups.

pub mod conformance;
mod data_dir;
mod disk;
mod entry_window;
mod error;
mod file_snapshot_store;
mod group_log;
mod log_store;
mod mem_disk;
mod mem_log_store;
mod mem_snapshot_store;
mod os_disk;
mod snapshot_store;
mod wal;

pub use data_dir::{DataDir, DataDirError, Identity};
pub use disk::{Disk, DiskFile, DiskLock};
pub use error::{Damage, LogError, SnapshotError};
pub use file_snapshot_store::FileSnapshotStore;
pub use log_store::{GroupState, GroupWrite, LogBatch, LogReader, LogStats, LogStore, WriteDone};
pub use mem_disk::{DiskFault, MemDisk, SECTOR_BYTES};
pub use mem_log_store::MemLogStore;
pub use mem_snapshot_store::MemSnapshotStore;
pub use os_disk::OsDisk;
pub use snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter};
pub use wal::{RecoveryReport, Wal, WalConfig};
