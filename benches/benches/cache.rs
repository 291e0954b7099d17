//! The answers kept of rules, under threads: one key that everybody asks for, as many keys as a tenant may have, and a flood of
//! keys that come once, each of which runs the rule and drives an older answer out.
//!
//! Beside the times stands what a second thread adds. Its rounds alternate with those of one thread within every sample, so that
//! whatever else the machine does meets both.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use crossgate::verdicts::{CacheLimits, LiveRule, RuleSeat, RuleTimes, Source, Verdicts};
use crossgate_benches::{Numbered, Random};
use crossgate_policy::{Kind, Rule, RuleData, RuleInput, RuleLimits, Script};
use http::HeaderMap;

const SHAPE: &str = "https://app-#.zone-#.example";
const SCHEME: &str = "https://";
/// Reads the host alone, and does next to nothing, so that a flood is about what is kept.
const RULE: &str = "fn decide(req) { if req.host == \"closed.example\" { deny() } else { allow() } }";
/// Samples, and so rounds behind a ratio.
const ROUNDS: usize = 20;

/// What is asked for, and by whom.
struct Workload {
    name: &'static str,
    /// The next key, by how many this run of keys has had. Those of run 0 are kept from the start.
    key: fn(step: u64, run: u64, &mut Random) -> [u64; 2],
    /// The source of every answer.
    source: Source,
    /// Whose the rule is. Threads take turns at them.
    tenants: &'static [&'static str],
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "hit of one key", key: |_, _, _| [0, 0], source: Source::Cache, tenants: &["a"] },
    Workload {
        name: "hits of 8,000 keys",
        key: |_, _, random| [random.below(8_000), 0],
        source: Source::Cache,
        tenants: &["a"],
    },
    Workload { name: "flood of one tenant", key: |step, run, _| [step, run], source: Source::Run, tenants: &["a"] },
    Workload {
        name: "flood of two tenants",
        key: |step, run, _| [step, run],
        source: Source::Run,
        tenants: &["a", "b"],
    },
];

fn rule(number: u64) -> Rule {
    let script = Script::compile("cache.rhai", RULE, &Arc::new(RuleData::default()), &RuleLimits::default());
    let script = script.unwrap_or_else(|problems| panic!("{problems:?}"));
    Rule::new(number, &Arc::new(script), &[], &[], 2)
}

/// A workload and the tenants' seats of one rule.
struct Asking<'w> {
    workload: &'w Workload,
    seats: Vec<RuleSeat>,
    /// Runs of keys so far: each thread of each round begins another.
    runs: u64,
}

impl<'w> Asking<'w> {
    /// With as many answers kept for each tenant as may be.
    fn new(workload: &'w Workload) -> Self {
        let verdicts = Arc::new(Verdicts::default());
        let limits = CacheLimits::default();
        // A flood is all that the tenant does, and must not be stopped for it.
        verdicts.set_limits(limits, RuleTimes { per_second: Duration::from_secs(1_000), ..RuleTimes::default() });
        let live = LiveRule::new(Arc::new(rule(verdicts.draw_number())));
        let seats: Vec<_> = workload.tenants.iter().map(|tenant| RuleSeat::new(&verdicts, &live, tenant)).collect();
        let (mut origin, headers) = (Numbered::new(SHAPE), HeaderMap::new());
        for seat in &seats {
            for number in 0..limits.entries_per_tenant as u64 {
                with_input(origin.with(&[number, 0]), &headers, |input| seat.ask(input));
            }
        }
        Self { workload, seats, runs: 0 }
    }

    /// How long so many questions take, on each of so many threads.
    fn round(&mut self, threads: usize, count: u64) -> Duration {
        let Self { workload, seats, runs } = self;
        let workload: &Workload = workload;
        let began = Instant::now();
        thread::scope(|scope| {
            for seat in seats.iter().cycle().take(threads) {
                *runs += 1;
                let run = *runs;
                scope.spawn(move || ask(seat, workload, run, count));
            }
        });
        began.elapsed()
    }
}

/// So many questions of one thread.
fn ask(seat: &RuleSeat, workload: &Workload, run: u64, count: u64) {
    let (mut origin, mut random, headers) = (Numbered::new(SHAPE), Random::of(run), HeaderMap::new());
    for step in 0..count {
        let key = (workload.key)(step, run, &mut random);
        let asked = with_input(origin.with(&key), &headers, |input| seat.ask(input));
        assert_eq!(asked.source, workload.source, "{}", workload.name);
        black_box(asked);
    }
}

fn with_input<R>(origin: &[u8], headers: &HeaderMap, then: impl FnOnce(&RuleInput<'_>) -> R) -> R {
    let origin = str::from_utf8(origin).expect("an origin");
    then(black_box(&RuleInput {
        origin,
        scheme: "https",
        host: origin.strip_prefix(SCHEME).expect("https"),
        port: None,
        kind: Kind::Actual,
        tenant: "a",
        route: "/",
        method: b"GET",
        path: "/catalogue/7",
        query: "",
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

/// What is in all the other times: making up a question, and in a flood also a run of the rule.
fn apart(criterion: &mut Criterion) {
    let mut group = group(criterion, "cache/apart");
    let (mut origin, mut random, headers) = (Numbered::new(SHAPE), Random::default(), HeaderMap::new());
    group.bench_function("question", |bencher| {
        bencher.iter(|| with_input(origin.with(&[random.below(8_000), 0]), &headers, |input| input.host.len()));
    });
    let rule = rule(1);
    group.bench_function("run", |bencher| {
        bencher.iter(|| with_input(origin.with(&[0, 0]), &headers, |input| rule.run(input, 0, || false)));
    });
}

fn asking(criterion: &mut Criterion) {
    for workload in &WORKLOADS {
        let mut group = group(criterion, &format!("cache/{}", workload.name));
        let (mut made, mut ratios) = (None, Vec::new());
        group.throughput(Throughput::Elements(1));
        group.bench_function("1 thread", |bencher| {
            let asking = made.get_or_insert_with(|| Asking::new(workload));
            bencher.iter_custom(|count| asking.round(1, count));
        });
        group.throughput(Throughput::Elements(2));
        group.bench_function("2 threads", |bencher| {
            let asking = made.get_or_insert_with(|| Asking::new(workload));
            bencher.iter_custom(|count| {
                let (one, two) = (asking.round(1, count), asking.round(2, count));
                ratios.push(2.0 * one.as_secs_f64() / two.as_secs_f64());
                two
            });
        });
        tell(workload, &ratios);
    }
}

/// The median of the samples' rounds, without the short ones that came first to warm up. A run without samples tells nothing.
fn tell(workload: &Workload, ratios: &[f64]) {
    let mut ratios = ratios.rchunks_exact(ROUNDS).next().unwrap_or_default().to_vec();
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ROUNDS / 2) {
        println!("cache/{}: 2 threads give {median:.2} times the answers of 1 (median of {ROUNDS})", workload.name);
    }
}

criterion_group!(benches, apart, asking);
criterion_main!(benches);
