//! A refused method or header of an allowed origin: the answers of the lane, of the proxy and over
//! HTTP/2, and the records in metrics, access log, ledger and `explain`.
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Connection, Gateway, HOST, Http2, ORIGIN, PATIENCE, RecordingUpstream, Response, assert_denied, config, recorded,
    request,
};

const METHOD: &str = "Access-Control-Request-Method";
const HEADERS: &str = "Access-Control-Request-Headers";

/// The lane answers no head with such a byte in it, so the proxy does.
const THROUGH_PROXY: (&str, &str) = ("X-Filler", "\u{e9}");

/// A tenant whose policy explains, with a route that rejects; a tenant whose policy rejects, with a
/// route that explains; and a tenant without a default route.
fn start() -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::answering("hello");
    let server = upstream.address;
    let text = format!(
        "upstreams: {{ api: {{ servers: [{server}] }} }}
policies:
  spa: {{ allowOrigins: [\"{ORIGIN}\"], allowMethods: [PUT], allowHeaders: [x-api], allowCredentials: true }}
  strict: {{ allowOrigins: [\"{ORIGIN}\"], allowMethods: [PUT], preflightFailures: Reject }}
tenants:
  - id: a
    hosts: [{HOST}]
    upstream: api
    policy: spa
    routes: [{{ pathPrefix: /strict, preflightFailures: Reject }}, {{ pathPrefix: /get, methods: [GET] }}]
  - id: s
    hosts: [s.test]
    upstream: api
    policy: strict
    routes: [{{ pathPrefix: /but, preflightFailures: Explain }}]
  - {{ id: r, hosts: [r.test], policy: spa, routes: [{{ pathPrefix: /only, upstream: api }}] }}
"
    );
    (Gateway::start(&config(&text), &[]), upstream)
}

/// The answer of the lane. The answers of the proxy and over HTTP/2 must equal it.
fn ask(gateway: &Gateway, client: &Http2, target: &str, host: &str, fields: &[(&str, &str)]) -> Response {
    let over_1 = |fields: &[_]| Connection::ask(gateway.data, &request("OPTIONS", target, host, fields, b"")).unwrap();
    let lane = over_1(fields);
    let proxy = over_1(&[fields, &[THROUGH_PROXY]].concat());
    let over_2 = client.ask("OPTIONS", target, host, fields, b"").unwrap();
    for other in [&proxy, &over_2] {
        assert_eq!((other.status, other.headers.cors()), (lane.status, lane.headers.cors()), "{target} {fields:?}");
        assert_eq!(other.headers.all("cache-control"), lane.headers.all("cache-control"));
        assert_eq!(other.headers.all("x-request-id").len(), lane.headers.all("x-request-id").len());
    }
    lane
}

#[track_caller]
fn assert_explained(answer: &Response, methods: &str) {
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.headers.one("access-control-allow-origin"), ORIGIN);
    assert_eq!(answer.headers.one("access-control-allow-methods"), methods);
    assert_eq!(answer.headers.one("access-control-max-age"), "0");
    assert_eq!(answer.headers.one("cache-control"), "no-store");
    assert!(!answer.headers.one("x-request-id").is_empty());
    assert!(answer.body.is_empty() && !answer.headers.has("content-length"), "{answer:?}");
    assert!(!answer.headers.has("access-control-expose-headers"), "{answer:?}");
}

#[test]
fn c1_policy_and_route_select_the_answer_to_a_refusal() {
    let (gateway, upstream) = start();
    let client = Http2::open(gateway.data);
    let ask = |target, host, fields: &[(&str, &str)]| ask(&gateway, &client, target, host, fields);
    let (origin, patch) = (("Origin", ORIGIN), (METHOD, "PATCH"));
    let refused_header = [origin, (METHOD, "PUT"), (HEADERS, "x-api,x-evil")];
    assert_explained(&ask("/", HOST, &[origin, patch]), "PUT");
    assert_explained(&ask("/", HOST, &[origin, (METHOD, "put")]), "PUT");
    assert_explained(&ask("/", HOST, &refused_header), "PUT");
    assert_eq!(ask("/", HOST, &refused_header).headers.one("access-control-allow-headers"), "x-api");
    assert_explained(&ask("/but", "s.test", &[origin, patch]), "PUT");
    // Without a route for the method or the path, the tenant's policy applies.
    assert_explained(&ask("/get", HOST, &[origin, patch]), "PUT");
    assert_explained(&ask("/elsewhere", "r.test", &[origin, patch]), "PUT");
    for (target, host) in [("/strict", HOST), ("/", "s.test"), ("/strict/x", HOST)] {
        assert_denied(&ask(target, host, &[origin, patch]), ORIGIN);
        assert_denied(&ask(target, host, &refused_header), ORIGIN);
    }
    for fields in [
        &[("Origin", "https://evil.test"), patch][..],
        &[("Origin", "null"), patch],
        &[origin, patch, patch],
        &[origin, (METHOD, "P UT")],
        &[origin, patch, (HEADERS, "x y")],
        &[origin, (METHOD, "PUT"), (HEADERS, &"x-api,".repeat(65))],
    ] {
        assert_denied(&ask("/", HOST, fields), ORIGIN);
    }
    assert_eq!(upstream.total(), 0, "a preflight reached the upstream");
}

#[test]
fn c1_explained_refusal_is_counted_and_logged_as_a_denial() {
    let (mut gateway, upstream) = start();
    let client = Http2::open(gateway.data);
    let origin = ("Origin", ORIGIN);
    ask(&gateway, &client, "/", HOST, &[origin, (METHOD, "PATCH")]);
    ask(&gateway, &client, "/", HOST, &[origin, (METHOD, "PUT"), (HEADERS, "x-evil")]);
    drop(client);
    for reason in ["method", "header"] {
        let labels = [("tenant", "a"), ("kind", "preflight"), ("verdict", "deny"), ("reason", reason)];
        gateway.wait_metric("crossgate_requests_total", &labels, 3.0);
    }
    assert_eq!(gateway.metric("crossgate_requests_total", &[("verdict", "allow")]), 0.0);
    assert_eq!(gateway.metric("crossgate_origin_requests_total", &[("verdict", "deny")]), 6.0);
    let report = gateway.origins("tenant=a");
    assert_eq!((recorded(&report), &report["origins"][0]["denied"]), (6, &6.into()), "{report}");

    let explained =
        gateway.admin("GET", &format!("/explain?host={HOST}&origin={ORIGIN}&method=PATCH&request-headers="));
    let explained = explained.json();
    assert_eq!((&explained["verdict"], &explained["reason"]), (&"deny".into(), &"method".into()), "{explained}");
    assert_eq!(explained["response"]["status"], 204);

    gateway.process.signal(Signal::TERM);
    gateway.process.wait_at_most(PATIENCE);
    let log = gateway.process.stdout();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6, "{log}");
    for line in &lines {
        assert_eq!((&line["verdict"], &line["status"]), (&"deny".into(), &204.into()), "{line}");
        assert!(["method", "header"].contains(&line["reason"].as_str().unwrap()), "{line}");
    }
    assert_eq!(upstream.total(), 0);
}
