//! The direct exchange with servers that answer in unusual ways. Each case is one in which a wrong
//! end of a message, or a wrongly kept connection, would reach another client.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    Connection, Exchange, Gateway, HOST, Http2Upstream, ORIGIN, Response, Site, Then, config, request, tenant_config_at,
};

fn hello(exchange: &mut Exchange) -> Then {
    exchange.answer(200, &[], b"hello")
}

/// Sends a request and returns its response. When the next one is sent on the same connection, what
/// was to be kept of the first is kept.
fn ask(connection: &mut Connection, method: &str, target: &str) -> Response {
    connection.send(&request(method, target, HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    connection.answer_to(method.as_bytes()).unwrap()
}

/// The connection of the last request for this target.
fn connection_of(site: &Site, target: &str) -> usize {
    let seen = site.upstream.seen();
    seen.iter().filter(|seen| seen.target == target).map(|seen| seen.connection).max().unwrap()
}

/// A site that answers `/odd` with these bytes, and any other target with `hello`.
fn odd(bytes: &'static [u8], then: Then) -> Site {
    Site::scripted(move |exchange| {
        if exchange.seen.target != "/odd" {
            return hello(exchange);
        }
        exchange.read_body();
        exchange.write(bytes);
        then
    })
}

#[test]
fn body_that_ends_with_the_server_is_chunked_for_the_client() {
    for bytes in
        [&b"HTTP/1.1 200 OK\r\n\r\nuntil close"[..], b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil close"]
    {
        let site = odd(bytes, Then::Close);
        let mut connection = site.connect();
        let answer = ask(&mut connection, "GET", "/odd");
        assert_eq!(
            (answer.headers.one("transfer-encoding"), answer.headers.one("connection")),
            ("chunked", "keep-alive")
        );
        assert_eq!(answer.text(), "until close");
        assert_eq!(ask(&mut connection, "GET", "/").text(), "hello");
    }
}

#[test]
fn body_for_http_1_0_that_breaks_off_ends_with_a_reset() {
    let whole: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (broken, _) = whole.split_at(whole.len() - 5);
    for (bytes, is_whole) in [(whole, true), (broken, false)] {
        let site = odd(bytes, Then::Close);
        let mut stream = TcpStream::connect(site.gateway.data).unwrap();
        stream.write_all(format!("GET /odd HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let mut received = Vec::new();
        assert_eq!(stream.read_to_end(&mut received).is_ok(), is_whole, "{}", received.escape_ascii());
        if is_whole {
            assert!(received.ends_with(b"\r\n\r\nhello"), "{}", received.escape_ascii());
        }
    }
}

#[test]
fn reset_content_has_no_body_and_its_connection_is_not_kept() {
    let cases: [(&'static [u8], bool); 3] = [
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", true),
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello", false),
        (b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
    ];
    for (bytes, is_kept) in cases {
        let site = odd(bytes, Then::KeepAlive);
        let mut connection = site.connect();
        let answer = ask(&mut connection, "GET", "/odd");
        assert_eq!((answer.status, answer.headers.one("content-length"), &*answer.text()), (205, "0", ""));
        assert_eq!(ask(&mut connection, "GET", "/").text(), "hello");
        let is_same = connection_of(&site, "/odd") == connection_of(&site, "/");
        assert_eq!(is_same, is_kept, "{}", bytes.escape_ascii());
    }
}

#[test]
fn too_many_interim_responses_are_a_502() {
    for (count, status) in [(8, 200), (9, 502)] {
        let site = Site::scripted(move |exchange| {
            exchange.write(&b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count));
            hello(exchange)
        });
        let answer = site.ask("GET", "/", &[]);
        assert_eq!(answer.status, status, "{count}: {answer:?}");
    }
}

#[test]
fn late_408_is_not_the_response_to_the_next_request() {
    for (method, status) in [("GET", 200), ("POST", 408)] {
        let turn = AtomicUsize::new(0);
        let site = Site::scripted(move |exchange| {
            // The second request on a kept connection is met by the timeout of that connection.
            if turn.fetch_add(1, Ordering::Relaxed) == 1 {
                exchange.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return Then::Close;
            }
            hello(exchange)
        });
        let mut connection = site.connect();
        assert_eq!(ask(&mut connection, "GET", "/").status, 200);
        assert_eq!(ask(&mut connection, method, "/").status, status, "{method}");
    }
}

#[test]
fn f2_expectation_holds_in_a_second_attempt() {
    let turn = AtomicUsize::new(0);
    let site = Site::scripted(move |exchange| {
        if exchange.seen.target != "/upload" {
            return hello(exchange);
        }
        if turn.fetch_add(1, Ordering::Relaxed) == 0 {
            exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n");
            exchange.read_body();
            return Then::Close;
        }
        // The server takes the body as absent: what follows on the connection is a request.
        exchange.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        Then::KeepAlive
    });
    let body = b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\nX-Rest: ";
    let length = body.len().to_string();
    let fields = [("Expect", "100-continue"), ("Content-Length", &*length)];
    let mut connection = site.connect();
    connection.send(&[&*request("PUT", "/upload", HOST, &fields, b""), body].concat()).unwrap();
    assert_eq!(connection.answer_to(b"PUT").unwrap().status, 401);
    for _ in 0..3 {
        assert_eq!(site.ask("GET", "/", &[]).text(), "hello");
    }
    let seen = site.upstream.seen();
    assert!(!seen.iter().any(|seen| seen.target == "/smuggled"), "{seen:?}");
    assert_ne!(connection_of(&site, "/upload"), connection_of(&site, "/"));
}

#[test]
fn requests_are_counted_by_path_to_the_upstream() {
    let site = Site::scripted(hello);
    let count = |path: &str| site.gateway.metric("crossgate_exchanges_total", &[("path", path)]);
    assert_eq!(site.ask("GET", "/", &[]).status, 200);
    let absolute = format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(site.raw(absolute.as_bytes()).unwrap().status, 200);
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    assert_eq!(site.ask("GET", "/", &upgrade).status, 200);
    // An answer at the edge goes to no upstream.
    assert_eq!(site.raw(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n").unwrap().status, 421);
    assert_eq!(["direct", "other", "upgrade", "http2_upstream"].map(count), [1.0, 1.0, 1.0, 0.0]);
    let upstream = Http2Upstream::answering("hello");
    let gateway = Gateway::start(&config(&tenant_config_at(upstream.address, ", protocol: Http2")), &[]);
    assert_eq!(Connection::ask(gateway.data, &request("GET", "/", HOST, &[], b"")).unwrap().text(), "hello");
    assert_eq!(gateway.metric("crossgate_exchanges_total", &[("path", "http2_upstream")]), 1.0);
}
