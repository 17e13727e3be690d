//! `quorate demo`: a real cluster on this machine, to learn what Raft does by breaking it.
//!
//! ```text
//!                        quorate demo
//!        ┌───────────────────┼────────────────────┐
//!    serve 1 ◄──► proxy ◄──► proxy ◄──► … ◄──► serve 3     one process, one directory each
//!        └─── clients ───────┴───── clients ──────┘        straight to the nodes
//! ```
//!
//! * The nodes are `serve` processes of this same program, with fsync on and real sockets; only the
//!   wires between them are ours (`proxy.rs`).
//! * They die with the demo, however it dies (`process.rs`, `../parent.rs`).
//! * Orders come from the prompt, when there is a terminal, and from `demo ctl` (`control.rs`).

pub(crate) mod command;
mod control;
mod hello;
mod layout;
mod network;
pub(crate) mod process;
mod prompt;
mod proxy;
mod supervisor;

use std::io::IsTerminal;
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::control::Registration;
use self::layout::{Layout, Wish};
use self::supervisor::Supervisor;
use crate::args::{DemoArgs, DemoCommand};
use crate::failure::{Exit, Failure};
use crate::output;

/// How many orders may wait for their turn.
const CALLS_MAX: usize = 8;

/// `demo` and `demo ctl`.
pub(crate) fn run(args: DemoArgs) -> Result<(), Failure> {
    match args.command {
        Some(DemoCommand::Ctl { dir, words }) => {
            let answer = control::send(dir.as_deref(), &words.join(" "))?;
            output::line(answer)
        }
        None => {
            let wish = Wish { dir: args.dir, nodes: args.nodes, port_base: args.port_base };
            // One thread, this one, which lives as long as the demo: see `Supervisor::start`.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::error(format!("cannot start: {error}")))?;
            let result = runtime.block_on(demo(&wish));
            runtime.shutdown_background();
            result
        }
    }
}

async fn demo(wish: &Wish) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut signals = Signals::new()?;
    let (layout, notes) = Layout::open(wish)?;
    for note in notes {
        output::line(note)?;
    }
    let mut registration = Registration::new(&layout.dir, layout.temporary)?;
    let (dir, temporary) = (layout.dir.clone(), layout.temporary);
    let started = tokio::select! {
        started = Supervisor::start(layout) => started,
        () = signals.next() => Err(Failure::new(Exit::Interrupted, "stopped before the nodes were ready")),
    };
    let mut supervisor = match started {
        Ok(supervisor) => supervisor,
        Err(failure) => {
            if temporary {
                // The failure says what is wrong; the next demo's start cleans up as well.
                let _removed = std::fs::remove_dir_all(&dir);
            }
            return Err(failure);
        }
    };
    let (calls, mut called) = mpsc::channel(CALLS_MAX);
    let mut tasks = JoinSet::new();
    if let Some(listener) = registration.take_listener() {
        tasks.spawn(control::serve(listener, calls.clone()));
    }
    output::line(banner(&supervisor, begun).await)?;

    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if interactive {
        output::line(
            "At the prompt: kill 2, restart 2, add, partition 1 | 2,3, slow 2 100ms, heal, status, help, quit\n",
        )?;
    }
    let terminal = interactive.then(prompt::Terminal::remember);
    let (mut notice, left): (prompt::Notice, _) = if interactive {
        let (notice, left) = prompt::start(calls)?;
        (notice, Some(left))
    } else {
        // A reader of standard output that went away does not stop the demo.
        (Box::new(|line| drop(output::line(line))), None)
    };
    let asked_to_leave = async move {
        match left {
            // Also when the prompt has ended without a word.
            Some(left) => drop(left.await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = supervisor.run(&mut called, &mut *notice) => {}
        () = asked_to_leave => {}
        () = signals.next() => {}
    }
    drop(terminal);
    tasks.shutdown().await;
    tokio::select! {
        stopped = supervisor.stop() => stopped,
        () = signals.next() => Err(Failure::new(Exit::Interrupted, "stopped at once by a second signal")),
    }
}

/// What is there, what to try, and how fast it was.
async fn banner(supervisor: &Supervisor, begun: Instant) -> String {
    let table = supervisor.describe().await;
    let layout = supervisor.layout();
    let program = std::env::args().next().unwrap_or_else(|| "quorate".to_owned());
    let first = layout.client_address(1);
    let endpoints = if layout.state.port_base == layout::PORT_BASE {
        String::new()
    } else {
        format!(" --endpoints {first}")
    };
    let ctl_dir = if layout.temporary { String::new() } else { format!(" --dir {}", layout.dir.display()) };
    let victim = layout.state.nodes().count().min(2);
    let data = if layout.temporary { "goes away when the demo stops" } else { "is kept" };
    let nodes = layout.state.nodes().count();
    let took = begun.elapsed().as_secs_f64();
    let ready = if nodes == 1 { "1 node is ready".to_owned() } else { format!("{nodes} nodes are ready") };
    format!(
        "{ready} after {took:.2} s. The data {data}. Ctrl-C stops everything.

{table}

HTTP API: http://{first}/v1/kv/KEY (any node answers)

Try:
  {program} put hello world{endpoints}
  curl http://{first}/v1/kv/hello
  {program} demo ctl{ctl_dir} kill {victim}    and then: {program} status{endpoints}
"
    )
}

/// The signals that ask to stop.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::error(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
