//! quorate-sim

pub mod linearizability;
