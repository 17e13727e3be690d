//! `quorate wal`: the log in a data directory, looked at from outside, and cut by consent.
//!
//! Looking opens nothing for writing and needs no lock, so it works beside a running node; that one runs is said on
//! standard error. Repairing takes the directory.

use std::path::{Path, PathBuf};

use quorate_server::offline::{
    self, DataDir, DataDirError, DumpItem, DumpedEntry, DumpedGroup, DumpedRecord, GivenUp, GroupStatistics,
    OfflineError, OsDisk, RepairConsent, RepairError, RepairPlan, SegmentStatistics, Verification,
    WalToolError,
};
use serde_json::{Value, json};

use crate::args::WalCommand;
use crate::config::OutputFormat;
use crate::failure::{Exit, Failure};
use crate::{output, say};

/// Runs one of the commands.
pub(crate) fn run(command: WalCommand, format: OutputFormat) -> Result<(), Failure> {
    match command {
        WalCommand::Dump { dir, group } => dump(&Looked::at(&dir)?, group, format),
        WalCommand::Verify { dir } => verify(&Looked::at(&dir)?, format),
        WalCommand::Stats { dir } => stats(&Looked::at(&dir)?, format),
        WalCommand::Repair { dir, consent } => repair(&dir, consent, format),
    }
}

/// A data directory that is only looked at.
struct Looked {
    dir: PathBuf,
    disk: OsDisk,
    log: PathBuf,
    in_use: bool,
}

impl Looked {
    fn at(dir: &Path) -> Result<Self, Failure> {
        let disk = OsDisk::read_only(dir);
        let in_use = match DataDir::check_unused(&disk) {
            Ok(()) => false,
            Err(used @ DataDirError::InUse { .. }) => {
                say(&format!("note: what a running node writes meanwhile may be seen half-written ({used})"));
                true
            }
            Err(error) => {
                let Failure { exit, .. } = directory_failure(&error);
                return Err(Failure::new(exit, format!("{}: {error}", dir.display())));
            }
        };
        Ok(Self { dir: dir.to_owned(), disk, log: PathBuf::from(DataDir::WAL), in_use })
    }

    fn failure(&self, error: &WalToolError) -> Failure {
        let Failure { exit, .. } = look_failure(error);
        match error {
            WalToolError::NoLog(log) => {
                let place = self.dir.join(log);
                Failure::new(
                    exit,
                    format!("{}: there is no log here; name a data directory", place.display()),
                )
            }
            WalToolError::Unreadable { .. } | WalToolError::Log(_) | _ => look_failure(error),
        }
    }
}

fn dump(looked: &Looked, group: Option<u64>, format: OutputFormat) -> Result<(), Failure> {
    let (mut printed, mut damage) = (Ok(()), None);
    let dumped = offline::dump(&looked.disk, &looked.log, &mut |item| {
        if let DumpItem::Damage(found) = &item {
            damage.get_or_insert_with(|| found.clone());
        }
        printed = match format {
            OutputFormat::Table => dump_lines(&item, group).iter().try_for_each(output::line),
            OutputFormat::Json => dump_json(&item, group).iter().try_for_each(output::json),
        };
        printed.is_ok()
    });
    dumped.map_err(|error| looked.failure(&error))?;
    printed?;
    damage.map_or(Ok(()), |damage| Err(Failure::new(Exit::Damaged, damage)))
}

fn concerns(group: Option<u64>, part: &DumpedGroup) -> bool {
    group.is_none_or(|group| part.group.0 == group)
}

fn dump_lines(item: &DumpItem, group: Option<u64>) -> Vec<String> {
    match item {
        DumpItem::Segment { path, bytes, first_sequence, floor } => {
            vec![format!("{} segment bytes={bytes} first={first_sequence} floor={floor}", path.display())]
        }
        DumpItem::Record(record) => record_lines(record, group),
        DumpItem::Damage(damage) => {
            vec![format!("{}@{} DAMAGED {}", damage.path.display(), damage.offset, damage.what)]
        }
        DumpItem::TornTail(torn) => {
            vec![format!(
                "{}@{} torn tail, never acknowledged, bytes={}",
                torn.path.display(),
                torn.offset,
                torn.bytes
            )]
        }
        _ => Vec::new(),
    }
}

