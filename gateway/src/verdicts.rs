//! The answer of a rule: from the cache, or by running the rule.
//!
//! An answer is cached under the tenant, the compiled rule's number, the parts of the request that
//! its run has read, and their values. A rule decides by what it reads, one part after the other.
//! Two requests that agree on all parts that one run has read therefore get the same answer. The
//! few sets of parts that a rule's runs have read are remembered, and each is looked up. A
//! recompiled rule has a new number, so no answer of the old one can be found for it. A run that
//! began before is cached under the old number, which is never looked up again, until it is
//! evicted. Errors are not cached.
//!
//! A rule that fails or takes too long denies: see [`breaker`](crate::breaker) and [`times`].
//! Absent on purpose: the meaning of answers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossgate_policy::{Rule, RuleAnswer, RuleError, RuleErrorKind, RuleInput, RuleReads, RuleRun};
use parking_lot::Mutex;

use crate::breaker::{Breaker, RunAdmission};
use crate::counters::RuleCounters;
use crossgate_config::model::{CacheLimits, RuleTimes};
use crossgate_telemetry::thread_number;
use crossgate_telemetry::{Histogram, LiveCounters};

mod cache;
mod hot;
mod times;

#[cfg(test)]
mod tests;

use cache::{KEY_LEN_MAX, TenantCache, VerdictCache};
use times::RuleTimeBudget;

/// The maximum number of remembered sets of parts for each rule. Each is one more lookup.
const READ_SETS_MAX: usize = 8;

/// Marks a remembered set, since the set can be empty.
const REMEMBERED: u64 = 1 << 63;

/// From a microsecond to the maximum duration of a run.
const RUN_BOUNDS_NS: [u64; 10] =
    [1_000, 2_000, 4_000, 8_000, 16_000, 64_000, 250_000, 1_000_000, 5_000_000, 20_000_000];

/// The state of all rules in this process; it outlives snapshots.
#[derive(Debug)]
pub struct Verdicts {
    cache: Arc<VerdictCache>,
    tenants: LiveCounters<TenantRules>,
    run_ns_max: AtomicU64,
    per_second_ns: AtomicU64,
    /// The durations of runs.
    pub durations: Histogram,
    /// Scripts, cases and data files that were refused.
    pub load_failures: AtomicU64,
}

impl Default for Verdicts {
    fn default() -> Self {
        let times = RuleTimes::default();
        Verdicts {
            cache: VerdictCache::new(CacheLimits::default()),
            tenants: LiveCounters::default(),
            run_ns_max: AtomicU64::new(nanos(times.run)),
            per_second_ns: AtomicU64::new(nanos(times.per_second)),
            durations: Histogram::new(&RUN_BOUNDS_NS),
            load_failures: AtomicU64::new(0),
        }
    }
}

impl Verdicts {
    /// Sets the limits of the cache and of run times.
    pub fn set_limits(&self, cache: CacheLimits, times: RuleTimes) {
        self.cache.set_limits(cache);
        self.run_ns_max.store(nanos(times.run), Relaxed);
        self.per_second_ns.store(nanos(times.per_second), Relaxed);
    }

    /// Draws a number that no other rule or tenant of this process has.
    pub fn draw_number(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Relaxed)
    }

    /// The state of the tenant with this id, or a new one. Its answers are dropped with the last
    /// reference.
    pub fn tenant(&self, id: &str) -> Arc<TenantRules> {
        self.tenants.get_or_make(id, |id| TenantRules {
            id,
            number: self.draw_number(),
            cache: TenantCache::new(&self.cache),
            budget: RuleTimeBudget::new(Instant::now()),
            counters: RuleCounters::default(),
            breakers: Mutex::default(),
        })
    }

    /// The tenants that have rules.
    pub fn tenants(&self) -> Vec<Arc<TenantRules>> {
        self.tenants.all()
    }

    fn times(&self) -> RuleTimes {
        let of = |ns: &AtomicU64| Duration::from_nanos(ns.load(Relaxed));
        RuleTimes { run: of(&self.run_ns_max), per_second: of(&self.per_second_ns) }
    }
}

/// The cached answers and counters of one tenant's rules.
#[derive(Debug)]
pub struct TenantRules {
    id: Arc<str>,
    number: u64,
    cache: Arc<TenantCache>,
    budget: RuleTimeBudget,
    pub counters: RuleCounters,
    /// By script, for the metrics. There is one for each rule of the tenant.
    breakers: Mutex<BTreeMap<Box<str>, Weak<Breaker>>>,
}

