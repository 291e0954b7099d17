//! Uploads that do not complete: the upstream answers early or reads nothing, or the client leaves.
//!
//! No byte of one request becomes part of another, and no connection stays open longer than its
//! timeout.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2_frames::{DATA, END_STREAM, RST_STREAM, WINDOW_UPDATE, frame, head};
use crate::support::{
    Connection, Exchange, Gateway, HOST, ORIGIN, Outcome, PATIENCE, RawHttp2, Site, StalledUpstream, Then, WireError,
    assert_allowed, config, connect_with_small_buffers, request, tenant_config_at,
};

/// A body that a desynchronised upstream would answer as a request: request smuggling.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\nX-Rest: ";

/// Answers `/early/STATUS` with that status, without reading the body, and other requests with
/// their target. It reads the next bytes on the connection as the next request, as a server does
/// that expects no body.
fn answer_early(exchange: &mut Exchange) -> Then {
    let status = exchange.seen.target.strip_prefix("/early/").map(str::to_owned);
    let (status, body) = match status {
        Some(status) => (status, String::new()),
        None => ("200".to_owned(), exchange.seen.target.clone()),
    };
    exchange.write(format!("HTTP/1.1 {status} Early\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    Then::KeepAlive
}

/// Asserts that requests of other clients get their own answers, and that the upstream has not read
/// the upload's body as a request.
#[track_caller]
fn assert_not_smuggled(site: &Site, what: &str) {
    for victim in 0..3 {
        let path = format!("/victim/{victim}");
        let get = request("GET", &path, HOST, &[("Origin", ORIGIN)], b"");
        assert_eq!(Connection::ask(site.gateway.data, &get).unwrap().text(), path, "{what}");
    }
    let seen = site.upstream.seen();
    assert!(!seen.iter().any(|seen| seen.target == "/smuggled"), "{what}: {seen:?}");
}

#[test]
fn f2_body_after_the_final_response_is_not_read_as_a_request() {
    let site = Site::scripted(answer_early);
    for status in [200, 204, 302, 401, 403, 413, 417, 500, 503] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
            for is_chunked in [false, true] {
                let what = format!("{status} {method} {is_chunked}");
                let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", SMUGGLED.len(), SMUGGLED.escape_ascii());
                let length = SMUGGLED.len().to_string();
                let framing = if is_chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", &*length) };
                let body = if is_chunked { chunk.replace("\\r\\n", "\r\n").into_bytes() } else { SMUGGLED.to_vec() };
                let path = format!("/early/{status}");
                let upload = request(method, &path, HOST, &[("Origin", ORIGIN), framing], b"");
                let mut connection = site.connect();
                // The client sends the body after the answer.
                connection.send(&[&upload[..], &body[..1]].concat()).unwrap();
                let answer = connection.answer_to(&upload).unwrap();
                assert_eq!(answer.status, status, "{what}");
                // Fails if the gateway has closed the connection.
                let _sent_or_closed = connection.send(&body[1..]);
                assert_not_smuggled(&site, &what);
            }
        }
    }
}

#[test]
fn f2_final_response_instead_of_100_stops_the_body() {
    let site = Site::scripted(answer_early);
    for status in [200, 401, 417, 413] {
        for is_buffered in [true, false] {
            let length = SMUGGLED.len().to_string();
            let expecting = [("Origin", ORIGIN), ("Expect", "100-continue"), ("Content-Length", &*length)];
            let upload = request("POST", &format!("/early/{status}"), HOST, &expecting, b"");
            let mut connection = site.connect();
            if is_buffered {
                connection.send(&[&upload, SMUGGLED].concat()).unwrap();
            } else {
                connection.send(&upload).unwrap();
            }
            let answer = connection.answer_to(&upload).unwrap();
            assert_eq!((answer.status, answer.interim.len()), (status, 0));
            if !is_buffered {
                let _sent_or_closed = connection.send(SMUGGLED);
            }
            assert_not_smuggled(&site, &format!("{status} {is_buffered}"));
        }
    }
    let raw = site.upstream.raw().concat();
    assert!(!raw.windows(9).any(|window| window == b"/smuggled"), "the body was sent");
}

