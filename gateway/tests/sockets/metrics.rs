//! `/metrics` of the running binary: promtool accepts it, counts are exact, and the number of
//! series is bounded for any input.
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Exchange, Gateway, HOST, Http2, ORIGIN, PATIENCE, RecordingUpstream, Site, Then, config, counted_flood,
    handshake, http2_request, recorded, request, tenant_config, websocket,
};

const DISTINCT: usize = 100_000;
const CONNECTIONS: usize = 4;
/// Fewer than the limit on requests per connection.
const PER_CONNECTION: usize = 500;

fn preflight(origin: &str, method: &str) -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", origin), ("Access-Control-Request-Method", method)], b"")
}

#[test]
fn promtool_accepts_the_metrics() {
    let site = Site::start();
    site.ask("GET", "/", &[]);
    site.raw(&preflight("https://evil.test", "PUT")).unwrap();
    let text = site.gateway.admin("GET", "/metrics");
    assert!(text.headers.one("content-type").starts_with("text/plain"), "{text:?}");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.expect("promtool is missing; `make test` installs it");
    promtool.stdin.take().unwrap().write_all(&text.body).unwrap();
    let result = promtool.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&result.stdout).into_owned() + &String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{output}");
    assert_eq!(output.trim(), "", "promtool has remarks");
}

/// Lists the series of every family, without their values.
fn series(gateway: &Gateway) -> BTreeSet<String> {
    gateway.metrics().into_iter().map(|(series, _)| series).collect()
}

/// Lists the series that were added since `before`.
fn added(gateway: &Gateway, before: &BTreeSet<String>) -> Vec<String> {
    series(gateway).difference(before).cloned().collect()
}

#[test]
fn a_flood_of_denied_origins_adds_no_series() {
    let site = Site::start();
    let flood = |first: usize, count: usize| {
        let mut connection = site.connect();
        for batch in (first..first + count).step_by(100) {
            let origins = (batch..batch + 100).map(|n| format!("https://{n:x}.evil.test"));
            let bytes: Vec<u8> = origins.flat_map(|origin| preflight(&origin, "PUT")).collect();
            connection.send(&bytes).unwrap();
            for _ in 0..100 {
                assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, 403);
            }
        }
    };
    flood(0, 100);
    let count = |denied: usize| {
        let labels = [("tenant", "a"), ("origin", "other"), ("verdict", "deny")];
        site.gateway.wait_metric("crossgate_origin_requests_total", &labels, denied as f64);
    };
    count(100);
    let before = series(&site.gateway);
    let memory = site.gateway.process.memory("VmRSS");
    std::thread::scope(|scope| {
        for part in 0..CONNECTIONS {
            let flood = &flood;
            scope.spawn(move || {
                let share = DISTINCT / CONNECTIONS;
                for first in (part * share..(part + 1) * share).step_by(PER_CONNECTION) {
                    flood(100 + first, PER_CONNECTION);
                }
            });
        }
    });
    count(DISTINCT + 100);
    assert_eq!(added(&site.gateway, &before), [""; 0]);
    let grown = site.gateway.process.memory("VmRSS").saturating_sub(memory) / (1024 * 1024);
    assert!(grown < 32, "grown by {grown} MiB");
    assert_eq!(site.upstream.connections(), 0);
    let report = site.gateway.origins("tenant=a&limit=10000");
    assert_eq!(recorded(&report), DISTINCT as u64 + 100);
    assert_eq!((site.gateway.metric("crossgate_ledger_entries", &[]), &report["entries"]), (256.0, &256.into()));
}

#[test]
fn unknown_hosts_methods_and_paths_add_no_series() {
    let site = Site::start();
    let strange = |n: usize| {
        let mut connection = site.connect();
        let method = format!("M{n}");
        for bytes in [
            request("GET", "/", &format!("h{n}.test"), &[], b""),
            request(&method, &format!("/p{n}?q={n}"), HOST, &[("User-Agent", &method)], b""),
            preflight(ORIGIN, &method),
        ] {
            connection.exchange(&bytes).unwrap();
        }
    };
    strange(0);
    site.gateway.wait_metric("crossgate_requests_total", &[], 3.0);
    let before = series(&site.gateway);
    (1..200).for_each(strange);
    site.gateway.wait_metric("crossgate_requests_total", &[], 600.0);
    assert_eq!(added(&site.gateway, &before), [""; 0]);
}

