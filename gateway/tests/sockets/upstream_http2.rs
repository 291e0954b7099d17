//! HTTP/2 upstreams: the requests they receive, the answers that clients get, and aborted or
//! invalid answers.
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Notify;

use crate::support::http2_frames::{
    CANCEL, DATA, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, RST_STREAM, WINDOW_UPDATE, frame, head,
};
use crate::support::{
    Connection, FrameConnection, FrameUpstream, Gateway, HOST, Http2Exchange, Http2Upstream, ORIGIN, Outcome, RawHttp2,
    RecordingUpstream, Response, WireError, assert_allowed, assert_edge_error, assert_never_readable, config,
    connect_with_small_buffers, handshake, request, send, tenant_config_at,
};

const SHORT: &str = ", timeouts: { connect: 1s, head: 700ms, idle: 700ms }";

fn gateway_for(server: SocketAddr, options: &str) -> Gateway {
    Gateway::start(&config(&tenant_config_at(server, &format!(", protocol: Http2{options}"))), &[])
}

fn ask(gateway: &Gateway, method: &str, body: &[u8]) -> Result<Response, WireError> {
    Connection::ask(gateway.data, &request(method, "/", HOST, &[("Origin", ORIGIN)], body))
}

#[track_caller]
fn assert_hello(answer: &Response) {
    assert_eq!((answer.status, &*answer.text()), (200, "hello"), "{answer:?}");
    assert_allowed(answer);
}

/// An upstream that calls `answer` for every request, one after the other on each connection.
fn answering_by_frames(
    answer: impl Fn(&mut FrameConnection, u32) -> Option<()> + Send + Sync + 'static,
) -> FrameUpstream {
    FrameUpstream::start(move |connection| {
        loop {
            let stream = connection.next_request()?;
            answer(connection, stream)?;
        }
    })
}