fn record_lines(record: &DumpedRecord, group: Option<u64>) -> Vec<String> {
    let (path, offset, kind) = (record.path.display(), record.offset, record.kind.name());
    let checksum = if record.checksum_holds { "ok" } else { "WRONG" };
    let (sequence, durable, bytes) = (record.sequence, record.durable, record.bytes);
    let head =
        format!("{path}@{offset} {kind} {sequence} bytes={bytes} durable={durable} checksum={checksum}");
    let parts = record.groups.iter().filter(|part| concerns(group, part));
    let said = parts.flat_map(|part| {
        let entries = part.entries.iter().map(move |entry| entry_line(record, part.group.0, entry));
        [state_line(part)].into_iter().chain(entries)
    });
    let lines: Vec<String> = [head].into_iter().chain(said).collect();
    // With a group asked for, only the records that speak of it.
    if group.is_some() && lines.len() == 1 { Vec::new() } else { lines }
}

fn state_line(part: &DumpedGroup) -> String {
    let mut line = format!("  group {}", part.group);
    let mut add = |text: String| {
        line.push(' ');
        line.push_str(&text);
    };
    if part.remove {
        add("removed".to_owned());
    }
    if let Some(replica) = part.replica {
        add(format!("replica={replica}"));
    }
    if let Some(position) = part.reset_to {
        add(format!("reset={position}"));
    }
    if let Some(from) = part.truncate_from {
        add(format!("truncated-from={from}"));
    }
    if let Some(state) = part.hard_state {
        let vote = state.vote.map_or_else(|| "-".to_owned(), |vote| vote.to_string());
        add(format!("term={} vote={vote} commit={}", state.term, state.commit));
    }
    if let Some(position) = part.compact_to {
        add(format!("compacted={position}"));
    }
    add(format!("entries={}", part.entries.len()));
    line
}

fn entry_line(record: &DumpedRecord, group: u64, entry: &DumpedEntry) -> String {
    let (path, id) = (record.path.display(), entry.entry.id);
    format!(
        "    {path}@{} group={group} index={} term={} {} bytes={}",
        entry.offset,
        id.index,
        id.term,
        entry.kind(),
        entry.bytes
    )
}

fn dump_json(item: &DumpItem, group: Option<u64>) -> Option<Value> {
    match item {
        DumpItem::Segment { path, bytes, first_sequence, floor } => Some(json!({
            "file": path, "kind": "segment", "bytes": bytes, "first_sequence": first_sequence, "floor": floor,
        })),
        DumpItem::Record(record) => {
            let parts = record.groups.iter().filter(|part| concerns(group, part));
            let parts: Vec<Value> = parts.map(group_json).collect();
            (group.is_none() || !parts.is_empty()).then(|| {
                json!({
                    "file": record.path, "offset": record.offset, "kind": record.kind.name(),
                    "sequence": record.sequence, "durable": record.durable, "bytes": record.bytes,
                    "checksum_holds": record.checksum_holds, "groups": parts,
                })
            })
        }
        DumpItem::Damage(damage) => Some(json!({
            "file": damage.path, "offset": damage.offset, "kind": "damage", "what": damage.what,
        })),
        DumpItem::TornTail(torn) => Some(json!({
            "file": torn.path, "offset": torn.offset, "kind": "torn_tail", "bytes": torn.bytes,
        })),
        _ => None,
    }
}

fn group_json(part: &DumpedGroup) -> Value {
    let entries: Vec<Value> = part
        .entries
        .iter()
        .map(|entry| {
            let id = entry.entry.id;
            json!({
                "offset": entry.offset, "bytes": entry.bytes, "kind": entry.kind(),
                "index": id.index.0, "term": id.term.0,
            })
        })
        .collect();
    json!({
        "group": part.group.0,
        "removed": part.remove,
        "replica": part.replica.map(|replica| replica.0),
        "hard_state": part.hard_state.map(hard_state_json),
        "reset_to": part.reset_to.map(|position| position.index.0),
        "truncated_from": part.truncate_from.map(|index| index.0),
        "compacted": part.compact_to.map(|position| position.index.0),
        "entries": entries,
    })
}

fn hard_state_json(state: quorate_server::offline::HardState) -> Value {
    json!({ "term": state.term.0, "vote": state.vote.map(|vote| vote.0), "commit": state.commit.0 })
}

fn verify(looked: &Looked, format: OutputFormat) -> Result<(), Failure> {
    let found = offline::verify(&looked.disk, &looked.log).map_err(|error| looked.failure(&error))?;
    match format {
        OutputFormat::Json => output::json(&verification_json(&found, looked.in_use))?,
        OutputFormat::Table => {
            for damage in &found.damages {
                output::line(damage)?;
            }
            for given_up in &found.given_up {
                output::line(given_up_line(given_up))?;
            }
            if let Some(torn) = &found.torn_tail {
                let (path, offset) = (torn.path.display(), torn.offset);
                output::line(format!("{path}: torn tail at byte {offset}, never acknowledged: no damage"))?;
            }
            let (segments, records) = (found.segments, found.records);
            output::line(format!(
                "{segments} segments, {records} records, {} damaged places",
                found.damages.len()
            ))?;
        }
    }
    match found.damages.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more =
                if rest.is_empty() { String::new() } else { format!(" (and {} more places)", rest.len()) };
            Err(Failure::new(
                Exit::Damaged,
                format!("{first}{more}: replace the node, or see `quorate wal repair`"),
            ))
        }
    }
}

