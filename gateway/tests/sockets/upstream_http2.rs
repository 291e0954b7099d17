//! Upstreams that speak HTTP/2: what they are sent, what becomes of what they send, and what when they break off.
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
    CANCEL, DATA, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, RST_STREAM,
};
use crate::support::{
    Asked, Connection, FrameConnection, FrameUpstream, Gateway, HOST, Http2Upstream, ORIGIN, RecordingUpstream,
    Response, WireError, assert_allowed, assert_edge_error, assert_never_readable, config, handshake, request, send,
    tenant_config_at,
};

const SHORT: &str = ", timeouts: { connect: 1s, head: 700ms, idle: 700ms }";

fn before(server: SocketAddr, options: &str) -> Gateway {
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

/// An upstream that does this with every request, on each connection one after the other.
fn frames(answer: impl Fn(&mut FrameConnection, u32) -> Option<()> + Send + Sync + 'static) -> FrameUpstream {
    FrameUpstream::start(move |connection| {
        loop {
            let stream = connection.next_request()?;
            answer(connection, stream)?;
        }
    })
}

#[test]
fn a_request_arrives_as_one_of_http2() {
    let upstream = Http2Upstream::answering("hello");
    let gateway = before(upstream.address, "");
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
    // Whatever its form, a target is one of a path.
    let absolute = format!("OPTIONS http://{HOST}/c HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(Connection::ask(gateway.data, absolute.as_bytes()).unwrap().status, 200);
    assert_eq!(gateway.ask("OPTIONS", "*", HOST, &[]).status, 200);
    let targets: Vec<String> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/b?q=1", "/c", "*"]);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn the_configured_host_is_the_authority() {
    let upstream = Http2Upstream::answering("hello");
    let gateway = before(upstream.address, ", host: internal.test");
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    assert_eq!(upstream.uris()[0].authority().unwrap(), "internal.test");
    assert_eq!(upstream.seen()[0].headers.one("x-forwarded-host"), HOST);
}

#[test]
fn its_own_cors_fields_reach_nobody() {
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
    let gateway = before(upstream.address, "");
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
fn bodies_go_both_ways() {
    let upstream = Http2Upstream::start(|mut asked: Asked| async move {
        let (body, _) = asked.read_body().await?;
        let mut stream = asked.begin(200, &[])?;
        send(&mut stream, body.into()).await?;
        stream.send_data(Bytes::new(), true).ok()
    });
    let gateway = before(upstream.address, "");
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
fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let upstream = Http2Upstream::start(|mut asked: Asked| async move {
        assert!(!asked.seen.headers.has("expect"));
        let (body, _) = asked.read_body().await?;
        asked.answer(200, &[], &body).await
    });
    let gateway = before(upstream.address, "");
    let head =
        request("POST", "/", HOST, &[("Origin", ORIGIN), ("Expect", "100-continue"), ("Content-Length", "5")], b"");
    let mut connection = Connection::open(gateway.data);
    connection.send(&head).unwrap();
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send(b"hello").unwrap();
    assert_hello(&connection.answer_to(&head).unwrap());
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let upstream = Http2Upstream::start(|mut asked: Asked| async move {
        let mut stream = asked.begin(200, &[])?;
        send(&mut stream, "hello".into()).await?;
        stream.send_data(Bytes::new(), true).ok()
    });
    let gateway = before(upstream.address, "");
    let old = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
    let answer = Connection::ask(gateway.data, old.as_bytes()).unwrap();
    assert_eq!(answer.text(), "hello");
    assert!(!answer.headers.has("transfer-encoding") && !answer.headers.has("content-length"), "{answer:?}");
    assert_eq!(answer.headers.one("connection"), "close");
}

#[test]
fn a_websocket_is_refused_where_there_is_http2_alone() {
    let upstream = Http2Upstream::answering("hello");
    let gateway = before(upstream.address, "");
    let answer = Connection::ask(gateway.data, &handshake(ORIGIN)).unwrap();
    assert_edge_error(&answer, 501);
    assert!(answer.text().contains("no_websockets"), "{answer:?}");
    assert_eq!(upstream.seen().len(), 0);
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
}

#[test]
fn a_server_of_http1_is_told_apart() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(400, &[], b""));
    let gateway = before(upstream.address, ", attempts: 1");
    let answer = ask(&gateway, "GET", b"").unwrap();
    assert_edge_error(&answer, 502);
    assert_allowed(&answer);
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "invalid")], 1.0);
}

