//! The metric families of rules.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::verdicts::Verdicts;
use crossgate_telemetry::{Exposition, FamilyWriter};

/// Collects the counters of the rules of all tenants.
pub(super) fn push_rules(exposition: &mut Exposition, verdicts: &Verdicts) {
    let mut runs = FamilyWriter::counter("crossgate_rule_runs_total", "Runs of rules by tenant and outcome.");
    let mut errors = FamilyWriter::counter(
        "crossgate_rule_errors_total",
        "Rule runs without an answer, which deny the request, by tenant and kind.",
    );
    let mut hits = FamilyWriter::counter(
        "crossgate_verdict_cache_hits_total",
        "Rule lookups that a cached answer covered, by tenant.",
    );
    let mut misses = FamilyWriter::counter(
        "crossgate_verdict_cache_misses_total",
        "Rule lookups without a cached answer, by tenant.",
    );
    let mut evictions = FamilyWriter::counter(
        "crossgate_verdict_cache_evictions_total",
        "Cached answers of rules that were evicted for newer ones, by tenant.",
    );
    let mut uncacheable = FamilyWriter::counter(
        "crossgate_verdict_cache_uncacheable_total",
        "Answers of rules that depend on too many or too variable inputs to be cached, by tenant.",
    );
    let mut entries = FamilyWriter::gauge("crossgate_verdict_cache_entries", "Cached answers of rules, by tenant.");
    let mut breakers = FamilyWriter::gauge(
        "crossgate_rule_breaker_open",
        "1 while a failing rule is run only for probes, 0 after it works again, by tenant and rule.",
    );
    let now = Instant::now();
    for tenant in verdicts.tenants() {
        let (id, counters) = (("tenant", tenant.id()), &tenant.counters);
        counters.runs().for_each(|(outcome, n)| runs.count(&[id, ("outcome", outcome)], n));
        counters.all_errors().for_each(|(kind, n)| errors.count(&[id, ("kind", kind.as_str())], n));
        for (family, n) in [
            (&mut hits, counters.hits()),
            (&mut misses, counters.misses()),
            (&mut uncacheable, counters.uncacheable()),
            (&mut evictions, tenant.evictions()),
        ] {
            if n > 0 {
                family.count(&[id], n);
            }
        }
        for (rule, is_open) in tenant.broken(now) {
            breakers.add_gauge(&[id, ("rule", &rule)], f64::from(u8::from(is_open)));
        }
        if tenant.entries() > 0 {
            entries.add_gauge(&[id], tenant.entries() as f64);
        }
    }
    for family in [runs, errors, hits, misses, evictions, uncacheable, entries, breakers] {
        exposition.push(family);
    }
    let mut durations = FamilyWriter::histogram("crossgate_rule_duration_seconds", "Duration of rule runs.");
    durations.add_histogram(&[], &verdicts.durations.read());
    exposition.push(durations);
    exposition.counter(
        "crossgate_rule_load_failures_total",
        "Scripts, cases and data files that were refused when loaded.",
        verdicts.load_failures.load(Relaxed),
    );
}
