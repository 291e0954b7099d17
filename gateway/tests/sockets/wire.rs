//! HTTP/1.1 connections: framing of requests at any timing, limits of heads, and malformed
//! requests.
//!
//! Pingora alone loses a second request that is already in its buffer, and fails a running request
//! when the next one arrives.
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::{
    Connection, HOST, ORIGIN, Site, Then, WholeRequest, WireError, assert_allowed, assert_denied, assert_edge_error,
    request, requests_in,
};

fn get(target: &str) -> Vec<u8> {
    request("GET", target, HOST, &[("Origin", ORIGIN)], b"")
}

fn preflight(origin: &str) -> Vec<u8> {
    request("OPTIONS", "/p", HOST, &[("Origin", origin), ("Access-Control-Request-Method", "PUT")], b"")
}

/// Sends a byte a second until the gateway answers or closes the connection. Returns the time that
/// this took.
fn send_slowly(mut connection: Connection) -> Duration {
    let begin = Instant::now();
    connection.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    for byte in b"GET /slow HTTP/1.1\r\nHost: api.a.test\r\n".iter().cycle() {
        if connection.send(&[*byte]).is_err() {
            break;
        }
        match connection.head() {
            Err(WireError::TimedOut) => {}
            Ok(answer) => assert_edge_error_head(&answer),
            Err(_) => break,
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the connection is still open");
    }
    begin.elapsed()
}

/// Asserts the head of a 408. Its body is not read.
fn assert_edge_error_head(answer: &crate::support::Response) {
    assert_eq!((answer.status, answer.headers.one("connection")), (408, "close"));
}

#[test]
fn slow_head_is_cut_off_after_ten_seconds() {
    let site = Site::start();
    let mut used = site.connect();
    assert_eq!(used.exchange(&get("/")).unwrap().status, 200);
    let mut silent = site.connect();
    let (first, second, silence) = std::thread::scope(|scope| {
        let first = scope.spawn(|| send_slowly(site.connect()));
        let second = scope.spawn(|| send_slowly(used));
        let begin = Instant::now();
        assert!(silent.is_at_end());
        (first.join().unwrap(), second.join().unwrap(), begin.elapsed())
    });
    for (case, took) in [("first head", first), ("second head", second), ("silence", silence)] {
        assert!((9..13).contains(&took.as_secs()), "{case}: closed after {took:?}");
    }
    assert_eq!(site.upstream.total(), 1);
}

#[test]
fn a_second_request_in_the_same_packet_is_answered() {
    let site = Site::start();
    let mut connection = site.connect();
    connection.send(&[get("/one"), get("/two")].concat()).unwrap();
    for _ in 0..2 {
        assert_allowed(&connection.answer_to(b"GET").unwrap());
    }
    let targets: Vec<String> = site.upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/one", "/two"]);
}

#[test]
fn request_that_arrives_during_another_waits() {
    let (arrived, arrivals) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let site = Site::scripted(move |exchange| {
        arrived.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        let target = exchange.seen.target.clone();
        exchange.answer(200, &[], target.as_bytes())
    });
    let mut connection = site.connect();
    connection.send(&get("/first")).unwrap();
    arrivals.recv().unwrap();
    // The first request is at the upstream. The second arrives in pieces, as from a network.
    let second = get("/second");
    connection.send(&second[..20]).unwrap();
    connection.send(&second[20..]).unwrap();
    connection.send(&preflight(ORIGIN)).unwrap();
    release.send(()).unwrap();
    assert_eq!(connection.answer_to(b"GET").unwrap().text(), "/first");
    release.send(()).unwrap();
    assert_eq!(connection.answer_to(b"GET").unwrap().text(), "/second");
    assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, 204);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Site::scripted(|exchange| {
        let (_, body) = exchange.read_body();
        let answer = [exchange.seen.target.clone().into_bytes(), body].concat();
        exchange.answer(200, &[], &answer)
    });
    let post = |n: usize| request("POST", &format!("/post{n}"), HOST, &[("Origin", ORIGIN)], b"body");
    let chunked = |n: usize| {
        let headers = [("Origin", ORIGIN), ("Transfer-Encoding", "chunked")];
        [request("PUT", &format!("/put{n}"), HOST, &headers, b""), b"4\r\nbody\r\n0\r\n\r\n".to_vec()].concat()
    };
    let mut connection = site.connect();
    for round in 0..20 {
        let run = [get("/get"), preflight(ORIGIN), post(round), preflight("https://evil.test"), get("/end")];
        connection.send(&run.concat()).unwrap();
        assert_eq!(connection.answer_to(b"GET").unwrap().text(), "/get");
        assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, 204);
        assert_eq!(connection.answer_to(b"POST").unwrap().text(), format!("/post{round}body"));
        assert_denied(&connection.answer_to(b"OPTIONS").unwrap(), "evil");
        assert_eq!(connection.answer_to(b"GET").unwrap().text(), "/end");
    }
    // A chunked body may close its connection, but must get the right answer.
    let answer = connection.exchange(&chunked(0)).unwrap();
    assert_eq!(answer.text(), "/put0body");
    assert_eq!(site.upstream.count("OPTIONS"), 0);
}

