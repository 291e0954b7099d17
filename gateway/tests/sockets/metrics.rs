//! `/metrics` of the running binary: accepted by promtool, exact to the request, and bounded whatever clients send.
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::{Connection, Gateway, HOST, ORIGIN, Site, counted_flood, recorded, request};

const DISTINCT: usize = 100_000;
const CONNECTIONS: usize = 4;
/// Below the requests a connection may carry.
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
    let mut promtool = promtool.expect("promtool, which `make test` installs");
    promtool.stdin.take().unwrap().write_all(&text.body).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
    assert_eq!(said.trim(), "", "no remarks either");
}

/// The series of every family, without their values.
fn series(gateway: &Gateway) -> BTreeSet<String> {
    gateway.metrics().into_iter().map(|(series, _)| series).collect()
}

/// The series that are there now and were not before.
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
    let told = site.gateway.origins("tenant=a&limit=10000");
    assert_eq!(recorded(&told), DISTINCT as u64 + 100);
    assert_eq!((site.gateway.metric("crossgate_ledger_entries", &[]), &told["entries"]), (256.0, &256.into()));
}

#[test]
fn strange_hosts_methods_and_paths_add_no_series_of_their_own() {
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
    let nobody = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
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
        (3, ["preflight", "deny", "unknown_host"], request("OPTIONS", "/", "nobody.test", &nobody, b"")),
        (2, ["non_cors", "deny", "unknown_host"], request("GET", "/", "nobody.test", &[], b"")),
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
    assert_eq!(origin(ORIGIN, "deny"), 5.0, "an allowed origin that asks for too much");
    assert_eq!(origin("other", "deny"), 22.0);
    assert_eq!(site.gateway.metric("crossgate_origin_requests_total", &[]), 36.0);
}

#[test]
fn a_flood_is_counted_to_the_request_while_it_is_scraped() {
    counted_flood(DISTINCT);
}

#[test]
fn a_refused_request_is_logged_under_its_own_name() {
    let site = Site::start();
    let fields = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT"), ("Connection", "Origin")];
    site.raw(&request("OPTIONS", "/", HOST, &fields, b"")).unwrap();
    let line = site.gateway.process.stdout_line(|line| line.contains("bad_request").then(|| line.to_owned()));
    let logged: serde_json::Value = serde_json::from_str(&line).unwrap();
    let told = ["tenant", "kind", "verdict", "reason", "connection"].map(|name| logged[name].as_str().unwrap());
    assert_eq!(told, ["a", "preflight", "deny", "bad_request", "Origin"]);
    site.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "400")], 1.0);
    assert_eq!(site.gateway.metric("crossgate_requests_total", &[]), 0.0);
}

#[test]
fn a_refused_head_has_a_line_that_says_why_and_nothing_of_the_request() {
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
