//! What a failure needs: the same seed with less and less trouble, for as long as it fails in the same way.
//!
//! ```text
//!   all faults ──► no noise, operator, damage? ──► half of the faults? a quarter? each alone? ──► what is left
//! ```
//!
//! Every move of the fault injector has chances of its own, so what is left happens much as before.

use std::collections::BTreeSet;

use crate::report::Report;
use crate::run::{Options, Without, run_seed};

/// How many runs a search may take.
const RUNS_MAX: u64 = 150;

struct Search {
    runs: u64,
    best: Report,
    options: Options,
}

impl Search {
    /// Whether less trouble still leads to the same violation; if so it is kept.
    fn try_with(&mut self, options: Options) -> bool {
        if self.runs == RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let report = run_seed(self.best.seed, &options);
        let invariant = |report: &Report| report.violation.as_ref().map(|violation| violation.invariant);
        let same = invariant(&report) == invariant(&self.best);
        if same {
            (self.best, self.options) = (report, options);
        }
        same
    }

    fn spare(&mut self, spare: impl Fn(&mut Without)) {
        let mut options = self.options.clone();
        spare(&mut options.without);
        self.try_with(options);
    }

    /// Leaves out faults, many at a time first.
    fn fewer_faults(&mut self) {
        let mut piece = usize::MAX;
        loop {
            let faults: Vec<u64> = self.best.faults.iter().map(|fault| fault.number).collect();
            piece = piece.min(faults.len());
            if piece == 0 {
                return;
            }
            let smaller = faults.chunks(piece).any(|gone| {
                let kept: BTreeSet<u64> =
                    faults.iter().copied().filter(|fault| !gone.contains(fault)).collect();
                self.try_with(Options { only_faults: Some(kept), ..self.options.clone() })
            });
            if !smaller {
                piece /= 2;
            }
        }
    }
}

/// The least trouble found that still makes `seed` fail as it does with `options`. `None`: it does not fail.
#[must_use]
pub fn minimise(seed: u64, options: &Options) -> Option<Report> {
    let best = run_seed(seed, options);
    best.violation.as_ref()?;
    let mut search = Search { runs: 0, best, options: options.clone() };
    search.spare(|without| without.network_noise = true);
    search.spare(|without| without.disk_noise = true);
    search.spare(|without| without.operator = true);
    search.spare(|without| without.damage = true);
    search.fewer_faults();
    Some(search.best)
}
