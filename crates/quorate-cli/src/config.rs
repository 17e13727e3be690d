//! The one place where flags, environment and file become a configuration.
//!
//! ```text
//!   defaults  <  quorate.toml  <  QUORATE_*  <  --flags         later ones win, setting by setting
//!        └───────────┴───────┬───────┴───────────┘
//!                         Layers ──► ClientConfig, ServeConfig     validated once, typed from here on
//! ```
//!
//! * A key in the file that is not a setting is an error: a misspelt limit must not be silently off.
//! * Every error names where the value came from (flag, variable, or file and line) and what to write.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Failure;
use crate::settings::{Flags, SETTINGS, Scope, Setting};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The table's default.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
    },
    /// A variable.
    Environment,
    /// A flag.
    Flag,
}

/// A value as it was written, and where.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// The setting.
    pub(crate) setting: &'static Setting,
    /// What was written.
    pub(crate) text: String,
    /// Where.
    pub(crate) source: Source,
}

impl Value {
    /// The place to look at, in the words of whoever wrote it.
    pub(crate) fn place(&self) -> String {
        match &self.source {
            Source::Default => format!("the default of --{}", self.setting.name),
            Source::File { path, line } => format!("{}:{line}: {}", path.display(), self.setting.name),
            Source::Environment => self.setting.variable(),
            Source::Flag => format!("--{}", self.setting.name),
        }
    }

    /// An error about this value: `must` says what to write instead.
    fn wrong(&self, must: &str) -> Failure {
        Failure::usage(format!("{}: {:?} is not valid: {must}", self.place(), self.text))
    }
}

/// All sources of settings, read but not yet understood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    flags: Flags,
    environment: BTreeMap<String, String>,
    file: BTreeMap<&'static str, Value>,
}

impl Layers {
    /// Reads the environment and the file (`--config`, else `QUORATE_CONFIG`, else none).
    pub(crate) fn read(flags: Flags, config: Option<&Path>) -> Result<Self, Failure> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| name.starts_with("QUORATE_"))
            .collect();
        let from_environment =
            environment.get("QUORATE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = match config.map(Path::to_path_buf).or(from_environment) {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    Failure::usage(format!("cannot read the configuration file {}: {error}", path.display()))
                })?;
                parse_file(&path, &text)?
            }
            None => BTreeMap::new(),
        };
        Ok(Self { flags, environment, file })
    }

    /// The value of a setting, if it has one. An empty variable counts as not set.
    pub(crate) fn value(&self, setting: &'static Setting) -> Option<Value> {
        let value = |text: &str, source| Value { setting, text: text.to_owned(), source };
        let variable = || self.environment.get(&setting.variable()).filter(|text| !text.is_empty());
        if let Some(text) = self.flags.get(setting.name) {
            Some(value(text, Source::Flag))
        } else if let Some(text) = variable() {
            Some(value(text, Source::Environment))
        } else if let Some(written) = self.file.get(setting.name) {
            Some(written.clone())
        } else if setting.default.is_empty() {
            None
        } else {
            Some(value(setting.default, Source::Default))
        }
    }

    /// Whether somebody said what this setting is to be.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.named(name).is_some_and(|value| value.source != Source::Default)
    }

    fn named(&self, name: &str) -> Option<Value> {
        self.value(Setting::named(name).expect("the name of a setting is in the table"))
    }

    fn parse<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Failure> {
        let Some(value) = self.named(name) else { return Ok(None) };
        parse(&value.text).map(Some).map_err(|must| value.wrong(&must))
    }

    fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
        let setting = Setting::named(name).expect("the name of a setting is in the table");
        self.parse(name, parse)?.ok_or_else(|| {
            let (value, variable) = (setting.value, setting.variable());
            Failure::usage(format!(
                "--{name} {value} is missing: {} (or set {variable}, or {name} in the file)",
                setting.help
            ))
        })
    }
}

/// Reads the settings of a TOML file: top-level keys, spelt like the flags.
fn parse_file(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Value>, Failure> {
    let line_of = |offset: usize| text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
    let table = toml::de::DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        Failure::usage(format!("{}:{line}: not TOML: {}", path.display(), error.message()))
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let line = line_of(key.span().start);
        let setting = Setting::named(key.get_ref()).ok_or_else(|| {
            let known =
                nearest(key.get_ref()).map_or_else(String::new, |name| format!("; did you mean {name}?"));
            Failure::usage(format!("{}:{line}: unknown key {:?}{known}", path.display(), key.get_ref()))
        })?;
        let written = file_text(value.get_ref()).ok_or_else(|| {
            Failure::usage(format!(
                "{}:{line}: {} must be a string, a number, true or false, or a list of strings",
                path.display(),
                setting.name
            ))
        })?;
        let source = Source::File { path: path.to_path_buf(), line };
        values.insert(setting.name, Value { setting, text: written, source });
    }
    Ok(values)
}

