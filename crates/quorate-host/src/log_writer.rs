//! The log writer. Step 6 of the write path: everything that waits, of all groups, becomes durable
//! with one batch and one sync; then the completions go back to the host.
//!
//! ```text
//!   g1 W1  g2 W1  g1 W2        one round
//!      └──┬──┘      │
//!   batch { g1: W1+W2, g2: W1 } ──► flush ──► LogWritten g1 W1, g2 W1, g1 W2
//! ```
//!
//! * Writes of one group become durable in the order they were submitted.
//! * Out of space: what has entries fails, with everything behind it in its group, and until the first failed
//!   write of a group is submitted again, its later ones fail too, so that nothing overtakes it. What comes
//!   before an entry, and what only makes room (compaction), is written all the same.
//! * The disk is low on space: what has entries fails as if it were full; all others go on (see `space_watch`).
//! * A write that breaks the rules fails alone; its batch is written again without it.
//! * Removing a group ends a round (what follows may create it anew), and so do [`ROUND_BYTES_MAX`]: however much
//!   waits, a batch needs no more memory than that, and no record of the log is longer (one task always fits).
//!
//! Previous: `quorate-core/src/leader.rs`. Next: `quorate-core/src/follower.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use quorate_core::{Entry, EntryPayload, GroupId, PersistToken};
use quorate_storage::{GroupWrite, LogBatch, LogError, LogStats, LogStore, write_now};

use crate::event::{Event, LogTask, LogWritten};

/// The most payload bytes of a round with more than one task: far more than it takes for a sync to cost little
/// beside what it syncs.
const ROUND_BYTES_MAX: usize = 16 << 20;

/// Turns everything that waits into one batch and one sync.
pub struct LogWriter {
    store: Box<dyn LogStore>,
    waiting: Vec<LogTask>,
    /// Groups that ran out of space, with the write that must come first.
    blocked: BTreeMap<GroupId, PersistToken>,
    is_low_on_space: bool,
}

impl LogWriter {
    /// A writer on `store`.
    #[must_use]
    pub fn new(store: Box<dyn LogStore>) -> Self {
        Self { store, waiting: Vec::new(), blocked: BTreeMap::new(), is_low_on_space: false }
    }

    /// Submits tasks (cheap, no I/O). A group's tasks are written in the order of submission.
    pub fn submit(&mut self, tasks: Vec<LogTask>) {
        self.waiting.extend(tasks);
    }

