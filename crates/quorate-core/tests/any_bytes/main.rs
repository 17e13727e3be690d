//! The fuzz targets on a stable toolchain: a bounded number of random inputs, and every input that a fuzzer found worth
//! keeping (`fuzz/corpus`). `docs/testing.md` says how to run the fuzzer itself.

mod harness;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode_to_what_they_say_or_not_at_all(data in prop::collection::vec(any::<u8>(), 0..200)) {
        harness::decode(&data);
    }

    #[test]
    fn any_life_is_survived(data in prop::collection::vec(any::<u8>(), 0..600)) {
        harness::live(&data);
    }
}

#[test]
fn the_corpus_is_survived() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut inputs = 0;
    for (target, run) in [("decode", harness::decode as fn(&[u8])), ("live", harness::live)] {
        for file in std::fs::read_dir(folder.join(target)).unwrap() {
            run(&std::fs::read(file.unwrap().path()).unwrap());
            inputs += 1;
        }
    }
    assert!(inputs > 10, "only {inputs} inputs: is the corpus there?");
}
