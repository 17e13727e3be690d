//! 128 bits that stand for a value. A search over millions of states keeps these instead of the states.
//!
//! Two lanes of multiply and shift. Nobody attacks this; that two of 2^23 states meet by accident has
//! a probability of about 2^-82.

use std::hash::{Hash, Hasher};

pub(crate) fn fingerprint(value: &impl Hash) -> u128 {
    let mut lanes = Lanes { first: 0x9E37_79B9_7F4A_7C15, second: 0xC2B2_AE3D_27D4_EB4F };
    value.hash(&mut lanes);
    u128::from(lanes.first) << 64 | u128::from(lanes.second)
}

struct Lanes {
    first: u64,
    second: u64,
}

impl Hasher for Lanes {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }
    fn write_u64(&mut self, word: u64) {
        let first = (self.first ^ word).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let second = (self.second.rotate_left(23) ^ word).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.first = first ^ first >> 31;
        self.second = second ^ second >> 29;
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn finish(&self) -> u64 {
        self.first ^ self.second
    }
}
