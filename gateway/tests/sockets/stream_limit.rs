//! HTTP/2 upstreams that lower SETTINGS_MAX_CONCURRENT_STREAMS of an open connection (field case
//! F7).
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2_frames::{DATA, END_STREAM, HEADERS, SETTINGS, head};
use crate::support::{
    Authority, Connection, FrameConnection, FrameUpstream, Gateway, HOST, ORIGIN, Outcome, RawHttp2, Response,
    TlsFront, assert_allowed, assert_edge_error, config, request, tenant_config_at,
};

/// Much longer than a request takes over another connection.
const HEAD: Duration = Duration::from_secs(20);

fn before(server: SocketAddr, options: &str, files: &[(&str, &str)]) -> Gateway {
    let options = format!(", protocol: Http2, timeouts: {{ head: 20s }}{options}");
    Gateway::start(&config(&tenant_config_at(server, &options)), files)
}

fn allow_streams(connection: &mut FrameConnection, max: u32) -> Option<()> {
    connection.send(SETTINGS, 0, 0, &[&3_u16.to_be_bytes()[..], &max.to_be_bytes()].concat())
}

/// Starts an upstream whose first `limited` connections accept one request each.
fn start_allowing_one(limited: usize) -> FrameUpstream {
    FrameUpstream::start(move |connection| {
        loop {
            let stream = connection.next_request()?;
            assert!(connection.number >= limited || stream == 1, "the gateway exceeded the stream limit");
            connection.send_hello(stream)?;
            if connection.number < limited {
                allow_streams(connection, 0)?;
            }
        }
    })
}

fn ask(gateway: &Gateway, method: &str, body: &[u8]) -> Response {
    Connection::ask(gateway.data, &request(method, "/", HOST, &[("Origin", ORIGIN)], body)).unwrap()
}

#[track_caller]
fn assert_hello(answer: &Response) {
    assert_eq!((answer.status, &*answer.text()), (200, "hello"), "{answer:?}");
    assert_allowed(answer);
}

/// Checks that the second request soon goes over another connection.
#[track_caller]
fn check(upstream: &FrameUpstream, gateway: &Gateway, method: &str) {
    assert_hello(&ask(gateway, "GET", b""));
    // Time for the gateway to receive the new limit.
    thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    assert_hello(&ask(gateway, method, b""));
    assert!(begun.elapsed() < HEAD / 2, "{:?}", begun.elapsed());
    assert_eq!(upstream.connections(), 2);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "stream_limit")], 1.0);
    // Later requests use the new connection without waiting.
    let begun = Instant::now();
    for _ in 0..3 {
        assert_hello(&ask(gateway, "GET", b""));
    }
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_eq!(upstream.connections(), 2);
    gateway.wait_metric("crossgate_upstream_ejections_total", &[], 0.0);
}

#[test]
fn f7_request_refused_by_stream_limit_uses_another_connection() {
    for method in ["GET", "DELETE", "POST"] {
        let upstream = start_allowing_one(1);
        check(&upstream, &before(upstream.address, "", &[]), method);
    }
}

#[test]
fn f7_request_refused_by_stream_limit_uses_another_tls_connection() {
    let authority = Authority::new("ours");
    let upstream = start_allowing_one(1);
    let front = TlsFront::start(authority.issue(&["127.0.0.1"]).server(&["h2"]), upstream.address);
    let options = ", tls: { ca: ca.certificate }";
    let gateway = before(front.address, options, &[("ca.certificate", &authority.pem())]);
    check(&upstream, &gateway, "POST");
}

#[test]
fn f7_http2_client_request_refused_by_stream_limit_is_resent() {
    let upstream = start_allowing_one(1);
    let gateway = before(upstream.address, "", &[]);
    assert_hello(&ask(&gateway, "GET", b""));
    thread::sleep(Duration::from_millis(50));
    let mut raw = RawHttp2::open(gateway.data, &[]);
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/"), ("origin", ORIGIN)];
    raw.send(&head(1, &fields, END_STREAM));
    let begun = Instant::now();
    assert_eq!(raw.outcome(1), Outcome::Answered(200));
    assert!(begun.elapsed() < HEAD / 2, "{:?}", begun.elapsed());
    assert_eq!(upstream.connections(), 2);
}

