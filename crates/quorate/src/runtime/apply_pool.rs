//! The threads that run the state machines. Groups are independent: one whose machine takes its
//! time, or never comes back, holds up nobody but itself.
//!
//! ```text
//!   tasks ──► the group's lane, in order ──► ready: groups with something to do, each once
//!                      ▲                              │ the longest-waiting one
//!                      │ more came meanwhile          ▼
//!                      └──────────────── a turn on any thread ──► completions
//! ```
//!
//! * A group is on one thread at a time, and its tasks keep their order.
//! * A turn ends after [`TURN_TASKS_MAX`] tasks or [`TURN_BYTES_MAX`]; what is left waits behind
//!   the other groups.
//! * A group at rest has a machine and no lane.
//! * Waking a thread costs more than most tasks: nobody is woken for a group that is on a thread
//!   already, and one thread at a time is woken for the others; if there is more to do than it
//!   takes, it wakes the next. The one that fell asleep last is woken first.
//! * As many machines may stand still as there are threads but one; with the last one, the state
//!   machines of the node do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use quorate_core::GroupId;
use quorate_host::{ApplyTask, Event, MachinePlace, RecoveredMachine};
use quorate_storage::SnapshotStore;

use crate::runtime::gauge::Permit;

/// The most answers to queries that are handed back together. They wait for each other, as the answers to a batch of
/// commands do.
const ANSWERS_MAX: usize = 32;
/// The most tasks of one turn.
const TURN_TASKS_MAX: usize = 64;
/// The most bytes of one turn; its first task may have more.
const TURN_BYTES_MAX: usize = 256 << 10;
/// A lane that was longer than this once does not keep the memory.
const SPARE_TASKS_MAX: usize = 1024;

/// What a state machine is given to do.
pub(crate) enum ApplyInput {
    /// A task of the host.
    Task { task: ApplyTask, permit: Permit },
    /// A group is about to be opened.
    Add(Box<RecoveredMachine>),
}

impl ApplyInput {
    const fn is_query(&self) -> bool {
        matches!(self, Self::Task { task: ApplyTask::Query { .. }, .. })
    }

    fn group(&self) -> GroupId {
        match self {
            Self::Task { task, .. } => task.group(),
            Self::Add(machine) => machine.group,
        }
    }

    const fn bytes(&self) -> usize {
        match self {
            Self::Task { permit, .. } => permit.bytes(),
            Self::Add(_) => 0,
        }
    }
}

/// The state machines of a node, and what they are to do.
pub(crate) struct ApplyPool {
    state: Mutex<State>,
    /// One for each thread.
    woken: Vec<Condvar>,
}

#[derive(Default)]
struct State {
    seats: BTreeMap<GroupId, Seat>,
    /// Groups with something to do that are on no thread, each once.
    ready: VecDeque<GroupId>,
    /// Threads with nothing to do, the one that fell asleep last at the end.
    asleep: Vec<usize>,
    /// A thread was woken and has not come yet.
    is_waking: bool,
    /// How many threads have come, and not gone.
    threads: usize,
    closed: bool,
    /// Lanes that are not in use.
    #[expect(clippy::vec_box, reason = "a seat has a box, or at rest nothing: boxes come and go")]
    spare: Vec<Box<Lane>>,
}

/// Where a group is. With neither, it is not here.
#[derive(Default)]
struct Seat {
    /// Nothing while it is on a thread.
    machine: MachinePlace,
    /// Nothing while it has nothing to do.
    lane: Option<Box<Lane>>,
}

#[derive(Default)]
struct Lane(VecDeque<ApplyInput>);

/// What a thread works through.
#[derive(Default)]
pub(crate) struct Turn {
    group: Option<GroupId>,
    machine: MachinePlace,
    inputs: Vec<ApplyInput>,
}

