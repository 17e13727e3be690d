//! What can be typed. Only shapes: what the words mean is decided in the module each command goes to.

use std::ffi::OsString;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::completions::CompletionShell;
use crate::settings::{ClientFlags, ServeFlags};

/// A replicated key-value store that survives the loss of any minority of its nodes.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Start here: `quorate demo` runs three nodes on this machine. Exit codes: docs/operations.md."
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// A TOML file with any of the settings [env: QUORATE_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientFlags,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a cluster on this machine, to try things out: real processes, real disks, real network
    Demo(DemoArgs),
    /// Runs one node
    Serve(ServeFlags),
    /// Writes a value
    Put(PutArgs),
    /// Prints a value, exactly as it was written
    Get(GetArgs),
    /// Deletes a key
    Delete(DeleteArgs),
    /// Prints the keys from START (inclusive) to END (exclusive) and their values
    Scan(ScanArgs),
    /// Shows how the cluster and its nodes are
    Status,
    /// Shows and changes who is in the cluster
    #[command(subcommand)]
    Member(MemberCommand),
    /// Moves leadership
    #[command(subcommand)]
    Leader(LeaderCommand),
    /// Looks at the log in a data directory, and cuts a damaged one by consent
    #[command(subcommand)]
    Wal(WalCommand),
    /// Lets one node go on alone after a majority of the nodes is lost for good
    Recover(RecoverArgs),
    /// Puts load on a cluster and says how quick it was, and what it cost
    #[command(
        after_help = "Without --endpoints, bench starts a cluster of its own on this machine. How to read the figures: docs/bench/quorate-bench.md."
    )]
    Bench(Box<BenchArgs>),
    /// Runs the cluster's code in a simulator that breaks disks, networks and clocks
    Sim(SimArgs),
    /// Shows which settings are in effect, or checks them
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints what a shell needs to complete these commands: `source <(quorate completions bash)`
    Completions {
        /// Which shell
        shell: CompletionShell,
    },
}

/// `put`.
#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    /// The key
    pub(crate) key: OsString,
    /// The value; `-` reads it from standard input, unchanged
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: OsString,
    /// Only if the key has no value yet
    #[arg(long, conflicts_with = "if_version")]
    pub(crate) if_absent: bool,
    /// Only if the key still has this version (as `get -o json` prints it)
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,
}

/// `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The key
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
}

/// How fresh a read must be, if not linearizable.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct Freshness {
    /// Let the leader answer from its lease where the servers have that switched on; trusts their clocks
    #[arg(long)]
    pub(crate) lease: bool,
    /// An answer that was the newest at most this long ago will do, for example 500ms
    #[arg(long, value_name = "TIME", value_parser = crate::config::duration)]
    pub(crate) recent: Option<std::time::Duration>,
    /// Ask one node what it has, without asking whether that is the newest
    #[arg(long)]
    pub(crate) stale: bool,
}

/// `delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// The key
    pub(crate) key: OsString,
    /// Only if the key still has this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,
}

/// `scan`.
#[derive(Debug, clap::Args)]
pub(crate) struct ScanArgs {
    /// The first key; nothing: from the beginning
    #[arg(default_value = "")]
    pub(crate) start: OsString,
    /// The key before which to stop; nothing: to the end
    #[arg(default_value = "")]
    pub(crate) end: OsString,
    /// Stop after this many keys
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
}

/// `member`.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Lists the members
    List,
    /// Lets a new node in as a learner; `serve --join` does this by itself
    Add {
        /// The new node's number, never used before
        #[arg(value_parser = crate::config::node_id)]
        id: u64,
        /// Where other nodes will reach it
        #[arg(long, value_name = "HOST:PORT")]
        peer: String,
        /// Where clients will reach it
        #[arg(long, value_name = "HOST:PORT")]
        client: String,
    },
    /// Makes a learner that has caught up a voter
    Promote {
        /// The node
        #[arg(value_parser = crate::config::node_id)]
        id: u64,
    },
    /// Removes a node, dead or alive
    Remove {
        /// The node
        #[arg(value_parser = crate::config::node_id)]
        id: u64,
    },
}

/// `leader`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// Hands leadership to a node, or to the one that is furthest ahead
    Transfer {
        /// The node
        #[arg(value_parser = crate::config::node_id)]
        id: Option<u64>,
    },
}

/// `wal`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Prints the log record by record, entry by entry, beyond damage too
    Dump {
        /// The data directory of a node, running or not
        dir: PathBuf,
        /// Only what is said of this group
        #[arg(long, value_name = "N")]
        group: Option<u64>,
    },
    /// Checks every byte that counts and names all damage
    Verify {
        /// The data directory of a node, running or not
        dir: PathBuf,
    },
    /// Says what is live, per segment and per group
    Stats {
        /// The data directory of a node, running or not
        dir: PathBuf,
    },
    /// Cuts a damaged log at the first damage, and loses what is behind it
    Repair {
        /// The data directory of a node that does not run
        dir: PathBuf,
        /// Consent to lose what it names; without it, the command says what that is
        #[arg(long, value_name = "CONSENT")]
        consent: Option<quorate_server::offline::RepairConsent>,
    },
}

