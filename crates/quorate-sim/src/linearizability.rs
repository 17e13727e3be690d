//! Is there an order of the operations that explains what the clients saw?
//!
//! ```text
//!   client 1   ├── put a=1 ──┤        ├── put a=2 ─ ─ ─ ─ ─ ─ ─ ─  outcome unknown: maybe, any time later
//!   client 2          ├──── get a → 1 ────┤    ├── get a → 2 ──┤
//!                     ▲ one instant inside each interval must do ▲
//! ```
//!
//! The search is that of Wing & Gong with Lowe's memory of what was tried, for each key alone (a history is
//! linearizable exactly if it is so for each key). Kept small by these facts, each safe by itself:
//! * A read that fits the present value is placed at once: it changes nothing.
//! * An unknown write is used only where the next operation needs what it wrote. A write that nobody
//!   looked at cannot matter, so it is left out or kept for later.
//! * A value that is still to be read, and that nobody can write again, is not overwritten.
//! * A write whose value nobody is waiting for, over a value nobody is waiting for, is placed at once.
//!
//! Times are of any clock that all clients share. Operations that touch in one instant count as concurrent.
//! Not here: clients, clocks, anything of the simulator; tests on real processes use this as well.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Sets a key, whatever it was.
    Put {
        /// The key.
        key: Bytes,
        /// What it is set to.
        value: Bytes,
    },
    /// Removes a key, whatever it was.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets or removes a key if it is as expected.
    Swap {
        /// The key.
        key: Bytes,
        /// What it must be; `None`: absent.
        expected: Option<Bytes>,
        /// What it becomes; `None`: absent.
        value: Option<Bytes>,
    },
}

/// What a client learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write took effect.
    Done,
    /// What a get found.
    Found(Option<Bytes>),
    /// The key was not what a swap expected.
    Refused,
    /// It certainly has no effect, now or later.
    NotApplied,
    /// It may have taken effect, may do so later, or never. (What is never completed is unknown, too.)
    Unknown,
}

/// An operation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(usize);

/// What clients did and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    client: u64,
    operation: Operation,
    call: u64,
    outcome: Outcome,
    /// For an unknown outcome: never.
    end: Option<u64>,
}

/// A history that was not shown to be linearizable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Violation {
    /// No order explains it.
    NotLinearizable(Box<Explanation>),
    /// The search was given up: too many possibilities. Use more keys or shorter histories.
    Undecided {
        /// The key.
        key: Bytes,
    },
}

/// The shortest beginning of one key's history that has no explanation.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The key.
    pub key: Bytes,
    /// The operation whose end made it impossible.
    pub culprit: String,
    /// The end of an order that explains everything that ended before.
    pub placed: Vec<String>,
    /// The value after that order; `None`: absent.
    pub value: Option<Bytes>,
    /// Other writes that have to do with it: of the value it saw, or at the same time.
    pub related: Vec<String>,
}

impl History {
    /// A history without operations. Every key is absent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `client` starts an operation.
    pub fn invoke(&mut self, client: u64, operation: Operation, time: u64) -> OpId {
        let id = OpId(self.records.len());
        self.records.push(Record { client, operation, call: time, outcome: Outcome::Unknown, end: None });
        id
    }

    /// The client learns the outcome of `id`, once.
    ///
    /// # Panics
    /// It has an outcome already, ends before it began, or the outcome is none of its operation.
    pub fn complete(&mut self, id: OpId, outcome: Outcome, time: u64) {
        let record = &mut self.records[id.0];
        assert!(record.end.is_none(), "an operation ends once: {record:?}");
        assert!(record.call <= time, "an operation ends after it began: {record:?}");
        let fits = match (&record.operation, &outcome) {
            (_, Outcome::Unknown | Outcome::NotApplied)
            | (Operation::Get { .. }, Outcome::Found(_))
            | (Operation::Swap { .. }, Outcome::Refused) => true,
            (operation, Outcome::Done) => !matches!(operation, Operation::Get { .. }),
            (_, Outcome::Found(_) | Outcome::Refused) => false,
        };
        assert!(fits, "{outcome:?} is no outcome of {record:?}");
        if outcome != Outcome::Unknown {
            record.end = Some(time);
        }
        record.outcome = outcome;
    }

