//! Rules over a socket: decisions, live edits, mistakes, and no cached answer of an old rule.
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Connection, Gateway, HOST, RecordingUpstream, Response, config, request};
use serde_json::Value;

const LIVE_WITHIN: Duration = Duration::from_secs(5);
const GUEST: &str = "https://guest.test";

/// A site whose policy has only a rule and no origins.
struct Ruled {
    gateway: Gateway,
    upstream: RecordingUpstream,
}

const PREVIEW: &str = r#"fn decide(req) {
    if req.host == "guest.test" { allow() } else { deny("not a guest") }
}
"#;

fn ruled_config(upstream: &RecordingUpstream, policy: &str) -> String {
    let server = upstream.address;
    config(&format!(
        "scriptsDir: scripts
upstreams:
  api: {{ servers: [{server}] }}
policies:
  spa:
    allowMethods: [PUT]
    allowHeaders: [x-plan]
    allowCredentials: true
{policy}
tenants:
  - {{ id: a, hosts: [{HOST}], upstream: api, policy: spa }}
  - {{ id: b, hosts: [b.test], upstream: api, policy: spa }}
"
    ))
}

impl Ruled {
    fn start(source: &str) -> Self {
        Self::with("    rule: { script: preview.rhai }", source)
    }

    fn with(policy: &str, source: &str) -> Self {
        let upstream = RecordingUpstream::answering("hello");
        let gateway = Gateway::start(&ruled_config(&upstream, policy), &[("scripts/preview.rhai", source)]);
        Self { gateway, upstream }
    }

    fn save(&self, source: &str) {
        fs::write(self.gateway.path("scripts/preview.rhai"), source).unwrap();
    }

    fn get(&self, origin: &str) -> Response {
        self.gateway.ask("GET", "/", HOST, &[("Origin", origin)])
    }

    fn preflight(&self, origin: &str, method: &str) -> Response {
        self.gateway.ask("OPTIONS", "/", HOST, &[("Origin", origin), ("Access-Control-Request-Method", method)])
    }

    fn status(&self) -> Value {
        self.gateway.admin("GET", "/status").json()
    }

    /// Waits until the condition holds.
    fn wait(&self, what: &str, wanted: impl Fn() -> bool) {
        let begun = Instant::now();
        while !wanted() {
            assert!(begun.elapsed() < LIVE_WITHIN, "{what}\n{}", self.gateway.process.stderr());
        }
    }
}

#[test]
fn rule_allows_and_denies_with_a_message() {
    let site = Ruled::start(PREVIEW);
    let preflight = site.preflight(GUEST, "PUT");
    assert_eq!((preflight.status, preflight.headers.one("access-control-allow-origin")), (204, GUEST));
    assert_eq!(preflight.headers.one("access-control-max-age"), "600");
    let get = site.get(GUEST);
    assert_eq!((get.status, get.headers.one("access-control-allow-credentials")), (200, "true"));
    let refused = site.get("https://other.test");
    assert_eq!((refused.status, refused.json()["detail"].as_str()), (403, Some("not a guest")));
    assert_eq!(refused.json()["reason"], "rule_deny");
    assert_eq!(refused.headers.access_control(), Vec::<String>::new());
    let narrow = site.preflight(GUEST, "DELETE");
    assert_eq!(
        (narrow.status, narrow.headers.one("access-control-max-age")),
        (204, "0"),
        "the rule's max age must not exceed the policy's"
    );
    assert_eq!(narrow.headers.one("access-control-allow-methods"), "PUT");
    assert_eq!(site.get("null").json()["reason"], "null_origin", "a rule must not run for null");
    assert_eq!(site.get("https://guest.test/").json()["reason"], "malformed_origin");
    assert_eq!(site.get("http://guest.test").json()["reason"], "rule_deny", "plain http with credentials");
    for (reason, verdict, times) in [("rule", "allow", 2.0), ("rule_deny", "deny", 2.0)] {
        site.gateway.wait_metric(
            "crossgate_requests_total",
            &[("tenant", "a"), ("reason", reason), ("verdict", verdict)],
            times,
        );
    }
    let origin = [("tenant", "a"), ("origin", "rule:preview"), ("verdict", "allow")];
    site.gateway.wait_metric("crossgate_origin_requests_total", &origin, 2.0);
}

