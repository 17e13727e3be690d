//! The key-value store as a state machine: a map in memory, bytes to bytes.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate::{BatchEnd, Command, MachineError, SnapshotSource, StateMachine};

/// Keys and values, exactly as they were put.
#[derive(Default)]
pub struct Store {
    entries: BTreeMap<Bytes, Bytes>,
}

/// The command that puts `value` under `key`.
#[must_use]
pub fn put(key: &[u8], value: &[u8]) -> Bytes {
    let mut command = BytesMut::with_capacity(8 + key.len() + value.len());
    push_pair(&mut command, key, value);
    command.freeze()
}

fn push_pair(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    out.put_u32_le(u32::try_from(key.len()).expect("keys are request lines"));
    out.put_slice(key);
    out.put_u32_le(u32::try_from(value.len()).expect("values are bounded by the command limit"));
    out.put_slice(value);
}

/// Takes one key and value off the front; `None` when the bytes are not a pair.
fn take_pair(bytes: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let mut take = || {
        let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
        (length <= bytes.len()).then(|| bytes.split_to(length))
    };
    Some((take()?, take()?))
}

impl StateMachine for Store {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        // A command that is no pair changes nothing, on every replica alike.
        if let Some((key, value)) = take_pair(&mut command.data.clone()) {
            self.entries.insert(key, value);
        }
        Ok(Bytes::new())
    }

    /// The question is a key; the answer a 1 and the value, or nothing.
    fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.entries.get(request).map_or_else(Bytes::new, |value| [&[1], &value[..]].concat().into()))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(View { entries: self.entries.clone() }))
    }

    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|error| MachineError::with("reading the snapshot", error))?;
        let mut bytes = Bytes::from(bytes);
        self.entries.clear();
        while !bytes.is_empty() {
            let (key, value) =
                take_pair(&mut bytes).ok_or_else(|| MachineError::new("the snapshot ends within a pair"))?;
            self.entries.insert(key, value);
        }
        Ok(())
    }
}

/// The map as it was; cloning it copies references, not values.
struct View {
    entries: BTreeMap<Bytes, Bytes>,
}

impl SnapshotSource for View {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        let mut chunk = BytesMut::new();
        while chunk.len() < bytes_max {
            let Some((key, value)) = self.entries.pop_first() else { break };
            push_pair(&mut chunk, &key, &value);
        }
        Ok((!chunk.is_empty()).then(|| chunk.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::LogId;

    fn apply(store: &mut Store, index: u64, data: Bytes) {
        store
            .apply(Command {
                id: LogId::new(1, index),
                unix_millis: 0,
                data: &data,
                extension: &Bytes::new(),
            })
            .unwrap();
    }

    #[test]
    fn snapshot_round_trip_keeps_binary_keys_and_values() {
        let mut store = Store::default();
        apply(&mut store, 1, put(b"/a", b"1"));
        apply(&mut store, 2, put(b"/\xff\x00", &[0, 159, 146, 150]));
        apply(&mut store, 3, put(b"/empty", b""));
        let mut view = store.snapshot().unwrap();
        apply(&mut store, 4, put(b"/a", b"changed after the view"));
        let mut content = Vec::new();
        while let Some(chunk) = view.next_chunk(4).unwrap() {
            content.extend_from_slice(&chunk);
        }
        let mut restored = Store::default();
        let end = BatchEnd { applied: LogId::new(1, 3), records: &[] };
        restored.restore(&mut &content[..], end).unwrap();
        assert_eq!(restored.query(b"/a").unwrap(), &b"\x011"[..]);
        assert_eq!(restored.query(b"/\xff\x00").unwrap(), &[1, 0, 159, 146, 150][..]);
        assert_eq!(restored.query(b"/empty").unwrap(), &b"\x01"[..]);
        assert_eq!(restored.query(b"/missing").unwrap(), &b""[..]);
    }

    #[test]
    fn malformed_commands_and_snapshots_do_not_panic() {
        let mut store = Store::default();
        apply(&mut store, 1, Bytes::from_static(b"\xff\xff\xff\xff"));
        assert!(store.entries.is_empty());
        let end = BatchEnd { applied: LogId::new(1, 1), records: &[] };
        assert!(store.restore(&mut &b"\x09\0\0\0ab"[..], end).is_err());
    }
}