#[test]
fn denied_post_gets_its_whole_answer_and_its_body_is_not_forwarded() {
    let site = Site::start();
    let body = vec![b'x'; 64 * 1024];
    let post = request("POST", "/", HOST, &[("Origin", "https://evil.test")], &body);
    for _ in 0..20 {
        let mut connection = site.connect();
        assert_denied(&connection.exchange(&post).unwrap(), "evil");
        match connection.exchange(&get("/")) {
            Ok(next) => assert_eq!(next.status, 200),
            Err(error) => assert!(matches!(error, WireError::Closed | WireError::Reset), "{error:?}"),
        }
    }
    assert_eq!(site.upstream.count("POST"), 0);
}

#[test]
fn preflight_with_content_length_is_answered_before_its_body() {
    let site = Site::start();
    let mut with_length = preflight(ORIGIN);
    with_length.truncate(with_length.len() - 2);
    with_length.extend(b"Content-Length: 1000000000\r\n\r\n");
    let begin = Instant::now();
    let mut connection = site.connect();
    assert_eq!(connection.exchange(&with_length).unwrap().status, 204);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(connection.is_at_end());
    assert!(begin.elapsed() < Duration::from_secs(8), "drained for {:?}", begin.elapsed());
}

/// A head of exactly that many bytes. Each field is far below its own limit.
fn head_of(bytes: usize) -> Vec<u8> {
    let mut head = format!("GET /size HTTP/1.1\r\nHost: {HOST}\r\n").into_bytes();
    let mut number = 0;
    while bytes - head.len() > 4200 {
        head.extend(format!("x-pad-{number}: {}\r\n", "v".repeat(4000)).bytes());
        number += 1;
    }
    let left = bytes - head.len() - "x-last: \r\n\r\n".len();
    head.extend(format!("x-last: {}\r\n\r\n", "v".repeat(left)).bytes());
    assert_eq!(head.len(), bytes);
    head
}

#[test]
fn heads_over_a_limit_get_431() {
    let site = Site::start();
    let fields = |count: usize| {
        let names: Vec<String> = (1..count).map(|n| format!("x-{n}")).collect();
        let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        request("GET", "/fields", HOST, &headers, b"")
    };
    let field = |bytes: usize| request("GET", "/field", HOST, &[("x-pad", &"v".repeat(bytes - 5))], b"");
    let under = [("fields", fields(100)), ("field", field(8 * 1024)), ("head", head_of(32 * 1024))];
    for (case, head) in under {
        assert_eq!(site.raw(&head).unwrap().status, 200, "{case}");
    }
    let over = [("fields", fields(101)), ("field", field(8 * 1024 + 1)), ("head", head_of(32 * 1024 + 1))];
    for (case, head) in over {
        let mut connection = site.connect();
        assert_edge_error(&connection.exchange(&head).unwrap_or_else(|error| panic!("{case}: {error:?}")), 431);
        assert!(connection.is_at_end(), "{case}");
    }
    assert_eq!(site.upstream.total(), 3);
}

#[test]
fn endless_head_gets_431_at_the_size_limit() {
    let site = Site::start();
    let mut connection = site.connect();
    let endless = [request("GET", "/", HOST, &[], b"").strip_suffix(b"\r\n").unwrap(), &[b'a'; 64 * 1024]].concat();
    let answer = connection.exchange(&endless);
    assert!(matches!(&answer, Ok(answer) if answer.status == 431), "{answer:?}");
}