    /// How many operations were started.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none was started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Checks every key.
    ///
    /// # Errors
    /// The first key in key order whose operations have no explanation.
    pub fn check(&self) -> Result<(), Violation> {
        let mut keys: BTreeMap<&Bytes, Vec<&Record>> = BTreeMap::new();
        for record in &self.records {
            keys.entry(record.operation.key()).or_default().push(record);
        }
        for (key, records) in keys {
            match KeyHistory::new(&records).search() {
                Verdict::Explained(_) => {}
                Verdict::Impossible => {
                    return Err(Violation::NotLinearizable(Box::new(explain(key, &records))));
                }
                Verdict::Undecided => return Err(Violation::Undecided { key: key.clone() }),
            }
        }
        Ok(())
    }
}

impl Operation {
    const fn key(&self) -> &Bytes {
        match self {
            Self::Get { key } | Self::Put { key, .. } | Self::Delete { key } | Self::Swap { key, .. } => key,
        }
    }
}

/// A value of one key, numbered; 0 is "absent".
type Value = usize;
const ABSENT: Value = 0;
const INSIGNIFICANT: Value = Value::MAX;

/// What an operation needs of the value before it, and does to it.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Read { needs: Value },
    Refused { unless: Value },
    Write { value: Value },
    Swap { expects: Value, value: Value },
}

impl Effect {
    const fn needs(self) -> Option<Value> {
        match self {
            Self::Read { needs } | Self::Swap { expects: needs, .. } => Some(needs),
            Self::Refused { .. } | Self::Write { .. } => None,
        }
    }

    const fn writes(self) -> Option<Value> {
        match self {
            Self::Write { value } | Self::Swap { value, .. } => Some(value),
            Self::Read { .. } | Self::Refused { .. } => None,
        }
    }
}

/// An operation that happened, or (`end` is `None`) may have happened.
struct Event<'a> {
    effect: Effect,
    call: u64,
    end: Option<u64>,
    record: &'a Record,
}

/// One key's operations, with who needs and who writes which value.
#[derive(Default)]
struct KeyHistory<'a> {
    values: Vec<Option<Bytes>>,
    /// What certainly happened, by call. The search places all of these.
    certain: Vec<Event<'a>>,
    /// Writes that may have happened. The search may place them.
    possible: Vec<Event<'a>>,
    /// For each value, ascending positions in `certain` or `possible`.
    certain_needs: Vec<Vec<usize>>,
    certain_writes: Vec<Vec<usize>>,
    possible_needs: Vec<Vec<usize>>,
    possible_writes: Vec<Vec<usize>>,
    certain_unless: Vec<Vec<usize>>,
    /// All refused swaps in `certain`.
    refused: Vec<usize>,
}

/// How far a search got: which operations have their place, and the value after them.
#[derive(Clone)]
struct Placement {
    value: Value,
    /// All of `certain` before this position are placed,
    prefix: usize,
    /// and these behind it (ascending),
    beyond: Vec<usize>,
    /// and these of `possible` (ascending).
    used: Vec<usize>,
}

/// From where the search went on already.
#[derive(Default)]
struct Tried {
    /// By value (as far as it matters), prefix and beyond: the used.
    used: BTreeMap<(Value, usize, Vec<usize>), Vec<Vec<usize>>>,
    count: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Certain(usize),
    Possible(usize),
}

enum Verdict {
    Explained(Found),
    Impossible,
    Undecided,
}

/// The value after all operations, and the end of their order.
struct Found {
    value: Value,
    order: Vec<Step>,
}

const PLACEMENTS_MAX: usize = 500_000;
const STEPS_SHOWN: usize = 8;
const RELATED_SHOWN: usize = 8;

impl Found {
    fn new(placement: &Placement, order: &[Step]) -> Self {
        let from = order.len().saturating_sub(STEPS_SHOWN);
        Self { value: placement.value, order: order[from..].to_vec() }
    }
}

impl Placement {
    fn has(&self, position: usize) -> bool {
        position < self.prefix || self.beyond.binary_search(&position).is_ok()
    }

    fn count(&self) -> usize {
        self.prefix + self.beyond.len()
    }

