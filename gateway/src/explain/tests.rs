//! What is told of requests.

use std::sync::Arc;

use super::probe::Description;
use super::*;
use crate::metrics::Metrics;
use crate::reload::{BrokenTenants, Reloader};

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
limits: { maxRequestBody: 1KiB }
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies:
  spa: { allowOrigins: ["https://app.example", "https://*.app.example"], allowMethods: [PUT], allowCredentials: true }
  sso: { allowOrigins: ["https://app.example"], unmatchedRequests: Forward }
  open: { allowOrigins: ["*"] }
  seen: { allowOrigins: ["https://app.example"], mode: Report }
tenants:
  - id: acme
    hosts: [api.example]
    upstream: a
    policy: spa
    routes:
      - { pathPrefix: /acs, policy: sso }
      - { pathPrefix: /open, policy: open }
      - { pathPrefix: /seen, policy: seen }
"#;

fn snapshot() -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, CONFIG).unwrap();
    let reloader = Reloader::start(&path, BrokenTenants::Refuse, &Metrics::new());
    reloader.unwrap_or_else(|found| panic!("{found}")).current().latest()
}

fn told(query: &str) -> Explanation {
    let probe = Description::from_query(query).and_then(Description::into_probe).unwrap();
    explain(&snapshot(), &probe)
}

/// Kind, verdict, reason and status.
#[track_caller]
fn check(query: &str, expected: (Option<&str>, &str, &str, Option<u16>)) -> Explanation {
    let told = told(query);
    assert_eq!((told.kind, told.verdict.as_str(), told.reason, told.response.status), expected, "{query}\n{told}");
    told
}

#[test]
fn an_allowed_request_tells_its_entry_and_what_the_answer_gains() {
    let told = check(
        "host=api.example&origin=https://x.app.example&path=/orders?a=b",
        (Some("actual"), "allow", "wildcard", None),
    );
    assert_eq!(told.entry.as_deref(), Some("https://*.app.example"));
    assert_eq!((told.tenant.as_deref(), told.policy.as_deref()), (Some("acme"), Some("spa")));
    assert_eq!((told.response.by, told.response.removes), (Author::Upstream, Some("access-control-")));
    let names: Vec<_> = told.response.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["access-control-allow-credentials", "access-control-allow-origin", "vary", "x-request-id"]);
    assert!(told.notes.is_empty());
}

#[test]
fn a_preflight_is_told_whole() {
    let told = check(
        "host=api.example&origin=https://app.example&method=PUT&request-headers=",
        (Some("preflight"), "allow", "exact", Some(204)),
    );
    let names: Vec<_> = told.response.headers.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "access-control-allow-credentials",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-max-age",
        "vary",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_denial_tells_what_came_near() {
    let told =
        check("host=api.example&origin=https://app.example:8443", (Some("actual"), "deny", "no_match", Some(403)));
    let nearest = told.near_misses.first().map(ToString::to_string);
    assert_eq!(nearest.as_deref(), Some("https://app.example: port differs"));
    let told = check(
        "host=api.example&origin=https://app.example&method=DELETE&request-headers=x-a",
        (Some("preflight"), "deny", "method", Some(403)),
    );
    assert!(told.cause.is_some_and(|cause| cause.contains("DELETE")));
}

#[test]
fn what_to_consider_is_told() {
    for (query, note) in [
        ("origin=https://evil.example&header=sec-fetch-mode:navigate", "unmatchedRequests: Forward"),
        ("origin=https://evil.example&method=POST", "form on another site"),
        ("origin=https://app.example&method=PUT", "with a preflight first"),
        ("origin=https://evil.example&path=/acs", "denied, and yet forwarded"),
        ("origin=https://app.example&path=/seen", "protects nothing"),
        (
            "origin=https://evil.example&path=/open&header=connection:upgrade&header=upgrade:websocket&header=cookie:a=b",
            "one with Cookie or Authorization is refused",
        ),
    ] {
        let told = told(&format!("host=api.example&{query}"));
        assert!(told.notes.iter().any(|found| found.contains(note)), "{query}\n{told}");
    }
}

#[test]
fn report_mode_changes_nothing() {
    let told = check(
        "host=api.example&origin=https://evil.example&path=/seen",
        (Some("actual"), "would_deny", "no_match", None),
    );
    assert!(told.response.headers.is_empty());
    assert_eq!(told.response.removes, None);
}

#[test]
fn what_never_reaches_a_policy_is_told_too() {
    check("host=other.example", (Some("non_cors"), "deny", "unknown_host", Some(421)));
    check("host=api.example&method=TRACE", (None, "deny", "method", Some(405)));
    check("host=api.example&header=host:b", (None, "deny", "host", Some(400)));
    check("host=api.example&header=connection:origin", (Some("non_cors"), "deny", "bad_request", Some(400)));
    check(&format!("host=api.example&header=x:{}", "y".repeat(9_000)), (None, "deny", "head_too_large", Some(431)));
    let told = check(
        "host=api.example&origin=https://app.example&method=PUT&header=content-length:2000",
        (Some("actual"), "allow", "exact", Some(413)),
    );
    assert!(told.response.headers.iter().any(|(name, _)| name == "access-control-allow-origin"));
}

#[test]
fn a_trusted_proxys_word_about_the_scheme_counts() {
    let query = "host=api.example&origin=http://api.example&header=x-forwarded-proto:https";
    let told = check(query, (Some("same_origin"), "allow", "same_origin", None));
    assert!(told.notes.iter().any(|note| note.contains("trusted=true")), "{told}");
    let told = check(&format!("{query}&trusted=true"), (Some("actual"), "deny", "no_match", Some(403)));
    assert!(!told.notes.iter().any(|note| note.contains("trusted=true")), "{told}");
}

#[test]
fn a_log_line_that_says_otherwise_is_noted() {
    let told = |more: &str| {
        let line =
            format!(r#"{{"host":"api.example","method":"GET","path":"/","origin":"https://app.example"{more}}}"#);
        explain(&snapshot(), &Probe::from_log_line(&line).unwrap()).notes
    };
    assert_eq!(told(r#","verdict":"allow","reason":"exact""#), [""; 0]);
    let notes = told(r#","verdict":"deny","reason":"no_match""#);
    assert!(notes[0].contains("the log has deny, no_match, and this configuration gives allow, exact"), "{notes:?}");
    let notes = told(r#","verdict":"allow","reason":"exact","cut":true"#);
    assert!(notes[0].contains("cut a text"), "{notes:?}");
}

#[test]
fn where_nothing_is_near_some_entries_are_told() {
    let told = told("host=api.example&origin=https://evil.test");
    assert_eq!(told.allowed.entries, ["https://app.example", "https://*.app.example"]);
    let many = Allowed { entries: vec!["https://a.test".into()], more: 12 };
    let text = Explanation { allowed: many, ..told }.to_string();
    assert!(text.contains("allowed    https://a.test\nallowed    and 12 more\n"), "{text}");
}

#[test]
fn the_text_tells_all_of_it() {
    let told = told("host=api.example&origin=https://app.example:8443").to_string();
    for line in [
        "tenant     acme",
        "verdict    deny",
        "near miss  https://app.example: port differs",
        "answer     403, made by the gateway",
        "header     vary: Origin",
    ] {
        assert!(told.lines().any(|found| found == line), "no {line:?} in\n{told}");
    }
}
