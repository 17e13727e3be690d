//! Stories that only run when asked for, and what they need of the machine.

use std::io::Write;
use std::process::{Command, Stdio};

/// Set in the process that is alone in its namespaces.
const INSIDE: &str = "QUORATE_CHAOS_INSIDE";

/// Whether the story `name` is wanted. Says so if not.
pub(crate) fn is_wanted(name: &str) -> bool {
    let wanted = std::env::var("QUORATE_CHAOS").is_ok_and(|wanted| wanted == "all");
    if !wanted {
        skipped(name, "set QUORATE_CHAOS=all to run it");
    }
    wanted
}

/// Says, where it is seen without asking, that a story did not happen.
pub(crate) fn skipped(name: &str, why: &str) {
    // Not `eprintln!`, which is shown for failed tests only. If nobody can read it, nobody misses it.
    drop(writeln!(std::io::stderr(), "skipped: {name}: {why}"));
}

/// Runs the test `name` once more, in a network and with mounts that only it sees, which are gone with it. True: this
/// is that process, and the story is told here. False: it was told, or cannot be on this machine.
pub(crate) fn is_alone(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !is_wanted(name) {
        return false;
    }
    let mut words = vec!["--net", "--mount"];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    let probe = Command::new("unshare").args(&words).arg("true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        skipped(name, "this machine gives no namespaces to this user");
        return false;
    }
    let told = Command::new("unshare")
        .args(&words)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    eprint!("{said}");
    let mut passed_over = said.lines().filter(|line| line.starts_with("skipped: "));
    if let Some(line) = passed_over.next() {
        skipped(name, line);
    }
    assert!(told.status.success(), "{name}: {}\n{said}", String::from_utf8_lossy(&told.stdout));
    assert!(String::from_utf8_lossy(&told.stdout).contains("1 passed"), "{name} is the whole name");
    false
}

/// Runs a command of the system that changes something.
pub(crate) fn system(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, arguments) = words.split_first().expect("a command");
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{line}: {error}")),
    }
}
