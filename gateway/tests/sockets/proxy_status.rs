//! `Proxy-Status` (RFC 9209): every response of the gateway has the field with the reason.
//! Responses of upstreams keep the upstream's field.
use std::fs;

use crate::support::{
    Connection, Exchange, Gateway, HOST, Http2, Http2Exchange, Http2Upstream, ORIGIN, RecordingUpstream,
    RefusedAddress, Response, Site, Then, assert_edge_error, config, request, tenant_config, tenant_config_at,
};

const PREFLIGHT: &str = "Access-Control-Request-Method";
const HEADERS: &str = "Access-Control-Request-Headers";
/// Allowed preflights.
const INTERNAL: &str = "crossgate; error=proxy_internal_response";

fn denied(details: &str) -> String {
    format!("crossgate; error=http_request_denied; details=\"{details}\"")
}

fn request_error(details: &str) -> String {
    format!("crossgate; error=http_request_error; details=\"{details}\"")
}

/// Sends a request through the lane, through the proxy and over HTTP/2; all fields must be equal.
fn ask_all(gateway: &Gateway, method: &str, target: &str, host: &str, fields: &[(&str, &str)]) -> Response {
    let answer = gateway.ask(method, target, host, fields);
    let past_lane = gateway.ask(method, target, host, &[fields, &[("x-filler", "\u{e9}")]].concat());
    let lower: Vec<_> = fields.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
    let lower: Vec<_> = lower.iter().map(|(name, value)| (&**name, *value)).collect();
    let over_http2 = Http2::open(gateway.data).ask(method, target, host, &lower, b"").unwrap();
    for other in [past_lane, over_http2] {
        let status_and_field = |answer: &Response| (answer.status, answer.headers.all("proxy-status").join("|"));
        assert_eq!(status_and_field(&other), status_and_field(&answer), "{method} {target} {fields:?}");
    }
    answer
}

#[track_caller]
fn check(gateway: &Gateway, method: &str, target: &str, fields: &[(&str, &str)], status: u16, expected: &str) {
    let answer = ask_all(gateway, method, target, HOST, fields);
    assert_eq!((answer.status, answer.headers.one("proxy-status")), (status, expected), "{answer:?}");
}

#[test]
fn c2_gateway_responses_have_proxy_status_with_the_reason() {
    let site = Site::start();
    let gateway = &site.gateway;
    let from = ("Origin", ORIGIN);
    check(gateway, "OPTIONS", "/", &[from, (PREFLIGHT, "PUT")], 204, INTERNAL);
    let evil = ("Origin", "https://evil.test");
    check(gateway, "OPTIONS", "/", &[evil, (PREFLIGHT, "PUT")], 403, &denied("no_match"));
    check(gateway, "GET", "/", &[evil], 403, &denied("no_match"));
    check(gateway, "GET", "/", &[("Origin", "null")], 403, &denied("null_origin"));
    check(gateway, "GET", "/", &[("Origin", "https://evil.test/\"x\"")], 403, &denied("malformed_origin"));
    check(gateway, "GET", "/a%2f../b", &[], 400, &request_error("bad_request"));
    let answer = ask_all(gateway, "GET", "/", "unknown.test", &[]);
    assert_eq!(
        (answer.status, answer.headers.one("proxy-status")),
        (421, "crossgate; error=destination_not_found; details=\"unknown_host\"")
    );
    check(gateway, "TRACE", "/", &[], 405, &request_error("method"));
    check(gateway, "GET", "/", &[("X-Large", &"x".repeat(9_000))], 431, &request_error("head_too_large"));
    let refused: [(&[u8], u16, &str); 5] = [
        (b"GET / HTTP/1.1\r\nHost: api.a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "framing"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host"),
        (b"nonsense\r\n\r\n", 400, "head_malformed"),
        (b"GET /< HTTP/1.1\r\nHost: api.a.test\r\n\r\n", 400, "head_malformed"),
        (b"OPTIONS http://api.a.test/` HTTP/1.1\r\nHost: api.a.test\r\n\r\n", 400, "head_malformed"),
    ];
    for (head, status, details) in refused {
        let answer = site.raw(head).unwrap();
        assert_eq!((answer.status, answer.headers.one("proxy-status")), (status, &*request_error(details)));
    }
}

