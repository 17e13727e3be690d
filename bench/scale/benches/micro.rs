//! Microbenchmarks of what a write, a snapshot and a restart are made of: `cargo bench`.
//!
//! `cpu/…` works on a disk in memory, so that only our own code counts; `disk/…` on the file system of the temporary
//! directory (`TMPDIR`), syncs included.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate_core::{
    Append, Entry, EntryPayload, GroupId, LogId, LogIndex, Membership, Message, MessageBody, ReplicaId,
    SnapshotMeta, Term, decode_message, encode_message,
};
use quorate_host::{BatchEnd, Command, StateMachine};
use quorate_kv::{Condition, KvCommand, KvStateMachine, MemEngine};
use quorate_storage::{
    Disk, FileSnapshotStore, GroupWrite, LogBatch, LogStore, MemDisk, OsDisk, SnapshotStore, Wal, WalConfig,
    read_to_end, write_now,
};

const GROUP: GroupId = GroupId(1);
const ENTRIES: u64 = 64;

fn entries(from: u64, count: u64) -> Vec<Entry> {
    let entry = |index| Entry {
        id: LogId::new(1, index),
        payload: EntryPayload::Command(Bytes::from(vec![b'x'; 128])),
    };
    (from..from + count).map(entry).collect()
}

fn batch(from: u64) -> LogBatch {
    LogBatch {
        groups: vec![GroupWrite {
            group: GROUP,
            entries: entries(from, ENTRIES).into(),
            ..GroupWrite::default()
        }],
    }
}

fn wal(disk: &Arc<dyn Disk>) -> Wal {
    Wal::open(Arc::clone(disk), Path::new("wal"), WalConfig::default()).expect("a log opens")
}

fn log_of(disk: &Arc<dyn Disk>, batches: u64) -> Wal {
    let mut log = wal(disk);
    for number in 0..batches {
        write_now(&mut log, batch(1 + number * ENTRIES), number % 64 == 63).expect("a batch");
    }
    log
}

fn log(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let disks: [(&str, Arc<dyn Disk>); 2] =
        [("cpu", Arc::new(MemDisk::new())), ("disk", Arc::new(OsDisk::new(scratch.path())))];
    for (name, disk) in disks {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(ENTRIES)).sample_size(20);
        let mut log = wal(&disk);
        let mut next = 1;
        group.bench_function("wal append, 64 entries of 128 B, one sync", |b| {
            b.iter_batched(
                || {
                    let batch = batch(next);
                    next += ENTRIES;
                    batch
                },
                |batch| write_now(&mut log, batch, true).expect("a batch"),
                BatchSize::SmallInput,
            );
        });
        let reader = log.reader();
        let last = next - 1;
        let mut at = 1;
        group.bench_function("wal read, 64 entries of 128 B", |b| {
            b.iter(|| {
                at = if at + 2 * ENTRIES > last { 1 } else { at + ENTRIES };
                reader.read(GROUP, LogIndex(at)..LogIndex(at + ENTRIES), 1 << 20).expect("entries")
            });
        });
        group.finish();
    }
}

fn recovery(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(scratch.path()));
    // 16 MiB of payload.
    drop(log_of(&disk, 2048));
    let mut group = c.benchmark_group("disk");
    group.throughput(Throughput::Bytes(2048 * ENTRIES * 128)).sample_size(10);
    group.bench_function("log recovery, 16 MiB of 128 B", |b| b.iter(|| wal(&disk)));
    group.finish();
}

fn codec(c: &mut Criterion) {
    let body = MessageBody::Append(Append {
        prev: LogId::new(1, 1),
        entries: entries(2, ENTRIES).into(),
        commit: LogIndex(1),
        read_round: 0,
    });
    let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Elements(ENTRIES));
    let mut out = Vec::new();
    group.bench_function("encode an append of 64 entries of 128 B", |b| {
        b.iter(|| {
            out.clear();
            encode_message(&message, &mut out);
        });
    });
    let bytes = Bytes::from(out.clone());
    group.bench_function("decode an append of 64 entries of 128 B", |b| {
        b.iter(|| decode_message(&bytes).expect("a message"));
    });
    group.finish();
}

fn put(number: u64) -> Bytes {
    let key = Bytes::from(format!("key-{number:08}"));
    KvCommand::Put { key, value: Bytes::from(vec![b'x'; 128]), condition: Condition::Any }.encode()
}

fn machine(items: u64) -> KvStateMachine {
    let mut machine = KvStateMachine::new(Box::new(MemEngine::volatile()));
    apply(&mut machine, 1, &(0..items).map(put).collect::<Vec<_>>());
    machine
}

fn apply(machine: &mut KvStateMachine, from: u64, commands: &[Bytes]) {
    let mut index = from;
    for data in commands {
        machine.apply(Command { id: LogId::new(1, index), unix_millis: 0, data, extension: &Bytes::new() }).expect("a response");
        index += 1;
    }
    machine.commit(BatchEnd { applied: LogId::new(1, index - 1), records: &[] }).expect("a batch");
}

fn applying(c: &mut Criterion) {
    let mut machine = machine(10_000);
    let commands: Vec<Bytes> = (0..ENTRIES).map(|number| put(number * 100)).collect();
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Elements(ENTRIES));
    let mut next = 20_000;
    group.bench_function("apply 64 puts of 128 B among 10,000 items", |b| {
        b.iter(|| {
            apply(&mut machine, next, &commands);
            next += ENTRIES;
        });
    });
    group.finish();
}

fn snapshots(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(scratch.path()));
    let store = FileSnapshotStore::open(disk, Path::new("snapshots")).expect("a store");
    let mut content = Vec::new();
    let mut source = machine(50_000).snapshot().expect("a view");
    while let Some(chunk) = source.next_chunk(256 << 10).expect("a piece") {
        content.extend_from_slice(&chunk);
    }
    let mut group = c.benchmark_group("disk");
    group.throughput(Throughput::Bytes(content.len() as u64)).sample_size(20);
    let mut index = 1;
    group.bench_function("snapshot write, 50,000 items of 128 B, one sync", |b| {
        b.iter(|| {
            index += 1;
            let last = LogId::new(1, index);
            let membership = Arc::new(Membership::default());
            let meta = SnapshotMeta { last, membership, membership_id: LogId::new(1, 1) };
            let mut writer = store.create(GROUP, &meta).expect("a writer");
            content.chunks(256 << 10).for_each(|piece| writer.write(piece).expect("a piece"));
            writer.finish().expect("a snapshot");
            store.retain(GROUP, 1).expect("room");
        });
    });
    let info = store.list(GROUP).expect("a list").pop().expect("a snapshot");
    group.bench_function("snapshot read, every byte verified", |b| {
        b.iter(|| read_to_end(store.open(&info).expect("a reader")).expect("no damage"));
    });
    group.finish();
    let mut group = c.benchmark_group("cpu");
    group.throughput(Throughput::Bytes(content.len() as u64)).sample_size(20);
    let mut fresh = KvStateMachine::new(Box::new(MemEngine::volatile()));
    group.bench_function("snapshot install, 50,000 items of 128 B, engine in memory", |b| {
        b.iter(|| {
            let batch = BatchEnd { applied: LogId::new(1, 60_000), records: &[] };
            fresh.restore(&mut content.as_slice(), batch).expect("an install");
        });
    });
    group.finish();
}

criterion_group!(benches, log, recovery, codec, applying, snapshots);
criterion_main!(benches);