#[test]
fn saved_rule_goes_live_and_broken_one_does_not() {
    let site = Ruled::start(PREVIEW);
    assert_eq!(site.get(GUEST).status, 200);
    site.save(&PREVIEW.replace("guest.test", "other.test"));
    site.wait("the new rule", || site.get(GUEST).status == 403 && site.get("https://other.test").status == 200);

    site.save("fn decide(req) {\n    if req.hots == \"guest.test\" { allow() }\n}\n");
    site.wait("the broken rule in the status", || {
        site.status()["reload"]["brokenFiles"].as_array().is_some_and(|all| !all.is_empty())
    });
    let broken = &site.status()["reload"]["brokenFiles"][0];
    assert!(broken["file"].as_str().unwrap().ends_with("scripts/preview.rhai"), "{broken}");
    let error = &broken["errors"][0];
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(2), Some(12)), "{error}");
    assert!(error["message"].as_str().unwrap().contains("host"), "a suggestion: {error}");
    // The log has the location.
    site.gateway.process.stderr_line(|line| line.contains("preview.rhai:2:12").then_some(()));
    assert!(site.gateway.metric("crossgate_rule_load_failures_total", &[]) >= 1.0);
    assert_eq!(site.get("https://other.test").status, 200, "the last good rule must stay active");

    site.save(PREVIEW);
    site.wait("the mended rule", || site.get(GUEST).status == 200);
    assert_eq!(site.status()["reload"]["brokenFiles"], Value::Array(Vec::new()));
}

#[test]
fn rule_that_fails_its_cases_is_refused() {
    let site = Ruled::start(PREVIEW);
    let cases = "cases:\n  - { name: a guest, request: { origin: \"https://guest.test\" }, expect: allow }\n";
    fs::write(site.gateway.path("scripts/preview.cases.yaml"), cases).unwrap();
    site.save(&PREVIEW.replace("guest.test", "other.test"));
    site.wait("the failed case in the status", || {
        site.status()["reload"]["brokenFiles"].to_string().contains("a guest")
    });
    assert_eq!(site.get(GUEST).status, 200);
    assert_eq!(site.get("https://other.test").status, 403);
}

