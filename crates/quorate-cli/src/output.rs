//! Standard output: tables for people, JSON for programs. Nothing else is ever written there, so that
//! a pipe gets results only. A reader that goes away (`quorate scan | head`) is not an error.

use std::io::Write;

use base64::Engine;
use comfy_table::Table;
use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Longer values are cut in tables (never in JSON, and `get` prints them whole).
const CELL_CHARS_MAX: usize = 64;

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::error(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a line.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one JSON document on one line.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(value)
}

/// A table without lines: easy to read, easy to cut.
pub(crate) fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    table
}

/// A table as text, without blanks at the ends of lines.
pub(crate) fn render(table: &Table) -> String {
    let text = table.to_string();
    let lines = text.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Puts bytes into a JSON object: as `name` when they are UTF-8, else as `name_base64`.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            object.insert(format!("{name}_base64"), json!(text))
        }
    };
}

/// Bytes in a table: printable, and cut when long.
pub(crate) fn cell(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for (count, character) in String::from_utf8_lossy(bytes).chars().enumerate() {
        if count == CELL_CHARS_MAX {
            return format!("{shown}… ({} bytes)", bytes.len());
        }
        match character {
            char::REPLACEMENT_CHARACTER => return format!("({} bytes that are not text)", bytes.len()),
            control if control.is_control() => shown.extend(control.escape_default()),
            plain => shown.push(plain),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_travel_in_base64_fields() {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", b"plain");
        insert_bytes(&mut object, "value", &[0xff, 0]);
        assert_eq!(Value::Object(object), json!({"key": "plain", "value_base64": "/wA="}));
    }

    #[test]
    fn cells_are_printable_and_short() {
        assert_eq!(cell(b"a\tb\x1b"), "a\\tb\\u{1b}");
        assert_eq!(cell(&[0xff, 0xfe]), "(2 bytes that are not text)");
        assert!(cell(&vec![b'x'; 1 << 20]).ends_with("xxx… (1048576 bytes)"));
    }
}
