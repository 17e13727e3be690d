//! The synchronous driver of many Raft groups.
//!
//! ```text
//!            Event ──► Host ──► Work ─┬─ log ──────► LogWriter::step ──┐
//!              ▲                      ├─ apply ────► Applier::step ────┤
//!              │                      ├─ fetch ────► LogFetcher::step ─┤ Events
//!              │                      ├─ snapshots ► Snapshotter::step ┤
//!              │                      ├─ send ─────► your transport    │
//!              │                      └─ replies ──► your users        │
//!              └───────────────────────────────────────────────────────┘
//! ```
//!
//! * [`Host`] holds the replicas of a process. Everything that happens is an [`Event`], everything to do is
//!   [`Work`]; it never blocks and reads no clock.
//! * The four step functions do what blocks. Loop each on a thread of its own (as `quorate` does), or step them one by
//!   one (as the simulator does, and the example below).
//! * [`StateMachine`] is what a user writes; [`Request`] and [`Answer`] are what its users ask and get.
//!
//! Not here: threads, sockets, what commands mean.
//!
//! A group of one replica on a disk in memory, stepped by hand:
//!
//! ```
//! use std::io::Read;
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use quorate_core::{GroupId, Member, MemberRole, Membership, MonoTime, NodeId, ReplicaId};
//! use quorate_host::*;
//! use quorate_storage::{LogStore, MemDisk, MemSnapshotStore, SnapshotStore, Wal, WalConfig};
//!
//! /// How many bytes were ever written.
//! struct Counter(usize);
//!
//! struct View(Option<Bytes>);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
//!         self.0 += command.data.len();
//!         Ok(self.0.to_string().into())
//!     }
//!     fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
//!         Ok(self.0.to_string().into())
//!     }
//!     fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
//!         Ok(Box::new(View(Some(self.0.to_string().into()))))
//!     }
//!     fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
//!         let mut text = String::new();
//!         content.read_to_string(&mut text).map_err(|error| MachineError::with("reading", error))?;
//!         self.0 = text.parse().map_err(|error| MachineError::with("parsing", error))?;
//!         Ok(())
//!     }
//! }
//!
//! impl SnapshotSource for View {
//!     fn next_chunk(&mut self, _: usize) -> Result<Option<Bytes>, MachineError> {
//!         Ok(self.0.take())
//!     }
//! }
//!
//! let (node, group, replica) = (NodeId(1), GroupId(1), ReplicaId(1));
//! let (peer_address, client_address) = ("n1:7001".to_owned(), "n1:8001".to_owned());
//! let member = Member { node, role: MemberRole::Voter, peer_address, client_address };
//! let members = Arc::new(Membership::initial(vec![member])?);
//!
//! // The group's beginning goes to the log like any other write.
//! let mut wal = Wal::open(Arc::new(MemDisk::new()), Path::new("wal"), WalConfig::default())?;
//! wal.write(bootstrap_batch(group, replica, &members), true, Box::new(|written| written.unwrap()));
//! wal.flush()?;
//!
//! // From here on as after any restart.
//! let config = GroupConfig::default();
//! let snapshots: Arc<dyn SnapshotStore> = Arc::new(MemSnapshotStore::new());
//! let state = wal.reader().state(group).unwrap();
//! let recovered = recover_group(&state, &*snapshots, Box::new(Counter(0)))?;
//! let mut fetcher = LogFetcher::new(wal.reader());
//! let mut writer = LogWriter::new(Box::new(wal));
//! let mut applier = Applier::new(Arc::clone(&snapshots));
//! let (setup, machine) = recovered.into_setup(config, Vec::new());
//! applier.add(machine);
//! let mut snapshotter = Snapshotter::new(&HostConfig::default(), snapshots);
//! let mut host = Host::new(node);
//! let now = Now { mono: MonoTime::from_millis(1), unix_millis: 1 };
//! host.open_group(now, setup)?;
//!
//! // Asks, and does everything there is to do until nothing is left; returns the answer.
//! let mut ask = |ticket, request| {
//!     host.on_event(now, Event::Request { group, ticket: Ticket(ticket), request });
//!     let mut answer = None;
//!     loop {
//!         let work = host.take_work();
//!         answer = work.replies.into_iter().map(|(_, answer)| answer).next().or(answer);
//!         writer.submit(work.log);
//!         let mut events = writer.step(); // Blocks on the disk; nothing is promised before it returns.
//!         events.extend(work.apply.into_iter().flat_map(|task| applier.step(task)));
//!         events.extend(work.fetch.into_iter().map(|task| fetcher.step(task)));
//!         work.snapshots.into_iter().for_each(|task| snapshotter.submit(task));
//!         while snapshotter.has_work() {
//!             events.extend(snapshotter.step());
//!         }
//!         assert!(work.send.is_empty(), "there are no peers");
//!         if events.is_empty() {
//!             return answer;
//!         }
//!         events.into_iter().for_each(|event| host.on_event(now, event));
//!     }
//! };
//!
//! assert_eq!(ask(1, Request::Campaign), Some(Ok(Answer::Campaigned)));
//! let command = Bytes::from_static(b"hello");
//! let Some(Ok(Answer::Applied { response, .. })) = ask(2, Request::Propose(Proposal::new(command, Dedupe::None)))
//! else {
//!     panic!("one voter is a majority")
//! };
//! assert_eq!(response, "5");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission;
mod applier;
mod bytes_reader;
mod command;
mod config;
mod damage;
mod deadlines;
mod event;
mod forward_codec;
mod forwarding;
mod host;
mod incoming;
mod latency;
mod log_fetcher;
mod log_lane;
mod log_writer;
mod pace;
mod peer;
mod reads;
mod receiving;
mod reconfiguring;
mod recovery;
mod replica;
mod request;
mod resting;
mod sending;
mod session_limits;
mod sessions;
mod snapshot_content;
mod snapshot_trigger;
mod snapshots;
mod snapshotter;
mod space_watch;
mod state_machine;
mod streams;
mod versions;
mod waiting;

pub use applier::{Applier, MachinePlace, RecoveredMachine};
pub use config::{GroupConfig, HostConfig, SessionConfig, SnapshotPolicy};
pub use event::*;
pub use host::{DiskHealth, GroupSetup, GroupStatus, Host, OpenError};
pub use latency::{LatencyHistogram, StageLatencies};
pub use log_fetcher::LogFetcher;
pub use log_writer::LogWriter;
pub use peer::{
    Beat, Forward, ForwardReply, ForwardVerdict, Lane, PeerBody, PeerMessage, SnapshotAck, SnapshotChunk,
    SnapshotVerdict, VersionNote, decode_peer_message, encode_peer_message,
};
pub use recovery::{RecoverError, RecoveredGroup, bootstrap_batch, join_batch, recover_group, recover_log};
pub use request::{
    Answer, Consistency, Dedupe, LeaderHint, LeaderRequest, Outcome, Proposal, Request, RequestError,
    SessionId, Ticket,
};
pub use snapshot_content::SnapshotContent;
pub use snapshot_trigger::{SnapshotDue, SnapshotTrigger};
pub use snapshotter::Snapshotter;
pub use space_watch::SpaceWatch;
pub use state_machine::{BatchEnd, Command, MachineError, Recovered, SnapshotSource, StateMachine};
pub use versions::MachineVersions;
