//! `quorate recover`: what is in a data directory, and going on with it alone after a majority is lost for good.
//!
//! A dry run unless `--for-good` is said. Users name nodes; the membership on the disk says which replicas they are.

use std::path::Path;

use quorate_server::offline::{
    ForcedRecovery, GROUP, GroupInspection, Inspection, LogId, RecoverOptions, RecoveryAudit, ReplicaId,
    inspect, members_from_json, members_from_toml, recover_cluster, recovery_with,
};
use serde_json::json;

use crate::args::RecoverArgs;
use crate::config::OutputFormat;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::wal::offline_failure;

/// Runs the command.
pub(crate) fn run(args: &RecoverArgs, format: OutputFormat) -> Result<(), Failure> {
    let inspection = inspect(&args.dir).map_err(|error| offline_failure(&error))?;
    let found = inspection.groups.iter().find(|found| found.group == GROUP);
    let nothing =
        || Failure::new(Exit::NotFound, format!("{}: there is no data of a cluster yet", args.dir.display()));
    let group = found.ok_or_else(nothing)?;
    if args.lost.is_empty() && args.left_out.is_empty() && args.members.is_none() {
        return show(&inspection, group, format);
    }
    let mut asked = match &args.members {
        Some(path) => from_list(group, path)?,
        None => from_flags(group, args)?,
    };
    asked.accept_more_loss = args.accept_more_loss;
    let options = RecoverOptions { dry_run: !args.for_good, backup: args.backup.clone() };
    let audit =
        recover_cluster(&args.dir, GROUP, asked, &options).map_err(|error| offline_failure(&error))?;
    report(&audit, args, format)
}

fn from_list(group: &GroupInspection, path: &Path) -> Result<ForcedRecovery, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let members = if is_toml { members_from_toml(&text) } else { members_from_json(&text) };
    let members = members.map_err(|error| wrong(&error))?;
    recovery_with(group, &members).map_err(|error| wrong(&error))
}

fn from_flags(group: &GroupInspection, args: &RecoverArgs) -> Result<ForcedRecovery, Failure> {
    let replica = |node: u64| {
        let mut members = group.membership.members();
        let found = members.find(|(_, member)| member.node.0 == node);
        found.map(|(id, _)| id).ok_or_else(|| Failure::usage(format!("node {node} is no member")))
    };
    let lost = args.lost.iter().map(|node| replica(*node)).collect::<Result<_, _>>()?;
    let left_out = args.left_out.iter().map(|(node, last)| Ok((replica(*node)?, *last)));
    Ok(ForcedRecovery {
        survivor: group.replica,
        lost,
        left_out: left_out.collect::<Result<_, Failure>>()?,
        ..ForcedRecovery::default()
    })
}

fn show(inspection: &Inspection, group: &GroupInspection, format: OutputFormat) -> Result<(), Failure> {
    let members = group.membership.members();
    if format == OutputFormat::Json {
        let members = members.map(|(id, member)| {
            let voter = group.membership.is_voter(id);
            json!({ "id": member.node.0, "replica": id.0, "voter": voter, "peer_address": member.peer_address })
        });
        return output::json(&json!({
            "node": inspection.node.0, "replica": group.replica.0, "last": last_text(group.last),
            "last_index": group.last.index.0, "last_term": group.last.term.0, "term": group.hard_state.term.0,
            "commit": group.hard_state.commit.0, "epoch": group.membership.epoch(),
            "members": members.collect::<Vec<_>>(),
        }));
    }
    let (node, replica) = (inspection.node, group.replica);
    output::line(format!("node {node} (replica {replica}), last entry {}", last_text(group.last)))?;
    let mut table = output::table(["NODE", "REPLICA", "VOTER", "ADDRESS"]);
    for (id, member) in members {
        let voter = if group.membership.is_voter(id) { "yes" } else { "no" };
        table.add_row([
            member.node.to_string(),
            id.to_string(),
            voter.to_owned(),
            member.peer_address.clone(),
        ]);
    }
    output::line(output::render(&table))
}

fn report(audit: &RecoveryAudit, args: &RecoverArgs, format: OutputFormat) -> Result<(), Failure> {
    if format == OutputFormat::Json {
        let ids = |ids: Vec<ReplicaId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        return output::json(&json!({
            "dry_run": !args.for_good, "survivor": audit.asked.survivor.0, "epoch": audit.after.1.epoch(),
            "lost": ids(audit.asked.lost.iter().copied().collect()),
            "left_out": ids(audit.asked.left_out.keys().copied().collect()),
            "committed": audit.committed.0, "last_index": audit.last.index.0, "last_term": audit.last.term.0,
            "backup": args.backup.as_ref().filter(|_| args.for_good),
        }));
    }
    output::line(audit)?;
    output::line(if args.for_good {
        "Done. Keep this, start the node, and add the others under new ids with empty directories."
    } else {
        "Nothing was changed: this was a dry run. To do it, say --for-good --backup DIR."
    })
}

fn last_text(last: LogId) -> String {
    format!("{}@t{}", last.index, last.term)
}

/// `N=INDEX@tTERM`.
pub(crate) fn left_out(text: &str) -> Result<(u64, LogId), String> {
    let parse = || {
        let (node, last) = text.split_once('=')?;
        let (index, term) = last.split_once("@t")?;
        Some((node.parse().ok()?, LogId::new(term.parse().ok()?, index.parse().ok()?)))
    };
    parse().ok_or_else(|| "write node, index and term, for example 2=120@t7".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_out_node_is_named_with_its_last_entry() {
        assert_eq!(left_out("2=120@t7"), Ok((2, LogId::new(7, 120))));
        for wrong in ["2", "2=120", "2=@t7", "x=1@t1"] {
            assert!(left_out(wrong).is_err(), "{wrong}");
        }
    }
}
