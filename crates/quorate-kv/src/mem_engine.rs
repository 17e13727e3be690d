//! An engine in memory: volatile, or on a pretended disk that forgets unsynced writes in a crash.
//!
//! ```text
//!   MemEngine::volatile()            MemEngine::open(&disk)
//!      live                             live ◄─── every write
//!                                       disk: synced state │ unsynced batches, oldest first
//!                                             flush() ◄────┘     crash(kept) drops all but `kept`
//! ```
//!
//! * A disk outlives the engines on it. Opening it again, or a crash, shuts out the engine that was
//!   open: its writes fail and change nothing, like those of a process that is gone.
//! * Taking a view costs nothing; the first write while a view lives copies the map (not the values).
//!   Good for tests and small stores; a large one belongs in an engine on disk.
//! * Values are copied in, so that a short value does not keep a long message in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_core::LogId;
use quorate_core::planted::planted;
use quorate_host::{BatchEnd, MachineError, Recovered};

use crate::command::Item;
use crate::engine::{Changes, Engine, EngineView, KeyRange, Stored, Visit};

/// See the module's head.
pub struct MemEngine {
    live: Arc<State>,
    disk: Option<Opened>,
}

/// What a crash leaves of a [`MemEngine`]. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemEngineDisk {
    content: Arc<Mutex<DiskContent>>,
}

#[derive(Clone, Default)]
struct State {
    items: BTreeMap<Bytes, Stored>,
    records: BTreeMap<Bytes, Bytes>,
    applied: LogId,
}

#[derive(Default)]
struct DiskContent {
    /// Counts openings and crashes: an engine of an older generation is shut out.
    generation: u64,
    synced: State,
    unsynced: VecDeque<UnsyncedBatch>,
}

struct UnsyncedBatch {
    changes: Changes,
    records: Vec<(Bytes, Option<Bytes>)>,
    applied: LogId,
}

struct Opened {
    disk: MemEngineDisk,
    generation: u64,
}

impl MemEngineDisk {
    /// A disk with nothing on it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine loses power: of the batches not yet synced, the oldest `unsynced_batches_kept`
    /// survive. The engine that is open is shut out.
    pub fn crash(&self, unsynced_batches_kept: usize) {
        let mut content = self.lock();
        content.unsynced.truncate(unsynced_batches_kept);
        content.generation += 1;
    }

    /// How many batches a crash could still take.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.lock().unsynced.len()
    }

    fn lock(&self) -> MutexGuard<'_, DiskContent> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemEngine {
    /// An empty engine that keeps nothing across a restart.
    #[must_use]
    pub fn volatile() -> Self {
        Self { live: Arc::default(), disk: None }
    }

    /// The engine on `disk`, with everything that reached it, synced or not.
    #[must_use]
    pub fn open(disk: &MemEngineDisk) -> Self {
        let mut content = disk.lock();
        content.generation += 1;
        let mut state = content.synced.clone();
        for batch in &content.unsynced {
            state.apply(&batch.changes, batch.end());
        }
        let opened = Opened { disk: disk.clone(), generation: content.generation };
        drop(content);
        Self { live: Arc::new(state), disk: Some(opened) }
    }

    /// The disk's content, if this engine has one, and may still write to it.
    fn content(&self) -> Result<Option<MutexGuard<'_, DiskContent>>, MachineError> {
        let Some(opened) = &self.disk else { return Ok(None) };
        let content = opened.disk.lock();
        if content.generation != opened.generation {
            return Err(MachineError::new("the engine in memory crashed or was opened again"));
        }
        Ok(Some(content))
    }
}

impl UnsyncedBatch {
    fn end(&self) -> BatchEnd<'_> {
        BatchEnd { applied: self.applied, records: &self.records }
    }
}

impl State {
    fn apply(&mut self, changes: &Changes, end: BatchEnd<'_>) {
        for (key, change) in changes {
            match change {
                Some(stored) => self.insert(key, stored),
                None => {
                    self.items.remove(key);
                }
            }
        }
        for (key, record) in end.records {
            match record {
                Some(record) => {
                    self.records.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(record));
                }
                None => {
                    self.records.remove(key);
                }
            }
        }
        self.applied = end.applied;
    }

    fn insert(&mut self, key: &Bytes, stored: &Stored) {
        let stored = Stored { value: Bytes::copy_from_slice(&stored.value), version: stored.version };
        self.items.insert(Bytes::copy_from_slice(key), stored);
    }
}

