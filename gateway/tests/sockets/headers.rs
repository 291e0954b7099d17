//! `requestHeaders` and `responseHeaders`: the shipped sample, over every path of a request and a
//! response.

use crate::support::{
    Connection, Gateway, Headers, Http2, Http2Upstream, RecordingUpstream, RefusedAddress, config, handshake, websocket,
};

const HOST: &str = "api.acme.example";
const APP: &str = "https://app.acme.example";
const EVIL: &str = "https://evil.example";
const HSTS: &str = "strict-transport-security";

/// What a client sends, among it forged fields.
const SENT: [(&str, &str); 6] = [
    ("origin", APP),
    ("x-edge", "forged"),
    ("x_edge", "forged"),
    ("x-internal-user", "root"),
    ("x_internal.user", "root"),
    ("x-other", "1"),
];

/// What the upstream sends.
const ANSWERED: [(&str, &str); 6] = [
    ("server", "secret/1.0"),
    ("x-powered-by", "secret"),
    ("vary", "Accept-Encoding"),
    (HSTS, "max-age=1"),
    ("referrer-policy", "unsafe-url"),
    ("x-other", "1"),
];

/// The shipped sample with this upstream.
fn start(upstream: &str) -> Gateway {
    let (_, rest) = include_str!("../../../ops/config/headers.yaml").split_once("\nupstreams:").unwrap();
    Gateway::start(&config(&format!("upstreams:{rest}").replace("servers: [10.1.0.11:9001]", upstream)), &[])
}

/// Checks a request that the upstream got.
fn check_request(headers: &Headers, edge: &str) {
    assert_eq!(headers.all("x-edge"), [edge], "{headers:?}");
    for removed in ["x_edge", "x-internal-user", "x_internal.user"] {
        assert!(!headers.has(removed), "{removed}: {headers:?}");
    }
    assert_eq!((headers.all("x-other"), headers.all("origin")), (vec!["1"], vec![APP]));
}

/// Checks a response of the upstream that the client got.
fn check_response(headers: &Headers, referrer_policy: &[&str]) {
    assert_eq!(headers.all(HSTS), ["max-age=31536000"], "{headers:?}");
    assert_eq!(headers.all("referrer-policy"), referrer_policy, "{headers:?}");
    assert!(!headers.has("server") && !headers.has("x-powered-by"), "{headers:?}");
    let vary = headers.vary();
    for member in ["accept-encoding", "accept-language", "origin"] {
        assert!(vary.iter().any(|have| have.eq_ignore_ascii_case(member)), "{vary:?}");
    }
    assert_eq!((headers.all("x-other"), headers.all("access-control-allow-origin")), (vec!["1"], vec![APP]));
}

#[test]
fn fields_change_over_http1_and_http2() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(200, &ANSWERED, b"hello"));
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let http2 = Http2::open(gateway.data);
    for (path, edge, referrer) in [("/a", "eu-1", &["no-referrer"][..]), ("/embed/a", "eu-1-embed", &[])] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            check_response(&gateway.ask(method, path, HOST, &SENT).headers, referrer);
            check_response(&http2.ask(method, path, HOST, &SENT, b"").unwrap().headers, referrer);
        }
        let seen = upstream.seen();
        let of_path: Vec<_> = seen.iter().filter(|seen| seen.target == path).collect();
        assert_eq!(of_path.len(), 8);
        of_path.iter().for_each(|seen| check_request(&seen.headers, edge));
    }
}

#[test]
fn fields_change_before_and_after_an_http2_upstream() {
    let upstream = Http2Upstream::start(|asked| asked.answer(200, &ANSWERED, b"hello"));
    let gateway = start(&format!("servers: [{}], protocol: Http2", upstream.address));
    for (path, edge, referrer) in [("/a", "eu-1", &["no-referrer"][..]), ("/embed/a", "eu-1-embed", &[])] {
        check_response(&gateway.ask("GET", path, HOST, &SENT).headers, referrer);
        check_request(&upstream.seen().last().unwrap().headers, edge);
    }
}

