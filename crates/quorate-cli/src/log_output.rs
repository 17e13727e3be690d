//! Where the lines of the log go: to standard error, but no thread of the node waits for that.
//!
//! ```text
//!   any thread ── line ──► queue of 1,024 lines ──► one thread ──► standard error
//!                            │ full: dropped and counted (`quorate_log_lines_dropped_total`)
//! ```
//!
//! * A pipe that nobody reads takes 64 KiB, and then nothing. A node that wrote to it itself would
//!   stop there, in the middle of an election or of a write, and look healthy to whoever only sees
//!   that its process is alive.
//! * What a panic says takes the same way: its thread must get on with what follows.
//! * One log for the process, as there is one subscriber.
//! * The end of the process waits a second at most for what is still queued.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// How many lines may wait.
const WAITING_LINES_MAX: usize = 1024;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// How many lines were dropped.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Takes lines and never blocks.
pub(crate) struct LogOutput {
    writer: NonBlocking,
    thread: WorkerGuard,
}

impl LogOutput {
    /// Lines go to standard error from now on, panics' too.
    pub(crate) fn to_standard_error() -> Self {
        let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES_MAX);
        let (writer, thread) = queue.thread_name("log").finish(std::io::stderr());
        DROPPED.get_or_init(|| writer.error_counter());
        let of_panics = writer.clone();
        std::panic::set_hook(Box::new(move |panic| log_panic(&of_panics, panic)));
        Self { writer, thread }
    }

    /// For whoever makes the lines.
    pub(crate) fn writer(&self) -> NonBlocking {
        self.writer.clone()
    }

    /// Waits a little for what was logged so far.
    pub(crate) fn finish(mut self) {
        // An empty line takes a place as any other. Where there is none nobody reads, so there is
        // nothing to wait for; and the library would say so on standard output, which has the ready
        // line and nothing else.
        let before = dropped_lines();
        let _queued = self.writer.write_all(b"");
        if dropped_lines() > before {
            std::mem::forget(self.thread);
        }
    }
}

/// As the standard library would say it.
fn log_panic(writer: &NonBlocking, panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let mut said = format!("thread '{}' {panic}\n", thread.name().unwrap_or("<unnamed>"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        said.push_str(&backtrace.to_string());
    }
    // What finds no place is counted.
    let _queued = writer.clone().write_all(said.as_bytes());
}
