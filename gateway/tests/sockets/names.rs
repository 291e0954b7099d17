//! Servers with host names: names are resolved in the background, and no request waits for a name
//! server.
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{
    Answer, Authority, Gateway, HOST, NameServer, ORIGIN, PATIENCE, RecordingUpstream, TlsFront, assert_allowed,
    assert_edge_error, config, tenant_config, tenant_config_at,
};

/// Starts two upstreams on one port of two addresses; each answers with its name.
fn start_two() -> (RecordingUpstream, RecordingUpstream) {
    let one = RecordingUpstream::answering("one");
    let at = SocketAddr::from(([127, 0, 0, 2], one.address.port()));
    let two = RecordingUpstream::start_at(at, |exchange| exchange.answer(200, &[], b"two"));
    (one, two)
}

/// Renders the usual tenant with the server `api.test` on the port of `upstream`.
fn named(upstream: &RecordingUpstream, dns: &NameServer, options: &str) -> String {
    let text = tenant_config(upstream, options);
    let name = format!("api.test:{}", upstream.address.port());
    config(&(text.replace(&upstream.address.to_string(), &name) + &dns.section()))
}

fn ask(gateway: &Gateway) -> String {
    let answer = gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]);
    assert_allowed(&answer);
    if answer.status != 200 {
        assert_edge_error(&answer, answer.status);
        return answer.status.to_string();
    }
    answer.text()
}

/// Sends requests until the answer is `wanted`.
fn ask_until(gateway: &Gateway, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    while ask(gateway) != wanted {
        assert!(Instant::now() < deadline, "no answer {wanted}");
    }
}

