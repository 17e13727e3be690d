//! Whether a disk is low on space, by what its file systems say.
//!
//! ```text
//!   free bytes   ── a quarter more ──────────  entries are taken again
//!                ── free_bytes_min ──────────  none are taken below
//!                   what is left is for what goes on: applying what was committed, votes, snapshots, compaction
//! ```
//!
//! * The log is not the only one that writes: a state machine that keeps its data on the same disk needs space for what
//!   has been committed, and cannot be told to wait. So the log stops first.
//! * Between the two bounds nothing changes, so that whoever frees just a little does not make it swing to and fro.
//!
//! Not here: asking the disk, and when (the runtime does); refusing entries (`LogWriter`).

use quorate_storage::DiskSpace;

/// Remembers whether the disk is low.
#[derive(Clone, Debug)]
pub struct SpaceWatch {
    free_bytes_min: Option<u64>,
    is_low: bool,
}

impl SpaceWatch {
    /// Below this much a disk is low unless it is said otherwise, in bytes; on a small file system below a
    /// sixteenth of it.
    pub const FREE_BYTES_MIN: u64 = 64 << 20;
    const SHARE: u64 = 16;

    /// A watch for [`crate::HostConfig::disk_free_bytes_min`].
    #[must_use]
    pub const fn new(free_bytes_min: Option<u64>) -> Self {
        Self { free_bytes_min, is_low: false }
    }

    /// Whether it is of any use to look.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.free_bytes_min != Some(0)
    }

    /// Looks at what one or more file systems say. Whether the disk is low on space: whether one of them is.
    pub fn look(&mut self, found: impl IntoIterator<Item = DiskSpace>) -> bool {
        let was_low = self.is_low;
        let is_low = |space: DiskSpace| {
            let min = self.least_of(space.total_bytes);
            space.free_bytes < if was_low { min.saturating_add(min / 4) } else { min }
        };
        self.is_low = found.into_iter().any(is_low);
        self.is_low
    }

    /// The least that must be free of a file system of this size, in bytes.
    #[must_use]
    pub fn least_of(&self, total_bytes: u64) -> u64 {
        self.free_bytes_min.unwrap_or(Self::FREE_BYTES_MIN.min(total_bytes / Self::SHARE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(free_bytes_min: Option<u64>, total_bytes: u64, free: &[u64]) -> Vec<bool> {
        let mut watch = SpaceWatch::new(free_bytes_min);
        free.iter()
            .map(|free_bytes| watch.look([DiskSpace { free_bytes: *free_bytes, total_bytes }]))
            .collect()
    }

    #[test]
    fn a_disk_is_low_until_a_quarter_more_is_free() {
        let seen = looks(Some(1000), 1 << 40, &[1000, 999, 1000, 1249, 1250, 1000, 999]);
        assert_eq!(seen, [false, true, true, true, false, false, true]);
    }

    #[test]
    fn by_default_a_small_disk_needs_less_free() {
        let tenth = SpaceWatch::FREE_BYTES_MIN / 10;
        assert_eq!(looks(None, 1 << 40, &[10 * tenth + 10, 9 * tenth]), [false, true]);
        assert_eq!(looks(None, 160 * tenth / 10, &[tenth, tenth - 1]), [false, true]);
        assert_eq!(looks(Some(0), 1 << 40, &[0]), [false], "switched off");
        assert!(!SpaceWatch::new(Some(0)).is_wanted() && SpaceWatch::new(None).is_wanted());
    }

    #[test]
    fn one_full_file_system_is_enough() {
        let of = |free_bytes| DiskSpace { free_bytes, total_bytes: 1 << 40 };
        let mut watch = SpaceWatch::new(Some(1000));
        assert!(watch.look([of(5000), of(10)]));
        assert!(watch.look([of(5000), of(1100)]));
        assert!(!watch.look([of(5000), of(5000)]));
        assert!(!watch.look([]), "nothing is known");
    }
}
