//! Timeouts over HTTP/2: silent upstreams, clients that send or read too slowly, idle clients, and
//! clients that leave.

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use h2::Reason;
use h2::client::Builder;

use crate::support::http2_frames::PREFACE;
use crate::support::{
    Connection, Gateway, HOST, Http2, LARGE_LEN, ORIGIN, PATIENCE, RecordingUpstream, Sink, Site, Then, assert_allowed,
    assert_edge_error, config, http2_request, tenant_config,
};

const CLOSED_EARLY: &str = "crossgate_connections_closed_early_total";
/// Short upstream timeouts.
const SHORT: &str = ", timeouts: { connect: 300ms, head: 500ms, idle: 700ms }";

fn get() -> http::Request<()> {
    http2_request("GET", "/", HOST, &[("Origin", ORIGIN)])
}

/// A site with short upstream timeouts.
fn with_short_timeouts(upstream: RecordingUpstream) -> Site {
    let gateway = Gateway::start(&config(&tenant_config(&upstream, SHORT)), &[]);
    Site { gateway, upstream }
}

#[test]
fn head_timeout_is_504_on_its_own_stream_only() {
    let site = with_short_timeouts(RecordingUpstream::start(|exchange| match exchange.seen.target.as_str() {
        "/never" => Then::Stall,
        _ => exchange.answer(200, &[], b"hello"),
    }));
    let client = Http2::open(site.gateway.data);
    let never = client.begin(http2_request("GET", "/never", HOST, &[("Origin", ORIGIN)]), true).unwrap();
    assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    let answer = client.answer(never.answer).unwrap();
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
    assert_eq!(client.ask("HEAD", "/never", HOST, &[], b"").unwrap().status, 504);
    assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    assert_eq!(site.gateway.metric("crossgate_connections_total", &[]), 1.0);
    assert_eq!(site.gateway.metric("crossgate_upstream_errors_total", &[("kind", "head_timeout")]), 2.0);
}

#[test]
fn truncated_upstream_response_resets_the_http2_stream() {
    let cases: [(&[u8], Then); 4] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Then::Close),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Then::Reset),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Then::Stall),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", Then::Close),
    ];
    for (bytes, then) in cases {
        let site = with_short_timeouts(RecordingUpstream::start(move |exchange| {
            if exchange.seen.target == "/good" {
                return exchange.answer(200, &[], b"hello");
            }
            exchange.read_body();
            exchange.write(bytes);
            then
        }));
        let client = Http2::open(site.gateway.data);
        match client.answer(client.begin(get(), true).unwrap().answer) {
            Ok(answer) => assert_edge_error(&answer, 502),
            Err(error) => assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{error}"),
        }
        assert_eq!(client.ask("GET", "/good", HOST, &[], b"").unwrap().text(), "hello");
        assert!(site.upstream.connections() > 1, "the broken connection is not reused");
    }
}

#[test]
fn slow_http2_request_body_gets_408() {
    let site = Site::with_upstream(RecordingUpstream::answering("hello"), "limits: { minBodyRateAfter: 1s }\n");
    let client = Http2::open(site.gateway.data);
    let put = http2_request("PUT", "/", HOST, &[("Origin", ORIGIN), ("content-length", "60000")]);
    let mut open = client.begin(put, false).unwrap();
    open.body.send_data("some".into(), false).unwrap();
    let answer = client.answer(open.answer).unwrap();
    assert_edge_error(&answer, 408);
    site.gateway.wait_metric(CLOSED_EARLY, &[("reason", "slow_body")], 1.0);
    assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
}

#[test]
fn denied_http2_upload_is_answered_before_its_body() {
    let site = Site::start();
    let client = Http2::open(site.gateway.data);
    let put = http2_request("PUT", "/", HOST, &[("Origin", "https://evil.test"), ("content-length", "60000")]);
    let mut open = client.begin(put, false).unwrap();
    open.body.send_data("some".into(), false).unwrap();
    assert_eq!(client.answer(open.answer).unwrap().status, 403);
    // RST_STREAM with NO_ERROR stops the rest of the body: RFC 9113, section 8.1.
    let reset = client.block_on(std::future::poll_fn(|cx| open.body.poll_reset(cx))).unwrap();
    assert_eq!(reset, Reason::NO_ERROR);
    assert_eq!(site.upstream.total(), 0);
}

