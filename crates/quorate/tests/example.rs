//! The examples run and end well: each checks what it shows. The one of the front page finds what it wrote when it
//! runs again.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// Cargo builds examples before it runs all tests, and puts them next to the tests; before it runs only this one, it
/// does not.
fn example(name: &str) -> PathBuf {
    let this_test = std::env::current_exe().unwrap();
    let profile = this_test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--offline", "--package", "quorate", "--example", name]);
        build.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    }
    path
}

/// The example's ports are fixed: of several runs on one machine, one goes at a time.
fn take_ports() -> File {
    let file = File::create(std::env::temp_dir().join("quorate-example-39101.lock")).unwrap();
    file.lock().unwrap();
    file
}

/// One terminal of the example.
struct Terminal {
    process: Child,
    answers: Lines<BufReader<ChildStderr>>,
}

impl Terminal {
    fn open(id: u64, directory: &Path) -> Self {
        let mut command = Command::new(example("kv_40_lines"));
        command.arg(id.to_string()).current_dir(directory).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let answers = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, answers }
    }

    fn say(&mut self, line: &str) -> String {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
        self.answers.next().unwrap_or_else(|| Ok("the example has ended".to_owned())).unwrap()
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {:?}", self.answers.next());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Says `line` in one terminal after the other until one has an answer: not all of them lead, and at first
/// none does.
fn say_until_answered(terminals: &mut [Terminal], line: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for terminal in &mut *terminals {
            let answer = terminal.say(line);
            if answer.starts_with("Ok") {
                return answer;
            }
            assert!(answer.starts_with("Err(NotLeader") && Instant::now() < deadline, "{answer}");
        }
    }
}

#[test]
fn the_example_finds_its_data_when_it_runs_again() {
    let _ports = take_ports();
    let directory = tempfile::tempdir().unwrap();
    let open = || [1, 2, 3].map(|id| Terminal::open(id, directory.path()));
    let mut first = open();
    assert_eq!(say_until_answered(&mut first, "greeting=hello"), r#"Ok(b"")"#);
    assert_eq!(say_until_answered(&mut first, "greeting=goodbye"), r#"Ok(b"hello")"#);
    first.into_iter().for_each(Terminal::end);

    let mut again = open();
    for terminal in &mut again {
        let answer = say_until_answered(std::slice::from_mut(terminal), "greeting");
        assert_eq!(answer, r#"Ok(b"goodbye")"#);
    }
}

fn ends_well(name: &str) {
    let output = Command::new(example(name)).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_counter_counts() {
    ends_well("counter");
}

#[test]
fn many_groups_share_one_log() {
    ends_well("multi_group");
}

#[test]
fn every_way_of_reading_shows_what_it_promises() {
    ends_well("linearizable_reads");
}

#[test]
fn a_log_store_of_ones_own_conforms_and_carries_a_node() {
    ends_well("custom_log_store");
}

#[test]
fn a_state_machine_with_a_file_is_given_only_what_it_lacks() {
    ends_well("on_disk_state_machine");
}

#[test]
fn new_commands_wait_until_every_node_has_been_upgraded() {
    ends_well("rolling_upgrade");
}
