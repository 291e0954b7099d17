//! Mixed traffic of several tenants for `SOAK_MINUTES`, with a reload every second and one request
//! in a hundred aborted. Every answer is correct, and memory, descriptors and threads stay level.
use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Connection, Gateway, ORIGIN, Sink, config, request};

/// Duration without `SOAK_MINUTES`: a functional check.
const MINUTES: u64 = 1;
const CLIENTS: usize = 4;
/// Fewer than the gateway's limit on requests per connection.
const PER_CONNECTION: usize = 200;
/// As many paths as the rule cache has entries, so that the cache is soon full.
const PATHS: usize = 1_000;
const GIVEN_UP_PERCENT: usize = 1;
const SECOND: Duration = Duration::from_secs(1);
const KIB: u64 = 1024;

const RULE: &str = "fn decide(req) { if req.host.ends_with(\".preview.test\") && req.path != \"/n\" { allow() } }\n";

/// Method, host and origin of a request, and the status of its answer.
const MIX: [(&str, &str, &str, u16); 12] = [
    ("OPTIONS", "a.test", ORIGIN, 204),
    ("OPTIONS", "a.test", "https://evil.test", 403),
    ("GET", "a.test", ORIGIN, 200),
    ("GET", "a.test", "https://evil.test", 403),
    ("POST", "a.test", ORIGIN, 200),
    ("GET", "a.test", "http://a.test", 200),
    ("OPTIONS", "w.test", "https://x.y.wild.test", 204),
    ("GET", "w.test", "https://wild.test", 403),
    ("GET", "o.test", "https://anybody.test", 200),
    ("GET", "r.test", "https://pr-1.preview.test", 200),
    ("OPTIONS", "r.test", "https://pr-2.preview.test", 204),
    ("GET", "unknown.test", ORIGIN, 421),
];

