//! Tests of explanations.

use std::sync::Arc;

use super::*;
use crate::probe::RequestDescription;
use crate::registry::GatewayMetrics;
use crate::reload::{BrokenTenants, Reloader};

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0", healthPath: /gateway-health }]
limits: { maxRequestBody: 1KiB }
scriptsDir: scripts
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies:
  spa: { allowOrigins: ["https://app.example", "https://*.app.example"], allowMethods: [PUT], allowCredentials: true }
  sso: { allowOrigins: ["https://app.example"], unmatchedRequests: Forward }
  open: { allowOrigins: ["*"] }
  strict: { allowOrigins: ["https://app.example"], preflightFailures: Reject }
  wide: { allowOrigins: ["https://app.example"], allowMethods: [PATCH], allowHeaders: ["*"] }
  seen: { allowOrigins: ["https://app.example"], mode: Report }
  ruled: { rule: { script: partners.rhai } }
tenants:
  - id: acme
    hosts: [api.example]
    upstream: a
    policy: spa
    routes:
      - { pathPrefix: /acs, policy: sso }
      - { pathPrefix: /open, policy: open }
      - { pathPrefix: /seen, policy: seen }
      - { pathPrefix: /strict, policy: strict }
      - { pathPrefix: /strict/but, preflightFailures: Reject }
      - { pathPrefix: /write, methods: [PUT, DELETE], policy: open }
  - { id: wide, hosts: [wide.example], upstream: a, policy: wide, allowOrigins: ["https://own.example"] }
  - { id: ruled, hosts: [ruled.example], upstream: a, policy: ruled }
"#;

/// The rule of the policy `ruled`.
const RULE: &str =
    r#"fn decide(req) { if req.origin == "https://partner.example" { allow() } else { deny("no partner") } }"#;

fn snapshot() -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, CONFIG).unwrap();
    std::fs::create_dir(dir.path().join("scripts")).unwrap();
    std::fs::write(dir.path().join("scripts/partners.rhai"), RULE).unwrap();
    let reloader = Reloader::start(&path, BrokenTenants::Refuse, &GatewayMetrics::new());
    reloader.unwrap_or_else(|found| panic!("{found}")).current().latest()
}

fn explained(query: &str) -> Explanation {
    let probe = RequestDescription::from_query(query).and_then(RequestDescription::into_request).unwrap();
    explain(&snapshot(), &probe)
}

/// Checks kind, verdict, reason and status.
#[track_caller]
fn check(query: &str, expected: (Option<&str>, &str, &str, Option<u16>)) -> Explanation {
    let explanation = explained(query);
    assert_eq!(
        (explanation.kind, explanation.verdict.as_str(), explanation.reason, explanation.response.status),
        expected,
        "{query}\n{explanation}"
    );
    explanation
}

#[test]
fn explain_allowed_request_shows_entry_and_added_fields() {
    let explanation = check(
        "host=api.example&origin=https://x.app.example&path=/orders?a=b",
        (Some("actual"), "allow", "wildcard", None),
    );
    assert_eq!(explanation.entry.as_deref(), Some("https://*.app.example"));
    assert_eq!((explanation.tenant.as_deref(), explanation.policy.as_deref()), (Some("acme"), Some("spa")));
    assert_eq!(
        (explanation.response.by, explanation.response.removes),
        (ResponseAuthor::Upstream, Some("access-control-"))
    );
    let names: Vec<_> = explanation.response.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["access-control-allow-credentials", "access-control-allow-origin", "vary", "x-request-id"]);
    assert!(explanation.notes.is_empty());
}

#[test]
fn d5_explain_notes_a_health_path() {
    let is_noted = |query| explained(query).notes.iter().any(|note| note.contains("healthPath"));
    assert!(
        is_noted("host=api.example&path=/gateway-health") && is_noted("host=unknown.example&path=/gateway-health?x")
    );
    assert!(!is_noted("host=api.example&path=/gateway-health/x"));
    assert!(!is_noted("host=api.example&path=/gateway-health&method=POST"));
}