#[test]
fn fields_change_in_a_websocket_handshake_and_a_retry() {
    let upstream = RecordingUpstream::start(|exchange| match exchange.seen.target.as_str() {
        "/socket" => websocket(exchange),
        _ => exchange.answer(200, &ANSWERED, b"hello"),
    });
    let refused = RefusedAddress::new();
    let gateway = start(&format!("servers: [\"{}\", \"{}\"]", refused.address, upstream.address));
    for _ in 0..4 {
        check_response(&gateway.ask("GET", "/a", HOST, &SENT).headers, &["no-referrer"]);
    }
    let text = String::from_utf8(handshake(APP)).unwrap();
    let sent = text.replacen("\r\n", "\r\nX-Edge: forged\r\nX-Internal-User: root\r\nx-other: 1\r\n", 1);
    let old_host = text.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap();
    let switched = Connection::open(gateway.data).exchange(sent.replace(old_host, HOST).as_bytes()).unwrap();
    assert_eq!((switched.status, switched.headers.all(HSTS)), (101, vec!["max-age=31536000"]));
    let seen = upstream.seen();
    assert_eq!(seen.len(), 5);
    seen.iter().for_each(|seen| check_request(&seen.headers, "eu-1"));
}

#[test]
fn own_errors_have_the_fields_and_preflights_do_not() {
    let gateway = start("servers: [\"127.0.0.1:9\"]");
    let http2 = Http2::open(gateway.data);
    for (status, origin) in [(502, APP), (403, EVIL)] {
        for failed in [
            gateway.ask("GET", "/a", HOST, &[("Origin", origin)]),
            http2.ask("GET", "/a", HOST, &[("origin", origin)], b"").unwrap(),
        ] {
            let values = (failed.status, failed.headers.all(HSTS), failed.headers.all("referrer-policy"));
            assert_eq!(values, (status, vec!["max-age=31536000"], vec!["no-referrer"]));
            assert!(failed.headers.vary().iter().any(|member| member.eq_ignore_ascii_case("accept-language")));
            assert_eq!(failed.headers.all("content-type"), ["application/problem+json"]);
        }
    }
    let asked = [("Origin", APP), ("Access-Control-Request-Method", "GET")];
    let preflight = gateway.ask("OPTIONS", "/a", HOST, &asked);
    assert_eq!((preflight.status, preflight.headers.has(HSTS)), (204, false));
    let unknown = gateway.ask("GET", "/a", "other.example", &[]);
    assert_eq!((unknown.status, unknown.headers.has(HSTS)), (421, false));
    let explained = gateway.admin("GET", &format!("/explain?host={HOST}&path=/embed&origin={APP}")).json();
    let added = explained["response"]["headers"].to_string();
    assert!(added.contains(HSTS) && !added.contains("referrer-policy"), "{added}");
}

/// A policy that only reports, and routes that differ only in what they send upstream.
const REPORTING: &str = r#"
policies: { web: { allowOrigins: ["https://app.acme.example"], mode: Report } }
tenants:
  - id: acme
    hosts: [api.acme.example]
    policy: web
    upstream: api
    responseHeaders: { set: { content-type: text/plain, x-a: "1" } }
"#;

#[test]
fn report_mode_and_paths_without_a_route_keep_the_changes() {
    let upstream = RecordingUpstream::start(|exchange| {
        let fields = [("X-A", "0"), ("Access-Control-Allow-Origin", "*"), ("Content-Type", "text/html")];
        exchange.answer(200, &fields, b"hello")
    });
    let api = format!("upstreams: {{ api: {{ servers: [\"{}\"] }} }}{REPORTING}", upstream.address);
    let gateway = Gateway::start(&config(&api), &[]);
    let answer = gateway.ask("GET", "/a", HOST, &[("Origin", EVIL)]);
    let values = ["x-a", "content-type", "access-control-allow-origin"].map(|name| answer.headers.all(name));
    assert_eq!(values, [vec!["1"], vec!["text/plain"], vec!["*"]]);
    let routes = "routes: [{ pathPrefix: /v1, upstream: api, requestHeaders: { set: { x-b: \"2\" } } }, \
                  { pathPrefix: /v1/b, upstream: api }]";
    let api = api.replace("    upstream: api\n", &format!("    {routes}\n"));
    let gateway = Gateway::start(&config(&api.replace(", mode: Report", "")), &[]);
    let missing = gateway.ask("GET", "/a", HOST, &[]);
    let values = ["x-a", "content-type"].map(|name| missing.headers.all(name));
    assert_eq!((missing.status, values), (404, [vec!["1"], vec!["application/problem+json"]]));
    // A server could read the path as one of the other route, which gets other fields.
    assert_eq!(gateway.ask("GET", "/v1/b", HOST, &[]).status, 200);
    assert_eq!(gateway.ask("GET", "/v1/B", HOST, &[]).status, 400);
    assert!(!upstream.seen().last().unwrap().headers.has("x-b"));
}
