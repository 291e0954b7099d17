//! TLS to upstreams: whom the gateway trusts, what it asks for and shows, and what becomes of a request when there is no trust.
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::support::{
    Authority, Connection, Gateway, HOST, Handshake, Http2Upstream, Issued, ORIGIN, RecordingUpstream, Response,
    TlsFront, Valid, assert_allowed, assert_edge_error, config, handshake, request, tenant_config_at, websocket,
};

const NAME: &str = "api.internal.test";
const TIMEOUTS: &str = ", timeouts: { connect: 1s, head: 5s, idle: 5s }, attempts: 1";

/// A gateway before `server`, spoken to with these options; `ca.certificate` beside its configuration is the authority's.
fn before(server: SocketAddr, options: &str, authority: &Authority) -> Gateway {
    before_with(server, options, &[("ca.certificate", &authority.pem())])
}

fn before_with(server: SocketAddr, options: &str, files: &[(&str, &str)]) -> Gateway {
    Gateway::start(&config(&tenant_config_at(server, &format!("{TIMEOUTS}, {options}"))), files)
}

fn ask(gateway: &Gateway) -> Response {
    gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)])
}

/// On one connection, so that the gateway has put the upstream's away when the next request comes.
#[track_caller]
fn ask_often(gateway: &Gateway) {
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

/// The error that a page may read, the one count, and what the log tells of it, which the client does not see.
#[track_caller]
fn assert_refused(gateway: &Gateway, status: u16, kind: &str, told: &str) {
    let answer = ask(gateway);
    assert_edge_error(&answer, status);
    assert_allowed(&answer);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("upstream", "api"), ("kind", kind)], 1.0);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("upstream", "api")], 1.0);
    gateway.process.stderr_line(|line| line.contains(told).then_some(()));
    assert!(!format!("{answer:?}").contains(told), "{answer:?}");
    // The edge is as well as ever.
    let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(gateway.ask("OPTIONS", "/", HOST, &preflight).status, 204);
}

#[test]
fn a_server_is_asked_for_and_trusted_by_its_name() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&[NAME]).server(&[]), upstream.address);
    let gateway = before(front.address, &format!("tls: {{ serverName: {NAME}, ca: ca.certificate }}"), &authority);
    ask_often(&gateway);
    let server_name = Some(NAME.to_owned());
    let wanted = Handshake { server_name, protocol: None, has_certificate: false, is_resumed: false };
    assert_eq!(front.handshakes(), [wanted], "one connection for all");
    let seen = upstream.seen();
    assert_eq!((seen[0].headers.one("host"), seen[0].headers.one("x-forwarded-proto")), (HOST, "http"));
}

#[test]
fn an_address_is_a_name_too() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let gateway = before(front.address, "tls: { ca: ca.certificate }", &authority);
    assert_hello(&ask(&gateway));
    assert_eq!(front.handshakes()[0].server_name, None, "RFC 6066, section 3: addresses are not asked for");
}

#[test]
fn a_certificate_can_be_its_own_authority() {
    let upstream = RecordingUpstream::answering("hello");
    let certificate = Issued::self_signed(&[NAME]);
    let front = TlsFront::start(certificate.server(&[]), upstream.address);
    let tls = format!("tls: {{ serverName: {NAME}, ca: it.certificate }}");
    assert_hello(&ask(&before_with(front.address, &tls, &[("it.certificate", &certificate.certificate)])));
}

#[test]
fn whom_the_system_trusts_is_trusted_by_default() {
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
fn a_system_that_trusts_nobody_concerns_those_alone_who_need_it() {
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
    let output = command().arg("check").arg(&path).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("crossgate.yaml:6:") && said.contains("under ca"), "{said}");
}

#[test]
fn a_certificate_that_is_no_good_is_refused_and_named() {
    let (ours, theirs, upstream) =
        (Authority::new("ours"), Authority::new("theirs"), RecordingUpstream::answering("hello"));
    for (certificate, told) in [
        (Issued::self_signed(&[NAME]), "UnknownIssuer"),
        (theirs.issue(&[NAME]), "UnknownIssuer"),
        (ours.issue_valid(&[NAME], Valid::Before), "certificate expired"),
        (ours.issue_valid(&[NAME], Valid::Later), "certificate not valid yet"),
        (ours.issue(&["other.internal.test", "127.0.0.1"]), "certificate not valid for name"),
        (ours.issue(&["internal.test"]), "certificate not valid for name"),
    ] {
        let front = TlsFront::start(certificate.server(&[]), upstream.address);
        let gateway = before(front.address, &format!("tls: {{ serverName: {NAME}, ca: ca.certificate }}"), &ours);
        assert_refused(&gateway, 502, "tls_certificate", told);
        // It is mended when the server is, and not before.
        front.renew(ours.issue(&[NAME]).server(&[]));
        assert_hello(&ask(&gateway));
    }
    assert_eq!(upstream.total(), 6, "nothing is sent to whom is not trusted");
}