impl ApplyPool {
    /// A pool for so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        let woken = std::iter::repeat_with(Condvar::new).take(threads).collect();
        Self { state: Mutex::default(), woken }
    }

    /// Leaves `inputs`, each in the lane of its group; drops them when the pool is closed.
    pub(crate) fn push_all(&self, inputs: impl IntoIterator<Item = ApplyInput>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        for input in inputs {
            state.push(input);
        }
        self.wake_one(state);
    }

    /// A group is about to be opened.
    ///
    /// # Errors
    /// Gives its machine back when the pool is closed.
    pub(crate) fn add(&self, machine: Box<RecoveredMachine>) -> Result<(), Box<RecoveredMachine>> {
        let mut state = self.lock();
        if state.closed {
            return Err(machine);
        }
        let seat = state.seats.entry(machine.group).or_default();
        if seat.machine.is_none() && seat.lane.is_none() {
            seat.machine = Some(machine);
            return Ok(());
        }
        state.push(ApplyInput::Add(machine));
        self.wake_one(state);
        Ok(())
    }

    /// Ends the turn before and begins the next one, on this thread; waits for something to do.
    /// False when the pool is closed and nothing waits.
    fn next(&self, thread: usize, turn: &mut Turn) -> bool {
        let mut state = self.lock();
        state.settle(turn);
        loop {
            if state.begin(turn) {
                self.wake_one(state);
                return true;
            }
            if state.closed {
                break;
            }
            state.asleep.push(thread);
            let sleeps = |state: &mut State| !state.closed && state.asleep.contains(&thread);
            let waited = self.woken[thread].wait_while(state, sleeps);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.asleep.retain(|asleep| *asleep != thread);
            state.is_waking = false;
        }
        state.threads -= 1;
        // The others may still be at work.
        let seats = if state.threads == 0 { std::mem::take(&mut state.seats) } else { BTreeMap::new() };
        drop(state);
        seats.into_values().for_each(|seat| RecoveredMachine::discard(seat.machine));
        false
    }

    /// Whether nothing waits for a thread, nor for the one that `group` is on.
    fn has_nothing_but(&self, group: Option<GroupId>) -> bool {
        let state = self.lock();
        let seat = group.and_then(|group| state.seats.get(&group));
        let lane = seat.and_then(|seat| seat.lane.as_ref());
        state.ready.is_empty() && lane.is_none_or(|lane| lane.0.is_empty())
    }

    /// Takes no more. What is there is still done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.woken.iter().for_each(Condvar::notify_one);
    }

    /// Wakes a thread if there is something to do and none is on its way.
    fn wake_one(&self, mut state: MutexGuard<'_, State>) {
        if state.ready.is_empty() || state.is_waking {
            return;
        }
        if let Some(thread) = state.asleep.pop() {
            state.is_waking = true;
            drop(state);
            self.woken[thread].notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, input: ApplyInput) {
        let group = input.group();
        let seat = self.seats.entry(group).or_default();
        let lane = seat.lane.get_or_insert_with(|| {
            self.ready.push_back(group);
            self.spare.pop().unwrap_or_default()
        });
        lane.0.push_back(input);
    }

    /// The group of a turn that has ended: its machine comes back, and it waits for its next turn
    /// or rests.
    fn settle(&mut self, turn: &mut Turn) {
        let machine = turn.machine.take();
        let Some(group) = turn.group.take() else { return };
        let Some(seat) = self.seats.get_mut(&group) else { return };
        seat.machine = machine;
        if seat.lane.as_ref().is_some_and(|lane| !lane.0.is_empty()) {
            self.ready.push_back(group);
            return;
        }
        if let Some(lane) = seat.lane.take()
            && self.spare.len() < self.threads
            && lane.0.capacity() <= SPARE_TASKS_MAX
        {
            self.spare.push(lane);
        }
        if seat.machine.is_none() {
            self.seats.remove(&group);
        }
    }

    /// Gives out the group that has waited longest, with what it may do in one turn.
    fn begin(&mut self, turn: &mut Turn) -> bool {
        let Some(group) = self.ready.pop_front() else { return false };
        turn.group = Some(group);
        if let Some(seat) = self.seats.get_mut(&group) {
            turn.machine = seat.machine.take();
            let mut bytes = 0_usize;
            while let Some(Lane(waiting)) = seat.lane.as_deref_mut()
                && bytes < TURN_BYTES_MAX
                && turn.inputs.len() < TURN_TASKS_MAX
                && let Some(input) = waiting.pop_front()
            {
                bytes = bytes.saturating_add(input.bytes());
                turn.inputs.push(input);
            }
        }
        true
    }
}