#[test]
fn every_request_is_counted_once_under_its_kind_and_reason() {
    let site = Site::start();
    let own = [("Origin", "http://api.a.test")];
    let websocket = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Origin", "https://evil.test")];
    let preflight_fields = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    let mix: [(usize, [&str; 3], Vec<u8>); 12] = [
        (7, ["preflight", "allow", "exact"], preflight(ORIGIN, "PUT")),
        (6, ["preflight", "deny", "no_match"], preflight("https://evil.test", "PUT")),
        (5, ["preflight", "deny", "method"], preflight(ORIGIN, "PATCH")),
        (4, ["preflight", "deny", "malformed_origin"], preflight("https://app.a.test/", "PUT")),
        (3, ["preflight", "deny", "null_origin"], preflight("null", "PUT")),
        (2, ["actual", "allow", "exact"], request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")),
        (3, ["actual", "deny", "no_match"], request("POST", "/", HOST, &[("Origin", "https://evil.test")], b"body")),
        (4, ["non_cors", "allow", "non_cors"], request("GET", "/", HOST, &[], b"")),
        (5, ["same_origin", "allow", "same_origin"], request("GET", "/", HOST, &own, b"")),
        (6, ["websocket", "deny", "no_match"], request("GET", "/", HOST, &websocket, b"")),
        (3, ["preflight", "deny", "unknown_host"], request("OPTIONS", "/", "unknown.test", &preflight_fields, b"")),
        (2, ["non_cors", "deny", "unknown_host"], request("GET", "/", "unknown.test", &[], b"")),
    ];
    for (times, _, bytes) in &mix {
        for _ in 0..*times {
            Connection::ask(site.gateway.data, bytes).unwrap();
        }
    }
    let sent: usize = mix.iter().map(|(times, ..)| times).sum();
    site.gateway.wait_metric("crossgate_requests_total", &[], sent as f64);
    for (times, [kind, verdict, reason], _) in &mix {
        let tenant = if *reason == "unknown_host" { "none" } else { "a" };
        let labels = [("tenant", tenant), ("kind", kind), ("verdict", verdict), ("reason", reason)];
        assert_eq!(site.gateway.metric("crossgate_requests_total", &labels), *times as f64, "{labels:?}");
    }
    let origin = |origin: &str, verdict: &str| {
        site.gateway
            .metric("crossgate_origin_requests_total", &[("tenant", "a"), ("origin", origin), ("verdict", verdict)])
    };
    assert_eq!(origin(ORIGIN, "allow"), 9.0);
    assert_eq!(origin(ORIGIN, "deny"), 5.0, "an allowed origin with a refused method or header");
    assert_eq!(origin("other", "deny"), 22.0);
    assert_eq!(site.gateway.metric("crossgate_origin_requests_total", &[]), 36.0);
}

/// Checks that every completed request is counted once by its response, and every judged request
/// once by its duration.
fn assert_sums_agree(gateway: &Gateway, requests: f64) {
    gateway.wait_metric("crossgate_responses_total", &[], requests);
    let refused = gateway.metric("crossgate_requests_refused_total", &[]);
    assert_eq!(gateway.metric("crossgate_requests_total", &[]) + refused, requests);
    let responses = gateway.metric("crossgate_responses_total", &[("tenant", "a")]);
    assert_eq!(gateway.metric("crossgate_request_duration_seconds_count", &[("tenant", "a")]), responses);
    gateway.wait_level("crossgate_requests_active", 0.0);
}

/// Answers with the status in the request's path.
fn by_path(exchange: &mut Exchange) -> Then {
    let status = exchange.seen.target.trim_start_matches('/').parse().unwrap();
    match status {
        101 => websocket(exchange),
        status => exchange.answer(status, &[], b""),
    }
}

/// Sends requests for every class of upstream responses and for every kind of gateway response.
/// Returns the expected counts.
fn ask_for_every_class(
    ask: impl Fn(&str, &str, &str, &[(&str, &str)]) -> u16,
) -> Vec<(&'static str, &'static str, &'static str, f64)> {
    let asks = |method: &str, target: &str, host: &str, fields: &[(&str, &str)], status: u16| {
        assert_eq!(ask(method, target, host, fields), status, "{method} {target} {host}");
    };
    for status in [200, 201, 302, 404, 500, 503] {
        asks("GET", &format!("/{status}"), HOST, &[("Origin", ORIGIN)], status);
    }
    let wants = ("Access-Control-Request-Method", "PUT");
    asks("OPTIONS", "/", HOST, &[("Origin", ORIGIN), wants], 204);
    asks("OPTIONS", "/", HOST, &[("Origin", ORIGIN), wants, ("X-Lane", "\u{e9}")], 204);
    asks("OPTIONS", "/", HOST, &[("Origin", "https://evil.test"), wants], 403);
    asks("GET", "/200", HOST, &[("Origin", "https://evil.test")], 403);
    asks("GET", "/down", HOST, &[], 502);
    asks("GET", "/200", "unknown.test", &[], 421);
    asks("OPTIONS", "/", "unknown.test", &[("Origin", ORIGIN), wants], 421);
    asks("GET", "/a%2f../b", HOST, &[], 400);
    asks("TRACE", "/200", HOST, &[], 405);
    asks("GET", "/200", HOST, &[("X-Large", &"x".repeat(9_000))], 431);
    vec![
        ("a", "2xx", "upstream", 2.0),
        ("a", "3xx", "upstream", 1.0),
        ("a", "4xx", "upstream", 1.0),
        ("a", "5xx", "upstream", 2.0),
        ("a", "2xx", "gateway", 2.0),
        ("a", "4xx", "gateway", 2.0),
        ("a", "5xx", "gateway", 1.0),
        ("none", "4xx", "gateway", 5.0),
    ]
}

/// Starts the usual tenant, with a route to an upstream that does not listen.
fn by_path_site() -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::start(by_path);
    let text = tenant_config(&upstream, "");
    let down = "upstreams:\n  down: { servers: [127.0.0.1:1] }\n";
    let routes = ", routes: [{ pathPrefix: /, upstream: api }, { pathPrefix: /down, upstream: down }] }";
    let text = text.replacen("upstreams:\n", down, 1).replace(", policy: spa }", &format!(", policy: spa{routes}"));
    (Gateway::start(&config(&text), &[]), upstream)
}

