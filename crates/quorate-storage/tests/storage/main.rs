//! The stores through their public face: conformance, crashes at every operation, damage at every
//! byte, and the formats on disk.
#![expect(clippy::unwrap_used, reason = "tests")]

mod conformance;
mod crash_points;
mod damage;
mod damaged_groups;
mod data_dir;
mod formats;
mod known_peers;
#[cfg(feature = "redb")]
mod redb;
mod space;
mod tools;
