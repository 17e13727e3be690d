//! Cutting a damaged log at the first damage, by explicit consent.
//!
//! ```text
//!   plan ──► what is cut, what that loses ──► consent ──► plan again: still the same? ──► cut
//!
//!   before   │ sound ········ │ X  readable, but behind │ next segments │
//!   after    │ sound ········ │ end │ new segment: groups that cannot be kept are removed, a mark │
//!                               └── a copy of all that is cut: wal-cut-NNNN/ in the data directory
//! ```
//!
//! * Damaged entries that were given up are no damage, and stay where they are: the log opens with them.
//! * What is kept is the log as it was at one moment: acknowledged entries, terms and votes from after it
//!   are forgotten. A node that forgets may break its promises: where a healthy majority has the data,
//!   replace the node instead.
//! * A group that is not whole in what is kept (what it needs stood behind the damage, or in a segment
//!   that is gone) is removed, as if this node had never been in it.
//! * The segment that is cut is not changed: the new one says where it ends. Until the new one has its
//!   name, the log stays damaged, and a second attempt begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use quorate_core::{GroupId, LogIndex, Term};

use super::contents::Contents;
use super::walk::{Position, Step, numbers};
use super::{WalToolError, settled};
use crate::data_dir::DataDir;
use crate::disk::Disk;
use crate::error::Damage;
use crate::log_store::{GroupState, GroupWrite, LogBatch};
use crate::wal::body::{decode_batch, decode_item, decode_move, encode_batch};
use crate::wal::index::Index;
use crate::wal::record::{HEADER_BYTES, RecordKind, framed_bytes};
use crate::wal::recovery::Record;
use crate::wal::segment::{
    Created, NEW_NAME, RECORDS_START, Segment, SegmentHeader, index, name_of, read_header,
};
use crate::wal::tail::{CLOSING_BYTES, Tail};

/// How much is copied at once, in bytes.
const COPY_BYTES: usize = 1 << 20;

/// What a cut at the first damage would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPlan {
    /// The first damage.
    pub damage: Damage,
    /// The segment in which the log would end, and where in it.
    pub cut: (u64, u64),
    /// The groups that are known to lose something. What stood in the damaged bytes themselves is not known.
    pub lost: Vec<GroupLoss>,
    /// The groups as they would be afterwards.
    pub kept: Vec<GroupState>,
}

/// What a group is known to lose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLoss {
    /// The group.
    pub group: GroupId,
    /// How many entries.
    pub entries: u64,
    /// The first and the last of them.
    pub range: Option<(LogIndex, LogIndex)>,
    /// A term or a vote is forgotten.
    pub hard_state: bool,
    /// Nothing of the group would be left.
    pub whole: bool,
}

/// Consent to lose what it names. It is refused for anything else.
///
/// As text: `cut=2@4096,groups=1,entries=7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairConsent {
    /// The segment in which the log ends afterwards.
    pub segment: u64,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many groups are known to lose something.
    pub groups: u64,
    /// How many entries are known to be lost.
    pub entries: u64,
}

/// A log that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was done.
    pub plan: RepairPlan,
    /// Where a copy of all that was cut is, relative to the data directory.
    pub aside: PathBuf,
}

/// A log was not repaired.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// It cannot be read.
    #[error(transparent)]
    Look(#[from] WalToolError),
    /// Nothing is damaged.
    #[error("nothing is damaged: there is nothing to repair")]
    Healthy,
    /// The consent is for another loss. Nothing was changed.
    #[error("this consent is for another loss; what would be lost now needs the consent {}", .0.consent())]
    Consent(Box<RepairPlan>),
    /// Nothing would be left. Nothing was changed.
    #[error(
        "nothing would be left of the log: restore this node from its peers: remove it, then add it again with a new id and an empty directory"
    )]
    NothingLeft,
    /// The disk said no. The log is as damaged as before, or more; what was cut so far is in `aside`.
    #[error("repairing the log ({}): {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
}

impl RepairPlan {
    /// The consent to this.
    #[must_use]
    pub fn consent(&self) -> RepairConsent {
        RepairConsent {
            segment: self.cut.0,
            offset: self.cut.1,
            groups: self.lost.len() as u64,
            entries: self.lost.iter().map(|loss| loss.entries).sum(),
        }
    }
}

