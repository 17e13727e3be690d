//! How large keys and values may be.
//!
//! ```text
//!   0 ── default ───────────── configured (KvLimits) ────────────── cap (constants)
//!        a node checks this before it proposes     the state machine answers Malformed beyond
//! ```
//!
//! A limit in a node's configuration must not decide what a committed command does, or two replicas
//! with different settings would differ. Hence the two lines: `KvLimits` is checked at the edge, the caps in
//! the state machine, identically everywhere.

use crate::command::{Condition, KvCommand};

/// No key is ever longer than this; keeps an engine's own key (with room for a prefix) below 64 KiB.
pub const KEY_BYTES_CAP: usize = 32 * 1024;
/// No value is ever longer than this.
pub const VALUE_BYTES_CAP: usize = 256 * 1024 * 1024;
/// No page of a scan is cut later than this, whatever was asked for.
pub const SCAN_BYTES_CAP: u64 = 16 * 1024 * 1024;

/// What a node accepts. Checked before a command is proposed, never when it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLimits {
    /// The longest key in bytes. Default 4 KiB, at most [`KEY_BYTES_CAP`].
    pub key_bytes_max: usize,
    /// The longest value in bytes. Default 1 MiB, at most [`VALUE_BYTES_CAP`].
    pub value_bytes_max: usize,
}

impl Default for KvLimits {
    fn default() -> Self {
        Self { key_bytes_max: 4 * 1024, value_bytes_max: 1024 * 1024 }
    }
}

/// A command this node does not accept. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The key has no bytes.
    #[error("the key is empty: a key has at least one byte")]
    KeyEmpty,
    /// The key is too long.
    #[error("the key has {bytes} bytes, the limit is {max}: use a shorter key")]
    KeyTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The value (or the value compared with) is too large.
    #[error(
        "the value has {bytes} bytes, the limit is {max}: store it in pieces or raise the limit on every node"
    )]
    ValueTooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
}

impl KvLimits {
    /// The hard caps themselves: what the state machine checks.
    pub(crate) const CAPS: Self = Self { key_bytes_max: KEY_BYTES_CAP, value_bytes_max: VALUE_BYTES_CAP };

    /// Checks a command before it is proposed.
    ///
    /// # Errors
    /// Says which limit it breaks; nothing was written.
    pub fn validate(&self, command: &KvCommand) -> Result<(), LimitError> {
        self.validate_key(command.key())?;
        if let KvCommand::Put { value, .. } = command {
            self.validate_value(value)?;
        }
        match command.condition() {
            Condition::Value(value) => self.validate_value(value),
            Condition::Any | Condition::Absent | Condition::Present | Condition::Version(_) => Ok(()),
        }
    }

    /// Checks a key alone, for example one that is asked for.
    ///
    /// # Errors
    /// The key is empty or too long.
    pub fn validate_key(&self, key: &[u8]) -> Result<(), LimitError> {
        let max = self.key_bytes_max.min(KEY_BYTES_CAP);
        if key.is_empty() {
            return Err(LimitError::KeyEmpty);
        }
        if key.len() > max {
            return Err(LimitError::KeyTooLong { bytes: key.len(), max });
        }
        Ok(())
    }

    fn validate_value(&self, value: &[u8]) -> Result<(), LimitError> {
        let max = self.value_bytes_max.min(VALUE_BYTES_CAP);
        if value.len() > max {
            return Err(LimitError::ValueTooLarge { bytes: value.len(), max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key_bytes: usize, value_bytes: usize, condition: Condition) -> KvCommand {
        KvCommand::Put { key: vec![1; key_bytes].into(), value: vec![2; value_bytes].into(), condition }
    }

    #[test]
    fn a_value_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() {
        let limits = KvLimits::default();
        let max = 1024 * 1024;
        assert_eq!(limits.validate(&put(1, max, Condition::Any)), Ok(()));
        let error = limits.validate(&put(1, max + 1, Condition::Any)).unwrap_err();
        assert_eq!(error, LimitError::ValueTooLarge { bytes: max + 1, max });
        assert!(error.to_string().contains("1048577 bytes, the limit is 1048576"));
    }

    #[test]
    fn keys_have_one_to_the_limit_bytes() {
        let limits = KvLimits::default();
        assert_eq!(limits.validate(&put(0, 0, Condition::Any)), Err(LimitError::KeyEmpty));
        assert_eq!(limits.validate(&put(4096, 0, Condition::Any)), Ok(()));
        let error = LimitError::KeyTooLong { bytes: 4097, max: 4096 };
        assert_eq!(limits.validate(&put(4097, 0, Condition::Any)), Err(error));
    }

    #[test]
    fn the_compared_value_counts_too() {
        let limits = KvLimits { key_bytes_max: 10, value_bytes_max: 10 };
        let condition = Condition::Value(Bytes::from_static(&[0; 11]));
        let error = LimitError::ValueTooLarge { bytes: 11, max: 10 };
        assert_eq!(limits.validate(&put(1, 1, condition)), Err(error));
    }

    #[test]
    fn a_configured_limit_beyond_the_cap_is_the_cap() {
        let limits = KvLimits { key_bytes_max: usize::MAX, value_bytes_max: usize::MAX };
        let error = LimitError::KeyTooLong { bytes: KEY_BYTES_CAP + 1, max: KEY_BYTES_CAP };
        assert_eq!(limits.validate(&put(KEY_BYTES_CAP + 1, 0, Condition::Any)), Err(error));
    }
}
