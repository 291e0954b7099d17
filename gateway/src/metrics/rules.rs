//! What is counted of one tenant's rules, and how a scrape shows it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crossgate_policy::{Answer, RuleError, RuleErrorKind};

use super::cells::Cells;
use super::exposition::{Exposition, Family};
use super::tenant::counted;
use crate::verdicts::Verdicts;

/// How a run ended.
const OUTCOMES: [&str; 4] = ["allow", "deny", "abstain", "error"];

/// The counters of one tenant's rules.
#[derive(Debug)]
pub struct RuleCounters {
    runs: [AtomicU64; OUTCOMES.len()],
    errors: [AtomicU64; RuleErrorKind::ALL.len()],
    hits: Cells,
    misses: AtomicU64,
    uncacheable: AtomicU64,
}

impl Default for RuleCounters {
    fn default() -> Self {
        RuleCounters {
            runs: Default::default(),
            errors: Default::default(),
            hits: Cells::new(1),
            misses: AtomicU64::default(),
            uncacheable: AtomicU64::default(),
        }
    }
}

impl RuleCounters {
    /// Counts an answer that was kept.
    pub fn count_hit(&self) {
        self.hits.count(0);
    }

    /// Counts one that was not.
    pub fn count_miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    /// Counts one that could not be kept.
    pub fn count_uncacheable(&self) {
        self.uncacheable.fetch_add(1, Relaxed);
    }

    /// Counts a run.
    pub fn count_run(&self, answer: &Result<Answer, RuleError>) {
        let outcome = match answer {
            Ok(Answer::Allow(_)) => 0,
            Ok(Answer::Deny(_)) => 1,
            Ok(Answer::Abstain) => 2,
            Err(error) => {
                self.count_error(error.kind);
                3
            }
        };
        if let Some(runs) = self.runs.get(outcome) {
            runs.fetch_add(1, Relaxed);
        }
    }

    /// Counts a rule that gave no answer.
    pub fn count_error(&self, kind: RuleErrorKind) {
        if let Some(errors) = self.errors.get(kind as usize) {
            errors.fetch_add(1, Relaxed);
        }
    }

    /// Errors of a kind so far.
    pub fn errors(&self, kind: RuleErrorKind) -> u64 {
        self.errors.get(kind as usize).map_or(0, |errors| errors.load(Relaxed))
    }

    /// Kept answers given so far.
    pub fn hits(&self) -> u64 {
        self.hits.read(0)
    }
}

pub(super) fn push_rules(exposition: &mut Exposition, verdicts: &Verdicts) {
    let mut runs = Family::counter("crossgate_rule_runs_total", "Runs of rules by tenant and outcome.");
    let mut errors = Family::counter(
        "crossgate_rule_errors_total",
        "Times a rule gave no answer, and so denied, by tenant and kind.",
    );
    let mut hits = Family::counter("crossgate_verdict_cache_hits_total", "Answers of rules that were kept, by tenant.");
    let mut misses =
        Family::counter("crossgate_verdict_cache_misses_total", "Answers of rules that were not kept, by tenant.");
    let mut evictions = Family::counter(
        "crossgate_verdict_cache_evictions_total",
        "Answers of rules that were driven out by newer ones, by tenant.",
    );
    let mut uncacheable = Family::counter(
        "crossgate_verdict_cache_uncacheable_total",
        "Answers of rules that depend on too much, or too variously, to be kept, by tenant.",
    );
    let mut entries = Family::gauge("crossgate_verdict_cache_entries", "Answers of rules that are kept, by tenant.");
    let mut breakers = Family::gauge(
        "crossgate_rule_breaker_open",
        "1 while a rule that keeps failing is not run but for probes, by tenant and rule; 0 once it works again.",
    );
    let now = Instant::now();
    for tenant in verdicts.tenants() {
        let (id, counters) = (("tenant", tenant.id()), &tenant.counters);
        counted(&OUTCOMES, &counters.runs).for_each(|(outcome, n)| runs.count(&[id, ("outcome", outcome)], n));
        counted(&RuleErrorKind::ALL, &counters.errors)
            .for_each(|(kind, n)| errors.count(&[id, ("kind", kind.as_str())], n));
        for (family, n) in [
            (&mut hits, counters.hits()),
            (&mut misses, counters.misses.load(Relaxed)),
            (&mut uncacheable, counters.uncacheable.load(Relaxed)),
            (&mut evictions, tenant.evictions()),
        ] {
            if n > 0 {
                family.count(&[id], n);
            }
        }
        for (rule, is_open) in tenant.broken(now) {
            breakers.level(&[id, ("rule", &rule)], f64::from(u8::from(is_open)));
        }
        if tenant.entries() > 0 {
            entries.level(&[id], tenant.entries() as f64);
        }
    }
    for family in [runs, errors, hits, misses, evictions, uncacheable, entries, breakers] {
        exposition.push(family);
    }
    let mut durations = Family::histogram("crossgate_rule_duration_seconds", "How long runs of rules took.");
    durations.distribution(&[], &verdicts.durations.read());
    exposition.push(durations);
    exposition.counter(
        "crossgate_rule_load_failures_total",
        "Scripts, cases and data files that were refused when they were loaded.",
        verdicts.load_failures.load(Relaxed),
    );
}