impl EngineView for State {
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        Ok(self.items.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError> {
        // A map refuses a range that ends before it starts.
        if range.is_empty() {
            return Ok(());
        }
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for (key, stored) in self.items.range::<[u8], _>((Bound::Included(&*range.start), end)) {
            let item = Item { key: key.clone(), value: stored.value.clone(), version: stored.version };
            if visit(item).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct MemView {
    state: Arc<State>,
}

impl EngineView for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        self.state.get(key)
    }

    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError> {
        self.state.scan(range, visit)
    }
}

impl EngineView for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        self.live.get(key)
    }

    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError> {
        self.live.scan(range, visit)
    }
}

impl Engine for MemEngine {
    fn recovered(&self) -> Result<Recovered, MachineError> {
        let records = self.live.records.iter().map(|(key, record)| (key.clone(), record.clone()));
        Ok(Recovered { applied: self.live.applied, records: records.collect() })
    }

    fn write(&mut self, changes: &Changes, end: BatchEnd<'_>) -> Result<(), MachineError> {
        if let Some(mut content) = self.content()? {
            content.unsynced.push_back(UnsyncedBatch {
                changes: changes.clone(),
                records: end.records.to_vec(),
                applied: if planted("applied_apart_from_data") { self.live.applied } else { end.applied },
            });
        }
        Arc::make_mut(&mut self.live).apply(changes, end);
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn EngineView>, MachineError> {
        Ok(Box::new(MemView { state: self.live.clone() }))
    }

    fn replace_all(
        &mut self,
        items: &mut dyn Iterator<Item = Result<Item, MachineError>>,
        end: BatchEnd<'_>,
    ) -> Result<(), MachineError> {
        // First nothing, durably: whatever happens from here on, the restore is seen to be unfinished.
        let before = std::mem::take(&mut self.live);
        if let Some(mut content) = self.content()? {
            content.unsynced.clear();
            content.synced = State::default();
        }
        let mut state = if planted("restore_keeps_old_items") { (*before).clone() } else { State::default() };
        for item in items {
            let Item { key, value, version } = item?;
            state.insert(&key, &Stored { value, version });
        }
        state.apply(&Changes::new(), end);
        if let Some(mut content) = self.content()? {
            content.synced = state.clone();
        }
        self.live = Arc::new(state);
        Ok(())
    }

    fn is_durable(&self) -> bool {
        self.disk.is_some()
    }

    fn flush(&mut self) -> Result<LogId, MachineError> {
        let Some(mut guard) = self.content()? else { return Ok(LogId::default()) };
        let content = &mut *guard;
        for batch in std::mem::take(&mut content.unsynced) {
            content.synced.apply(&batch.changes, batch.end());
        }
        Ok(content.synced.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_conformance::{CrashKind, EngineUnderTest, check_engine};

    #[derive(Default)]
    struct OnMemDisk {
        disk: MemEngineDisk,
        kept: usize,
    }

    impl EngineUnderTest for OnMemDisk {
        fn wipe(&mut self) {
            self.disk = MemEngineDisk::new();
        }

        fn open(&mut self) -> Result<Box<dyn Engine>, MachineError> {
            Ok(Box::new(MemEngine::open(&self.disk)))
        }

        fn crash(&mut self) -> CrashKind {
            self.disk.crash(self.kept);
            CrashKind::UnsyncedWritesLost
        }
    }

    #[test]
    fn the_engine_in_memory_conforms_whatever_a_crash_keeps() {
        for kept in [0, 1, 3, usize::MAX] {
            check_engine(&mut OnMemDisk { kept, ..OnMemDisk::default() }).unwrap();
        }
    }

    #[test]
    fn a_volatile_engine_never_claims_to_be_durable() {
        let mut engine = MemEngine::volatile();
        engine.write(&Changes::new(), BatchEnd { applied: LogId::new(1, 7), records: &[] }).unwrap();
        assert!(!engine.is_durable());
        assert_eq!(engine.flush().unwrap(), LogId::default());
    }

    #[test]
    fn an_engine_from_before_a_crash_cannot_write_any_more() {
        let disk = MemEngineDisk::new();
        let mut before = MemEngine::open(&disk);
        disk.crash(0);
        let mut after = MemEngine::open(&disk);
        let end = BatchEnd { applied: LogId::new(1, 1), records: &[] };
        assert!(before.write(&Changes::new(), end).is_err());
        assert!(before.flush().is_err());
        after.write(&Changes::new(), end).unwrap();
        assert_eq!(disk.unsynced_batches(), 1);
    }
}