#[test]
fn requests_reach_an_http2_upstream_without_hop_by_hop_fields() {
    let upstream = Http2Upstream::answering("hello");
    let gateway = gateway_for(upstream.address, "");
    let hop = [
        ("Connection", "x-named, keep-alive"),
        ("X-Named", "here"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers, deflate"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("X-App", "mine"),
    ];
    let answer = gateway.ask("GET", "/a/../b?q=1", HOST, &[&[("Origin", ORIGIN)], hop.as_slice()].concat());
    assert_hello(&answer);
    assert_eq!(upstream.uris()[0].to_string(), format!("http://{HOST}/b?q=1"));
    let seen = &upstream.seen()[0];
    let mut names: Vec<&str> = seen.headers.0.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cdn-loop",
            "origin",
            "x-app",
            "x-crossgate-tenant",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(seen.headers.one("x-forwarded-host"), HOST);
    // `:path` is a path or `*`, whatever the form of the client's target.
    let absolute = format!("OPTIONS http://{HOST}/c HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(Connection::ask(gateway.data, absolute.as_bytes()).unwrap().status, 200);
    assert_eq!(gateway.ask("OPTIONS", "*", HOST, &[]).status, 200);
    let targets: Vec<String> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/b?q=1", "/c", "*"]);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn configured_host_is_sent_as_authority() {
    let upstream = Http2Upstream::answering("hello");
    let gateway = gateway_for(upstream.address, ", host: internal.test");
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    assert_eq!(upstream.uris()[0].authority().unwrap(), "internal.test");
    assert_eq!(upstream.seen()[0].headers.one("x-forwarded-host"), HOST);
}

#[test]
fn http2_upstream_cors_headers_are_stripped() {
    let upstream = FrameUpstream::start(|connection| {
        loop {
            let stream = connection.next_request()?;
            let own = [
                ("access-control-allow-origin", "*"),
                ("access-control-allow-origin", "https://evil.test"),
                ("access-control-allow-credentials", "true"),
                ("access-control-expose-headers", "x-secret"),
            ];
            connection.send_head(0, stream, "103", &[&own[..], &[("link", "</a>")]].concat())?;
            connection.send_head(0, stream, "200", &own)?;
            connection.send(DATA, 0, stream, b"hello")?;
            connection.send_trailers(stream, &[&own[..], &[("grpc-status", "0")]].concat())?;
        }
    });
    let gateway = gateway_for(upstream.address, "");
    let answer = ask(&gateway, "GET", b"").unwrap();
    assert_hello(&answer);
    for (_, headers) in &answer.interim {
        assert!(headers.access_control().is_empty(), "{answer:?}");
    }
    assert!(answer.trailers.access_control().is_empty(), "{answer:?}");
    let own = gateway.ask("GET", "/", HOST, &[]);
    assert_eq!(own.status, 200);
    assert_never_readable(&own);
}

#[test]
fn bodies_pass_both_ways_with_an_http2_upstream() {
    let upstream = Http2Upstream::start(|mut exchange: Http2Exchange| async move {
        let (body, _) = exchange.read_body().await?;
        let mut stream = exchange.begin(200, &[])?;
        send(&mut stream, body.into()).await?;
        stream.send_data(Bytes::new(), true).ok()
    });
    let gateway = gateway_for(upstream.address, "");
    let large: Vec<u8> = (0..3_u32 << 20).map(|at| at as u8).collect();
    for body in [b"".as_slice(), b"x", &large] {
        assert!(ask(&gateway, "POST", body).unwrap().body == body, "{} bytes", body.len());
    }
    let mut chunked = request("POST", "/", HOST, &[("Transfer-Encoding", "chunked")], b"");
    chunked.extend_from_slice(b"5\r\nhello\r\n6\r\n there\r\n0\r\nX-After: 1\r\n\r\n");
    assert_eq!(Connection::ask(gateway.data, &chunked).unwrap().text(), "hello there");
    assert_eq!(gateway.ask("HEAD", "/", HOST, &[]).status, 200);
}

#[test]
fn expect_continue_gets_100_with_an_http2_upstream() {
    let upstream = Http2Upstream::start(|mut exchange: Http2Exchange| async move {
        assert!(!exchange.seen.headers.has("expect"));
        let (body, _) = exchange.read_body().await?;
        exchange.answer(200, &[], &body).await
    });
    let gateway = gateway_for(upstream.address, "");
    let head =
        request("POST", "/", HOST, &[("Origin", ORIGIN), ("Expect", "100-continue"), ("Content-Length", "5")], b"");
    let mut connection = Connection::open(gateway.data);
    connection.send(&head).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send(b"hello").unwrap();
    assert_hello(&connection.answer_to(&head).unwrap());
}

#[test]
fn http_1_0_client_gets_no_chunked_body() {
    let upstream = Http2Upstream::start(|mut exchange: Http2Exchange| async move {
        let mut stream = exchange.begin(200, &[])?;
        send(&mut stream, "hello".into()).await?;
        stream.send_data(Bytes::new(), true).ok()
    });
    let gateway = gateway_for(upstream.address, "");
    let old = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
    let answer = Connection::ask(gateway.data, old.as_bytes()).unwrap();
    assert_eq!(answer.text(), "hello");
    assert!(!answer.headers.has("transfer-encoding") && !answer.headers.has("content-length"), "{answer:?}");
    assert_eq!(answer.headers.one("connection"), "close");
}

#[test]
fn websocket_to_an_http2_upstream_gets_501() {
    let upstream = Http2Upstream::answering("hello");
    let gateway = gateway_for(upstream.address, "");
    let answer = Connection::ask(gateway.data, &handshake(ORIGIN)).unwrap();
    assert_edge_error(&answer, 501);
    assert!(answer.text().contains("no_websockets"), "{answer:?}");
    assert_eq!(upstream.seen().len(), 0);
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
}

#[test]
fn http1_server_with_protocol_http2_gets_502() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(400, &[], b""));
    let gateway = gateway_for(upstream.address, ", attempts: 1");
    let answer = ask(&gateway, "GET", b"").unwrap();
    assert_edge_error(&answer, 502);
    assert_allowed(&answer);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "invalid")], 1.0);
}