fn given_up_line(given_up: &GivenUp) -> String {
    let GivenUp { group, entries, range, damage } = given_up;
    let which = range.map_or_else(String::new, |(first, last)| format!(" ({first} to {last})"));
    let (path, offset) = (damage.path.display(), damage.offset);
    let entries =
        if *entries == 1 { "1 damaged entry".to_owned() } else { format!("{entries} damaged entries") };
    format!(
        "{path}: {entries} given up: group {group}{which}, from byte {offset} on: no damage, nobody needs them"
    )
}

fn verification_json(found: &Verification, in_use: bool) -> Value {
    let damages: Vec<Value> = found
        .damages
        .iter()
        .map(|damage| json!({ "file": damage.path, "offset": damage.offset, "what": damage.what }))
        .collect();
    let torn = found
        .torn_tail
        .as_ref()
        .map(|torn| json!({ "file": torn.path, "offset": torn.offset, "bytes": torn.bytes }));
    let given_up = found.given_up.iter().map(|given_up| {
        let (first, last) = given_up.range.unzip();
        json!({
            "group": given_up.group.0, "entries": given_up.entries, "first": first.map(|index| index.0),
            "last": last.map(|index| index.0), "file": given_up.damage.path, "offset": given_up.damage.offset,
        })
    });
    json!({
        "clean": found.is_clean(), "in_use": in_use, "segments": found.segments, "records": found.records,
        "damages": damages, "given_up": given_up.collect::<Vec<_>>(), "torn_tail": torn,
    })
}

fn stats(looked: &Looked, format: OutputFormat) -> Result<(), Failure> {
    let found = offline::statistics(&looked.disk, &looked.log).map_err(|error| looked.failure(&error))?;
    match format {
        OutputFormat::Json => {
            let segments: Vec<Value> = found.segments.iter().map(segment_json).collect();
            let groups: Vec<Value> = found.groups.iter().map(statistics_json).collect();
            output::json(&json!({ "in_use": looked.in_use, "segments": segments, "groups": groups }))?;
        }
        OutputFormat::Table => {
            let mut table = output::table(["SEGMENT", "BYTES", "LIVE", "DEAD", "FREE", "ENTRIES"]);
            for segment in &found.segments {
                let path = segment.path.display().to_string();
                let figures = [
                    segment.bytes,
                    segment.live_bytes,
                    segment.dead_bytes,
                    segment.free_bytes,
                    segment.entries,
                ];
                table.add_row([path].into_iter().chain(figures.map(|figure| figure.to_string())));
            }
            output::line(output::render(&table))?;
            let header =
                ["GROUP", "REPLICA", "TERM", "VOTE", "COMMIT", "FIRST", "LAST", "ENTRIES", "LIVE", "DEAD"];
            let mut table = output::table(header);
            for group in &found.groups {
                table.add_row(group_row(group));
            }
            output::line(output::render(&table))?;
        }
    }
    let stopped = |damage| Failure::new(Exit::Damaged, format!("the figures are of what is before {damage}"));
    found.damage.map_or(Ok(()), |damage| Err(stopped(damage)))
}

fn segment_json(segment: &SegmentStatistics) -> Value {
    json!({
        "file": segment.path, "bytes": segment.bytes, "live_bytes": segment.live_bytes,
        "dead_bytes": segment.dead_bytes, "free_bytes": segment.free_bytes, "entries": segment.entries,
    })
}

fn statistics_json(group: &GroupStatistics) -> Value {
    json!({
        "group": group.group.0, "replica": group.replica.0, "hard_state": hard_state_json(group.hard_state),
        "compacted": group.compacted.index.0, "first": group.range.map(|(first, _)| first.0),
        "last": group.range.map(|(_, last)| last.0), "entries": group.entries,
        "live_bytes": group.live_bytes, "dead_bytes": group.dead_bytes, "oldest_segment": group.oldest_segment,
    })
}

