//! Health checks over TLS and HTTP/2: checks use the protocol, TLS settings and trust of requests.
//!
//! With an interval of one hour there is one check, and another only if the checks restart.
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tonic_health::ServingStatus;

use crate::support::{
    Authority, Gateway, GrpcHealth, Http2Upstream, Issued, PATIENCE, RecordingUpstream, TlsFront, config,
    tenant_config_at,
};

const NAME: &str = "api.internal.test";
const ONCE: &str = "healthCheck: { path: /healthz, interval: 1h, timeout: 10s }";
const OFTEN: &str =
    "healthCheck: { path: /healthz, interval: 100ms, timeout: 10s, healthyAfter: 1, unhealthyAfter: 2 }";
const TRUST: &str = "tls: { ca: ca.pem }";

/// Starts a gateway in front of `server` with these upstream options.
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
        assert!(Instant::now() < deadline, "timeout while waiting for {what}:\n{}", gateway.process.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_unhealthy(gateway: &Gateway) -> bool {
    gateway.metric("crossgate_upstream_servers", &[("upstream", "api"), ("state", "unhealthy")]) == 1.0
}

/// Waits for the first check, which must pass.
#[track_caller]
fn assert_healthy(gateway: &Gateway) {
    wait(gateway, "checked", || checks(gateway, "passed") == 1.0);
    assert_eq!((checks(gateway, "failed"), is_unhealthy(gateway)), (0.0, false));
}

/// Waits until the server is unhealthy, with one of these reasons in the log.
#[track_caller]
fn assert_unhealthy(gateway: &Gateway, whys: &[&str], what: &str) {
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
fn health_check_uses_the_protocol_of_requests() {
    let authority = Authority::new("ours");
    let certificate = authority.issue(&[NAME, "127.0.0.1"]);
    for (protocol, offered, negotiated) in [
        ("Http1", &["h2", "http/1.1"][..], Some("http/1.1")),
        ("Http1", &[], None),
        ("Auto", &["h2", "http/1.1"], Some("h2")),
        ("Auto", &["http/1.1"], Some("http/1.1")),
        ("Auto", &[], None),
        ("Http2", &["http/1.1", "h2"], Some("h2")),
    ] {
        let (old, new) = (RecordingUpstream::answering("well"), Http2Upstream::answering("well"));
        let is_http2 = negotiated == Some("h2");
        let front = TlsFront::start(certificate.server(offered), if is_http2 { new.address } else { old.address });
        let options = format!("protocol: {protocol}, tls: {{ serverName: {NAME}, ca: ca.pem }}, {ONCE}");
        let gateway = before(front.address, &options, &[("ca.pem", &authority.pem())]);
        assert_healthy(&gateway);
        let handshake = &front.handshakes()[0];
        assert_eq!(
            (handshake.server_name.as_deref(), handshake.protocol.as_deref()),
            (Some(NAME), negotiated),
            "{protocol}"
        );
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
fn health_check_of_clear_text_http2_uses_http2() {
    for (status, is_healthy) in [(204, true), (503, false), (302, false)] {
        let upstream = Http2Upstream::start(move |asked| asked.answer(status, &[], b"no more is read"));
        let gateway = before(upstream.address, &format!("protocol: Http2, {ONCE}"), &[]);
        match is_healthy {
            true => assert_healthy(&gateway),
            false => assert_unhealthy(&gateway, &["status"], &format!("what=\"{status}\"")),
        }
        assert_eq!(upstream.uris()[0].to_string(), format!("http://{}/healthz", upstream.address));
        assert_eq!(upstream.seen()[0].headers.one("user-agent"), "crossgate-health-check");
    }
}

#[test]
fn health_check_over_http2_sends_the_configured_host() {
    let upstream = Http2Upstream::answering("well");
    for (more, wanted) in [("host: b.test, ", "b.test"), ("", "a.test")] {
        let options = format!("host: a.test, protocol: Http2, {}", ONCE.replace("{ ", &format!("{{ {more}")));
        assert_healthy(&before(upstream.address, &options, &[]));
        assert_eq!(upstream.uris().last().unwrap().to_string(), format!("http://{wanted}/healthz"));
    }
}

#[test]
fn untrusted_server_is_unhealthy_until_its_certificate_is_trusted() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (old, new) = (RecordingUpstream::answering("well"), Http2Upstream::answering("well"));
    for (protocol, alpn, behind) in [("Http1", "http/1.1", old.address), ("Http2", "h2", new.address)] {
        let front = TlsFront::start(ours.issue(&["127.0.0.1"]).server(&[alpn]), behind);
        let options = format!("protocol: {protocol}, {TRUST}, {ONCE}");
        let gateway = before(front.address, &options, &[("ca.pem", &theirs.pem())]);
        assert_unhealthy(&gateway, &["tls_certificate"], "UnknownIssuer");
        // Only the file changes: the checks restart, and the first one decides.
        replace(&gateway, "ca.pem", &ours.pem());
        wait(&gateway, "healthy", || !is_unhealthy(&gateway));
        assert_eq!((checks(&gateway, "passed"), checks(&gateway, "failed")), (1.0, 1.0));
        gateway.process.stderr_line(|line| line.contains("a server is healthy again").then_some(()));
        replace(&gateway, "ca.pem", &theirs.pem());
        wait(&gateway, "unhealthy", || is_unhealthy(&gateway));
        assert_eq!((checks(&gateway, "passed"), checks(&gateway, "failed")), (1.0, 2.0));
    }
    assert_eq!((old.total(), new.seen().len()), (1, 1), "an untrusted server got a request");
}

#[test]
fn certificate_for_another_name_fails_the_health_check() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("well"));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let options = |name: &str| format!("tls: {{ {name}ca: ca.pem }}, {ONCE}");
    let gateway = before(front.address, &options(&format!("serverName: {NAME}, ")), &[("ca.pem", &authority.pem())]);
    assert_unhealthy(&gateway, &["tls_certificate"], "certificate not valid for name");
    // Without a server name the address is verified.
    reload(&gateway, &text(front.address, &options("")));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
    assert_eq!(upstream.seen()[0].headers.one("host"), front.address.to_string());
}

#[test]
fn every_health_check_verifies_the_server_certificate() {
    let (ours, upstream) = (Authority::new("ours"), RecordingUpstream::answering("well"));
    let good = ours.issue(&["127.0.0.1"]);
    let front = TlsFront::start(good.server(&[]), upstream.address);
    let gateway = before(front.address, &format!("{TRUST}, {OFTEN}"), &[("ca.pem", &ours.pem())]);
    wait(&gateway, "checked", || checks(&gateway, "passed") >= 3.0);
    assert!(front.handshakes().iter().all(|handshake| !handshake.is_resumed), "a resumed session skips verification");
    front.renew(Issued::self_signed(&["127.0.0.1"]).server(&[]));
    assert_unhealthy(&gateway, &["tls_certificate"], "");
    front.renew(good.server(&[]));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
}

#[test]
fn health_checks_send_the_client_certificate() {
    let (servers, clients) = (Authority::new("of servers"), Authority::new("of clients"));
    let (own, untrusted) = (clients.issue(&["gateway.test"]), servers.issue(&["gateway.test"]));
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
        assert_healthy(&start(&with, &own));
        // In TLS 1.3 a server verifies the client certificate after the client's handshake is done,
        // and its alert can be lost with the connection.
        let refused = ["tls_handshake", "reset"];
        assert_unhealthy(&start(&with, &untrusted), &refused, "");
        let gateway = start(&none, &own);
        assert_unhealthy(&gateway, &refused, "");
        reload(&gateway, &text(front.address, &with));
        wait(&gateway, "healthy", || !is_unhealthy(&gateway));
    }
    assert_eq!((http1.total(), http2.seen().len()), (2, 2));
}