/// A TOML value in the form in which a flag would have it.
fn file_text(value: &toml::de::DeValue<'_>) -> Option<String> {
    use toml::de::DeValue;
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                DeValue::Integer(_)
                | DeValue::Boolean(_)
                | DeValue::Float(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)
                | DeValue::Table(_) => None,
            });
            Some(texts.collect::<Option<Vec<_>>>()?.join(","))
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// The setting whose name is at most two edits away.
fn nearest(key: &str) -> Option<&'static str> {
    let key = key.replace('_', "-");
    let best = SETTINGS.iter().map(|setting| (edits(&key, setting.name), setting.name)).min()?;
    (best.0 <= 2).then_some(best.1)
}

/// Levenshtein's distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replace = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// For people.
    Table,
    /// For programs; the fields are documented and only grow.
    Json,
}

/// What a command that talks to a cluster needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientConfig {
    /// Client addresses, at least one.
    pub(crate) endpoints: Vec<String>,
    /// How results are printed.
    pub(crate) output: OutputFormat,
    /// How long to keep trying.
    pub(crate) timeout: Duration,
}

impl ClientConfig {
    /// Understands the settings of clients.
    pub(crate) fn resolve(layers: &Layers) -> Result<Self, Failure> {
        Ok(Self {
            endpoints: layers.required("endpoints", address_list)?,
            output: layers.required("output", |text| match text {
                "table" => Ok(OutputFormat::Table),
                "json" => Ok(OutputFormat::Json),
                _ => Err("write table or json".to_owned()),
            })?,
            timeout: layers.required("timeout", duration)?,
        })
    }
}

/// How a node without data begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It does not: the directory must have data.
    Continue,
    /// A new cluster of this node.
    Bootstrap,
    /// As a new member of the cluster at these client addresses.
    Join {
        /// Client addresses.
        endpoints: Vec<String>,
        /// Do not become a voter.
        learner: bool,
    },
    /// A new cluster of these nodes and their peer addresses.
    InitialCluster(BTreeMap<u64, String>),
}

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where the certificates for TLS between nodes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerTlsFiles {
    /// The authorities' certificates.
    pub(crate) ca: PathBuf,
    /// This node's certificate.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
    /// The domain of the names in certificates.
    pub(crate) domain: String,
}

/// What `serve` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServeConfig {
    /// The node.
    pub(crate) id: u64,
    /// The data directory.
    pub(crate) dir: PathBuf,
    /// Where other nodes connect.
    pub(crate) peer_listen: String,
    /// Where clients connect.
    pub(crate) client_listen: String,
    /// What other nodes are told, when it is not the listen address.
    pub(crate) peer_advertise: Option<String>,
    /// What clients are told, when it is not the listen address.
    pub(crate) client_advertise: Option<String>,
    /// The most connections of clients; without it, as the server says.
    pub(crate) client_connections_max: Option<usize>,
    /// TLS between nodes.
    pub(crate) peer_tls: Option<PeerTlsFiles>,
    /// How to begin.
    pub(crate) start: Start,
    /// T, the election timeout.
    pub(crate) election_timeout: Duration,
    /// How often a leader speaks.
    pub(crate) heartbeat_interval: Duration,
    /// Reads from the leader's lease, and by how much clocks may differ.
    pub(crate) lease_drift_max: Option<Duration>,
    /// The largest value.
    pub(crate) value_bytes_max: u64,
    /// Snapshot after this many entries.
    pub(crate) snapshot_entries: u64,
    /// Snapshot after this many bytes.
    pub(crate) snapshot_bytes: u64,
    /// Entries kept below a snapshot.
    pub(crate) snapshot_trailing_entries: u64,
    /// Snapshots sent at the same time.
    pub(crate) snapshot_sends_max: usize,
    /// Bytes of snapshots sent per second; without it, as many as are taken.
    pub(crate) snapshot_bytes_per_second: Option<u64>,
    /// Space put by for a full disk.
    pub(crate) wal_reserve_bytes: u64,
    /// The least that is free on the disk while entries are taken; without it, as the library says.
    pub(crate) disk_free_bytes_min: Option<u64>,
    /// How long a leader's disk may take for a write.
    pub(crate) stalled_write_max: Duration,
    /// What is logged.
    pub(crate) log: String,
    /// How it is logged.
    pub(crate) log_format: TextFormat,
    /// How "ready" is said.
    pub(crate) ready_format: TextFormat,
    /// Exit when standard input ends.
    pub(crate) exit_with_parent: bool,
}

/// The largest limit on values: a command carries one, and must fit in a message between nodes.
const VALUE_BYTES_LIMIT: u64 = 16 << 20;