#[test]
fn an_address_must_be_in_the_certificate_where_no_name_is_given() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(authority.issue(&[NAME, "127.0.0.2"]).server(&[]), upstream.address);
    let gateway = before(front.address, "tls: { ca: ca.certificate }", &authority);
    assert_refused(&gateway, 502, "tls_certificate", "certificate not valid for name");
}

/// A server that does something else than a handshake.
fn instead(what: fn(&mut std::net::TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || what(&mut stream));
        }
    });
    address
}

#[test]
fn whoever_does_not_shake_hands_is_told_apart() {
    let authority = Authority::new("ours");
    let tls = "tls: { ca: ca.certificate }";
    let hangs_up = instead(|stream| {
        let _all = stream.read(&mut [0; 4096]);
    });
    assert_refused(&before(hangs_up, tls, &authority), 502, "tls_handshake", "tls handshake eof");
    let talks_http = instead(|stream| {
        let _some = stream.read(&mut [0; 4096]);
        let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _rest = stream.read(&mut [0; 4096]);
    });
    assert_refused(&before(talks_http, tls, &authority), 502, "tls_handshake", "corrupt message");
    let is_silent = instead(|stream| {
        let _rest = stream.read_to_end(&mut Vec::new());
    });
    let gateway = before(is_silent, tls, &authority);
    let begun = Instant::now();
    let answer = ask(&gateway);
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "connect_timeout")], 1.0);
}

#[test]
fn a_server_without_http2_is_refused_where_that_is_demanded() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::answering("hello"));
    let certificate = authority.issue(&["127.0.0.1"]);
    let demanded = "protocol: Http2, tls: { ca: ca.certificate }";
    for (protocols, told) in [(&["http/1.1"][..], "NoApplicationProtocol"), (&[], "speaks no HTTP/2")] {
        let front = TlsFront::start(certificate.server(protocols), upstream.address);
        assert_refused(&before(front.address, demanded, &authority), 502, "tls_alpn", told);
    }
    assert_eq!(upstream.total(), 0, "it is not asked in another HTTP");
}

#[test]
fn the_best_http_that_both_speak_is_spoken() {
    let authority = Authority::new("ours");
    let certificate = authority.issue(&["127.0.0.1"]);
    let (old, new) = (RecordingUpstream::answering("hello"), Http2Upstream::answering("hello"));
    let spoken = |protocol: &str, offered: &[&str], behind: SocketAddr| {
        let front = TlsFront::start(certificate.server(offered), behind);
        let gateway =
            before(front.address, &format!("protocol: {protocol}, tls: {{ ca: ca.certificate }}"), &authority);
        ask_often(&gateway);
        let handshakes = front.handshakes();
        assert_eq!(handshakes.len(), 1, "{handshakes:?}");
        handshakes[0].protocol.clone()
    };
    let both = ["h2", "http/1.1"];
    assert_eq!(spoken("Auto", &both, new.address).as_deref(), Some("h2"));
    assert_eq!(spoken("Http2", &both, new.address).as_deref(), Some("h2"));
    assert_eq!(spoken("Http1", &both, old.address).as_deref(), Some("http/1.1"));
    assert_eq!(spoken("Auto", &["http/1.1"], old.address).as_deref(), Some("http/1.1"));
    assert_eq!(spoken("Auto", &[], old.address), None);
    assert_eq!(new.uris()[0].to_string(), format!("https://{HOST}/"));
}

#[test]
fn a_websocket_goes_over_http1_where_the_server_may_choose() {
    let (authority, upstream) = (Authority::new("ours"), RecordingUpstream::start(websocket));
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&["h2", "http/1.1"]), upstream.address);
    let gateway = before(front.address, "protocol: Auto, tls: { ca: ca.certificate }", &authority);
    let mut connection = Connection::open(gateway.data);
    let answer = connection.exchange(&handshake(ORIGIN)).unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    connection.send(b"through TLS").unwrap();
    assert_eq!(connection.exactly(11).unwrap(), b"through TLS");
    assert_eq!(front.handshakes()[0].protocol.as_deref(), Some("http/1.1"));
}