    fn place(&mut self, position: usize, effect: Effect) {
        if let Err(at) = self.beyond.binary_search(&position) {
            self.beyond.insert(at, position);
        }
        let contiguous =
            self.beyond.iter().zip(self.prefix..).take_while(|(beyond, next)| **beyond == *next).count();
        self.beyond.drain(..contiguous);
        self.prefix += contiguous;
        self.value = effect.writes().unwrap_or(self.value);
    }

    fn use_possible(&mut self, position: usize, effect: Effect) {
        if let Err(at) = self.used.binary_search(&position) {
            self.used.insert(at, position);
        }
        self.value = effect.writes().unwrap_or(self.value);
    }

    /// Those of the ascending `positions` in `certain` that have no place yet.
    fn open<'b>(&'b self, positions: &'b [usize]) -> impl Iterator<Item = usize> + 'b {
        let from = positions.partition_point(|position| *position < self.prefix);
        positions[from..].iter().copied().filter(|position| self.beyond.binary_search(position).is_err())
    }

    fn unused<'b>(&'b self, positions: &'b [usize]) -> impl Iterator<Item = usize> + 'b {
        positions.iter().copied().filter(|position| self.used.binary_search(position).is_err())
    }
}

impl Tried {
    /// Whether there is a reason to go on from `placement`: from one that differs only in using fewer of the
    /// possible writes, everything was tried that could be tried from this one.
    fn is_new(&mut self, placement: &Placement, value: Value) -> bool {
        let place = (value, placement.prefix, placement.beyond.clone());
        let used_before = self.used.entry(place).or_default();
        let is_subset =
            |fewer: &Vec<usize>| fewer.iter().all(|position| placement.used.binary_search(position).is_ok());
        if used_before.iter().any(is_subset) {
            return false;
        }
        used_before.push(placement.used.clone());
        self.count += 1;
        true
    }
}