#[test]
fn an_answer_that_breaks_off_never_ends_cleanly() {
    type Break = fn(&mut FrameConnection, u32) -> Option<()>;
    let breaks: [Break; 8] = [
        |connection, stream| connection.reset(stream, INTERNAL_ERROR),
        |connection, stream| connection.reset(stream, CANCEL),
        // RFC 9113, section 8.1: of no meaning before the end.
        |connection, stream| connection.reset(stream, NO_ERROR),
        |connection, _| connection.go_away(0, NO_ERROR),
        |connection, _| connection.go_away(u32::MAX >> 1, INTERNAL_ERROR).and(None),
        |_, _| None,
        // Less than the length that was told, or none.
        |connection, stream| connection.send(DATA, END_STREAM, stream, b""),
        |_, _| Some(()),
    ];
    for (nth, end) in breaks.into_iter().enumerate() {
        let upstream = frames(move |connection, stream| {
            connection.send_head(0, stream, "200", &[("content-length", "9")])?;
            connection.send(DATA, 0, stream, b"half")?;
            end(connection, stream)
        });
        let gateway = before(upstream.address, SHORT);
        match ask(&gateway, "GET", b"") {
            Ok(answer) => {
                assert_edge_error(&answer, 502);
                assert_allowed(&answer);
            }
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{nth}: {error:?}"),
        }
        // Chunked, it lacks its last chunk.
        let upstream = frames(move |connection, stream| {
            connection.send_head(0, stream, "200", &[])?;
            connection.send(DATA, 0, stream, b"half")?;
            if nth == 6 { None } else { end(connection, stream) }
        });
        let gateway = before(upstream.address, SHORT);
        match ask(&gateway, "GET", b"") {
            Ok(answer) => assert_edge_error(&answer, 502),
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{nth}: {error:?}"),
        }
    }
}

#[test]
fn heads_that_are_none_are_a_502() {
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
        let (shown, told) = (format!("{status} {:.80}", format!("{fields:?}")), fields.clone());
        let upstream = frames(move |connection, stream| {
            let fields: Vec<(&str, &str)> = told.iter().map(|(name, value)| (&**name, &**value)).collect();
            connection.send_head(0, stream, status, &fields)?;
            connection.send(DATA, END_STREAM, stream, b"hello")
        });
        let gateway = before(upstream.address, ", attempts: 1");
        let answer = ask(&gateway, "GET", b"").unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        assert_eq!(answer.status, 502, "{shown}: {answer:?}");
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
    }
}

#[test]
fn a_length_without_a_body_is_no_answer_but_to_head() {
    let upstream =
        frames(|connection, stream| connection.send_head(END_STREAM, stream, "200", &[("content-length", "5")]));
    let gateway = before(upstream.address, ", attempts: 1");
    assert_edge_error(&ask(&gateway, "GET", b"").unwrap(), 502);
    let head = gateway.ask("HEAD", "/", HOST, &[]);
    assert_eq!((head.status, head.headers.one("content-length")), (200, "5"));
}

#[test]
fn what_was_not_begun_is_asked_again_whatever_it_is() {
    type Refuse = fn(&mut FrameConnection, u32) -> Option<()>;
    let ways: [Refuse; 3] = [
        |connection, stream| connection.reset(stream, REFUSED_STREAM),
        |connection, _| connection.go_away(0, NO_ERROR),
        |connection, _| connection.go_away(0, INTERNAL_ERROR),
    ];
    for refuse in ways {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let upstream = frames(move |connection, stream| match counted.fetch_add(1, SeqCst) {
            0 => refuse(connection, stream),
            _ => connection.send_hello(stream),
        });
        let gateway = before(upstream.address, "");
        assert_hello(&ask(&gateway, "POST", b"once").unwrap());
        assert_eq!(asked.load(SeqCst), 2);
        assert_hello(&ask(&gateway, "POST", b"twice").unwrap());
        gateway.wait_metric("crossgate_upstream_servers_ejected", &[], 0.0);
    }
}

