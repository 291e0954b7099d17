//! Memory that all threads write to in every request, under one thread and under two: the count of
//! a hot tenant, the latency of an upstream, and the pin of the snapshot.
//!
//! Each is compared with the plain implementation, one cell that all threads share. Rounds
//! alternate, so that other load on the machine affects all of them. The result is the ratio.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use crossgate::counters::SentResponse;
use crossgate::registry::GatewayMetrics;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use crossgate::metrics::VerdictLabel;
use crossgate::reload::{BrokenTenants, Reloader};
use crossgate_policy::{Reason, RequestKind};
use http::StatusCode;

/// The number of samples, and of rounds in a ratio.
const ROUNDS: usize = 20;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
runtime: { threads: 2 }
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies: { p: { allowOrigins: ["https://app.test"] } }
tenants: [{ id: t, hosts: [t.test], upstream: a, policy: p }]
"#;

/// The time for `count` operations on each of `threads` threads.
fn round(operation: &(dyn Fn() + Sync), threads: usize, count: u64) -> Duration {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..count).for_each(|_| operation()));
        }
    });
    began.elapsed()
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(format!("contended/{name}"));
    group.sampling_mode(SamplingMode::Flat).sample_size(ROUNDS);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    group
}

fn compare(criterion: &mut Criterion, name: &str, operation: &(dyn Fn() + Sync)) {
    let mut group = group(criterion, name);
    let mut ratios = Vec::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("1 thread", |bencher| bencher.iter_custom(|count| round(operation, 1, count)));
    group.throughput(Throughput::Elements(2));
    group.bench_function("2 threads", |bencher| {
        bencher.iter_custom(|count| {
            let (one, two) = (round(operation, 1, count), round(operation, 2, count));
            ratios.push(2.0 * one.as_secs_f64() / two.as_secs_f64());
            two
        });
    });
    // Without the short warm-up rounds before the samples. A run without samples prints nothing.
    let mut ratios = ratios.rchunks_exact(ROUNDS).next().unwrap_or_default().to_vec();
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ROUNDS / 2) {
        println!("contended/{name}: 2 threads do {median:.2} times as many as 1 (median of {ROUNDS})");
    }
}

fn counts(criterion: &mut Criterion) {
    let (metrics, shared) = (GatewayMetrics::new(), AtomicU64::new(0));
    let (tenant, upstream) = (metrics.tenant("hot"), metrics.upstream("hot"));
    compare(criterion, "one shared count", &|| {
        black_box(shared.fetch_add(1, Relaxed));
    });
    compare(criterion, "count of a tenant", &|| {
        tenant.count_request(black_box(RequestKind::Actual), VerdictLabel::Allow, Reason::Exact);
    });
    compare(criterion, "answer of a tenant", &|| {
        let response = SentResponse::by_gateway(StatusCode::NO_CONTENT);
        tenant.count_response(Some(black_box(response)), black_box(Duration::from_micros(1)));
    });
    compare(criterion, "latency of an upstream", &|| {
        upstream.duration.observe(black_box(Duration::from_millis(3)));
    });
}

fn snapshots(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("crossgate.yaml");
    std::fs::write(&file, CONFIG).expect("a file");
    let started = Reloader::start(&file, BrokenTenants::Refuse, &GatewayMetrics::new());
    let reloader = started.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let (current, shared) = (Arc::clone(reloader.current()), reloader.current().latest());
    compare(criterion, "one shared reference count", &|| drop(black_box(Arc::clone(&shared))));
    compare(criterion, "pin of a snapshot", &|| drop(black_box(current.pin())));
}

criterion_group!(benches, counts, snapshots);
criterion_main!(benches);