/// Checks the field and the problem's detail, and the field of the explained refusal.
#[track_caller]
fn check_refused(site: &Site, method: &str, headers: &[&str], details: &str, detail: &str) {
    let fields = headers.iter().map(|line| (HEADERS, *line));
    let fields: Vec<_> = [("Origin", ORIGIN), (PREFLIGHT, method)].into_iter().chain(fields).collect();
    let explained = ask_all(&site.gateway, "OPTIONS", "/explained", HOST, &fields);
    assert!([204, 403].contains(&explained.status), "{explained:?}");
    assert_eq!(explained.headers.one("proxy-status"), denied(details), "{method} {headers:?}");
    let answer = ask_all(&site.gateway, "OPTIONS", "/", HOST, &fields);
    assert_edge_error(&answer, 403);
    assert_eq!(answer.headers.one("proxy-status"), denied(details), "{method} {headers:?}");
    let shown = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(shown, format!("the policy of this API does not allow {detail}"), "{method} {headers:?}");
}

#[test]
fn c2_proxy_status_names_the_refused_method_or_header() {
    let upstream = RecordingUpstream::answering("hello");
    let text = tenant_config(&upstream, "").replace(
        "policy: spa }",
        "policy: spa, routes: [{ pathPrefix: /, preflightFailures: Reject }, { pathPrefix: /explained }] }",
    );
    let gateway = Gateway::start(&config(&text), &[]);
    let site = Site { gateway, upstream };
    check_refused(&site, "PATCH", &[], "method PATCH", "the method PATCH");
    check_refused(&site, "put", &[], "method put", "the method put");
    let (long, cut) = ("M".repeat(65), "M".repeat(64));
    check_refused(&site, &long, &[], &format!("method {cut}"), &format!("the method {cut}"));
    check_refused(&site, "PUT", &["x-api, x-new,x-newer"], "header x-new", "the header x-new");
    check_refused(&site, "PUT", &["x-api", "X-New"], "header X-New", "the header X-New");
    check_refused(
        &site,
        "PUT",
        &[&format!("x-{long}")],
        &format!("header x-{}", "M".repeat(62)),
        &format!("the header x-{}", "M".repeat(62)),
    );
    // A value that is not a token, or is refused as a list, is not named.
    check_refused(&site, "A B", &[], "method", "the requested method");
    check_refused(&site, "\"quoted\"", &[], "method", "the requested method");
    check_refused(&site, &format!("{long}\""), &[], "method", "the requested method");
    check_refused(&site, "PUT", &["x new"], "header", "a requested header");
    check_refused(&site, "PUT", &["x-api, <script>"], "header", "a requested header");
    check_refused(&site, "PUT", &[&["x-api"; 65].join(",")], "header", "a requested header");
    let twice = [("Origin", ORIGIN), (PREFLIGHT, "PATCH"), (PREFLIGHT, "PUT")];
    let answer = ask_all(&site.gateway, "OPTIONS", "/", HOST, &twice);
    assert_eq!((answer.status, answer.headers.one("proxy-status")), (403, &*denied("method")));
}

/// Answers with the fields of another proxy and a cache.
fn upstream_with_status(exchange: &mut Exchange) -> Then {
    let status = exchange.seen.target.trim_start_matches('/').parse().unwrap();
    exchange.answer(status, &OTHERS, b"")
}

const OTHERS: [(&str, &str); 2] =
    [("Proxy-Status", "cache.internal; error=connection_timeout"), ("proxy-status", "\"edge 2\"; received-status=200")];