fn check_classes(gateway: &Gateway, expected: &[(&str, &str, &str, f64)]) {
    assert_sums_agree(gateway, expected.iter().map(|(.., count)| count).sum());
    for (tenant, class, by, count) in expected {
        let labels = [("tenant", *tenant), ("class", *class), ("by", *by)];
        assert_eq!(gateway.metric("crossgate_responses_total", &labels), *count, "{labels:?}");
    }
}

#[test]
fn d1_responses_are_counted_by_class_and_author() {
    let (gateway, _upstream) = by_path_site();
    let mut expected =
        ask_for_every_class(|method, target, host, fields| gateway.ask(method, target, host, fields).status);
    check_classes(&gateway, &expected);
    let mut socket = Connection::open(gateway.data);
    let upgrade = String::from_utf8(handshake(ORIGIN)).unwrap().replace("/socket", "/101");
    socket.send(upgrade.as_bytes()).unwrap();
    assert_eq!(socket.head().unwrap().status, 101);
    gateway.wait_level("crossgate_requests_active", 1.0);
    drop(socket);
    expected.push(("a", "1xx", "upstream", 1.0));
    check_classes(&gateway, &expected);
}

#[test]
fn d1_http2_responses_are_counted_by_class_and_author() {
    let (gateway, _upstream) = by_path_site();
    let client = Http2::open(gateway.data);
    let ask = |method: &str, target: &str, host: &str, fields: &[(&str, &str)]| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, *value)).collect();
        client.ask(method, target, host, &fields, b"").unwrap().status
    };
    check_classes(&gateway, &ask_for_every_class(ask));
}

#[test]
fn d1_aborted_http2_requests_have_no_class() {
    let (arrived, arrivals) = mpsc::channel();
    let arrived = Mutex::new(arrived);
    let site = Site::scripted(move |exchange| {
        arrived.lock().unwrap().send(()).unwrap();
        exchange.wait_for_end();
        Then::Close
    });
    let client = Http2::open(site.gateway.data);
    let request = http2_request("GET", "/", HOST, &[]);
    let begun = client.begin(request, true).unwrap();
    arrivals.recv_timeout(PATIENCE).unwrap();
    assert_eq!(site.gateway.metric("crossgate_requests_active", &[]), 1.0);
    drop(begun);
    site.gateway.wait_metric("crossgate_responses_total", &[("class", "none"), ("by", "none")], 1.0);
    assert_sums_agree(&site.gateway, 1.0);
}

