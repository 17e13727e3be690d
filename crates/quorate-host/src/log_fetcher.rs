//! The log fetcher: reads older entries for laggards and restarts, beside the log writer.

use std::sync::Arc;

use quorate_storage::LogReader;

use crate::event::{Event, FetchTask, Fetched};

/// Reads older entries.
pub struct LogFetcher {
    reader: Arc<dyn LogReader>,
}

impl LogFetcher {
    /// A fetcher on `reader`.
    #[must_use]
    pub fn new(reader: Arc<dyn LogReader>) -> Self {
        Self { reader }
    }

    /// Does one task.
    pub fn step(&mut self, task: FetchTask) -> Event {
        let FetchTask { group, from, to, bytes_max } = task;
        Event::Fetched(Fetched { group, from, result: self.reader.read(group, from..to, bytes_max) })
    }
}