#[test]
fn the_gateway_shows_who_it_is_to_who_asks() {
    let (servers, clients) = (Authority::new("of servers"), Authority::new("of clients"));
    let (own, stranger) = (clients.issue(&["gateway.test"]), servers.issue(&["gateway.test"]));
    let certificate = servers.issue(&["127.0.0.1"]);
    let start = |config: ServerConfig, behind, protocol: &str, own: Option<&Issued>| {
        let front = TlsFront::start(config, behind);
        let shown = own.map_or("", |_| ", clientCertificate: { certificate: own.certificate, key: own.key }");
        let options = format!("protocol: {protocol}, tls: {{ ca: ca.certificate{shown} }}");
        let (pem, key) = own.map_or_else(Default::default, |own| (own.certificate.clone(), own.key.clone()));
        let files = [("ca.certificate", &*servers.pem()), ("own.certificate", &pem), ("own.key", &key)];
        let gateway = before_with(front.address, &options, &files);
        (gateway, front)
    };
    let (http1, http2) = (RecordingUpstream::answering("hello"), Http2Upstream::answering("hello"));
    for (protocol, alpn, behind) in [("Http1", "http/1.1", http1.address), ("Http2", "h2", http2.address)] {
        let asking = || certificate.server_for(&clients, &[alpn]);
        let (gateway, front) = start(asking(), behind, protocol, Some(&own));
        assert_hello(&ask(&gateway));
        assert!(front.handshakes()[0].has_certificate);
        for own in [None, Some(&stranger)] {
            let (gateway, _front) = start(asking(), behind, protocol, own);
            assert_edge_error(&ask(&gateway), 502);
            // Since TLS 1.3 a server looks when the gateway is done, and what it says can get lost with the connection.
            let count = |kind| gateway.metric("crossgate_upstream_errors_total", &[("kind", kind)]);
            assert_eq!(count("tls_handshake") + count("reset"), 1.0, "{}", gateway.process.stderr());
        }
    }
    assert_eq!(http1.total(), 1);
    assert_eq!(http2.seen().len(), 1);
}