#[test]
fn d1_request_durations_include_the_upstream() {
    const TOOK: Duration = Duration::from_millis(120);
    let site = Site::scripted(|exchange| {
        std::thread::sleep(TOOK);
        exchange.answer(200, &[], b"")
    });
    site.raw(&preflight(ORIGIN, "PUT")).unwrap();
    site.gateway.wait_metric("crossgate_request_duration_seconds_count", &[("tenant", "a")], 1.0);
    let bucket = |bound: &str| site.gateway.metric("crossgate_request_duration_seconds_bucket", &[("le", bound)]);
    assert_eq!(bucket("0.1"), 1.0, "a preflight does not wait for the upstream");
    site.ask("GET", "/", &[]);
    site.gateway.wait_metric("crossgate_request_duration_seconds_count", &[("tenant", "a")], 2.0);
    assert_eq!((bucket("0.1"), bucket("+Inf")), (1.0, 2.0));
    assert!(site.gateway.metric("crossgate_request_duration_seconds_sum", &[]) >= TOOK.as_secs_f64());
}

#[test]
fn d1_bytes_are_counted_as_on_the_wire() {
    let site = Site::start();
    let asked = request("GET", "/", HOST, &[("Connection", "close")], b"");
    let mut connection = site.connect();
    connection.send(&asked).unwrap();
    let mut answer = Vec::new();
    connection.stream.read_to_end(&mut answer).unwrap();
    let total = |way: &str, len: usize| {
        site.gateway.wait_metric(&format!("crossgate_{way}_bytes_total"), &[], len as f64);
    };
    total("received", asked.len());
    total("sent", answer.len());
    // Bytes of an open connection are counted in steps.
    let large = "x".repeat(20_000);
    let mut kept = site.connect();
    kept.exchange(&request("POST", "/", HOST, &[("Content-Length", "20000")], large.as_bytes())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while site.gateway.metric("crossgate_received_bytes_total", &[]) < 16_384.0 {
        assert!(Instant::now() < deadline, "the bytes of an open connection are not counted");
    }
}

#[test]
fn flood_is_counted_exactly_during_scrapes() {
    counted_flood(DISTINCT);
}

#[test]
fn refused_request_is_logged_with_its_reason() {
    let site = Site::start();
    let fields = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT"), ("Connection", "Origin")];
    site.raw(&request("OPTIONS", "/", HOST, &fields, b"")).unwrap();
    let line = site.gateway.process.stdout_line(|line| line.contains("bad_request").then(|| line.to_owned()));
    let logged: serde_json::Value = serde_json::from_str(&line).unwrap();
    let values = ["tenant", "kind", "verdict", "reason", "connection"].map(|name| logged[name].as_str().unwrap());
    assert_eq!(values, ["a", "preflight", "deny", "bad_request", "Origin"]);
    site.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "400")], 1.0);
    assert_eq!(site.gateway.metric("crossgate_requests_total", &[]), 0.0);
}

#[test]
fn refused_head_is_logged_without_request_data() {
    let site = Site::start();
    let heads: [(&[u8], u16, &str); 4] = [
        (b"GET /secret HTTP/1.1\r\nHost: api.a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "framing"),
        (b"GET /secret HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host"),
        (b"TRACE /secret HTTP/1.1\r\nHost: api.a.test\r\n\r\n", 405, "method"),
        (b"/secret\r\n\r\n", 400, "head_malformed"),
    ];
    for (head, status, reason) in heads {
        assert_eq!(site.raw(head).unwrap().status, status, "{reason}");
        let named = format!(r#""reason":"{reason}""#);
        let line = site.gateway.process.stdout_line(|line| line.contains(&named).then(|| line.to_owned()));
        let logged: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(logged["status"], status);
        assert_eq!((&logged["tenant"], &logged["client"]), (&"none".into(), &"127.0.0.1".into()));
        assert!(logged["note"].is_string() && !line.contains("secret"), "{line}");
    }
}