#[test]
fn keep_alive_and_connection_close_are_honoured() {
    let site = Site::start();
    let mut connection = site.connect();
    for _ in 0..100 {
        assert_allowed(&connection.exchange(&get("/")).unwrap());
    }
    let last = request("GET", "/", HOST, &[("Connection", "close")], b"");
    assert_eq!(connection.exchange(&last).unwrap().headers.one("connection"), "close");
    assert!(connection.is_at_end());
    assert_eq!(site.upstream.connections(), 1, "the upstream connection is kept too");
}

#[test]
fn connection_is_closed_after_1000_requests() {
    let site = Site::start();
    let mut connection = site.connect();
    for round in 1..=1_000 {
        let answer = connection.exchange(&preflight(ORIGIN)).unwrap_or_else(|error| panic!("{round}: {error:?}"));
        let closing = answer.headers.all("connection") == ["close"];
        assert_eq!(closing, round == 1_000, "{round}: {answer:?}");
    }
    assert!(connection.is_at_end());
}

/// Malformed requests, and requests that two servers could read in two ways (request smuggling).
fn malformed_requests() -> Vec<Vec<u8>> {
    let field = |field: &str| format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{field}\r\n\r\nabc").into_bytes();
    [
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: +3",
        "Content-Length: -1",
        "Content-Length: 003",
        "Content-Length: 0x3",
        "Content-Length: 3_",
        "Content-Length: 3Z",
        "Content-Length: 3, 3",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "X : space before the colon",
        "X: folded\r\n  line",
        ": no name",
        "no colon",
        "X: nul\0",
        "X: bell\x07",
        "X: bare\rreturn",
        "Origin: https://app.a.test\0",
        "Origin: https://app.a.test\rX",
    ]
    .into_iter()
    .map(field)
    .chain(
        [
            b"GET / HTTP/1.1 \r\nHost: api.a.test\r\n\r\n".as_slice(),
            b"GET  / HTTP/1.1\r\nHost: api.a.test\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: api.a.test\r\n\r\n",
            b"GET / HTTP/1.32\r\nHost: api.a.test\r\n\r\n",
            b"GET /\r\n\r\n",
            b"G@T / HTTP/1.1\r\nHost: api.a.test\r\n\r\n",
            b"GET / HTTP/1.1\r\n Host: api.a.test\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\xff\xff\xff\xff\r\n\r\n",
        ]
        .map(<[u8]>::to_vec),
    )
    .collect()
}

#[test]
fn malformed_http_is_refused_and_not_forwarded() {
    let site = Site::start();
    for bytes in &malformed_requests() {
        assert_refused(&site, bytes);
    }
    assert_eq!(site.upstream.total(), 0, "{:?}", site.upstream.seen());
    assert_eq!(site.raw(&get("/")).unwrap().status, 200);
}

#[test]
fn upstream_receives_only_the_answered_requests() {
    let site = Site::start();
    let mut sent = Vec::new();
    let mut note = |method: &str, target: String, body: &str| {
        sent.push(WholeRequest { target, method: method.to_owned(), body: body.to_owned() });
    };
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    let of_inner = format!("Content-Length: {}", inner.len());
    let clean = [
        ("GET", "Content-Length: 5", "GET /", "GET /"),
        ("HEAD", "Content-Length: 5", "GET /", "GET /"),
        ("DELETE", "Content-Length: 0", "", ""),
        ("POST", &of_inner, inner, inner),
        ("POST", "content-LENGTH:\t 3 \t", "abc", "abc"),
        ("GET", "Transfer-Encoding: chunked", "5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "hello"),
        ("PUT", "Transfer-Encoding: Chunked", "00a\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", "0123456789x"),
        ("PUT", "Transfer-Encoding: chunked", "0\r\n\r\n", ""),
    ];
    // Each is followed by another request, which would become part of a body with wrong framing.
    for (number, (method, field, bytes, body)) in clean.into_iter().enumerate() {
        let target = format!("/clean-{number}");
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{field}\r\n\r\n{bytes}").into_bytes();
        let behind = format!("/clean-{number}-behind");
        let mut connection = site.connect();
        connection.send(&[head.clone(), get(&behind)].concat()).unwrap();
        assert_eq!(connection.answer_to(&head).unwrap().status, 200, "{field}");
        assert_eq!(connection.answer_to(b"GET").unwrap().status, 200, "{field}");
        note(method, target, body);
        note("GET", behind, "");
    }
    for (number, bytes) in malformed_requests().into_iter().enumerate() {
        let target = format!("/malformed-{number}-before");
        let mut connection = site.connect();
        connection.send(&[get(&target), bytes.clone(), get("/never")].concat()).unwrap();
        assert_eq!(connection.answer_to(b"GET").unwrap().status, 200);
        match connection.answer_to(&bytes) {
            Ok(answer) => assert_edge_error(&answer, 400),
            Err(error) => assert!(matches!(error, WireError::Closed | WireError::Reset), "{error:?}"),
        }
        assert!(connection.is_at_end(), "{}", String::from_utf8_lossy(&bytes));
        note("GET", target, "");
    }
    let raw = site.upstream.raw();
    let requests = raw.iter().map(|raw| requests_in(raw).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(raw))));
    let mut seen: Vec<WholeRequest> = requests.flatten().collect();
    seen.sort();
    sent.sort();
    assert_eq!(seen, sent);
    site.gateway.wait_metric("crossgate_requests_total", &[], sent.len() as f64);
}