impl<'a> KeyHistory<'a> {
    fn new(records: &[&'a Record]) -> Self {
        let mut history = Self { values: vec![None], ..Self::default() };
        let mut numbers = BTreeMap::from([(None, ABSENT)]);
        for record in records {
            let mut number = |value: Option<&Bytes>| {
                *numbers.entry(value.cloned()).or_insert_with(|| {
                    history.values.push(value.cloned());
                    history.values.len() - 1
                })
            };
            let effect = match (&record.operation, &record.outcome) {
                (_, Outcome::NotApplied) | (Operation::Get { .. }, Outcome::Unknown) => continue,
                (Operation::Get { .. }, outcome) => {
                    let Outcome::Found(found) = outcome else { continue };
                    Effect::Read { needs: number(found.as_ref()) }
                }
                (Operation::Put { value, .. }, _) => Effect::Write { value: number(Some(value)) },
                (Operation::Delete { .. }, _) => Effect::Write { value: ABSENT },
                (Operation::Swap { expected, .. }, Outcome::Refused) => {
                    Effect::Refused { unless: number(expected.as_ref()) }
                }
                (Operation::Swap { expected, value, .. }, _) => {
                    Effect::Swap { expects: number(expected.as_ref()), value: number(value.as_ref()) }
                }
            };
            let event = Event { effect, call: record.call, end: record.end, record };
            if event.end.is_some() { history.certain.push(event) } else { history.possible.push(event) }
        }
        history.certain.sort_by_key(|event| event.call);
        history.index();
        history
    }

    fn index(&mut self) {
        let lists = || vec![Vec::new(); self.values.len()];
        let [mut certain_needs, mut certain_writes, mut possible_needs, mut possible_writes] =
            [lists(), lists(), lists(), lists()];
        for (events, needs, writes) in [
            (&self.certain, &mut certain_needs, &mut certain_writes),
            (&self.possible, &mut possible_needs, &mut possible_writes),
        ] {
            for (position, event) in events.iter().enumerate() {
                if let Some(value) = event.effect.needs() {
                    needs[value].push(position);
                }
                if let Some(value) = event.effect.writes() {
                    writes[value].push(position);
                }
            }
        }
        self.certain_unless = lists();
        for (position, event) in self.certain.iter().enumerate() {
            if let Effect::Refused { unless } = event.effect {
                self.certain_unless[unless].push(position);
                self.refused.push(position);
            }
        }
        self.certain_needs = certain_needs;
        self.certain_writes = certain_writes;
        self.possible_needs = possible_needs;
        self.possible_writes = possible_writes;
    }

    /// Depth first over placements, never twice from the same one.
    fn search(&self) -> Verdict {
        let start = Placement { value: ABSENT, prefix: 0, beyond: Vec::new(), used: Vec::new() };
        if self.needs_what_nobody_wrote() {
            return Verdict::Impossible;
        }
        let mut order = Vec::new();
        let mut tried = Tried::default();
        let mut choices = vec![(0, start, None)];
        while let Some((depth, mut placement, step)) = choices.pop() {
            order.truncate(depth);
            order.extend(step);
            self.settle(&mut placement, &mut order);
            if placement.count() == self.certain.len() {
                return Verdict::Explained(Found::new(&placement, &order));
            }
            let value = self.significance(&placement, placement.value);
            if !tried.is_new(&placement, value) {
                continue;
            }
            if tried.count > PLACEMENTS_MAX {
                return Verdict::Undecided;
            }
            // The last pushed is tried first.
            let next = self.next(&placement).into_iter().rev();
            choices.extend(next.map(|(placement, step)| (order.len(), placement, Some(step))));
        }
        Verdict::Impossible
    }

    fn needs_what_nobody_wrote(&self) -> bool {
        let is_written = |value: Value| {
            value == ABSENT
                || !(self.certain_writes[value].is_empty() && self.possible_writes[value].is_empty())
        };
        (0..self.values.len()).any(|value| !self.certain_needs[value].is_empty() && !is_written(value))
    }

    /// The certain operations that can come next: those called before any other has ended. And until when.
    fn candidates(&self, placement: &Placement) -> (Vec<usize>, u64) {
        let mut candidates = Vec::new();
        let mut horizon = u64::MAX;
        for (position, event) in self.certain.iter().enumerate().skip(placement.prefix) {
            if event.call > horizon {
                break;
            }
            if !placement.has(position) {
                horizon = horizon.min(event.end.unwrap_or(u64::MAX));
                candidates.push(position);
            }
        }
        candidates.retain(|position| self.certain[*position].call <= horizon);
        (candidates, horizon)
    }

    /// Places everything that can be placed without losing a possibility.
    fn settle(&self, placement: &mut Placement, order: &mut Vec<Step>) {
        loop {
            let (candidates, _) = self.candidates(placement);
            let before = placement.count();
            for position in candidates {
                let effect = self.certain[position].effect;
                let harmless = match effect {
                    Effect::Read { needs } => needs == placement.value,
                    Effect::Refused { unless } => unless != placement.value,
                    Effect::Write { value } => self.is_indifferent(placement, value),
                    Effect::Swap { .. } => false,
                };
                if harmless {
                    placement.place(position, effect);
                    order.push(Step::Certain(position));
                }
            }
            if placement.count() == before {
                return;
            }
        }
    }

    /// Whether nobody is waiting for the present value, for `value`, or for any value to be absent.
    fn is_indifferent(&self, placement: &Placement, value: Value) -> bool {
        placement.open(&self.refused).next().is_none()
            && !self.is_wanted(placement, placement.value)
            && !self.is_wanted(placement, value)
    }

    /// Whether an operation without a place needs exactly this value.
    fn is_wanted(&self, placement: &Placement, value: Value) -> bool {
        placement.open(&self.certain_needs[value]).next().is_some()
            || placement.unused(&self.possible_needs[value]).next().is_some()
    }

    /// `value`, or one number for all the values that make no difference any more.
    fn significance(&self, placement: &Placement, value: Value) -> Value {
        let is_significant =
            self.is_wanted(placement, value) || placement.open(&self.certain_unless[value]).next().is_some();
        if is_significant { value } else { INSIGNIFICANT }
    }

    /// Whether the present value may go, to be replaced on behalf of `reader`.
    fn may_overwrite(&self, placement: &Placement, reader: Option<usize>) -> bool {
        let value = placement.value;
        let mut readers =
            placement.open(&self.certain_needs[value]).filter(|position| Some(*position) != reader);
        readers.next().is_none()
            || placement.open(&self.certain_writes[value]).next().is_some()
            || placement.unused(&self.possible_writes[value]).next().is_some()
    }

    /// What may come next where nothing is harmless.
    fn next(&self, placement: &Placement) -> Vec<(Placement, Step)> {
        let (mut candidates, horizon) = self.candidates(placement);
        candidates.sort_by_key(|position| self.certain[*position].end);
        let mut next = Vec::new();
        let mut needed = BTreeSet::new();
        let mut needs_any_other = false;
        for position in candidates {
            let effect = self.certain[position].effect;
            needs_any_other |= matches!(effect, Effect::Refused { .. });
            match effect.needs() {
                Some(value) if value != placement.value => {
                    needed.insert(value);
                }
                reader => {
                    let is_write = effect.writes().is_some();
                    if is_write && self.may_overwrite(placement, reader.map(|_| position)) {
                        let mut placement = placement.clone();
                        placement.place(position, effect);
                        next.push((placement, Step::Certain(position)));
                    }
                }
            }
        }
        if self.may_overwrite(placement, None) {
            next.extend(self.next_possible(placement, horizon, needed, needs_any_other));
        }
        next
    }

    /// The unknown writes whose value is needed, directly or by a swap that writes what is needed. One for each
    /// value that matters: all could come at any later time, and a swap is used up before a write, which asks for less.
    fn next_possible(
        &self,
        placement: &Placement,
        horizon: u64,
        mut needed: BTreeSet<Value>,
        needs_any_other: bool,
    ) -> Vec<(Placement, Step)> {
        let mut pending: Vec<Value> = needed.iter().copied().collect();
        while let Some(value) = pending.pop() {
            for position in placement.unused(&self.possible_writes[value]) {
                let before = self.possible[position].effect.needs();
                pending.extend(before.filter(|before| needed.insert(*before)));
            }
        }
        let mut by_value: BTreeMap<Value, usize> = BTreeMap::new();
        for (position, event) in self.possible.iter().enumerate() {
            let Some(value) = event.effect.writes() else { continue };
            let before = event.effect.needs();
            let applies = before.is_none_or(|before| before == placement.value) && value != placement.value;
            let is_useful = needs_any_other || needed.contains(&value);
            let is_free = event.call <= horizon && placement.used.binary_search(&position).is_err();
            if is_free && applies && is_useful {
                let chosen = by_value.entry(self.significance(placement, value)).or_insert(position);
                if before.is_some() {
                    *chosen = position;
                }
            }
        }
        let place = |position: usize| {
            let mut placement = placement.clone();
            placement.use_possible(position, self.possible[position].effect);
            (placement, Step::Possible(position))
        };
        by_value.into_values().map(place).collect()
    }
}

/// Looks for the shortest beginning without explanation (a beginning of a linearizable history is linearizable).
fn explain(key: &Bytes, records: &[&Record]) -> Explanation {
    let mut ends: Vec<(u64, usize)> =
        records.iter().enumerate().filter_map(|(position, record)| Some((record.end?, position))).collect();
    ends.sort_unstable();
    let is_impossible = |ended: usize| {
        let beginning = beginning(records, &ends[..ended]);
        let beginning: Vec<&Record> = beginning.iter().collect();
        matches!(KeyHistory::new(&beginning).search(), Verdict::Impossible)
    };
    let (mut explained, mut unexplained) = (0, ends.len());
    while unexplained - explained > 1 {
        let middle = explained.midpoint(unexplained);
        if is_impossible(middle) { unexplained = middle } else { explained = middle }
    }
    let culprit = records[ends[explained].1];
    let overlaps = |record: &&Record| {
        record.call <= culprit.end.unwrap_or(u64::MAX) && record.end.is_none_or(|end| culprit.call <= end)
    };
    let wrote_it = |record: &&Record| {
        let needed = culprit.needed();
        needed.is_some() && record.written() == needed
    };
    let is_related = |record: &&Record| {
        !std::ptr::eq(*record, culprit)
            && record.written().is_some()
            && (overlaps(record) || wrote_it(record))
    };
    let mut related: Vec<&Record> = records.iter().copied().filter(is_related).collect();
    // Who wrote it says more than who else was there.
    related.sort_by_key(|record| (!wrote_it(record), record.end.is_none(), Reverse(record.call)));
    let beginning = beginning(records, &ends[..explained]);
    let beginning: Vec<&Record> = beginning.iter().collect();
    let (placed, value) = KeyHistory::new(&beginning).last_steps();
    let related = related.into_iter().take(RELATED_SHOWN).map(Record::to_string);
    let related = related.filter(|related| !placed.contains(related)).collect();
    Explanation { key: key.clone(), culprit: culprit.to_string(), placed, value, related }
}

/// The history when the last of `ended` ended: later calls had not been made, others had no outcome yet.
fn beginning(records: &[&Record], ended: &[(u64, usize)]) -> Vec<Record> {
    let now = ended.last().map_or(0, |(end, _)| *end);
    let has_ended: BTreeSet<usize> = ended.iter().map(|(_, position)| *position).collect();
    let called = records.iter().enumerate().filter(|(_, record)| record.call <= now);
    called
        .map(|(position, record)| {
            let mut record = (*record).clone();
            if !has_ended.contains(&position) && record.outcome != Outcome::NotApplied {
                // A swap that is going to be refused has no effect, and nobody knows yet that it is refused.
                record.outcome =
                    if record.outcome == Outcome::Refused { Outcome::NotApplied } else { Outcome::Unknown };
                record.end = None;
            }
            record
        })
        .collect()
}

impl KeyHistory<'_> {
    /// The end of an order that explains everything, and the value after it.
    fn last_steps(&self) -> (Vec<String>, Option<Bytes>) {
        let Verdict::Explained(found) = self.search() else { return (Vec::new(), None) };
        let record = |step: &Step| match step {
            Step::Certain(position) => self.certain[*position].record.to_string(),
            Step::Possible(position) => self.possible[*position].record.to_string(),
        };
        (found.order.iter().map(record).collect(), self.values[found.value].clone())
    }
}