#[test]
fn c2_upstream_proxy_status_is_kept_and_extended() {
    let http1 = RecordingUpstream::start(upstream_with_status);
    let http2 = Http2Upstream::start(|asked: Http2Exchange| async move {
        let status = asked.seen.target.trim_start_matches('/').parse().unwrap();
        asked.answer(status, &OTHERS.map(|(_, value)| ("proxy-status", value)), b"").await
    });
    for (address, options) in [(http1.address, ""), (http2.address, ", protocol: Http2")] {
        let gateway = Gateway::start(&config(&tenant_config_at(address, options)), &[]);
        let others = OTHERS.map(|(_, value)| value);
        for target in ["/200", "/403", "/502"] {
            let answer = ask_all(&gateway, "GET", target, HOST, &[("Origin", ORIGIN)]);
            assert_eq!(answer.headers.all("proxy-status"), [&others[..], &["crossgate"]].concat(), "{target}");
        }
        let off = format!("{}proxyStatus: false\n", config(&tenant_config_at(address, options)));
        let gateway = Gateway::start(&off, &[]);
        let answer = ask_all(&gateway, "GET", "/200", HOST, &[("Origin", ORIGIN)]);
        assert_eq!(answer.headers.all("proxy-status"), others);
    }
    let site = Site::start();
    assert!(!site.ask("GET", "/", &[]).headers.has("proxy-status"), "the field was added to a forwarded answer");
}

#[test]
fn c2_reload_disables_proxy_status() {
    let upstream = RecordingUpstream::answering("hello");
    let text = config(&tenant_config(&upstream, ""));
    let gateway = Gateway::start(&format!("{text}proxyStatus: false\n"), &[]);
    let from = ("Origin", ORIGIN);
    let preflight = [from, (PREFLIGHT, "PUT")];
    let refused = [from, (PREFLIGHT, "PATCH")];
    let evil = [("Origin", "https://evil.test")];
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16);
    let asked: [Case<'_>; 6] = [
        ("OPTIONS", HOST, &preflight, 204),
        ("OPTIONS", HOST, &refused, 204),
        ("GET", HOST, &evil, 403),
        ("GET", HOST, &[], 200),
        ("GET", "unknown.test", &[], 421),
        ("TRACE", HOST, &[], 405),
    ];
    let count = |wanted: fn(u16) -> bool| {
        for (method, host, fields, status) in asked {
            let answer = ask_all(&gateway, method, "/", host, fields);
            assert_eq!(answer.status, status, "{method} {host} {fields:?}");
            assert_eq!(answer.headers.has("proxy-status"), wanted(status), "{method} {host} {fields:?}");
        }
    };
    count(|_| false);
    fs::write(gateway.path("crossgate.yaml"), format!("{text}proxyStatus: true\n")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    count(|status| status != 200);
}

/// Starts a gateway with one attempt, whose upstream fails in this way.
fn failing(script: impl Fn(&mut Exchange) -> Then + Send + Sync + 'static) -> Site {
    const ONE: &str = ", attempts: 1, timeouts: { connect: 300ms, head: 300ms, idle: 5s }";
    let upstream = RecordingUpstream::start(script);
    let gateway = Gateway::start(&config(&tenant_config(&upstream, ONE)), &[]);
    Site { gateway, upstream }
}

/// Checks the field over both HTTP versions, and the note in the log.
#[track_caller]
fn check_fault(gateway: &Gateway, status: u16, error: &str, details: &str, note: &str) {
    let expected = format!("crossgate; error={error}; details=\"{details}\"");
    let answer = ask_all(gateway, "GET", "/", HOST, &[("Origin", ORIGIN)]);
    assert_edge_error(&answer, status);
    assert_eq!(answer.headers.one("proxy-status"), expected);
    let logged = format!("\"note\":\"{note}\"");
    gateway.process.stdout_line(|line| line.contains(&logged).then_some(()));
}

