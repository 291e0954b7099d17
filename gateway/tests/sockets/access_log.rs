//! The access log in a file: selected lines and fields, reopening by signal, rotation, and the
//! level of diagnostics.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, PATIENCE, RecordingUpstream, Then, assert_allowed, config, request,
    tenant_config,
};

/// Starts a gateway with this access log, in front of an upstream that fails for `/fail`.
fn start(access_log: &str) -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.read_body();
        let status = if exchange.seen.target.starts_with("/fail") { 502 } else { 200 };
        exchange.answer(status, &[], b"hello")
    });
    let gateway = Gateway::start(&text(&upstream, access_log), &[]);
    (gateway, upstream)
}

fn text(upstream: &RecordingUpstream, access_log: &str) -> String {
    config(&format!("{}accessLog: {access_log}\n", tenant_config(upstream, "")))
}

fn get(gateway: &Gateway, path: &str, origin: &str) {
    gateway.ask("GET", path, HOST, &[("Origin", origin), ("User-Agent", "test/1"), ("Cookie", "secret=1")]);
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn lines(path: &Path) -> Vec<Value> {
    read(path)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[track_caller]
fn wait(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timeout while waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn d2_lines_go_to_a_file_with_the_chosen_fields_and_headers() {
    let keys = "{ path: log/access.log, fields: [time, path, status, verdict], headers: [User-Agent, x-absent] }";
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&text(&upstream, keys), &[("log/keep", "")]);
    get(&gateway, "/a?secret", ORIGIN);
    let path = gateway.path("log/access.log");
    wait("a line", || !read(&path).is_empty());
    let line = &lines(&path)[0];
    let mut keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["headers", "path", "status", "time", "verdict"], "{line}");
    assert_eq!(line["headers"], serde_json::json!({ "user-agent": "test/1" }));
    assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/a"), Some(200)));
    assert!(!read(&path).contains("secret"));
    assert_eq!(gateway.process.stdout(), "");
}

#[test]
fn d2_denials_and_errors_are_logged_regardless_of_sampling() {
    let (gateway, _upstream) = start("{ path: access.log, sample: 0.0, always: [deny, error] }");
    for _ in 0..20 {
        get(&gateway, "/", ORIGIN);
    }
    get(&gateway, "/", "https://evil.test");
    get(&gateway, "/fail", ORIGIN);
    let refused = Connection::ask(gateway.data, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(refused.status, 400);
    let path = gateway.path("access.log");
    wait("three lines", || lines(&path).len() >= 3);
    // Lines of two workers have no order.
    let statuses: BTreeSet<_> = lines(&path).iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, BTreeSet::from([403, 502, 400]));
}

#[test]
fn d2_a_file_is_reopened_by_signal_and_replaced_by_a_reload() {
    let (gateway, upstream) = start("{ path: access.log }");
    let (path, moved, other) = (gateway.path("access.log"), gateway.path("access.log.1"), gateway.path("other.log"));
    get(&gateway, "/one", ORIGIN);
    wait("a line", || lines(&path).len() == 1);
    fs::rename(&path, &moved).unwrap();
    gateway.process.signal(Signal::USR1);
    wait("a new file", || path.exists());
    get(&gateway, "/two", ORIGIN);
    wait("a line in it", || lines(&path).len() == 1);
    assert_eq!((lines(&moved).len(), lines(&path)[0]["path"].as_str()), (1, Some("/two")));
    // A log that cannot be opened is refused.
    fs::write(gateway.path("crossgate.yaml"), text(&upstream, "{ path: missing/access.log }")).unwrap();
    let refused = gateway.admin("POST", "/reload");
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("missing/access.log cannot be opened"), "{}", refused.text());
    fs::write(gateway.path("crossgate.yaml"), text(&upstream, "{ path: other.log }")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    get(&gateway, "/three", ORIGIN);
    wait("the other file", || lines(&other).len() == 1);
    assert_eq!(lines(&path).len(), 1);
    // The successor of an upgrade writes to the same file.
    let successor = crate::support::Successor::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    get(&gateway, "/four", ORIGIN);
    wait("the successor's line", || lines(&other).len() == 2);
    drop(successor);
}

#[test]
fn d2_a_file_is_rotated_by_size_and_no_line_is_lost() {
    let (gateway, _upstream) = start("{ path: access.log, rotate: { size: 64KiB, count: 100 } }");
    let mut connection = Connection::open(gateway.data);
    let asked = 500;
    let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
    for _ in 0..asked {
        assert_allowed(&connection.exchange(&get).unwrap());
    }
    let files = || {
        let numbered = (1..100).map(|number| gateway.path(&format!("access.log.{number}")));
        std::iter::once(gateway.path("access.log")).chain(numbered).filter(|path| path.exists()).collect::<Vec<_>>()
    };
    wait("all lines", || files().iter().map(|path| lines(path).len()).sum::<usize>() == asked);
    assert!(files().len() > 2, "{:?}", files());
    assert!(files().iter().all(|path| fs::metadata(path).unwrap().len() <= 64 << 10));
}

#[test]
fn d2_lines_lost_to_a_full_disk_are_counted() {
    let (gateway, _upstream) = start("{ path: /dev/full }");
    for _ in 0..20 {
        get(&gateway, "/", ORIGIN);
    }
    gateway.wait_metric("crossgate_access_log_dropped_total", &[], 20.0);
}

#[test]
fn d2_a_file_that_cannot_be_opened_refuses_the_start() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    let upstream = RecordingUpstream::answering("hello");
    fs::write(&path, text(&upstream, "{ path: missing/access.log }")).unwrap();
    let mut process = crate::support::Process::crossgate(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!(process.wait_at_most(Duration::from_secs(10)).code(), Some(1));
    assert!(process.stderr().contains("missing/access.log cannot be opened"), "{}", process.stderr());
}

#[test]
fn a7_sigusr1_changes_nothing_and_sigquit_drains() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.read_body();
        if exchange.seen.target == "/slow" {
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            std::thread::sleep(Duration::from_millis(500));
            exchange.write(b" done");
            return Then::KeepAlive;
        }
        exchange.answer(200, &[], b"hello")
    });
    let mut gateway = Gateway::start(&config(&tenant_config(&upstream, "")), &[]);
    let slow = request("GET", "/slow", HOST, &[("Origin", ORIGIN)], b"");
    let mut running = Connection::open(gateway.data);
    running.send(&slow).unwrap();
    wait("the request", || upstream.total() == 1);
    for _ in 0..100 {
        gateway.process.signal(Signal::USR1);
    }
    assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
    gateway.process.signal(Signal::QUIT);
    gateway.process.signal(Signal::USR1);
    wait("a drain", || std::net::TcpStream::connect(gateway.data).is_err());
    gateway.process.signal(Signal::USR1);
    let answer = running.answer_to(&slow).unwrap();
    assert_eq!(answer.text(), "half done");
    assert_eq!(gateway.process.wait_at_most(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn a7_second_sigquit_stops_at_once() {
    let upstream = RecordingUpstream::start(|_| Then::Stall);
    let mut gateway = Gateway::start(&config(&tenant_config(&upstream, "")), &[]);
    let mut running = Connection::open(gateway.data);
    running.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    wait("the request", || upstream.total() == 1);
    gateway.process.signal(Signal::QUIT);
    wait("a drain", || std::net::TcpStream::connect(gateway.data).is_err());
    gateway.process.signal(Signal::QUIT);
    assert_eq!(gateway.process.wait_at_most(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn d2_diagnostics_level_is_set_by_option_and_by_reload() {
    let upstream = RecordingUpstream::answering("hello");
    let token = "0123456789abcdef0123";
    let text = config(&tenant_config(&upstream, ""))
        .replace("admin: { address: 127.0.0.1:0 }", "admin: { address: 127.0.0.1:0, tokenFile: token }");
    let gateway = Gateway::start_with(&text, &[("token", token)], &["--log-level", "info"]);
    let ask = |method: &str, target: &str, fields: &[(&str, &str)]| {
        let bytes = request(method, target, &gateway.admin.to_string(), fields, b"");
        Connection::ask(gateway.admin, &bytes).unwrap()
    };
    let bearer = format!("Bearer {token}");
    let authorized = [("Authorization", bearer.as_str())];
    let quiet = "pingora=error,pingora_core=off,pingora_proxy=off,rustls=error";
    let level = |answer: crate::support::Response| answer.json()["level"].as_str().unwrap().to_owned();
    assert_eq!(level(ask("GET", "/log-level", &authorized)), format!("info,{quiet}"));
    // The access rules are those of other changes.
    assert_eq!(ask("PUT", "/log-level?level=off", &[]).status, 401);
    let from_page = [authorized[0], ("Origin", ORIGIN)];
    assert_eq!(ask("PUT", "/log-level?level=off", &from_page).status, 403);
    assert_eq!(ask("POST", "/log-level?level=off", &authorized).status, 405);
    for bad in
        ["/log-level", "/log-level?level=loud", "/log-level?level=", "/log-level?level=off&x=1", "/log-level?off"]
    {
        assert_eq!(ask("PUT", bad, &authorized).status, 400, "{bad}");
    }
    assert_eq!(level(ask("GET", "/log-level", &authorized)), format!("info,{quiet}"));
    assert_eq!(level(ask("PUT", "/log-level?level=error", &authorized)), format!("error,{quiet}"));
    assert_eq!(ask("POST", "/reload", &authorized).status, 200);
    assert_eq!(level(ask("PUT", "/log-level?level=crossgate%3Ddebug", &authorized)), "crossgate=debug");
    assert_eq!(ask("POST", "/reload", &authorized).status, 200);
    gateway.process.stderr_line(|line| line.contains("generation=3").then_some(()));
    assert!(!gateway.process.stderr().contains("generation=2"), "{}", gateway.process.stderr());
}

#[test]
fn d2_an_invalid_level_is_a_usage_error() {
    let mut process = crate::support::Process::crossgate(&["run", "--config", "x", "--log-level", "loud"]);
    assert_eq!(process.wait_at_most(Duration::from_secs(10)).code(), Some(2));
    assert!(process.stderr().contains("--log-level: invalid log level `loud`"), "{}", process.stderr());
}

#[test]
fn d2_refused_reload_logs_one_line() {
    for format in ["text", "json"] {
        let upstream = RecordingUpstream::answering("hello");
        let good = config(&tenant_config(&upstream, ""));
        let directory = tempfile::TempDir::new().unwrap();
        let (path, next) = (directory.path().join("crossgate.yaml"), directory.path().join("next"));
        fs::write(&path, &good).unwrap();
        let arguments = ["run", "--config", path.to_str().unwrap(), "--log-format", format];
        let process = crate::support::Process::crossgate(&arguments);
        process.stderr_line(|line| line.contains("listening").then_some(()));
        fs::write(&next, good.replace("policy: spa", "policy: spaa, colour: red")).unwrap();
        fs::rename(&next, &path).unwrap();
        let refused = |line: &str| line.contains("configuration refused").then(|| line.to_owned());
        let line = process.stderr_line(refused);
        assert!(line.contains("generation 1 stays active: ") && line.contains("crossgate.yaml:"), "{line}");
        assert!(line.contains("`spaa`") && line.contains("`colour`") && !line.contains("-->"), "{line}");
        if format == "json" {
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((event["level"].as_str(), event["generation"].as_u64()), (Some("WARN"), Some(1)), "{event}");
            assert_eq!(event["errors"].as_u64(), Some(2), "{event}");
        }
    }
}