impl fmt::Display for RepairConsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, groups, entries } = self;
        write!(f, "cut={segment}@{offset},groups={groups},entries={entries}")
    }
}

/// A text is no [`RepairConsent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a consent looks like cut=2@4096,groups=1,entries=7")]
pub struct NoConsent;

impl FromStr for RepairConsent {
    type Err = NoConsent;

    fn from_str(text: &str) -> Result<Self, NoConsent> {
        let parse = || {
            let mut parts = text.split(',');
            let (segment, offset) = parts.next()?.strip_prefix("cut=")?.split_once('@')?;
            let groups = parts.next()?.strip_prefix("groups=")?;
            let entries = parts.next()?.strip_prefix("entries=")?;
            let consent = Self {
                segment: segment.parse().ok()?,
                offset: offset.parse().ok()?,
                groups: groups.parse().ok()?,
                entries: entries.parse().ok()?,
            };
            parts.next().is_none().then_some(consent)
        };
        parse().ok_or(NoConsent)
    }
}

/// What a cut at the first damage would lose. `None`: nothing is damaged.
///
/// # Errors
/// See [`RepairError`].
pub fn plan_repair(disk: &dyn Disk, directory: &Path) -> Result<Option<RepairPlan>, RepairError> {
    let look = || Ok(Survey::of(disk, directory)?.plan());
    settled(look, |plan| matches!(plan, Ok(None)))?.map_err(|NothingLeft| RepairError::NothingLeft)
}

/// Cuts the log of `data` at the first damage. What is cut is kept in a directory of its own.
///
/// # Errors
/// See [`RepairError`].
pub fn repair(data: &DataDir, consent: &RepairConsent) -> Result<Repaired, RepairError> {
    let (disk, directory) = (data.disk(), data.wal());
    let survey = Survey::of(&*disk, &directory)?;
    let plan = survey.plan().map_err(|NothingLeft| RepairError::NothingLeft)?.ok_or(RepairError::Healthy)?;
    if plan.consent() != *consent {
        return Err(RepairError::Consent(Box::new(plan)));
    }
    let (segment, at) = survey.contents.end.clone().ok_or(RepairError::NothingLeft)?;
    let surgery = Surgery { disk: &*disk, directory: &directory };
    let aside = surgery.make_aside()?;
    surgery.set_aside(&aside, &segment)?;
    let (header, _) = read_header(&*segment.file, &segment.path, segment.number).map_err(WalToolError::of)?;
    surgery.write_again(&segment, at.offset, header.segment_bytes)?;
    let removed = survey.contents.scan.index.groups.keys().filter(|group| survey.is_whole_loss(**group));
    let floor = survey.contents.scan.floor.max(survey.first);
    surgery.go_on(&SegmentHeader { floor, ..header }, at, removed.copied().collect())?;
    Ok(Repaired { plan, aside })
}

#[derive(PartialEq)]
struct NothingLeft;

/// Everything that can still be read.
struct Survey {
    first: u64,
    contents: Contents,
    behind: Behinds,
}

type Behinds = BTreeMap<GroupId, Behind>;

/// What of a group stands behind the damage.
#[derive(Default)]
struct Behind {
    entries: BTreeMap<LogIndex, Term>,
    hard_state: bool,
    is_moved: bool,
}