/// One of the threads. `bring` takes what has been done, and whether there is nothing else to do
/// here.
pub(crate) fn apply_loop(
    thread: usize,
    pool: &ApplyPool,
    snapshots: &dyn SnapshotStore,
    bring: impl Fn(Vec<Event>, bool),
) {
    pool.lock().threads += 1;
    let mut turn = Turn::default();
    while pool.next(thread, &mut turn) {
        let Turn { machine: place, inputs, group } = &mut turn;
        let mut inputs = inputs.drain(..).peekable();
        let mut events = Vec::new();
        while let Some(input) = inputs.next() {
            let is_query = input.is_query();
            match input {
                ApplyInput::Add(machine) => RecoveredMachine::discard(place.replace(machine)),
                ApplyInput::Task { task, permit } => {
                    events.extend(RecoveredMachine::step(place, task, snapshots));
                    drop(permit);
                }
            }
            let goes_on = is_query && inputs.peek().is_some_and(ApplyInput::is_query);
            let is_due = !goes_on || events.len() >= ANSWERS_MAX;
            if is_due && !events.is_empty() {
                let is_idle = inputs.len() == 0 && pool.has_nothing_but(*group);
                bring(std::mem::take(&mut events), is_idle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use quorate_core::{Member, MemberRole, Membership, NodeId, ReplicaId};
    use quorate_host::{
        Applied, BatchEnd, Command, MachineError, SnapshotSource, StateMachine, Ticket, bootstrap_batch,
        recover_group,
    };
    use quorate_storage::{LogStore, MemLogStore, MemSnapshotStore, write_now};

    use super::*;
    use crate::bytes_snapshot::BytesSnapshot;
    use crate::runtime::gauge::Gauge;
    use crate::runtime::host_thread::HostInput;
    use crate::runtime::mailbox::Mailbox;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Answers with what it is asked.
    struct Echo;

    impl StateMachine for Echo {
        fn apply(&mut self, _: Command<'_>) -> Result<Bytes, MachineError> {
            Ok(Bytes::new())
        }
        fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
            Ok(Bytes::copy_from_slice(request))
        }
        fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
            Ok(Box::new(BytesSnapshot::default()))
        }
        fn restore(&mut self, _: &mut dyn std::io::Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
            Ok(())
        }
    }

    fn machine(group: u64) -> Box<RecoveredMachine> {
        let member = Member {
            node: NodeId(1),
            role: MemberRole::Voter,
            peer_address: "here".to_owned(),
            client_address: String::new(),
        };
        let members = Arc::new(Membership::initial(vec![member]).unwrap());
        let mut log = MemLogStore::new();
        write_now(&mut log, bootstrap_batch(GroupId(group), ReplicaId(1), &members), true).unwrap();
        let state = log.reader().state(GroupId(group)).unwrap();
        Box::new(recover_group(&state, &MemSnapshotStore::new(), Box::new(Echo)).unwrap().machine)
    }

    fn query(backlog: &Arc<Gauge>, group: u64, ticket: u64, bytes: usize) -> ApplyInput {
        let (group, request) = (GroupId(group), Bytes::from(vec![7; bytes]));
        let task = ApplyTask::Query { group, ticket: Ticket(ticket), request };
        ApplyInput::Task { task, permit: backlog.take(bytes) }
    }

    fn leave(host: &Mailbox<HostInput>, events: Vec<Event>) {
        host.push_all(events.into_iter().map(HostInput::Event));
    }

    /// One group has a great deal to do, and others have a little, later.
    #[test]
    fn a_busy_group_and_the_others_take_turns() {
        let backlog = Gauge::new(usize::MAX, usize::MAX);
        for (bytes, turn_tasks) in [(0, TURN_TASKS_MAX), (TURN_BYTES_MAX / 4, 4), (TURN_BYTES_MAX * 2, 1)] {
            let pool = ApplyPool::new(1);
            pool.push_all((0..100).map(|ticket| query(&backlog, 1, ticket, bytes)));
            let mut turn = Turn::default();
            assert!(pool.next(0, &mut turn));
            pool.push_all([query(&backlog, 2, 0, 0), query(&backlog, 3, 0, 0)]);
            let mut turns = Vec::new();
            for expected_waiting in [3, 2, 1, 1] {
                turns.push((turn.group.unwrap().0, turn.inputs.len()));
                if turns.len() == 4 {
                    break;
                }
                turn.inputs.clear();
                assert!(pool.next(0, &mut turn));
                assert!(pool.lock().ready.len() < expected_waiting, "each once");
            }
            let left = (100 - turn_tasks).min(turn_tasks);
            assert_eq!(turns, [(1, turn_tasks), (2, 1), (3, 1), (1, left)], "{bytes} bytes each");
            drop(turn);
        }
    }

    /// Threads come and go between the groups, and what is left for them comes in small pieces.
    #[test]
    fn whoever_runs_them_the_tasks_of_a_group_keep_their_order() {
        let (groups, tasks, threads) = (6, 2000, 4);
        let backlog = Gauge::new(usize::MAX, usize::MAX);
        let (pool, host, snapshots) = (ApplyPool::new(threads), Mailbox::new(), MemSnapshotStore::new());
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (pool, host, snapshots) = (&pool, &host, &snapshots);
                scope.spawn(move || apply_loop(thread, pool, snapshots, |events, _| leave(host, events)));
            }
            for group in 0..groups {
                pool.add(machine(group)).unwrap();
            }
            for ticket in 0..tasks {
                pool.push_all((0..groups).map(|group| query(&backlog, group, ticket, 1)));
                // Of one group at a time, too.
                pool.push_all([query(&backlog, ticket % groups, tasks + ticket, 1)]);
            }
            let deadline = Instant::now() + PATIENCE;
            while pool.lock().seats.values().any(|seat| seat.lane.is_some()) {
                assert!(Instant::now() < deadline, "something is left behind");
                std::thread::yield_now();
            }
            // What is there when it is closed is still done.
            pool.push_all((0..groups).map(|group| query(&backlog, group, 9999, 1)));
            pool.close();
            assert!(pool.add(machine(99)).is_err());
        });
        assert!(backlog.admit(1).is_some() && pool.lock().seats.is_empty());
        let mut answers = Vec::new();
        host.take_within(&mut answers, Duration::ZERO);
        assert_eq!(answers.len() as u64, groups * tasks + tasks + groups);
        let mut last = BTreeMap::new();
        for input in answers {
            let HostInput::Event(Event::Applied(Applied::Query { group, ticket, .. })) = input else {
                panic!("something else was done");
            };
            let order = if ticket.0 == 9999 { u64::MAX } else { ticket.0 % tasks * 2 + ticket.0 / tasks };
            let before = last.insert(group, order);
            assert!(before < Some(order), "{group}: {order} after {before:?}");
        }
    }

    /// A replica is closed and its successor opened while there is still something to do for the
    /// first.
    #[test]
    fn a_machine_leaves_when_its_turn_comes_and_the_next_one_takes_its_seat() {
        let backlog = Gauge::new(usize::MAX, usize::MAX);
        let (pool, host, snapshots) = (ApplyPool::new(1), Mailbox::new(), MemSnapshotStore::new());
        pool.add(machine(1)).unwrap();
        let remove =
            || ApplyInput::Task { task: ApplyTask::Remove { group: GroupId(1) }, permit: backlog.take(0) };
        pool.push_all([query(&backlog, 1, 1, 0), remove(), query(&backlog, 1, 2, 0)]);
        pool.add(machine(1)).unwrap();
        pool.push_all([query(&backlog, 1, 3, 0), remove(), remove()]);
        pool.close();
        apply_loop(0, &pool, &snapshots, |events, _| leave(&host, events));
        let mut done = Vec::new();
        host.take_within(&mut done, Duration::ZERO);
        let said = |input: &HostInput| {
            if let HostInput::Event(Event::Applied(Applied::Query { ticket, .. })) = input {
                return ticket.0.to_string();
            }
            let removed = matches!(input, HostInput::Event(Event::Applied(Applied::Removed { .. })));
            if removed { "removed".to_owned() } else { "something else".to_owned() }
        };
        let said: Vec<_> = done.iter().map(said).collect();
        assert_eq!(said, ["1", "removed", "3", "removed", "removed"]);
    }

    #[test]
    fn answers_that_follow_each_other_are_handed_back_together() {
        let backlog = Gauge::new(usize::MAX, usize::MAX);
        let (pool, snapshots) = (ApplyPool::new(1), MemSnapshotStore::new());
        pool.add(machine(1)).unwrap();
        pool.push_all((0..40).map(|order| query(&backlog, 1, order, 0)));
        let flush = ApplyTask::Flush { group: GroupId(1) };
        pool.push_all([ApplyInput::Task { task: flush, permit: backlog.take(0) }]);
        pool.push_all([query(&backlog, 1, 40, 0)]);
        pool.close();
        let brought = std::cell::RefCell::new(Vec::new());
        apply_loop(0, &pool, &snapshots, |events, is_idle| {
            brought.borrow_mut().push((events.len(), is_idle))
        });
        assert_eq!(brought.into_inner(), [(32, false), (8, false), (1, false), (1, true)]);
    }
}
