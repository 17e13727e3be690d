//! Two hundred worlds, in four parts that run side by side.
//!
//! A failing seed prints the end of its trace and the command that replays it. The parts also insist on having met
//! the faults they are for: a simulator that injects nothing proves nothing.

use quorate_sim::{Options, POINTS, run_seed, run_seeds};

fn run_part(seeds: std::ops::Range<u64>) {
    let summary = run_seeds(seeds, &Options::default(), |_| {});
    assert!(summary.failed.is_empty(), "{summary}");
    for what in [
        "acknowledgements checked against the recovered disks",
        "client operations given up",
        "client reads answered",
        "client writes answered",
        "conflicting suffixes cut off",
        "leaders elected",
        "logs compacted",
        "logs reset to a snapshot",
        "lost writes",
        "memberships changed",
        "messages doubled",
        "messages into a cut link",
        "messages lost",
        "partitions",
        "power cuts",
        "processes killed",
        "messages cut in the middle by a reset",
        "pairs cut",
        "partitions with a bridge",
        "promises checked against the recovered disk",
        "replicas added",
        "slow links",
        "snapshots from a leader restored",
        "snapshots saved",
        "stale reads checked",
        "torn writes",
        "writes cut short",
        "writes failed on purpose",
        "writes in flight undone",
    ] {
        assert!(summary.coverage.of(what) > 0, "this never happened: {what}\n{summary}");
    }
}

#[test]
fn seeds_0_to_49() {
    run_part(0..50);
}

#[test]
fn seeds_50_to_99() {
    run_part(50..100);
}

#[test]
fn seeds_100_to_149() {
    run_part(100..150);
}

#[test]
fn seeds_150_to_199() {
    run_part(150..200);
}

/// A follower whose write found no space waited for a tick to try again, but a follower that hears its
/// leader is not ticked: it stayed behind for ever, and with it its group when its vote was needed. (The
/// seeds' worlds change with the code; the story is also told by the host's own tests.)
#[test]
fn seeds_that_once_found_a_bug() {
    // These failed through mistakes of the simulator.
    let of_the_simulator = [
        65, 1_324, 2_253, 4_812, 4_847, 14_786, 18_906, 201_918, 213_062, 228_498, 229_921, 236_237, 413_900,
        421_367, 426_677, 428_321, 502_700, 736_185, 799_619,
    ];
    for seed in [344, 1145, 1280, 1353, 1426, 1439, 1465, 1475, 719_385].into_iter().chain(of_the_simulator) {
        let report = run_seed(seed, &Options::default());
        assert!(report.violation.is_none(), "{report}");
    }
}

/// Sixty worlds do not meet everything, but nearly.
#[test]
fn most_coverage_points_are_met_by_a_few_worlds() {
    let summary = run_seeds(200..260, &Options::default(), |_| {});
    assert!(summary.failed.is_empty(), "{summary}");
    assert!(POINTS.len() >= 100, "{} points", POINTS.len());
    assert!(summary.coverage.missing().len() <= POINTS.len() / 5, "{summary}");
}

/// Without this nothing else here is worth much: a seed must be a run.
#[test]
fn one_seed_gives_one_trace_byte_for_byte() {
    let options = Options { keep_trace: true, ..Options::default() };
    for seed in [3, 11, 42] {
        let (first, second) = (run_seed(seed, &options), run_seed(seed, &options));
        for (number, (a, b)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(a, b, "seed {seed} differs from line {number} on");
        }
        assert_eq!((first.fingerprint, first.lines), (second.fingerprint, second.lines));
        assert_eq!(first.coverage, second.coverage);
    }
    let (one, other) = (run_seed(3, &options), run_seed(4, &options));
    assert_ne!(one.fingerprint, other.fingerprint, "seeds must differ");
}
