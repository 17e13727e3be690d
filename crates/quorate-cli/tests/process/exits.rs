//! How a command or a node ends tells a script or a supervisor what to do. Each story here brings about one
//! of the endings that nobody meets on an ordinary day.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::harness::{Cluster, eventually, signal};

/// Between a client and its node: once the client has sent `needle`, it hears nothing more, on any connection.
fn deaf_proxy(node: String, needle: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let deaf = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&node) else { return };
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut from_server, mut to_client) = (server, client);
            let (hears, knows) = (Arc::clone(&deaf), Arc::clone(&deaf));
            std::thread::spawn(move || {
                let mut said: Vec<u8> = Vec::new();
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = from_client.read(&mut piece) {
                    said.extend_from_slice(&piece[..count]);
                    if said.windows(needle.len()).any(|window| window == needle) {
                        hears.store(true, Ordering::SeqCst);
                    }
                    if to_server.write_all(&piece[..count]).is_err() {
                        break;
                    }
                }
                drop(to_server.shutdown(Shutdown::Both));
            });
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = from_server.read(&mut piece) {
                    if !knows.load(Ordering::SeqCst) && to_client.write_all(&piece[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// The answer is lost. The write was applied, but the command cannot know, and says so.
#[test]
fn lost_answer_of_a_write_is_an_unknown_outcome() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    cluster.quorate(&["put", "k", "before"]).expect_ok();
    let proxy = deaf_proxy(cluster.ports.client(1), b"unheard-of");
    let finished = cluster.quorate(&["put", "k", "unheard-of", "--timeout", "1s", "--endpoints", &proxy]);
    let line = finished.expect_failure(6);
    assert!(line.contains("the outcome is unknown") && line.contains("look at the key"), "{line}");
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "unheard-of");
}

/// From a limit on the size of its files on, every write of the node fails.
#[cfg(target_os = "linux")]
#[test]
fn node_whose_disk_fails_stops_and_says_so() {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    use crate::harness::{PATIENCE, finish, lines_of, program, wait};

    let cluster = Cluster::new();
    // A shell, to have the node get an error instead of a signal.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(program().get_program());
    command.args(cluster.arguments(1, &["--bootstrap", "--log", "off"]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut node = command.spawn().unwrap();
    let lines = lines_of(node.stdout.take().unwrap());
    lines.recv_timeout(PATIENCE).unwrap();
    let put = |value: &str| {
        let mut command = program();
        command.args(["put", "k", value, "--timeout", "2s", "--endpoints", &cluster.ports.client(1)]);
        finish(command, b"")
    };
    put("v").expect_ok();

    let pid = Pid::from_raw(i32::try_from(node.id()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: Some(1), maximum: Some(1) }).unwrap();
    let lost = put("lost");
    assert!(matches!(lost.code, Some(5 | 6)), "{lost:?}");
    let code = wait(&mut node).code();
    let said = lines_of(node.stderr.take().unwrap()).recv_timeout(PATIENCE).unwrap();
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains("File too large") && said.contains(".wal"), "{said}");
}

/// It was down when it was removed, so nobody could tell it; it asks the others when it is back.
#[test]
fn node_that_was_removed_while_it_was_down_says_so_and_ends() {
    let mut cluster = Cluster::of_three(&["--log", "off"]);
    let leader = cluster.wait_for_leader(None);
    let away = if leader == 3 { 2 } else { 3 };
    eventually("it knows where clients reach the others", || {
        let status = cluster.status(away)?;
        status.members.iter().all(|member| !member.client_address.is_empty()).then_some(())
    });
    cluster.take(away).kill();
    cluster.quorate(&["member", "remove", &away.to_string()]).expect_ok();
    let finished = cluster.restart_in_vain(away);
    let line = finished.expect_failure(12);
    assert!(line.contains(&format!("node {away} was removed")) && line.contains("new node id"), "{line}");
}

/// A stop waits for the answers that are owed. Whoever cannot wait says it twice.
#[test]
fn second_signal_ends_a_stop_that_takes_its_time() {
    let mut cluster = Cluster::of_three(&["--log", "off"]);
    let leader = cluster.wait_for_leader(None);
    let others: Vec<u64> = cluster.running().into_iter().filter(|node| *node != leader).collect();
    let others: Vec<_> = others.into_iter().map(|node| cluster.take(node)).collect();
    for other in &others {
        signal(other.pid(), Signal::STOP);
    }
    // A request that nobody can answer now.
    let address = cluster.ports.client(leader);
    let mut waiting = TcpStream::connect(&address).unwrap();
    waiting.write_all(b"GET /v1/kv/k HTTP/1.1\r\nHost: quorate\r\n\r\n").unwrap();

    let node = cluster.take(leader);
    signal(node.pid(), Signal::TERM);
    eventually("it takes no more connections", || TcpStream::connect(&address).is_err().then_some(()));
    assert_eq!(node.terminate(), Some(130));
    for other in &others {
        signal(other.pid(), Signal::CONT);
    }
}

#[test]
fn node_ends_with_whoever_holds_its_standard_input() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    cluster.quorate(&["put", "k", "v"]).expect_ok();
    assert_eq!(cluster.take(1).let_go(), Some(130));
    cluster.restart(1);
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "v");
}
