//! Whoever starts a node is free not to read what it says.
#![cfg(target_os = "linux")]

use std::io::{PipeReader, PipeWriter, Write as _};
use std::process::{Child, Stdio};

use crate::harness::{Cluster, eventually, finish, lines_of, program, signal, wait};

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A pipe that takes nothing more, and both its ends.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let capacity = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
    writer.write_all(&vec![b'\n'; capacity]).unwrap();
    (reader, writer)
}

/// Whoever started the node never reads what it says. A pipe takes 64 KiB; the node goes on all the
/// same, says how much is lost, logs again when somebody reads, and stops when it is asked to.
#[test]
fn node_whose_log_nobody_reads_goes_on() {
    let cluster = Cluster::new();
    let (reader, writer) = full_pipe();
    let (_unread, ready_line) = full_pipe();
    let mut command = program();
    command.args(cluster.arguments(1, &["--bootstrap", "--log", "trace", "--exit-with-parent"]));
    command.stdin(Stdio::piped()).stdout(ready_line).stderr(writer);
    let mut node = Ended(command.spawn().unwrap());
    drop(command);
    let address = cluster.ports.client(1);
    let put = |value: &str| {
        finish(cluster.command(&["put", "k", value, "--timeout", "2s", "--endpoints", &address]), b"")
    };
    eventually("it is there", || (put("first").code == Some(0)).then_some(()));
    let dropped = || {
        let metrics = ureq::get(format!("http://{address}/metrics")).call().ok()?;
        let metrics = metrics.into_body().read_to_string().ok()?;
        let line = metrics.lines().find(|line| line.starts_with("quorate_log_lines_dropped_total "))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    eventually("lines are dropped", || {
        put("again").expect_ok();
        (dropped()? > 0).then_some(())
    });

    let lines = lines_of(reader);
    eventually("it logs again", || lines.try_iter().find(|line| line.contains("TRACE")));
    drop(lines);
    signal(node.0.id(), rustix::process::Signal::TERM);
    assert_eq!(wait(&mut node.0).code(), Some(0));
}

/// The last words find no place. The exit code says enough.
#[test]
fn node_whose_last_words_nobody_reads_ends() {
    let cluster = Cluster::new();
    let (_unread, writer) = full_pipe();
    let mut command = program();
    command.args(cluster.arguments(1, &["--log", "trace"])).stderr(writer);
    assert_eq!(wait(&mut command.spawn().unwrap()).code(), Some(2));
    let (_unread, writer) = full_pipe();
    let mut command = program();
    command
        .args(cluster.arguments(1, &["--bootstrap", "--log", "trace"]))
        .stdout(Stdio::null())
        .stderr(writer);
    let mut node = Ended(command.spawn().unwrap());
    eventually("it is there", || cluster.status(1));
    signal(node.0.id(), rustix::process::Signal::TERM);
    assert_eq!(wait(&mut node.0).code(), Some(0));
}
