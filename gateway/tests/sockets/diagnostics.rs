//! Standard error or standard output that is closed, full or blocked: serving is not affected, and
//! lost lines are counted.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    BrokenOutputGateway, Connection, HOST, ORIGIN, Output, RecordingUpstream, Response, assert_allowed, config, request,
};

const RULED: &str = "ruled.a.test";
/// Each of these policies causes one warning line in every load.
const UNUSED_POLICIES: usize = 200;
/// Loads whose warnings overflow the queue for standard error.
const RELOADS: usize = 12;

/// A gateway, and an upstream whose health the test sets.
struct Setup {
    gateway: BrokenOutputGateway,
    upstream: RecordingUpstream,
    is_healthy: Arc<AtomicBool>,
}

fn text(upstream: &RecordingUpstream, host: &str, log: &str) -> String {
    let unused: String = (0..UNUSED_POLICIES)
        .map(|number| format!("  unused{number}: {{ allowOrigins: [\"https://unused.test\"] }}\n"))
        .collect();
    let check = "healthCheck: { path: /healthz, interval: 100ms, timeout: 10s, healthyAfter: 1, unhealthyAfter: 1 }";
    config(&format!(
        "scriptsDir: scripts
upstreams:
  api: {{ servers: [{server}], {check} }}
  lost: {{ servers: [gone.test:1] }}
resolver: {{ servers: [\"127.0.0.1:1\"], timeout: 100ms }}
policies:
  spa:
    allowOrigins: [\"{ORIGIN}\"]
    allowMethods: [PUT]
    allowHeaders: [content-type, x-api]
    exposeHeaders: [x-req]
    allowCredentials: true
  ruled: {{ rule: {{ script: failing.rhai }} }}
{unused}tenants:
  - {{ id: a, hosts: [{host}], upstream: api, policy: spa }}
  - {{ id: b, hosts: [{RULED}], upstream: api, policy: ruled }}
  - {{ id: c, hosts: [lost.a.test], upstream: lost, policy: spa }}
{log}",
        server = upstream.address,
    ))
}

impl Setup {
    fn start(stdout: Output, stderr: Output) -> Self {
        let is_healthy = Arc::new(AtomicBool::new(true));
        let health = Arc::clone(&is_healthy);
        let upstream = RecordingUpstream::start(move |exchange| {
            exchange.read_body();
            match exchange.seen.target.as_str() {
                "/healthz" if !health.load(SeqCst) => exchange.answer(500, &[], b"ill"),
                "/slow" => {
                    std::thread::sleep(Duration::from_millis(500));
                    exchange.answer(200, &[], b"hello")
                }
                _ => exchange.answer(200, &[], b"hello"),
            }
        });
        let files = [("scripts/failing.rhai", "fn decide(req) {\n    42\n}\n")];
        let gateway = BrokenOutputGateway::start(&text(&upstream, HOST, ""), &files, stdout, stderr);
        Self { gateway, upstream, is_healthy }
    }

    fn ask(&self, host: &str, path: &str, origin: &str) -> Response {
        let bytes = request("GET", path, host, &[("Origin", origin)], b"");
        Connection::ask(self.gateway.data, &bytes).unwrap_or_else(|error| panic!("{host}{path}: {error:?}"))
    }

    fn write(&self, text: &str) {
        let path = self.gateway.directory.path();
        fs::write(path.join("next"), text).unwrap();
        fs::rename(path.join("next"), path.join("crossgate.yaml")).unwrap();
    }

    fn wait_for_host(&self, host: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.ask(host, "/", ORIGIN).status != 200 {
            assert!(Instant::now() < deadline, "{host} does not serve");
        }
    }

    /// Reloads by file and by request, with valid and with invalid configurations.
    fn check_reloads(&self) {
        self.write(&text(&self.upstream, "other.a.test", ""));
        self.wait_for_host("other.a.test");
        self.write("version: 1\n");
        assert_eq!(self.gateway.admin("POST", "/reload").status, 422);
        assert_eq!(self.gateway.metric("crossgate_config_last_reload_successful", ""), 0.0);
        assert_allowed(&self.ask("other.a.test", "/", ORIGIN));
        self.write(&text(&self.upstream, HOST, ""));
        for _ in 0..RELOADS {
            assert_eq!(self.gateway.admin("POST", "/reload").status, 200);
        }
        self.wait_for_host(HOST);
        assert_eq!(self.gateway.metric("crossgate_config_last_reload_successful", ""), 1.0);
        assert_eq!(self.gateway.admin("GET", "/readyz").status, 200);
    }

    /// Changes the result of health checks several times.
    fn check_health_checks(&self) {
        for is_healthy in [false, true, false, true] {
            self.is_healthy.store(is_healthy, SeqCst);
            let unhealthy = "state=\"unhealthy\"";
            self.gateway.wait_metric("crossgate_upstream_servers", unhealthy, |count| (count == 0.0) == is_healthy);
        }
    }

    /// Waits for repeated lookups of a name that does not resolve.
    fn check_lookups(&self) {
        let failures = "crossgate_upstream_lookup_failures_total";
        let before = self.gateway.metric(failures, "");
        self.gateway.wait_metric(failures, "", |count| count > before + 1.0);
        assert_eq!(self.ask("lost.a.test", "/", ORIGIN).status, 503);
    }

    /// Runs a failing rule, whose errors are logged, and checks that every request is answered.
    fn check_rules(&self) {
        for number in 0..40 {
            let denied = self.ask(RULED, "/", &format!("https://app{number}.test"));
            assert_eq!(denied.status, 403, "{denied:?}");
            assert_allowed(&self.ask(HOST, "/", ORIGIN));
        }
        assert!(self.gateway.metric("crossgate_rule_errors_total", "") > 0.0);
    }

    /// Checks the reasons of dropped diagnostics lines.
    fn assert_dropped(&self, stderr: Output) {
        let dropped = "crossgate_diagnostics_dropped_total";
        let (reason, other) = match stderr {
            Output::Discarded => {
                assert_eq!(self.gateway.metric(dropped, ""), 0.0);
                return;
            }
            Output::Closed | Output::Full => ("reason=\"failed\"", "reason=\"full\""),
            Output::Stuck => ("reason=\"full\"", "reason=\"failed\""),
        };
        self.gateway.wait_metric(dropped, reason, |count| count > 100.0);
        if stderr == Output::Stuck {
            assert_eq!(self.gateway.metric(dropped, other), 0.0);
        }
    }

    fn check_all(&self, stderr: Output) {
        self.check_reloads();
        self.check_health_checks();
        self.check_lookups();
        self.check_rules();
        self.assert_dropped(stderr);
    }
}

fn check(stdout: Output, stderr: Output) {
    let mut setup = Setup::start(stdout, stderr);
    setup.check_all(stderr);
    let mut successor = setup.gateway.hand_over();
    assert!(successor.is_running());
    setup.check_all(stderr);
    // A running request is answered before the end.
    let mut running = Connection::open(setup.gateway.data);
    let slow = request("GET", "/slow", HOST, &[("Origin", ORIGIN)], b"");
    let before = setup.upstream.total();
    running.send(&slow).unwrap();
    while setup.upstream.seen().iter().skip(before).all(|seen| seen.target != "/slow") {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    successor.signal(Signal::TERM);
    assert_allowed(&running.answer_to(&slow).unwrap());
    assert_eq!(successor.wait_ended(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn f1_closed_standard_error_does_not_affect_serving() {
    check(Output::Discarded, Output::Closed);
}

#[test]
fn f1_full_standard_error_does_not_affect_serving() {
    check(Output::Discarded, Output::Full);
}

#[test]
fn f1_blocked_standard_error_does_not_affect_serving() {
    check(Output::Discarded, Output::Stuck);
}

#[test]
fn f1_closed_standard_output_does_not_affect_serving() {
    check(Output::Closed, Output::Discarded);
}

#[test]
fn f1_full_standard_output_does_not_affect_serving() {
    check(Output::Full, Output::Discarded);
}

#[test]
fn f1_blocked_standard_output_does_not_affect_serving() {
    check(Output::Stuck, Output::Discarded);
}

#[test]
fn f1_lines_lost_by_standard_output_are_counted() {
    for stdout in [Output::Closed, Output::Full] {
        let setup = Setup::start(stdout, Output::Discarded);
        let before = setup.gateway.metric("crossgate_access_log_dropped_total", "");
        for _ in 0..20 {
            assert_allowed(&setup.ask(HOST, "/", ORIGIN));
        }
        let all = before + 20.0;
        setup.gateway.wait_metric("crossgate_access_log_dropped_total", "", |count| count >= all);
    }
}

#[test]
fn f1_both_outputs_blocked_do_not_affect_serving() {
    check(Output::Stuck, Output::Stuck);
}

/// A successor with an invalid configuration reports it to a blocked standard error and exits. The
/// old process continues to serve.
#[test]
fn f1_refused_successor_exits_with_blocked_standard_error() {
    let setup = Setup::start(Output::Discarded, Output::Stuck);
    let children = || {
        fs::read_dir("/proc")
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().path().join("cmdline");
                let command = fs::read(name).unwrap_or_default();
                let directory = setup.gateway.directory.path().to_str().unwrap().as_bytes().to_vec();
                command.windows(directory.len()).any(|part| part == directory)
            })
            .count()
    };
    setup.write("version: 1\n");
    setup.gateway.signal(Signal::USR2);
    let begun = Instant::now();
    while children() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no successor was started");
    }
    while children() > 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the successor does not end");
    }
    setup.write(&text(&setup.upstream, HOST, ""));
    setup.wait_for_host(HOST);
    assert_eq!(setup.gateway.admin("GET", "/readyz").status, 200);
}