#[test]
fn what_may_have_been_done_is_asked_again_where_that_does_no_harm() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let upstream = frames(move |connection, stream| {
        counted.fetch_add(1, SeqCst);
        connection.reset(stream, INTERNAL_ERROR)
    });
    let gateway = before(upstream.address, "");
    let count = |method: &str| {
        let answer = ask(&gateway, method, b"").unwrap();
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
        asked.swap(0, SeqCst)
    };
    assert_eq!(count("POST"), 1);
    assert_eq!(count("GET"), 2);
    assert_eq!(upstream.connections(), 1, "it is the stream that failed");
}

#[test]
fn a_server_that_refuses_all_is_not_asked_without_end() {
    let upstream = frames(|connection, stream| connection.reset(stream, REFUSED_STREAM));
    let gateway = before(upstream.address, "");
    for _ in 0..3 {
        assert_edge_error(&ask(&gateway, "POST", b"").unwrap(), 502);
    }
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "reset")], 6.0);
}

#[test]
fn a_connection_that_ended_between_two_requests_is_replaced_unnoticed() {
    let upstream = FrameUpstream::start(|connection| {
        let stream = connection.next_request()?;
        connection.send_hello(stream)?;
        connection.go_away(stream, NO_ERROR)
    });
    let gateway = before(upstream.address, "");
    for round in 0..20 {
        assert_eq!(ask(&gateway, "GET", b"").unwrap().text(), "hello", "{round}");
    }
}

#[test]
fn silence_has_its_limits() {
    let (said, heard) = std::sync::mpsc::channel();
    let upstream = FrameUpstream::start(move |connection| {
        let stream = connection.next_request()?;
        if connection.number == 1 {
            connection.send_head(0, stream, "200", &[])?;
            connection.send(DATA, 0, stream, b"half")?;
        }
        let reset = connection.next_of(RST_STREAM)?;
        said.send((reset.stream == stream, reset.payload)).unwrap();
        None
    });
    let gateway = before(upstream.address, SHORT);
    let begun = Instant::now();
    let answer = ask(&gateway, "GET", b"").unwrap();
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert_eq!(heard.recv().unwrap(), (true, CANCEL.to_be_bytes().to_vec()), "the upstream is let go");
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "head_timeout")], 1.0);
    let cut = ask(&gateway, "GET", b"");
    assert!(matches!(cut, Err(WireError::Truncated | WireError::Reset)), "{cut:?}");
    gateway.wait_metric("crossgate_upstream_errors_total", &[("kind", "idle_timeout")], 1.0);
    assert_eq!(heard.recv().unwrap(), (true, CANCEL.to_be_bytes().to_vec()));
}

#[test]
fn a_client_that_goes_away_lets_the_upstream_go() {
    let (said, heard) = std::sync::mpsc::channel();
    let upstream = FrameUpstream::start(move |connection| {
        let stream = connection.next_request()?;
        said.send(Vec::new()).unwrap();
        said.send(connection.next_of(RST_STREAM)?.payload).unwrap();
        connection.next_request().filter(|next| *next > stream).and_then(|next| connection.send_hello(next))
    });
    let gateway = before(upstream.address, "");
    let mut connection = Connection::open(gateway.data);
    connection.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    heard.recv().unwrap();
    drop(connection);
    assert_eq!(heard.recv().unwrap(), CANCEL.to_be_bytes());
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    assert_eq!(upstream.connections(), 1, "others go on over the same connection");
}

#[test]
fn an_upload_that_is_not_taken_ends() {
    let upstream = FrameUpstream::start(|connection| {
        connection.next_of(HEADERS)?;
        // No window is ever opened again.
        while connection.next().is_some() {}
        None
    });
    let gateway = before(upstream.address, &format!("{SHORT}, attempts: 1"));
    let begun = Instant::now();
    let body = vec![b'x'; 4 << 20];
    let mut connection = Connection::open(gateway.data);
    let _partly = connection.send(&request("POST", "/", HOST, &[("Origin", ORIGIN)], &body));
    match connection.answer_to(b"POST") {
        Ok(answer) => assert!(matches!(answer.status, 502 | 504), "{answer:?}"),
        Err(error) => {
            assert!(matches!(error, WireError::Closed | WireError::Truncated | WireError::Reset), "{error:?}")
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    gateway.wait_gone("crossgate_connections_active", &[]);
}

#[test]
fn many_requests_share_a_connection() {
    let (together, all) = (40, Arc::new(Notify::new()));
    let (waiting, ring) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&all));
    let upstream = Http2Upstream::start(move |asked: Asked| {
        let (waiting, ring) = (Arc::clone(&waiting), Arc::clone(&ring));
        async move {
            if asked.seen.target == "/together" {
                let rung = ring.notified();
                if waiting.fetch_add(1, SeqCst) + 1 == together {
                    ring.notify_waiters();
                } else {
                    rung.await;
                }
            }
            asked.answer(200, &[], b"hello").await
        }
    });
    let gateway = before(upstream.address, "");
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    thread::scope(|scope| {
        for _ in 0..together {
            scope.spawn(|| assert_hello(&gateway.ask("GET", "/together", HOST, &[("Origin", ORIGIN)])));
        }
    });
    // Two who come at the same moment may each find the connection in the other's hands.
    assert!(upstream.connections() < together / 2, "{}", upstream.connections());
}

