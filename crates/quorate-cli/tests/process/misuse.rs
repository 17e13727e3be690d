//! Mistakes: each gets one clear line and an exit code of its own, and changes nothing.

use std::net::TcpListener;

use crate::harness::{Cluster, finish, program, quorate};

#[test]
fn mistakes_on_the_command_line_are_one_line_each() {
    for (arguments, told) in [
        (&["serve", "--id", "1", "--dri", "d1"][..], "'--dri'"),
        (&["serve", "--id", "one", "--dir", "d1"], "--id: \"one\" is not valid: write a whole number"),
        (&["serve", "--dir", "d1"], "--id N is missing"),
        (&["serve", "--id", "1", "--dir", "d1", "--bootstrap", "--join", "a:1"], "exclude each other"),
        (&["serve", "--id", "1", "--dir", "d1", "--value-bytes-max", "1TB"], "write a number of bytes"),
        (&["put", "k"], "<VALUE>"),
        (&["get", "k", "--endpoints", "nowhere"], "write host:port"),
        (&["member", "remove", "x"], "'x' for '<ID>': write a whole number from 1 on"),
        (&["leader", "transfer", "0"], "write a whole number from 1 on"),
        (&["sim", "--seeds", "5..1"], "write a range of seeds, for example 0..200"),
        (&["demo", "--nodes", "8"], "1..=7"),
        (&["demo", "ctl", "explode"], "unknown command \"explode\""),
        (&["--config", "/does/not/exist.toml", "get", "k"], "cannot read the configuration file"),
    ] {
        let finished = quorate(arguments);
        assert!(finished.expect_failure(2).contains(told), "{arguments:?}: {finished:?}");
    }
}

#[test]
fn mistake_in_the_file_names_the_file_and_the_line() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("quorate.toml");
    std::fs::write(&file, "id = 1\ndir = \"d\"\nelection-timeout = 5\n").unwrap();
    let mut command = program();
    command.args(["serve", "--config"]).arg(&file);
    let line = finish(command, b"").expect_failure(2).to_owned();
    assert!(line.contains("quorate.toml:3: unknown key \"election-timeout\""), "{line}");
}

#[test]
fn file_in_place_of_a_data_directory_is_named_as_such() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (file, below) = (file.display().to_string(), file.join("below").display().to_string());
    for dir in [&file, &below] {
        let finished = quorate(&["serve", "--id", "1", "--dir", dir, "--bootstrap", "--log", "off"]);
        let line = finished.expect_failure(9);
        assert!(
            line.contains(dir.as_str()) && line.contains("it is a file") && line.contains("name a directory"),
            "{line}"
        );
    }
    let looked = quorate(&["wal", "verify", &file]);
    assert!(looked.expect_failure(9).contains(&file), "{looked:?}");
}

#[test]
fn port_in_use_is_named() {
    let cluster = Cluster::new();
    let _taken = TcpListener::bind(cluster.ports.client(1)).unwrap();
    let mut command = program();
    command.args(cluster.arguments(1, &["--bootstrap", "--log", "off"]));
    let finished = finish(command, b"");
    let line = finished.expect_failure(8);
    assert!(line.contains(&cluster.ports.client(1)), "{line}");

    let _taken = TcpListener::bind(cluster.ports.peer(2)).unwrap();
    let mut command = program();
    command.args(cluster.arguments(2, &["--bootstrap", "--log", "off"]));
    let finished = finish(command, b"");
    assert!(finished.expect_failure(8).contains(&cluster.ports.peer(2)), "{finished:?}");
}

#[test]
fn directory_of_a_running_node_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    let dir = cluster.dir(1).display().to_string();
    let second = ["serve", "--id", "1", "--dir", &dir, "--bootstrap", "--log", "off"];
    let free = ["--peer-listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0"];
    let finished = quorate(&[&second[..], &free[..]].concat());
    assert!(finished.expect_failure(9).contains(&dir), "{finished:?}");
}

#[test]
fn directory_of_another_node_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    cluster.quorate(&["put", "k", "v"]).expect_ok();
    assert_eq!(cluster.take(1).terminate(), Some(0));
    let dir = cluster.dir(1).display().to_string();
    let finished = quorate(&["serve", "--id", "2", "--dir", &dir, "--log", "off"]);
    assert!(finished.expect_failure(9).contains(&dir), "{finished:?}");
    // Nothing was changed by the attempt.
    cluster.restart(1);
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "v");
}

#[test]
fn directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    cluster.start(2, &["--bootstrap"]);
    assert_eq!(cluster.take(2).terminate(), Some(0));
    let dir = cluster.dir(2).display().to_string();
    let other = cluster.ports.client(1);
    let arguments = ["serve", "--id", "2", "--dir", &dir, "--join", &other, "--log", "off"];
    let free = ["--peer-listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0"];
    let finished = quorate(&[&arguments[..], &free[..]].concat());
    assert!(finished.expect_failure(9).contains(&dir), "{finished:?}");
}

#[test]
fn nothing_to_continue_says_how_to_begin() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("empty").display().to_string();
    let free = ["--peer-listen", "127.0.0.1:0", "--client-listen", "127.0.0.1:0", "--log", "off"];
    let finished = quorate(&[&["serve", "--id", "1", "--dir", &dir][..], &free[..]].concat());
    assert!(finished.expect_failure(2).contains("--bootstrap"), "{finished:?}");
}
