//! Balancing of requests over servers: by weight, and only to servers that pass their health
//! checks.
use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, PATIENCE, RecordingUpstream, RefusedAddress, Then, assert_allowed, config,
    request, tenant_config,
};

const CHECK: &str =
    "healthCheck: { path: /healthz, interval: 100ms, timeout: 10s, healthyAfter: 2, unhealthyAfter: 2 }";

/// A server that answers health checks with `health` and requests with its name.
struct Checked {
    upstream: RecordingUpstream,
    health: Arc<AtomicUsize>,
}

impl Checked {
    fn start(name: &'static str, status: usize) -> Self {
        let health = Arc::new(AtomicUsize::new(status));
        let status_to_send = Arc::clone(&health);
        let upstream = RecordingUpstream::start(move |exchange| match &*exchange.seen.target {
            "/healthz" => exchange.answer(u16::try_from(status_to_send.load(SeqCst)).unwrap(), &[], b""),
            _ => exchange.answer(200, &[], name.as_bytes()),
        });
        Self { upstream, health }
    }

    fn seen(&self, target: &str) -> usize {
        self.upstream.seen().iter().filter(|seen| seen.target == target).count()
    }
}

/// Renders the usual tenant with these servers as its list.
fn before(servers: &str, options: &str) -> String {
    let placeholder = RecordingUpstream::answering("");
    let text = tenant_config(&placeholder, options);
    config(&text.replace(&placeholder.address.to_string(), servers))
}

fn two(options: &str) -> (Checked, Checked, String) {
    let (one, two) = (Checked::start("one", 200), Checked::start("two", 200));
    let text = before(&format!("{}, {}", one.upstream.address, two.upstream.address), &format!(", {options}"));
    (one, two, text)
}

/// Counts the answers of each of the two servers.
fn count_answers(gateway: &Gateway, requests: usize) -> (usize, usize) {
    let ask = || {
        let answer = gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]);
        assert_allowed(&answer);
        answer.text()
    };
    let answers: Vec<_> = (0..requests).map(|_| ask()).collect();
    let of = |name: &str| answers.iter().filter(|answer| *answer == name).count();
    assert_eq!(of("one") + of("two"), requests, "{answers:?}");
    (of("one"), of("two"))
}

fn unhealthy(gateway: &Gateway) -> f64 {
    gateway.metric("crossgate_upstream_servers", &[("upstream", "api"), ("state", "unhealthy")])
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timeout while waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn requests_are_balanced_by_weight() {
    let (one, two) = (RecordingUpstream::answering("one"), RecordingUpstream::answering("two"));
    let servers =
        format!("{{ address: \"{}\", weight: 30 }}, {{ address: \"{}\", weight: 10 }}", one.address, two.address);
    let gateway = Gateway::start(&before(&servers, ""), &[]);
    assert_eq!(count_answers(&gateway, 40), (30, 10));
}

#[test]
fn load_of_a_failed_heavy_server_is_spread_over_the_others() {
    let broken = RecordingUpstream::start(|exchange| exchange.answer(503, &[], b""));
    let (one, two) = (RecordingUpstream::answering("one"), RecordingUpstream::answering("two"));
    let heavy = format!("{{ address: \"{}\", weight: 8 }}, {}, {}", broken.address, one.address, two.address);
    let gateway = Gateway::start(&before(&heavy, ""), &[]);
    let ask = || gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]).status;
    let failed = (0..200).filter(|_| ask() == 503).count();
    // On a slow machine the ejection may end before all requests are sent.
    assert!((5..=9).contains(&failed), "{failed} of 200");
    let (one, two) = (one.total(), two.total());
    assert!(one >= 60 && two >= 60, "{one} and {two}");
    assert_eq!(gateway.metric("crossgate_upstream_ejections_total", &[]).min(1.0), 1.0);
}

