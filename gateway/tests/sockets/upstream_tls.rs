//! TLS to upstreams: trust, server names, ALPN, client certificates, and the answers when a
//! handshake fails.
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::support::{
    Authority, Connection, Gateway, HOST, Handshake, Http2Upstream, Issued, ORIGIN, RecordingUpstream, Response,
    TlsFront, Validity, assert_allowed, assert_edge_error, config, handshake, request, tenant_config_at, websocket,
};

const NAME: &str = "api.internal.test";
const TIMEOUTS: &str = ", timeouts: { connect: 1s, head: 5s, idle: 5s }, attempts: 1";

/// A gateway in front of `server` with these upstream options. `ca.certificate` is the certificate
/// of the authority.
fn gateway_for(server: SocketAddr, options: &str, authority: &Authority) -> Gateway {
    gateway_with_files(server, options, &[("ca.certificate", &authority.pem())])
}

fn gateway_with_files(server: SocketAddr, options: &str, files: &[(&str, &str)]) -> Gateway {
    Gateway::start(&config(&tenant_config_at(server, &format!("{TIMEOUTS}, {options}"))), files)
}

fn ask(gateway: &Gateway) -> Response {
    gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)])
}

/// Sends three requests on one connection. So the upstream connection is idle in the pool before
/// the next request.
#[track_caller]
fn ask_three_times(gateway: &Gateway) {
    let mut connection = Connection::open(gateway.data);
    for _ in 0..3 {
        assert_hello(&connection.exchange(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap());
    }
}

#[track_caller]
fn assert_hello(answer: &Response) {
    assert_eq!((answer.status, &*answer.text()), (200, "hello"), "{answer:?}");
    assert_allowed(answer);
}

/// Asserts the error that a page may read, its count, and the detail in the log, which the client
/// does not get.
#[track_caller]
fn assert_refused(gateway: &Gateway, status: u16, kind: &str, detail: &str) {
    let answer = ask(gateway);
    assert_edge_error(&answer, status);
    assert_allowed(&answer);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("upstream", "api"), ("kind", kind)], 1.0);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("upstream", "api")], 1.0);
    gateway.process.stderr_line(|line| line.contains(detail).then_some(()));
    assert!(!format!("{answer:?}").contains(detail), "{answer:?}");
    // The edge still answers preflights.
    let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(gateway.ask("OPTIONS", "/", HOST, &preflight).status, 204);
}

#[test]
fn server_name_is_sent_and_verified() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&[NAME]).server(&[]), upstream.address);
    let gateway = gateway_for(front.address, &format!("tls: {{ serverName: {NAME}, ca: ca.certificate }}"), &authority);
    ask_three_times(&gateway);
    let server_name = Some(NAME.to_owned());
    let wanted = Handshake { server_name, protocol: None, has_certificate: false, is_resumed: false };
    assert_eq!(front.handshakes(), [wanted], "all requests use one connection");
    let seen = upstream.seen();
    assert_eq!((seen[0].headers.one("host"), seen[0].headers.one("x-forwarded-proto")), (HOST, "http"));
}

#[test]
fn address_in_the_certificate_is_verified_without_server_name() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let gateway = gateway_for(front.address, "tls: { ca: ca.certificate }", &authority);
    assert_hello(&ask(&gateway));
    assert_eq!(front.handshakes()[0].server_name, None, "RFC 6066, section 3: addresses are not sent as server name");
}

#[test]
fn self_signed_certificate_can_be_its_own_ca() {
    let upstream = RecordingUpstream::answering("hello");
    let certificate = Issued::self_signed(&[NAME]);
    let front = TlsFront::start(certificate.server(&[]), upstream.address);
    let tls = format!("tls: {{ serverName: {NAME}, ca: own.certificate }}");
    assert_hello(&ask(&gateway_with_files(front.address, &tls, &[("own.certificate", &certificate.certificate)])));
}

#[test]
fn system_roots_are_trusted_by_default() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), authority.pem()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
    command.env("SSL_CERT_FILE", roots.path()).env_remove("SSL_CERT_DIR");
    let text = config(&tenant_config_at(front.address, &format!("{TIMEOUTS}, tls: {{}}")));
    assert_hello(&ask(&Gateway::start_by(command, &text)));
}