#[test]
fn f2_upstream_connection_without_100_gets_the_body_and_is_not_reused() {
    let site = Site::scripted(|exchange| {
        // Reads without sending 100, as an HTTP/1.0 server does.
        let (len, _) = exchange.read_body();
        let body = format!("{} {len}", exchange.seen.target);
        exchange.answer(200, &[], body.as_bytes())
    });
    let expecting = [("Origin", ORIGIN), ("Expect", "100-continue"), ("Content-Length", "5")];
    let upload = request("POST", "/late", HOST, &expecting, b"");
    let mut connection = site.connect();
    connection.send(&[&upload[..], b"hello"].concat()).unwrap();
    assert_eq!(connection.answer_to(&upload).unwrap().text(), "/late 5");
    assert_eq!(Connection::ask(site.gateway.data, &request("GET", "/next", HOST, &[], b"")).unwrap().text(), "/next 0");
    assert_eq!(site.upstream.connections(), 2, "the upstream sent no 100, so its connection is not reused");
}

#[test]
fn f2_early_response_over_http2_leaves_no_body_for_the_next_request() {
    let site = Site::scripted(answer_early);
    for status in [200, 403, 413, 500] {
        let mut raw = RawHttp2::open(site.gateway.data, &[]);
        let path = format!("/early/{status}");
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", &*path), ("origin", ORIGIN)];
        raw.send(&[head(1, &fields, 0), frame(DATA, 0, 1, &SMUGGLED[..1])].concat());
        assert_eq!(raw.outcome(1), Outcome::Answered(status));
        raw.send(&frame(DATA, END_STREAM, 1, &SMUGGLED[1..]));
        assert_not_smuggled(&site, &format!("{status} over HTTP/2"));
    }
}

#[test]
fn f2_upstream_that_answers_while_reading_gets_the_whole_body() {
    let (read, reads) = mpsc::channel();
    let read = Mutex::new(read);
    let site = Site::scripted(move |exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        let (len, _) = exchange.read_body();
        read.lock().unwrap().send(len).unwrap();
        exchange.write(b"4\r\nlast\r\n0\r\n\r\n");
        Then::KeepAlive
    });
    let body = vec![b'x'; 3_000_000];
    let upload = request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "3000000")], b"");
    let mut connection = site.connect();
    connection.send(&upload).unwrap();
    assert_allowed(&connection.head().unwrap());
    assert_eq!(connection.chunk().unwrap().unwrap(), b"first");
    connection.send(&body).unwrap();
    assert_eq!(reads.recv_timeout(PATIENCE).unwrap(), 3_000_000);
    assert_eq!(connection.chunk().unwrap().unwrap(), b"last");
}

#[test]
fn f2_early_response_is_delivered_when_the_upstream_stops_reading() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let site = Site::scripted(move |exchange| {
        exchange.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch");
        // Keeps the connection open and reads nothing.
        let _ended = gone.lock().unwrap().recv();
        Then::Close
    });
    let upload = request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "50000000")], b"");
    let mut connection = site.connect();
    let mut writer = connection.stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let _cut = writer.write_all(&upload).and_then(|()| writer.write_all(&vec![b'x'; 50_000_000]));
    });
    let answer = connection.answer_to(b"POST").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "much"));
    assert_allowed(&answer);
    drop(go);
    writing.join().unwrap();
}

#[test]
fn truncated_upload_never_looks_complete() {
    let site = Site::scripted(|exchange| {
        // Answers while it reads. The client stops within the body.
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        exchange.wait_for_end();
        Then::Close
    });
    let upload = request("POST", "/", HOST, &[("Origin", ORIGIN), ("Transfer-Encoding", "chunked")], b"");
    let mut connection = site.connect();
    connection.send(&[&upload[..], b"5\r\nhello\r\n"].concat()).unwrap();
    assert_eq!(connection.answer_to(&upload).unwrap().text(), "ok");
    drop(connection);
    site.gateway.wait_zero("crossgate_connections_active", &[]);
    let raw = site.upstream.raw().concat();
    assert!(!raw.ends_with(b"0\r\n\r\n"), "{}", raw.escape_ascii());
}

