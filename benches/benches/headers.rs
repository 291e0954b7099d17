//! The time of header fields: checking the requested headers of a preflight, and rendering the
//! fields of an answer.
//!
//! The first bench measures a whole decision about a preflight. Its input "none" shows the time
//! without the check. Answers are rendered in three ways: the edits of the policy alone, the bytes
//! that the lane writes, and the edited head of an upstream.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use crossgate::registry::GatewayMetrics;
use crossgate_config::model::ProxyStatus;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use crossgate::judge::{Judgement, judge};
use crossgate::reload::{BrokenTenants, Reloader};
use crossgate::request_head::RequestHead;
use crossgate::respond::{self, AnswerContext};
use crossgate::snapshot::Snapshot;
use crossgate::verdicts::TenantRule;
use crossgate_benches::{compile, policy};
use crossgate_message::field_sink::FieldSink;
use crossgate_message::fields::HeaderFields;
use crossgate_message::forwarded::ConnectionPeer;
use crossgate_policy::{CorsRequest, Disclosure, OwnOrigin, Policy, PolicySpec, RequestField};
use crossgate_wire::exchange::{ConnectionPersistence, write_answer};
use http::{HeaderMap, HeaderName, HeaderValue};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };
const ORIGIN: &str = "https://app-0000000.example.com";
const REQUEST_ID: &str = "0123456789abcdef0123456789abcdef";
const KIB: usize = 1 << 10;

/// The forms of policies that differ in their answers.
const FORMS: [&str; 3] = ["full", "minimal", "credentials"];

/// Fields of a browser's preflight.
const PREFLIGHT: [(&str, &str); 9] = [
    ("Host", "full.example"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "*/*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Access-Control-Request-Method", "PUT"),
    ("Access-Control-Request-Headers", "authorization,content-type"),
    ("Origin", ORIGIN),
    ("Connection", "keep-alive"),
];

/// The answer of an API without CORS.
const UPSTREAM: [(&str, &str); 7] = [
    ("date", "Tue, 01 Jul 2025 12:00:00 GMT"),
    ("server", "nginx"),
    ("content-type", "application/json; charset=utf-8"),
    ("content-length", "1843"),
    ("cache-control", "private, max-age=0"),
    ("etag", "\"9f2c\""),
    ("strict-transport-security", "max-age=63072000"),
];

/// The fields of an API that does its own CORS. The gateway removes or merges all of them.
const UPSTREAM_CORS: [(&str, &str); 4] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST"),
    ("access-control-expose-headers", "etag"),
    ("vary", "Accept-Encoding, Origin"),
];

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(50);
    group
}

/// Lists of header names: valid ones, and ones that an attacker makes expensive.
fn lists() -> [(&'static str, Vec<Vec<u8>>, bool); 12] {
    let names = b"authorization,content-type,x-request-id".to_vec();
    [
        ("none", Vec::new(), true),
        ("as browsers send it", vec![names.clone()], true),
        (
            "one name a line, with spaces",
            names.split(|byte| *byte == b',').map(|name| [b" ", name, b" "].concat()).collect(),
            true,
        ),
        ("64 names", vec![b"x-request-id,".repeat(64)], true),
        ("one unlisted name", vec![b"authorization,x-other".to_vec()], false),
        ("64 KiB of commas", vec![vec![b','; 64 * KIB]], false),
        ("64 KiB of one name", vec![b"x-request-id,".repeat(64 * KIB / 13)], false),
        ("64 KiB of spaces", vec![vec![b' '; 64 * KIB]], false),
        ("64 KiB in lines of 4", vec![b"x-request-id,".repeat(4 * KIB / 13); 16], false),
        // The longest lists that the policy reads.
        ("4 KiB of spaces", vec![vec![b' '; 4 * KIB]], false),
        ("4 KiB in one name", vec![vec![b'x'; 4 * KIB]], false),
        ("1,024 empty lines", vec![Vec::new(); 1_024], false),
    ]
}

fn walk(criterion: &mut Criterion) {
    let policy = policy("https://app-#.example.com", 1);
    let mut group = group(criterion, "request headers");
    for (name, lines, is_allowed) in lists() {
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let lines = lines.as_slice();
        let request = preflight(&lines);
        assert_eq!(policy.decide(&request).without_rule().is_allowed(), is_allowed, "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| policy.decide(black_box(&request)).without_rule()));
    }
}

fn preflight<'a>(lines: &'a &'a [&'a [u8]]) -> CorsRequest<'a> {
    CorsRequest {
        origin: RequestField::One(ORIGIN.as_bytes()),
        requested_method: RequestField::One(b"PUT"),
        requested_headers: lines,
        ..CorsRequest::new(b"OPTIONS", OWN)
    }
}

fn form(name: &str) -> Policy {
    compile(&PolicySpec {
        allow_origins: vec![ORIGIN.to_owned()],
        allow_methods: ["PUT", "DELETE"].map(str::to_owned).to_vec(),
        allow_headers: ["authorization", "content-type", "x-request-id"].map(str::to_owned).to_vec(),
        expose_headers: ["etag", "x-request-id"].map(str::to_owned).to_vec(),
        disclosure: if name == "minimal" { Disclosure::Minimal } else { Disclosure::Full },
        allow_credentials: name == "credentials",
        ..PolicySpec::default()
    })
}

fn edits(criterion: &mut Criterion) {
    let mut group = group(criterion, "edits");
    let lines: &[&[u8]] = &[b"authorization,content-type"];
    let actual = CorsRequest { origin: RequestField::One(ORIGIN.as_bytes()), ..CorsRequest::new(b"GET", OWN) };
    for (kind, request) in [("preflight", preflight(&lines)), ("actual", actual)] {
        for name in FORMS {
            let policy = form(name);
            let verdict = policy.decide(&request).without_rule();
            assert!(policy.edits(&verdict, &request).count() > 0, "{kind}, {name}");
            group.bench_function(BenchmarkId::new(kind, name), |bencher| {
                bencher.iter(|| {
                    let edits = policy.edits(black_box(&verdict), black_box(&request));
                    edits.map(|edit| edit.value.as_bytes().len()).sum::<usize>()
                });
            });
        }
    }
}