    /// Writes and syncs everything submitted: blocks on the disk, if there is one. Returns the
    /// completions.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        while !waiting.is_empty() {
            let (round, rest) = take_round(waiting, ROUND_BYTES_MAX);
            waiting = rest;
            self.write_round(round, &mut events);
        }
        events
    }

    /// Writes and syncs one task of a group that is not open, and so has nothing submitted: blocks on the disk.
    ///
    /// # Errors
    /// It was not written; `NoSpace`: nothing has changed.
    pub fn write_now(&mut self, task: &LogTask) -> Result<(), LogError> {
        // What an earlier replica of the group found no space for is gone with it.
        self.blocked.remove(&task.write.group);
        match self.refusal(task) {
            Some(refused) => Err(refused),
            None => self.write(slice::from_ref(task)),
        }
    }

    /// Whether the disk is low on space from now on ([`crate::SpaceWatch`]): then no entries are taken.
    pub fn set_low_on_space(&mut self, is_low: bool) {
        if is_low != self.is_low_on_space {
            self.is_low_on_space = is_low;
            self.store.set_low_on_space(is_low);
        }
    }

    /// Whether `step` and `write_now` may block ([`LogStore::may_wait`]).
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.store.may_wait()
    }

    /// Figures of the store.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let stats = self.store.stats();
        LogStats { is_full: stats.is_full || self.is_low_on_space, ..stats }
    }

    fn write_round(&mut self, round: Vec<LogTask>, events: &mut Vec<Event>) {
        let mut tasks = Vec::new();
        for task in round {
            match self.refusal(&task) {
                Some(refused) => {
                    let result = Err(refused);
                    self.remember_block(&task, &result);
                    events.push(completion(&task, result));
                }
                None => tasks.push(task),
            }
        }
        while !tasks.is_empty() {
            let result = self.write(&tasks);
            // Nothing of the batch was written yet.
            let (finished, again): (Vec<_>, Vec<_>) = match &result {
                // Only the group that broke a rule failed.
                Err(LogError::Invalid { group, .. }) => {
                    tasks.into_iter().partition(|task| task.write.group == *group)
                }
                Err(LogError::NoSpace { .. }) => needing_space(tasks),
                Ok(()) | Err(_) => (tasks, Vec::new()),
            };
            // A batch that names a group it does not hold, or that needed no space, cannot shrink: fail all of it.
            let (finished, again) = if finished.is_empty() { (again, Vec::new()) } else { (finished, again) };
            for task in &finished {
                self.remember_block(task, &result);
                events.push(completion(task, result.clone()));
            }
            tasks = again;
        }
    }

    /// Why a task is not even tried, if it is not.
    fn refusal(&mut self, task: &LogTask) -> Option<LogError> {
        let no_space = |context: &str| Some(LogError::NoSpace { context: context.to_owned() });
        if self.is_blocked(task) && !only_makes_room(task) {
            no_space("waiting for an earlier write of the same group")
        } else if self.is_low_on_space && !task.write.entries.is_empty() {
            no_space("less is free than is left for everything else")
        } else {
            None
        }
    }

    fn is_blocked(&mut self, task: &LogTask) -> bool {
        let Some(first) = self.blocked.get(&task.write.group) else { return false };
        // Tokens ascend, so a smaller one is of a group that was closed and opened again.
        if task.token.is_some_and(|token| token <= *first) {
            self.blocked.remove(&task.write.group);
            return false;
        }
        true
    }

    fn remember_block(&mut self, task: &LogTask, result: &Result<(), LogError>) {
        if let (Err(LogError::NoSpace { .. }), Some(token)) = (result, task.token) {
            self.blocked.entry(task.write.group).or_insert(token);
        }
        if task.write.remove {
            self.blocked.remove(&task.write.group);
        }
    }

    /// One batch, one flush.
    fn write(&mut self, tasks: &[LogTask]) -> Result<(), LogError> {
        let mut groups: BTreeMap<GroupId, GroupWrite> = BTreeMap::new();
        let mut must_sync = false;
        for task in tasks {
            must_sync |= task.must_sync;
            match groups.get_mut(&task.write.group) {
                Some(earlier) => merge(earlier, task.write.clone()),
                None => drop(groups.insert(task.write.group, task.write.clone())),
            }
        }
        let batch = LogBatch { groups: groups.into_values().collect() };
        write_now(&mut *self.store, batch, must_sync)
    }
}

/// What there is no space for (entries, and whatever follows them in their group), and the others.
fn needing_space(tasks: Vec<LogTask>) -> (Vec<LogTask>, Vec<LogTask>) {
    let mut behind = BTreeSet::new();
    tasks.into_iter().partition(|task| {
        let group = task.write.group;
        if !task.write.entries.is_empty() {
            behind.insert(group);
        }
        behind.contains(&group) && !only_makes_room(task)
    })
}

/// Whether nothing that comes after it depends on it, nor it on what comes before: what is compacted has been durable
/// and applied for long.
fn only_makes_room(task: &LogTask) -> bool {
    let LogTask { write, token, must_sync: _ } = task;
    let rest = GroupWrite { compact_to: None, ..write.clone() };
    token.is_none()
        && write.compact_to.is_some()
        && rest == GroupWrite { group: write.group, ..GroupWrite::default() }
}

fn completion(task: &LogTask, result: Result<(), LogError>) -> Event {
    Event::LogWritten(LogWritten { group: task.write.group, token: task.token, result })
}

