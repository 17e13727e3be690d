//! Bugs on purpose, to see that the tests find them: `cargo xtask mutants` builds with `--cfg quorate_mutants` and turns
//! on one at a time. In every other build [`planted`] is a constant, and nothing of them is left.
//!
//! Each place says `planted("name")`; what the names mean is in `quorate-sim`'s list.

/// Whether the bug `name` is turned on. Never, in a build for users.
#[cfg(not(quorate_mutants))]
#[inline]
#[must_use]
pub const fn planted(_name: &str) -> bool {
    false
}

/// Whether the bug `name` is turned on: the environment says which one is (`QUORATE_MUTANT`).
#[cfg(quorate_mutants)]
#[must_use]
pub fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("QUORATE_MUTANT").ok()).as_deref() == Some(name)
}