/// `recover`.
#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// The data directory of the one that goes on; without any flag, what is in it is printed
    pub(crate) dir: PathBuf,
    /// The nodes that are lost for good
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "members")]
    pub(crate) lost: Vec<u64>,
    /// A node that is there and is left out, and the last entry in its log (as `recover DIR` prints it there)
    #[arg(long, value_name = "N=INDEX@tTERM", value_parser = crate::recover::left_out, conflicts_with = "members")]
    pub(crate) left_out: Vec<(u64, quorate_server::offline::LogId)>,
    /// A list of members with the one that goes on: all others are lost. In the form of peers.json, or TOML if the name
    /// ends with .toml
    #[arg(long, value_name = "FILE")]
    pub(crate) members: Option<PathBuf>,
    /// Go on although one that is left out has a longer log, or this node never voted
    #[arg(long)]
    pub(crate) accept_more_loss: bool,
    /// Do it; without this, only what it would do is printed
    #[arg(long, requires = "backup")]
    pub(crate) for_good: bool,
    /// Copies the log here first; nothing may be there yet
    #[arg(long, value_name = "DIR")]
    pub(crate) backup: Option<PathBuf>,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints every setting, its value, and where that came from
    Print(ServeFlags),
    /// Checks that `serve` with the same flags, environment and file would start
    Check(ServeFlags),
}

/// `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What is done, in which shares: write, read (linearizable), lease, stale
    #[arg(long, value_name = "KIND=N,…", default_value = "write=100")]
    pub(crate) mix: quorate_load::Mix,
    /// How many requests are under way at a time, 1 to 4096
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Over how many connections; each has a session of its own [default: 4, or as many as are in flight]
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Open loop: begin this many operations a second, whatever happened to earlier ones; latency counts from when
    /// each was to begin
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<f64>,
    /// For how long to measure
    #[arg(long, value_name = "N", default_value = "10", value_parser = crate::bench::seconds)]
    pub(crate) seconds: Duration,
    /// For how many seconds the load is on before that
    #[arg(long, value_name = "N", default_value = "2", value_parser = crate::bench::seconds)]
    pub(crate) warmup: Duration,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// How often each key: uniform, zipf[:EXPONENT], hot[:PERCENT of the keys], sequential
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub(crate) distribution: quorate_load::Distribution,
    /// What keys begin with; they stay in the cluster
    #[arg(long, value_name = "TEXT", default_value = "bench/")]
    pub(crate) prefix: String,
    /// How long values are: a size, or FROM..TO
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = crate::bench::value_sizes)]
    pub(crate) value_bytes: RangeInclusive<usize>,
    /// Send every request as a gRPC call of its own, not over the pipelined stream
    #[arg(long)]
    pub(crate) unary: bool,
    /// Do not write every key once before reads are measured
    #[arg(long)]
    pub(crate) no_fill: bool,
    /// Where chance begins: the same number, the same operations
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print one JSON document, as -o json does
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a page with drawings, readable without a network
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// How many nodes to start, 1 to 7, when no --endpoints are given [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=7))]
    pub(crate) nodes: Option<u64>,
    /// Where their data is while it runs [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// Replay one run and print its whole trace
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Run many (B is not included) and print what failed and what happened how often
    #[arg(long, value_name = "A..B", value_parser = crate::sim::seed_range, conflicts_with = "seed")]
    pub(crate) seeds: Option<Range<u64>>,
    /// How long faults go on, in virtual milliseconds
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub(crate) fault_millis: u64,
    /// How many operations all clients together do
    #[arg(long, value_name = "N", default_value_t = 150)]
    pub(crate) wishes: u64,
    /// Which moves of the fault injector happen, by number [default: all]
    #[arg(long, value_name = "3,7,..|none", value_parser = crate::sim::fault_list)]
    pub(crate) only_faults: Option<String>,
    /// With --seed: no trace
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// `demo`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    /// How many nodes to start with, 1 to 7 [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=7))]
    pub(crate) nodes: Option<u64>,
    /// Keep the data here, and go on with it next time; without it the data is thrown away at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Clients connect to PORT + node, nodes to PORT + 100 + node [default: 8000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    pub(crate) port_base: Option<u16>,
    #[command(subcommand)]
    pub(crate) command: Option<DemoCommand>,
}

/// `demo ctl`.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Tells a running demo to break or mend something
    #[command(after_help = crate::demo::command::HELP)]
    Ctl {
        /// The demo's data directory; needed only when several demos run
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// For example `kill 2` or `partition 1 | 2,3`
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
}
