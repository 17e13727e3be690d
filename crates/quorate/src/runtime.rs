//! The threads that loop the synchronous parts.
//!
//! ```text
//!            requests        messages from peers
//!               │                    │
//!               ▼                    ▼
//!        ┌────────────── mailbox ──────────────┐◄───────────────────────────┐
//!        │ host thread: Host::on_event, turns  │                            │
//!        └──┬──────────┬──────────┬─────────┬──┘                            │
//!           ▼          ▼          ▼         ▼                               │ completions
//!       transport  log thread  apply     read thread                        │
//!                  one sync    threads   old entries, snapshots             │
//!                  per step       │         │                               │
//!                      └──────────┴─────────┴───────────────────────────────┘
//! ```
//!
//! * What enters the node from outside is admitted by [`gauge::Gauge`]s, in bytes: a request that
//!   does not fit is `Busy`, a message that does not fit is dropped. What is inside is never
//!   refused, because it has been promised; it counts against the backlog that admission looks at.
//!   No group may hold more of either than it leaves for the others.
//! * Groups wait for each other where they share something on purpose: the log's thread (one sync
//!   for all of them) and the thread that reads. Their state machines do not: each has its turn on
//!   one of the apply threads.
//! * The host thread never waits for a disk, a state machine or a socket.
//! * There is no log thread for a log that never waits: [`log_lane`] writes it in the host's turn.
//! * Who brings the host news while its thread sleeps may do its turn: [`helping`].
//! * Every thread ends when its mailbox is closed, and is joined by the node.

pub(crate) mod apply_pool;
pub(crate) mod clock;
pub(crate) mod disk_space;
pub(crate) mod event_log;
pub(crate) mod gauge;
pub(crate) mod helping;
pub(crate) mod host_thread;
pub(crate) mod log_lane;
pub(crate) mod mailbox;
pub(crate) mod workers;
