//! Asking a rule: from what is kept of its answers, or by running it.
//!
//! An answer is kept under the tenant, the compiled rule's number, which of the request's parts its run has read, and their values.
//! A rule decides by what it reads, one part after the other, so two requests that agree on all that one run has read get the same
//! answer; whatever it did not read cannot matter. Of every rule the few sets of parts that its runs have read are remembered, and each
//! is looked for. A rule that was compiled anew has a new number, so no answer of the old one can be found for it, nor can one
//! whose run began before: it is kept under the old number, which nobody looks for any more, until it is driven out. Errors are not kept.
//!
//! What fails, or takes too long, denies: see [`breaker`](crate::breaker) and [`times`]. Absent on purpose: which answer means what.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossgate_policy::{Answer, Reads, Rule, RuleError, RuleErrorKind, RuleInput, RuleRun};

use crate::breaker::{Admission, Breaker};
use crate::metrics::{Histogram, Live, RuleCounters};
use crate::thread_number;

mod cache;
mod hot;
mod times;

#[cfg(test)]
mod tests;

pub use cache::CacheLimits;
pub use times::RuleTimes;

use cache::{Cache, KEY_LEN_MAX, Share};
use times::Budget;

/// Sets of parts that are remembered of one rule. Each is one more lookup.
const READ_SETS_MAX: usize = 8;

/// Marks a remembered set, since no part at all is one too.
const REMEMBERED: u64 = 1 << 63;

/// From a microsecond to the most that a run may take.
const RUN_BOUNDS_NS: [u64; 10] =
    [1_000, 2_000, 4_000, 8_000, 16_000, 64_000, 250_000, 1_000_000, 5_000_000, 20_000_000];

/// Everything that is known of rules in this process; it outlives snapshots.
#[derive(Debug)]
pub struct Verdicts {
    cache: Arc<Cache>,
    tenants: Live<TenantRules>,
    run_ns_max: AtomicU64,
    per_second_ns: AtomicU64,
    /// How long runs took.
    pub durations: Histogram,
    /// Scripts, cases and data files that were refused.
    pub load_failures: AtomicU64,
}

impl Default for Verdicts {
    fn default() -> Self {
        let times = RuleTimes::default();
        Verdicts {
            cache: Cache::new(CacheLimits::default()),
            tenants: Live::new(),
            run_ns_max: AtomicU64::new(nanos(times.run)),
            per_second_ns: AtomicU64::new(nanos(times.per_second)),
            durations: Histogram::new(&RUN_BOUNDS_NS),
            load_failures: AtomicU64::new(0),
        }
    }
}

impl Verdicts {
    /// Sets what may be kept and how long rules may run, from now on.
    pub fn set_limits(&self, cache: CacheLimits, times: RuleTimes) {
        self.cache.set_limits(cache);
        self.run_ns_max.store(nanos(times.run), Relaxed);
        self.per_second_ns.store(nanos(times.per_second), Relaxed);
    }

