//! Nodes that may open only so many files.
#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use quorate_client::Client;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{Cluster, PATIENCE, eventually, finish};

/// Begins a command that may open 256 files.
const FEW: [&str; 3] = ["sh", "-c", "ulimit -n 256 && exec \"$0\" \"$@\""];

fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

/// Clients that come and never say anything.
fn silent(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map_while(|_| TcpStream::connect(address).ok()).collect()
}

/// What is answered to whoever asks a node whether it is alive, on a connection of its own.
fn asked(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Writes as a client that keeps its connections.
fn put(cluster: &Cluster, client: &Client, value: &'static str) {
    cluster.runtime.block_on(client.put("k", value)).unwrap();
}

/// A hundred silent clients are more than there are places for: the next is told so, and the node
/// still has descriptors for its peers and its files. It leads on, and takes clients again when
/// there are places.
#[test]
fn clients_take_no_descriptors_that_peers_and_files_need() {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|node| cluster.set_before(node, &FEW));
    let addresses = (1..=3).map(|node| (node, cluster.ports.peer(node))).collect();
    cluster.start_all(&addresses, &[]);
    let leader = cluster.wait_for_leader(None);
    let address = cluster.ports.client(leader);
    let client = cluster.client();
    put(&cluster, &client, "before");

    let silent = silent(&address, 100);
    let is_refusal = |said: &String| said.starts_with("HTTP/1.1 429 ");
    let refusal = eventually("a client is refused", || asked(&address).filter(is_refusal));
    assert!(
        refusal.contains("quorate-code: busy") && refusal.contains("--client-connections-max"),
        "{refusal}"
    );
    let taken = descriptors(cluster.node(leader).pid());
    assert!(taken < 200, "{taken} of 256 are taken");
    put(&cluster, &client, "meanwhile");

    drop(silent);
    eventually("clients are served again", || asked(&address).filter(|said| said.contains(" 200 ")));
    assert_eq!(cluster.quorate(&["get", "k", "--endpoints", &address]).expect_ok().text(), "meanwhile");

    let (words, program) = (FEW, env!("CARGO_BIN_EXE_quorate"));
    let mut greedy = Command::new(words[0]);
    greedy.args(&words[1..]).arg(program);
    greedy.args(cluster.arguments(4, &["--bootstrap", "--client-connections-max", "1000", "--log", "off"]));
    let finished = finish(greedy, b"");
    assert!(finished.expect_failure(2).contains("enough for 64 connections of clients"), "{finished:?}");
}

/// Something takes every file descriptor there is. Who is connected goes on, clients as well as
/// peers; who comes waits. When there are descriptors again the node answers everybody, and has
/// lost nothing.
#[test]
fn node_without_file_descriptors_goes_on_when_it_has_some_again() {
    let mut cluster = Cluster::of_three(&[]);
    let leader = cluster.wait_for_leader(None);
    let address = cluster.ports.client(leader);
    let client = cluster.client();
    put(&cluster, &client, "before");

    let node = cluster.node(leader).pid();
    let pid = Pid::from_raw(i32::try_from(node).unwrap());
    let limit =
        |current| prlimit(pid, Resource::Nofile, Rlimit { current: Some(current), maximum: Some(1024) });
    // Whatever number a new one had would be too large.
    limit(3).unwrap();
    let silent = silent(&address, 40);
    put(&cluster, &client, "meanwhile");
    let waits = cluster.quorate(&["put", "k", "too early", "--timeout", "1s", "--endpoints", &address]);
    assert_ne!(waits.code, Some(0), "{waits:?}");
    put(&cluster, &client, "all the time");
    assert!(cluster.node(leader).ended().is_none(), "it is there");

    limit(1024).unwrap();
    eventually("it answers again", || asked(&address).filter(|said| said.contains(" 200 ")));
    drop(silent);
    cluster.quorate(&["put", "k", "after", "--endpoints", &address]).expect_ok();
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "after");
    assert!(cluster.node(leader).ended().is_none(), "it was there all the time");
}