#[test]
fn health_check_timeout_includes_the_handshake() {
    let authority = Authority::new("ours");
    // The kernel accepts connections, and no process answers.
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
        assert_unhealthy(&gateway, &["timeout"], missing);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn server_without_http2_is_unhealthy_if_http2_is_required() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("well"));
    let certificate = authority.issue(&["127.0.0.1"]);
    let files = [("ca.pem", &*authority.pem())];
    for (offered, message) in [(&["http/1.1"][..], "NoApplicationProtocol"), (&[], "does not offer HTTP/2")] {
        let front = TlsFront::start(certificate.server(offered), upstream.address);
        let gateway = before(front.address, &format!("protocol: Http2, {TRUST}, {ONCE}"), &files);
        assert_unhealthy(&gateway, &["tls_alpn"], message);
    }
    assert_eq!(upstream.total(), 0, "the check fell back to HTTP/1.1");
    // In clear text an HTTP/1.1 server parses the HTTP/2 preface as a request.
    let strange = RecordingUpstream::start(|exchange| exchange.answer(400, &[], b""));
    let gateway = before(strange.address, &format!("protocol: Http2, {ONCE}"), &[]);
    assert_unhealthy(&gateway, &["invalid"], "");
    reload(&gateway, &text(strange.address, &format!("protocol: Http2, attempts: 1, {ONCE}")));
    assert_eq!((checks(&gateway, "failed"), is_unhealthy(&gateway)), (1.0, true), "an unchanged check was restarted");
}

