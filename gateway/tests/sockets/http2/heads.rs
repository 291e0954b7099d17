//! Heads that HTTP/2 can say and HTTP/1.1 cannot, and heads that are too large: refused, or one clean request at the upstream.

use crate::support::http2_frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, block, frame, head};
use crate::support::{
    HOST, Http2, ORIGIN, Outcome, RawHttp2, Site, assert_allowed, assert_edge_error, assert_never_readable, requests_in,
};

const PROTOCOL_ERROR: u32 = 1;

/// What becomes of frames on the first stream of a connection, whatever they are.
fn outcome(site: &Site, frames: &[u8]) -> Outcome {
    let mut raw = RawHttp2::open(site.gateway.data, &[]);
    raw.send(frames);
    raw.outcome(1)
}

fn usual<'a>() -> Vec<(&'a str, &'a str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/")]
}

/// The usual head with one of its fields said otherwise.
fn with<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = usual();
    fields.iter_mut().filter(|(have, _)| *have == name).for_each(|(_, have)| *have = value);
    fields
}

fn and<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [usual(), more.to_vec()].concat()
}

#[test]
fn what_http_1_cannot_say_reaches_no_upstream() {
    let site = Site::start();
    let cases: Vec<Vec<(&str, &str)>> = vec![
        // Bytes that end a line of HTTP/1.1.
        and(&[("x", "a\r\ny: b")]),
        and(&[("x", "a\ny: b")]),
        and(&[("x", "a\0")]),
        and(&[("x\r\ny", "b")]),
        and(&[("x: y", "b")]),
        and(&[("x y", "b")]),
        and(&[("", "b")]),
        with(":path", "/\r\nx: y"),
        with(":path", "/ HTTP/1.1\r\nHost: b.test\r\n\r\nGET /b"),
        with(":path", "/a b"),
        with(":path", "/a\0"),
        with(":method", "GET / HTTP/1.1\r\nX:"),
        with(":method", "GET /"),
        with(":method", ""),
        with(":authority", "api.a.test\r\nx: y"),
        with(":authority", "api.a.test x"),
        with(":authority", "api.a.test/x"),
        with(":authority", "u@api.a.test"),
        with(":authority", ""),
        with(":scheme", "http://b.test/?"),
        with(":scheme", "ftp"),
        with(":scheme", "http\r\nx: y"),
        // Targets in another form.
        with(":path", "orders"),
        with(":path", ""),
        with(":path", "*"),
        with(":path", "http://api.a.test/"),
        with(":path", "http:/\\b.test/"),
        // Fields that are missing, repeated, late, or none.
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", HOST)],
        vec![(":method", "GET"), (":authority", HOST), (":path", "/")],
        vec![(":scheme", "http"), (":authority", HOST), (":path", "/")],
        and(&[(":path", "/b")]),
        and(&[(":authority", "b.test")]),
        and(&[(":method", "PUT")]),
        and(&[(":status", "200")]),
        and(&[(":protocol", "websocket")]),
        and(&[(":nonsense", "1")]),
        [vec![("x", "y")], usual()].concat(),
        // Fields of a connection, or of framing.
        and(&[("connection", "close")]),
        and(&[("connection", "origin")]),
        and(&[("transfer-encoding", "chunked")]),
        and(&[("upgrade", "websocket")]),
        and(&[("keep-alive", "timeout=5")]),
        and(&[("proxy-connection", "keep-alive")]),
        and(&[("te", "gzip")]),
        and(&[("te", "trailers, chunked")]),
        and(&[("X-Upper", "y")]),
        and(&[("x", " y")]),
        and(&[("x", "y ")]),
        and(&[("x", "\ty")]),
        and(&[("content-length", "x")]),
        and(&[("content-length", "-1")]),
        and(&[("content-length", "5")]),
        and(&[("content-length", "0"), ("content-length", "0")]),
        and(&[("content-length", "0"), ("content-length", "1")]),
        and(&[("content-length", "00")]),
        // Another host than the one that is judged.
        and(&[("host", "b.test")]),
        and(&[("host", "API.a.test")]),
        and(&[("host", "api.a.test:80")]),
        and(&[("host", HOST), ("host", HOST)]),
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", HOST), ("host", HOST)],
        vec![(":method", "CONNECT"), (":authority", HOST)],
        vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", HOST),
            (":path", "/"),
        ],
        with(":method", "CONNECT"),
        with(":method", "TRACE"),
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
fn a_fragment_is_dropped_before_anything_is_judged() {
    let site = Site::start();
    assert_eq!(outcome(&site, &head(1, &with(":path", "/a#b"), END_STREAM)), Outcome::Answered(200));
    assert_eq!(site.upstream.seen()[0].target, "/a");
}

#[test]
fn a_body_of_another_length_is_never_whole() {
    let site = Site::start();
    let put = |length: &str| {
        let mut fields = with(":method", "PUT");
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
        // Trailers are no second head.
        [put("5"), data(b"hello", 0), trailers(&[(":path", "/b")])].concat(),
        [put("5"), data(b"hello", 0), trailers(&[("x", "a\r\ny: b")])].concat(),
        [put("5"), data(b"hello", 0), head(1, &[("x", "y")], 0)].concat(),
    ] {
        let found = outcome(&site, &frames);
        let is_refused = matches!(found, Outcome::Reset(PROTOCOL_ERROR) | Outcome::GoneAway(PROTOCOL_ERROR));
        assert!(is_refused || found == Outcome::Answered(200), "{found:?}");
    }
    site.gateway.wait_gone("crossgate_connections_active", &[]);
    // What there is of requests is whole, or was broken off within its body.
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
    // Good trailers end a request like anything else; they go no further.
    let good = [put("5"), data(b"hello", 0), trailers(&[("x", "y")])].concat();
    assert_eq!(outcome(&site, &good), Outcome::Answered(200));
    assert_allowed(&site.ask("GET", "/", &[]));
}

#[test]
fn a_head_is_as_large_as_over_http_1() {
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
    // With `Host`, a hundred.
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
fn a_list_far_too_large_is_refused_before_it_is_held() {
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
    // More than is taken in, and more than anybody would send by mistake.
    assert_eq!(outcome(&site, &large(9)), Outcome::Answered(431));
    let found = outcome(&site, &large(40));
    assert!(matches!(found, Outcome::GoneAway(_) | Outcome::Closed), "{found:?}");
    assert_eq!(site.upstream.total(), 0);
    assert_allowed(&site.ask("GET", "/", &[]));
}