fn group_row(group: &GroupStatistics) -> [String; 10] {
    let vote = group.hard_state.vote.map_or_else(|| "-".to_owned(), |vote| vote.to_string());
    let (first, last) = group
        .range
        .map_or(("-".to_owned(), "-".to_owned()), |(first, last)| (first.to_string(), last.to_string()));
    [
        group.group.to_string(),
        group.replica.to_string(),
        group.hard_state.term.to_string(),
        vote,
        group.hard_state.commit.to_string(),
        first,
        last,
        group.entries.to_string(),
        group.live_bytes.to_string(),
        group.dead_bytes.to_string(),
    ]
}

fn repair(dir: &Path, consent: Option<RepairConsent>, format: OutputFormat) -> Result<(), Failure> {
    let data = offline::take(dir).map_err(|error| offline_failure(&error))?;
    let plan = offline::plan_repair(&*data.disk(), &data.wal()).map_err(|error| repair_failure(&error))?;
    let Some(plan) = plan else {
        return match format {
            OutputFormat::Json => output::json(&json!({ "repaired": false, "damage": null })),
            OutputFormat::Table => output::line("Nothing is damaged: there is nothing to repair."),
        };
    };
    let Some(consent) = consent else {
        show_plan(&plan, None, format)?;
        let line = format!("nothing was changed; to lose this, say --consent {}", plan.consent());
        return Err(Failure::usage(line));
    };
    let repaired = offline::repair(&data, &consent).map_err(|error| repair_failure(&error))?;
    show_plan(&repaired.plan, Some(&dir.join(&repaired.aside)), format)
}

fn show_plan(plan: &RepairPlan, aside: Option<&Path>, format: OutputFormat) -> Result<(), Failure> {
    if format == OutputFormat::Json {
        let lost = plan.lost.iter().map(|loss| {
            json!({
                "group": loss.group.0, "entries": loss.entries, "first": loss.range.map(|(first, _)| first.0),
                "last": loss.range.map(|(_, last)| last.0), "hard_state": loss.hard_state, "whole": loss.whole,
            })
        });
        let damage = &plan.damage;
        return output::json(&json!({
            "repaired": aside.is_some(), "consent": plan.consent().to_string(), "aside": aside,
            "damage": { "file": damage.path, "offset": damage.offset, "what": damage.what },
            "lost": lost.collect::<Vec<_>>(),
        }));
    }
    output::line(&plan.damage)?;
    for loss in &plan.lost {
        let range = loss.range.map_or_else(String::new, |(first, last)| format!(" ({first} to {last})"));
        let whole = if loss.whole { ", all that this node has of it" } else { "" };
        let state = if loss.hard_state { ", a term or a vote" } else { "" };
        output::line(format!("group {} loses {} entries{range}{state}{whole}", loss.group, loss.entries))?;
    }
    output::line("Whatever stood in the damaged bytes themselves is lost as well.")?;
    aside.map_or(Ok(()), |aside| output::line(format!("Cut. What was cut off is in {}.", aside.display())))
}

fn look_failure(error: &WalToolError) -> Failure {
    let exit = match error {
        WalToolError::Unreadable { .. } | WalToolError::NoLog(_) => Exit::Directory,
        WalToolError::Log(_) | _ => Exit::Damaged,
    };
    Failure::new(exit, error)
}

fn repair_failure(error: &RepairError) -> Failure {
    match error {
        RepairError::Look(error) => look_failure(error),
        RepairError::Consent(_) => Failure::new(Exit::Refused, error),
        RepairError::NothingLeft => Failure::new(Exit::Damaged, error),
        RepairError::Healthy | RepairError::Io { .. } | _ => Failure::error(error),
    }
}

fn directory_failure(error: &DataDirError) -> Failure {
    let exit = match error {
        DataDirError::Damaged { .. } | DataDirError::PeersDamaged { .. } | DataDirError::LostLog { .. } => {
            Exit::Damaged
        }
        DataDirError::InUse { .. } | _ => Exit::Directory,
    };
    Failure::new(exit, error)
}

/// How an operation on a directory without its node fails.
pub(crate) fn offline_failure(error: &OfflineError) -> Failure {
    let exit = match error {
        OfflineError::Directory(error) => return directory_failure(error),
        OfflineError::Nobodys(_) => Exit::Directory,
        OfflineError::Log(_) | OfflineError::Snapshots(_) | OfflineError::Recover(_) => Exit::Damaged,
        OfflineError::NoGroup(_) => Exit::NotFound,
        OfflineError::OtherReplica { .. } | OfflineError::Refused(_) => Exit::Refused,
        OfflineError::Backup { .. } | _ => Exit::Error,
    };
    Failure::new(exit, error)
}
