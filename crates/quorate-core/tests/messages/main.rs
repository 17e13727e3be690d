//! Messages as bytes, and messages from hell: what the codec and the gate must survive.

#![expect(clippy::unwrap_used, reason = "in a test's helpers, as in its body")]

mod codec;
mod group;
mod hostile;
mod panics_of_others;
mod strategies;
