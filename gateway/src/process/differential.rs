//! The lane against the proxy: two gateways of one configuration, one of which answers preflights in the lane. Whatever bytes a client
//! sends, alone or in a run, both give the same answers, and count and log the same.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::harness::{Gateway, Sent};
use super::*;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
limits: { head: 1s, minBodyRateAfter: 1s, drainTime: 1s, keepAliveRequests: 4 }
scriptsDir: scripts
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies:
  spa:
    allowOrigins: ["https://app.test", "https://*.app.test"]
    allowMethods: [PUT, DELETE]
    allowHeaders: [authorization, x-a]
    allowCredentials: true
    disclosure: Minimal
  whole: { allowOrigins: ["https://app.test"], allowMethods: [PUT], allowHeaders: ["x-a"], maxAge: 5, exposeHeaders: [x-b] }
  any: { allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"] }
  ruled: { rule: { script: header.rhai, headers: [x-plan] }, allowMethods: [PUT] }
  report: { allowOrigins: ["https://app.test"], mode: Report }
tenants:
  - { id: spa, hosts: [spa.test], upstream: a, policy: spa, routes: [{ pathPrefix: /whole, policy: whole }, { pathPrefix: /report, policy: report }] }
  - { id: any, hosts: ["*.any.test"], upstream: a, policy: any }
  - { id: ruled, hosts: [ruled.test], upstream: a, policy: ruled }
  - { id: routed, hosts: [routed.test], upstream: a, routes: [{ pathPrefix: /a, methods: [PUT], policy: whole }] }
"#;

const RULE: &str = r#"fn decide(req) {
    if req.header("x-plan") == "gold" && req.host == "app.test" { allow(#{ maxAge: 1 }) } else { deny("not gold") }
}
"#;

fn start(answers: Answers) -> Gateway {
    Gateway::start(CONFIG, &[("header.rhai", RULE)], answers)
}

/// More than a field may have.
static LONG: LazyLock<String> = LazyLock::new(|| "x-a,".repeat(2_050));
/// More bytes and names than a preflight may ask for, in a field that is not too long.
static MANY_NAMES: LazyLock<String> = LazyLock::new(|| "x-a,".repeat(1_030));

/// Heads that browsers send, heads that nobody sends, and everything between.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![12 => Just("OPTIONS"), 1 => Just("GET"), 1 => Just("options"), 1 => Just("TRACE")];
    let target = prop::sample::select(vec![
        "/",
        "/",
        "/",
        "/whole/x?y=1",
        "/whole/../z",
        "/%77hole",
        "/report",
        "/a",
        "/ab",
        "//a",
        "*",
        "http://spa.test/",
        "/a%2f../b",
        "/a#b",
        "a",
        "/<",
        "/`",
        "/{",
        "/^",
        "/\"",
        "/|",
        "/[",
        "/\\",
        "/?<",
    ]);
    let version = prop_oneof![12 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => Just("HTTP/1.2")];
    let host = prop::sample::select(vec![
        "spa.test",
        "spa.test",
        "SPA.test:80",
        "x.any.test",
        "ruled.test",
        "routed.test",
        "z",
    ]);
    let origin = prop::sample::select(vec![
        "https://app.test",
        "https://app.test",
        "https://x.app.test",
        "https://evil.test",
        "null",
        "",
        "https://app.test:443",
        "http://spa.test",
        "a, b",
    ]);
    let asked = prop::sample::select(vec!["PUT", "PUT", "GET", "DELETE", "PATCH", "put", "", "A B"]);
    let field = prop::sample::select(vec![
        ("Access-Control-Request-Headers", "x-a"),
        ("Access-Control-Request-Headers", "X-A,,authorization"),
        ("Access-Control-Request-Headers", "x-b"),
        ("access-control-request-headers", "x-a\tx"),
        ("Connection", "keep-alive"),
        ("Connection", "close"),
        ("connection", "Close"),
        ("Connection", "keep-alive, x"),
        ("Connection", "origin"),
        ("Connection", ""),
        ("Content-Length", "0"),
        ("Content-Length", "3"),
        ("Transfer-Encoding", "chunked"),
        ("Expect", "100-continue"),
        ("Upgrade", "websocket"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Cookie", "a=b"),
        ("Authorization", "x"),
        ("X-Plan", "gold"),
        ("x-plan", "lead"),
        ("X-Forwarded-Proto", "https"),
        ("X-Request-Id", "mine"),
        ("X-A", "b\u{e9}"),
        ("X-A", " \t b"),
        ("Origin", "https://app.test"),
        ("Host", "spa.test"),
        ("Access-Control-Request-Method", "PUT"),
        ("X A", "b"),
        ("X-A", "b\u{0}"),
        ("X-A", LONG.as_str()),
        ("Access-Control-Request-Headers", MANY_NAMES.as_str()),
    ]);
    let fields = prop::collection::vec(field, 0..4);
    let skip = prop_oneof![12 => Just(None), 1 => (0_usize..3).prop_map(Some)];
    // Up to what may be, and beyond.
    let filler = prop_oneof![30 => Just(0), 1 => 90..104_usize];
    let ending = prop_oneof![20 => Just("\r\n"), 1 => Just("\n")];
    (method, target, version, host, origin, asked, fields, skip, (filler, ending)).prop_map(
        |(method, target, version, host, origin, asked, fields, skip, (filler, ending))| {
            let mut all = vec![("Host", host), ("Origin", origin), ("Access-Control-Request-Method", asked)];
            if let Some(skip) = skip {
                all.remove(skip);
            }
            all.extend(fields);
            all.extend(std::iter::repeat_n(("X-Filler", ""), filler));
            let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}{ending}")).collect();
            format!("{method} {target} {version}{ending}{lines}{ending}").into_bytes()
        },
    )
}

/// What stands where a request should: mostly one, after an empty line perhaps; or any bytes at all.
fn item() -> impl Strategy<Value = Vec<u8>> {
    let blank = prop::sample::select(vec!["\r\n", "\n", "\r\n\r\n", "\r", " "]);
    prop_oneof![
        20 => request(),
        2 => (blank, request()).prop_map(|(blank, request)| [blank.as_bytes(), &request].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

/// A run of heads, now and then with some bytes of it changed, left out or put in.
fn run() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n \t:,;/?#%@\0".to_vec())];
    let change = (any::<prop::sample::Index>(), 0..3_u8, byte);
    let changes = prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(change, 1..4)];
    (prop::collection::vec(item(), 1..6), changes).prop_map(|(items, changes)| {
        let mut bytes = items.concat();
        for (at, how, byte) in changes {
            // So that there is a byte.
            bytes.push(b'\n');
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        // Ends the connection, unless something before it has.
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n");
        bytes
    })
}

/// Such a run in one write, or cut anywhere, or byte by byte.
fn sent() -> impl Strategy<Value = Sent> {
    let somewhere = prop::collection::vec(any::<prop::sample::Index>(), 1..4).prop_map(Some);
    let cuts = prop_oneof![4 => Just(Some(Vec::new())), 4 => somewhere, 1 => Just(None)];
    (run(), cuts).prop_map(|(bytes, cuts)| match cuts {
        Some(cuts) => {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            Sent { bytes, cuts, pause: Duration::from_micros(200) }
        }
        None => Sent { cuts: (1..bytes.len()).collect(), bytes, pause: Duration::ZERO },
    })
}

#[test]
fn lane_and_proxy_answer_count_and_log_alike() {
    let (lane, proxy) = (start(Answers::Preflights), start(Answers::None));
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 4096, ..ProptestConfig::default() });
    let outcome = runner.run(&sent(), |sent| {
        let (fast, slow) = (lane.send(&sent), proxy.send(&sent));
        prop_assert_eq!(fast, slow, "{:?}", String::from_utf8_lossy(&sent.bytes));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(lane.counts(), proxy.counts());
    for gateway in [&lane, &proxy] {
        let (recorded, judged) = gateway.recorded();
        assert_eq!(recorded, judged);
    }
    let (lane, proxy) = (lane.logged(), proxy.logged());
    assert!(lane.iter().filter(|record| record["kind"] == "preflight").count() > 1_000);
    assert_eq!(lane, proxy);
}

#[test]
fn a_run_of_preflights_is_answered_in_order_and_ends_at_the_limit() {
    let preflight = |asked: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nHost: spa.test\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: {asked}\r\n\r\n"
        )
    };
    let run = ["PUT", "PATCH", "DELETE", "PUT", "PUT"].map(preflight).concat();
    for answers in [Answers::Preflights, Answers::None] {
        let found = start(answers).send(&Sent::at_once(run.clone().into_bytes()));
        let told: Vec<_> =
            found.iter().map(|(status, fields, _)| (*status, fields["connection"][0].as_str())).collect();
        let keep = "keep-alive";
        assert_eq!(told, [(204, keep), (403, keep), (204, keep), (204, "close")], "{answers:?}");
    }
}
