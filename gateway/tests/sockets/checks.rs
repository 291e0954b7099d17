//! Health checks over TLS and HTTP/2: a server is checked over the way that requests come to it, and trusted no more and no less.
//!
//! Where the interval is an hour, there is one check, and another only if checks begin anew.
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::{
    Authority, Gateway, Http2Upstream, Issued, PATIENCE, RecordingUpstream, TlsFront, config, tenant_config_at,
};

const NAME: &str = "api.internal.test";
const ONCE: &str = "healthCheck: { path: /healthz, interval: 1h, timeout: 10s }";
const OFTEN: &str =
    "healthCheck: { path: /healthz, interval: 100ms, timeout: 10s, healthyAfter: 1, unhealthyAfter: 2 }";
const TRUST: &str = "tls: { ca: ca.pem }";

/// A gateway before `server`, spoken to and checked with these options.
fn before(server: SocketAddr, options: &str, files: &[(&str, &str)]) -> Gateway {
    Gateway::start(&text(server, options), files)
}

fn text(server: SocketAddr, options: &str) -> String {
    config(&tenant_config_at(server, &format!(", {options}")))
}

fn checks(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("crossgate_upstream_health_checks_total", &[("result", result)])
}

#[track_caller]
fn wait(gateway: &Gateway, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never {what}:\n{}", gateway.process.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_unhealthy(gateway: &Gateway) -> bool {
    gateway.metric("crossgate_upstream_servers", &[("upstream", "api"), ("state", "unhealthy")]) == 1.0
}

/// Waits for the first check, which the server passes.
#[track_caller]
fn assert_well(gateway: &Gateway) {
    wait(gateway, "checked", || checks(gateway, "passed") == 1.0);
    assert_eq!((checks(gateway, "failed"), is_unhealthy(gateway)), (0.0, false));
}

/// Waits until the server is unhealthy, which the log gives one of these reasons for.
#[track_caller]
fn assert_unwell(gateway: &Gateway, whys: &[&str], what: &str) {
    wait(gateway, "unhealthy", || is_unhealthy(gateway));
    let line = gateway.process.stderr_line(|line| line.contains("a server is unhealthy").then(|| line.to_owned()));
    let is_given = whys.iter().any(|why| line.contains(&format!("why=\"{why}\"")));
    assert!(is_given && line.contains(what), "{whys:?} {what}: {line}");
    let status = gateway.admin("GET", "/status").json();
    assert_eq!(status["upstreams"][0]["servers"][0]["state"], "unhealthy");
}

fn replace(gateway: &Gateway, name: &str, text: &str) {
    fs::write(gateway.path("next"), text).unwrap();
    fs::rename(gateway.path("next"), gateway.path(name)).unwrap();
}

fn reload(gateway: &Gateway, text: &str) {
    replace(gateway, "crossgate.yaml", text);
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
}

#[test]
fn a_server_is_checked_in_the_http_that_it_is_asked_in() {
    let authority = Authority::new("ours");
    let certificate = authority.issue(&[NAME, "127.0.0.1"]);
    for (protocol, offered, spoken) in [
        ("Http1", &["h2", "http/1.1"][..], Some("http/1.1")),
        ("Http1", &[], None),
        ("Auto", &["h2", "http/1.1"], Some("h2")),
        ("Auto", &["http/1.1"], Some("http/1.1")),
        ("Auto", &[], None),
        ("Http2", &["http/1.1", "h2"], Some("h2")),
    ] {
        let (old, new) = (RecordingUpstream::answering("well"), Http2Upstream::answering("well"));
        let is_http2 = spoken == Some("h2");
        let front = TlsFront::start(certificate.server(offered), if is_http2 { new.address } else { old.address });
        let options = format!("protocol: {protocol}, tls: {{ serverName: {NAME}, ca: ca.pem }}, {ONCE}");
        let gateway = before(front.address, &options, &[("ca.pem", &authority.pem())]);
        assert_well(&gateway);
        let shaken = &front.handshakes()[0];
        assert_eq!((shaken.server_name.as_deref(), shaken.protocol.as_deref()), (Some(NAME), spoken), "{protocol}");
        let host = format!("{NAME}:{}", front.address.port());
        if is_http2 {
            assert_eq!(new.uris()[0].to_string(), format!("https://{host}/healthz"));
        } else {
            let seen = &old.seen()[0];
            assert_eq!((&*seen.target, seen.headers.one("host")), ("/healthz", &*host));
        }
    }
}

