//! What is staged of a state from outside, when the power fails, bytes rot, or nobody goes on with it.

use std::path::Path;

use quorate_storage::{Disk, FileSnapshotStore, MemDisk, MemSnapshotStore};

use super::*;

const GROUP: GroupId = GroupId(3);

struct Node {
    disk: MemDisk,
    store: Box<dyn SnapshotStore>,
    incoming: Incoming,
    /// What a machine on disk holds.
    records: std::collections::BTreeMap<Bytes, Bytes>,
}

impl Node {
    fn new() -> Self {
        let disk = MemDisk::new();
        let store = Box::new(open(&disk));
        Self { disk, store, incoming: Incoming::default(), records: std::collections::BTreeMap::new() }
    }
    /// A piece in the entry at `at`, and the end of its batch.
    fn piece(&mut self, restore: u64, offset: u64, data: &[u8], at: u64) -> Result<(), RequestError> {
        let data = Bytes::copy_from_slice(data);
        let piece = Piece { restore, offset, data, at: LogIndex(at), unix_millis: at, bytes_max: 1000 };
        let taken = self.incoming.take_piece(Place { store: &*self.store, group: GROUP }, &piece).unwrap();
        self.commit();
        taken
    }
    fn commit(&mut self) {
        for (key, value) in self.incoming.take_records().unwrap() {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
    }
    fn restart(&mut self) {
        let records: Vec<_> = self.records.clone().into_iter().collect();
        let place = Place { store: &*self.store, group: GROUP };
        self.incoming = Incoming::recover(place, &records, LogIndex(50)).unwrap();
    }
    fn lose_power(&mut self, seed: u64) {
        self.incoming = Incoming::default();
        self.disk.crash(seed);
        self.store = Box::new(open(&self.disk));
        self.restart();
    }
    fn whole(&mut self, restore: u64, content: &[u8]) -> Result<Vec<u8>, String> {
        let (bytes, crc) = (content.len() as u64, crc32c::crc32c(content));
        let taken = self.incoming.take_whole(restore, bytes, crc).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        taken.map_err(|refused| refused.to_string())?.read_to_end(&mut found).unwrap();
        self.commit();
        Ok(found)
    }
    fn staged(&self) -> Vec<String> {
        let names = self.disk.list(Path::new("s")).unwrap();
        names.into_iter().filter(|name| name.ends_with(".staged")).collect()
    }
}

fn open(disk: &MemDisk) -> FileSnapshotStore {
    FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("s")).unwrap()
}

/// The machine remembers 10 bytes; the disk may hold more of them, never less.
#[test]
fn pieces_survive_a_power_failure_as_far_as_the_machine_remembers_them() {
    for seed in 0..8 {
        let mut node = Node::new();
        node.piece(7, 0, b"four", 11).unwrap();
        node.piece(7, 4, b" words", 12).unwrap();
        let remembered = node.records.clone();
        node.piece(7, 10, b", and more", 13).unwrap();
        node.records = remembered;
        node.lose_power(seed);
        node.piece(7, 4, b" words", 12).unwrap();
        node.piece(7, 10, b" here", 13).unwrap();
        assert_eq!(node.records.len(), 1, "no piece is kept twice");
        node.lose_power(seed);
        assert_eq!(node.whole(7, b"four words here").unwrap(), b"four words here");
    }
}

/// The machine may come back as it was before it was installed: only when it says otherwise the bytes go.
#[test]
fn what_was_installed_is_there_again_until_the_machine_is_durable() {
    let mut node = Node::new();
    node.piece(7, 0, b"content", 11).unwrap();
    let before = node.records.clone();
    assert_eq!(node.whole(7, b"content").unwrap(), b"content");
    assert!(node.records.is_empty() && node.incoming.has_retired());
    node.records = before;
    node.lose_power(1);
    assert_eq!(node.whole(7, b"content").unwrap(), b"content");
    node.incoming.discard_retired();
    assert_eq!(node.staged(), [""; 0]);
}

#[test]
fn nothing_is_left_of_what_was_abandoned_replaced_idle_or_forgotten() {
    let mut node = Node::new();
    node.piece(1, 0, b"abandoned", 11).unwrap();
    node.incoming.abandon(2);
    assert_eq!(node.staged().len(), 1, "another one was meant");
    node.incoming.abandon(1);
    node.piece(3, 0, b"replaced", 12).unwrap();
    node.piece(4, 0, b"idle", 13).unwrap();
    node.incoming.advance(113, 100);
    assert!(node.incoming.view().is_some(), "the last moment");
    node.incoming.advance(114, 100);
    node.commit();
    node.incoming.discard_retired();
    assert_eq!((node.staged(), node.records.len()), (Vec::new(), 0));
    // A machine in memory remembers nothing: it gets the pieces again.
    node.piece(5, 0, b"forgotten", 15).unwrap();
    node.records.clear();
    node.restart();
    assert_eq!(node.staged(), [""; 0]);
    assert!(node.whole(5, b"forgotten").unwrap_err().contains("not there as a whole"));
}

