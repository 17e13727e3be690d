//! The fault matrix has every row once, and every row names a test or says why not. (That the tests exist is
//! checked with those of the other documents, in `named_tests.rs`.)

use std::collections::BTreeSet;
use std::path::Path;

/// Letters of the sections and how many rows each has.
const SECTIONS: [(char, usize); 6] = [('C', 34), ('W', 32), ('S', 15), ('T', 15), ('K', 16), ('R', 14)];
/// Rows without a test of their own. Fewer is better: change the number when one gets a test.
const OPEN: usize = 0;

#[test]
fn every_row_of_the_fault_matrix_names_a_test_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/fault-matrix.md")).unwrap();
    let mut seen = BTreeSet::new();
    let mut open = 0;
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| row")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, proof] = cells.as_slice() else { panic!("three cells: {line}") };
        assert!(seen.insert((*row).to_owned()), "{row} is there twice");
        open += usize::from(proof.starts_with("open"));
        let excused = proof.starts_with("open") || proof.starts_with("to come: ");
        assert!(excused || proof.starts_with('`'), "{row}: neither a test nor why not");
    }
    let wanted =
        SECTIONS.iter().flat_map(|(letter, rows)| (1..=*rows).map(move |n| format!("{letter}{n:02}")));
    assert_eq!(seen, wanted.collect());
    assert_eq!(open, OPEN, "open rows");
}