#[test]
fn write_stall_resets_only_its_own_stream() {
    let sink = Sink::start();
    let unused = RecordingUpstream::answering("");
    let text = tenant_config(&unused, "").replace(&unused.address.to_string(), &sink.address.to_string());
    let gateway = Gateway::start(&config(&format!("{text}limits: {{ writeStall: 1s }}\n")), &[]);
    let client = Http2::open_with(gateway.data, Builder::new().initial_connection_window_size(64 << 20));
    let open = client.begin(http2_request("GET", "/large", HOST, &[("Origin", ORIGIN)]), true).unwrap();
    let (head, mut body) = client.head(open.answer).unwrap();
    assert_allowed(&head);
    let other = client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap();
    assert_eq!(other.text(), "hello");
    gateway.wait_metric(CLOSED_EARLY, &[("reason", "write_stall")], 1.0);
    let mut taken = 0;
    let error = loop {
        match client.block_on(body.data()) {
            Some(Ok(piece)) => taken += piece.len(),
            Some(Err(error)) => break error,
            None => panic!("a clean end after {taken} bytes"),
        }
    };
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{error}");
    assert!(taken < LARGE_LEN);
    // A client that reads gets the whole body.
    let whole = client.ask("GET", "/large", HOST, &[("Origin", ORIGIN)], b"").unwrap();
    assert_eq!(whole.body.len(), LARGE_LEN);
}

#[test]
fn http2_connection_without_requests_is_closed_when_idle() {
    let site = Site::with_upstream(RecordingUpstream::answering("hello"), "limits: { http2Idle: 1s }\n");
    for asks in [false, true] {
        let mut client = Http2::open(site.gateway.data);
        if asks {
            assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
        }
        client.wait_for_end().unwrap();
    }
    site.gateway.wait_metric(CLOSED_EARLY, &[("reason", "idle")], 2.0);
    site.gateway.wait_zero("crossgate_connections_active", &[]);
}

#[test]
fn http2_connection_with_a_running_request_is_not_idle() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let upstream = RecordingUpstream::start(move |exchange| {
        released.lock().unwrap().recv().unwrap();
        exchange.answer(200, &[], b"hello")
    });
    let site = Site::with_upstream(upstream, "limits: { http2Idle: 1s }\n");
    let client = Http2::open(site.gateway.data);
    let mut open = client.begin(get(), true).unwrap();
    assert!(client.is_pending_for(Duration::from_millis(2_500), &mut open.answer));
    release.send(()).unwrap();
    assert_allowed(&client.answer(open.answer).unwrap());
}

#[test]
fn incomplete_preface_is_closed_after_the_head_timeout() {
    let site = Site::with_upstream(RecordingUpstream::answering("hello"), "limits: { head: 1s }\n");
    for part in [&PREFACE[..10], &PREFACE[..16], &PREFACE[..20]] {
        let mut connection = Connection::open(site.gateway.data);
        let began = Instant::now();
        connection.send(part).unwrap();
        let mut received = Vec::new();
        let _ended = std::io::Read::read_to_end(&mut connection.stream, &mut received);
        assert!(began.elapsed() < PATIENCE, "{part:?}");
    }
    site.gateway.wait_zero("crossgate_connections_active", &[]);
    assert_eq!(site.upstream.total(), 0);
}

#[test]
fn leaving_http2_client_is_counted_and_its_upstream_request_ends() {
    let ((arrived, arrivals), (ended, ends)) = (mpsc::channel(), mpsc::channel());
    let (arrived, ended) = (Mutex::new(arrived), Mutex::new(ended));
    let site = Site::scripted(move |exchange| {
        if exchange.seen.target == "/answered" {
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        }
        arrived.lock().unwrap().send(()).unwrap();
        exchange.wait_for_end();
        ended.lock().unwrap().send(()).unwrap();
        Then::Close
    });
    let mut left = 0.0;
    for target in ["/", "/answered", "/uploading"] {
        for closes in [false, true] {
            let client = Http2::open(site.gateway.data);
            let fields = [("Origin", ORIGIN), ("content-length", "9")];
            let is_upload = target == "/uploading";
            let method = if is_upload { "PUT" } else { "GET" };
            let fields = &fields[..1 + usize::from(is_upload)];
            let mut open = client.begin(http2_request(method, target, HOST, fields), !is_upload).unwrap();
            if is_upload {
                open.body.send_data("half".into(), false).unwrap();
            }
            arrivals.recv_timeout(PATIENCE).expect("the request reaches the upstream");
            match closes {
                true => drop((open, client)),
                false => {
                    open.body.send_reset(Reason::CANCEL);
                    ends.recv_timeout(PATIENCE)
                        .unwrap_or_else(|_| panic!("{target}: the upstream connection stays open"));
                    drop(client);
                }
            }
            if closes {
                ends.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{target}: the upstream connection stays open"));
            }
            left += 1.0;
            site.gateway.wait_metric(CLOSED_EARLY, &[("reason", "client_gone")], left);
            site.gateway.wait_zero("crossgate_connections_active", &[]);
        }
    }
    assert_eq!(site.gateway.metric(CLOSED_EARLY, &[]), left);
    assert_eq!(site.gateway.metric("crossgate_upstream_errors_total", &[]), 0.0);
    assert_eq!(site.gateway.metric("crossgate_requests_total", &[]), left);
}