/// Asserts that the gateway answers 400 and closes the connection, or only closes it.
fn assert_refused(site: &Site, bytes: &[u8]) {
    let mut connection = site.connect();
    connection.send(bytes).unwrap();
    connection.finish_sending();
    let case = String::from_utf8_lossy(bytes);
    match connection.answer_to(bytes) {
        Ok(answer) => {
            assert_edge_error(&answer, 400);
            assert_eq!(answer.headers.access_control().len(), 0, "{case}");
            assert!(connection.is_at_end(), "{case}: still open");
        }
        Err(error) => assert!(matches!(error, WireError::Closed | WireError::Reset), "{case:?}: {error:?}"),
    }
}

#[test]
fn connection_of_a_leaving_client_is_closed() {
    let site = Site::scripted(|exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        Then::Stall
    });
    let mut connection = site.connect();
    connection.send(&get("/")).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    drop(connection);
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.gateway.metric("crossgate_connections_active", &[]) > 0.0 {
        assert!(Instant::now() < deadline, "the connection is still counted");
    }
}

#[test]
fn client_that_leaves_before_the_answer_is_logged() {
    let site = Site::scripted(|_| Then::Stall);
    let mut connection = site.connect();
    connection.send(&get("/")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.upstream.total() == 0 {
        assert!(Instant::now() < deadline, "the request does not reach the upstream");
    }
    drop(connection);
    let line = site.gateway.process.stdout_line(|line| line.starts_with('{').then(|| line.to_owned()));
    let logged: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&logged["status"], &logged["verdict"]), (&0.into(), &"allow".into()), "{line}");
    assert_eq!(logged["note"], "the client went away before the answer", "{line}");
}

#[test]
fn f4_bytes_after_the_last_answer_do_not_destroy_it() {
    let site = Site::start();
    let origin = ("Origin", ORIGIN);
    let requested_method = ("Access-Control-Request-Method", "PUT");
    let cases = [
        ("preflight", request("OPTIONS", "/", HOST, &[origin, requested_method, ("Connection", "close")], b""), 204),
        ("denial", request("GET", "/", HOST, &[("Origin", "https://evil.test"), ("Connection", "close")], b""), 403),
        ("answer", request("GET", "/", HOST, &[origin, ("Connection", "close")], b""), 200),
        ("refusal", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
    ];
    for (what, sent, status) in cases {
        for round in 0..20 {
            let mut connection = site.connect();
            connection.send(&sent).unwrap();
            // A pipelined request that arrives while the gateway answers and closes.
            std::thread::sleep(std::time::Duration::from_millis(2));
            let _sent_or_closed = connection.send(&request("GET", "/late", HOST, &[], b""));
            std::thread::sleep(std::time::Duration::from_millis(2));
            let answer = connection.answer_to(&sent).unwrap_or_else(|error| panic!("{what} {round}: {error:?}"));
            assert_eq!(answer.status, status, "{what}");
            assert!(connection.is_at_end(), "{what}");
        }
    }
    assert!(!site.upstream.seen().iter().any(|seen| seen.target == "/late"));
}