fn generation(upstream: SocketAddr, n: u64) -> String {
    config(&format!(
        "scriptsDir: scripts
accessLog: {{ level: Off }}
limits: {{ rules: {{ cacheEntriesPerTenant: {PATHS} }} }}
upstreams:
  api: {{ servers: [{upstream}] }}
policies:
  listed: {{ allowOrigins: [\"{ORIGIN}\"], allowMethods: [PUT], allowCredentials: true, maxAge: {n} }}
  wild: {{ allowOrigins: [\"https://*.wild.test\"], allowMethods: [PUT] }}
  open: {{ allowOrigins: [\"*\"] }}
  ruled: {{ rule: {{ script: preview.rhai }}, allowMethods: [PUT] }}
tenants:
  - {{ id: a, hosts: [a.test], upstream: api, policy: listed }}
  - {{ id: w, hosts: [w.test], upstream: api, policy: wild }}
  - {{ id: o, hosts: [o.test], upstream: api, policy: open }}
  - {{ id: r, hosts: [r.test], upstream: api, policy: ruled }}
"
    ))
}

/// Resources of the process at one time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    memory: u64,
    files: u64,
    threads: u64,
}

#[test]
fn memory_descriptors_and_threads_stay_level_under_a_soak() {
    let minutes =
        std::env::var("SOAK_MINUTES").map_or(MINUTES, |minutes| minutes.parse().expect("a number of minutes"));
    let time = Duration::from_secs(60 * minutes);
    let upstream = Sink::start();
    let gateway = Gateway::start(&generation(upstream.address, 1), &[("scripts/preview.rhai", RULE)]);
    let (is_over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let samples = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u64)
            .map(|seed| {
                let (gateway, is_over, answers) = (&gateway, &is_over, &answers);
                scope.spawn(move || send_requests(gateway.data, seed, is_over, answers))
            })
            .collect();
        let samples = catch_unwind(AssertUnwindSafe(|| reload_and_sample(&gateway, &upstream, time)));
        is_over.store(true, SeqCst);
        for client in clients {
            client.join().expect("a client got a wrong answer");
        }
        samples.unwrap_or_else(|panic| resume_unwind(panic))
    });
    println!("{} answers, {} samples", answers.load(SeqCst), samples.len());
    assert_nothing_failed(&gateway);
    assert_level(&samples, minutes);
}

/// Sends random requests until the end, on one connection after the other.
fn send_requests(gateway: SocketAddr, seed: u64, is_over: &AtomicBool, answers: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !is_over.load(SeqCst) {
        let mut connection = Connection::open(gateway);
        for _ in 0..PER_CONNECTION {
            if random.usize(..100) < GIVEN_UP_PERCENT {
                abort_answer(&mut connection);
                break;
            }
            let (method, host, origin, status) = MIX[random.usize(..MIX.len())];
            let path = format!("/{}", random.usize(..PATHS));
            let fields = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
            let (fields, body) = match method {
                "OPTIONS" => (&fields[..], ""),
                "POST" => (&fields[..1], "some body"),
                _ => (&fields[..1], ""),
            };
            let answer = connection.exchange(&request(method, &path, host, fields, body.as_bytes())).unwrap();
            assert_eq!(answer.status, status, "{method} {host} {origin}: {answer:?}");
            answers.fetch_add(1, SeqCst);
            if answer.headers.all("connection") == ["close"] {
                break;
            }
        }
    }
}

/// Aborts a long answer.
fn abort_answer(connection: &mut Connection) {
    connection.send(&request("GET", "/large", "a.test", &[("Origin", ORIGIN)], b"")).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
}

/// Loads a new generation every second, and a new rule every tenth time. Returns a sample for each.
fn reload_and_sample(gateway: &Gateway, upstream: &Sink, time: Duration) -> Vec<Sample> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    for n in 2.. {
        let due = begun + SECOND * (n - 1);
        if due > begun + time {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        replace(gateway, "crossgate.yaml", &generation(upstream.address, u64::from(n) % 1_000 + 1));
        if n % 10 == 0 {
            replace(gateway, "scripts/preview.rhai", &format!("// {n}\n{RULE}"));
        }
        let process = &gateway.process;
        let (memory, files) = (process.memory("VmRSS"), process.entries("fd") as u64);
        if n % 15 == 0 {
            println!("{n} s: {} KiB, {files} descriptors, {} threads", memory / KIB, process.entries("task"));
        }
        samples.push(Sample { memory, files, threads: process.entries("task") as u64 });
    }
    samples
}

/// Replaces a file by a rename. A file written in place is empty for a moment, and a reload in that
/// moment would refuse it.
fn replace(gateway: &Gateway, name: &str, text: &str) {
    fs::write(gateway.path("new"), text).unwrap();
    fs::rename(gateway.path("new"), gateway.path(name)).unwrap();
}

fn assert_nothing_failed(gateway: &Gateway) {
    gateway.wait_zero("crossgate_connections_active", &[]);
    for (name, expected) in [
        ("crossgate_config_last_reload_successful", 1.0),
        ("crossgate_config_broken_files", 0.0),
        ("crossgate_rule_errors_total", 0.0),
        ("crossgate_rule_load_failures_total", 0.0),
        ("crossgate_upstream_errors_total", 0.0),
        ("crossgate_requests_refused_total", 0.0),
    ] {
        assert_eq!(gateway.metric(name, &[]), expected, "{name}");
    }
    let early = |labels: &[(&str, &str)]| gateway.metric("crossgate_connections_closed_early_total", labels);
    assert_eq!(early(&[]), early(&[("reason", "client_gone")]));
}

/// Checks that resources stay level after a sixth of the time, at most five minutes: the medians of
/// the first and the last third differ by little.
fn assert_level(samples: &[Sample], minutes: u64) {
    let settled = &samples[(samples.len() / 6).min(300)..];
    let third = settled.len() / 3;
    let middle = |samples: &[Sample], of: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let [memory, files, threads] = [|of: &Sample| of.memory / KIB, |of: &Sample| of.files, |of: &Sample| of.threads]
        .map(|of| {
            let (first, last) = (middle(&settled[..third], of), middle(&settled[settled.len() - third..], of));
            println!("from {first} to {last}");
            last.saturating_sub(first)
        });
    // The medians are 5/9 of the time apart. Allowed are 1 MiB per ten minutes and 2 MiB of noise.
    assert!(memory < 2 * KIB + KIB * minutes / 18, "memory grew by {memory} KiB");
    assert!(files < 16, "{files} descriptors more");
    assert_eq!(threads, 0, "more threads");
}