#[test]
fn vary_lists_every_listed_header_from_the_first_response_on() {
    let source = r#"fn decide(req) {
    if req.host != "guest.test" { return deny("not a guest"); }
    if req.header("x-plan") == "gold" && req.query("key") == "k" { allow(#{ maxAge: 60, credentials: false }) }
}
"#;
    let site = Ruled::with("    rule: { script: preview.rhai, headers: [x-plan], query: [key] }", source);
    let vary = |response: &Response| response.headers.vary();
    let first = site.gateway.ask("GET", "/", HOST, &[]);
    assert_eq!((first.status, vary(&first)), (200, vec!["origin".to_owned(), "x-plan".to_owned()]));
    assert_eq!(vary(&site.get("https://other.test")), ["origin", "x-plan"]);
    let wanted = ["access-control-request-headers", "access-control-request-method", "origin", "x-plan"];
    assert_eq!(vary(&site.preflight("https://other.test", "PUT")), wanted);

    let ask = |target: &str, plan: &str| site.gateway.ask("GET", target, HOST, &[("Origin", GUEST), ("X-Plan", plan)]);
    for _ in 0..3 {
        assert_eq!(ask("/?key=k", "gold").status, 200);
        assert_eq!(ask("/?key=other", "gold").json()["reason"], "no_match", "abstaining must deny");
        assert_eq!(ask("/?key=k", "silver").status, 403);
    }
    let allowed = ask("/?key=k", "gold");
    assert!(
        allowed.headers.access_control().iter().all(|name| name != "access-control-allow-credentials"),
        "{allowed:?}"
    );
}

#[test]
fn failing_rule_denies_only_its_own_tenant() {
    let source = "fn decide(req) { if req.tenant == \"a\" { loop {} } else { allow() } }\n";
    let site = Ruled::with(
        "    rule: { script: preview.rhai }\n    dangerouslyAllowAnyOrigin: true\n    allowOrigins: [\"https://listed.test\"]",
        source,
    );
    for _ in 0..40 {
        assert_eq!(site.get(GUEST).json()["reason"], "rule_error");
        assert_eq!(site.get("https://listed.test").status, 200, "static entries must not need the rule");
        assert_eq!(site.gateway.ask("GET", "/", "b.test", &[("Origin", GUEST)]).status, 200);
    }
    assert!(site.gateway.metric("crossgate_rule_errors_total", &[("tenant", "a"), ("kind", "operations")]) >= 20.0);
    assert!(site.gateway.metric("crossgate_rule_errors_total", &[("tenant", "a"), ("kind", "breaker")]) >= 1.0);
    assert_eq!(site.gateway.metric("crossgate_rule_errors_total", &[("tenant", "b")]), 0.0);
    let is_open = || site.gateway.metric("crossgate_rule_breaker_open", &[("tenant", "a"), ("rule", "preview")]);
    assert_eq!(is_open(), 1.0);
    site.save("fn decide(req) { if req.host == \"guest.test\" { allow() } }\n");
    site.wait("a reload closes the breaker", || site.get(GUEST).status == 200);
    assert_eq!(is_open(), 0.0);
}

#[test]
fn rule_timeout_denies_and_is_logged() {
    // The limit on operations is high enough that the time limit is reached first.
    let limits = "limits: { rules: { operations: 10000000, time: 5ms } }\n";
    let source = "fn decide(req) { if req.host != \"slow.test\" { return deny(\"quick\"); } loop {} }\n";
    let upstream = RecordingUpstream::answering("hello");
    let text = ruled_config(&upstream, "    rule: { script: preview.rhai }") + limits;
    let gateway = Gateway::start(&text, &[("scripts/preview.rhai", source)]);
    let ask = |origin: &str| gateway.ask("GET", "/", HOST, &[("Origin", origin)]);
    for _ in 0..3 {
        let answer = ask("https://slow.test");
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (403, Some("rule_error")), "{answer:?}");
        assert_eq!(answer.headers.access_control(), Vec::<String>::new());
        assert_eq!(ask("https://quick.test").json()["reason"], "rule_deny", "the next run must have its own time");
    }
    let of_tenant = |name: &str, label: (&str, &str)| gateway.metric(name, &[("tenant", "a"), label]);
    assert_eq!(of_tenant("crossgate_rule_errors_total", ("kind", "time")), 3.0);
    assert_eq!(of_tenant("crossgate_rule_runs_total", ("outcome", "error")), 3.0);
    gateway.wait_metric("crossgate_requests_total", &[("tenant", "a"), ("reason", "rule_error")], 3.0);
    gateway.process.stderr_line(|line| line.contains("the run took too long").then_some(()));
    assert_eq!(upstream.total(), 0);
}

#[test]
fn credentialed_rule_allowing_any_origin_is_refused() {
    let site = Ruled::start(PREVIEW);
    site.save("fn decide(req) { if req.scheme == \"https\" { allow() } }\n");
    site.wait("the refusal in the status", || {
        site.status()["reload"]["brokenFiles"].to_string().contains("dangerouslyAllowAnyOrigin")
    });
    assert!(site.gateway.metric("crossgate_rule_load_failures_total", &[]) >= 1.0);
    assert_eq!(site.get(GUEST).status, 200);
    assert_eq!(site.get("https://other.test").status, 403);
}

#[test]
fn explain_reports_the_rule_result() {
    let site = Ruled::start(PREVIEW);
    let explain = |origin: &str| site.gateway.admin("GET", &format!("/explain?host={HOST}&origin={origin}")).json();
    let before = explain(GUEST);
    assert_eq!((before["rule"]["answer"].as_str(), before["rule"]["cached"].as_bool()), (Some("allow"), Some(false)));
    assert_eq!(before["rule"]["reads"], serde_json::json!(["host"]));
    assert!(before["rule"]["operations"].as_u64().unwrap() > 0);
    site.get(GUEST);
    assert_eq!(explain(GUEST)["rule"]["cached"], true);
    assert_eq!(explain("https://other.test")["rule"]["message"], "not a guest");
    assert_eq!(explain("https://other.test")["entry"], "rule:preview");
}

/// Renders generation `n` of the rule, which allows only the host `gN.test`.
fn numbered(n: u64) -> String {
    format!("fn decide(req) {{ if req.host == \"g{n}.test\" {{ allow() }} else {{ deny(\"generation {n}\") }} }}\n")
}