/// A replica whose bytes are damaged must neither install them nor refuse what all others install.
#[test]
fn damaged_or_missing_bytes_stop_the_replica_when_they_are_to_be_installed() {
    for damage in [Some(b"con7ent".to_vec()), Some(b"con".to_vec()), None] {
        for restarts in [false, true] {
            let mut node = Node::new();
            node.piece(7, 0, b"content", 11).unwrap();
            let path = Path::new("s").join(&node.staged()[0]);
            match &damage {
                Some(bytes) => node.disk.overwrite(&path, bytes.clone()),
                None if restarts => node.disk.remove(&path).unwrap(),
                None => continue,
            }
            if restarts {
                node.restart();
            }
            // Others refuse these as well.
            for other in [&b"something else"[..], b"CONTENT"] {
                assert!(node.whole(7, other).unwrap_err().contains("bring it again"));
            }
            assert!(node.incoming.view().unwrap().next_records().is_err(), "no snapshot spreads it");
            let error = node.whole(7, b"content").unwrap_err();
            assert!(error.contains("damaged or gone"), "{error}");
            // The group goes on: with the next one, all is well.
            node.piece(8, 0, b"next", 12).unwrap();
            assert_eq!(node.whole(8, b"next").unwrap(), b"next");
        }
    }
}

/// What a snapshot says of it is the same everywhere, and is read piece by piece.
#[test]
fn a_snapshot_carries_it_whatever_store_it_is_staged_in() {
    let content: Vec<u8> = (0..600_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let memory = MemSnapshotStore::new();
    let mut sections = Vec::new();
    for (disk, cut) in [(true, 100_000), (false, 7_001)] {
        let mut node = Node::new();
        if !disk {
            node.store = Box::new(memory.clone());
        }
        for (piece, number) in content.chunks(cut).zip(0..) {
            let (offset, data) = (number * cut as u64, Bytes::copy_from_slice(piece));
            let piece =
                Piece { restore: 7, offset, data, at: LogIndex(11), unix_millis: 5, bytes_max: 1 << 20 };
            let place = Place { store: &*node.store, group: GROUP };
            node.incoming.take_piece(place, &piece).unwrap().unwrap();
        }
        node.commit();
        assert_eq!(node.records.len(), if disk { 1 } else { 1 + 600_000usize.div_ceil(cut) });
        node.restart();
        let (mut view, mut section) = (node.incoming.view().unwrap(), Vec::new());
        let length = view.section_bytes();
        while let Some(records) = view.next_records().unwrap() {
            assert!(records.len() < 300_000, "one piece is in memory");
            section.extend_from_slice(&records);
        }
        assert_eq!(section.len() as u64, length);
        sections.push(section);
        assert_eq!(node.whole(7, &content).unwrap(), content);
    }
    assert!(sections[0] == sections[1]);
    let section = Bytes::from(sections.remove(0));
    let (mut reader, mut node) = (BytesReader::new(&section), Node::new());
    let mut filling = Filling::new(Place { store: &*node.store, group: GROUP }, LogIndex(20));
    while !reader.is_empty() {
        let (key, value) = (reader.bytes("a key").unwrap(), reader.bytes("a value").unwrap());
        assert!(is_record(&key));
        filling.record(&key, &value).unwrap();
    }
    node.incoming.replace(filling.finish().unwrap());
    assert_eq!(node.whole(7, &content).unwrap(), content);
}

#[test]
fn records_that_do_not_fit_together_are_refused() {
    let mut node = Node::new();
    node.store = Box::new(MemSnapshotStore::new());
    node.piece(7, 0, b"one", 11).unwrap();
    node.piece(7, 3, b"two", 12).unwrap();
    let records: Vec<_> = node.records.clone().into_iter().collect();
    let place = Place { store: &*node.store, group: GROUP };
    for gone in 0..3 {
        let mut some = records.clone();
        some.remove(gone);
        assert!(Incoming::recover(place, &some, LogIndex(1)).is_err(), "without record {gone}");
    }
    for (number, at) in [(0, 0), (0, 5), (1, 0)] {
        let mut bad = records.clone();
        let mut value = bad[number].1.to_vec();
        value.truncate(at);
        bad[number].1 = value.into();
        assert!(Incoming::recover(place, &bad, LogIndex(1)).is_err(), "record {number} of {at} bytes");
    }
    assert!(Incoming::recover(place, &records, LogIndex(1)).is_ok());
}
