//! What can be done with the data directory of a node that does not run: look at its log, cut a damaged one by consent, go
//! on alone after a majority is lost. All of it is the library's; the server adds which group is its own.

use std::path::Path;
use std::sync::Arc;

pub use quorate::wal_tools::*;
pub use quorate::{
    Damage, DataDir, DataDirError, ForcedRecovery, GroupId, GroupInspection, HardState, Inspection, LogError,
    LogId, Member, MembersFileError, NodeId, OfflineError, OsDisk, RecoverOptions, RecoveryAudit, ReplicaId,
    SurvivorError, inspect, members_from_json, members_from_toml, recover_cluster, recovery_with,
};

/// The group that holds the keys.
pub const GROUP: GroupId = crate::server::GROUP;

/// Takes the directory of whoever it belongs to, as long as the value lives.
///
/// # Errors
/// In use, of no node, damaged, or the disk said no.
pub fn take(directory: &Path) -> Result<DataDir, OfflineError> {
    let disk = Arc::new(OsDisk::new(directory));
    let identity = DataDir::inspect(&*disk)?.ok_or_else(|| OfflineError::Nobodys(directory.to_owned()))?;
    Ok(DataDir::open(disk, identity)?)
}