#[test]
fn f2_upload_continues_after_a_complete_success_response() {
    const LEN: usize = 6_000_000;
    for framing in ["length", "chunks"] {
        for piece_len in [100, 60_000] {
            let len = if piece_len == 100 { 1_000 } else { LEN };
            let (sender, read) = mpsc::channel();
            let site = Site::scripted(move |exchange| {
                exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                // Until the upload fills every buffer.
                thread::sleep(Duration::from_millis(300));
                sender.send(exchange.read_body().0).unwrap();
                Then::Close
            });
            let field = match framing {
                "length" => ("Content-Length", len.to_string()),
                _ => ("Transfer-Encoding", "chunked".to_owned()),
            };
            let mut connection = site.connect();
            connection.send(&request("POST", "/", HOST, &[(field.0, &field.1)], b"")).unwrap();
            let mut writer = connection.stream.try_clone().unwrap();
            let writing = thread::spawn(move || {
                for _ in 0..len / piece_len {
                    let mut piece = vec![b'x'; piece_len];
                    if framing == "chunks" {
                        piece = [format!("{piece_len:x}\r\n").as_bytes(), &piece, b"\r\n"].concat();
                    }
                    if writer.write_all(&piece).is_err() {
                        break;
                    }
                    if piece_len == 100 {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            });
            assert_eq!(connection.answer_to(b"POST").unwrap().text(), "ok");
            assert_eq!(read.recv_timeout(PATIENCE), Ok(len as u64), "{framing} in pieces of {piece_len}");
            writing.join().unwrap();
        }
    }
}

/// A gateway with this head timeout, in front of an upstream that reads nothing.
fn stalled(head: &str) -> (Gateway, StalledUpstream) {
    let upstream = StalledUpstream::start();
    let options = format!(", timeouts: {{ head: {head} }}");
    let gateway = Gateway::start(&config(&tenant_config_at(upstream.address, &options)), &[]);
    (gateway, upstream)
}

const UPLOAD_LEN: usize = 8_000_000;

fn upload() -> Vec<u8> {
    let length = UPLOAD_LEN.to_string();
    request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", &length)], b"")
}

/// Sends until all buffers are full.
fn fill(stream: &mut TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let piece = [b'x'; 64 * 1024];
    let mut sent = 0;
    while let Ok(len) = stream.write(&piece) {
        sent += len;
        assert!(sent < UPLOAD_LEN, "the upstream reads the upload");
    }
}

#[test]
fn a2_upload_that_the_upstream_does_not_read_gets_504() {
    let (gateway, upstream) = stalled("1500ms");
    let mut connection = Connection::open(gateway.data);
    connection.send(&upload()).unwrap();
    let began = Instant::now();
    fill(&mut connection.stream.try_clone().unwrap());
    let answer = connection.answer_to(b"POST").unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_allowed(&answer);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1400) && took < Duration::from_secs(8), "{took:?}");
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "head_timeout")], 1.0);
    drop(connection);
    gateway.wait_zero("crossgate_connections_active", &[]);
    upstream.wait_until_all_closed();
    assert_eq!(upstream.connections(), 1, "an upload is not sent twice");
}

