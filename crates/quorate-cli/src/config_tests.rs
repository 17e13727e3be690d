//! Stories about settings: who wins, and what each mistake is told.

use super::*;

fn layers(
    flags: &[(&'static str, &str)],
    environment: &[(&str, &str)],
    file: &str,
) -> Result<Layers, Failure> {
    Ok(Layers {
        flags: flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect(),
        environment: environment
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
        file: parse_file(Path::new("quorate.toml"), file)?,
    })
}

fn serve_line(flags: &[(&'static str, &str)]) -> String {
    let mut all = vec![("id", "1"), ("dir", "d1")];
    all.retain(|(name, _)| !flags.iter().any(|(given, _)| given == name));
    all.extend(flags);
    match ServeConfig::resolve(&layers(&all, &[], "").unwrap()) {
        Ok(config) => format!("accepted: {config:?}"),
        Err(failure) => failure.line,
    }
}

#[test]
fn flag_wins_over_variable_over_file_over_default() {
    let file = "id = 4\ndir = \"from-file\"\npeer-listen = \"127.0.0.1:4\"\nclient-listen = \"127.0.0.1:14\"";
    let environment = [("QUORATE_PEER_LISTEN", "127.0.0.1:3"), ("QUORATE_CLIENT_LISTEN", "127.0.0.1:13")];
    let config =
        ServeConfig::resolve(&layers(&[("client-listen", "127.0.0.1:12")], &environment, file).unwrap());
    let config = config.unwrap();
    assert_eq!(config.client_listen, "127.0.0.1:12", "flag");
    assert_eq!(config.peer_listen, "127.0.0.1:3", "variable");
    assert_eq!((config.id, config.dir), (4, PathBuf::from("from-file")), "file");
    assert_eq!(config.value_bytes_max, 1 << 20, "default");
}

#[test]
fn flag_turns_off_what_the_file_turned_on() {
    let layers =
        layers(&[("bootstrap", "false"), ("id", "1"), ("dir", "d")], &[], "bootstrap = true").unwrap();
    assert_eq!(ServeConfig::resolve(&layers).unwrap().start, Start::Continue);
}

#[test]
fn lists_in_the_file_are_lists() {
    let file = "id = 2\ndir = \"d\"\ninitial-cluster = [\"1=a:1\", \"2=b:2\"]";
    let config = ServeConfig::resolve(&layers(&[], &[], file).unwrap()).unwrap();
    let nodes = BTreeMap::from([(1, "a:1".to_owned()), (2, "b:2".to_owned())]);
    assert_eq!(config.start, Start::InitialCluster(nodes));
}

#[test]
fn unknown_key_is_an_error_with_its_line_and_a_suggestion() {
    let failure = layers(&[], &[], "# mine\nid = 1\npeer_lisen = \"x:1\"").unwrap_err();
    assert_eq!(failure.line, "quorate.toml:3: unknown key \"peer_lisen\"; did you mean peer-listen?");
    assert_eq!(failure.exit, crate::failure::Exit::Usage);
    let failure = layers(&[], &[], "\nid = ").unwrap_err();
    assert!(failure.line.starts_with("quorate.toml:2: not TOML: "), "{failure}");
    let failure = layers(&[], &[], "id = 1.5").unwrap_err();
    assert!(failure.line.starts_with("quorate.toml:1: id must be a string, a number"), "{failure}");
}

#[test]
fn every_mistake_names_its_place_and_what_to_write() {
    let file = layers(&[], &[], "id = 1\ndir = \"d\"\nvalue-bytes-max = \"1 parsec\"").unwrap();
    assert_eq!(
        ServeConfig::resolve(&file).unwrap_err().line,
        "quorate.toml:3: value-bytes-max: \"1 parsec\" is not valid: write a number of bytes, for example 65536, 64KiB or 1MiB"
    );
    let variable = layers(&[("dir", "d")], &[("QUORATE_ID", "zero")], "").unwrap();
    assert_eq!(
        ServeConfig::resolve(&variable).unwrap_err().line,
        "QUORATE_ID: \"zero\" is not valid: write a whole number from 1 on"
    );
    assert_eq!(
        serve_line(&[("peer-listen", "7001")]),
        "--peer-listen: \"7001\" is not valid: write host:port, for example 127.0.0.1:7001"
    );
    assert_eq!(
        serve_line(&[("peer-advertise", "host:0")]),
        "--peer-advertise: \"host:0\" is not valid: port 0 cannot be connected to: write the real port"
    );
    assert_eq!(
        serve_line(&[("heartbeat-interval-ms", "400")]),
        "--heartbeat-interval-ms: \"400\" is not valid: it must be at most a third of the election timeout: 333, or raise --election-timeout-ms"
    );
    assert_eq!(
        serve_line(&[("initial-cluster", "2=a:1,3=b:1")]),
        "--initial-cluster: \"2=a:1,3=b:1\" is not valid: it must contain this node: add 1=HOST:PORT"
    );
    assert_eq!(
        serve_line(&[("initial-cluster", "1=a:1,1=b:1")]),
        "--initial-cluster: \"1=a:1,1=b:1\" is not valid: node 1 is there twice"
    );
    assert_eq!(
        serve_line(&[("bootstrap", "true"), ("join", "a:1")]),
        "--bootstrap, --join and --initial-cluster exclude each other: give one of them"
    );
    assert_eq!(
        serve_line(&[("peer-tls-ca", "ca.pem")]),
        "--peer-tls-ca, --peer-tls-cert and --peer-tls-key belong together: give all three or none"
    );
    assert!(serve_line(&[("learner", "true")]).starts_with("--learner says how to join"));
    assert!(serve_line(&[("id", "0")]).starts_with("--id: \"0\" is not valid"));
}

#[test]
fn missing_setting_names_all_three_ways_to_give_it() {
    let failure = ServeConfig::resolve(&layers(&[("dir", "d")], &[], "").unwrap()).unwrap_err();
    assert!(failure.line.starts_with("--id N is missing: "), "{failure}");
    assert!(failure.line.ends_with("(or set QUORATE_ID, or id in the file)"), "{failure}");
}

#[test]
fn endpoints_copied_from_a_browser_are_taken() {
    let layers = layers(&[("endpoints", "http://127.0.0.1:8001/, [::1]:8002")], &[], "").unwrap();
    let config = ClientConfig::resolve(&layers).unwrap();
    assert_eq!(config.endpoints, ["127.0.0.1:8001", "[::1]:8002"]);
}

#[test]
fn printed_configuration_says_where_each_value_came_from() {
    let layers = layers(&[("id", "7")], &[("QUORATE_TIMEOUT", "2s")], "\nlog = \"warn\"").unwrap();
    let printed = print(&layers);
    assert!(printed.contains("id = \"7\"  # serve: --id\n"), "{printed}");
    assert!(printed.contains("timeout = \"2s\"  # QUORATE_TIMEOUT\n"), "{printed}");
    assert!(printed.contains("log = \"warn\"  # serve: quorate.toml:2\n"), "{printed}");
    assert!(printed.contains("peer-listen = \"127.0.0.1:7001\"  # serve: default\n"), "{printed}");
    // What is printed can be used as a file.
    parse_file(Path::new("printed.toml"), &printed).unwrap();
}

#[test]
fn sizes_and_times_need_units_that_exist() {
    assert_eq!(byte_count("1MiB"), Ok(1 << 20));
    assert_eq!(byte_count("65536"), Ok(65_536));
    assert!(byte_count("99999999999GiB").is_err() && byte_count("MiB").is_err() && byte_count("-1").is_err());
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    assert!(duration("10").is_err() && duration("0s").is_err() && duration("99999h").is_err());
}

#[test]
fn sending_snapshots_is_limited_as_told() {
    let defaults = serve_line(&[]);
    assert!(defaults.contains("snapshot_sends_max: 4, snapshot_bytes_per_second: None"), "{defaults}");
    let set = serve_line(&[("snapshot-sends-max", "1"), ("snapshot-bytes-per-second", "2MiB")]);
    assert!(set.contains("snapshot_sends_max: 1, snapshot_bytes_per_second: Some(2097152)"), "{set}");
    let none = serve_line(&[("snapshot-sends-max", "0")]);
    assert!(none.contains("--snapshot-sends-max") && none.contains("from 1 to 1024"), "{none}");
}

#[test]
fn full_and_stalled_disks_are_treated_as_told() {
    let defaults = serve_line(&[]);
    assert!(
        defaults.contains("wal_reserve_bytes: 67108864, disk_free_bytes_min: None, stalled_write_max: 5s"),
        "{defaults}"
    );
    let set = serve_line(&[
        ("wal-reserve-bytes", "0"),
        ("disk-free-bytes-min", "1GiB"),
        ("stalled-write-ms", "700"),
    ]);
    let expected = "wal_reserve_bytes: 0, disk_free_bytes_min: Some(1073741824), stalled_write_max: 700ms";
    assert!(set.contains(expected), "{set}");
}

#[test]
fn leases_are_off_until_they_are_switched_on() {
    assert!(serve_line(&[("lease-drift-max-ms", "50")]).contains("lease_drift_max: None"));
    let on = serve_line(&[("leader-lease", "true"), ("lease-drift-max-ms", "50")]);
    assert!(on.contains("lease_drift_max: Some(50ms)"), "{on}");
    let too_much = serve_line(&[("leader-lease", "true"), ("lease-drift-max-ms", "1000")]);
    assert!(too_much.contains("below the election timeout: less than 1000"), "{too_much}");
}
