//! The same work done by ours and by raft-rs, side by side. `cargo bench` prints the times; the
//! figures and what they mean are in docs/bench/core.md.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_bench::Group;
use quorate_bench::ours::Ours;
use quorate_bench::theirs::Theirs;

fn round<G: Group>(criterion: &mut Criterion, voters: u64, bytes: usize, batch: u64) {
    let mut benches = criterion.benchmark_group(format!("round/{voters} voters/{bytes} bytes/batch {batch}"));
    benches.throughput(Throughput::Elements(batch));
    let (mut group, command) = (G::new(voters), Bytes::from(vec![7; bytes]));
    benches.bench_function(G::NAME, |bencher| bencher.iter(|| group.round(&command, batch)));
}

fn rounds(criterion: &mut Criterion) {
    for voters in [1, 3, 5, 7] {
        for bytes in [3, 256] {
            for batch in [1, 64] {
                round::<Ours>(criterion, voters, bytes, batch);
                round::<Theirs>(criterion, voters, bytes, batch);
            }
        }
    }
}

/// Only the follower's part is timed: from the message in its hand to the answer.
fn append<G: Group>(criterion: &mut Criterion, bytes: usize) {
    let mut benches = criterion.benchmark_group(format!("follower handles 64 entries/{bytes} bytes"));
    benches.throughput(Throughput::Elements(64));
    let (mut group, command) = (G::new(3), Bytes::from(vec![7; bytes]));
    benches.bench_function(G::NAME, |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                group.prepare_append(&command, 64);
                let start = Instant::now();
                black_box(group.handle_append());
                spent += start.elapsed();
                group.settle();
            }
            spent
        });
    });
}

fn appends(criterion: &mut Criterion) {
    for bytes in [3, 256] {
        append::<Ours>(criterion, bytes);
        append::<Theirs>(criterion, bytes);
    }
}

fn quorum<G: Group>(criterion: &mut Criterion, voters: u64) {
    let mut benches = criterion.benchmark_group(format!("quorum index/{voters} voters"));
    let mut group = G::new(voters);
    benches.bench_function(G::NAME, |bencher| bencher.iter(|| black_box(&mut group).quorum_index()));
}

fn quorums(criterion: &mut Criterion) {
    for voters in [3, 7] {
        quorum::<Ours>(criterion, voters);
        quorum::<Theirs>(criterion, voters);
    }
}

fn status<G: Group>(criterion: &mut Criterion) {
    let mut benches = criterion.benchmark_group("status/3 voters");
    let group = G::new(3);
    benches.bench_function(G::NAME, |bencher| bencher.iter(|| black_box(&group).status()));
}

fn statuses(criterion: &mut Criterion) {
    status::<Ours>(criterion);
    status::<Theirs>(criterion);
}

criterion_group!(core, rounds, appends, quorums, statuses);
criterion_main!(core);
