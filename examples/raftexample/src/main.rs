//! `raftexample --id 1 --cluster http://127.0.0.1:12379,… --port 12380 [--join]`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use quorate::GroupConfig;
use raftexample::{Example, Options};

/// A replicated key-value store over HTTP.
#[derive(Parser)]
struct Flags {
    /// Comma separated peer URLs; node N is the N-th
    #[arg(long, default_value = "http://127.0.0.1:9021", value_delimiter = ',')]
    cluster: Vec<String>,
    /// This node's number
    #[arg(long, default_value_t = 1)]
    id: u64,
    /// Key-value server port
    #[arg(long, default_value_t = 9121)]
    port: u16,
    /// Join a running cluster (which was told with POST /ID)
    #[arg(long)]
    join: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let options = Options {
        id: flags.id,
        cluster: flags.cluster,
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, flags.port)),
        join: flags.join,
        directory: PathBuf::from(format!("raftexample-{}", flags.id)),
        group: GroupConfig::default(),
    };
    let example = match Example::start(options).await {
        Ok(example) => example,
        Err(error) => {
            eprintln!("raftexample: {error}");
            return ExitCode::FAILURE;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {
            example.shutdown().await;
            ExitCode::SUCCESS
        }
        reason = example.failure() => {
            eprintln!("raftexample: stopped: {reason}");
            example.shutdown().await;
            ExitCode::FAILURE
        }
    }
}