fn reload(gateway: &Gateway, text: &str) {
    // Replaced by a rename, as editors and deployment tools do.
    fs::write(gateway.path("next"), text).unwrap();
    fs::rename(gateway.path("next"), gateway.path("crossgate.yaml")).unwrap();
    let answer = gateway.admin("POST", "/reload");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn requests_rotate_over_all_addresses_of_a_name() {
    let (one, two) = start_two();
    let dns = NameServer::with(&["127.0.0.2", "127.0.0.1"]);
    let gateway = Gateway::start(&named(&one, &dns, ""), &[]);
    for _ in 0..10 {
        assert_eq!((ask(&gateway), ask(&gateway)), ("one".to_owned(), "two".to_owned()));
    }
    assert_eq!((one.count("GET"), two.count("GET")), (10, 10));
    assert_eq!(gateway.metric("crossgate_upstream_servers", &[("state", "up")]), 2.0);
    let status = gateway.admin("GET", "/status").json();
    let server =
        |address: SocketAddr| serde_json::json!({ "address": address, "weight": 1, "backup": false, "state": "up" });
    let servers = [server(one.address), server(two.address)];
    assert_eq!(status["upstreams"], serde_json::json!([{ "name": "api", "servers": servers, "lostNames": [] }]));
}

#[test]
fn failing_address_of_a_name_is_ejected() {
    let one = RecordingUpstream::answering("one");
    // Nothing listens at the second address.
    let dns = NameServer::with(&["127.0.0.1", "127.0.0.3"]);
    let gateway = Gateway::start(&named(&one, &dns, ""), &[]);
    for _ in 0..20 {
        assert_eq!(ask(&gateway), "one");
    }
    assert!(gateway.metric("crossgate_upstream_ejections_total", &[("upstream", "api")]) >= 1.0);
    assert_eq!(one.count("GET"), 20);
}

#[test]
fn unresolvable_name_keeps_its_last_addresses() {
    let (one, two) = start_two();
    let dns = NameServer::with(&["127.0.0.1"]);
    let gateway = Gateway::start(&named(&one, &dns, ""), &[]);
    assert_eq!(ask(&gateway), "one");
    for lost in [Answer::NoSuchName, Answer::Failure, Answer::Silence, Answer::Addresses(Vec::new(), 1)] {
        let shown = format!("{lost:?}");
        dns.set_answer(lost);
        gateway.wait_metric("crossgate_upstream_names_lost", &[("upstream", "api")], 1.0);
        assert_eq!(ask(&gateway), "one", "{shown}");
        assert_eq!(gateway.admin("GET", "/status").json()["upstreams"][0]["lostNames"][0], "api.test", "{shown}");
        dns.set_addresses(&["127.0.0.1"]);
        gateway.wait_zero("crossgate_upstream_names_lost", &[]);
    }
    assert!(gateway.metric("crossgate_upstream_lookup_failures_total", &[("upstream", "api")]) >= 4.0);
    dns.set_addresses(&["127.0.0.2"]);
    ask_until(&gateway, "two");
    assert_eq!(ask(&gateway), "two", "the old address is still used");
    assert!(two.count("GET") >= 2);
    let log = gateway.process.stderr();
    assert_eq!(log.matches("server name does not resolve").count(), 4, "expected one log line for each loss:\n{log}");
}

#[test]
fn silent_name_server_does_not_block_start_or_reload() {
    let one = RecordingUpstream::answering("one");
    let dns = NameServer::start(Answer::Silence);
    let gateway = Gateway::start(&named(&one, &dns, ""), &[]);
    assert_eq!(ask(&gateway), "503");
    assert!(gateway.metric("crossgate_upstream_refusals_total", &[("reason", "no_address")]) >= 1.0);
    let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(gateway.ask("OPTIONS", "/", HOST, &preflight).status, 204);
    // Each reload has a new name.
    for round in 0..3 {
        let text = named(&one, &dns, "").replace("api.test", &format!("api-{round}.test"));
        reload(&gateway, &text);
        assert_eq!(ask(&gateway), "503");
    }
    // A configuration without names serves at once.
    reload(&gateway, &config(&tenant_config(&one, "")));
    assert_eq!(ask(&gateway), "one");
    reload(&gateway, &named(&one, &dns, ""));
    dns.set_addresses(&["127.0.0.1"]);
    ask_until(&gateway, "one");
}

#[test]
fn reload_keeps_resolved_addresses() {
    let (one, two) = start_two();
    let dns = NameServer::start(Answer::Addresses(vec!["127.0.0.1".parse().unwrap()], 300));
    let text = named(&one, &dns, "");
    let gateway = Gateway::start(&text, &[]);
    assert_eq!(ask(&gateway), "one");
    let asked = dns.questions();
    dns.set_answer(Answer::Silence);
    reload(&gateway, &named(&one, &dns, ", attempts: 3"));
    assert_eq!(ask(&gateway), "one");
    assert_eq!(dns.questions(), asked, "the reload started new lookups for unchanged servers");
    // Another list of servers that still contains the name.
    let both = format!("servers: [{}, api.test", two.address);
    reload(&gateway, &text.replace("servers: [api.test", &both));
    let mut answers = [ask(&gateway), ask(&gateway)];
    answers.sort();
    assert_eq!(answers, ["one", "two"]);
    // Another name server.
    let other = NameServer::with(&["127.0.0.2"]);
    reload(&gateway, &text.replace(&dns.address.to_string(), &other.address.to_string()));
    ask_until(&gateway, "two");
}

#[test]
fn lookups_end_with_the_upstream() {
    let one = RecordingUpstream::answering("one");
    let (dns, other) = (NameServer::with(&["127.0.0.1"]), NameServer::with(&["127.0.0.1"]));
    let gateway = Gateway::start(&named(&one, &dns, ""), &[]);
    reload(&gateway, &named(&one, &other, ""));
    let (before, others) = (dns.questions(), other.questions());
    let deadline = Instant::now() + PATIENCE;
    while other.questions() < others + 4 {
        assert!(Instant::now() < deadline, "the name is not looked up any more");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(dns.questions() <= before + 2, "{} after {before}", dns.questions());
}

#[test]
fn localhost_needs_no_name_server() {
    let one = RecordingUpstream::answering("one");
    let dns = NameServer::start(Answer::Failure);
    let text = named(&one, &dns, "").replace("api.test", "localhost");
    let gateway = Gateway::start(&text, &[]);
    // `localhost` also resolves to ::1, where nothing listens, so a second attempt is made.
    assert_eq!((ask(&gateway), ask(&gateway)), ("one".to_owned(), "one".to_owned()));
    assert_eq!(dns.questions(), 0);
}

#[test]
fn tls_server_is_verified_by_its_configured_name() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    for (name, wanted) in [("api.test", "hello"), ("other.test", "502")] {
        let front = TlsFront::start(authority.issue(&[name]).server(&[]), upstream.address);
        let dns = NameServer::with(&["127.0.0.1"]);
        let text = config(&(tenant_config_at(front.address, ", attempts: 1, tls: { ca: ca.pem }") + &dns.section()));
        let text = text.replace(&front.address.to_string(), &format!("api.test:{}", front.address.port()));
        let gateway = Gateway::start(&text, &[("ca.pem", &authority.pem())]);
        assert_eq!(ask(&gateway), wanted);
        if wanted == "hello" {
            assert_eq!(front.handshakes()[0].server_name.as_deref(), Some("api.test"));
        }
    }
}
