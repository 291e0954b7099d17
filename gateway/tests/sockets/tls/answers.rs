//! Answers over TLS are equal to answers in plain text, and connections end with close_notify.
use std::process::Command;
use std::time::Instant;

use super::{Stage, comparable};
use crate::support::{
    Connection, HOST, ORIGIN, PATIENCE, RecordingUpstream, Tunnel, WireError, assert_allowed, assert_denied, handshake,
    request, websocket,
};

fn get(origin: &str) -> Vec<u8> {
    request("GET", "/", HOST, &[("Origin", origin)], b"")
}

fn preflight(origin: &str, method: &str) -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", origin), ("Access-Control-Request-Method", method)], b"")
}

/// Requests for every kind of answer: from the lane, the proxy and the upstream.
fn requests() -> Vec<Vec<u8>> {
    let evil = "https://evil.test";
    let long = "x".repeat(9 * 1024);
    vec![
        preflight(ORIGIN, "PUT"),
        preflight(ORIGIN, "PATCH"),
        preflight(evil, "PUT"),
        preflight("null", "PUT"),
        request("OPTIONS", "/\u{e9}", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b""),
        get(ORIGIN),
        get(evil),
        request("GET", "/", HOST, &[], b""),
        request("HEAD", "/", HOST, &[("Origin", ORIGIN)], b""),
        request("POST", "/", HOST, &[("Origin", ORIGIN)], b"body"),
        request("POST", "/", HOST, &[("Origin", evil)], b"body"),
        request("GET", "/", "127.0.0.1", &[("Origin", ORIGIN)], b""),
        request("TRACE", "/", HOST, &[], b""),
        request("GET", "/", HOST, &[("X-Long", &long)], b""),
        request("GET", "/", HOST, &[("Host", HOST)], b""),
        request("GET", "/", HOST, &[("Connection", "origin")], b""),
        b"GET / HTTP/9\r\n\r\n".to_vec(),
        request("GET", "/", HOST, &[("Origin", ORIGIN), ("Connection", "close")], b""),
    ]
}

#[test]
fn tls_answers_equal_plain_text_answers() {
    let stage = Stage::start();
    let tunnel = Tunnel::to(stage.secure, HOST, &stage.authority);
    for bytes in requests() {
        let [plain, secure] = [stage.plain, tunnel.address].map(|address| Connection::ask(address, &bytes).unwrap());
        assert_eq!(comparable(&secure), comparable(&plain), "{}", String::from_utf8_lossy(&bytes));
    }
    assert_eq!(tunnel.unclean_ends(), 0);
}

#[test]
fn pipelined_requests_share_one_tls_connection() {
    let stage = Stage::start();
    let tunnel = Tunnel::to(stage.secure, HOST, &stage.authority);
    let mut connection = Connection::open(tunnel.address);
    for _ in 0..3 {
        connection
            .send(&[preflight(ORIGIN, "PUT").repeat(50), get(ORIGIN), get("https://evil.test")].concat())
            .unwrap();
        for _ in 0..50 {
            assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, 204);
        }
        assert_allowed(&connection.answer_to(b"GET").unwrap());
        assert_denied(&connection.answer_to(b"GET").unwrap(), "https://evil.test");
    }
    stage.wait_handshakes("success", 1.0);
}