#[test]
fn explain_preflight_shows_all_response_fields() {
    let explanation = check(
        "host=api.example&origin=https://app.example&method=PUT&request-headers=",
        (Some("preflight"), "allow", "exact", Some(204)),
    );
    let names: Vec<_> = explanation.response.headers.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "access-control-allow-credentials",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-max-age",
        "proxy-status",
        "vary",
    ];
    assert_eq!(names, expected);
}

#[test]
fn explain_denial_shows_near_misses() {
    let explanation =
        check("host=api.example&origin=https://app.example:8443", (Some("actual"), "deny", "no_match", Some(403)));
    let nearest = explanation.near_misses.first().map(ToString::to_string);
    assert_eq!(nearest.as_deref(), Some("https://app.example: port differs"));
    let explanation = check(
        "host=api.example&origin=https://app.example&method=DELETE&request-headers=x-a",
        (Some("preflight"), "deny", "method", Some(204)),
    );
    assert!(explanation.cause.is_some_and(|cause| cause.contains("DELETE")));
}

#[test]
fn c1_explain_shows_the_response_to_a_refusal() {
    let query = "host=api.example&origin=https://app.example&method=DELETE&request-headers=x-a";
    let explanation = check(query, (Some("preflight"), "deny", "method", Some(204)));
    let header =
        |name: &str| explanation.response.headers.iter().find(|(one, _)| one == name).map(|(_, value)| &**value);
    assert_eq!(header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(header("access-control-allow-headers"), None);
    assert_eq!(header("access-control-max-age"), Some("0"));
    assert_eq!(header("cache-control"), Some("no-store"));
    assert!(explanation.notes.iter().any(|note| note.contains("preflightFailures: Explain")), "{explanation}");
    for path in ["/strict", "/strict/but"] {
        let explanation = check(&format!("{query}&path={path}"), (Some("preflight"), "deny", "method", Some(403)));
        assert!(explanation.notes.is_empty(), "{explanation}");
    }
    let seen = check(&format!("{query}&path=/seen"), (Some("preflight"), "would_deny", "method", None));
    assert_eq!(seen.response.by, ResponseAuthor::Upstream);
}

#[test]
fn b3_explain_reports_a_rewritten_host() {
    let explanation = check(
        "host=api.example&origin=https://www.example&header=sec-fetch-site:same-origin",
        (Some("actual"), "deny", "no_match", Some(403)),
    );
    let cause = explanation.cause.unwrap();
    assert!(cause.contains("host is `api.example`, so a proxy in front has rewritten `Host`"), "{cause}");
    assert!(cause.ends_with("have it forward the client's `Host`, or list the origin"), "{cause}");
}

#[test]
fn explain_notes_give_advice() {
    for (query, note) in [
        ("origin=https://evil.example&header=sec-fetch-mode:navigate", "unmatchedRequests: Forward"),
        ("origin=https://evil.example&method=POST", "form on another site"),
        ("origin=https://app.example&method=PUT", "sends a preflight first"),
        ("origin=https://evil.example&path=/acs", "denied but forwarded"),
        ("origin=https://app.example&path=/seen", "protects nothing"),
        (
            "origin=https://evil.example&path=/open&header=connection:upgrade&header=upgrade:websocket&header=cookie:a=b",
            "refuses handshakes with Cookie or Authorization",
        ),
    ] {
        let explanation = explained(&format!("host=api.example&{query}"));
        assert!(explanation.notes.iter().any(|found| found.contains(note)), "{query}\n{explanation}");
    }
}

/// The refusal of a preflight: names, the list, what to write, and whether there is a hint.
#[track_caller]
fn refused(query: &str) -> (String, String, Option<String>, bool) {
    let explanation = explained(query);
    let refused = explanation.refused.clone().unwrap_or_else(|| panic!("{query}\n{explanation}"));
    assert!(
        refused.write.is_none() || refused.write_at.as_ref().is_some_and(|at| at.contains("gateway.yaml:")),
        "{explanation}"
    );
    (refused.names.join(","), refused.allowed.join(","), refused.write, refused.hint.is_some())
}

#[test]
fn c5_refused_method_or_header_shows_list_and_fix() {
    let spa = "host=api.example&origin=https://app.example";
    let wide = "host=wide.example&origin=https://app.example";
    for (query, names, allowed, write, has_hint) in [
        (
            format!("{spa}&method=PATCH&request-headers="),
            "PATCH",
            "PUT,GET,HEAD,POST",
            Some("allowMethods: [PUT, PATCH]"),
            false,
        ),
        (
            format!("{spa}&method=patch&request-headers="),
            "patch",
            "PUT,GET,HEAD,POST",
            Some("allowMethods: [PUT, PATCH]"),
            true,
        ),
        (format!("{wide}&method=patch&request-headers="), "patch", "PATCH,GET,HEAD,POST", None, true),
        (
            format!("{spa}&method=PURGE&request-headers="),
            "PURGE",
            "PUT,GET,HEAD,POST",
            Some("allowMethods: [PUT, PURGE]"),
            false,
        ),
        (
            format!("{spa}&method=purge&request-headers="),
            "purge",
            "PUT,GET,HEAD,POST",
            Some("allowMethods: [PUT, purge]"),
            true,
        ),
        (format!("{spa}&method=TRACE&request-headers="), "TRACE", "PUT,GET,HEAD,POST", None, true),
        (
            format!("{spa}&method=PUT&request-headers=X-B,x-a,x-a"),
            "x-a,x-b",
            "",
            Some("allowHeaders: [x-a, x-b]"),
            false,
        ),
        (
            format!("{wide}&method=PATCH&request-headers=x-a,Authorization"),
            "authorization",
            "*",
            Some("allowHeaders: [\"*\", authorization]"),
            true,
        ),
    ] {
        let expected = (names.to_owned(), allowed.to_owned(), write.map(str::to_owned), has_hint);
        assert_eq!(refused(&query), expected, "{query}");
    }
    for query in [
        format!("{spa}&method=PUT&request-headers="),
        format!("{spa}&method=PATCH"),
        "host=api.example&origin=https://evil.example&method=PATCH&request-headers=".to_owned(),
        format!("{spa}&method=PUT&request-headers=x%20y"),
    ] {
        assert_eq!(explained(&query).refused, None, "{query}");
    }
}

#[test]
fn c5_explain_shows_locations_of_policy_and_entry() {
    let at = |query: &str| {
        let explanation = explained(query);
        let line = |place: Option<String>| place.map(|place| place.rsplit_once(':').unwrap().1.to_owned());
        (line(explanation.locations.policy_at), line(explanation.locations.entry_at))
    };
    let line = |text: &str| Some((CONFIG.lines().position(|line| line.contains(text)).unwrap() + 1).to_string());
    assert_eq!(at("host=api.example&origin=https://x.app.example"), (line("spa: {"), line("spa: {")));
    assert_eq!(at("host=wide.example&origin=https://own.example"), (line("wide: {"), line("id: wide")));
    assert_eq!(at("host=wide.example&origin=https://evil.example"), (line("wide: {"), None));
    for origin in ["https://partner.example", "https://evil.example"] {
        assert_eq!(
            at(&format!("host=ruled.example&origin={origin}")),
            (line("ruled: {"), line("ruled: {")),
            "{origin}"
        );
    }
    assert_eq!(at("host=other.example"), (None, None));
    let explanation =
        explained("host=api.example&origin=https://app.example&method=patch&request-headers=").to_string();
    for row in [
        "policy     spa (",
        "entry      https://app.example (",
        "refused    method patch",
        "write      allowMethods: [PUT, PATCH] (",
    ] {
        assert!(explanation.lines().any(|line| line.starts_with(row)), "no {row} in\n{explanation}");
    }
}

#[test]
fn c5_explain_names_longer_route_with_other_methods() {
    let notes = |query: &str| explained(query).notes.iter().filter(|note| note.contains("the route /write")).count();
    assert_eq!(notes("host=api.example&origin=https://app.example&path=/write/x"), 1);
    assert_eq!(notes("host=api.example&origin=https://app.example&path=/write/x&method=PATCH&request-headers="), 1);
    assert_eq!(notes("host=api.example&origin=https://app.example&path=/write/x&method=PUT"), 0);
    assert_eq!(notes("host=api.example&origin=https://app.example&path=/writes"), 0);
}

#[test]
fn explain_report_mode_changes_no_response() {
    let explanation = check(
        "host=api.example&origin=https://evil.example&path=/seen",
        (Some("actual"), "would_deny", "no_match", None),
    );
    assert!(explanation.response.headers.is_empty());
    assert_eq!(explanation.response.removes, None);
}

#[test]
fn explain_covers_requests_without_a_policy() {
    check("host=other.example", (Some("non_cors"), "deny", "unknown_host", Some(421)));
    check("host=api.example&method=TRACE", (None, "deny", "method", Some(405)));
    check("host=api.example&header=host:b", (None, "deny", "host", Some(400)));
    check("host=api.example&header=connection:origin", (Some("non_cors"), "deny", "bad_request", Some(400)));
    check(&format!("host=api.example&header=x:{}", "y".repeat(9_000)), (None, "deny", "head_too_large", Some(431)));
    let explanation = check(
        "host=api.example&origin=https://app.example&method=PUT&header=content-length:2000",
        (Some("actual"), "allow", "exact", Some(413)),
    );
    assert!(explanation.response.headers.iter().any(|(name, _)| name == "access-control-allow-origin"));
}

#[test]
fn explain_uses_the_scheme_from_a_trusted_proxy() {
    let query = "host=api.example&origin=http://api.example&header=x-forwarded-proto:https";
    let explanation = check(query, (Some("same_origin"), "allow", "same_origin", None));
    assert!(explanation.notes.iter().any(|note| note.contains("trusted=true")), "{explanation}");
    let explanation = check(&format!("{query}&trusted=true"), (Some("actual"), "deny", "no_match", Some(403)));
    assert!(!explanation.notes.iter().any(|note| note.contains("trusted=true")), "{explanation}");
}

#[test]
fn explain_notes_a_different_logged_verdict() {
    let notes_of = |more: &str| {
        let line =
            format!(r#"{{"host":"api.example","method":"GET","path":"/","origin":"https://app.example"{more}}}"#);
        explain(&snapshot(), &ExplainedRequest::from_log_line(&line).unwrap()).notes
    };
    assert_eq!(notes_of(r#","verdict":"allow","reason":"exact""#), [""; 0]);
    let notes = notes_of(r#","verdict":"deny","reason":"no_match""#);
    assert!(
        notes[0].contains("the request got deny, no_match, but this configuration gives allow, exact"),
        "{notes:?}"
    );
    let notes = notes_of(r#","verdict":"allow","reason":"exact","cut":true"#);
    assert!(notes[0].contains("truncated text"), "{notes:?}");
}

#[test]
fn explain_lists_entries_if_there_is_no_near_miss() {
    let explanation = explained("host=api.example&origin=https://evil.test");
    assert_eq!(explanation.allowed.entries, ["https://app.example", "https://*.app.example"]);
    let many = AllowedEntries { entries: vec!["https://a.test".into()], more: 12 };
    let text = Explanation { allowed: many, ..explanation }.to_string();
    assert!(text.contains("allowed    https://a.test\nallowed    and 12 more\n"), "{text}");
}

#[test]
fn explanation_text_contains_all_rows() {
    let explanation = explained("host=api.example&origin=https://app.example:8443").to_string();
    for line in [
        "tenant     acme",
        "verdict    deny",
        "near miss  https://app.example: port differs",
        "answer     403, made by the gateway",
        "header     vary: Origin",
    ] {
        assert!(explanation.lines().any(|found| found == line), "no {line:?} in\n{explanation}");
    }
}
