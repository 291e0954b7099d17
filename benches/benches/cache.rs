//! The cache of rule answers under threads.
//!
//! The workloads are one key for all requests, as many keys as a tenant may cache, and a flood of
//! keys that occur once. Each key of a flood runs the rule and evicts an older answer. The bench
//! also prints the gain of a second thread. Rounds with one and with two threads alternate within
//! every sample, so that other load on the machine affects both.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use crossgate_config::model::{CacheLimits, RuleTimes};
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use crossgate::verdicts::{AnswerSource, CompiledRule, TenantRule, Verdicts};
use crossgate_benches::{Numbered, Random};
use crossgate_policy::{RequestKind, Rule, RuleData, RuleInput, RuleLimits, Script};
use http::HeaderMap;

const SHAPE: &str = "https://app-#.zone-#.example";
const SCHEME: &str = "https://";
/// A cheap rule that reads only the host, so that a flood measures the cache.
const RULE: &str = "fn decide(req) { if req.host == \"closed.example\" { deny() } else { allow() } }";
/// The number of samples, and of rounds in a ratio.
const ROUNDS: usize = 20;

/// The keys of the requests, and their tenants.
struct Workload {
    name: &'static str,
    /// The next key, from its index in this run of keys and the number of the run. The keys of run
    /// 0 are cached at the start.
    key: fn(step: u64, run: u64, &mut Random) -> [u64; 2],
    /// The expected source of every answer.
    source: AnswerSource,
    /// The tenants with the rule. Threads use them in turn.
    tenants: &'static [&'static str],
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "hit of one key", key: |_, _, _| [0, 0], source: AnswerSource::Cache, tenants: &["a"] },
    Workload {
        name: "hits of 8,000 keys",
        key: |_, _, random| [random.below(8_000), 0],
        source: AnswerSource::Cache,
        tenants: &["a"],
    },
    Workload {
        name: "flood of one tenant",
        key: |step, run, _| [step, run],
        source: AnswerSource::Run,
        tenants: &["a"],
    },
    Workload {
        name: "flood of two tenants",
        key: |step, run, _| [step, run],
        source: AnswerSource::Run,
        tenants: &["a", "b"],
    },
];

fn rule(number: u64) -> Rule {
    let script = Script::compile("cache.rhai", RULE, &Arc::new(RuleData::default()), &RuleLimits::default());
    let script = script.unwrap_or_else(|problems| panic!("{problems:?}"));
    Rule::new(number, &Arc::new(script), &[], &[], 2)
}

/// A workload and the rule of each tenant.
struct RunningWorkload<'w> {
    workload: &'w Workload,
    rules: Vec<TenantRule>,
    /// The number of runs of keys so far. Each thread of each round begins a new one.
    runs: u64,
}

impl<'w> RunningWorkload<'w> {
    /// Fills the cache of each tenant to its limit.
    fn new(workload: &'w Workload) -> Self {
        let verdicts = Arc::new(Verdicts::default());
        let limits = CacheLimits::default();
        // The time limit of rules must not stop the flood.
        verdicts.set_limits(limits, RuleTimes { per_second: Duration::from_secs(1_000), ..RuleTimes::default() });
        let compiled = CompiledRule::new(Arc::new(rule(verdicts.draw_number())));
        let rules: Vec<_> =
            workload.tenants.iter().map(|tenant| TenantRule::new(&verdicts, &compiled, tenant)).collect();
        let (mut origin, headers) = (Numbered::new(SHAPE), HeaderMap::new());
        for rule in &rules {
            for number in 0..limits.entries_per_tenant as u64 {
                with_input(origin.with(&[number, 0]), &headers, |input| rule.decide(input));
            }
        }
        Self { workload, rules, runs: 0 }
    }

    /// The time for `count` questions on each of `threads` threads.
    fn round(&mut self, threads: usize, count: u64) -> Duration {
        let Self { workload, rules, runs } = self;
        let workload: &Workload = workload;
        let began = Instant::now();
        thread::scope(|scope| {
            for rule in rules.iter().cycle().take(threads) {
                *runs += 1;
                let run = *runs;
                scope.spawn(move || ask(rule, workload, run, count));
            }
        });
        began.elapsed()
    }
}

/// Asks `count` questions on this thread.
fn ask(rule: &TenantRule, workload: &Workload, run: u64, count: u64) {
    let (mut origin, mut random, headers) = (Numbered::new(SHAPE), Random::of(run), HeaderMap::new());
    for step in 0..count {
        let key = (workload.key)(step, run, &mut random);
        let answer = with_input(origin.with(&key), &headers, |input| rule.decide(input));
        assert_eq!(answer.source, workload.source, "{}", workload.name);
        black_box(answer);
    }
}

fn with_input<R>(origin: &[u8], headers: &HeaderMap, then: impl FnOnce(&RuleInput<'_>) -> R) -> R {
    let origin = str::from_utf8(origin).expect("an origin");
    then(black_box(&RuleInput {
        origin,
        scheme: "https",
        host: origin.strip_prefix(SCHEME).expect("https"),
        port: None,
        kind: RequestKind::Actual,
        tenant: "a",
        route: "/",
        method: b"GET",
        path: "/catalogue/7",
        query: "",
        api_host: "api.test",
        requested_headers: &([] as [&[u8]; 0]),
        headers,
    }))
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(ROUNDS);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

/// The parts of the other times: creating a question, and in a flood also a run of the rule.
fn question_and_run(criterion: &mut Criterion) {
    let mut group = group(criterion, "cache/parts");
    let (mut origin, mut random, headers) = (Numbered::new(SHAPE), Random::default(), HeaderMap::new());
    group.bench_function("question", |bencher| {
        bencher.iter(|| with_input(origin.with(&[random.below(8_000), 0]), &headers, |input| input.host.len()));
    });
    let rule = rule(1);
    group.bench_function("run", |bencher| {
        bencher.iter(|| with_input(origin.with(&[0, 0]), &headers, |input| rule.run(input, 0, || false)));
    });
}

fn workloads(criterion: &mut Criterion) {
    for workload in &WORKLOADS {
        let mut group = group(criterion, &format!("cache/{}", workload.name));
        let (mut running, mut ratios) = (None, Vec::new());
        group.throughput(Throughput::Elements(1));
        group.bench_function("1 thread", |bencher| {
            let running = running.get_or_insert_with(|| RunningWorkload::new(workload));
            bencher.iter_custom(|count| running.round(1, count));
        });
        group.throughput(Throughput::Elements(2));
        group.bench_function("2 threads", |bencher| {
            let running = running.get_or_insert_with(|| RunningWorkload::new(workload));
            bencher.iter_custom(|count| {
                let (one, two) = (running.round(1, count), running.round(2, count));
                ratios.push(2.0 * one.as_secs_f64() / two.as_secs_f64());
                two
            });
        });
        print_ratio(workload, &ratios);
    }
}

/// Prints the median of the samples, without the short warm-up rounds before them. A run without
/// samples prints nothing.
fn print_ratio(workload: &Workload, ratios: &[f64]) {
    let mut ratios = ratios.rchunks_exact(ROUNDS).next().unwrap_or_default().to_vec();
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ROUNDS / 2) {
        println!("cache/{}: 2 threads give {median:.2} times the answers of 1 (median of {ROUNDS})", workload.name);
    }
}

criterion_group!(benches, question_and_run, workloads);
criterion_main!(benches);