#[test]
fn tls_requests_have_the_scheme_https() {
    let stage = Stage::start();
    assert_allowed(&stage.ask(HOST, &get(ORIGIN)));
    let seen = stage.upstream.seen();
    assert_eq!(seen.last().unwrap().headers.one("x-forwarded-proto"), "https");
    // Without Sec-Fetch-Site, an origin with the request's own host is the same origin only if its
    // scheme is equal.
    assert_eq!(stage.ask(HOST, &get("https://api.a.test")).status, 200);
    assert_denied(&stage.ask(HOST, &get("http://api.a.test")), "http://api.a.test");
    stage.gateway.process.stdout_line(|line| line.contains(r#""scheme":"https""#).then_some(()));
}

#[test]
fn websocket_over_tls_carries_bytes_both_ways() {
    let upstream = RecordingUpstream::start(websocket);
    let stage = Stage::with(&[&[HOST]], upstream, "", "");
    let tunnel = Tunnel::to(stage.secure, HOST, &stage.authority);
    let mut connection = Connection::open(tunnel.address);
    assert_eq!(connection.exchange(&handshake(ORIGIN)).unwrap().status, 101);
    connection.send(b"over and back").unwrap();
    assert_eq!(connection.exactly(13).unwrap(), b"over and back");
}

#[test]
fn connection_end_sends_close_notify() {
    let stage = Stage::with(&[&[HOST]], RecordingUpstream::answering("hello"), "", "limits: { keepAliveIdle: 1s }\n");
    let close = [("Origin", ORIGIN), ("Connection", "close")];
    let preflight = [&close[..], &[("Access-Control-Request-Method", "PUT")]].concat();
    // After an answer of the upstream, of the lane, a refusal, and after the idle timeout.
    for (bytes, status) in [
        (request("GET", "/", HOST, &close, b""), "200"),
        (request("OPTIONS", "/", HOST, &preflight, b""), "204"),
        (request("TRACE", "/", HOST, &[], b""), "405"),
        (get(ORIGIN), "200"),
    ] {
        let mut connection = stage.connect(HOST).unwrap();
        connection.send(&bytes);
        let answer = connection.read_to_end().expect("close_notify");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[test]
fn client_that_sends_close_notify_after_a_request_is_answered() {
    let stage = Stage::start();
    let mut connection = stage.connect(HOST).unwrap();
    connection.send(&preflight(ORIGIN, "PUT"));
    connection.finish_sending();
    let answer = connection.read_to_end().expect("close_notify");
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    // A client that closes the connection without close_notify is not an error.
    drop(stage.connect(HOST).unwrap());
    stage.gateway.wait_zero("crossgate_connections_active", &[]);
}

#[test]
fn tls_client_that_reads_nothing_is_disconnected() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(200, &[], &vec![b'x'; 32 << 20]));
    let stage = Stage::with(&[&[HOST]], upstream, "", "limits: { writeStall: 1s }\n");
    let mut connection = stage.connect(HOST).unwrap();
    connection.send(&get(ORIGIN));
    let cut = ("crossgate_connections_closed_early_total", [("reason", "write_stall")]);
    stage.gateway.wait_metric(cut.0, &cut.1, 1.0);
    stage.gateway.wait_zero("crossgate_connections_active", &[]);
}

#[test]
fn truncated_request_body_over_tls_counts_as_client_gone() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.read_body();
        exchange.answer(200, &[], b"hello")
    });
    let stage = Stage::with(&[&[HOST]], upstream, "", "");
    let tunnel = Tunnel::to(stage.secure, HOST, &stage.authority);
    let head = request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "1000")], b"");
    for (count, address) in (1..).zip([stage.plain, tunnel.address]) {
        let mut connection = Connection::open(address);
        connection.send(&[&head[..], b"a part"].concat()).unwrap();
        drop(connection);
        let gone = ("crossgate_connections_closed_early_total", [("reason", "client_gone")]);
        stage.gateway.wait_metric(gone.0, &gone.1, f64::from(count));
    }
    stage.gateway.wait_zero("crossgate_connections_active", &[]);
}

#[test]
fn large_bodies_pass_both_ways_over_tls() {
    let upstream = RecordingUpstream::start(|exchange| {
        let (_, body) = exchange.read_body();
        exchange.answer(200, &[], &body.repeat(20))
    });
    let stage = Stage::with(&[&[HOST]], upstream, "", "");
    let body: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    let answer = stage.ask(HOST, &request("POST", "/", HOST, &[("Origin", ORIGIN)], &body));
    assert_eq!(answer.status, 200);
    assert!(answer.body == body.repeat(20), "{} bytes", answer.body.len());
}

#[test]
fn curl_is_served_over_tls() {
    let stage = Stage::start();
    let authority = stage.gateway.path("ca.pem");
    std::fs::write(&authority, stage.authority.pem()).unwrap();
    let (port, url) = (stage.secure.port(), format!("https://{HOST}:{}/", stage.secure.port()));
    let output = Command::new("curl")
        .args(["-sS", "-i", "--noproxy", "*", "--http1.1", "-H", &format!("Origin: {ORIGIN}")])
        .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1"), "--cacert", authority.to_str().unwrap(), &url])
        .output()
        .expect("curl");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
}

#[test]
fn shutdown_does_not_wait_for_tls_handshakes() {
    let mut stage = Stage::start();
    let silent = Connection::open(stage.secure);
    stage.gateway.wait_metric("crossgate_connections_active", &[], 1.0);
    let began = Instant::now();
    stage.gateway.process.signal(rustix::process::Signal::TERM);
    assert!(stage.gateway.process.wait_at_most(PATIENCE).success());
    // The handshake's own deadline is 10 s.
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
    drop(silent);
}

#[test]
fn tls_connection_over_the_limit_is_closed_without_a_response() {
    let stage = Stage::with(&[&[HOST]], RecordingUpstream::answering("hello"), "", "limits: { maxConnections: 1 }\n");
    let _only = stage.connect(HOST).unwrap();
    let mut other = Connection::open(stage.secure);
    assert!(matches!(other.head(), Err(WireError::Closed | WireError::Reset)));
    let full = ("crossgate_connections_closed_early_total", [("reason", "full")]);
    stage.gateway.wait_metric(full.0, &full.1, 1.0);
}