/// One thread saves and reloads a thousand times while three send requests. No answer may be of an
/// older generation than the one known to be live.
#[test]
fn no_stale_verdict_across_a_thousand_reloads_under_load() {
    const RELOADS: u64 = 1_000;
    let site = Ruled::start(&numbered(0));
    let (floor, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut connection = Connection::open(site.gateway.data);
                for _ in 0..u64::MAX {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let known = floor.load(Ordering::SeqCst);
                    let bytes = request("GET", "/", HOST, &[("Origin", "https://unknown.test")], b"");
                    let answer = connection.exchange(&bytes).unwrap();
                    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                    let generation: u64 = detail.strip_prefix("generation ").unwrap().parse().unwrap();
                    assert!(generation >= known, "an answer of generation {generation} after {known} was live");
                    if answer.headers.all("connection").contains(&"close") {
                        connection = Connection::open(site.gateway.data);
                    }
                }
            });
        }
        for n in 1..=RELOADS {
            site.save(&numbered(n));
            let report = site.gateway.admin("POST", "/reload");
            assert_eq!(report.status, 200, "{}", report.text());
            floor.store(n, Ordering::SeqCst);
            if n % 100 == 0 {
                assert_eq!(site.get(&format!("https://g{n}.test")).status, 200);
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(site.upstream.seen().len(), 10);
}

#[test]
fn rule_chooses_the_group_of_an_origin() {
    let source = r#"fn decide(req) {
    if req.host == "guest.test" { allow(#{ group: "guests", maxAge: 5 }) }
    else if req.host == "staff.test" { allow() }
}
"#;
    let policy = "    groups:
      - { name: guests, allowCredentials: false, allowMethods: [DELETE], exposeHeaders: [x-total] }
    rule: { script: preview.rhai, groups: [guests] }";
    let site = Ruled::with(policy, source);
    let guest = site.preflight(GUEST, "DELETE");
    assert_eq!((guest.status, guest.headers.one("access-control-allow-methods")), (204, "DELETE"));
    assert_eq!(guest.headers.one("access-control-max-age"), "5");
    assert!(guest.headers.all("access-control-allow-credentials").is_empty(), "{guest:?}");
    assert_eq!(site.get(GUEST).headers.one("access-control-expose-headers"), "x-total");
    // Cached answers name the same group.
    assert_eq!(site.get(GUEST).headers.one("access-control-expose-headers"), "x-total");
    let staff = site.preflight("https://staff.test", "PUT");
    assert_eq!(staff.headers.one("access-control-allow-methods"), "PUT");
    assert_eq!(staff.headers.one("access-control-allow-credentials"), "true");
    let explained = site.gateway.admin("GET", &format!("/explain?host={HOST}&origin={GUEST}")).json();
    assert_eq!((&explained["group"], &explained["rule"]["group"]), (&"guests".into(), &"guests".into()), "{explained}");
    let name = "crossgate_origin_requests_total";
    let counted = site.gateway.metric(name, &[("origin", "rule:preview"), ("group", "guests")]);
    assert_eq!(counted, 3.0, "one preflight and two requests");
    let metrics = site.gateway.admin("GET", "/metrics").text();
    let outside = format!(r#"{name}{{tenant="a",origin="rule:preview",verdict="allow"}} 1"#);
    assert!(metrics.lines().any(|line| line == outside), "{metrics}");

    // An answer to a group that the policy does not list is a mistake of the script, which keeps
    // its last good version.
    site.save(&source.replace("\"guests\"", "\"vips\""));
    site.wait("the mistake is reported", || site.status()["reload"]["brokenFiles"].to_string().contains("vips"));
    assert_eq!(site.get(GUEST).headers.one("access-control-expose-headers"), "x-total");
}

#[test]
fn rule_reads_the_host_that_is_asked_for() {
    let site = Ruled::start(
        "fn decide(req) { if req.host == \"guest.test\" && req.api_host == \"b.test\" { allow() } else { deny(req.api_host) } }\n",
    );
    for (host, status) in [("b.test", 200), ("B.test:80", 200), (HOST, 403), ("b.test", 200)] {
        let answer = site.gateway.ask("GET", "/", host, &[("Origin", GUEST)]);
        assert_eq!(answer.status, status, "{host}");
        // A cache keys by host in any case.
        assert_eq!(answer.headers.one("vary"), "Origin", "{host}");
    }
}