    /// A number that no other rule or tenant of this process has.
    pub fn draw_number(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Relaxed)
    }

    /// What is kept for a tenant: the living one of that id, or a new one. Its answers go with the last of these.
    pub fn tenant(&self, id: &str) -> Arc<TenantRules> {
        self.tenants.get_or_make(id, |id| TenantRules {
            id,
            number: self.draw_number(),
            share: Share::new(&self.cache),
            budget: Budget::new(Instant::now()),
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

/// What is kept and counted of one tenant's rules.
#[derive(Debug)]
pub struct TenantRules {
    id: Arc<str>,
    number: u64,
    share: Arc<Share>,
    budget: Budget,
    /// What is counted.
    pub counters: RuleCounters,
    /// By script, for the metrics. As many as the tenant has rules.
    breakers: Mutex<BTreeMap<Box<str>, Weak<Breaker>>>,
}

impl TenantRules {
    /// Whose.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn with_breaker(self: Arc<Self>, script: &str, breaker: &Arc<Breaker>) -> Arc<Self> {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.retain(|_, breaker| breaker.strong_count() > 0);
        breakers.insert(script.into(), Arc::downgrade(breaker));
        drop(breakers);
        self
    }

    /// The scripts whose breaker has ever been open, and whether it is.
    pub fn broken(&self, now: Instant) -> Vec<(Box<str>, bool)> {
        let breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let living = breakers.iter().filter_map(|(script, breaker)| Some((script, breaker.upgrade()?)));
        let opened = living.filter(|(_, breaker)| breaker.was_open() || breaker.is_open(now));
        opened.map(|(script, breaker)| (script.clone(), breaker.is_open(now))).collect()
    }

    /// Answers kept now.
    pub fn entries(&self) -> usize {
        self.share.len()
    }

    /// Answers driven out so far.
    pub fn evictions(&self) -> u64 {
        self.share.evictions()
    }
}

/// A compiled rule, and which parts of requests its runs have read. One for every compiled policy.
#[derive(Debug)]
pub struct LiveRule {
    /// The rule.
    pub rule: Arc<Rule>,
    read_sets: [AtomicU64; READ_SETS_MAX],
}

impl LiveRule {
    /// Of a rule that has not run yet.
    pub fn new(rule: Arc<Rule>) -> Arc<Self> {
        Arc::new(LiveRule { rule, read_sets: Default::default() })
    }

    fn read_sets(&self) -> impl Iterator<Item = Reads> {
        let sets = self.read_sets.iter().map(|set| set.load(Relaxed));
        sets.take_while(|set| *set != 0).map(|set| Reads::from_bits(set & !REMEMBERED))
    }

    /// Whether there was room for one more set, or it is there already.
    fn remember(&self, reads: Reads) -> bool {
        let wanted = reads.bits() | REMEMBERED;
        self.read_sets.iter().any(|set| match set.compare_exchange(0, wanted, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(there) => there == wanted,
        })
    }
}

/// One tenant's use of one rule. Made anew whenever either is compiled anew, so a reload closes the breaker.
#[derive(Debug)]
pub struct RuleSeat {
    verdicts: Arc<Verdicts>,
    live: Arc<LiveRule>,
    tenant: Arc<TenantRules>,
    breaker: Arc<Breaker>,
    /// When a failure was last logged, in seconds after the breaker was made, plus one.
    logged: AtomicU64,
    unlogged: AtomicU64,
    made: Instant,
}

/// What a rule said.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The answer, or why there is none.
    pub answer: Result<Answer, RuleError>,
    /// How it was had.
    pub source: Source,
}

/// How an answer was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was kept.
    Cache,
    /// The rule has run.
    Run,
    /// The rule was not run: it fails too often, or takes too much time.
    NotRun,
}

impl Source {
    /// Its name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Cache => "cache",
            Source::Run => "run",
            Source::NotRun => "not_run",
        }
    }
}

/// What a rule does with a request, for a person who asks.
#[derive(Debug)]
pub struct Examined {
    /// Whether the answer is kept.
    pub cached: bool,
    /// A run made to tell about it.
    pub run: RuleRun,
}

