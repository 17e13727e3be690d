//! Time per entry on a machine that does other things: ours and raft-rs in turns of some hundred
//! microseconds, so that both meet the same weather; medians of many turns, and of the ratios of
//! turns that followed each other.
//!
//! `paired` prints the table; `paired round` only the cases whose name begins so.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use quorate_bench::Group;
use quorate_bench::ours::Ours;
use quorate_bench::theirs::Theirs;

const TURNS: usize = 401;
const ENTRIES_PER_TURN: u64 = 256;
const CALLS_PER_TURN: u64 = 4096;

/// One turn: nanoseconds per entry (or per call).
fn turn<G: Group>(group: &mut G, case: &str, command: &Bytes, shape: (u64, u64)) -> f64 {
    let (voters, batch) = shape;
    let start = Instant::now();
    let count = match case {
        "round" => {
            // A turn of a larger group is as long.
            let rounds = (ENTRIES_PER_TURN / voters / batch).max(1);
            for _ in 0..rounds {
                group.round(command, batch);
            }
            rounds * batch
        }
        "quorum" => {
            for _ in 0..CALLS_PER_TURN {
                black_box(black_box(&mut *group).quorum_index());
            }
            CALLS_PER_TURN
        }
        _ => {
            for _ in 0..CALLS_PER_TURN {
                black_box(black_box(&*group).status());
            }
            CALLS_PER_TURN
        }
    };
    start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(count).expect("small"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    println!("| work | voters | bytes | batch | quorate ns | raft-rs ns | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let rounds = [1, 3, 5, 7].into_iter().flat_map(|voters| {
        [(voters, 3, 1), (voters, 3, 64), (voters, 256, 1), (voters, 256, 64)].map(|shape| ("round", shape))
    });
    let others = [("quorum", (3, 3, 1)), ("quorum", (7, 3, 1)), ("status", (3, 3, 1))];
    for (case, (voters, bytes, batch)) in rounds.chain(others).filter(|(case, _)| case.starts_with(&only)) {
        let command = Bytes::from(vec![7; bytes]);
        let (mut ours, mut theirs) = (Ours::new(voters), Theirs::new(voters));
        let mut turns = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..TURNS + 3 {
            let (mine, other) = (
                turn(&mut ours, case, &command, (voters, batch)),
                turn(&mut theirs, case, &command, (voters, batch)),
            );
            if number >= 3 {
                turns.0.push(mine);
                turns.1.push(other);
                turns.2.push(mine / other);
            }
        }
        let (mine, other, ratio) = (median(turns.0), median(turns.1), median(turns.2));
        println!("| {case} | {voters} | {bytes} | {batch} | {mine:.1} | {other:.1} | {ratio:.2} |");
    }
}
