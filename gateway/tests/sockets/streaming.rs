//! Streaming of bodies, events and WebSockets: data is forwarded as it arrives and is not buffered.
use std::io::Write as _;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::support::{
    Connection, HOST, ORIGIN, Site, Then, WireError, assert_allowed, assert_denied, assert_edge_error, handshake,
    request, websocket,
};

const MIB: usize = 1024 * 1024;
/// Far larger than the gateway's memory limit.
const STREAMED: usize = 1024 * MIB;

#[test]
fn a_websocket_of_an_allowed_origin_passes_both_ways() {
    let site = Site::scripted(websocket);
    let mut connection = site.connect();
    let answer = connection.exchange(&handshake(ORIGIN)).unwrap();
    assert_eq!((answer.status, answer.headers.one("upgrade")), (101, "websocket"));
    assert!(!answer.headers.all("access-control-allow-origin").contains(&"*"), "{answer:?}");
    for round in 0..10 {
        let frame = format!("frame {round} \u{1}\u{2}\r\n\r\nGET / HTTP/1.1\r\n\r\n").into_bytes();
        connection.send(&frame).unwrap();
        assert_eq!(connection.exactly(frame.len()).unwrap(), frame);
    }
    connection.finish_sending();
    assert!(connection.is_at_end());
}

#[test]
fn frames_sent_with_the_handshake_are_not_lost() {
    let site = Site::scripted(websocket);
    let mut connection = site.connect();
    connection.send(&[handshake(ORIGIN), b"early".to_vec()].concat()).unwrap();
    assert_eq!(connection.answer_to(b"GET").unwrap().status, 101);
    assert_eq!(connection.exactly(5).unwrap(), b"early");
}

#[test]
fn a_websocket_of_another_origin_is_refused() {
    let site = Site::scripted(websocket);
    for origin in ["https://evil.test", "null", "https://app.a.test.evil.test"] {
        assert_denied(&site.raw(&handshake(origin)).unwrap(), "app.a");
    }
    assert_eq!(site.upstream.total(), 0);
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let site = Site::start();
    let mut connection = site.connect();
    let answer = connection.exchange(&handshake(ORIGIN)).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(site.upstream.total(), 1);
}

/// Renders a request that the gateway denies.
fn denied_request() -> Vec<u8> {
    request("GET", "/behind", HOST, &[("Origin", "https://evil.test")], b"")
}

#[test]
fn bytes_after_a_handshake_are_held_until_101() {
    let (seen, silences) = mpsc::channel();
    let seen = Mutex::new(seen);
    let site = Site::scripted(move |exchange| {
        seen.lock().unwrap().send(exchange.is_silent_for(Duration::from_millis(500))).unwrap();
        websocket(exchange)
    });
    let mut connection = site.connect();
    connection.send(&[handshake(ORIGIN), denied_request()].concat()).unwrap();
    assert!(silences.recv().unwrap(), "bytes after the head arrived");
    assert_eq!(connection.answer_to(b"GET").unwrap().status, 101);
    // After the 101 these bytes belong to the other protocol and are not a request.
    assert_eq!(connection.exactly(denied_request().len()).unwrap(), denied_request());
    assert_eq!(site.upstream.total(), 1);
}

#[test]
fn request_after_a_refused_handshake_is_judged_separately() {
    for protocol in ["websocket", "h2c", "foo"] {
        let site = Site::start();
        let asked = [("Origin", ORIGIN), ("Connection", "Upgrade"), ("Upgrade", protocol)];
        let first = request("GET", "/", HOST, &asked, b"");
        let mut connection = site.connect();
        connection.send(&[first, denied_request(), denied_request()].concat()).unwrap();
        let answer = connection.answer_to(b"GET").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{protocol}");
        for _ in 0..2 {
            assert_denied(&connection.answer_to(b"GET").unwrap(), "evil");
        }
        assert_eq!(site.upstream.total(), 1, "{protocol}");
        let came = String::from_utf8(site.upstream.raw().concat()).unwrap();
        assert!(came.ends_with("\r\n\r\n") && !came.contains("behind"), "{came}");
    }
}