#[test]
fn missing_system_roots_fail_only_upstreams_that_need_them() {
    let upstream = RecordingUpstream::answering("hello");
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
        command.env("SSL_CERT_FILE", "/nonexistent").env_remove("SSL_CERT_DIR");
        command
    };
    let gateway = Gateway::start_by(command(), &config(&tenant_config_at(upstream.address, "")));
    assert_hello(&ask(&gateway));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crossgate.yaml");
    std::fs::write(&path, config(&tenant_config_at(upstream.address, ", tls: {}"))).unwrap();
    let check = command().arg("check").arg(&path).output().unwrap();
    let output = String::from_utf8([check.stdout, check.stderr].concat()).unwrap();
    assert_eq!(check.status.code(), Some(1), "{output}");
    assert!(output.contains("crossgate.yaml:6:") && output.contains("under ca"), "{output}");
}

#[test]
fn invalid_upstream_certificate_is_refused_and_logged() {
    let (ours, theirs, upstream) =
        (Authority::new("ours"), Authority::new("theirs"), RecordingUpstream::answering("hello"));
    for (certificate, detail) in [
        (Issued::self_signed(&[NAME]), "UnknownIssuer"),
        (theirs.issue(&[NAME]), "UnknownIssuer"),
        (ours.issue_valid(&[NAME], Validity::Expired), "certificate expired"),
        (ours.issue_valid(&[NAME], Validity::NotYet), "certificate not valid yet"),
        (ours.issue(&["other.internal.test", "127.0.0.1"]), "certificate not valid for name"),
        (ours.issue(&["internal.test"]), "certificate not valid for name"),
    ] {
        let front = TlsFront::start(certificate.server(&[]), upstream.address);
        let gateway = gateway_for(front.address, &format!("tls: {{ serverName: {NAME}, ca: ca.certificate }}"), &ours);
        assert_refused(&gateway, 502, "tls_certificate", detail);
        // The gateway connects again once the server has a valid certificate.
        front.renew(ours.issue(&[NAME]).server(&[]));
        assert_hello(&ask(&gateway));
    }
    assert_eq!(upstream.total(), 6, "no request is sent to an untrusted server");
}

#[test]
fn certificate_without_the_address_is_refused_without_server_name() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&[NAME, "127.0.0.2"]).server(&[]), upstream.address);
    let gateway = gateway_for(front.address, "tls: { ca: ca.certificate }", &authority);
    assert_refused(&gateway, 502, "tls_certificate", "certificate not valid for name");
}

/// A server that runs `behaviour` on every connection instead of a handshake.
fn server_without_tls(behaviour: fn(&mut std::net::TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || behaviour(&mut stream));
        }
    });
    address
}

#[test]
fn failed_upstream_handshakes_are_counted_by_kind() {
    let authority = Authority::new("ours");
    let tls = "tls: { ca: ca.certificate }";
    let hangs_up = server_without_tls(|stream| {
        let _all = stream.read(&mut [0; 4096]);
    });
    assert_refused(&gateway_for(hangs_up, tls, &authority), 502, "tls_handshake", "tls handshake eof");
    let talks_http = server_without_tls(|stream| {
        let _some = stream.read(&mut [0; 4096]);
        let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _rest = stream.read(&mut [0; 4096]);
    });
    assert_refused(&gateway_for(talks_http, tls, &authority), 502, "tls_handshake", "corrupt message");
    let is_silent = server_without_tls(|stream| {
        let _rest = stream.read_to_end(&mut Vec::new());
    });
    let gateway = gateway_for(is_silent, tls, &authority);
    let start = Instant::now();
    let answer = ask(&gateway);
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&start.elapsed()), "{:?}", start.elapsed());
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "connect_timeout")], 1.0);
}

#[test]
fn tls_server_without_http2_is_refused_with_protocol_http2() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let certificate = authority.issue(&["127.0.0.1"]);
    let options = "protocol: Http2, tls: { ca: ca.certificate }";
    for (protocols, detail) in [(&["http/1.1"][..], "NoApplicationProtocol"), (&[], "does not offer HTTP/2")] {
        let front = TlsFront::start(certificate.server(protocols), upstream.address);
        assert_refused(&gateway_for(front.address, options, &authority), 502, "tls_alpn", detail);
    }
    assert_eq!(upstream.total(), 0, "no request is sent over HTTP/1.1");
}