impl Record {
    /// The value that must have been there before, if it is known which.
    fn needed(&self) -> Option<Option<&Bytes>> {
        match (&self.operation, &self.outcome) {
            (_, Outcome::Found(found)) => Some(found.as_ref()),
            (Operation::Swap { expected, .. }, Outcome::Done) => Some(expected.as_ref()),
            _ => None,
        }
    }

    /// The value that is there after it, if it took effect.
    fn written(&self) -> Option<Option<&Bytes>> {
        if matches!(self.outcome, Outcome::Refused | Outcome::NotApplied) {
            return None;
        }
        match &self.operation {
            Operation::Get { .. } => None,
            Operation::Put { value, .. } => Some(Some(value)),
            Operation::Delete { .. } => Some(None),
            Operation::Swap { value, .. } => Some(value.as_ref()),
        }
    }
}

fn text(value: Option<&Bytes>) -> String {
    value.map_or_else(|| "nothing".into(), |value| format!("\"{}\"", value.escape_ascii()))
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.map_or_else(|| "?".into(), |end| end.to_string());
        write!(f, "client {} [{}, {end}] ", self.client, self.call)?;
        match &self.operation {
            Operation::Get { .. } => write!(f, "get")?,
            Operation::Put { value, .. } => write!(f, "put {}", text(Some(value)))?,
            Operation::Delete { .. } => write!(f, "delete")?,
            Operation::Swap { expected, value, .. } => {
                write!(f, "swap {} for {}", text(expected.as_ref()), text(value.as_ref()))?;
            }
        }
        match &self.outcome {
            Outcome::Done => write!(f, ": done"),
            Outcome::Found(found) => write!(f, ": found {}", text(found.as_ref())),
            Outcome::Refused => write!(f, ": refused"),
            Outcome::NotApplied => write!(f, ": not applied"),
            Outcome::Unknown => write!(f, ": unknown"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable(explanation) => explanation.fmt(f),
            Self::Undecided { key } => {
                let key = text(Some(key));
                write!(f, "key {key}: too many possibilities to decide, use more keys or fewer operations")
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: nothing explains\n    {}", text(Some(&self.key)), self.culprit)?;
        if !self.placed.is_empty() {
            write!(f, "\nan order that explains what ended before ends with")?;
        }
        for placed in &self.placed {
            write!(f, "\n    {placed}")?;
        }
        write!(f, "\nthe value before it is {}", text(self.value.as_ref()))?;
        if !self.related.is_empty() {
            write!(f, "\nother writes of what it saw, or at the same time")?;
        }
        for related in &self.related {
            write!(f, "\n    {related}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