#[test]
fn a_server_of_http2_in_clear_text_is_checked_in_it() {
    for (status, is_well) in [(204, true), (503, false), (302, false)] {
        let upstream = Http2Upstream::start(move |asked| asked.answer(status, &[], b"no more is read"));
        let gateway = before(upstream.address, &format!("protocol: Http2, {ONCE}"), &[]);
        match is_well {
            true => assert_well(&gateway),
            false => assert_unwell(&gateway, &["status"], &format!("what=\"{status}\"")),
        }
        assert_eq!(upstream.uris()[0].to_string(), format!("http://{}/healthz", upstream.address));
        assert_eq!(upstream.seen()[0].headers.one("user-agent"), "crossgate-health-check");
    }
}

#[test]
fn the_configured_host_is_named_over_http2_too() {
    let upstream = Http2Upstream::answering("well");
    for (more, wanted) in [("host: b.test, ", "b.test"), ("", "a.test")] {
        let options = format!("host: a.test, protocol: Http2, {}", ONCE.replace("{ ", &format!("{{ {more}")));
        assert_well(&before(upstream.address, &options, &[]));
        assert_eq!(upstream.uris().last().unwrap().to_string(), format!("http://{wanted}/healthz"));
    }
}

#[test]
fn a_server_that_requests_would_not_trust_is_unhealthy_until_they_would() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (old, new) = (RecordingUpstream::answering("well"), Http2Upstream::answering("well"));
    for (protocol, alpn, behind) in [("Http1", "http/1.1", old.address), ("Http2", "h2", new.address)] {
        let front = TlsFront::start(ours.issue(&["127.0.0.1"]).server(&[alpn]), behind);
        let options = format!("protocol: {protocol}, {TRUST}, {ONCE}");
        let gateway = before(front.address, &options, &[("ca.pem", &theirs.pem())]);
        assert_unwell(&gateway, &["tls_certificate"], "UnknownIssuer");
        // The file alone changes: checks begin anew, and the first decides.
        replace(&gateway, "ca.pem", &ours.pem());
        wait(&gateway, "healthy", || !is_unhealthy(&gateway));
        assert_eq!((checks(&gateway, "passed"), checks(&gateway, "failed")), (1.0, 1.0));
        gateway.process.stderr_line(|line| line.contains("a server is healthy again").then_some(()));
        replace(&gateway, "ca.pem", &theirs.pem());
        wait(&gateway, "unhealthy", || is_unhealthy(&gateway));
        assert_eq!((checks(&gateway, "passed"), checks(&gateway, "failed")), (1.0, 2.0));
    }
    assert_eq!((old.total(), new.seen().len()), (1, 1), "nothing is asked of whom is not trusted");
}

#[test]
fn a_certificate_for_another_name_is_for_nobody() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("well"));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let options = |name: &str| format!("tls: {{ {name}ca: ca.pem }}, {ONCE}");
    let gateway = before(front.address, &options(&format!("serverName: {NAME}, ")), &[("ca.pem", &authority.pem())]);
    assert_unwell(&gateway, &["tls_certificate"], "certificate not valid for name");
    // Without a name it is the address.
    reload(&gateway, &text(front.address, &options("")));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
    assert_eq!(upstream.seen()[0].headers.one("host"), front.address.to_string());
}

#[test]
fn every_check_verifies_the_server_anew() {
    let (ours, upstream) = (Authority::new("ours"), RecordingUpstream::answering("well"));
    let good = ours.issue(&["127.0.0.1"]);
    let front = TlsFront::start(good.server(&[]), upstream.address);
    let gateway = before(front.address, &format!("{TRUST}, {OFTEN}"), &[("ca.pem", &ours.pem())]);
    wait(&gateway, "checked", || checks(&gateway, "passed") >= 3.0);
    assert!(front.handshakes().iter().all(|handshake| !handshake.is_resumed), "a resumed session is not verified");
    front.renew(Issued::self_signed(&["127.0.0.1"]).server(&[]));
    assert_unwell(&gateway, &["tls_certificate"], "");
    front.renew(good.server(&[]));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
}