fn task_bytes(write: &GroupWrite) -> usize {
    let bytes = |entry: &Entry| match &entry.payload {
        EntryPayload::Command(command) => command.len(),
        EntryPayload::Noop | EntryPayload::Membership(_) | EntryPayload::Withheld => 0,
    };
    write.entries.iter().map(bytes).sum()
}

/// Cuts off what may be written in one batch: a removal, or a write that names the replica, stands
/// alone for its group; and no more than `bytes_max`.
fn take_round(tasks: Vec<LogTask>, bytes_max: usize) -> (Vec<LogTask>, Vec<LogTask>) {
    let mut bytes = 0;
    let mut seen = BTreeSet::new();
    let mut closed = BTreeSet::new();
    let (mut round, mut rest) = (Vec::new(), Vec::new());
    for task in tasks {
        let group = task.write.group;
        let alone = task.write.remove || task.write.replica.is_some();
        bytes += task_bytes(&task.write);
        if bytes > bytes_max && !round.is_empty() {
            rest.push(task);
            continue;
        }
        if closed.contains(&group) || (alone && seen.contains(&group)) {
            closed.insert(group);
            rest.push(task);
            continue;
        }
        seen.insert(group);
        if alone {
            closed.insert(group);
        }
        round.push(task);
    }
    (round, rest)
}