impl Survey {
    fn of(disk: &dyn Disk, directory: &Path) -> Result<Self, WalToolError> {
        let first = numbers(disk, directory)?.first().copied().unwrap_or(1);
        let note_behind = |behind: &mut Behinds, contents: &Contents, step: &Step<'_>| {
            if let Step::Record { offset, record, .. } = step
                && contents.damage.is_some()
            {
                note(behind, *offset, record);
            }
        };
        let (contents, behind) = Contents::up_to_the_first_damage(disk, directory, note_behind)?;
        Ok(Self { first, contents, behind })
    }

    /// Whether nothing of the group can be kept, though some of it is there.
    fn is_whole_loss(&self, group: GroupId) -> bool {
        self.contents.scan.index.groups.get(&group).is_some_and(|found| !found.is_complete())
    }

    fn plan(&self) -> Result<Option<RepairPlan>, NothingLeft> {
        let Some(damage) = &self.contents.damage else { return Ok(None) };
        let Some((segment, at)) = &self.contents.end else { return Err(NothingLeft) };
        let index = &self.contents.scan.index;
        let groups: BTreeSet<GroupId> = self.behind.keys().chain(index.groups.keys()).copied().collect();
        let lost = groups.into_iter().filter_map(|group| self.loss(group)).collect();
        let whole = |state: &GroupState| !self.is_whole_loss(state.group);
        let kept = index.states().into_iter().filter(whole).collect();
        Ok(Some(RepairPlan { damage: damage.clone(), cut: (segment.number, at.offset), lost, kept }))
    }

    fn loss(&self, group: GroupId) -> Option<GroupLoss> {
        let index: &Index = &self.contents.scan.index;
        let nothing = Behind::default();
        let behind = self.behind.get(&group).unwrap_or(&nothing);
        let found = index.groups.get(&group).filter(|_| !self.is_whole_loss(group));
        let kept = |at: LogIndex, term: Term| found.is_some_and(|found| found.log.term_at(at) == Some(term));
        let compacted = found.map_or(LogIndex(0), |found| found.log.compacted.index);
        let mut lost: BTreeSet<LogIndex> = behind
            .entries
            .iter()
            .filter(|(at, term)| **at > compacted && !kept(**at, **term))
            .map(|(at, _)| *at)
            .collect();
        if let Some(partial) = index.groups.get(&group).filter(|_| self.is_whole_loss(group)) {
            lost.extend(partial.entries.iter().filter(|(_, at)| at.segment > 0).map(|(at, _)| at));
        }
        let loss = GroupLoss {
            group,
            entries: lost.len() as u64,
            range: lost.first().zip(lost.last()).map(|(first, last)| (*first, *last)),
            hard_state: behind.hard_state,
            whole: found.is_none(),
        };
        (loss.entries > 0 || loss.hard_state || (loss.whole && behind.is_moved) || self.is_whole_loss(group))
            .then_some(loss)
    }
}

/// Remembers what a record behind the damage holds.
fn note(noted: &mut Behinds, offset: u64, record: &Record) {
    let body_at = offset + HEADER_BYTES as u64;
    match record.header.kind {
        RecordKind::Batch => {
            for logged in decode_batch(&record.body, body_at).unwrap_or_default() {
                let behind = noted.entry(logged.write.group).or_default();
                behind.hard_state |= logged.write.hard_state.is_some();
                behind.entries.extend(logged.write.entries.iter().map(|entry| (entry.index(), entry.term())));
            }
        }
        RecordKind::Move => {
            let (_, groups) = decode_move(&record.body, body_at).unwrap_or_default();
            for moved in groups {
                let behind = noted.entry(moved.group).or_default();
                behind.is_moved = true;
                for (at, spot) in &moved.entries {
                    let from = index(u64::from(spot.offset).saturating_sub(body_at));
                    let to = from.saturating_add(spot.bytes as usize).min(record.body.len());
                    if let Ok(entry) = decode_item(&record.body.slice(from.min(to)..to)) {
                        behind.entries.insert(*at, entry.term());
                    }
                }
            }
        }
        RecordKind::Mark | RecordKind::Seal => {}
    }
}

/// The steps of a cut. Every one may be the last; doing all of them again is always right.
struct Surgery<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
}

fn at(path: &Path) -> impl Fn(io::Error) -> RepairError {
    move |source| RepairError::Io { path: path.to_owned(), source: Arc::new(source) }
}

