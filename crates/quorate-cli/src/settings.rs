//! Every setting there is, once. The flag `--peer-listen`, the variable `QUORATE_PEER_LISTEN` and
//! the TOML key `peer-listen` are the same setting; help, `config print` and the documentation are
//! made from this table, so that they cannot disagree.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Who uses a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every command that talks to a cluster.
    Client,
    /// `serve`.
    Serve,
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The flag without dashes, and the TOML key.
    pub(crate) name: &'static str,
    /// What help calls the value; empty for a switch.
    pub(crate) value: &'static str,
    /// The default; empty when there is none.
    pub(crate) default: &'static str,
    /// One sentence.
    pub(crate) help: &'static str,
    /// Who uses it.
    pub(crate) scope: Scope,
}

const fn client(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, value, default, help, scope: Scope::Client }
}
const fn serve(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, value, default, help, scope: Scope::Serve }
}

/// The table.
#[rustfmt::skip]
pub(crate) const SETTINGS: &[Setting] = &[
    client("endpoints", "HOST:PORT,…", "127.0.0.1:8001,127.0.0.1:8002,127.0.0.1:8003", "Client addresses of nodes of the cluster; any of them will do"),
    client("output", "FORMAT", "table", "How results are printed: table or json"),
    client("timeout", "TIME", "10s", "How long a command keeps trying, for example 500ms or 10s"),

    serve("id", "N", "", "The number of this node, from 1 on; never give it to another data directory"),
    serve("dir", "DIR", "", "The data directory; made when it is not there"),
    serve("peer-listen", "HOST:PORT", "127.0.0.1:7001", "Where other nodes connect; port 0 takes a free one"),
    serve("client-listen", "HOST:PORT", "127.0.0.1:8001", "Where clients connect (HTTP and gRPC); port 0 takes a free one"),
    serve("peer-advertise", "HOST:PORT", "", "What other nodes are told to connect to, when it is not the listen address"),
    serve("client-advertise", "HOST:PORT", "", "What clients are told to connect to, when it is not the listen address"),
    serve("client-connections-max", "N", "", "The most connections of clients; 4096 unless configured, or fewer if the process may not open as many files"),
    serve("peer-tls-ca", "FILE", "", "TLS between nodes: the certificates of the authorities (PEM); all nodes have it or none"),
    serve("peer-tls-cert", "FILE", "", "TLS between nodes: this node's certificate, for the name node-ID.DOMAIN (PEM)"),
    serve("peer-tls-key", "FILE", "", "TLS between nodes: the certificate's private key (PEM)"),
    serve("peer-tls-domain", "DOMAIN", "quorate.internal", "TLS between nodes: the domain of the names in certificates"),
    serve("bootstrap", "", "false", "Start a new cluster of one node, unless the directory has one already"),
    serve("join", "HOST:PORT,…", "", "Join the cluster with these client addresses, unless the directory is a member already"),
    serve("initial-cluster", "N=HOST:PORT,…", "", "Start a new cluster of these nodes (peer addresses); every node gets the same list"),
    serve("learner", "", "false", "With --join: stay a learner that does not vote, until somebody promotes it"),
    serve("election-timeout-ms", "N", "1000", "A node that hears nothing for one to two of these campaigns; the same on all nodes"),
    serve("heartbeat-interval-ms", "N", "100", "How often a leader speaks; at most a third of the election timeout"),
    serve("leader-lease", "", "false", "Serve reads that ask for it from the leader's lease, without asking a majority; trusts clocks; the same on all nodes"),
    serve("lease-drift-max-ms", "N", "100", "By how much two nodes' clocks may differ over one election timeout, with --leader-lease"),
    serve("value-bytes-max", "BYTES", "1MiB", "The largest value that is taken, for example 65536, 64KiB or 1MiB"),
    serve("snapshot-entries", "N", "10000", "Take a snapshot after this many entries; 0: never by count"),
    serve("snapshot-bytes", "BYTES", "64MiB", "Take a snapshot after this many bytes of commands; 0: never by bytes"),
    serve("snapshot-trailing-entries", "N", "1000", "How many entries below a snapshot stay for followers that are a little behind"),
    serve("snapshot-sends-max", "N", "4", "How many snapshots are sent to followers at the same time; the others wait"),
    serve("snapshot-bytes-per-second", "BYTES", "0", "How much of snapshots is sent per second, to all followers together; 0: as fast as they take it"),
    serve("wal-reserve-bytes", "BYTES", "64MiB", "Space put by for a full disk, at least 64MiB; 0: none"),
    serve("disk-free-bytes-min", "BYTES", "", "While less space is free on the disk, nothing is written; 0: never looked at; without it, 64MiB or a sixteenth of the disk, whichever is less"),
    serve("stalled-write-ms", "N", "5000", "A leader whose disk does not finish a write for this long hands over"),
    serve("log", "FILTER", "info", "What is logged to standard error, for example warn or quorate=debug"),
    serve("log-format", "FORMAT", "text", "How it is logged: text or json"),
    serve("ready-format", "FORMAT", "text", "How the line on standard output that says \"ready\" is written: text or json"),
    serve("exit-with-parent", "", "false", "Exit when standard input ends: for supervisors that keep the other end open"),
];

impl Setting {
    /// The setting called `name`.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("QUORATE_{}", self.name.to_uppercase().replace('-', "_"))
    }

    fn arg(&self) -> Arg {
        let default =
            if self.default.is_empty() { String::new() } else { format!("default: {}, ", self.default) };
        let arg = Arg::new(self.name).long(self.name).action(ArgAction::Set).help(format!(
            "{} [{default}env: {}]",
            self.help,
            self.variable()
        ));
        let arg = if self.value.is_empty() {
            arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg.value_name(self.value)
        };
        match self.scope {
            Scope::Client => {
                let arg = arg.global(true).help_heading("Cluster");
                if self.name == "output" { arg.short('o') } else { arg }
            }
            Scope::Serve => arg,
        }
    }
}

/// The values given as flags, as written, by name of the setting.
pub(crate) type Flags = BTreeMap<&'static str, String>;

/// The flags of `serve` and `config`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeFlags(pub(crate) Flags);

/// The flags of everything that talks to a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientFlags(pub(crate) Flags);

fn augment(command: Command, scope: Scope) -> Command {
    command.args(SETTINGS.iter().filter(|setting| setting.scope == scope).map(Setting::arg))
}

fn collect(matches: &ArgMatches, scope: Scope) -> Flags {
    let of_scope = SETTINGS.iter().filter(|setting| setting.scope == scope);
    of_scope.filter_map(|s| Some((s.name, matches.get_one::<String>(s.name)?.clone()))).collect()
}

macro_rules! flags_of {
    ($name:ident, $scope:expr) => {
        impl clap::FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(collect(matches, $scope)))
            }
            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.extend(collect(matches, $scope));
                Ok(())
            }
        }
        impl clap::Args for $name {
            fn augment_args(command: Command) -> Command {
                augment(command, $scope)
            }
            fn augment_args_for_update(command: Command) -> Command {
                augment(command, $scope)
            }
        }
    };
}
flags_of!(ServeFlags, Scope::Serve);
flags_of!(ClientFlags, Scope::Client);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_names_every_setting_and_its_variable() {
        let page = include_str!("../../../docs/operations.md");
        for setting in SETTINGS {
            assert!(page.contains(&format!("`--{}", setting.name)), "--{} is not documented", setting.name);
            assert!(page.contains(&setting.variable()), "{} is not documented", setting.variable());
        }
    }
}