#[test]
fn upstreams_that_differ_share_no_connection() {
    let (ours, theirs, upstream) =
        (Authority::new("ours"), Authority::new("theirs"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(ours.issue(&[NAME, "127.0.0.1"]).server(&[]), upstream.address);
    let own = ours.issue(&["gateway.test"]);
    let server = front.address;
    let spoken = [
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
    for (nth, tls) in spoken.iter().enumerate() {
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
        // On one connection, so that the first upstream's has been put away when the other is asked.
        let mut connection = Connection::open(gateway.data);
        let mut status =
            |nth| connection.exchange(&request("GET", "/", &format!("t{nth}.test"), &[], b"")).unwrap().status;
        assert_eq!([status(0), status(0), status(nth)], [200, 200, wanted], "{nth}");
    }
    assert_eq!(front.handshakes().len(), 3, "each has its own, and keeps it");
}

#[test]
fn files_that_change_are_read_anew_and_what_was_trusted_is_trusted_no_more() {
    let (ours, theirs, upstream) =
        (Authority::new("ours"), Authority::new("theirs"), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(ours.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let gateway = before(front.address, "tls: { ca: ca.certificate }", &ours);
    let generation = |wanted: f64| gateway.wait_metric("crossgate_config_generation", &[], wanted);
    assert_hello(&ask(&gateway));
    std::fs::write(gateway.path("ca.certificate"), theirs.pem()).unwrap();
    generation(2.0);
    assert_edge_error(&ask(&gateway), 502);
    assert_eq!(upstream.connections(), 1, "the kept connection was made under another trust");
    // What is no certificate changes nothing but what is told.
    std::fs::write(gateway.path("ca.certificate"), "-----BEGIN CERTIFICATE-----\nsecret\n").unwrap();
    let told = |line: &str| (line.contains("ca.certificate has no readable certificate")).then(|| line.to_owned());
    assert!(!gateway.process.stderr_line(told).contains("secret"));
    generation(3.0);
    assert_edge_error(&ask(&gateway), 502);
    std::fs::write(gateway.path("ca.certificate"), ours.pem()).unwrap();
    generation(4.0);
    ask_often(&gateway);
    // Written anew, they say the same: nothing is made anew.
    std::fs::write(gateway.path("ca.certificate"), ours.pem()).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    ask_often(&gateway);
    assert_eq!(front.handshakes().len(), 2, "and the connection is used on");
}

#[test]
fn a_file_that_goes_bad_is_served_as_it_was_while_the_rest_goes_live() {
    let (servers, clients) = (Authority::new("of servers"), Authority::new("of clients"));
    let (own, upstream) = (clients.issue(&["gateway.test"]), RecordingUpstream::answering("hello"));
    let front = TlsFront::start(servers.issue(&["127.0.0.1"]).server_for(&clients, &[]), upstream.address);
    let options = "tls: { ca: ca.pem, clientCertificate: { certificate: own.pem, key: own.key } }";
    let files = [("ca.pem", &*servers.pem()), ("own.pem", &*own.certificate), ("own.key", &*own.key)];
    let gateway = before_with(front.address, options, &files);
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
    let stranger = servers.issue(&["gateway.test"]);
    // By each round another host, and what makes connections be made anew.
    for (round, (name, bad, told)) in (2..).zip([
        ("own.key", &own.key[..40], "has no readable private key"),
        ("own.key", &*stranger.key, "does not go with"),
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
        assert!(answer.status == 200 && answer.text().contains(told), "{told}: {answer:?}");
        assert_eq!(broken(), [name], "{told}");
        gateway.process.stderr_line(|line| (line.contains(told) && line.contains("last good")).then_some(()));
        assert_hello(&gateway.ask("GET", "/", &host, &[("Origin", ORIGIN)]));
        let checked =
            Command::new(env!("CARGO_BIN_EXE_crossgate")).arg("check").arg(gateway.path("crossgate.yaml")).output();
        let checked = checked.unwrap();
        let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
        assert!(
            checked.status.code() == Some(1) && said.contains(told) && said.contains("crossgate.yaml:6:"),
            "{said}"
        );
        write(name, &good);
        gateway.wait_gone("crossgate_config_broken_files", &[]);
    }
    assert_eq!(front.handshakes().len(), 5, "by each round another connection");
    // What never was good is a mistake of the file that names it.
    write("other.pem", "");
    write("crossgate.yaml", &text.replace("ca.pem", "other.pem").replace(HOST, "api-9.test"));
    let answer = gateway.admin("POST", "/reload");
    assert!(answer.status == 422 && answer.text().contains("other.pem has no readable certificate"), "{answer:?}");
    assert_eq!(gateway.ask("GET", "/", "api-9.test", &[]).status, 421);
    // Its coming is seen.
    write("other.pem", &servers.pem());
    let deadline = Instant::now() + Duration::from_secs(10);
    while gateway.ask("GET", "/", "api-9.test", &[("Origin", ORIGIN)]).status != 200 {
        assert!(Instant::now() < deadline, "{}", gateway.process.stderr());
    }
}

#[test]
fn files_are_read_anew_while_the_configuration_is_refused() {
    let (servers, clients, others) =
        (Authority::new("of servers"), Authority::new("of clients"), Authority::new("of others"));
    let (own, upstream) = (clients.issue(&["gateway.test"]), RecordingUpstream::answering("hello"));
    let certificate = servers.issue(&["127.0.0.1"]);
    let front = TlsFront::start(certificate.server_for(&clients, &[]), upstream.address);
    let check = "healthCheck: { path: /, interval: 1h }";
    let options =
        format!("tls: {{ ca: ca.pem, clientCertificate: {{ certificate: own.pem, key: own.key }} }}, {check}");
    let files = [("ca.pem", &*servers.pem()), ("own.pem", &*own.certificate), ("own.key", &*own.key)];
    let gateway = before_with(front.address, &options, &files);
    assert_hello(&ask(&gateway));
    let checks =
        |wanted| gateway.wait_metric("crossgate_upstream_health_checks_total", &[("result", "passed")], wanted);
    checks(1.0);
    let good = std::fs::read_to_string(gateway.path("crossgate.yaml")).unwrap();
    std::fs::write(gateway.path("crossgate.yaml"), good.replace("policies:", "polices:")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 422);
    front.renew(certificate.server_for(&others, &[]));
    // Whoever shakes hands from now on has the new certificate.
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
fn a_neighbour_is_served_while_an_upstream_is_not_trusted() {
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
    let told = gateway.process.stderr().matches("no connection over TLS").count();
    assert_eq!(told, 1, "one line says it for a while");
}

#[test]
fn a_large_body_goes_both_ways() {
    let (authority, length) = (Authority::new("ours"), 3 << 20);
    let upstream = RecordingUpstream::start(|exchange| {
        let (total, kept) = exchange.read_body();
        exchange.answer(200, &[("x-req", &total.to_string())], &kept)
    });
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&[]), upstream.address);
    let gateway = before(front.address, "tls: { ca: ca.certificate }", &authority);
    let body: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
    let answer = Connection::ask(gateway.data, &request("POST", "/", HOST, &[("Origin", ORIGIN)], &body)).unwrap();
    assert_eq!(answer.headers.one("x-req"), body.len().to_string());
    assert!(!answer.body.is_empty() && body.starts_with(&answer.body));
}