#[test]
fn truncated_http2_upstream_response_never_ends_cleanly() {
    type Break = fn(&mut FrameConnection, u32) -> Option<()>;
    let breaks: [Break; 8] = [
        |connection, stream| connection.reset(stream, INTERNAL_ERROR),
        |connection, stream| connection.reset(stream, CANCEL),
        // RFC 9113, section 8.1: NO_ERROR is only valid after a complete response.
        |connection, stream| connection.reset(stream, NO_ERROR),
        |connection, _| connection.go_away(0, NO_ERROR),
        |connection, _| connection.go_away(u32::MAX >> 1, INTERNAL_ERROR).and(None),
        |_, _| None,
        // A body shorter than its content-length, and a body that stalls.
        |connection, stream| connection.send(DATA, END_STREAM, stream, b""),
        |_, _| Some(()),
    ];
    for (nth, end) in breaks.into_iter().enumerate() {
        let upstream = answering_by_frames(move |connection, stream| {
            connection.send_head(0, stream, "200", &[("content-length", "9")])?;
            connection.send(DATA, 0, stream, b"half")?;
            end(connection, stream)
        });
        let gateway = gateway_for(upstream.address, SHORT);
        match ask(&gateway, "GET", b"") {
            Ok(answer) => {
                assert_edge_error(&answer, 502);
                assert_allowed(&answer);
            }
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{nth}: {error:?}"),
        }
        // A chunked answer must not get its last chunk.
        let upstream = answering_by_frames(move |connection, stream| {
            connection.send_head(0, stream, "200", &[])?;
            connection.send(DATA, 0, stream, b"half")?;
            if nth == 6 { None } else { end(connection, stream) }
        });
        let gateway = gateway_for(upstream.address, SHORT);
        match ask(&gateway, "GET", b"") {
            Ok(answer) => assert_edge_error(&answer, 502),
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{nth}: {error:?}"),
        }
    }
}

#[test]
fn invalid_http2_response_heads_get_502() {
    let long = "x".repeat(70_000);
    let many: Vec<(String, &str)> = (0..300).map(|nth| (format!("x-{nth}"), "1")).collect();
    let huge: Vec<(String, &str)> = (0..30).map(|nth| (format!("x-{nth}"), &*long)).collect();
    let own = |fields: &[(&str, &str)]| {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let lists =
        |fields: Vec<(String, &str)>| fields.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    let cases: Vec<(&str, Vec<(String, String)>)> = vec![
        ("200", own(&[("connection", "close")])),
        ("200", own(&[("transfer-encoding", "chunked")])),
        ("200", own(&[("upgrade", "websocket")])),
        ("200", own(&[("X-Upper", "1")])),
        ("200", own(&[("x-nul", "a\0b")])),
        ("200", own(&[("x-lines", "a\r\nset-cookie: b")])),
        ("200", own(&[("content-length", "5"), ("content-length", "6")])),
        ("200", own(&[("content-length", "-5")])),
        ("20", own(&[])),
        ("2000", own(&[])),
        ("200", lists(many)),
        ("200", lists(huge)),
    ];
    for (status, fields) in cases {
        let (case, sent) = (format!("{status} {:.80}", format!("{fields:?}")), fields.clone());
        let upstream = answering_by_frames(move |connection, stream| {
            let fields: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (&**name, &**value)).collect();
            connection.send_head(0, stream, status, &fields)?;
            connection.send(DATA, END_STREAM, stream, b"hello")
        });
        let gateway = gateway_for(upstream.address, ", attempts: 1");
        let answer = ask(&gateway, "GET", b"").unwrap_or_else(|error| panic!("{case}: {error:?}"));
        assert_eq!(answer.status, 502, "{case}: {answer:?}");
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
    }
}

#[test]
fn content_length_without_a_body_is_accepted_only_for_head() {
    let upstream = answering_by_frames(|connection, stream| {
        connection.send_head(END_STREAM, stream, "200", &[("content-length", "5")])
    });
    let gateway = gateway_for(upstream.address, ", attempts: 1");
    assert_edge_error(&ask(&gateway, "GET", b"").unwrap(), 502);
    let head = gateway.ask("HEAD", "/", HOST, &[]);
    assert_eq!((head.status, head.headers.one("content-length")), (200, "5"));
}

#[test]
fn unprocessed_requests_are_retried_for_every_method() {
    type Refuse = fn(&mut FrameConnection, u32) -> Option<()>;
    let ways: [Refuse; 3] = [
        |connection, stream| connection.reset(stream, REFUSED_STREAM),
        |connection, _| connection.go_away(0, NO_ERROR),
        |connection, _| connection.go_away(0, INTERNAL_ERROR),
    ];
    for refuse in ways {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        let upstream = answering_by_frames(move |connection, stream| match counted.fetch_add(1, SeqCst) {
            0 => refuse(connection, stream),
            _ => connection.send_hello(stream),
        });
        let gateway = gateway_for(upstream.address, "");
        assert_hello(&ask(&gateway, "POST", b"once").unwrap());
        assert_eq!(attempts.load(SeqCst), 2);
        assert_hello(&ask(&gateway, "POST", b"twice").unwrap());
        gateway.wait_metric("crossgate_upstream_servers_ejected", &[], 0.0);
    }
}

