//! Groups of origins: the shipped sample, and what operators see of a group.
use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Gateway, PATIENCE, RecordingUpstream, Response, config};

const FRONTEND: &str = "https://app.acme.example";
const PARTNER: &str = "https://eu.agency.example";
const OTHER: &str = "https://blog.example";
const HOST: &str = "api.acme.example";

/// A gateway with the shipped sample, and its upstream.
fn start(more: &str) -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::answering("hello");
    let (_, rest) = include_str!("../../../ops/config/groups.yaml").split_once("\nupstreams:").unwrap();
    let text = format!("upstreams:{rest}{more}").replace("10.1.0.11:9001", &upstream.address.to_string());
    (Gateway::start(&config(&text), &[]), upstream)
}

fn preflight(gateway: &Gateway, host: &str, origin: &str, method: &str) -> Response {
    gateway.ask("OPTIONS", "/", host, &[("Origin", origin), ("Access-Control-Request-Method", method)])
}

#[test]
fn every_kind_of_caller_gets_the_terms_of_its_group() {
    let (gateway, _upstream) = start("");
    for (origin, methods, credentials, max_age) in [
        (FRONTEND, "DELETE,GET,POST", &["true"][..], "7200"),
        (PARTNER, "GET,POST", &[], "3600"),
        (OTHER, "GET", &[], "3600"),
        ("null", "GET", &[], "3600"),
    ] {
        let answer = preflight(&gateway, HOST, origin, "GET");
        let expected_origin = if [FRONTEND, PARTNER].contains(&origin) { origin } else { "*" };
        assert_eq!(answer.headers.one("access-control-allow-origin"), expected_origin);
        assert_eq!(answer.headers.one("access-control-allow-methods"), methods, "{origin}");
        assert_eq!(answer.headers.all("access-control-allow-credentials"), credentials, "{origin}");
        assert_eq!(answer.headers.one("access-control-max-age"), max_age, "{origin}");
        assert!(answer.headers.one("vary").starts_with("Origin"), "{answer:?}");
    }
    assert_eq!(preflight(&gateway, HOST, PARTNER, "DELETE").headers.one("access-control-allow-methods"), "GET,POST");
}

#[test]
fn star_next_to_credentials_lets_only_listed_origins_act_with_cookies() {
    let (gateway, upstream) = start("");
    let post = |origin: &str, cookie: &[(&str, &str)]| {
        let fields = [&[("Origin", origin), ("Sec-Fetch-Site", "cross-site")], cookie].concat();
        gateway.ask("POST", "/", HOST, &fields)
    };
    let cookie = [("Cookie", "session=1")];
    let answer = post(FRONTEND, &cookie);
    assert_eq!((answer.status, answer.headers.one("access-control-allow-credentials")), (200, "true"));
    assert_eq!(post(OTHER, &cookie).status, 403);
    assert_eq!(post("null", &cookie).status, 403);
    let answer = post(OTHER, &[]);
    assert_eq!((answer.status, answer.headers.one("access-control-allow-origin")), (200, "*"));
    assert_eq!(upstream.count("POST"), 2);
    // A cache may give this response to any page, so it has no `*`.
    let plain = gateway.ask("GET", "/", HOST, &[]);
    assert_eq!((plain.status, plain.headers.one("vary")), (200, "Origin"));
    assert!(plain.headers.all("access-control-allow-origin").is_empty(), "{plain:?}");
}

#[test]
fn tenant_adds_to_a_group_that_lets_it() {
    let (gateway, _upstream) = start("");
    let has_credentials = |host: &str| {
        let answer = preflight(&gateway, host, "https://shop.example", "GET");
        answer.headers.all("access-control-allow-credentials") == ["true"]
    };
    assert!(has_credentials("api.shop.example") && !has_credentials(HOST));
}

#[test]
fn operators_see_the_group() {
    let (gateway, _upstream) = start("accessLog: { path: access.log }\n");
    for origin in [FRONTEND, PARTNER, OTHER] {
        gateway.ask("GET", "/", HOST, &[("Origin", origin)]);
    }
    let explain = |rest: &str| gateway.admin("GET", &format!("/explain?host={HOST}&{rest}"));
    let explained = explain(&format!("origin={PARTNER}&method=DELETE&request-headers=x-new")).json();
    assert_eq!(explained["group"], "partners", "{explained}");
    assert_eq!(explained["entry"], "https://*.agency.example");
    assert!(explained["groupAt"].as_str().unwrap().ends_with("crossgate.yaml:26"), "{explained}");
    assert_eq!(explained["refused"]["write"], "allowMethods: [GET, POST, DELETE]", "{explained}");
    assert_eq!(explained["refused"]["allowed"], json!(["GET", "POST", "HEAD"]));
    let text = explain(&format!("origin={FRONTEND}&format=text")).text();
    assert!(text.contains("\ngroup      frontend ("), "{text}");
    let count = |labels: &[(&str, &str)]| gateway.metric("crossgate_origin_requests_total", labels);
    assert_eq!(count(&[("origin", FRONTEND), ("group", "frontend")]), 1.0);
    assert_eq!(count(&[("origin", "https://*.agency.example"), ("group", "partners")]), 1.0);
    let metrics = gateway.admin("GET", "/metrics").text();
    let any = r#"crossgate_origin_requests_total{tenant="acme",origin="*",verdict="allow"} 1"#;
    assert!(metrics.lines().any(|line| line == any), "{metrics}");
    let report = gateway.origins("tenant=acme");
    let seen = report["origins"].as_array().unwrap();
    let group = |origin: &str| seen.iter().find(|seen| seen["origin"] == origin).unwrap()["lastGroup"].clone();
    assert_eq!([FRONTEND, PARTNER, OTHER].map(group), [json!("frontend"), json!("partners"), Value::Null]);
    assert_eq!(logged_groups(&gateway), [json!("frontend"), json!("partners"), Value::Null]);
}

/// The groups in the three lines of the access log.
fn logged_groups(gateway: &Gateway) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = fs::read_to_string(gateway.path("access.log")).unwrap_or_default();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let groups = [FRONTEND, PARTNER, OTHER]
            .map(|origin| lines.iter().find(|line| line["origin"] == origin).map(|line| line["group"].clone()));
        if let [Some(one), Some(two), Some(three)] = groups {
            return vec![one, two, three];
        }
        assert!(Instant::now() < deadline, "{log}");
    }
}
