//! Any bytes, decoded as everything that the codec knows.
#![no_main]

#[allow(dead_code, reason = "the other target's")]
#[path = "../../crates/quorate-core/tests/any_bytes/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::decode(data));
