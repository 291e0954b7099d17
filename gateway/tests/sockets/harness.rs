//! Tests of the test harness. A harness that accepts everything would make every other test
//! worthless.
use std::time::{Duration, Instant};

use crate::support::{
    Connection, RecordingUpstream, RefusedAddress, Then, UnansweredAddress, WireError, accept, request, requests_in,
};

/// Reads the answer of an upstream that sends these bytes and then closes.
fn read_answer(bytes: &'static [u8]) -> Result<Vec<u8>, WireError> {
    let upstream = RecordingUpstream::start(move |exchange| {
        exchange.write(bytes);
        Then::Close
    });
    Connection::ask(upstream.address, &request("GET", "/", "a.test", &[], b"")).map(|response| response.body)
}

#[test]
fn well_formed_answers_are_read_whole() {
    assert_eq!(read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Ok(b"ok".to_vec()));
    assert_eq!(
        read_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX: y\r\n\r\n"),
        Ok(b"ok".to_vec())
    );
    assert_eq!(read_answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok"), Ok(b"ok".to_vec()));
    assert_eq!(read_answer(b"HTTP/1.1 204 No\r\n\r\n"), Ok(Vec::new()));
}

#[test]
fn cut_answers_are_truncated() {
    for cut in [
        b"HTTP/1.1 200 OK\r\nContent-Le".as_slice(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n0\r\n",
    ] {
        assert_eq!(read_answer(cut), Err(WireError::Truncated), "{}", String::from_utf8_lossy(cut));
    }
    assert_eq!(read_answer(b""), Err(WireError::Closed));
}

#[test]
fn invalid_answers_are_malformed() {
    for bent in [
        b"HTTP/1.0 200 OK\r\n\r\n".as_slice(),
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: c\n d: e\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n",
    ] {
        assert!(matches!(read_answer(bent), Err(WireError::Malformed(_))), "{}", String::from_utf8_lossy(bent));
    }
}

#[test]
fn received_requests_are_recorded_byte_for_byte() {
    let head = "PUT /x HTTP/1.1\r\nHost: a\r\n";
    let read = |rest: &str| requests_in(format!("{head}{rest}").as_bytes());
    let bodies = |rest: &str| read(rest).map(|requests| requests.into_iter().map(|one| one.body).collect::<Vec<_>>());
    assert_eq!(bodies("\r\n"), Some(vec![String::new()]));
    assert_eq!(bodies("Content-Length: 010\r\n\r\n0123456789"), Some(vec!["0123456789".to_owned()]));
    assert_eq!(
        bodies(&format!("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{head}\r\n")),
        Some(vec!["ok".to_owned(), String::new()])
    );
    for bent in [
        "Host: a\r\n\r\n",
        "Content-Length: 3\r\n\r\nok",
        "Content-Length: 1\r\n\r\nok",
        "Content-Length: +2\r\n\r\nok",
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
        "X : y\r\n\r\n",
        "X: y\r\n z\r\n\r\n",
        "\n",
    ] {
        assert_eq!(read(bent), None, "{bent:?}");
    }
    for first in ["GET / HTTP/1.0", "GET  / HTTP/1.1", "GET /a b HTTP/1.1", " GET / HTTP/1.1", "GET /"] {
        assert_eq!(requests_in(format!("{first}\r\nHost: a\r\n\r\n").as_bytes()), None, "{first:?}");
    }
}

#[test]
fn reset_is_distinguished_from_close() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
        Then::Reset
    });
    let answer = Connection::ask(upstream.address, &request("GET", "/", "a.test", &[], b""));
    assert_eq!(answer, Err(WireError::Reset));
}

#[test]
fn the_upstream_records_and_keeps_connections() {
    let upstream = RecordingUpstream::answering("hello");
    let mut connection = Connection::open(upstream.address);
    for body in ["", "more"] {
        let answer =
            connection.exchange(&request("PUT", "/x", "a.test", &[("X-A", "\u{e9}")], body.as_bytes())).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"hello".as_slice()));
    }
    assert_eq!((upstream.count("PUT"), upstream.total(), upstream.connections()), (2, 2, 1));
    assert!(upstream.raw()[0].ends_with(b"\r\n\r\nmore"));
    let seen = &upstream.seen()[1];
    assert_eq!((seen.headers.one("content-length"), seen.headers.one("x-a")), ("4", "\u{e9}"));
}

#[test]
fn dead_addresses_fail_as_described() {
    let refused = RefusedAddress::new();
    let unanswered = UnansweredAddress::new();
    let limit = Duration::from_millis(300);
    let begin = Instant::now();
    let error = std::net::TcpStream::connect_timeout(&refused.address, limit).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(begin.elapsed() < limit);
    let error = std::net::TcpStream::connect_timeout(&unanswered.address, limit).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn a_websocket_key_is_accepted_as_rfc_6455_shows() {
    assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