#[test]
fn a2_upload_that_the_upstream_does_not_read_uses_no_cpu() {
    let (gateway, _upstream) = stalled("1h");
    let mut connection = Connection::open(gateway.data);
    connection.send(&upload()).unwrap();
    fill(&mut connection.stream.try_clone().unwrap());
    let ticks = || -> u64 {
        let stat = gateway.process.proc_file("stat");
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    thread::sleep(Duration::from_millis(1_500));
    let before = ticks();
    thread::sleep(Duration::from_secs(2));
    // One CPU has 200 ticks in that time.
    let spent = ticks() - before;
    assert!(spent < 60, "{spent} ticks of 10 ms in 2 s");
}

/// Sends an upload on the first stream of a connection, as far as the window of the stream allows.
fn begin_http2_upload(gateway: &Gateway) -> RawHttp2 {
    let mut raw = RawHttp2::open(gateway.data, &[]);
    // The settings of the gateway, which enlarge the windows, come before its WINDOW_UPDATE.
    while raw.read().expect("a connection").kind != WINDOW_UPDATE {}
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/"), ("origin", ORIGIN)];
    raw.send(&head(1, &fields, 0));
    for _ in 0..15 {
        raw.send(&frame(DATA, 0, 1, &[b'x'; 16 * 1024]));
    }
    raw
}

#[test]
fn a2_http2_upload_that_the_upstream_does_not_read_gets_504() {
    let (gateway, upstream) = stalled("1500ms");
    let mut raw = begin_http2_upload(&gateway);
    assert_eq!(raw.upload_outcome(1), Outcome::Answered(504));
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "head_timeout")], 1.0);
    drop(raw);
    gateway.wait_zero("crossgate_connections_active", &[]);
    upstream.wait_until_all_closed();
}

#[test]
fn a2_both_connections_end_when_the_client_leaves() {
    let (gateway, upstream) = stalled("1h");
    let mut left = 0.0;
    for leaving in ["close", "half-close", "reset"] {
        let mut stream = connect_with_small_buffers(gateway.data);
        stream.write_all(&upload()).unwrap();
        fill(&mut stream);
        match leaving {
            "reset" => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
            "half-close" => stream.shutdown(Shutdown::Write).unwrap(),
            _ => {}
        }
        if leaving != "half-close" {
            drop(stream);
        }
        left += 1.0;
        gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], left);
        gateway.wait_zero("crossgate_connections_active", &[]);
        upstream.wait_until_all_closed();
    }
    // Over HTTP/2, a reset of the stream is enough.
    let mut raw = begin_http2_upload(&gateway);
    let deadline = Instant::now() + PATIENCE;
    while upstream.connections() < 4 {
        assert!(Instant::now() < deadline, "the request does not reach the upstream");
    }
    raw.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    upstream.wait_until_all_closed();
}

#[test]
fn a2_500_leaving_clients_hold_nothing_after_5_seconds() {
    const CLIENTS: usize = 500;
    let (gateway, upstream) = stalled("3s");
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = connect_with_small_buffers(gateway.data);
            stream.write_all(&upload()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    // Until all buffers of all clients are full.
    let mut passes_without_progress = 0;
    while passes_without_progress < 5 {
        let progress: usize = clients
            .iter()
            .map(|mut client| {
                let taken = std::iter::from_fn(|| client.write(&[b'x'; 16 * 1024]).ok());
                taken.sum::<usize>()
            })
            .sum();
        passes_without_progress = if progress == 0 { passes_without_progress + 1 } else { 0 };
        thread::sleep(Duration::from_millis(50));
    }
    let (mut leaving, mut staying) = (clients, Vec::new());
    staying.extend(leaving.drain(..50));
    drop(leaving);
    let began = Instant::now();
    while gateway.metric("crossgate_connections_active", &[]) > 50.0 {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", gateway.metric("crossgate_connections_active", &[]));
    }
    for stream in staying {
        stream.set_nonblocking(false).unwrap();
        let mut connection = Connection::over(stream);
        match connection.answer_to(b"POST") {
            Ok(answer) => assert_eq!(answer.status, 504),
            Err(error) => assert_ne!(error, WireError::TimedOut),
        }
    }
    gateway.wait_zero("crossgate_connections_active", &[]);
    upstream.wait_until_all_closed();
    assert_eq!(upstream.connections(), CLIENTS);
}