/// Makes `earlier` mean what both writes, one after the other, mean.
fn merge(earlier: &mut GroupWrite, later: GroupWrite) {
    if later.reset_to.is_some() {
        let hard_state = later.hard_state.or(earlier.hard_state);
        let lost_until = later.lost_until.or(earlier.lost_until);
        *earlier = GroupWrite { hard_state, lost_until, ..later };
        return;
    }
    if let Some(from) = later.truncate_from {
        let keep = earlier.entries.partition_point(|entry| entry.index() < from);
        let reaches_disk = earlier.entries.first().is_none_or(|first| from < first.index());
        if keep < earlier.entries.len() {
            let mut kept = std::mem::take(&mut earlier.entries).into_vec();
            kept.truncate(keep);
            earlier.entries = kept.into();
        }
        if reaches_disk && earlier.truncate_from.is_none_or(|already| from < already) {
            earlier.truncate_from = Some(from);
        }
    }
    if earlier.entries.is_empty() {
        earlier.entries = later.entries;
    } else if !later.entries.is_empty() {
        // Copied once: then nobody else holds the list.
        let mut entries = std::mem::take(&mut earlier.entries).into_vec();
        entries.extend_from_slice(&later.entries);
        earlier.entries = entries.into();
    }
    earlier.hard_state = later.hard_state.or(earlier.hard_state);
    earlier.compact_to = later.compact_to.or(earlier.compact_to.take());
    earlier.lost_until = later.lost_until.or(earlier.lost_until);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, MutexGuard};

    use quorate_core::{HardState, LogId, LogIndex, ReplicaId, Term};
    use quorate_storage::{GroupState, LogReader, MemLogStore, WriteDone};

    use super::*;

    #[derive(Default)]
    struct Inner {
        store: MemLogStore,
        /// Like a WAL without space: what has no entries is taken.
        full: bool,
        /// Batches are dropped, with their completions.
        forgets: bool,
        batches: Vec<LogBatch>,
        flushes: usize,
    }

    /// Remembers its batches, and may be full.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Inner>>);

    impl Recorder {
        fn inner(&self) -> MutexGuard<'_, Inner> {
            self.0.lock().unwrap()
        }
        fn state(&self, group: u64) -> GroupState {
            self.inner().store.reader().state(GroupId(group)).unwrap_or_default()
        }
    }

    impl LogStore for Recorder {
        fn groups(&self) -> Vec<GroupState> {
            self.inner().store.groups()
        }
        fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
            let mut inner = self.inner();
            inner.batches.push(batch.clone());
            if inner.forgets {
                return;
            }
            let has_entries = batch.groups.iter().any(|write| !write.entries.is_empty());
            match inner.full && has_entries {
                true => done(Err(LogError::NoSpace { context: "told to".to_owned() })),
                false => inner.store.write(batch, must_sync, done),
            }
        }
        fn flush(&mut self) -> Result<(), LogError> {
            self.inner().flushes += 1;
            self.inner().store.flush()
        }
        fn reader(&self) -> Arc<dyn LogReader> {
            self.inner().store.reader()
        }
        fn stats(&self) -> LogStats {
            self.inner().store.stats()
        }
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry { id: LogId::new(term, index), payload: EntryPayload::Noop }
    }

    fn append(group: u64, token: u64, entries: &[(u64, u64)]) -> LogTask {
        let entries = entries.iter().map(|(term, index)| entry(*term, *index)).collect();
        let write = GroupWrite { group: GroupId(group), entries, ..GroupWrite::default() };
        LogTask { write, token: Some(PersistToken(token)), must_sync: true }
    }

    fn outcomes(events: &[Event]) -> String {
        let lines = events.iter().map(|event| {
            let Event::LogWritten(LogWritten { group, token, result }) = event else { panic!() };
            let result = match result {
                Ok(()) => "ok",
                Err(LogError::NoSpace { .. }) => "full",
                Err(LogError::Invalid { .. }) => "invalid",
                Err(_) => "other",
            };
            format!("{group:?}:{} {result}", token.map_or(0, |token| token.0))
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn writes_of_many_groups_share_one_batch_and_one_sync() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        writer.submit((1..=100).map(|group| append(group, 1, &[(1, 1)])).collect());
        writer.submit(vec![append(7, 2, &[(1, 2), (1, 3)])]);
        let events = writer.step();
        assert_eq!(events.len(), 101);
        assert_eq!(store.inner().batches.len(), 1);
        assert_eq!(store.inner().flushes, 1);
        assert_eq!(store.state(7).last, LogIndex(3));
    }

    /// A disk hangs, and the writes of many groups pile up behind it.
    #[test]
    fn what_piled_up_is_written_in_batches_of_bounded_size_and_in_order() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        let large = |group: u64, token: u64| {
            let mut task = append(group, token, &[(1, token)]);
            let payload = EntryPayload::Command(vec![0; ROUND_BYTES_MAX / 3].into());
            task.write.entries = vec![Entry { id: LogId::new(1, token), payload }].into();
            task
        };
        writer.submit((1..=4).flat_map(|token| [large(1, token), large(2, token)]).collect());
        let mut too_large = large(3, 1);
        let payload = EntryPayload::Command(vec![0; ROUND_BYTES_MAX + 1].into());
        too_large.write.entries = vec![Entry { id: LogId::new(1, 1), payload }].into();
        writer.submit(vec![too_large, large(3, 2)]);
        let events = writer.step();
        let expected =
            "g1:1 ok, g2:1 ok, g1:2 ok, g2:2 ok, g1:3 ok, g2:3 ok, g1:4 ok, g2:4 ok, g3:1 ok, g3:2 ok";
        assert_eq!(outcomes(&events), expected);
        let bytes = |batch: &LogBatch| batch.groups.iter().map(task_bytes).sum();
        let sizes: Vec<usize> = store.inner().batches.iter().map(bytes).collect();
        let within = sizes.iter().filter(|size| **size <= ROUND_BYTES_MAX).count();
        assert_eq!((sizes.len(), within), (5, 4), "one task is larger than all of them: {sizes:?}");
    }

    #[test]
    fn merged_writes_mean_what_they_mean_one_by_one() {
        let mut earlier = append(1, 1, &[(1, 4), (1, 5), (1, 6)]).write;
        earlier.hard_state = Some(HardState { term: Term(1), ..HardState::default() });
        let truncate = |from| GroupWrite { truncate_from: Some(LogIndex(from)), ..GroupWrite::default() };
        merge(&mut earlier, truncate(6));
        assert_eq!(
            (earlier.truncate_from, earlier.entries.len()),
            (None, 2),
            "only what was not written yet"
        );
        merge(&mut earlier, GroupWrite { entries: vec![entry(2, 6)].into(), ..GroupWrite::default() });
        assert_eq!(earlier.entries[..], [entry(1, 4), entry(1, 5), entry(2, 6)]);
        merge(&mut earlier, GroupWrite { entries: vec![entry(3, 2)].into(), ..truncate(2) });
        assert_eq!((earlier.truncate_from, earlier.entries.len()), (Some(LogIndex(2)), 1));
        merge(&mut earlier, truncate(3));
        assert_eq!((earlier.truncate_from, earlier.entries.len()), (Some(LogIndex(2)), 1));
        let reset_to = Some((LogId::new(3, 9), LogId::default(), Arc::default()));
        merge(&mut earlier, GroupWrite { reset_to, ..GroupWrite::default() });
        assert_eq!((earlier.truncate_from, earlier.entries.len()), (None, 0));
        assert_eq!(earlier.hard_state.map(|hard| hard.term), Some(Term(1)), "the reset did not change it");
    }

    #[test]
    fn nothing_overtakes_a_write_that_found_no_space() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        store.inner().full = true;
        writer.submit(vec![append(1, 1, &[(1, 1)])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 full");
        // Submitted before the host knew, and there is space again.
        store.inner().full = false;
        writer.submit(vec![append(1, 2, &[(1, 2)]), append(2, 1, &[(1, 1)])]);
        assert_eq!(outcomes(&writer.step()), "g1:2 full, g2:1 ok");
        writer.submit(vec![append(1, 1, &[(1, 1)]), append(1, 2, &[(1, 2)])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 ok, g1:2 ok");
        assert_eq!(store.state(1).last, LogIndex(2));
        // A group that is opened again counts from the start and waits for nobody.
        store.inner().full = true;
        writer.submit(vec![append(1, 3, &[(1, 3)])]);
        assert_eq!(outcomes(&writer.step()), "g1:3 full");
        store.inner().full = false;
        writer.submit(vec![append(1, 1, &[(1, 3)])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 ok");
    }

    /// A snapshot was taken on a full disk. If the log were not compacted then, there would never be space again.
    #[test]
    fn what_needs_no_space_is_written_on_a_full_disk() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        let compaction = |to| {
            let compact_to = Some((LogId::new(1, to), LogId::new(0, 0), Arc::default()));
            let write = GroupWrite { group: GroupId(1), compact_to, ..GroupWrite::default() };
            LogTask { write, token: None, must_sync: false }
        };
        let vote = |group, token, term| {
            let hard_state = Some(HardState { term: Term(term), ..HardState::default() });
            let write = GroupWrite { group: GroupId(group), hard_state, ..GroupWrite::default() };
            LogTask { write, token: Some(PersistToken(token)), must_sync: true }
        };
        writer.submit(vec![append(1, 1, &[(1, 1), (1, 2), (1, 3)])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 ok");
        store.inner().full = true;
        writer.submit(vec![append(1, 2, &[(1, 4)]), vote(2, 1, 3), vote(1, 3, 3), compaction(2)]);
        assert_eq!(outcomes(&writer.step()), "g1:2 full, g1:3 full, g2:1 ok, g1:0 ok");
        assert_eq!((store.state(1).compacted, store.state(2).hard_state.term), (LogId::new(1, 2), Term(3)));
        assert_eq!(store.state(1).hard_state.term, Term(0), "it does not overtake the entry before it");
        // Also while the group waits for its first write to be handed out again.
        writer.submit(vec![compaction(3), vote(1, 3, 3)]);
        assert_eq!(outcomes(&writer.step()), "g1:3 full, g1:0 ok");
        assert_eq!(store.state(1).compacted, LogId::new(1, 3));
    }

    /// A group was closed while it waited for space: what it waited with is gone, and nobody waits behind it.
    #[test]
    fn a_group_that_was_closed_on_a_full_disk_can_be_removed_and_opened() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        store.inner().full = true;
        writer.submit(vec![append(1, 5, &[(1, 1)]), append(2, 5, &[(1, 1)])]);
        assert_eq!(outcomes(&writer.step()), "g1:5 full, g2:5 full");
        let task = |write: GroupWrite| LogTask { write, token: None, must_sync: true };
        let remove = GroupWrite { group: GroupId(1), remove: true, ..GroupWrite::default() };
        writer.write_now(&task(remove)).unwrap();
        store.inner().full = false;
        let fix =
            GroupWrite { group: GroupId(2), entries: vec![entry(1, 1)].into(), ..GroupWrite::default() };
        writer.write_now(&task(fix)).unwrap();
    }

    /// A promise may leave only when somebody vouches for it: a flush that says yes is not enough.
    #[test]
    fn a_write_whose_completion_was_never_called_is_not_believed() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        store.inner().forgets = true;
        writer.submit(vec![append(1, 1, &[(1, 1)])]);
        let [Event::LogWritten(written)] = &writer.step()[..] else { panic!("one write, one completion") };
        assert!(matches!(written.result, Err(LogError::Failed { .. })), "{:?}", written.result);
        let now = writer.write_now(&append(2, 1, &[(1, 1)]));
        assert!(matches!(now, Err(LogError::Failed { .. })), "{now:?}");
    }

    /// The engine on the same disk needs what is left: the log stops first, but not what is no entry.
    #[test]
    fn a_disk_that_is_low_on_space_takes_promises_and_no_entries() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        writer.set_low_on_space(true);
        assert!(writer.stats().is_full);
        let mut vote = append(2, 1, &[]);
        vote.write.hard_state = Some(HardState { term: Term(4), ..HardState::default() });
        writer.submit(vec![append(1, 1, &[(1, 1)]), vote, append(1, 2, &[])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 full, g1:2 full, g2:1 ok", "nothing overtakes");
        let LogTask { write, .. } = append(3, 1, &[(1, 1)]);
        let asked = writer.write_now(&LogTask { write, token: None, must_sync: true });
        assert!(matches!(asked, Err(LogError::NoSpace { .. })), "{asked:?}");
        assert_eq!((store.state(1).last, store.state(2).hard_state.term), (LogIndex(0), Term(4)));
        writer.set_low_on_space(false);
        writer.submit(vec![append(1, 1, &[(1, 1)]), append(1, 2, &[(1, 2)])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 ok, g1:2 ok");
        assert!(!writer.stats().is_full);
    }

    #[test]
    fn a_write_that_breaks_the_rules_fails_alone() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        writer.submit(vec![append(1, 1, &[(1, 1)]), append(2, 1, &[(1, 9)]), append(3, 1, &[(1, 1)])]);
        assert_eq!(outcomes(&writer.step()), "g2:1 invalid, g1:1 ok, g3:1 ok");
        assert_eq!(store.state(3).last, LogIndex(1));
    }

    #[test]
    fn a_group_may_be_removed_and_created_anew_in_one_step() {
        let store = Recorder::default();
        let mut writer = LogWriter::new(Box::new(store.clone()));
        let alone = |write: GroupWrite| LogTask { write, token: None, must_sync: true };
        let (group, replica) = (GroupId(1), Some(ReplicaId(5)));
        let remove = alone(GroupWrite { group, remove: true, ..GroupWrite::default() });
        let create = alone(GroupWrite { group, replica, ..GroupWrite::default() });
        writer.submit(vec![append(1, 1, &[(1, 1)]), remove, create, append(1, 2, &[(1, 1), (1, 2)])]);
        assert_eq!(outcomes(&writer.step()), "g1:1 ok, g1:0 ok, g1:0 ok, g1:2 ok");
        assert_eq!(store.state(1).replica, ReplicaId(5));
        assert_eq!(store.state(1).last, LogIndex(2));
    }
}
