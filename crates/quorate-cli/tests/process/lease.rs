//! A leader whose process stands still for longer than its lease: a debugger, a paused virtual machine, a full
//! swap. When it goes on, another leads, and what it would say from its lease is no longer true.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::harness::{Cluster, PATIENCE, signal};

/// Asks over a connection of its own, and leaves the question with the kernel.
fn ask(address: &str) -> TcpStream {
    let mut asking = TcpStream::connect(address).unwrap();
    asking.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = "GET /v1/kv/k?consistency=lease HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    asking.write_all(question.as_bytes()).unwrap();
    asking
}

fn answer(mut asking: TcpStream) -> String {
    let mut text = Vec::new();
    asking.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_leader_that_was_paused_does_not_answer_from_the_lease_of_before() {
    let mut cluster = Cluster::of_three(&["--leader-lease", "--lease-drift-max-ms", "50"]);
    cluster.quorate(&["put", "k", "old"]).expect_ok();
    let leader = cluster.wait_for_leader(None);
    let paused = cluster.take(leader);
    assert!(answer(ask(&paused.client)).ends_with("old"));

    signal(paused.pid(), Signal::STOP);
    cluster.wait_for_leader(Some(leader));
    cluster.quorate(&["put", "k", "new"]).expect_ok();
    // They lie in its sockets, and are the first it reads when it goes on.
    let asked: Vec<TcpStream> = (0..8).map(|_| ask(&paused.client)).collect();
    signal(paused.pid(), Signal::CONT);
    for asking in asked {
        let said = answer(asking);
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("new"), "{said}");
    }
}