#[test]
fn a_server_that_takes_one_at_a_time_is_asked_over_more_connections() {
    let (said, heard) = std::sync::mpsc::channel();
    let held = Arc::new(Notify::new());
    let hold = Arc::clone(&held);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let upstream = Http2Upstream::start_with(builder, move |asked: Asked| {
        let (said, hold) = (said.clone(), Arc::clone(&hold));
        async move {
            if asked.seen.target == "/held" {
                said.send(()).unwrap();
                hold.notified().await;
            }
            asked.answer(200, &[], b"hello").await
        }
    });
    let gateway = before(upstream.address, "");
    let mut first = Connection::open(gateway.data);
    let ask_held = request("GET", "/held", HOST, &[("Origin", ORIGIN)], b"");
    // What the server allows is known after an answer.
    assert_hello(&first.exchange(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap());
    first.send(&ask_held).unwrap();
    heard.recv().unwrap();
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    held.notify_one();
    assert_hello(&first.answer_to(&ask_held).unwrap());
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn clients_that_take_nothing_hold_up_nobody_else() {
    const SLOW: usize = 40;
    let upstream = Http2Upstream::start(|mut asked: Asked| async move {
        if asked.seen.target != "/large" {
            return asked.answer(200, &[], b"hello").await;
        }
        let mut stream = asked.begin(200, &[])?;
        loop {
            send(&mut stream, Bytes::from_static(&[0; 64 * 1024])).await?;
        }
    });
    let gateway = before(upstream.address, "");
    assert_hello(&ask(&gateway, "GET", b"").unwrap());
    let slow: Vec<Connection> = (0..SLOW)
        .map(|_| {
            let mut connection = Connection::open(gateway.data);
            connection.send(&request("GET", "/large", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
            connection.head().unwrap();
            connection
        })
        .collect();
    assert_eq!(upstream.connections(), 1, "all on one connection");
    for _ in 0..20 {
        let begun = Instant::now();
        assert_hello(&ask(&gateway, "GET", b"").unwrap());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    assert_eq!(upstream.connections(), 1, "and the others too");
    drop(slow);
}

#[test]
fn trailers_are_read_to_their_end_and_the_connection_used_on() {
    let upstream = Http2Upstream::start(|mut asked: Asked| async move {
        let mut stream = asked.begin(200, &[("content-type", "application/grpc")])?;
        send(&mut stream, "hello".into()).await?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).ok()
    });
    let gateway = before(upstream.address, "");
    let mut connection = Connection::open(gateway.data);
    for _ in 0..3 {
        let asked = request("POST", "/", HOST, &[("Origin", ORIGIN), ("TE", "trailers")], b"");
        assert_hello(&connection.exchange(&asked).unwrap());
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_grpc_service_of_somebody_elses_making_answers() {
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
    let gateway = before(address, "");
    // A message of no fields: the whole server's health.
    let fields = [("Origin", ORIGIN), ("Content-Type", "application/grpc"), ("TE", "trailers")];
    let check = request("POST", "/grpc.health.v1.Health/Check", HOST, &fields, &[0; 5]);
    let answer = Connection::ask(gateway.data, &check).unwrap();
    assert_eq!((answer.status, answer.headers.one("content-type")), (200, "application/grpc"), "{answer:?}");
    assert_eq!(answer.body, [0, 0, 0, 0, 2, 8, 1], "SERVING");
    assert_allowed(&answer);
    drop(reporter);
}