#[test]
fn possibly_processed_requests_are_retried_only_if_idempotent() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let upstream = answering_by_frames(move |connection, stream| {
        counted.fetch_add(1, SeqCst);
        connection.reset(stream, INTERNAL_ERROR)
    });
    let gateway = gateway_for(upstream.address, "");
    let count = |method: &str| {
        let answer = ask(&gateway, method, b"").unwrap();
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
        attempts.swap(0, SeqCst)
    };
    assert_eq!(count("POST"), 1);
    assert_eq!(count("GET"), 2);
    assert_eq!(upstream.connections(), 1, "only the stream failed");
}

#[test]
fn refused_streams_are_retried_once() {
    let upstream = answering_by_frames(|connection, stream| connection.reset(stream, REFUSED_STREAM));
    let gateway = gateway_for(upstream.address, "");
    for _ in 0..3 {
        assert_edge_error(&ask(&gateway, "POST", b"").unwrap(), 502);
    }
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "reset")], 6.0);
}

#[test]
fn closed_idle_http2_connection_is_replaced() {
    let upstream = FrameUpstream::start(|connection| {
        let stream = connection.next_request()?;
        connection.send_hello(stream)?;
        connection.go_away(stream, NO_ERROR)
    });
    let gateway = gateway_for(upstream.address, "");
    for round in 0..20 {
        assert_eq!(ask(&gateway, "GET", b"").unwrap().text(), "hello", "{round}");
    }
}

#[test]
fn silent_http2_upstream_hits_head_and_idle_timeouts() {
    let (sender, received) = std::sync::mpsc::channel();
    let upstream = FrameUpstream::start(move |connection| {
        let stream = connection.next_request()?;
        if connection.number == 1 {
            connection.send_head(0, stream, "200", &[])?;
            connection.send(DATA, 0, stream, b"half")?;
        }
        let reset = connection.next_of(RST_STREAM)?;
        sender.send((reset.stream == stream, reset.payload)).unwrap();
        None
    });
    let gateway = gateway_for(upstream.address, SHORT);
    let start = Instant::now();
    let answer = ask(&gateway, "GET", b"").unwrap();
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
    assert!(start.elapsed() >= Duration::from_millis(700));
    assert_eq!(received.recv().unwrap(), (true, CANCEL.to_be_bytes().to_vec()), "the upstream stream is cancelled");
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "head_timeout")], 1.0);
    let cut = ask(&gateway, "GET", b"");
    assert!(matches!(cut, Err(WireError::Truncated | WireError::Reset)), "{cut:?}");
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "idle_timeout")], 1.0);
    assert_eq!(received.recv().unwrap(), (true, CANCEL.to_be_bytes().to_vec()));
}

#[test]
fn leaving_client_cancels_its_upstream_stream() {
    let (sender, received) = std::sync::mpsc::channel();
    let upstream = FrameUpstream::start(move |connection| {
        let stream = connection.next_request()?;
        sender.send(Vec::new()).unwrap();
        sender.send(connection.next_of(RST_STREAM)?.payload).unwrap();
        connection.next_request().filter(|next| *next > stream).and_then(|next| connection.send_hello(next))
    });
    let gateway = gateway_for(upstream.address, "");
    let mut connection = Connection::open(gateway.data);
    connection.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    received.recv().unwrap();
    drop(connection);
    assert_eq!(received.recv().unwrap(), CANCEL.to_be_bytes());
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    assert_eq!(upstream.connections(), 1, "other requests continue on the same connection");
}

/// An upstream that never opens the window of an upload. It returns the window of the connection
/// only for streams that are reset, and answers all other requests.
fn never_opening_windows(resets: std::sync::mpsc::Sender<u32>) -> FrameUpstream {
    FrameUpstream::start(move |connection| {
        let mut held: std::collections::HashMap<u32, u32> = std::collections::HashMap::new();
        loop {
            let frame = connection.next()?;
            match frame.kind {
                DATA => *held.entry(frame.stream).or_default() += u32::try_from(frame.payload.len()).unwrap(),
                RST_STREAM => {
                    let given_back = held.remove(&frame.stream).unwrap_or_default();
                    if given_back > 0 {
                        connection.send(WINDOW_UPDATE, 0, 0, &given_back.to_be_bytes())?;
                    }
                    resets.send(frame.number(0)).unwrap();
                }
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                connection.send_hello(frame.stream)?;
            }
        }
    })
}