/// Pingora sends a body only after its request has begun and watches nothing else, so it cannot
/// resend the request.
#[test]
fn f7_upload_refused_by_stream_limit_gets_503() {
    for body in [5, 60_000, 1 << 20] {
        let upstream = start_allowing_one(1);
        let gateway = before(upstream.address, "", &[]);
        assert_hello(&ask(&gateway, "GET", b""));
        thread::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        let answer = ask(&gateway, "POST", &vec![b'x'; body]);
        assert_edge_error(&answer, 503);
        assert_allowed(&answer);
        assert!(begun.elapsed() < HEAD / 2, "{:?}", begun.elapsed());
        gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "stream_limit")], 1.0);
        gateway.wait_metric("crossgate_responses_total", &[("class", "5xx"), ("by", "gateway")], 1.0);
        assert_hello(&ask(&gateway, "POST", b"hello"));
        assert_eq!(upstream.connections(), 2);
        gateway.wait_metric("crossgate_upstream_ejections_total", &[], 0.0);
    }
}

/// Every connection allows one request, so each request gets a new connection and none fails.
#[test]
fn f7_lowered_stream_limits_spread_requests_over_connections() {
    let upstream = start_allowing_one(usize::MAX);
    let gateway = before(upstream.address, "", &[]);
    for nth in 1..=4 {
        assert_hello(&ask(&gateway, "POST", b""));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(upstream.connections(), nth);
    }
}

/// `h2` sends a held-back request once the server allows it, even for a dropped stream. The gateway
/// therefore closes the connection first.
#[test]
fn f7_resent_request_is_not_sent_on_the_first_connection() {
    for (method, body, status) in [("POST", &b""[..], 200), ("POST", b"hello", 503), ("PUT", b"hello", 503)] {
        let (sender, receiver) = mpsc::channel();
        let upstream = FrameUpstream::start(move |connection| {
            let first = connection.next_request()?;
            connection.send_hello(first)?;
            if connection.number == 0 {
                allow_streams(connection, 0)?;
                thread::sleep(Duration::from_millis(1500));
                let _gone = allow_streams(connection, 50);
            }
            sender.send((connection.number, connection.next_of(HEADERS).is_some())).unwrap();
            Some(())
        });
        let gateway = before(upstream.address, "", &[]);
        assert_hello(&ask(&gateway, "GET", b""));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(ask(&gateway, method, body).status, status);
        assert_eq!(receiver.recv_timeout(HEAD).unwrap(), (0, false), "{method} {body:?}");
    }
}

/// Other requests use the connection, so it stays open. A POST must not be repeated: it waits there
/// and is sent once.
#[test]
fn f7_post_beyond_the_stream_limit_is_sent_once() {
    let upstream = FrameUpstream::start(|connection| {
        let first = connection.next_request()?;
        connection.send_hello(first)?;
        let slow = connection.next_request()?;
        allow_streams(connection, 1)?;
        thread::sleep(Duration::from_millis(1500));
        connection.send_hello(slow)?;
        loop {
            let next = connection.next_request()?;
            connection.send_hello(next)?;
        }
    });
    let gateway = before(upstream.address, "", &[]);
    assert_hello(&ask(&gateway, "GET", b""));
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(&gateway, "GET", b""));
        gateway.wait_level("crossgate_requests_active", 1.0);
        thread::sleep(Duration::from_millis(300));
        assert_hello(&ask(&gateway, "POST", b""));
        assert_hello(&slow.join().unwrap());
    });
    assert_eq!(upstream.connections(), 1);
    gateway.wait_metric("crossgate_upstream_errors_total", &[], 0.0);
}

/// A slow answer shows that the request was sent, so it is not sent again.
#[test]
fn f7_slow_answer_does_not_resend_the_request() {
    let upstream = FrameUpstream::start(|connection| {
        loop {
            let stream = connection.next_request()?;
            if stream > 1 {
                thread::sleep(Duration::from_millis(1500));
            }
            connection.send_hello(stream)?;
            allow_streams(connection, 50)?;
        }
    });
    let gateway = before(upstream.address, "", &[]);
    for method in ["GET", "POST"] {
        assert_hello(&ask(&gateway, method, b""));
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(upstream.connections(), 1);
    gateway.wait_metric("crossgate_upstream_errors_total", &[], 0.0);
}

/// A server that reads nothing for a while has not limited its streams: data in the kernel's
/// buffers will be sent.
#[test]
fn f7_request_waiting_for_the_network_counts_as_sent() {
    let upstream = FrameUpstream::start(|connection| {
        let first = connection.next_request()?;
        connection.send_hello(first)?;
        let upload = connection.next_of(HEADERS)?.stream;
        thread::sleep(Duration::from_millis(1500));
        while connection.next_of(DATA)?.flags & END_STREAM == 0 {}
        connection.send_hello(upload)
    });
    let gateway = before(upstream.address, "", &[]);
    assert_hello(&ask(&gateway, "GET", b""));
    thread::sleep(Duration::from_millis(50));
    assert_hello(&ask(&gateway, "POST", &[b'x'; 60_000]));
    assert_eq!(upstream.connections(), 1);
}