impl ServeConfig {
    /// Understands the settings of `serve`.
    pub(crate) fn resolve(layers: &Layers) -> Result<Self, Failure> {
        let config = Self {
            id: layers.required("id", node_id)?,
            dir: layers.required("dir", |text| match text {
                "" => Err("name a directory".to_owned()),
                path => Ok(PathBuf::from(path)),
            })?,
            peer_listen: layers.required("peer-listen", address)?,
            client_listen: layers.required("client-listen", address)?,
            peer_advertise: layers.parse("peer-advertise", advertised)?,
            client_advertise: layers.parse("client-advertise", advertised)?,
            client_connections_max: layers.parse("client-connections-max", |text| {
                number(1, 1_000_000)(text).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
            })?,
            peer_tls: peer_tls(layers)?,
            start: start(layers)?,
            election_timeout: Duration::from_millis(
                layers.required("election-timeout-ms", number(10, 600_000))?,
            ),
            heartbeat_interval: Duration::from_millis(
                layers.required("heartbeat-interval-ms", number(1, 200_000))?,
            ),
            lease_drift_max: lease_drift_max(layers)?,
            value_bytes_max: layers.required("value-bytes-max", |text| match byte_count(text)? {
                bytes if bytes == 0 || bytes > VALUE_BYTES_LIMIT => {
                    Err("write between 1 and 16MiB".to_owned())
                }
                bytes => Ok(bytes),
            })?,
            snapshot_entries: layers.required("snapshot-entries", number(0, u64::MAX))?,
            snapshot_bytes: layers.required("snapshot-bytes", byte_count)?,
            snapshot_trailing_entries: layers.required("snapshot-trailing-entries", number(0, u64::MAX))?,
            snapshot_sends_max: layers.required("snapshot-sends-max", |text| {
                number(1, 1024)(text).map(|sends| usize::try_from(sends).unwrap_or(1024))
            })?,
            snapshot_bytes_per_second: match layers.required("snapshot-bytes-per-second", byte_count)? {
                0 => None,
                bytes => Some(bytes),
            },
            wal_reserve_bytes: layers.required("wal-reserve-bytes", byte_count)?,
            disk_free_bytes_min: layers.parse("disk-free-bytes-min", byte_count)?,
            stalled_write_max: Duration::from_millis(
                layers.required("stalled-write-ms", number(100, 600_000))?,
            ),
            log: layers.required("log", log_filter)?,
            log_format: layers.required("log-format", text_format)?,
            ready_format: layers.required("ready-format", text_format)?,
            exit_with_parent: layers.required("exit-with-parent", boolean)?,
        };
        config.check_together(layers)?;
        Ok(config)
    }

    /// What only several settings together can get wrong.
    fn check_together(&self, layers: &Layers) -> Result<(), Failure> {
        if self.heartbeat_interval * 3 > self.election_timeout {
            let value = layers.named("heartbeat-interval-ms").expect("heartbeat-interval-ms has a default");
            let at_most = self.election_timeout.as_millis() / 3;
            return Err(value.wrong(&format!(
                "it must be at most a third of the election timeout: {at_most}, or raise --election-timeout-ms"
            )));
        }
        if self.lease_drift_max.is_some_and(|drift| drift >= self.election_timeout) {
            let value = layers.named("lease-drift-max-ms").expect("lease-drift-max-ms has a default");
            let below = self.election_timeout.as_millis();
            return Err(value.wrong(&format!("it must be below the election timeout: less than {below}")));
        }
        if let Start::InitialCluster(nodes) = &self.start
            && !nodes.contains_key(&self.id)
        {
            let value = layers.named("initial-cluster").expect("it was given");
            return Err(value.wrong(&format!("it must contain this node: add {}=HOST:PORT", self.id)));
        }
        Ok(())
    }
}

/// By how much clocks may differ, if leases are switched on.
fn lease_drift_max(layers: &Layers) -> Result<Option<Duration>, Failure> {
    let millis = layers.required("lease-drift-max-ms", number(1, 600_000))?;
    Ok(layers.required("leader-lease", boolean)?.then(|| Duration::from_millis(millis)))
}

fn peer_tls(layers: &Layers) -> Result<Option<PeerTlsFiles>, Failure> {
    let file = |name| layers.parse(name, |text| Ok(PathBuf::from(text)));
    let domain = layers.required("peer-tls-domain", |text| Ok(text.to_owned()))?;
    match (file("peer-tls-ca")?, file("peer-tls-cert")?, file("peer-tls-key")?) {
        (Some(ca), Some(certificate), Some(key)) => Ok(Some(PeerTlsFiles { ca, certificate, key, domain })),
        (None, None, None) => Ok(None),
        _ => Err(Failure::usage(
            "--peer-tls-ca, --peer-tls-cert and --peer-tls-key belong together: give all three or none",
        )),
    }
}

