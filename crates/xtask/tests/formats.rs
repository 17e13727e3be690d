//! The page of formats names every tag that is written: a kind that is added to the code and not to
//! `docs/formats.md` is found here, before somebody finds it in a file.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The constants of a source file from `first` to `last`.
struct Tags {
    file: &'static str,
    first: &'static str,
    last: &'static str,
    /// What the part of the page that names them begins with.
    section: &'static str,
}

const fn tags(file: &'static str, section: &'static str, first: &'static str, last: &'static str) -> Tags {
    Tags { file, first, last, section }
}

#[rustfmt::skip]
const TAGS: &[Tags] = &[
    tags("quorate-core/src/codec.rs", "## Entries, memberships", "ENTRY_NOOP", "ENTRY_WITHHELD"),
    tags("quorate-core/src/codec.rs", "| member |", "ROLE_VOTER", "ROLE_WITNESS"),
    tags("quorate-core/src/codec.rs", "A message between two replicas", "PRE_VOTE", "REQUEST_SNAPSHOT"),
    tags("quorate-storage/src/wal/body.rs", "### Batch", "REMOVE", "LOST_UNTIL"),
    tags("quorate-host/src/peer.rs", "The body of a message", "RAFT", "BEAT"),
    tags("quorate-host/src/forward_codec.rs", "| 4 request passed on", "OPEN", "EXTENDED"),
    tags("quorate-host/src/forward_codec.rs", "| 5 answer to it", "APPLIED", "UNSUPPORTED"),
    tags("quorate-host/src/command.rs", "## Commands", "PLAIN", "EXTENDED"),
    tags("quorate/src/transport/frame.rs", "## Peer frames", "KIND_HELLO", "KIND_MESSAGE"),
];

/// From `start` to the next heading.
fn section<'a>(page: &'a str, start: &str) -> &'a str {
    let from = page.find(start).unwrap_or_else(|| panic!("docs/formats.md has no \"{start}\""));
    let rest = &page[from..];
    // A row of a table is its own section.
    let end = if start.starts_with('|') { rest.find('\n') } else { rest[1..].find("\n#").map(|at| at + 1) };
    &rest[..end.unwrap_or(rest.len())]
}

/// Whether a table or a list in `section` gives `number` a meaning.
fn names(section: &str, number: &str) -> bool {
    ["| ", ", ", ": ", "("].iter().any(|before| section.contains(&format!("{before}{number} ")))
}

#[test]
fn every_tag_has_its_place_on_the_page() {
    let page = fs::read_to_string(root().join("docs/formats.md")).expect("docs/formats.md");
    let mut missing = Vec::new();
    for Tags { file, first, last, section: start } in TAGS {
        let source = fs::read_to_string(root().join("crates").join(file)).expect("the source");
        let constants: Vec<(&str, &str)> = source
            .lines()
            .filter_map(|line| line.strip_prefix("const ")?.split_once(": u8 = "))
            .skip_while(|(name, _)| name != first)
            .collect();
        let count = constants.iter().position(|(name, _)| name == last).expect("the last tag") + 1;
        let section = section(&page, start);
        for (name, value) in &constants[..count] {
            if !names(section, value.trim_end_matches(';')) {
                missing.push(format!("{file}: {name} = {value} is not under \"{start}\""));
            }
        }
        // Whoever adds a tag behind the last one adds it here, too.
        let after = constants.get(count).map(|(name, _)| *name);
        let known = [None, Some("ROLE_VOTER"), Some("OUTGOING"), Some("HAS_BASE"), Some("APPLIED")];
        assert!(known.contains(&after), "{file}: {after:?} behind {last}: is it a tag of the same kind?");
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The records of the session table have letters.
#[test]
fn every_session_record_has_its_place_on_the_page() {
    let page = fs::read_to_string(root().join("docs/formats.md")).expect("docs/formats.md");
    let source_of =
        |file| fs::read_to_string(root().join("crates/quorate-host/src").join(file)).expect("the source");
    let (sessions, incoming): (String, String) = (source_of("sessions/records.rs"), source_of("incoming.rs"));
    let section = section(&page, "### Session records");
    let mut letters: Vec<&str> = sessions.split("b'").skip(1).filter_map(|rest| rest.get(..1)).collect();
    let incoming = incoming.split("const RECORD: u8 = b'").nth(1).expect("its record");
    letters.extend(incoming.get(..1));
    letters.sort_unstable();
    letters.dedup();
    assert_eq!(letters, ["i", "j", "k", "l", "r", "s", "t", "v"]);
    for letter in letters {
        assert!(section.contains(&format!("| `{letter}`")), "docs/formats.md does not describe `{letter}`");
    }
}

/// Every version of what stands around a command.
#[test]
fn every_version_of_commands_has_its_place_on_the_page() {
    let page = fs::read_to_string(root().join("docs/formats.md")).expect("docs/formats.md");
    let source = fs::read_to_string(root().join("crates/quorate-host/src/command.rs")).expect("the source");
    let section = section(&page, "## Commands");
    let versions = source.lines().filter(|line| line.starts_with("const ") && line.contains("VERSION: u8"));
    let mut count = 0;
    for line in versions {
        let version = line.rsplit(' ').next().expect("a value").trim_end_matches(';');
        let row = format!(" | {version} | ");
        assert!(section.contains(&row), "docs/formats.md names no kind of version {version}: {row:?}");
        count += 1;
    }
    assert!(count >= 3, "{count}");
}