impl TenantRules {
    /// The tenant's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn with_breaker(self: Arc<Self>, script: &str, breaker: &Arc<Breaker>) -> Arc<Self> {
        let mut breakers = self.breakers.lock();
        breakers.retain(|_, breaker| breaker.strong_count() > 0);
        breakers.insert(script.into(), Arc::downgrade(breaker));
        drop(breakers);
        self
    }

    /// The scripts whose breaker has been open before, and whether it is open now.
    pub fn broken(&self, now: Instant) -> Vec<(Box<str>, bool)> {
        let breakers = self.breakers.lock();
        let living = breakers.iter().filter_map(|(script, breaker)| Some((script, breaker.upgrade()?)));
        let opened = living.filter(|(_, breaker)| breaker.was_open() || breaker.is_open(now));
        opened.map(|(script, breaker)| (script.clone(), breaker.is_open(now))).collect()
    }

    /// The number of cached answers.
    pub fn entries(&self) -> usize {
        self.cache.len()
    }

    /// The number of answers evicted so far.
    pub fn evictions(&self) -> u64 {
        self.cache.evictions()
    }
}

/// A compiled rule, and the parts of requests that its runs have read. There is one for each
/// compiled policy.
#[derive(Debug)]
pub struct CompiledRule {
    pub rule: Arc<Rule>,
    read_sets: [AtomicU64; READ_SETS_MAX],
}

impl CompiledRule {
    /// A rule that has not run yet.
    pub fn new(rule: Arc<Rule>) -> Arc<Self> {
        Arc::new(CompiledRule { rule, read_sets: Default::default() })
    }

    fn read_sets(&self) -> impl Iterator<Item = RuleReads> {
        let sets = self.read_sets.iter().map(|set| set.load(Relaxed));
        sets.take_while(|set| *set != 0).map(|set| RuleReads::from_bits(set & !REMEMBERED))
    }

    /// Remembers a set. Returns `false` if there is no room for it.
    fn remember(&self, reads: RuleReads) -> bool {
        let wanted = reads.bits() | REMEMBERED;
        self.read_sets.iter().any(|set| match set.compare_exchange(0, wanted, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(there) => there == wanted,
        })
    }
}

/// The use of one rule by one tenant. It is created again when either is recompiled, so a reload
/// closes the breaker.
#[derive(Debug)]
pub struct TenantRule {
    verdicts: Arc<Verdicts>,
    compiled: Arc<CompiledRule>,
    tenant: Arc<TenantRules>,
    breaker: Arc<Breaker>,
    /// The time of the last logged failure, in seconds after the breaker was made, plus one.
    logged: AtomicU64,
    unlogged: AtomicU64,
    made: Instant,
}

/// The outcome of a rule.
#[derive(Debug, Clone)]
pub struct RuleOutcome {
    /// The answer, or the reason why there is no answer.
    pub answer: Result<RuleAnswer, RuleError>,
    pub source: AnswerSource,
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The cache.
    Cache,
    /// A run of the rule.
    Run,
    /// The rule was not run: it fails too often, or the tenant has used up its time.
    NotRun,
}

impl AnswerSource {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            AnswerSource::Cache => "cache",
            AnswerSource::Run => "run",
            AnswerSource::NotRun => "not_run",
        }
    }
}

/// The outcome of a rule for an explanation.
#[derive(Debug)]
pub struct ExaminedRun {
    /// Whether the answer is cached.
    pub cached: bool,
    /// A run made for the explanation.
    pub run: RuleRun,
}