impl Surgery<'_> {
    fn make_aside(&self) -> Result<PathBuf, RepairError> {
        let root = Path::new("");
        for number in 1..=9999 {
            let aside = PathBuf::from(format!("wal-cut-{number:04}"));
            if !self.disk.exists(&aside).map_err(at(&aside))? {
                self.disk.create_dir_all(&aside).map_err(at(&aside))?;
                self.disk.sync_dir(root).map_err(at(root))?;
                return Ok(aside);
            }
        }
        Err(at(Path::new("wal-cut-9999"))(io::ErrorKind::AlreadyExists.into()))
    }

    /// A copy of the segment that is cut, and the segments behind it themselves, newest first.
    fn set_aside(&self, aside: &Path, cut: &Segment) -> Result<(), RepairError> {
        let copy = aside.join(name_of(cut.number));
        self.copy(cut, &copy).map_err(at(&copy))?;
        self.disk.sync_dir(aside).map_err(at(aside))?;
        let behind = numbers(self.disk, self.directory)?.into_iter().filter(|number| *number > cut.number);
        for number in behind.rev() {
            let from = self.directory.join(name_of(number));
            self.disk.rename(&from, &aside.join(name_of(number))).map_err(at(&from))?;
            self.disk.sync_dir(aside).map_err(at(aside))?;
            self.disk.sync_dir(self.directory).map_err(at(self.directory))?;
        }
        Ok(())
    }

    fn copy(&self, from: &Segment, to: &Path) -> io::Result<()> {
        let copy = self.disk.create(to)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut offset = 0;
        loop {
            let count = from.file.read_at(&mut buffer, offset)?;
            if count == 0 {
                return copy.sync_data();
            }
            copy.write_at(&buffer[..count], offset)?;
            offset += count as u64;
        }
    }

    /// Writes again what is kept of the segment that is cut: a successor says that all before it was synced, and
    /// after a failed sync that may be true of the memory only. A file that became too short gets its length back.
    fn write_again(&self, cut: &Segment, end: u64, bytes: u64) -> Result<(), RepairError> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut offset = RECORDS_START;
        let result = (|| {
            while offset < end {
                let count = index(end - offset).min(COPY_BYTES);
                let found = cut.file.read_at(&mut buffer[..count], offset)?;
                cut.file.write_at(&buffer[..found], offset)?;
                offset += found.max(1) as u64;
            }
            if cut.bytes < bytes {
                cut.file.set_size(bytes)?;
            }
            cut.file.sync_data()
        })();
        result.map_err(at(&cut.path))
    }

    /// Makes the segment in which the log goes on. Its name is what makes the cut.
    fn go_on(&self, cut: &SegmentHeader, end: Position, removed: Vec<GroupId>) -> Result<(), RepairError> {
        let new = self.directory.join(NEW_NAME);
        let writing = |source| at(&new)(source);
        let remove = |group| GroupWrite { group, remove: true, ..GroupWrite::default() };
        let batch = LogBatch { groups: removed.into_iter().map(remove).collect() };
        let mut record = vec![0; HEADER_BYTES];
        encode_batch(&batch, &mut record).map_err(|_| writing(io::ErrorKind::InvalidInput.into()))?;
        let framed = framed_bytes((record.len() - HEADER_BYTES) as u64);
        let header = SegmentHeader {
            number: cut.number + 1,
            segment_bytes: cut
                .segment_bytes
                .max((RECORDS_START + framed + 2 * CLOSING_BYTES).next_multiple_of(4096)),
            first_sequence: end.sequence,
            // Segments are far below 4 GiB.
            previous_end: u32::try_from(end.offset).unwrap_or(u32::MAX),
            previous_crc: end.chain,
            ..*cut
        };
        if self.disk.exists(&new).map_err(writing)? {
            self.disk.remove(&new).map_err(writing)?;
        }
        let (bytes, crc) = header.encode();
        let file = self.disk.create(&new).map_err(writing)?;
        file.allocate(header.segment_bytes).map_err(writing)?;
        file.write_at(&bytes, 0).map_err(writing)?;
        let (number, bytes) = (header.number, header.segment_bytes);
        let segment = Arc::new(Segment { number, path: new.clone(), file, bytes });
        let mut tail = Tail::new(Created { segment, crc, is_reused: false }, &header);
        if !batch.groups.is_empty() {
            tail.frame(RecordKind::Batch, &mut record);
            tail.write(&[record], 0).map_err(writing)?;
        }
        tail.sync().map_err(writing)?;
        let mut mark = vec![0; HEADER_BYTES];
        tail.frame(RecordKind::Mark, &mut mark);
        tail.write(&[mark], 0).map_err(writing)?;
        tail.sync().map_err(writing)?;
        let path = self.directory.join(name_of(number));
        self.disk.rename(&new, &path).map_err(at(&path))?;
        self.disk.sync_dir(self.directory).map_err(at(self.directory))
    }
}