#[test]
fn alpn_selects_the_highest_common_protocol() {
    let authority = Authority::new("ours");
    let certificate = authority.issue(&["127.0.0.1"]);
    let (old, new) = (RecordingUpstream::answering("hello"), Http2Upstream::answering("hello"));
    let negotiated = |protocol: &str, offered: &[&str], behind: SocketAddr| {
        let front = TlsFront::start(certificate.server(offered), behind);
        let gateway =
            gateway_for(front.address, &format!("protocol: {protocol}, tls: {{ ca: ca.certificate }}"), &authority);
        ask_three_times(&gateway);
        let handshakes = front.handshakes();
        // If ALPN selects HTTP/2, the gateway opens a second connection with its HTTP/2 client.
        let expected = if protocol == "Auto" && offered.contains(&"h2") { 2 } else { 1 };
        assert_eq!(handshakes.len(), expected, "{handshakes:?}");
        handshakes.last().expect("a handshake").protocol.clone()
    };
    let both = ["h2", "http/1.1"];
    assert_eq!(negotiated("Auto", &both, new.address).as_deref(), Some("h2"));
    assert_eq!(negotiated("Http2", &both, new.address).as_deref(), Some("h2"));
    assert_eq!(negotiated("Http1", &both, old.address).as_deref(), Some("http/1.1"));
    assert_eq!(negotiated("Auto", &["http/1.1"], old.address).as_deref(), Some("http/1.1"));
    assert_eq!(negotiated("Auto", &[], old.address), None);
    assert_eq!(new.uris()[0].to_string(), format!("https://{HOST}/"));
}

#[test]
fn websocket_uses_http1_with_protocol_auto() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::start(websocket));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&["h2", "http/1.1"]), upstream.address);
    let gateway = gateway_for(front.address, "protocol: Auto, tls: { ca: ca.certificate }", &authority);
    let mut connection = Connection::open(gateway.data);
    let answer = connection.exchange(&handshake(ORIGIN)).unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    connection.send(b"through TLS").unwrap();
    assert_eq!(connection.exactly(11).unwrap(), b"through TLS");
    assert_eq!(front.handshakes()[0].protocol.as_deref(), Some("http/1.1"));
}

#[test]
fn client_certificate_is_sent_on_request() {
    let (servers, clients) = (Authority::new("of servers"), Authority::new("of clients"));
    let (own, untrusted) = (clients.issue(&["gateway.test"]), servers.issue(&["gateway.test"]));
    let certificate = servers.issue(&["127.0.0.1"]);
    let start = |config: ServerConfig, behind, protocol: &str, own: Option<&Issued>| {
        let front = TlsFront::start(config, behind);
        let client = own.map_or("", |_| ", clientCertificate: { certificate: own.certificate, key: own.key }");
        let options = format!("protocol: {protocol}, tls: {{ ca: ca.certificate{client} }}");
        let (pem, key) = own.map_or_else(Default::default, |own| (own.certificate.clone(), own.key.clone()));
        let files = [("ca.certificate", &*servers.pem()), ("own.certificate", &pem), ("own.key", &key)];
        let gateway = gateway_with_files(front.address, &options, &files);
        (gateway, front)
    };
    let (http1, http2) = (RecordingUpstream::answering("hello"), Http2Upstream::answering("hello"));
    for (protocol, alpn, behind) in [("Http1", "http/1.1", http1.address), ("Http2", "h2", http2.address)] {
        let server = || certificate.server_for(&clients, &[alpn]);
        let (gateway, front) = start(server(), behind, protocol, Some(&own));
        assert_hello(&ask(&gateway));
        assert!(front.handshakes()[0].has_certificate);
        for own in [None, Some(&untrusted)] {
            let (gateway, _front) = start(server(), behind, protocol, own);
            assert_edge_error(&ask(&gateway), 502);
            // In TLS 1.3 the server verifies after the gateway has finished its handshake. Its
            // alert can be lost with the connection.
            let count = |kind| gateway.metric("crossgate_upstream_errors_total", &[("kind", kind)]);
            assert_eq!(count("tls_handshake") + count("reset"), 1.0, "{}", gateway.process.stderr());
        }
    }
    assert_eq!(http1.total(), 1);
    assert_eq!(http2.seen().len(), 1);
}

