//! The time of one decision, by workload: `cargo bench -p crossgate-benches`.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use crossgate_benches::{Numbered, Random, compile, policy, policy_in_groups};
use crossgate_policy::{CorsRequest, OwnOrigin, Policy, PolicySpec, RequestField, Verdict};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };
const EXACT: &str = "https://app-#.example.com";
const WILD: &str = "https://*.zone-#.example.net";

fn decide(policy: &Policy, origin: &[u8]) -> Verdict {
    policy
        .decide(&CorsRequest { origin: RequestField::One(black_box(origin)), ..CorsRequest::new(b"GET", OWN) })
        .without_rule()
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(50);
    group
}

/// A bench of one origin.
fn fixed(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, policy: &Policy, origin: &[u8], is_allowed: bool) {
    assert_eq!(decide(policy, origin).is_allowed(), is_allowed, "{}", origin.escape_ascii());
    group.bench_function(id, |bencher| bencher.iter(|| decide(policy, origin)));
}

/// A bench of origins of one shape. The first number is fresh, the second is that of an entry.
fn fresh(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    policy: &Policy,
    shape: &str,
    count: u64,
    is_allowed: bool,
) {
    let (mut origin, mut random) = (Numbered::new(shape), Random::default());
    assert_eq!(decide(policy, origin.with(&[0, 0])).is_allowed(), is_allowed, "{shape}");
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            let numbers = [random.below(count), random.below(count)];
            decide(policy, origin.with(&numbers))
        });
    });
}

fn inputs(criterion: &mut Criterion) {
    let mut group = group(criterion, "input alone");
    for (name, shape) in [("exact", EXACT), ("wildcard", "https://x-#.zone-#.example.net")] {
        let (mut origin, mut random) = (Numbered::new(shape), Random::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let numbers = [random.below(1_000_000), random.below(1_000_000)];
                black_box(origin.with(&numbers)).len()
            });
        });
    }
}

fn exact(criterion: &mut Criterion) {
    let mut group = group(criterion, "exact");
    for count in [1, 1_000, 1_000_000] {
        let policy = policy(EXACT, count);
        let hot = Numbered::new(EXACT).with(&[count / 2]).to_vec();
        fixed(&mut group, BenchmarkId::new("hot", count), &policy, &hot, true);
        fresh(&mut group, BenchmarkId::new("random", count), &policy, EXACT, count, true);
        fixed(&mut group, BenchmarkId::new("miss", count), &policy, b"https://app-0000000.example.org", false);
        fixed(
            &mut group,
            BenchmarkId::new("near miss", count),
            &policy,
            b"https://app-0000000.example.com:8443",
            false,
        );
    }
}

fn wildcards(criterion: &mut Criterion) {
    let mut group = group(criterion, "wildcard");
    for count in [1, 1_000, 100_000] {
        let policy = policy(WILD, count);
        fresh(
            &mut group,
            BenchmarkId::new("fresh subdomain", count),
            &policy,
            "https://x-#.zone-#.example.net",
            count,
            true,
        );
        fresh(
            &mut group,
            BenchmarkId::new("near miss, no dot", count),
            &policy,
            "https://x-#zone-#.example.net",
            count,
            false,
        );
        fresh(
            &mut group,
            BenchmarkId::new("near miss, port", count),
            &policy,
            "https://x-#.zone-#.example.net:8443",
            count,
            false,
        );
        let deep = format!("https://{}zone-#.example.net", "ab.".repeat(27));
        fresh(&mut group, BenchmarkId::new("30 labels", count), &policy, &deep, count, true);
        let deep = format!("https://{}zonex-#.example.net", "ab.".repeat(27));
        fresh(&mut group, BenchmarkId::new("30 labels, miss", count), &policy, &deep, count, false);
    }
    let starred = (0..64).map(|number| format!("https://preview-{number}-*.example.org")).collect();
    let starred = compile(&PolicySpec { allow_origins: starred, ..PolicySpec::default() });
    fixed(&mut group, BenchmarkId::new("in a label", 64), &starred, b"https://preview-63-x.example.org", true);
}

/// Inputs of an attacker against the largest tables: a denial must not take longer because of a
/// large table.
fn hostile(criterion: &mut Criterion) {
    let mut group = group(criterion, "hostile");
    let labels = "a.".repeat(119) + "example.net";
    let inputs: [(&str, Vec<u8>); 8] = [
        ("empty", Vec::new()),
        ("null", b"null".to_vec()),
        ("64 KiB", b"a.".repeat(32_768)),
        ("326 colons", vec![b':'; 326]),
        ("121 labels", format!("https://{labels}").into_bytes()),
        ("longest name, bad end", format!("https://{}.{{", "a.".repeat(120)).into_bytes()),
        ("path", b"https://evil.test/.zone-0000000.example.net".to_vec()),
        ("ipv6", b"https://[2001:db8:1:2:3:4:5:6]:65535".to_vec()),
    ];
    for (table, shape, count) in [("1000000 exact", EXACT, 1_000_000), ("100000 wildcards", WILD, 100_000)] {
        let policy = policy(shape, count);
        for (name, origin) in &inputs {
            fixed(&mut group, BenchmarkId::new(*name, table), &policy, origin, false);
        }
    }
}

fn preflights(criterion: &mut Criterion) {
    let policy = policy(EXACT, 1_000);
    let mut group = group(criterion, "preflight, with edits");
    let inputs: [(&str, Vec<u8>); 6] = [
        ("no headers", Vec::new()),
        ("as browsers ask", b"authorization,content-type,x-request-id".to_vec()),
        ("64 names", b"x-request-id,".repeat(64)),
        ("4 KiB of commas", vec![b','; 4096]),
        ("4 KiB in one name", vec![b'x'; 4096]),
        ("1 MiB", vec![b','; 1 << 20]),
    ];
    for (name, line) in inputs {
        let lines = [line.as_slice()];
        let request = CorsRequest {
            origin: RequestField::One(b"https://app-0000500.example.com"),
            requested_method: RequestField::One(b"PUT"),
            requested_headers: &lines,
            ..CorsRequest::new(b"OPTIONS", OWN)
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let request = black_box(&request);
                let verdict = policy.decide(request).without_rule();
                policy.edits(&verdict, request).map(|edit| edit.value.as_bytes().len()).sum::<usize>()
            });
        });
    }
}

/// The largest table with and without groups: the value of an entry names its group, so a decision
/// and its answer read no more of the table.
fn grouped(criterion: &mut Criterion) {
    let mut group = group(criterion, "1000000 exact, with edits");
    let count = 1_000_000;
    for (name, policy) in [("without groups", policy(EXACT, count)), ("in 32 groups", policy_in_groups(EXACT, count))] {
        let (mut origin, mut random) = (Numbered::new(EXACT), Random::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let origin = RequestField::One(black_box(origin.with(&[random.below(count)])));
                let request = CorsRequest { origin, ..CorsRequest::new(b"GET", OWN) };
                let verdict = policy.decide(&request).without_rule();
                policy.edits(&verdict, &request).map(|edit| edit.value.as_bytes().len()).sum::<usize>()
            });
        });
    }
}

criterion_group!(benches, inputs, exact, wildcards, hostile, preflights, grouped);
criterion_main!(benches);