#[test]
fn c2_upstream_faults_have_their_error_types() {
    let down = RefusedAddress::new();
    let gateway = Gateway::start(&config(&tenant_config_at(down.address, ", attempts: 1")), &[]);
    check_fault(&gateway, 502, "connection_refused", "connect_refused", "connect_refused");
    let silent = failing(|_| Then::Stall);
    check_fault(&silent.gateway, 504, "http_response_timeout", "head_timeout", "head_timeout");
    let closed = failing(|_| Then::Close);
    check_fault(&closed.gateway, 502, "connection_terminated", "reset", "reset");
    let broken = failing(|exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Le");
        Then::Close
    });
    check_fault(&broken.gateway, 502, "http_response_incomplete", "incomplete head", "reset: incomplete head");
}

#[test]
fn c2_full_upstream_and_large_body_have_their_error_types() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.wait_for_end();
        Then::Close
    });
    let limits = ", limits: { maxRequests: 1, maxPending: 0 }";
    let text = format!("{}limits: {{ maxRequestBody: 4B }}\n", tenant_config(&upstream, limits));
    let gateway = Gateway::start(&config(&text), &[]);
    let mut held = Connection::open(gateway.data);
    held.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    gateway.wait_level("crossgate_upstream_requests_active", 1.0);
    let full = "crossgate; error=connection_limit_reached; details=\"limit\"";
    check(&gateway, "GET", "/", &[("Origin", ORIGIN)], 503, full);
    let large = request("POST", "/", HOST, &[], b"large");
    let answer = Connection::ask(gateway.data, &large).unwrap();
    assert_eq!((answer.status, answer.headers.one("proxy-status")), (413, &*request_error("body_too_large")));
}

#[test]
fn c7_refused_response_head_is_named_in_log_and_proxy_status() {
    let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X-A: b\r\n".repeat(count - 1));
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let (size, coding, other) =
        ("http_response_header_section_size", "http_response_transfer_coding", "http_protocol_error");
    let chunked = "Transfer-Encoding: chunked";
    let table = [
        (head(&format!("{chunked}\r\n{chunked}")), coding, "duplicate Transfer-Encoding"),
        (head("Transfer-Encoding: gzip"), coding, "Transfer-Encoding other than chunked"),
        (many(257), size, "257 fields"),
        (many(300), size, "300 fields"),
        (head("Content-Length: 1\r\nContent-Length: 2"), other, "conflicting Content-Length"),
        (head("Content-Length: -1"), other, "invalid Content-Length"),
        (head("X-Secret: a\0b"), other, "invalid value of X-Secret"),
        (head("X Secret: a"), other, "invalid field name"),
        (head(&format!("X-A: {}", "b".repeat(70_000))), size, "head over 65536 bytes"),
        ("HTTP/1.1 2000 OK\r\n\r\n".to_owned(), other, "invalid status line"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(), "http_upgrade_failed", "101 without an upgrade"),
    ];
    for (head, error, details) in table {
        let site = failing(move |exchange| {
            exchange.write(head.as_bytes());
            Then::Close
        });
        check_fault(&site.gateway, 502, error, details, &format!("invalid: {details}"));
    }
}

#[test]
fn c7_refused_http2_response_head_is_named() {
    let upstream = Http2Upstream::start(|asked| asked.answer(200, &[("x-a", "b"); 257], b""));
    let options = ", attempts: 1, protocol: Http2";
    let gateway = Gateway::start(&config(&tenant_config_at(upstream.address, options)), &[]);
    check_fault(&gateway, 502, "http_response_header_section_size", "257 fields", "invalid: 257 fields");
    let nonsense = RecordingUpstream::start(|exchange| exchange.answer(400, &[], b""));
    let gateway = Gateway::start(&config(&tenant_config_at(nonsense.address, options)), &[]);
    let answer = gateway.ask("GET", "/", HOST, &[]);
    assert_eq!(answer.status, 502);
    let field = answer.headers.one("proxy-status");
    assert!(field.starts_with("crossgate; error=http_protocol_error; details=\"HTTP/2: "), "{field}");
}