#[test]
fn a2_upload_that_an_http2_upstream_does_not_read_gets_504() {
    let (resets, received) = std::sync::mpsc::channel();
    let upstream = never_opening_windows(resets);
    let gateway = gateway_for(upstream.address, &format!("{SHORT}, attempts: 1"));
    let start = Instant::now();
    let body = vec![b'x'; 4 << 20];
    let mut connection = Connection::open(gateway.data);
    let mut writer = connection.stream.try_clone().unwrap();
    let upload = request("POST", "/", HOST, &[("Origin", ORIGIN)], &body);
    let writing = std::thread::spawn(move || drop(writer.write_all(&upload)));
    let answer = connection.answer_to(b"POST").unwrap();
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(received.recv().unwrap(), CANCEL);
    drop(connection);
    writing.join().unwrap();
    let mut raw = begin_upload(&gateway);
    assert_eq!(raw.outcome(1), Outcome::Answered(504));
    assert_eq!(received.recv().unwrap(), CANCEL);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "head_timeout")], 2.0);
    gateway.wait_metric("crossgate_responses_total", &[("class", "5xx"), ("by", "gateway")], 2.0);
    let logged = |line: &&str| line.contains("\"status\":504") && line.contains("head_timeout");
    gateway.process.stdout_line(|line| logged(&line).then_some(()));
    drop(raw);
    gateway.wait_zero("crossgate_connections_active", &[]);
}

/// An HTTP/2 client whose upload fills the windows.
fn begin_upload(gateway: &Gateway) -> RawHttp2 {
    let mut raw = RawHttp2::open(gateway.data, &[]);
    while raw.read().expect("a connection").kind != WINDOW_UPDATE {}
    begin_stream(&mut raw, 1, 15);
    raw
}

fn begin_stream(raw: &mut RawHttp2, stream: u32, frames: usize) {
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/"), ("origin", ORIGIN)];
    raw.send(&head(stream, &fields, 0));
    for _ in 0..frames {
        raw.send(&frame(DATA, 0, stream, &[b'x'; 16 * 1024]));
    }
}

#[test]
fn a3_reset_upload_is_cancelled_and_returns_its_window() {
    const UPLOADS: u32 = 12;
    let (resets, received) = std::sync::mpsc::channel();
    let upstream = never_opening_windows(resets);
    let gateway = gateway_for(upstream.address, ", timeouts: { head: 1h }");
    let mut raw = RawHttp2::open(gateway.data, &[]);
    while raw.read().expect("a connection").kind != WINDOW_UPDATE {}
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    for stream in 0..UPLOADS {
        begin_stream(&mut raw, stream * 2 + 1, 4);
        gateway.wait_level("crossgate_requests_active", f64::from(stream + 1));
        std::thread::sleep(Duration::from_millis(30));
    }
    // All uploads are on one upstream connection and blocked by its window.
    assert_eq!(upstream.connections(), 1);
    let start = Instant::now();
    for stream in 0..UPLOADS {
        raw.send(&frame(RST_STREAM, 0, stream * 2 + 1, &CANCEL.to_be_bytes()));
    }
    for _ in 0..UPLOADS {
        assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), CANCEL);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], f64::from(UPLOADS));
    gateway.wait_level("crossgate_requests_active", 0.0);
    // A later upload on that connection succeeds.
    assert_hello(&ask(&gateway, "POST", &[b'y'; 60_000]).unwrap());
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a2_leaving_client_ends_its_upload_to_an_http2_upstream() {
    let (resets, received) = std::sync::mpsc::channel();
    let upstream = never_opening_windows(resets);
    let gateway = gateway_for(upstream.address, ", timeouts: { head: 1h }");
    for leaving in ["close", "reset"] {
        let mut stream = connect_with_small_buffers(gateway.data);
        let upload = request("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "8000000")], b"");
        stream.write_all(&upload).unwrap();
        // More than the window, and small enough that the gateway reads the end of the connection.
        stream.write_all(&[b'x'; 80_000]).unwrap();
        gateway.wait_level("crossgate_requests_active", 1.0);
        std::thread::sleep(Duration::from_millis(300));
        if leaving == "reset" {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        let reset = received.recv_timeout(Duration::from_secs(10));
        assert_eq!(reset, Ok(CANCEL), "{leaving} {:?}", gateway.metrics());
        gateway.wait_zero("crossgate_connections_active", &[]);
    }
}

#[test]
fn concurrent_requests_share_an_http2_upstream_connection() {
    let (together, all) = (40, Arc::new(Notify::new()));
    let (waiting, release) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&all));
    let upstream = Http2Upstream::start(move |exchange: Http2Exchange| {
        let (waiting, release) = (Arc::clone(&waiting), Arc::clone(&release));
        async move {
            if exchange.seen.target == "/together" {
                let released = release.notified();
                if waiting.fetch_add(1, SeqCst) + 1 == together {
                    release.notify_waiters();
                } else {
                    released.await;
                }
            }
            exchange.answer(200, &[], b"hello").await
        }
    });
    let gateway = gateway_for(upstream.address, "");
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    thread::scope(|scope| {
        for _ in 0..together {
            scope.spawn(|| assert_hello(&gateway.ask("GET", "/together", HOST, &[("Origin", ORIGIN)])));
        }
    });
    // Two simultaneous requests may both find no connection that is free to use.
    assert!(upstream.connections() < together / 2, "{}", upstream.connections());
}

