//! How much space is left on the disk of a node, looked at now and then.
//!
//! ```text
//!   log thread ──► SpaceGuard ──► every file system of the data directory ──► SpaceWatch ──► LogWriter
//!                  at most every LOOK_INTERVAL, at least every IDLE_INTERVAL
//! ```
//!
//! * It is the log that stops, so the log's thread looks: before what it writes next, and when it has nothing
//!   to write, so that metrics do not wait for a write.
//! * A file system that does not answer is left out: not knowing is no reason to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_host::SpaceWatch;
use quorate_storage::{DataDir, Disk, DiskSpace};

/// How often the space is looked at while the log is busy.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is while nothing is written.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Says when the disk of a data directory is low on space.
pub(crate) struct SpaceGuard {
    disk: Arc<dyn Disk>,
    /// Each may be on a file system of its own.
    directories: Vec<PathBuf>,
    watch: SpaceWatch,
    looked_at: Option<Instant>,
    is_low: bool,
    free_bytes: Option<u64>,
}

impl SpaceGuard {
    /// For [`quorate_host::HostConfig::disk_free_bytes_min`].
    pub(crate) fn new(directory: &DataDir, free_bytes_min: Option<u64>) -> Self {
        let names = [directory.log(), directory.snapshots(), PathBuf::from(DataDir::ENGINE)];
        Self {
            disk: directory.disk(),
            directories: [PathBuf::new()].into_iter().chain(names).collect(),
            watch: SpaceWatch::new(free_bytes_min),
            looked_at: None,
            is_low: false,
            free_bytes: None,
        }
    }

    /// How long its user may sleep before it looks again; `None`: for as long as there is nothing to do.
    pub(crate) fn look_within(&self) -> Option<Duration> {
        // A disk that once did not say how much is free never will.
        let is_known = self.looked_at.is_none() || self.free_bytes.is_some();
        (self.watch.is_wanted() && is_known).then_some(IDLE_INTERVAL)
    }

    /// What is left where the least is left, in bytes, as far as that is known.
    pub(crate) const fn free_bytes(&self) -> Option<u64> {
        self.free_bytes
    }

    /// Looks, unless that was a moment ago: whether the disk is low on space.
    pub(crate) fn is_low(&mut self) -> bool {
        let is_due = self.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= LOOK_INTERVAL);
        if self.watch.is_wanted() && is_due {
            self.looked_at = Some(Instant::now());
            self.look();
        }
        self.is_low
    }

    fn look(&mut self) {
        let look = |directory: &PathBuf| self.disk.space(directory).ok().flatten();
        let found: Vec<DiskSpace> = self.directories.iter().filter_map(look).collect();
        self.free_bytes = found.iter().map(|space| space.free_bytes).min();
        let is_low = self.watch.look(found);
        if is_low != std::mem::replace(&mut self.is_low, is_low) {
            self.tell();
        }
    }

    fn tell(&self) {
        let free_bytes = self.free_bytes.unwrap_or_default();
        if self.is_low {
            tracing::warn!(
                free_bytes,
                "the disk is low on space: writes are refused until more is free, so that what was written can be applied"
            );
        } else {
            tracing::info!(free_bytes, "there is space on the disk again: writes are taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::NodeId;
    use quorate_storage::{Identity, MemDisk, OsDisk};

    use super::*;

    fn guard(disk: impl Disk + 'static, free_bytes_min: Option<u64>) -> SpaceGuard {
        let identity = Identity { cluster: 1, node: NodeId(1), incarnation: 1 };
        SpaceGuard::new(&DataDir::open(Arc::new(disk), identity).unwrap(), free_bytes_min)
    }

    #[test]
    fn a_real_disk_says_how_much_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let mut roomy = guard(OsDisk::new(directory.path().join("a")), Some(1));
        assert!(!roomy.is_low() && roomy.free_bytes().is_some_and(|bytes| bytes > 1));
        let mut greedy = guard(OsDisk::new(directory.path().join("b")), Some(u64::MAX));
        assert!(greedy.is_low() && greedy.look_within().is_some());
    }

    #[test]
    fn a_disk_without_end_is_looked_at_once_and_an_unwanted_watch_never() {
        let mut endless = guard(MemDisk::new(), None);
        assert!(endless.look_within().is_some() && !endless.is_low());
        assert_eq!((endless.look_within(), endless.free_bytes()), (None, None));
        let disk = MemDisk::new();
        disk.set_capacity(Some(1 << 20));
        let mut unwanted = guard(disk, Some(0));
        assert!(unwanted.look_within().is_none() && !unwanted.is_low());
    }
}
