//! The stores through their public face: conformance, crashes at every operation, damage at every
//! byte, and the formats on disk.

mod conformance;
mod crash_points;
mod damage;
mod data_dir;
mod space;
