//! The `quorate` program: a demo, a server, and the commands to use and to run a cluster.
//!
//! ```text
//!   args ──► config (flags, environment, file) ──► serve │ demo │ data │ admin │ bench │ wal ──► output, exit code
//! ```
//!
//! No logic of its own: whatever decides something lives in the libraries, where the simulator and
//! their tests reach it. Results go to standard output, everything else to standard error.

mod admin;
mod args;
mod bench;
mod completions;
mod config;
mod data;
mod demo;
mod failure;
mod log_output;
mod output;
mod parent;
mod recover;
mod serve;
mod settings;
mod sim;
mod wal;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;

use crate::args::{Args, Command, ConfigCommand};
use crate::config::{ClientConfig, Layers, ServeConfig};
use crate::failure::Failure;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return not_understood(&error),
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.line);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let mut flags = args.client.0;
    let path = args.config.as_deref();
    match args.command {
        Command::Demo(demo) => demo::run(demo),
        Command::Serve(serve) => {
            flags.extend(serve.0);
            let layers = Layers::read(flags, path)?;
            serve::run(&ServeConfig::resolve(&layers)?)
        }
        Command::Bench(args) => bench::run(&args, &Layers::read(flags, path)?),
        Command::Completions { shell } => completions::run(shell),
        Command::Sim(args) => sim::run(&args),
        Command::Wal(command) => {
            wal::run(command, ClientConfig::resolve(&Layers::read(flags, path)?)?.output)
        }
        Command::Recover(args) => {
            recover::run(&args, ClientConfig::resolve(&Layers::read(flags, path)?)?.output)
        }
        Command::Config(ConfigCommand::Print(serve)) => {
            flags.extend(serve.0);
            output::bytes(config::print(&Layers::read(flags, path)?).as_bytes())
        }
        Command::Config(ConfigCommand::Check(serve)) => {
            flags.extend(serve.0);
            let layers = Layers::read(flags, path)?;
            ClientConfig::resolve(&layers)?;
            ServeConfig::resolve(&layers)?;
            output::line("The configuration is valid.")
        }
        Command::Put(args) => client(flags, path, async |config| data::put(args, config).await),
        Command::Get(args) => client(flags, path, async |config| data::get(args, config).await),
        Command::Delete(args) => client(flags, path, async |config| data::delete(args, config).await),
        Command::Scan(args) => client(flags, path, async |config| data::scan(args, config).await),
        Command::Status => client(flags, path, admin::status),
        Command::Member(command) => client(flags, path, async |config| admin::member(command, config).await),
        Command::Leader(command) => client(flags, path, async |config| admin::leader(command, config).await),
    }
}

/// Runs a command that talks to a cluster.
fn client(
    flags: settings::Flags,
    path: Option<&std::path::Path>,
    command: impl AsyncFnOnce(&ClientConfig) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let config = ClientConfig::resolve(&Layers::read(flags, path)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("cannot start: {error}")))?;
    let result = runtime.block_on(command(&config));
    runtime.shutdown_background();
    result
}

/// Help goes to standard output; a mistake is one line that says what to type instead.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        // A reader of the help that went away is no error.
        let _printed = error.print();
        return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
    }
    let text = error.to_string();
    let said = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said =
        said.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let line = said.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    say(&format!("{} (see quorate --help)", line.trim_start_matches("error: ")));
    ExitCode::from(failure::Exit::Usage as u8)
}

/// How long the end of the process is put off for whoever should read its last line.
const LAST_LINE_WAIT: Duration = Duration::from_secs(1);

/// One line on standard error. A closed one changes nothing, nor does a full pipe that nobody
/// reads.
fn say(line: &str) {
    let line = format!("quorate: {line}\n");
    let (said, heard) = mpsc::sync_channel(1);
    let write = move || {
        let _written = std::io::stderr().write_all(line.as_bytes());
        let _heard = said.send(());
    };
    // Without a thread it stays unsaid; the exit code says the most of it.
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _in_time = heard.recv_timeout(LAST_LINE_WAIT);
    }
}
