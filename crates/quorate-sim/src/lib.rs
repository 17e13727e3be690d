//! A world in one thread, decided by one number.
//!
//! The code that ships (host, cores, write-ahead log, snapshot store, sessions, key-value store) runs on
//! virtual disks, a virtual network and virtual clocks. Users work, an operator changes the members, and a
//! fault injector cuts power, kills processes, tears writes and cuts links. After every step the invariants
//! of [`invariants`](Violation) are checked; at the end everything is healed and must come to rest, and what
//! the users saw must be linearizable.
//!
//! ```text
//!   seed ──► what kind of world ──► steps, faults, checks … ──► calm ──► at rest ──► judged ──► Report
//! ```
//!
//! * One seed is one run: the same steps, the same bytes, the same trace, on every machine.
//! * A failing seed is replayed with `cargo run -p quorate-sim -- --seed N`.
//! * Nothing in production depends on this crate.
//!
//! ```
//! let report = quorate_sim::run_seed(7, &quorate_sim::Options::default());
//! assert!(report.passed(), "{report}");
//! ```

mod agenda;
mod client;
pub mod command;
mod coverage;
mod damaged_log;
mod disk;
mod disk_image;
mod fault_kinds;
mod faults;
mod finale;
mod invariants;
pub mod linearizability;
mod minimise;
mod network;
mod node;
mod operator;
mod report;
mod rng;
mod run;
mod seams;
mod strange_disks;
mod swarm;
mod trace;
mod users;
mod watch;
mod watch_events;
mod watched_machine;
mod workload;
mod world;

pub use coverage::{Coverage, POINTS};
pub use damaged_log::{DAMAGED_LOG_BYTES, Flips, flip_bytes};
pub use disk::{DiskCounters, DiskProfile, SimDisk};
pub use disk_image::{Crash, CrashDamage};
pub use invariants::Violation;
pub use minimise::minimise;
pub use network::NetworkProfile;
pub use report::{Fault, Report, Summary};
pub use rng::Rng;
pub use run::{Options, Without, run_seed, run_seeds};
pub use seams::{Seams, Wrap};
pub use trace::LEGEND;
pub use workload::Workload;
