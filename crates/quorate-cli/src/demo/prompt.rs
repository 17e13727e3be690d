//! The demo's prompt, when standard input is a terminal. Reading a line blocks, so it has its own
//! thread; everything it does goes through the same calls as `demo ctl`.

use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use tokio::sync::{mpsc, oneshot};

use super::command::{HELP, Order};
use super::control::Call;
use crate::failure::Failure;
use crate::output;

/// What to do with a line that appears while somebody may be typing.
pub(crate) type Notice = Box<dyn FnMut(String) + Send>;

/// The terminal as it was, put back when dropped: a signal may end the demo in the middle of a line.
#[derive(Debug)]
pub(crate) struct Terminal(Option<rustix::termios::Termios>);

impl Terminal {
    /// Remembers how the terminal is.
    pub(crate) fn remember() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // A terminal that is gone needs no settings.
            let _restored =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, settings);
        }
    }
}

/// Starts the prompt. The receiver hears when the user wants to stop.
pub(crate) fn start(calls: mpsc::Sender<Call>) -> Result<(Notice, oneshot::Receiver<()>), Failure> {
    let terminal = |error: ReadlineError| Failure::error(format!("cannot use this terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    let mut printer = editor.create_external_printer().map_err(terminal)?;
    let (leave, left) = oneshot::channel();
    std::thread::Builder::new()
        .name("prompt".to_owned())
        .spawn(move || {
            while let Ok(line) = editor.readline("demo> ") {
                let line = line.trim();
                if line.is_empty() {
                    continue;
                }
                // A history that does not grow is no reason to stop.
                let _added = editor.add_history_entry(line);
                let answer = match line {
                    "quit" | "exit" => break,
                    "help" | "?" => HELP.to_owned(),
                    order => say(&calls, order),
                };
                if output::line(answer).is_err() {
                    break;
                }
            }
            // Nobody waits any more when the demo is stopping already.
            let _told = leave.send(());
        })
        .map_err(|error| Failure::error(format!("cannot start a thread: {error}")))?;
    let notice = Box::new(move |line: String| {
        // The prompt may just have ended.
        let _printed = printer.print(format!("{line}\n"));
    });
    Ok((notice, left))
}

fn say(calls: &mpsc::Sender<Call>, line: &str) -> String {
    let order = match Order::parse(line) {
        Ok(order) => order,
        Err(error) => return error,
    };
    let (answer, answered) = oneshot::channel();
    let stopping = || "The demo is stopping.".to_owned();
    if calls.blocking_send(Call { order, answer }).is_err() {
        return stopping();
    }
    match answered.blocking_recv() {
        Ok(Ok(text) | Err(text)) => text,
        Err(_) => stopping(),
    }
}
