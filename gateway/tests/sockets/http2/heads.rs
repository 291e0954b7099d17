//! Heads that HTTP/2 can express and HTTP/1.1 cannot, and heads that are too large: refused, or one
//! clean upstream request.

use crate::support::http2_frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, block, frame, head};
use crate::support::{
    HOST, Http2, ORIGIN, Outcome, RawHttp2, Site, assert_allowed, assert_edge_error, assert_never_readable, requests_in,
};

const PROTOCOL_ERROR: u32 = 1;

/// The outcome of these frames on the first stream of a connection.
fn outcome(site: &Site, frames: &[u8]) -> Outcome {
    let mut raw = RawHttp2::open(site.gateway.data, &[]);
    raw.send(frames);
    raw.outcome(1)
}

fn usual<'a>() -> Vec<(&'a str, &'a str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/")]
}

/// The usual head with another value for one of its fields.
fn replacing<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = usual();
    fields.iter_mut().filter(|(have, _)| *have == name).for_each(|(_, have)| *have = value);
    fields
}

fn adding<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [usual(), more.to_vec()].concat()
}

#[test]
fn heads_that_http1_cannot_express_are_not_forwarded() {
    let site = Site::start();
    let cases: Vec<Vec<(&str, &str)>> = vec![
        // Bytes that end a line or a field name in HTTP/1.1: request smuggling.
        adding(&[("x", "a\r\ny: b")]),
        adding(&[("x", "a\ny: b")]),
        adding(&[("x", "a\0")]),
        adding(&[("x\r\ny", "b")]),
        adding(&[("x: y", "b")]),
        adding(&[("x y", "b")]),
        adding(&[("", "b")]),
        replacing(":path", "/\r\nx: y"),
        replacing(":path", "/ HTTP/1.1\r\nHost: b.test\r\n\r\nGET /b"),
        replacing(":path", "/a b"),
        replacing(":path", "/a\0"),
        replacing(":method", "GET / HTTP/1.1\r\nX:"),
        replacing(":method", "GET /"),
        replacing(":method", ""),
        replacing(":authority", "api.a.test\r\nx: y"),
        replacing(":authority", "api.a.test x"),
        replacing(":authority", "api.a.test/x"),
        replacing(":authority", "u@api.a.test"),
        replacing(":authority", ""),
        replacing(":scheme", "http://b.test/?"),
        replacing(":scheme", "ftp"),
        replacing(":scheme", "http\r\nx: y"),
        // Targets that are not in origin form.
        replacing(":path", "orders"),
        replacing(":path", ""),
        replacing(":path", "*"),
        replacing(":path", "http://api.a.test/"),
        replacing(":path", "http:/\\b.test/"),
        // Pseudo-fields that are missing, repeated, late or unknown: RFC 9113, section 8.3.
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", HOST)],
        vec![(":method", "GET"), (":authority", HOST), (":path", "/")],
        vec![(":scheme", "http"), (":authority", HOST), (":path", "/")],
        adding(&[(":path", "/b")]),
        adding(&[(":authority", "b.test")]),
        adding(&[(":method", "PUT")]),
        adding(&[(":status", "200")]),
        adding(&[(":protocol", "websocket")]),
        adding(&[(":nonsense", "1")]),
        [vec![("x", "y")], usual()].concat(),
        // Connection-specific fields, and lengths that contradict the body: RFC 9113, sections
        // 8.1.1, 8.2.1 and 8.2.2.
        adding(&[("connection", "close")]),
        adding(&[("connection", "origin")]),
        adding(&[("transfer-encoding", "chunked")]),
        adding(&[("upgrade", "websocket")]),
        adding(&[("keep-alive", "timeout=5")]),
        adding(&[("proxy-connection", "keep-alive")]),
        adding(&[("te", "gzip")]),
        adding(&[("te", "trailers, chunked")]),
        adding(&[("X-Upper", "y")]),
        adding(&[("x", " y")]),
        adding(&[("x", "y ")]),
        adding(&[("x", "\ty")]),
        adding(&[("content-length", "x")]),
        adding(&[("content-length", "-1")]),
        adding(&[("content-length", "5")]),
        adding(&[("content-length", "0"), ("content-length", "0")]),
        adding(&[("content-length", "0"), ("content-length", "1")]),
        adding(&[("content-length", "00")]),
        // A `Host` that differs from `:authority`: RFC 9113, section 8.3.1.
        adding(&[("host", "b.test")]),
        adding(&[("host", "API.a.test")]),
        adding(&[("host", "api.a.test:80")]),
        adding(&[("host", HOST), ("host", HOST)]),
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", HOST), ("host", HOST)],
        vec![(":method", "CONNECT"), (":authority", HOST)],
        vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", HOST),
            (":path", "/"),
        ],
        replacing(":method", "CONNECT"),
        replacing(":method", "TRACE"),
    ];
    for fields in &cases {
        let found = outcome(&site, &head(1, fields, END_STREAM));
        let is_refused = match found {
            Outcome::Answered(status) => matches!(status, 400 | 405),
            Outcome::Reset(reason) | Outcome::GoneAway(reason) => reason != 0,
            Outcome::Closed => false,
        };
        assert!(is_refused, "{fields:?}: {found:?}");
        assert_eq!(site.upstream.total(), 0, "{fields:?}");
    }
    assert_eq!(outcome(&site, &head(1, &usual(), END_STREAM)), Outcome::Answered(200));
    assert_allowed(&site.ask("GET", "/", &[]));
}

