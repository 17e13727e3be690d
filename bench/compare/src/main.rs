//! Quorate beside its peers: one run, interleaved, the best of several rounds, ratios.
//!
//! ```text
//!   fsync baseline ─► spinners on ─► for each row: ours, theirs, ours, theirs, … ─► best of each ─► table
//! ```
//!
//! * Every contestant is a process of its own, with three replicas on loopback and fsync on (but in the row that says
//!   that it is in memory).
//! * An idle processor of a small virtual machine takes milliseconds to notice that a sync is done. Two processes of
//!   the idle scheduling class keep the processors awake for the whole run, for every contestant alike.
//! * A peer that is not installed is skipped, with the line that installs it.

mod clusters;

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Parser;
use quorate_compare::Outcome;

use crate::clusters::{Cluster, Product};

/// Compares Quorate with HashiCorp Raft and openraft (library) and etcd (server) on this machine. raft-rs, which is
/// a core alone, is compared by the package around this one.
#[derive(Parser)]
struct Args {
    /// How often each row is measured; the best round counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a round is, after a warm-up of a fifth of it.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Requests in flight, one row each.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024")]
    clients: Vec<usize>,
    /// Connections that the clients of a server share.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// A directory on a disk that is really synced; its data is removed at the end.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

type Failure = Box<dyn std::error::Error>;

/// One line of the table: the same work, done by us and by a peer.
struct Row {
    name: String,
    ours: Vec<String>,
    theirs: Option<Vec<String>>,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::tempdir_in(&args.dir)?;
    println!("fdatasync of 4 KiB, alone: {}", sync_baseline(dir.path())?);
    let _spinners = [spinner()?, spinner()?];
    println!("the same with both processors kept awake: {}", sync_baseline(dir.path())?);
    let mut rows = library_rows(&args, here, dir.path());
    // The clusters run only while their rows are measured.
    let wanted = |row: &Row| row.name.contains(&args.only);
    rows.retain(wanted);
    let mut table = header();
    for row in &rows {
        measure(row, args.rounds, &mut table)?;
    }
    if ["server puts", "server gets"].iter().any(|name| name.contains(&args.only)) {
        let ours = Cluster::start(Product::Quorate, here, dir.path())?;
        let theirs = Cluster::start(Product::Etcd, here, dir.path());
        if let Err(error) = &theirs {
            println!("etcd is left out: {error}. Install it: apt-get install etcd-server");
        }
        for row in server_rows(&args, &ours, theirs.as_ref().ok()).iter().filter(|row| wanted(row)) {
            measure(row, args.rounds, &mut table)?;
        }
    }
    println!("\n{table}");
    Ok(())
}

fn header() -> String {
    "| what | ours /s | theirs /s | ratio | p50 | p99 | their p50 | their p99 | processor, a request | theirs |\n\
     |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned()
}

/// A program of this package, which was built with this one.
fn program(name: &str) -> String {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name(name).display().to_string()
}

fn library_rows(args: &Args, here: &Path, dir: &Path) -> Vec<Row> {
    let hashicorp = build_hashicorp(here, dir);
    if let Err(error) = &hashicorp {
        println!(
            "HashiCorp Raft is left out: {error}. Install it: apt-get install golang-go \
             golang-github-hashicorp-raft-dev golang-github-hashicorp-raft-boltdb-dev"
        );
    }
    let common = |clients: usize| {
        let seconds = args.seconds.to_string();
        ["--clients".into(), clients.to_string(), "--seconds".into(), seconds, "--dir".into(), text(dir)]
    };
    let ours = |clients: usize, more: &[&str]| {
        [program("quorate_library")]
            .into_iter()
            .chain(common(clients))
            .chain(more.iter().map(|word| (*word).to_owned()))
            .collect()
    };
    let mut rows = Vec::new();
    for clients in args.clients.iter().copied() {
        let theirs =
            hashicorp.as_ref().ok().map(|path| [text(path)].into_iter().chain(common(clients)).collect());
        let name =
            format!("library, WAL over TCP, {clients} in flight, beside HashiCorp raft with raft-boltdb");
        rows.push(Row { name, ours: ours(clients, &["--kind", "durable"]), theirs });
    }
    let most = args.clients.last().copied().unwrap_or(1);
    let name = format!("library, WAL over TCP, {most} in flight over 16 groups");
    rows.push(Row { name, ours: ours(most, &["--kind", "durable", "--groups", "16"]), theirs: None });
    for clients in args.clients.iter().copied() {
        let name = format!("library, in memory with function calls, {clients} in flight, beside openraft");
        let theirs = ["--clients".into(), clients.to_string(), "--seconds".into(), args.seconds.to_string()];
        let theirs = [program("openraft_library")].into_iter().chain(theirs).collect();
        rows.push(Row { name, ours: ours(clients, &["--kind", "memory"]), theirs: Some(theirs) });
    }
    rows
}

fn server_rows(args: &Args, ours: &Cluster, theirs: Option<&Cluster>) -> Vec<Row> {
    let load = |target: &str, operation: &str, cluster: &Cluster, clients: usize| -> Vec<String> {
        let words = [
            &program("server_load"),
            "--target",
            target,
            "--operation",
            operation,
            "--endpoints",
            &cluster.endpoints().join(","),
            "--clients",
            &clients.to_string(),
            "--connections",
            &args.connections.to_string(),
            "--seconds",
            &args.seconds.to_string(),
        ];
        words.map(str::to_owned).to_vec()
    };
    let mut rows = Vec::new();
    for operation in ["put", "get"] {
        for (target, how) in [("quorate-unary", "single calls"), ("quorate-stream", "stream")] {
            for clients in args.clients.iter().copied() {
                rows.push(Row {
                    name: format!("server {operation}s, {how}, {clients} in flight, beside etcd"),
                    ours: load(target, operation, ours, clients),
                    theirs: theirs.map(|cluster| load("etcd", operation, cluster, clients)),
                });
            }
        }
    }
    rows
}

/// Ours, theirs, ours, theirs, …; the best of each.
fn measure(row: &Row, rounds: usize, table: &mut String) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (None, None);
    for _ in 0..rounds {
        ours = better(ours, run(&row.ours)?);
        if let Some(words) = &row.theirs {
            theirs = better(theirs, run(words)?);
        }
    }
    let (Some(ours), theirs) = (ours, theirs) else { return Err("no rounds".into()) };
    let mut line = String::new();
    let shown = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let peer = theirs.as_ref();
    write!(
        line,
        "| {} | {:.0} | {} | {} | {} | {} | {} | {} | {:.1} µs | {} |",
        row.name,
        ours.rate(),
        shown(peer.map(|peer| format!("{:.0}", peer.rate()))),
        shown(peer.map(|peer| format!("{:.1}", ours.rate() / peer.rate()))),
        millis(ours.p50_micros),
        millis(ours.p99_micros),
        shown(peer.map(|peer| millis(peer.p50_micros))),
        shown(peer.map(|peer| millis(peer.p99_micros))),
        ours.processor_seconds * 1e6 / ours.operations.max(1) as f64,
        shown(
            peer.map(|peer| format!(
                "{:.1} µs",
                peer.processor_seconds * 1e6 / peer.operations.max(1) as f64
            ))
        ),
    )?;
    println!("{line}");
    table.push_str(&line);
    table.push('\n');
    Ok(())
}

fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1e3)
}

fn better(best: Option<Outcome>, next: Outcome) -> Option<Outcome> {
    match best {
        Some(best) if best.rate() >= next.rate() => Some(best),
        _ => Some(next),
    }
}

/// One round; a failed operation makes it void.
fn run(words: &[String]) -> Result<Outcome, Failure> {
    let output = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} failed: {said}", words.join(" ")).into());
    }
    let outcome: Outcome = serde_json::from_slice(&output.stdout)?;
    if outcome.failed > 0 {
        return Err(format!("{}: {} operations failed: {said}", words.join(" "), outcome.failed).into());
    }
    Ok(outcome)
}

/// Builds the contestant in Go from what Debian installs.
fn build_hashicorp(here: &Path, dir: &Path) -> Result<PathBuf, Failure> {
    let built = dir.join("hashicorp_library");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&built).arg("main.go").current_dir(here.join("hashicorp"));
    let output = go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").output()?;
    if output.status.success() {
        Ok(built.canonicalize()?)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The median and the 99th percentile of a thousand syncs of an overwritten block.
fn sync_baseline(dir: &Path) -> Result<String, Failure> {
    let file = File::create(dir.join("baseline"))?;
    file.write_all_at(&vec![1; 1 << 20], 0)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for block in 0..1000 {
        file.write_all_at(&[block as u8; 4096], (block % 256) * 4096)?;
        let before = Instant::now();
        file.sync_data()?;
        took.push(before.elapsed());
    }
    took.sort_unstable();
    let micros = |index: usize| took[index].as_micros();
    Ok(format!("p50 {} µs, p99 {} µs", micros(500), micros(990)))
}

/// Keeps one processor awake and yields to everything. Ends with this program.
struct Spinner(Child);

fn spinner() -> Result<Spinner, Failure> {
    // Ends by itself when this program, whose child it is, has gone.
    let script =
        "while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done";
    Ok(Spinner(Command::new("chrt").args(["-i", "0", "sh", "-c", script]).stdin(Stdio::null()).spawn()?))
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