/// A snapshot with a tenant for each of [`FORMS`].
fn snapshot() -> Arc<Snapshot> {
    let lists = "allowMethods: [PUT, DELETE], allowHeaders: [authorization, content-type, x-request-id], exposeHeaders: [etag, x-request-id]";
    let text = format!(
        "version: 1
listeners: [{{ address: \"127.0.0.1:0\" }}]
upstreams: {{ api: {{ servers: [\"127.0.0.1:9\"] }} }}
policies:
  full: {{ allowOrigins: [\"{ORIGIN}\"], {lists} }}
  minimal: {{ allowOrigins: [\"{ORIGIN}\"], {lists}, disclosure: Minimal }}
  credentials: {{ allowOrigins: [\"{ORIGIN}\"], {lists}, allowCredentials: true }}
tenants:
"
    );
    let tenant = |name| format!("  - {{ id: {name}, hosts: [{name}.example], upstream: api, policy: {name} }}\n");
    let directory = tempfile::tempdir().expect("a directory");
    let main = directory.path().join("gateway.yaml");
    fs::write(&main, text + &FORMS.map(tenant).concat()).expect("a file in it");
    let reloader = Reloader::start(&main, BrokenTenants::Refuse, &GatewayMetrics::new());
    reloader.unwrap_or_else(|found| panic!("{found}")).current().latest()
}

/// A preflight to the tenant of one of [`FORMS`], as the lane's parser returns it.
fn lane_fields<'a>(host: &'a str, origin: &'a str) -> [httparse::Header<'a>; 9] {
    PREFLIGHT.map(|(name, value)| {
        let value = match name {
            "Host" => host,
            "Origin" => origin,
            _ => value,
        };
        httparse::Header { name, value: value.as_bytes() }
    })
}

fn head<'a>(method: &'a [u8], headers: HeaderFields<'a>) -> RequestHead<'a> {
    RequestHead::new(method, b"/orders", headers, ConnectionPeer { address: None, is_trusted: false })
}

/// The bytes of the lane's answers, written to a reused buffer.
fn lane(criterion: &mut Criterion) {
    let (snapshot, mut group) = (snapshot(), group(criterion, "lane"));
    let mut out = Vec::new();
    for name in FORMS {
        let host = format!("{name}.example");
        let fields = lane_fields(&host, ORIGIN);
        let head = head(b"OPTIONS", HeaderFields::Lines(&fields));
        let judgement = judge(&snapshot, &head, TenantRule::decide);
        let Judgement::Judged(judged) = &judgement else { panic!("no tenant {name}") };
        assert!(judged.verdict.is_allowed(), "{name}");
        group.bench_function(BenchmarkId::new("allowed", name), |bencher| {
            bencher.iter(|| {
                out.clear();
                respond::write_preflight(
                    black_box(judged),
                    black_box(&head),
                    ConnectionPersistence::KeepAlive,
                    ProxyStatus::Sent,
                    &mut out,
                );
                out.len()
            });
        });
    }
    let fields = lane_fields("full.example", "https://evil.example");
    let head = head(b"OPTIONS", HeaderFields::Lines(&fields));
    let denied = judge(&snapshot, &head, TenantRule::decide);
    let context = AnswerContext { request_id: REQUEST_ID, ..AnswerContext::default() };
    group.bench_function("denied", |bencher| {
        bencher.iter(|| {
            out.clear();
            let answer = respond::answer(black_box(&denied), black_box(&head), context).expect("an answer");
            write_answer(&answer, ConnectionPersistence::KeepAlive, &mut out);
            out.len()
        });
    });
}

/// The edit of an upstream's response head.
fn upstream_heads(criterion: &mut Criterion) {
    let (snapshot, mut group) = (snapshot(), group(criterion, "upstream head"));
    let with_cors: Vec<_> = UPSTREAM.iter().chain(&UPSTREAM_CORS).copied().collect();
    for (sent, answer) in [("plain", &UPSTREAM[..]), ("with CORS of its own", &with_cors)] {
        let answer = field_map(answer);
        for name in ["full", "credentials"] {
            let host = HeaderValue::from_str(&format!("{name}.example")).expect("a field value");
            let fields = HeaderMap::from_iter([
                (http::header::HOST, host),
                (http::header::ORIGIN, HeaderValue::from_static(ORIGIN)),
            ]);
            let head = head(b"GET", (&fields).into());
            let judgement = judge(&snapshot, &head, TenantRule::decide);
            let Judgement::Judged(judged) = &judgement else { panic!("no tenant {name}") };
            assert!(judged.verdict.is_allowed(), "{name}");
            group.bench_function(BenchmarkId::new(sent, name), |bencher| {
                bencher.iter_batched_ref(
                    || Vec::with_capacity(1024),
                    |out| {
                        let received = HeaderFields::from(black_box(&answer));
                        received.for_each(|line| {
                            if !respond::replaces(line.name(), judged) {
                                out.received(line);
                            }
                        });
                        let vary = received.has(&http::header::VARY).then_some(received);
                        respond::complete(vary, black_box(judged), black_box(&head), REQUEST_ID, out);
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn field_map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut map = HeaderMap::new();
    fields.for_each(|(name, value)| {
        map.append(name, value);
    });
    map
}

criterion_group!(benches, walk, edits, lane, upstream_heads);
criterion_main!(benches);