thread_local! {
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl TenantRule {
    /// Creates the use of a rule by a tenant.
    pub fn new(verdicts: &Arc<Verdicts>, compiled: &Arc<CompiledRule>, tenant: &str) -> Self {
        let now = Instant::now();
        let breaker = Arc::new(Breaker::new(now));
        TenantRule {
            verdicts: Arc::clone(verdicts),
            compiled: Arc::clone(compiled),
            tenant: verdicts.tenant(tenant).with_breaker(compiled.rule.script().name(), &breaker),
            breaker,
            logged: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            made: now,
        }
    }

    pub fn rule(&self) -> &Arc<Rule> {
        &self.compiled.rule
    }

    /// Decides by a cached answer or by running the rule, and counts it.
    pub fn decide(&self, input: &RuleInput<'_>) -> RuleOutcome {
        if let Some(answer) = self.find_cached(input, |key| self.verdicts.cache.find(key)) {
            self.tenant.counters.count_hit();
            return RuleOutcome { answer: Ok(answer), source: AnswerSource::Cache };
        }
        self.tenant.counters.count_miss();
        let now = Instant::now();
        match self.refusal(now) {
            Some(kind) => {
                self.tenant.counters.count_error(kind);
                RuleOutcome { answer: Err(not_run(kind)), source: AnswerSource::NotRun }
            }
            None => self.run(input, now),
        }
    }

    /// Looks up the cached answer and makes a run, for an explanation. Nothing is cached or
    /// counted.
    pub fn run_uncounted(&self, input: &RuleInput<'_>) -> ExaminedRun {
        let cached = self.find_cached(input, |key| self.verdicts.cache.has(key).then_some(())).is_some();
        times::begin_run(self.verdicts.times().run);
        // A guest number: a worker number would take a copy of the rule from a worker.
        ExaminedRun { cached, run: self.compiled.rule.run(input, thread_number::guest_number(), times::is_run_over) }
    }

    /// Returns whether the rule's breaker is open.
    pub fn is_broken(&self, now: Instant) -> bool {
        self.breaker.is_open(now)
    }

    /// Looks up every set of parts that runs have read.
    fn find_cached<T>(&self, input: &RuleInput<'_>, find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        self.compiled.read_sets().find_map(|reads| self.with_key(input, reads, &find))
    }

    fn with_key<T>(&self, input: &RuleInput<'_>, reads: RuleReads, then: impl FnOnce(&[u8]) -> T) -> T {
        KEY.with_borrow_mut(|key| {
            key.clear();
            for number in [self.tenant.number, self.compiled.rule.id(), reads.bits()] {
                key.extend_from_slice(&number.to_le_bytes());
            }
            self.compiled.rule.key(input, reads, key);
            then(key)
        })
    }

    fn refusal(&self, now: Instant) -> Option<RuleErrorKind> {
        if self.breaker.admit(now) == RunAdmission::Refused {
            return Some(RuleErrorKind::Breaker);
        }
        (!self.tenant.budget.has_left(now)).then_some(RuleErrorKind::Budget)
    }

    fn run(&self, input: &RuleInput<'_>, began: Instant) -> RuleOutcome {
        let limits = self.verdicts.times();
        times::begin_run(limits.run);
        let run = self.compiled.rule.run(input, thread_number::worker_number(), times::is_run_over);
        let now = Instant::now();
        let took = now.saturating_duration_since(began);
        self.tenant.budget.charge(now, took, limits);
        self.verdicts.durations.observe(took);
        self.tenant.counters.count_run(&run.answer);
        match &run.answer {
            Ok(answer) => {
                self.breaker.record_success(now);
                self.store(input, run.reads, answer);
            }
            Err(error) => {
                self.breaker.record_failure();
                self.log(error, now);
            }
        }
        RuleOutcome { answer: run.answer, source: AnswerSource::Run }
    }

    fn store(&self, input: &RuleInput<'_>, reads: RuleReads, answer: &RuleAnswer) {
        let store = |key: &[u8]| key.len() <= KEY_LEN_MAX && self.tenant.cache.insert(key, answer);
        let is_stored = self.compiled.remember(reads) && self.with_key(input, reads, store);
        if !is_stored {
            self.tenant.counters.count_uncacheable();
        }
    }

    /// Logs the first failure, and then at most one each second.
    fn log(&self, error: &RuleError, now: Instant) {
        let second = now.saturating_duration_since(self.made).as_secs() + 1;
        let logged = self.logged.load(Relaxed);
        if second == logged || self.logged.compare_exchange(logged, second, Relaxed, Relaxed).is_err() {
            self.unlogged.fetch_add(1, Relaxed);
            return;
        }
        tracing::warn!(
            tenant = self.tenant.id(),
            rule = self.compiled.rule.script().name(),
            line = error.line,
            column = error.column,
            kind = error.kind.as_str(),
            unlogged = self.unlogged.swap(0, Relaxed),
            "a rule failed, and the request was denied: {}",
            error.message
        );
    }
}

fn not_run(kind: RuleErrorKind) -> RuleError {
    let message = match kind {
        RuleErrorKind::Breaker => "the rule failed too often and is paused; single runs test it again",
        RuleErrorKind::Budget => "the tenant has used up its time for rules",
        RuleErrorKind::Operations
        | RuleErrorKind::Time
        | RuleErrorKind::Size
        | RuleErrorKind::Depth
        | RuleErrorKind::Runtime
        | RuleErrorKind::Result
        | RuleErrorKind::Unlisted
        | RuleErrorKind::Panic => "the rule was not run",
    };
    RuleError { kind, line: None, column: None, message: message.to_owned() }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
