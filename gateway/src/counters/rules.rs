//! The counters of one tenant's rules.
//!
//! Cache hits are frequent and use a cell for each worker; runs, errors and misses are rarer and
//! use one atomic each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossgate_policy::{RuleAnswer, RuleError, RuleErrorKind};

use crossgate_telemetry::CounterCells;
use crossgate_telemetry::nonzero_counts;

/// The outcomes of a run.
const OUTCOMES: [&str; 4] = ["allow", "deny", "abstain", "error"];

#[derive(Debug)]
pub struct RuleCounters {
    runs: [AtomicU64; OUTCOMES.len()],
    errors: [AtomicU64; RuleErrorKind::ALL.len()],
    hits: CounterCells,
    misses: AtomicU64,
    uncacheable: AtomicU64,
}

impl Default for RuleCounters {
    fn default() -> Self {
        RuleCounters {
            runs: Default::default(),
            errors: Default::default(),
            hits: CounterCells::new(1),
            misses: AtomicU64::default(),
            uncacheable: AtomicU64::default(),
        }
    }
}

impl RuleCounters {
    /// Counts a rule answer from the cache.
    pub fn count_hit(&self) {
        self.hits.count(0);
    }

    /// Counts a rule answer that was not in the cache.
    pub fn count_miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    /// Counts a rule answer that cannot be cached.
    pub fn count_uncacheable(&self) {
        self.uncacheable.fetch_add(1, Relaxed);
    }

    pub fn count_run(&self, answer: &Result<RuleAnswer, RuleError>) {
        let outcome = match answer {
            Ok(RuleAnswer::Allow { .. }) => 0,
            Ok(RuleAnswer::Deny(_)) => 1,
            Ok(RuleAnswer::Abstain) => 2,
            Err(error) => {
                self.count_error(error.kind);
                3
            }
        };
        if let Some(runs) = self.runs.get(outcome) {
            runs.fetch_add(1, Relaxed);
        }
    }

    /// Counts a rule that failed.
    pub fn count_error(&self, kind: RuleErrorKind) {
        if let Some(errors) = self.errors.get(kind as usize) {
            errors.fetch_add(1, Relaxed);
        }
    }

    /// The number of errors of a kind.
    pub fn errors(&self, kind: RuleErrorKind) -> u64 {
        self.errors.get(kind as usize).map_or(0, |errors| errors.load(Relaxed))
    }

    /// The number of runs by outcome.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        nonzero_counts(&OUTCOMES, &self.runs)
    }

    /// The number of errors by kind.
    pub(crate) fn all_errors(&self) -> impl Iterator<Item = (RuleErrorKind, u64)> + '_ {
        nonzero_counts(&RuleErrorKind::ALL, &self.errors)
    }

    /// The number of cache misses.
    pub(crate) fn misses(&self) -> u64 {
        self.misses.load(Relaxed)
    }

    /// The number of answers that cannot be cached.
    pub(crate) fn uncacheable(&self) -> u64 {
        self.uncacheable.load(Relaxed)
    }

    /// The number of cache hits.
    pub fn hits(&self) -> u64 {
        self.hits.read(0)
    }
}
