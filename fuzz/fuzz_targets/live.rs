//! Any life of a replica among peers that say anything.
#![no_main]

#[allow(dead_code, reason = "the other target's")]
#[path = "../../crates/quorate-core/tests/any_bytes/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::live(data));