fn start(layers: &Layers) -> Result<Start, Failure> {
    let bootstrap = layers.required("bootstrap", boolean)?;
    let join = layers.parse("join", address_list)?;
    let initial = layers.parse("initial-cluster", initial_cluster)?;
    let learner = layers.required("learner", boolean)?;
    let ways = usize::from(bootstrap) + usize::from(join.is_some()) + usize::from(initial.is_some());
    if ways > 1 {
        return Err(Failure::usage(
            "--bootstrap, --join and --initial-cluster exclude each other: give one of them",
        ));
    }
    if learner && join.is_none() {
        return Err(Failure::usage(
            "--learner says how to join: give --join HOST:PORT too, or leave --learner out",
        ));
    }
    Ok(match (bootstrap, join, initial) {
        (true, _, _) => Start::Bootstrap,
        (_, Some(endpoints), _) => Start::Join { endpoints, learner },
        (_, _, Some(nodes)) => Start::InitialCluster(nodes),
        (false, None, None) => Start::Continue,
    })
}

fn number(min: u64, max: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ if max == u64::MAX => Err(format!("write a whole number from {min} on")),
        _ => Err(format!("write a whole number from {min} to {max}")),
    }
}

/// A node number; 0 is nobody, and the upper half is kept free.
pub(crate) fn node_id(text: &str) -> Result<u64, String> {
    number(1, u64::MAX / 2)(text).map_err(|_| "write a whole number from 1 on".to_owned())
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

fn text_format(text: &str) -> Result<TextFormat, String> {
    match text {
        "text" => Ok(TextFormat::Text),
        "json" => Ok(TextFormat::Json),
        _ => Err("write text or json".to_owned()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    let example = "write a level such as warn, or a filter such as info,quorate=debug";
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| example.to_owned())
}

/// `host:port`. The name is looked up when it is used, not here.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let wrong = || "write host:port, for example 127.0.0.1:7001".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let plain =
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '=' | ','));
    let colons_in_brackets = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    match port.parse::<u16>() {
        Ok(_) if plain && colons_in_brackets && text.len() <= 1024 => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

/// An address that others connect to: no port 0.
fn advertised(text: &str) -> Result<String, String> {
    match address(text)? {
        address if address.ends_with(":0") => {
            Err("port 0 cannot be connected to: write the real port".to_owned())
        }
        address => Ok(address),
    }
}

fn address_list(text: &str) -> Result<Vec<String>, String> {
    // An address is often copied from a browser or a curl command.
    let plain = |part: &str| part.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    text.split(',').map(|part| advertised(&plain(part))).collect()
}

fn initial_cluster(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let example = "write 1=host:port,2=host:port,…";
    let mut nodes = BTreeMap::new();
    for part in text.split(',') {
        let (id, peer) = part.trim().split_once('=').ok_or_else(|| example.to_owned())?;
        let id = node_id(id).map_err(|_| example.to_owned())?;
        let peer = advertised(peer)?;
        if nodes.values().any(|other| *other == peer) {
            return Err(format!("two nodes have the address {peer}"));
        }
        if nodes.insert(id, peer).is_some() {
            return Err(format!("node {id} is there twice"));
        }
    }
    Ok(nodes)
}

/// A number of bytes: `65536`, `64KiB`, `1MiB`, `1GiB`.
pub(crate) fn byte_count(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes =
        digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| "write a number of bytes, for example 65536, 64KiB or 1MiB".to_owned())
}

/// A time: `500ms`, `10s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis_per_unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let millis =
        digits.parse::<u64>().ok().zip(millis_per_unit).and_then(|(number, unit)| number.checked_mul(unit));
    match millis {
        Some(millis) if (1..=86_400_000).contains(&millis) => Ok(Duration::from_millis(millis)),
        _ => Err("write a time with its unit, for example 500ms, 10s or 2m".to_owned()),
    }
}

/// The settings in effect, one line each, in the form of the file they could be put in.
pub(crate) fn print(layers: &Layers) -> String {
    let mut out = String::new();
    for setting in SETTINGS {
        let of = match setting.scope {
            Scope::Client => "",
            Scope::Serve => "serve: ",
        };
        match layers.value(setting) {
            Some(value) => {
                let from = match &value.source {
                    Source::Default => "default".to_owned(),
                    Source::File { path, line } => format!("{}:{line}", path.display()),
                    Source::Environment | Source::Flag => value.place(),
                };
                let text = toml::Value::String(value.text.clone()).to_string();
                out.push_str(&format!("{} = {text}  # {of}{from}\n", setting.name));
            }
            None => out.push_str(&format!("# {} is not set  # {of}{}\n", setting.name, setting.help)),
        }
    }
    out
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
