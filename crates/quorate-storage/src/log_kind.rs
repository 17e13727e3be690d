//! Kinds of log: which program reads the files of a data directory's log.

use std::fmt;

use crate::data_dir::DataDir;
use crate::wal;

/// The name of a kind of log, noted in a data directory when it is made. Logs of one kind read each other's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKind(String);

impl LogKind {
    /// The longest name, in bytes.
    pub const NAME_BYTES_MAX: usize = 32;
    /// The name of the WAL, which is the default.
    pub const WAL: &'static str = "wal";
    /// The name of the log in a single file.
    pub const REDB: &'static str = "redb";

    /// A kind of that name: 1 to 32 lower-case letters, digits, `-` and `_`; `None` for anything else.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        is_store_name(name).then(|| Self(name.to_owned()))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether it is the WAL.
    #[must_use]
    pub fn is_wal(&self) -> bool {
        self.0 == Self::WAL
    }

    /// Whether a file of this name in the log's directory holds (part of) a log.
    pub(crate) fn is_file_of_log(&self, name: &str) -> bool {
        match self.name() {
            Self::WAL => wal::names::is_segment(name),
            // A database has its name once it is whole.
            Self::REDB => !name.ends_with(".new"),
            // Others keep at least one file.
            _ => true,
        }
    }

    /// Whether a file of this name says that there is a log, or was, though it is none.
    pub(crate) fn is_beside_log(&self, name: &str) -> bool {
        self.is_wal() && wal::names::is_beside_segments(name)
    }

    /// Where in a data directory such a log is.
    #[must_use]
    pub fn directory(&self) -> &'static str {
        if self.is_wal() { DataDir::WAL } else { DataDir::LOG }
    }
}

/// Whether a kind of store may be called that.
pub(crate) fn is_store_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=LogKind::NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_fine)
}

impl Default for LogKind {
    fn default() -> Self {
        Self(Self::WAL.to_owned())
    }
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