#[test]
fn server_sent_events_are_forwarded_immediately() {
    let (sender, events) = mpsc::channel::<&'static str>();
    let events = Mutex::new(events);
    let site = Site::scripted(move |exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in events.lock().unwrap().iter() {
            exchange.write(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        }
        exchange.write(b"0\r\n\r\n");
        Then::KeepAlive
    });
    let mut connection = site.connect();
    connection.send(&request("GET", "/events", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    assert_allowed(&connection.head().unwrap());
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // The next event is sent only when this one has arrived, so a buffered event would never
        // arrive.
        sender.send(event).unwrap();
        assert_eq!(connection.chunk().unwrap().unwrap(), event.as_bytes());
    }
    drop(sender);
    assert_eq!(connection.chunk().unwrap(), None);
}

#[test]
fn body_with_content_length_is_forwarded_immediately() {
    let (sender, pieces) = mpsc::channel::<&'static str>();
    let pieces = Mutex::new(pieces);
    let site = Site::scripted(move |exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
        for piece in pieces.lock().unwrap().iter() {
            exchange.write(piece.as_bytes());
        }
        Then::KeepAlive
    });
    let mut connection = site.connect();
    connection.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    connection.send(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    assert_allowed(&connection.head().unwrap());
    for piece in ["abc", "def"] {
        sender.send(piece).unwrap();
        assert_eq!(connection.exactly(3).unwrap(), piece.as_bytes());
    }
}

#[test]
fn an_upload_reaches_the_upstream_piece_by_piece() {
    let (arrived, arrivals) = mpsc::channel();
    let arrived = Mutex::new(arrived);
    let site = Site::scripted(move |exchange| {
        arrived.lock().unwrap().send(()).unwrap();
        let (length, body) = exchange.read_body();
        exchange.answer(200, &[], format!("{length} {}", String::from_utf8_lossy(&body)).as_bytes())
    });
    let head = request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "6")], b"");
    let mut connection = site.connect();
    connection.send(&[head, b"abc".to_vec()].concat()).unwrap();
    arrivals.recv().unwrap();
    connection.send(b"def").unwrap();
    assert_eq!(connection.answer_to(b"POST").unwrap().text(), "6 abcdef");
}

#[test]
fn large_upload_is_not_buffered() {
    let site = Site::scripted(|exchange| {
        let (length, _) = exchange.read_body();
        exchange.answer(200, &[], length.to_string().as_bytes())
    });
    let length = STREAMED.to_string();
    let mut connection = site.connect();
    connection.send(&request("PUT", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", &length)], b"")).unwrap();
    let piece = vec![b'x'; MIB];
    for _ in 0..STREAMED / MIB {
        connection.stream.write_all(&piece).unwrap();
    }
    assert_eq!(connection.answer_to(b"PUT").unwrap().text(), length);
    assert_little_memory(&site);
}

#[test]
fn large_download_is_not_buffered() {
    let site = Site::scripted(|exchange| {
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAMED}\r\n\r\n").as_bytes());
        let piece = vec![b'x'; MIB];
        for _ in 0..STREAMED / MIB {
            exchange.write(&piece);
        }
        Then::KeepAlive
    });
    let mut connection = site.connect();
    connection.send(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    assert_allowed(&connection.head().unwrap());
    for _ in 0..STREAMED / MIB {
        assert_eq!(connection.exactly(MIB).unwrap().len(), MIB);
    }
    assert_little_memory(&site);
}

/// Checks that the peak memory of the gateway is far below the size of the transfer.
fn assert_little_memory(site: &Site) {
    let peak = site.gateway.process.memory("VmHWM") / MIB as u64;
    assert!(peak < 96, "the gateway needed {peak} MiB");
}

#[test]
fn expect_100_continue_gets_100() {
    let site = Site::scripted(|exchange| {
        if exchange.seen.headers.has("expect") {
            exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let (_, body) = exchange.read_body();
        exchange.answer(200, &[], &body)
    });
    let expecting = [("Origin", ORIGIN), ("Content-Length", "4"), ("Expect", "100-continue")];
    let mut connection = site.connect();
    connection.send(&request("PUT", "/", HOST, &expecting, b"")).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send(b"body").unwrap();
    assert_eq!(connection.answer_to(b"PUT").unwrap().text(), "body");
}

#[test]
fn expect_100_continue_of_denied_request_gets_403() {
    let site = Site::start();
    let expecting = [("Origin", "https://evil.test"), ("Content-Length", "4"), ("Expect", "100-continue")];
    let answer = site.raw(&request("PUT", "/", HOST, &expecting, b"")).unwrap();
    assert_denied(&answer, "evil");
    assert_eq!(answer.interim, []);
}

#[test]
fn early_answer_during_upload_is_delivered() {
    let site = Site::scripted(|exchange| {
        exchange.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        Then::Stall
    });
    let mut connection = site.connect();
    connection.send(&request("PUT", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "1000000")], b"")).unwrap();
    connection.send(&[b'x'; 1000]).unwrap();
    let answer = connection.answer_to(b"PUT").unwrap();
    assert_allowed(&answer);
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
}

#[test]
fn a_body_above_the_configured_limit_is_refused() {
    let upstream = crate::support::RecordingUpstream::answering("hello");
    let site = Site::with_upstream(upstream, "limits: { maxRequestBody: 1KiB }\n");
    let put = |length: usize| request("PUT", "/", HOST, &[("Origin", ORIGIN)], &vec![b'x'; length]);
    assert_allowed(&site.raw(&put(1024)).unwrap());
    let answer = site.raw(&put(1025)).unwrap();
    assert_edge_error(&answer, 413);
    assert_allowed(&answer);
    let chunked = request("PUT", "/", HOST, &[("Origin", ORIGIN), ("Transfer-Encoding", "chunked")], b"");
    let body = [b"800\r\n".as_slice(), &[b'x'; 0x800], b"\r\n0\r\n\r\n"].concat();
    match Connection::ask(site.gateway.data, &[chunked, body].concat()) {
        Ok(answer) => assert_eq!(answer.status, 413),
        Err(error) => {
            assert!(matches!(error, WireError::Closed | WireError::Reset | WireError::Truncated), "{error:?}")
        }
    }
}
