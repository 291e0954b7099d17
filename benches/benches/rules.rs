//! The time of rules: a cached answer, a run of each shipped rule, and the gain of a second thread.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench whose files are missing has nothing to measure"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use crossgate::scripts::{self, Scripts};
use crossgate::verdicts::{AnswerSource, CompiledRule, TenantRule, Verdicts};
use crossgate_policy::{RequestKind, Rule, RuleInput, RuleLimits, Script, split_origin};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The shipped rules, each with an origin that it allows.
const SHIPPED: [(&str, &str); 7] = [
    ("demo.rhai", "http://preview.acme.localhost:3000"),
    ("preview.rhai", "https://pr-7.acme.preview.acme.dev"),
    ("customer-domains.rhai", "https://www.shop.example"),
    ("partners-by-path.rhai", "https://portal.partner.example"),
    ("api-key-origin.rhai", "https://maps.example"),
    ("country-brand.rhai", "https://laden.example"),
    ("migration.rhai", "https://old.acme.example"),
];

fn shipped() -> Scripts {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts"));
    scripts::read(directory, &RuleLimits::default(), &Scripts::default(), &[]).expect("the shipped scripts").scripts
}

fn rule(script: &Arc<Script>, copies: usize) -> Rule {
    let headers: Vec<HeaderName> = script.headers().iter().filter_map(|(name, _)| name.parse().ok()).collect();
    let query: Vec<Box<str>> = script.query_keys().iter().map(|(key, _)| key.clone()).collect();
    Rule::new(1, script, &headers, &query, copies)
}

fn with_input<R>(origin: &str, then: impl FnOnce(&RuleInput<'_>) -> R) -> R {
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-country"), HeaderValue::from_static("DE"))]);
    let (scheme, host, port) = split_origin(origin).expect("an origin");
    let no_lines: [&[u8]; 0] = [];
    then(&RuleInput {
        origin,
        scheme,
        host,
        port,
        kind: RequestKind::Actual,
        tenant: "acme",
        route: "/",
        method: b"GET",
        path: "/catalogue/7",
        query: "zoom=3&key=k-1001",
        api_host: "api.test",
        requested_headers: &no_lines,
        headers: &headers,
    })
}

fn cached(criterion: &mut Criterion) {
    let (scripts, verdicts) = (shipped(), Arc::new(Verdicts::default()));
    let mut group = criterion.benchmark_group("rule/cached");
    group.measurement_time(Duration::from_secs(2));
    for (name, origin) in SHIPPED {
        let script = scripts.get(name).expect("a shipped script");
        let tenant_rule = TenantRule::new(&verdicts, &CompiledRule::new(Arc::new(rule(script, 1))), "acme");
        with_input(origin, |input| {
            tenant_rule.decide(input);
            assert_eq!(tenant_rule.decide(input).source, AnswerSource::Cache, "{name}");
            group.bench_function(name, |bencher| bencher.iter(|| tenant_rule.decide(black_box(input))));
        });
    }
    group.finish();
}

fn run(criterion: &mut Criterion) {
    let scripts = shipped();
    let mut group = criterion.benchmark_group("rule/run");
    group.measurement_time(Duration::from_secs(2));
    for (name, origin) in SHIPPED {
        let rule = rule(scripts.get(name).expect("a shipped script"), 1);
        with_input(origin, |input| {
            assert!(rule.run(input, 0, || false).answer.is_ok(), "{name}");
            group.bench_function(name, |bencher| bencher.iter(|| rule.run(black_box(input), 0, || false)));
        });
    }
    group.finish();
}

/// The runs per second on `threads` threads.
fn throughput(rule: &Rule, threads: usize, origin: &str) -> f64 {
    const RUNS: u32 = 100_000;
    let began = Instant::now();
    thread::scope(|scope| {
        for slot in 0..threads {
            scope.spawn(move || {
                with_input(origin, |input| {
                    for _ in 0..RUNS {
                        black_box(rule.run(black_box(input), slot, || false));
                    }
                });
            });
        }
    });
    threads as f64 * f64::from(RUNS) / began.elapsed().as_secs_f64()
}

/// Prints the gain of a second thread. It is not a criterion bench, because the result is the ratio
/// of alternating rounds.
fn threads(_: &mut Criterion) {
    let scripts = shipped();
    for (name, origin) in
        [("demo.rhai", "http://preview.acme.localhost:3000"), ("preview.rhai", "https://pr-7.acme.preview.acme.dev")]
    {
        let rule = rule(scripts.get(name).expect("a shipped script"), 2);
        let mut ratios: Vec<f64> =
            (0..9).map(|_| throughput(&rule, 2, origin) / throughput(&rule, 1, origin)).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "rule/threads/{name}: 2 threads give {:.2} times the runs of 1 (median of {})",
            ratios[4],
            ratios.len()
        );
    }
}

criterion_group!(benches, cached, run, threads);
criterion_main!(benches);