#[test]
fn fragment_is_removed_before_judging() {
    let site = Site::start();
    assert_eq!(outcome(&site, &head(1, &replacing(":path", "/a#b"), END_STREAM)), Outcome::Answered(200));
    assert_eq!(site.upstream.seen()[0].target, "/a");
}

#[test]
fn body_differing_from_content_length_is_never_complete() {
    let site = Site::start();
    let put = |length: &str| {
        let mut fields = replacing(":method", "PUT");
        let length = ("content-length", length.to_owned());
        fields.push((length.0, &length.1));
        head(1, &fields, 0)
    };
    let data = |bytes: &[u8], flags: u8| frame(DATA, flags, 1, bytes);
    let trailers = |fields: &[(&str, &str)]| head(1, fields, END_STREAM);
    for frames in [
        [put("5"), data(b"hell", END_STREAM)].concat(),
        [put("5"), data(b"hello!", END_STREAM)].concat(),
        [put("5"), data(b"hello", 0), data(b"!", END_STREAM)].concat(),
        [put("5"), data(b"hell", 0), trailers(&[("x", "y")])].concat(),
        // Trailers must not contain pseudo-fields.
        [put("5"), data(b"hello", 0), trailers(&[(":path", "/b")])].concat(),
        [put("5"), data(b"hello", 0), trailers(&[("x", "a\r\ny: b")])].concat(),
        [put("5"), data(b"hello", 0), head(1, &[("x", "y")], 0)].concat(),
    ] {
        let found = outcome(&site, &frames);
        let is_refused = matches!(found, Outcome::Reset(PROTOCOL_ERROR) | Outcome::GoneAway(PROTOCOL_ERROR));
        assert!(is_refused || found == Outcome::Answered(200), "{found:?}");
    }
    site.gateway.wait_zero("crossgate_connections_active", &[]);
    // The upstream has only whole requests and requests cut off within their body.
    for bytes in site.upstream.raw() {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let is_clean = |bytes: &[u8]| {
            requests_in(bytes).is_some_and(|requests| requests.iter().all(|request| request.body == "hello"))
        };
        let is_cut = text.rfind("PUT / HTTP/1.1\r\n").is_some_and(|last| {
            let (before, last) = text.split_at(last);
            last.split("\r\n\r\n").nth(1).is_some_and(|body| body.len() < 5)
                && (before.is_empty() || is_clean(before.as_bytes()))
        });
        assert!(bytes.is_empty() || is_clean(&bytes) || is_cut, "{text:?}");
    }
    // Valid trailers end a request and are not forwarded.
    let good = [put("5"), data(b"hello", 0), trailers(&[("x", "y")])].concat();
    assert_eq!(outcome(&site, &good), Outcome::Answered(200));
    assert_allowed(&site.ask("GET", "/", &[]));
}

#[test]
fn http2_head_limits_equal_http1_limits() {
    let site = Site::start();
    let client = Http2::open(site.gateway.data);
    let ask = |fields: &[(&str, &str)]| client.ask("GET", "/", HOST, fields, b"").unwrap();
    let check = |fields: &[(&str, &str)], status: u16| {
        let answer = ask(fields);
        assert_eq!(answer.status, status, "{} fields, of which the first {:?}", fields.len(), fields[0].0);
        if status == 431 {
            assert_edge_error(&answer, 431);
            assert_never_readable(&answer);
        }
    };
    // With `Host`, these are 100 fields.
    check(&[("x", "y"); 99], 200);
    check(&[("x", "y"); 100], 431);
    check(&[("x", "y"); 129], 431);
    let value = "v".repeat(8 * 1024);
    check(&[("x", &value[1..])], 200);
    check(&[("x", &value)], 431);
    check(&[("x", &value[1..]); 3], 200);
    check(&[("x", &value[1..]); 4], 431);
    let crumb = ("cookie", "a=1");
    check(&[crumb; 150], 200);
    assert_eq!(site.upstream_saw("cookie"), ["a=1"; 150].join("; "));
    check(&[("cookie", &value[4096..]); 3], 431);
    let target = format!("/{}", "x".repeat(32 * 1024));
    assert_edge_error(&client.ask("GET", &target, HOST, &[], b"").unwrap(), 431);
    site.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "431")], 6.0);
    assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    assert_eq!(site.gateway.metric("crossgate_connections_total", &[]), 1.0);
}

#[test]
fn oversized_header_list_is_refused_before_it_is_buffered() {
    let site = Site::start();
    let large = |fields: usize| {
        let value = "v".repeat(8_000);
        let fields: Vec<_> = usual().into_iter().chain(std::iter::repeat_n(("x", value.as_str()), fields)).collect();
        let block = block(&fields);
        let mut pieces = block.chunks(16 * 1024).peekable();
        let first = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
        let mut frames = vec![first];
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            frames.push(frame(CONTINUATION, flags, 1, piece));
        }
        frames.concat()
    };
    // Over the limit, and far over the limit.
    assert_eq!(outcome(&site, &large(9)), Outcome::Answered(431));
    let found = outcome(&site, &large(40));
    assert!(matches!(found, Outcome::GoneAway(_) | Outcome::Closed), "{found:?}");
    assert_eq!(site.upstream.total(), 0);
    assert_allowed(&site.ask("GET", "/", &[]));
}
