//! The meaning of the key-value store: what is written, what is asked, and what follows from it.
//!
//! ```text
//!   KvCommand ──encode──► the log ──► KvStateMachine ──► Engine (memory, fjall)
//!   KvQuery   ──encode───────────────────┘    │
//!                                             └──► KvResponse, KvAnswer
//! ```
//!
//! Everything here is deterministic and does no I/O of its own: the same commands give the same
//! bytes on every replica. Engines that write to a disk live in the server.
//!
//! ```
//! use bytes::Bytes;
//! use quorate_kv::{Condition, KvCommand, KvLimits};
//!
//! let command = KvCommand::Put {
//!     key: Bytes::from_static(b"colour"),
//!     value: Bytes::from_static(b"green"),
//!     condition: Condition::Absent,
//! };
//! KvLimits::default().validate(&command)?;
//! assert_eq!(KvCommand::decode(&command.encode())?, command);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codec;
mod command;
mod data {
    mod snapshot;
    mod staged;
    pub(crate) mod state_machine;
}
mod engine;
pub mod engine_conformance;
mod limits;
mod mem_engine;

pub use command::{Condition, Item, KvAnswer, KvCommand, KvQuery, KvResponse};
pub use data::state_machine::KvStateMachine;
pub use engine::{Changes, Engine, EngineView, KeyRange, Stored, Visit};
pub use limits::{KEY_BYTES_CAP, KvLimits, LimitError, SCAN_BYTES_CAP, VALUE_BYTES_CAP};
pub use mem_engine::{MemEngine, MemEngineDisk};
pub use quorate_core::DecodeError;