#[test]
fn stream_limit_of_one_opens_more_connections() {
    let (sender, received) = std::sync::mpsc::channel();
    let held = Arc::new(Notify::new());
    let hold = Arc::clone(&held);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let upstream = Http2Upstream::start_with(builder, move |exchange: Http2Exchange| {
        let (sender, hold) = (sender.clone(), Arc::clone(&hold));
        async move {
            if exchange.seen.target == "/held" {
                sender.send(()).unwrap();
                hold.notified().await;
            }
            exchange.answer(200, &[], b"hello").await
        }
    });
    let gateway = gateway_for(upstream.address, "");
    let mut first = Connection::open(gateway.data);
    let ask_held = request("GET", "/held", HOST, &[("Origin", ORIGIN)], b"");
    // The gateway has read the server's stream limit after an answer.
    assert_hello(&first.exchange(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap());
    first.send(&ask_held).unwrap();
    received.recv().unwrap();
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    held.notify_one();
    assert_hello(&first.answer_to(&ask_held).unwrap());
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn clients_that_read_nothing_do_not_block_others() {
    const SLOW: usize = 40;
    let upstream = Http2Upstream::start(|mut exchange: Http2Exchange| async move {
        if exchange.seen.target != "/large" {
            return exchange.answer(200, &[], b"hello").await;
        }
        let mut stream = exchange.begin(200, &[])?;
        loop {
            send(&mut stream, Bytes::from_static(&[0; 64 * 1024])).await?;
        }
    });
    let gateway = gateway_for(upstream.address, "");
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    let slow: Vec<Connection> = (0..SLOW)
        .map(|_| {
            let mut connection = Connection::open(gateway.data);
            connection.send(&request("GET", "/large", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
            connection.head().unwrap();
            connection
        })
        .collect();
    assert_eq!(upstream.connections(), 1, "all requests use one connection");
    for _ in 0..20 {
        let start = Instant::now();
        assert_hello(&ask(&gateway, "GET", b"").unwrap());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
    assert_eq!(upstream.connections(), 1, "the other requests use the same connection");
    drop(slow);
}

#[test]
fn upstream_connection_is_reused_after_trailers() {
    let upstream = Http2Upstream::start(|mut exchange: Http2Exchange| async move {
        let mut stream = exchange.begin(200, &[("content-type", "application/grpc")])?;
        send(&mut stream, "hello".into()).await?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).ok()
    });
    let gateway = gateway_for(upstream.address, "");
    let mut connection = Connection::open(gateway.data);
    for _ in 0..3 {
        let post = request("POST", "/", HOST, &[("Origin", ORIGIN), ("TE", "trailers")], b"");
        assert_hello(&connection.exchange(&post).unwrap());
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn tonic_health_service_answers_through_the_gateway() {
    let (reporter, service) = tonic_health::server::health_reporter();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone())));
        }
    });
    let gateway = gateway_for(address, "");
    // A message without fields: the health of the whole server.
    let fields = [("Origin", ORIGIN), ("Content-Type", "application/grpc"), ("TE", "trailers")];
    let check = request("POST", "/grpc.health.v1.Health/Check", HOST, &fields, &[0; 5]);
    let answer = Connection::ask(gateway.data, &check).unwrap();
    assert_eq!((answer.status, answer.headers.one("content-type")), (200, "application/grpc"), "{answer:?}");
    assert_eq!(answer.body, [0, 0, 0, 0, 2, 8, 1], "SERVING");
    assert_allowed(&answer);
    drop(reporter);
}