#[test]
fn upstreams_with_different_tls_share_no_connection() {
    let (ours, theirs, upstream) =
        (Authority::new("ours"), Authority::new("theirs"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(ours.issue(&[NAME, "127.0.0.1"]).server(&[]), upstream.address);
    let own = ours.issue(&["gateway.test"]);
    let server = front.address;
    let tls_sections = [
        format!("serverName: {NAME}, ca: ours.certificate"),
        format!("serverName: {NAME}, ca: theirs.certificate"),
        format!(
            "serverName: {NAME}, ca: ours.certificate, clientCertificate: {{ certificate: own.certificate, key: own.key }}"
        ),
        "ca: ours.certificate".to_owned(),
        "serverName: wrong.test, ca: ours.certificate".to_owned(),
    ];
    let mut text = "upstreams:\n".to_owned();
    let mut tenants = "policies: { spa: { allowOrigins: [\"https://app.a.test\"] } }\ntenants:\n".to_owned();
    for (nth, tls) in tls_sections.iter().enumerate() {
        text.push_str(&format!("  u{nth}: {{ servers: [{server}], tls: {{ {tls} }} }}\n"));
        tenants.push_str(&format!("  - {{ id: t{nth}, hosts: [t{nth}.test], upstream: u{nth}, policy: spa }}\n"));
    }
    let files = [
        ("ours.certificate", ours.pem()),
        ("theirs.certificate", theirs.pem()),
        ("own.certificate", own.certificate),
        ("own.key", own.key),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    let gateway = Gateway::start(&config(&(text + &tenants)), &files);
    for (nth, wanted) in [(1, 502), (2, 200), (3, 200), (4, 502)] {
        // On one connection, so that the first upstream connection is idle in the pool before the
        // last request.
        let mut connection = Connection::open(gateway.data);
        let mut status =
            |nth| connection.exchange(&request("GET", "/", &format!("t{nth}.test"), &[], b"")).unwrap().status;
        assert_eq!([status(0), status(0), status(nth)], [200, 200, wanted], "{nth}");
    }
    assert_eq!(front.handshakes().len(), 3, "each upstream keeps its own connection");
}

#[test]
fn changed_ca_file_ends_trust_in_kept_connections() {
    let (ours, theirs, upstream) =
        (Authority::new("ours"), Authority::new("theirs"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(ours.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let gateway = gateway_for(front.address, "tls: { ca: ca.certificate }", &ours);
    let generation = |wanted: f64| gateway.wait_metric("crossgate_config_generation", &[], wanted);
    assert_hello(&ask(&gateway));
    std::fs::write(gateway.path("ca.certificate"), theirs.pem()).unwrap();
    generation(2.0);
    assert_edge_error(&ask(&gateway), 502);
    assert_eq!(upstream.connections(), 1, "a kept connection is not used after its trust changed");
    // An invalid file changes nothing but the log and the status.
    std::fs::write(gateway.path("ca.certificate"), "-----BEGIN CERTIFICATE-----\nsecret\n").unwrap();
    let log_line = |line: &str| (line.contains("ca.certificate has no readable certificate")).then(|| line.to_owned());
    assert!(!gateway.process.stderr_line(log_line).contains("secret"));
    generation(3.0);
    assert_edge_error(&ask(&gateway), 502);
    std::fs::write(gateway.path("ca.certificate"), ours.pem()).unwrap();
    generation(4.0);
    ask_three_times(&gateway);
    // A rewritten file with the same content closes no connection.
    std::fs::write(gateway.path("ca.certificate"), ours.pem()).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    ask_three_times(&gateway);
    assert_eq!(front.handshakes().len(), 2, "the connection is reused");
}

#[test]
fn broken_tls_file_keeps_the_last_good_one_while_the_rest_is_reloaded() {
    let (servers, clients) = (Authority::new("of servers"), Authority::new("of clients"));
    let (own, upstream) = (clients.issue(&["gateway.test"]), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(servers.issue(&["127.0.0.1"]).server_for(&clients, &[]), upstream.address);
    let options = "tls: { ca: ca.pem, clientCertificate: { certificate: own.pem, key: own.key } }";
    let files = [("ca.pem", &*servers.pem()), ("own.pem", &*own.certificate), ("own.key", &*own.key)];
    let gateway = gateway_with_files(front.address, options, &files);
    let write = |name: &str, text: &str| std::fs::write(gateway.path(name), text).unwrap();
    let broken = || {
        let status = gateway.admin("GET", "/status").json();
        let files = status["reload"]["brokenFiles"].as_array().unwrap().clone();
        assert_eq!(gateway.metric("crossgate_config_broken_files", &[]), files.len() as f64);
        let name = |file: &serde_json::Value| file["file"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        files.iter().map(name).collect::<Vec<_>>()
    };
    assert_hello(&ask(&gateway));
    let text = std::fs::read_to_string(gateway.path("crossgate.yaml")).unwrap();
    let other = servers.issue(&["gateway.test"]);
    // Each round adds a host and changes an option that needs new connections.
    for (round, (name, bad, message)) in (2..).zip([
        ("own.key", &own.key[..40], "has no readable private key"),
        ("own.key", &*other.key, "does not go with"),
        ("own.pem", "", "has no readable certificate"),
        ("ca.pem", &servers.pem()[..100], "has no readable certificate"),
    ]) {
        let good = std::fs::read_to_string(gateway.path(name)).unwrap();
        write(name, bad);
        let host = format!("api-{round}.test");
        write(
            "crossgate.yaml",
            &text.replace(HOST, &format!("{HOST}, {host}")).replace("attempts: 1", &format!("attempts: {round}")),
        );
        let answer = gateway.admin("POST", "/reload");
        assert!(answer.status == 200 && answer.text().contains(message), "{message}: {answer:?}");
        assert_eq!(broken(), [name], "{message}");
        gateway.process.stderr_line(|line| (line.contains(message) && line.contains("last good")).then_some(()));
        assert_hello(&gateway.ask("GET", "/", &host, &[("Origin", ORIGIN)]));
        let checked =
            Command::new(env!("CARGO_BIN_EXE_crossgate")).arg("check").arg(gateway.path("crossgate.yaml")).output();
        let checked = checked.unwrap();
        let output = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
        assert!(
            checked.status.code() == Some(1) && output.contains(message) && output.contains("crossgate.yaml:6:"),
            "{output}"
        );
        write(name, &good);
        gateway.wait_zero("crossgate_config_broken_files", &[]);
    }
    assert_eq!(front.handshakes().len(), 5, "each round opens a new connection");
    // A file that was never valid is an error in the file that names it.
    write("other.pem", "");
    write("crossgate.yaml", &text.replace("ca.pem", "other.pem").replace(HOST, "api-9.test"));
    let answer = gateway.admin("POST", "/reload");
    assert!(answer.status == 422 && answer.text().contains("other.pem has no readable certificate"), "{answer:?}");
    assert_eq!(gateway.ask("GET", "/", "api-9.test", &[]).status, 421);
    // The gateway loads the file when it becomes valid.
    write("other.pem", &servers.pem());
    let deadline = Instant::now() + Duration::from_secs(10);
    while gateway.ask("GET", "/", "api-9.test", &[("Origin", ORIGIN)]).status != 200 {
        assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
    }
}

#[test]
fn tls_files_are_reloaded_while_the_configuration_is_refused() {
    let (servers, clients, others) =
        (Authority::new("of servers"), Authority::new("of clients"), Authority::new("of others"));
    let (own, upstream) = (clients.issue(&["gateway.test"]), RecordingUpstream::answering("hello"));
    let certificate = servers.issue(&["127.0.0.1"]);
    let front = TlsFront::start(certificate.server_for(&clients, &[]), upstream.address);
    let check = "healthCheck: { path: /, interval: 1h }";
    let options =
        format!("tls: {{ ca: ca.pem, clientCertificate: {{ certificate: own.pem, key: own.key }} }}, {check}");
    let files = [("ca.pem", &*servers.pem()), ("own.pem", &*own.certificate), ("own.key", &*own.key)];
    let gateway = gateway_with_files(front.address, &options, &files);
    assert_hello(&ask(&gateway));
    let checks =
        |wanted| gateway.wait_metric("crossgate_upstream_health_checks_total", &[("result", "passed")], wanted);
    checks(1.0);
    let good = std::fs::read_to_string(gateway.path("crossgate.yaml")).unwrap();
    std::fs::write(gateway.path("crossgate.yaml"), good.replace("policies:", "polices:")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 422);
    front.renew(certificate.server_for(&others, &[]));
    // From now on, the server accepts only the new client certificate.
    let before = front.handshakes().len();
    let renewed = others.issue(&["gateway.test"]);
    std::fs::write(gateway.path("own.pem"), &renewed.certificate).unwrap();
    std::fs::write(gateway.path("own.key"), &renewed.key).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while front.handshakes().len() < before + 2 {
        assert!(Instant::now() < deadline, "{:?}\n{}", front.handshakes(), gateway.process.stderr());
        ask(&gateway);
    }
    assert_hello(&ask(&gateway));
    checks(2.0);
    let status = gateway.admin("GET", "/status").json();
    assert!(status["reload"]["lastResult"] == "failure" && status["reload"]["errors"].to_string().contains("polices"));
    std::fs::write(gateway.path("crossgate.yaml"), &good).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    assert_hello(&ask(&gateway));
}

#[test]
fn untrusted_upstream_does_not_affect_other_tenants() {
    let (ours, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(Issued::self_signed(&["127.0.0.1"]).server(&[]), upstream.address);
    let text = tenant_config_at(upstream.address, "").replace(
        "\npolicies:",
        &format!("  bad: {{ servers: [{}], tls: {{ ca: ca.certificate }} }}\n\npolicies:", front.address),
    ) + "  - { id: b, hosts: [api.b.test], upstream: bad, policy: spa }\n";
    let gateway = Gateway::start(&config(&text), &[("ca.certificate", &ours.pem())]);
    for _ in 0..20 {
        assert_eq!(gateway.ask("GET", "/", "api.b.test", &[("Origin", ORIGIN)]).status, 502);
        assert_hello(&ask(&gateway));
    }
    gateway.wait_metric("crossgate_upstream_errors_total", &[("upstream", "api")], 0.0);
    let lines = gateway.process.stderr().matches("no connection over TLS").count();
    assert_eq!(lines, 1, "the log throttle suppresses repeated lines");
}

#[test]
fn large_body_passes_both_ways_over_upstream_tls() {
    let (authority, length) = (Authority::new("ours"), 3 << 20);
    let upstream = RecordingUpstream::start(|exchange| {
        let (total, kept) = exchange.read_body();
        exchange.answer(200, &[("x-req", &total.to_string())], &kept)
    });
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let gateway = gateway_for(front.address, "tls: { ca: ca.certificate }", &authority);
    let body: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
    let answer = Connection::ask(gateway.data, &request("POST", "/", HOST, &[("Origin", ORIGIN)], &body)).unwrap();
    assert_eq!(answer.headers.one("x-req"), body.len().to_string());
    assert!(!answer.body.is_empty() && body.starts_with(&answer.body));
}

#[test]
fn a8_pinned_certificate_accepts_only_itself() {
    let (old, new) = (RecordingUpstream::answering("hello"), Http2Upstream::answering("hello"));
    for (protocol, offered, behind) in [
        ("Http1", &["http/1.1"][..], old.address),
        ("Http2", &["h2"], new.address),
        ("Auto", &["h2", "http/1.1"], new.address),
        ("Auto", &["http/1.1"], old.address),
    ] {
        let options = format!("protocol: {protocol}, tls: {{ serverName: {NAME}, ca: ca.certificate }}");
        let start = |served: &Issued, trusted: &Issued| {
            let front = TlsFront::start(served.server(offered), behind);
            let checked =
                format!("{options}, healthCheck: {{ path: /, interval: 1s, timeout: 1s, unhealthyAfter: 1 }}");
            let checked = if protocol == "Http1" { &checked } else { &options };
            (gateway_with_files(front.address, checked, &[("ca.certificate", &trusted.certificate)]), front)
        };
        let own = Issued::self_signed_authority(&[NAME], Validity::Now);
        let (gateway, front) = start(&own, &own);
        ask_three_times(&gateway);
        gateway.process.stderr_line(|line| line.contains("pinned-certificate").then_some(()));
        assert_eq!(gateway.metric("crossgate_upstream_servers", &[("state", "up")]), 1.0, "the health checks pass too");
        // An untrusted certificate, a certificate for another name, and an expired one.
        let untrusted = Issued::self_signed_authority(&[NAME], Validity::Now);
        let renamed = Issued::self_signed_authority(&["other.test"], Validity::Now);
        let expired = Issued::self_signed_authority(&[NAME], Validity::Expired);
        drop(front);
        for (served, trusted) in [(&untrusted, &own), (&renamed, &renamed), (&expired, &expired)] {
            let (gateway, _front) = start(served, trusted);
            let answer = ask(&gateway);
            assert!(matches!(answer.status, 502 | 503), "{protocol}: {answer:?}");
            assert_allowed(&answer);
        }
    }
}

#[test]
fn a8_failing_handshakes_are_not_repeated_for_every_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (made, count) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _sent_or_over = made.send(());
            drop(stream);
        }
    });
    let gateway = gateway_for(address, "tls: { ca: ca.certificate }", &Authority::new("ours"));
    let start = Instant::now();
    let mut requests = 0;
    while start.elapsed() < Duration::from_secs(2) {
        assert_edge_error(&ask(&gateway), 502);
        requests += 1;
    }
    let handshakes = count.try_iter().count();
    assert!(handshakes <= 12 && requests > handshakes * 3, "{handshakes} handshakes of {requests} requests");
}