#[test]
fn changed_transport_restarts_health_checks() {
    let upstream = RecordingUpstream::answering("well");
    let gateway = before(upstream.address, &format!("protocol: Http2, {ONCE}"), &[]);
    assert_unhealthy(&gateway, &["invalid"], "");
    reload(&gateway, &text(upstream.address, ONCE));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
    reload(&gateway, &text(upstream.address, &format!("attempts: 3, {ONCE}")));
    assert_eq!(
        (checks(&gateway, "passed"), checks(&gateway, "failed")),
        (1.0, 1.0),
        "a change of attempts restarted the checks"
    );
}

const GRPC_ONCE: &str = "healthCheck: { grpc: true, interval: 1h, timeout: 10s }";

#[test]
fn d6_a_grpc_server_passes_while_it_is_serving() {
    let health = GrpcHealth::start();
    let options = "protocol: Http2, healthCheck: { grpc: { service: orders }, interval: 100ms, healthyAfter: 1, unhealthyAfter: 1 }";
    health.set("orders", ServingStatus::Serving);
    let gateway = before(health.address, options, &[]);
    wait(&gateway, "checked", || checks(&gateway, "passed") >= 2.0);
    assert!(!is_unhealthy(&gateway));
    health.set("orders", ServingStatus::NotServing);
    assert_unhealthy(&gateway, &["not_serving"], "what=\"NOT_SERVING\"");
    health.set("orders", ServingStatus::Serving);
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
}

#[test]
fn d6_grpc_check_names_a_service_or_the_whole_server() {
    let health = GrpcHealth::start();
    health.set("orders", ServingStatus::NotServing);
    let named = |service: &str| GRPC_ONCE.replace("true", &format!("{{ service: {service} }}"));
    // The gRPC library answers for the whole server itself.
    assert_healthy(&before(health.address, &format!("protocol: Http2, {GRPC_ONCE}"), &[]));
    let gateway = before(health.address, &format!("protocol: Http2, {}", named("orders")), &[]);
    assert_unhealthy(&gateway, &["not_serving"], "NOT_SERVING");
    let gateway = before(health.address, &format!("protocol: Http2, {}", named("unknown")), &[]);
    assert_unhealthy(&gateway, &["grpc_status"], "5 NOT_FOUND");
    // A changed service restarts the check.
    health.set("payments", ServingStatus::Serving);
    reload(&gateway, &text(health.address, &format!("protocol: Http2, {}", named("payments"))));
    wait(&gateway, "healthy", || !is_unhealthy(&gateway));
}

#[test]
fn d6_grpc_check_over_tls_needs_http2() {
    let (authority, health) = (Authority::new("ours"), GrpcHealth::start());
    let certificate = authority.issue(&[NAME]);
    let files = [("ca.pem", &*authority.pem())];
    for (protocol, offered, is_healthy) in [
        ("Http2", &["h2"][..], true),
        ("Auto", &["h2", "http/1.1"], true),
        ("Auto", &["http/1.1"], false),
        ("Auto", &[], false),
    ] {
        let front = TlsFront::start(certificate.server(offered), health.address);
        let options = format!("protocol: {protocol}, tls: {{ serverName: {NAME}, ca: ca.pem }}, {GRPC_ONCE}");
        let gateway = before(front.address, &options, &files);
        match is_healthy {
            true => assert_healthy(&gateway),
            false => assert_unhealthy(&gateway, &["tls_alpn"], ""),
        }
    }
}

#[test]
fn d6_grpc_check_sends_a_valid_grpc_call() {
    let upstream = Http2Upstream::start(|mut asked| async move {
        let (body, trailers) = asked.read_body().await?;
        assert_eq!((&*body, trailers), (&b"\0\0\0\0\x08\x0a\x06orders"[..], None));
        asked.answer(200, &[("content-type", "text/plain")], b"no gRPC").await
    });
    let options = format!("protocol: Http2, {}", GRPC_ONCE.replace("true", "{ service: orders }, host: b.test"));
    let gateway = before(upstream.address, &options, &[]);
    assert_unhealthy(&gateway, &["not_grpc"], "the content type is not application/grpc");
    assert_eq!(upstream.uris()[0].to_string(), "http://b.test/grpc.health.v1.Health/Check");
    let seen = &upstream.seen()[0];
    assert_eq!(seen.method, "POST");
    let mut fields = seen.headers.0.clone();
    fields.sort();
    let wanted = [
        ("content-type", "application/grpc"),
        ("grpc-accept-encoding", "identity"),
        ("te", "trailers"),
        ("user-agent", "crossgate-health-check"),
    ];
    assert_eq!(fields, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
}