thread_local! {
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl RuleSeat {
    /// A tenant's use of a rule.
    pub fn new(verdicts: &Arc<Verdicts>, live: &Arc<LiveRule>, tenant: &str) -> Self {
        let now = Instant::now();
        let breaker = Arc::new(Breaker::new(now));
        RuleSeat {
            verdicts: Arc::clone(verdicts),
            live: Arc::clone(live),
            tenant: verdicts.tenant(tenant).with_breaker(live.rule.script().name(), &breaker),
            breaker,
            logged: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            made: now,
        }
    }

    /// The rule.
    pub fn rule(&self) -> &Arc<Rule> {
        &self.live.rule
    }

    /// Answers, from what is kept or by running the rule, and counts it.
    pub fn ask(&self, input: &RuleInput<'_>) -> Asked {
        if let Some(answer) = self.kept(input, |key| self.verdicts.cache.find(key)) {
            self.tenant.counters.count_hit();
            return Asked { answer: Ok(answer), source: Source::Cache };
        }
        self.tenant.counters.count_miss();
        let now = Instant::now();
        match self.refusal(now) {
            Some(kind) => {
                self.tenant.counters.count_error(kind);
                Asked { answer: Err(not_run(kind)), source: Source::NotRun }
            }
            None => self.run(input, now),
        }
    }

    /// Whether the answer is kept, and what a run does. Nothing is kept or counted.
    pub fn examine(&self, input: &RuleInput<'_>) -> Examined {
        let cached = self.kept(input, |key| self.verdicts.cache.has(key).then_some(())).is_some();
        times::begin_run(self.verdicts.times().run);
        // No number is drawn for whoever asks this: it would take a copy from a worker.
        Examined { cached, run: self.live.rule.run(input, thread_number::of_guest(), times::is_run_over) }
    }

    /// Whether the rule has been given up for now.
    pub fn is_broken(&self, now: Instant) -> bool {
        self.breaker.is_open(now)
    }

    /// Looks under every set of parts that runs have read.
    fn kept<T>(&self, input: &RuleInput<'_>, find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        self.live.read_sets().find_map(|reads| self.with_key(input, reads, &find))
    }

    fn with_key<T>(&self, input: &RuleInput<'_>, reads: Reads, then: impl FnOnce(&[u8]) -> T) -> T {
        KEY.with_borrow_mut(|key| {
            key.clear();
            for number in [self.tenant.number, self.live.rule.id(), reads.bits()] {
                key.extend_from_slice(&number.to_le_bytes());
            }
            self.live.rule.key(input, reads, key);
            then(key)
        })
    }

    fn refusal(&self, now: Instant) -> Option<RuleErrorKind> {
        if self.breaker.admit(now) == Admission::Refused {
            return Some(RuleErrorKind::Breaker);
        }
        (!self.tenant.budget.has_left(now)).then_some(RuleErrorKind::Budget)
    }

    fn run(&self, input: &RuleInput<'_>, began: Instant) -> Asked {
        let limits = self.verdicts.times();
        times::begin_run(limits.run);
        let run = self.live.rule.run(input, thread_number::of_worker(), times::is_run_over);
        let now = Instant::now();
        let took = now.saturating_duration_since(began);
        self.tenant.budget.pay(now, took, limits);
        self.verdicts.durations.observe(took);
        self.tenant.counters.count_run(&run.answer);
        match &run.answer {
            Ok(answer) => {
                self.breaker.succeed(now);
                self.keep(input, run.reads, answer);
            }
            Err(error) => {
                self.breaker.fail();
                self.log(error, now);
            }
        }
        Asked { answer: run.answer, source: Source::Run }
    }

    fn keep(&self, input: &RuleInput<'_>, reads: Reads, answer: &Answer) {
        let keep = |key: &[u8]| key.len() <= KEY_LEN_MAX && self.tenant.share.insert(key, answer);
        let is_kept = self.live.remember(reads) && self.with_key(input, reads, keep);
        if !is_kept {
            self.tenant.counters.count_uncacheable();
        }
    }

    /// The first failure, and then one a second at most.
    fn log(&self, error: &RuleError, now: Instant) {
        let second = now.saturating_duration_since(self.made).as_secs() + 1;
        let logged = self.logged.load(Relaxed);
        if second == logged || self.logged.compare_exchange(logged, second, Relaxed, Relaxed).is_err() {
            self.unlogged.fetch_add(1, Relaxed);
            return;
        }
        tracing::warn!(
            tenant = self.tenant.id(),
            rule = self.live.rule.script().name(),
            line = error.line,
            column = error.column,
            kind = error.kind.as_str(),
            unlogged = self.unlogged.swap(0, Relaxed),
            "a rule failed, and denied: {}",
            error.message
        );
    }
}

fn not_run(kind: RuleErrorKind) -> RuleError {
    let message = match kind {
        RuleErrorKind::Breaker => "the rule has failed too often, and is tried again from time to time",
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
