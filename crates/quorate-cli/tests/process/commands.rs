//! The commands as scripts see them: bytes through pipes, exit codes, JSON.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::harness::{Cluster, finish, quorate};

fn single() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap", "--value-bytes-max", "512KiB"]);
    cluster.wait_for_leader(None);
    cluster
}

#[test]
fn values_and_keys_of_any_bytes_travel_unchanged() {
    let cluster = single();
    let value: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    finish(cluster.command(&["put", "binary", "-"]), &value).expect_ok();
    let read = cluster.quorate(&["get", "binary"]).expect_ok();
    assert!(read.stdout == value, "{} bytes came back", read.stdout.len());

    finish(cluster.command(&["put", "empty", "-"]), b"").expect_ok();
    assert_eq!(cluster.quorate(&["get", "empty"]).expect_ok().stdout, b"");

    let mut put = cluster.command(&["put"]);
    put.arg(OsStr::from_bytes(b"\xff\x01")).arg("of a key");
    finish(put, b"").expect_ok();
    let mut get = cluster.command(&["get", "-o", "json"]);
    get.arg(OsStr::from_bytes(b"\xff\x01"));
    let answer = finish(get, b"").expect_ok().json();
    assert_eq!(answer["key_base64"], "/wE=");
    assert_eq!(answer["value"], "of a key");
}

#[test]
fn exit_codes_say_what_happened() {
    let cluster = single();
    let missing = cluster.quorate(&["get", "nothing"]);
    assert_eq!(missing.expect_failure(3), "there is no key nothing");
    assert_eq!(missing.stdout, b"");

    let written = cluster.quorate(&["put", "k", "v", "--if-absent", "-o", "json"]).expect_ok().json();
    cluster.quorate(&["put", "k", "w", "--if-absent"]).expect_failure(4);
    let version = written["version"].to_string();
    cluster.quorate(&["put", "k", "w", "--if-version", &version]).expect_ok();
    cluster.quorate(&["delete", "k", "--if-version", &version]).expect_failure(4);
    assert_eq!(cluster.quorate(&["delete", "k"]).expect_ok().text(), "deleted\n");
    assert_eq!(cluster.quorate(&["delete", "k"]).expect_ok().text(), "there was no such key\n");

    let large = finish(cluster.command(&["put", "large", "-"]), &vec![7; 600_000]);
    let line = large.expect_failure(7);
    assert!(line.contains("524288") || line.contains("512"), "names the limit: {line}");
    let unknown = cluster.quorate(&["member", "remove", "9"]);
    assert!(matches!(unknown.code, Some(3 | 7)), "{unknown:?}");

    let nobody = quorate(&["get", "k", "--endpoints", "127.0.0.1:1", "--timeout", "300ms"]);
    assert!(nobody.expect_failure(5).contains("127.0.0.1:1"), "{nobody:?}");
}

#[test]
fn scan_shows_a_range_as_a_table_and_as_json() {
    let cluster = single();
    for key in ["a", "b", "c", "d"] {
        cluster.quorate(&["put", key, &format!("value of {key}")]).expect_ok();
    }
    let table = cluster.quorate(&["scan", "b", "d"]).expect_ok().text();
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("KEY"), "{table}");
    assert!(rows.len() == 3 && rows[1].starts_with("b ") && rows[2].contains("value of c"), "{table}");

    let part = cluster.quorate(&["scan", "a", "z", "--limit", "3", "-o", "json"]).expect_ok().json();
    assert_eq!(part["items"].as_array().unwrap().len(), 3);
    assert_eq!((&part["more"], &part["next_start"]), (&true.into(), &"d".into()));
    let all = cluster.quorate(&["scan", "-o", "json"]).expect_ok().json();
    assert_eq!(all["more"], false);
}

#[test]
fn http_and_the_command_line_see_the_same_data() {
    let cluster = single();
    cluster.quorate(&["put", "hello", "world"]).expect_ok();
    let url = format!("http://{}/v1/kv/hello", cluster.ports.client(1));
    let body = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
    assert_eq!(body, "world");
    ureq::put(&url).send(&b"from http"[..]).unwrap();
    assert_eq!(cluster.quorate(&["get", "hello"]).expect_ok().text(), "from http");
}