#[test]
fn checks_show_the_certificate_that_requests_show() {
    let (servers, clients) = (Authority::new("of servers"), Authority::new("of clients"));
    let (own, stranger) = (clients.issue(&["gateway.test"]), servers.issue(&["gateway.test"]));
    let certificate = servers.issue(&["127.0.0.1"]);
    let (http1, http2) = (RecordingUpstream::answering("well"), Http2Upstream::answering("well"));
    for (protocol, alpn, behind) in [("Http1", "http/1.1", http1.address), ("Http2", "h2", http2.address)] {
        let front = TlsFront::start(certificate.server_for(&clients, &[alpn]), behind);
        let none = format!("protocol: {protocol}, {TRUST}, {ONCE}");
        let with = none.replace(" }, health", ", clientCertificate: { certificate: own.pem, key: own.key } }, health");
        let files = |own: &Issued| {
            let files = [("ca.pem", servers.pem()), ("own.pem", own.certificate.clone()), ("own.key", own.key.clone())];
            files.map(|(name, text)| (name.to_owned(), text))
        };
        let start = |options: &str, own: &Issued| {
            let files = files(own);
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
            before(front.address, options, &files)
        };
        assert_well(&start(&with, &own));
        // Since TLS 1.3 a server looks when the handshake is done, and what it says can get lost with the connection.
        let refused = ["tls_handshake", "reset"];
        assert_unwell(&start(&with, &stranger), &refused, "");
        let gateway = start(&none, &own);
        assert_unwell(&gateway, &refused, "");
        reload(&gateway, &text(front.address, &with));
        wait(&gateway, "healthy", || !is_unhealthy(&gateway));
    }
    assert_eq!((http1.total(), http2.seen().len()), (2, 2));
}

#[test]
fn the_time_of_a_check_is_for_handshakes_too() {
    let authority = Authority::new("ours");
    // Connections are taken by the system, and nobody ever says anything.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_within = RecordingUpstream::start(|exchange| {
        exchange.wait_for_end();
        crate::support::Then::Close
    });
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&["http/1.1"]), silent_within.address);
    let once = ONCE.replace("10s", "300ms");
    for (server, options, missing) in [
        (silent.local_addr().unwrap(), TRUST, "no TLS in time"),
        (silent.local_addr().unwrap(), "protocol: Http2", "no answer in time"),
        (front.address, TRUST, "no answer in time"),
    ] {
        let gateway = before(server, &format!("{options}, {once}"), &[("ca.pem", &authority.pem())]);
        let begun = Instant::now();
        assert_unwell(&gateway, &["timeout"], missing);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_server_without_http2_is_unhealthy_where_that_is_demanded() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("well"));
    let certificate = authority.issue(&["127.0.0.1"]);
    let files = [("ca.pem", &*authority.pem())];
    for (offered, told) in [(&["http/1.1"][..], "NoApplicationProtocol"), (&[], "speaks no HTTP/2")] {
        let front = TlsFront::start(certificate.server(offered), upstream.address);
        let gateway = before(front.address, &format!("protocol: Http2, {TRUST}, {ONCE}"), &files);
        assert_unwell(&gateway, &["tls_alpn"], told);
    }
    assert_eq!(upstream.total(), 0, "it is not asked in another HTTP");
    // In clear text it takes the first bytes for a request of its own kind.
    let strange = RecordingUpstream::start(|exchange| exchange.answer(400, &[], b""));
    let gateway = before(strange.address, &format!("protocol: Http2, {ONCE}"), &[]);
    assert_unwell(&gateway, &["invalid"], "");
    reload(&gateway, &text(strange.address, &format!("protocol: Http2, attempts: 1, {ONCE}")));
    assert_eq!((checks(&gateway, "failed"), is_unhealthy(&gateway)), (1.0, true), "what stays is left alone");
}

#[test]
fn checks_begin_anew_when_servers_are_spoken_to_in_another_way() {
    let upstream = RecordingUpstream::answering("well");
    let gateway = before(upstream.address, &format!("protocol: Http2, {ONCE}"), &[]);
    assert_unwell(&gateway, &["invalid"], "");
    reload(&gateway, &text(upstream.address, ONCE));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
    reload(&gateway, &text(upstream.address, &format!("attempts: 3, {ONCE}")));
    assert_eq!((checks(&gateway, "passed"), checks(&gateway, "failed")), (1.0, 1.0), "attempts are no other way");
}
