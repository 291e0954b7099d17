//! The lane against the proxy: two gateways with one configuration, one of which answers preflights
//! in the lane.
//!
//! For any bytes that a client sends, alone or in a sequence, both must give the same answers,
//! counts and log records.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::harness::{Gateway, Sent};
use crate::process::*;

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
  ruled: { rule: { script: header.rhai, headers: [x-plan] }, allowMethods: [PUT], preflightFailures: Reject }
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

fn start(engine: RequestEngine) -> Gateway {
    Gateway::start(CONFIG, &[("scripts/header.rhai", RULE)], engine)
}

/// The same for many requests on a connection.
fn start_for_http2(engine: RequestEngine) -> Gateway {
    Gateway::start(
        &CONFIG.replace("keepAliveRequests: 4", "keepAliveRequests: 1000"),
        &[("scripts/header.rhai", RULE)],
        engine,
    )
}

/// Longer than the limit of a field.
static LONG: LazyLock<String> = LazyLock::new(|| "x-a,".repeat(2_050));
/// More bytes and names than a preflight may contain, in a field below the limit.
static MANY_NAMES: LazyLock<String> = LazyLock::new(|| "x-a,".repeat(1_030));

/// Heads that browsers send, heads that no client sends, and everything between.
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
    let requested = prop::sample::select(vec!["PUT", "PUT", "GET", "DELETE", "PATCH", "put", "", "A B"]);
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
    // Up to the maximum number of fields, and beyond.
    let filler = prop_oneof![30 => Just(0), 1 => 90..104_usize];
    let ending = prop_oneof![20 => Just("\r\n"), 1 => Just("\n")];
    (method, target, version, host, origin, requested, fields, skip, (filler, ending)).prop_map(
        |(method, target, version, host, origin, requested, fields, skip, (filler, ending))| {
            let mut all = vec![("Host", host), ("Origin", origin), ("Access-Control-Request-Method", requested)];
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

/// Bytes in place of a request: mostly a request, perhaps after an empty line, or any bytes.
fn item() -> impl Strategy<Value = Vec<u8>> {
    let blank = prop::sample::select(vec!["\r\n", "\n", "\r\n\r\n", "\r", " "]);
    prop_oneof![
        20 => request(),
        2 => (blank, request()).prop_map(|(blank, request)| [blank.as_bytes(), &request].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

/// A sequence of heads, sometimes with some bytes changed, removed or inserted.
fn run() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n \t:,;/?#%@\0".to_vec())];
    let change = (any::<prop::sample::Index>(), 0..3_u8, byte);
    let changes = prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(change, 1..4)];
    (prop::collection::vec(item(), 1..6), changes).prop_map(|(items, changes)| {
        let mut bytes = items.concat();
        for (at, how, byte) in changes {
            // The index below needs at least one byte.
            bytes.push(b'\n');
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        // Ends the connection, unless an earlier request has.
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: unknown.test\r\nConnection: close\r\n\r\n");
        bytes
    })
}

/// A sequence in one write, in pieces, or byte by byte.
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
fn lane_and_proxy_give_equal_answers_counts_and_logs() {
    let (lane, proxy) = (start(RequestEngine::Direct), start(RequestEngine::Pingora));
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
    let (mut lane, mut proxy) = (lane.logged(), proxy.logged());
    // Lines of two workers have no order.
    for lines in [&mut lane, &mut proxy] {
        lines.sort_by_cached_key(ToString::to_string);
    }
    assert!(lane.iter().filter(|record| record["kind"] == "preflight").count() > 1_000);
    assert_eq!(lane, proxy);
}

/// The fields of one request over HTTP/2, next to origin and requested method.
type MoreFields = &'static [(&'static str, &'static str)];

/// Answers to preflights and their near misses over HTTP/2, each with its request.
async fn http2_answers(gateway: &Gateway) -> Vec<String> {
    const FIELDS: [MoreFields; 7] = [
        &[],
        &[("access-control-request-headers", "x-a")],
        &[("access-control-request-headers", "X-B,x-a")],
        &[("x-plan", "gold")],
        &[("content-length", "0")],
        &[("expect", "100-continue")],
        &[("origin", "https://app.test")],
    ];
    let mut found = Vec::new();
    for (host, path) in [("spa.test", "/"), ("spa.test", "/report"), ("x.any.test", "/whole/../z")].into_iter().chain([
        ("ruled.test", "/"),
        ("routed.test", "/a"),
        ("routed.test", "/b"),
        ("z", "/"),
        ("spa.test", "/a%2f../b"),
    ]) {
        let socket = tokio::net::TcpStream::connect(gateway.data()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let origins = ["https://app.test", "https://x.app.test", "https://evil.test", "null", ""];
        let requests = ["OPTIONS", "GET"].iter().flat_map(|method| origins.map(|origin| (*method, origin)));
        let requests = requests.flat_map(|(method, origin)| ["PUT", "PATCH", ""].map(|name| (method, origin, name)));
        let requests = requests.flat_map(|(method, origin, name)| FIELDS.map(|more| (method, origin, name, more)));
        for (method, origin, requested, more) in requests {
            let request = http::Request::builder().method(method).uri(format!("http://{host}{path}"));
            let request = request.header("origin", origin).header("access-control-request-method", requested);
            let request = more.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            client = client.ready().await.unwrap();
            let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            let (parts, mut body) = answer.await.unwrap().into_parts();
            let mut text = Vec::new();
            while let Some(piece) = body.data().await {
                text.extend_from_slice(&piece.unwrap());
            }
            let mut fields = parts.headers;
            for name in ["date", "x-request-id"] {
                if let Some(value) = fields.get_mut(name) {
                    *value = http::HeaderValue::from_static("some");
                }
            }
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
            fields.sort_unstable();
            let mut text: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            text.as_object_mut().map(|text| text.remove("requestId"));
            found.push(format!(
                "{method} {host}{path} {origin} {requested} {more:?}: {} {fields:?} {text}",
                parts.status
            ));
        }
        drop(client);
        let _ended = connection.await;
    }
    found
}

#[test]
fn http2_preflights_are_answered_as_by_the_proxy() {
    let (edge, proxy) = (start_for_http2(RequestEngine::Direct), start_for_http2(RequestEngine::Pingora));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = runtime.block_on(http2_answers(&edge));
    assert!(answers.iter().filter(|answer| answer.contains(": 204 ")).count() > 50, "{answers:#?}");
    for (answer, by_proxy) in answers.iter().zip(runtime.block_on(http2_answers(&proxy))) {
        assert_eq!(*answer, by_proxy);
    }
    assert_eq!(edge.counts(), proxy.counts());
    let (mut edge, mut proxy) = (edge.logged(), proxy.logged());
    for lines in [&mut edge, &mut proxy] {
        lines.sort_by_cached_key(ToString::to_string);
    }
    assert_eq!(edge, proxy);
}

#[test]
fn as_many_http2_preflights_as_streams_are_all_answered() {
    let gateway = start_for_http2(RequestEngine::Direct);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(gateway.data()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        // More than the task answers in a turn, and more bytes than it holds back.
        for origin in ["https://app.test", "https://evil.test"] {
            let mut answers = Vec::new();
            for _ in 0..100 {
                let request = http::Request::builder().method("OPTIONS").uri("http://spa.test/");
                let request = request.header("origin", origin).header("access-control-request-method", "PUT");
                client = client.ready().await.unwrap();
                answers.push(client.send_request(request.body(()).unwrap(), true).unwrap().0);
            }
            for answer in answers {
                let (parts, mut body) = answer.await.unwrap().into_parts();
                assert_eq!(parts.status, if origin.contains("evil") { 403 } else { 204 });
                while let Some(piece) = body.data().await {
                    body.flow_control().release_capacity(piece.unwrap().len()).unwrap();
                }
            }
        }
        drop(client);
        connection.await.unwrap().unwrap();
    });
}

#[test]
fn pipelined_preflights_are_answered_in_order_up_to_the_limit() {
    let preflight = |requested: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nHost: spa.test\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: {requested}\r\n\r\n"
        )
    };
    let run = ["PUT", "PATCH", "DELETE", "PUT", "PUT"].map(preflight).concat();
    for engine in [RequestEngine::Direct, RequestEngine::Pingora] {
        let found = start(engine).send(&Sent::at_once(run.clone().into_bytes()));
        let answers_found: Vec<_> = found
            .iter()
            .map(|(status, fields, _)| {
                (*status, fields["access-control-allow-methods"][0].as_str(), fields["connection"][0].as_str())
            })
            .collect();
        let keep = "keep-alive";
        let expected = [(204, "PUT", keep), (204, "GET,HEAD,POST", keep), (204, "DELETE", keep), (204, "PUT", "close")];
        assert_eq!(answers_found, expected, "{engine:?}");
    }
}