#[test]
fn unhealthy_server_gets_no_requests_until_its_checks_pass() {
    let (one, two, text) = two(CHECK);
    let gateway = Gateway::start(&text, &[]);
    wait_until("both are checked", || one.seen("/healthz") > 0 && two.seen("/healthz") > 0);
    assert_eq!(count_answers(&gateway, 20), (10, 10));
    one.health.store(503, SeqCst);
    wait_until("unhealthy", || unhealthy(&gateway) == 1.0);
    assert_eq!(count_answers(&gateway, 20), (0, 20));
    let status = gateway.admin("GET", "/status").json();
    assert_eq!(status["upstreams"][0]["servers"][0]["state"], "unhealthy");
    one.health.store(204, SeqCst);
    wait_until("healthy", || unhealthy(&gateway) == 0.0);
    assert_eq!(count_answers(&gateway, 20), (10, 10));
    // Health checks do not count as requests.
    assert_eq!(gateway.metric("crossgate_requests_total", &[]), 60.0);
    let checks = |result| gateway.metric("crossgate_upstream_health_checks_total", &[("result", result)]);
    assert!(checks("failed") >= 2.0 && checks("passed") >= 4.0);
    let seen = one.upstream.seen();
    let check = seen.iter().find(|seen| seen.target == "/healthz").unwrap();
    assert_eq!((&*check.method, check.headers.one("host")), ("GET", &*one.upstream.address.to_string()));
    assert_eq!(check.headers.one("connection"), "close");
}

#[test]
fn all_servers_are_used_when_every_check_fails() {
    let (one, two, text) = two(CHECK);
    one.health.store(500, SeqCst);
    two.health.store(302, SeqCst);
    let gateway = Gateway::start(&text, &[]);
    wait_until("unhealthy", || unhealthy(&gateway) == 2.0);
    assert_eq!(count_answers(&gateway, 20), (10, 10));
}

#[test]
fn alternating_check_results_keep_a_server() {
    let times = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&times);
    let one = RecordingUpstream::start(move |exchange| {
        let is_healthy = exchange.seen.target != "/healthz" || asked.fetch_add(1, SeqCst).is_multiple_of(2);
        exchange.answer(if is_healthy { 200 } else { 500 }, &[], b"one")
    });
    let two = RecordingUpstream::answering("two");
    let servers = format!("{}, {}", one.address, two.address);
    let gateway = Gateway::start(&before(&servers, &format!(", {CHECK}")), &[]);
    wait_until("checked often", || {
        assert_eq!(unhealthy(&gateway), 0.0);
        times.load(SeqCst) >= 12
    });
    assert_eq!(count_answers(&gateway, 20), (10, 10));
}

#[test]
fn check_results_survive_a_reload_and_end_with_the_upstream() {
    // The first check decides. With this interval there is no second one.
    let check = "healthCheck: { path: /healthz, interval: 1h }";
    let (one, two, text) = two(check);
    one.health.store(503, SeqCst);
    let gateway = Gateway::start(&text, &[]);
    wait_until("unhealthy", || unhealthy(&gateway) == 1.0);
    let reload = |text: &str| {
        fs::write(gateway.path("next"), text).unwrap();
        fs::rename(gateway.path("next"), gateway.path("crossgate.yaml")).unwrap();
        assert_eq!(gateway.admin("POST", "/reload").status, 200);
    };
    reload(&text.replace(check, &format!("attempts: 1, {check}")));
    assert_eq!(unhealthy(&gateway), 1.0);
    assert_eq!(count_answers(&gateway, 10), (0, 10));
    // Changed checks start without a result, and so does an upstream without checks.
    one.health.store(200, SeqCst);
    reload(&text.replace(check, CHECK));
    wait_until("checked often", || one.seen("/healthz") > 3 && two.seen("/healthz") > 3);
    assert_eq!(count_answers(&gateway, 10), (5, 5));
    one.health.store(503, SeqCst);
    wait_until("unhealthy", || unhealthy(&gateway) == 1.0);
    let three = Checked::start("two", 200);
    let other = format!("{CHECK} }}\n  other: {{ servers: [{}], {CHECK}", three.upstream.address);
    reload(&text.replace(check, "attempts: 2").replace("attempts: 2", &other.replacen(CHECK, "attempts: 2", 1)));
    assert_eq!(count_answers(&gateway, 10), (5, 5));
    let before = one.seen("/healthz");
    wait_until("the other is checked", || three.seen("/healthz") >= 5);
    assert!(one.seen("/healthz") <= before + 1, "a removed check still runs");
}

#[test]
fn checks_end_when_the_listeners_close() {
    let held = RecordingUpstream::start(|exchange| match &*exchange.seen.target {
        "/healthz" => exchange.answer(200, &[], b""),
        _ => Then::Stall,
    });
    let checks = || held.seen().iter().filter(|seen| seen.target == "/healthz").count();
    let gateway = Gateway::start(&before(&held.address.to_string(), &format!(", {CHECK}")), &[]);
    // A running request delays the end of the gateway.
    let mut busy = Connection::open(gateway.data);
    busy.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    wait_until("asked and checked", || checks() > 0 && held.total() > checks());
    gateway.process.signal(Signal::TERM);
    wait_until("closed", || TcpStream::connect(gateway.data).is_err());
    let before_end = checks();
    let clock = Checked::start("one", 200);
    let _other = Gateway::start(&before(&clock.upstream.address.to_string(), &format!(", {CHECK}")), &[]);
    wait_until("time has passed", || clock.seen("/healthz") >= 5);
    assert!(checks() <= before_end + 1, "{} after {before_end}", checks());
}

#[test]
fn server_that_does_not_answer_is_unhealthy() {
    let (silent, down) = (RecordingUpstream::start(|_| Then::Stall), RefusedAddress::new());
    let healthy = [Checked::start("one", 200), Checked::start("two", 200), Checked::start("two", 200)];
    let mut servers: Vec<_> = healthy.iter().map(|server| server.upstream.address.to_string()).collect();
    servers.extend([silent.address.to_string(), down.address.to_string()]);
    let check = ", healthCheck: { path: /healthz, interval: 1h, timeout: 200ms }";
    let gateway = Gateway::start(&before(&servers.join(", "), check), &[]);
    wait_until("unhealthy", || unhealthy(&gateway) == 2.0);
    count_answers(&gateway, 20);
}

#[test]
fn backup_server_gets_requests_only_while_no_other_server_is_available() {
    let (one, spare) = (Checked::start("one", 200), Checked::start("two", 200));
    let servers = format!("{}, {{ address: {}, backup: true }}", one.upstream.address, spare.upstream.address);
    let gateway = Gateway::start(&before(&servers, &format!(", {CHECK}")), &[]);
    assert_eq!(count_answers(&gateway, 20), (20, 0));
    one.health.store(500, SeqCst);
    wait_until("the server is unhealthy", || unhealthy(&gateway) == 1.0);
    assert_eq!(count_answers(&gateway, 20), (0, 20));
    let status = gateway.admin("GET", "/status").json();
    let servers = status["upstreams"][0]["servers"].as_array().unwrap();
    let backup: Vec<_> = servers.iter().map(|server| (server["backup"] == true, server["state"].clone())).collect();
    assert_eq!(backup, [(false, "unhealthy".into()), (true, "up".into())]);
    one.health.store(200, SeqCst);
    wait_until("the server is back", || unhealthy(&gateway) == 0.0);
    assert_eq!(count_answers(&gateway, 20), (20, 0));
}

#[test]
fn backup_server_takes_over_from_a_server_that_refuses_connections() {
    let (refused, spare) = (RefusedAddress::new(), Checked::start("two", 200));
    let servers = format!("{}, {{ address: {}, backup: true }}", refused.address, spare.upstream.address);
    let gateway = Gateway::start(&before(&servers, ""), &[]);
    // The first requests are tried again on the backup server, until the other one is excluded.
    assert_eq!(count_answers(&gateway, 40), (0, 40));
    let ejected = gateway.metric("crossgate_upstream_servers", &[("upstream", "api"), ("state", "ejected")]);
    assert_eq!(ejected, 1.0);
}
