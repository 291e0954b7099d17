//! HTTP/2 clients: they get the same answers as HTTP/1.1 clients, and connections end gracefully.
//!
//! The upstream receives clean HTTP/1.1.
mod client;
mod floods;
mod grpc;
mod heads;
mod uploads;
mod waits;

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use h2::Reason;
use rustix::process::Signal;

use crate::support::http2_frames::ENHANCE_YOUR_CALM;
use crate::support::{
    Connection, Gateway, HOST, Http2, ORIGIN, PATIENCE, RawHttp2, RecordingUpstream, Response, Site, Then,
    assert_allowed, assert_denied, assert_edge_error, config, http2_request, request, requests_in, tenant_config,
};

/// The parts of an answer that are equal over both versions: all but connection fields, `Date` and
/// the request id.
fn comparable(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let ids = answer.headers.all("x-request-id");
    let id = ids.first().copied().unwrap_or("none");
    let lines = answer.headers.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut lines: Vec<_> =
        lines.filter(|(name, _)| !["connection", "date", "x-request-id"].contains(&name.as_str())).collect();
    lines.sort();
    (answer.status, lines, answer.text().replace(id, "ID"))
}

#[test]
fn http2_answers_equal_http1_answers() {
    let site = Site::scripted(|exchange| {
        let (len, _) = exchange.read_body();
        let headers = [("Access-Control-Allow-Origin", "*"), ("X-Req", "1"), ("Keep-Alive", "timeout=5")];
        exchange.answer(if len == 0 { 200 } else { 201 }, &headers, b"from the upstream")
    });
    let client = Http2::open(site.gateway.data);
    let evil = "https://evil.test";
    let requested_method = "Access-Control-Request-Method";
    for (method, target, host, headers, body) in [
        ("GET", "/", HOST, &[("Origin", ORIGIN)][..], ""),
        ("GET", "/a/../b?c", HOST, &[], ""),
        ("HEAD", "/", HOST, &[("Origin", ORIGIN)], ""),
        ("POST", "/", HOST, &[("Origin", ORIGIN), ("Content-Length", "4")], "body"),
        ("GET", "/", HOST, &[("Origin", evil)], ""),
        ("HEAD", "/", HOST, &[("Origin", evil)], ""),
        ("POST", "/", HOST, &[("Origin", evil), ("Content-Length", "4")], "body"),
        ("OPTIONS", "/", HOST, &[("Origin", ORIGIN), (requested_method, "PUT")], ""),
        (
            "OPTIONS",
            "/",
            HOST,
            &[("Origin", ORIGIN), (requested_method, "PUT"), ("Access-Control-Request-Headers", "x-api")],
            "",
        ),
        ("OPTIONS", "/", HOST, &[("Origin", ORIGIN), (requested_method, "PATCH")], ""),
        ("OPTIONS", "/", HOST, &[("Origin", evil), (requested_method, "PUT")], ""),
        ("OPTIONS", "/", HOST, &[("Origin", ORIGIN)], ""),
        ("GET", "/", "unknown.test", &[("Origin", ORIGIN)], ""),
        ("GET", "/a%2f../b", HOST, &[("Origin", ORIGIN)], ""),
        ("TRACE", "/", HOST, &[], ""),
    ] {
        let over_2 = client.ask(method, target, host, headers, body.as_bytes());
        let over_2 = over_2.unwrap_or_else(|error| panic!("{method} {target} {headers:?}: {error}"));
        let lines: Vec<_> = headers.iter().copied().filter(|(name, _)| *name != "Content-Length").collect();
        let bytes = request(method, target, host, &lines, body.as_bytes());
        let over_1 = Connection::ask(site.gateway.data, &bytes).unwrap();
        assert_eq!(comparable(&over_2), comparable(&over_1), "{method} {target} {host} {headers:?}");
        assert_eq!(over_2.headers.all("date").len(), 1);
        for hop in ["connection", "keep-alive", "transfer-encoding", "server"] {
            assert!(!over_2.headers.has(hop), "{over_2:?}");
        }
    }
}

#[test]
fn http2_request_is_counted_and_logged_once() {
    let site = Site::start();
    let client = Http2::open(site.gateway.data);
    assert_allowed(&client.ask("GET", "/x?y", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    let labels = [("tenant", "a"), ("kind", "actual"), ("verdict", "allow"), ("reason", "exact")];
    site.gateway.wait_metric("crossgate_requests_total", &labels, 1.0);
    let record = site.gateway.process.stdout_line(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    assert_eq!(
        (&record["protocol"], &record["status"], &record["path"]),
        (&"HTTP/2".into(), &200.into(), &"/x".into())
    );
    assert_eq!(site.gateway.metric("crossgate_http2_connections_total", &[]), 1.0);
    assert_eq!(site.gateway.metric("crossgate_http2_requests_total", &[]), 1.0);
    // A head that is refused before any tenant is known.
    let refused = client.ask("TRACE", "/", HOST, &[], b"").unwrap();
    assert_eq!(refused.status, 405);
    site.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "405")], 1.0);
    assert_eq!(site.gateway.metric("crossgate_requests_total", &[]), 1.0);
    assert_eq!(site.gateway.metric("crossgate_http2_requests_total", &[]), 2.0);
    let id = refused.headers.one("x-request-id").to_owned();
    let record = site.gateway.process.stdout_line(|line| line.contains(&id).then(|| line.to_owned()));
    assert!(record.contains("\"protocol\":\"HTTP/2\""), "{record}");
}

#[test]
fn http2_requests_reach_the_upstream_as_clean_http1() {
    let site = Site::start();
    let client = Http2::open(site.gateway.data);
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-api", "1")];
    client.ask("GET", "/plain", HOST, &fields, b"").unwrap();
    client.ask("PUT", "/sized", HOST, &[("content-length", "5")], b"hello").unwrap();
    client.ask("PUT", "/unsized", HOST, &[], b"hello").unwrap();
    let seen = site.upstream.seen();
    assert_eq!(seen[0].headers.one("cookie"), "a=1; b=2");
    assert_eq!(seen[0].headers.one("host"), HOST);
    assert!(!seen[0].headers.has("te") && !seen[0].headers.has("transfer-encoding"), "{seen:?}");
    assert_eq!(seen[1].headers.one("content-length"), "5");
    assert_eq!(seen[2].headers.one("transfer-encoding"), "chunked");
    let requests: Vec<_> =
        site.upstream.raw().iter().flat_map(|bytes| requests_in(bytes).expect("whole requests")).collect();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().filter(|request| request.method == "PUT").all(|request| request.body == "hello"));
}

#[test]
fn concurrent_streams_are_served_in_parallel() {
    let site = Site::scripted(|exchange| {
        // Answers only after all requests have arrived.
        static ALL: std::sync::Barrier = std::sync::Barrier::new(20);
        ALL.wait();
        exchange.answer(200, &[], b"hello")
    });
    let client = Http2::open(site.gateway.data);
    let requests: Vec<_> =
        (0..20).map(|_| client.begin(http2_request("GET", "/", HOST, &[("Origin", ORIGIN)]), true).unwrap()).collect();
    for one in requests {
        assert_allowed(&client.answer(one.answer).unwrap());
    }
    assert_eq!(site.gateway.metric("crossgate_connections_total", &[]), 1.0);
}

#[test]
fn interim_responses_are_forwarded_and_expect_continue_gets_100() {
    let site = Site::scripted(|exchange| {
        assert!(!exchange.seen.headers.has("expect"), "{:?}", exchange.seen);
        let (_, body) = exchange.read_body();
        exchange.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nAccess-Control-Allow-Origin: *\r\n\r\n");
        exchange.answer(200, &[], &body)
    });
    let client = Http2::open(site.gateway.data);
    let expecting = http2_request("PUT", "/", HOST, &[("expect", "100-continue"), ("content-length", "5")]);
    let mut open = client.begin(expecting, false).unwrap();
    let interim = |open: &mut crate::support::OpenRequest| {
        client.block_on(std::future::poll_fn(|cx| open.answer.poll_informational(cx))).unwrap().unwrap()
    };
    assert_eq!(interim(&mut open).status(), 100);
    open.body.send_data("hello".into(), true).unwrap();
    let hints = interim(&mut open);
    assert_eq!((hints.status().as_u16(), hints.headers().len()), (103, 1), "{hints:?}");
    assert_eq!(client.answer(open.answer).unwrap().text(), "hello");
}

#[test]
fn listener_with_http2_disabled_rejects_the_preface() {
    let upstream = RecordingUpstream::answering("hello");
    let text = config(&tenant_config(&upstream, ""))
        .replace("  - address: 127.0.0.1:0\n", "  - { address: 127.0.0.1:0, http2: false }\n");
    let gateway = Gateway::start(&text, &[]);
    let answer = Connection::ask(gateway.data, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(gateway.metric("crossgate_http2_connections_total", &[]), 0.0);
}

#[test]
fn open_http2_connection_uses_the_reloaded_policy() {
    let site = Site::start();
    let client = Http2::open(site.gateway.data);
    let ask = || client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap();
    for _ in 0..5 {
        assert_allowed(&ask());
        let path = site.gateway.path("crossgate.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("https://app.a.test", "https://other.a.test")).unwrap();
        assert_eq!(site.gateway.admin("POST", "/reload").status, 200);
        assert_denied(&ask(), ORIGIN);
        std::fs::write(&path, text).unwrap();
        assert_eq!(site.gateway.admin("POST", "/reload").status, 200);
    }
    assert_eq!(site.gateway.metric("crossgate_connections_total", &[]), 1.0);
}

#[test]
fn keep_alive_limit_ends_http2_connection_gracefully() {
    let site = Site::with_upstream(RecordingUpstream::answering("hello"), "limits: { keepAliveRequests: 5 }\n");
    let mut client = Http2::open(site.gateway.data);
    for _ in 0..5 {
        assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    }
    client.wait_for_end().unwrap();
    site.gateway.wait_zero("crossgate_connections_active", &[]);
    assert_eq!(site.gateway.metric("crossgate_connections_closed_early_total", &[]), 0.0);
}

#[test]
fn http2_connection_over_the_limit_gets_goaway() {
    let site = Site::with_upstream(RecordingUpstream::answering("hello"), "limits: { maxConnections: 1 }\n");
    let first = Http2::open(site.gateway.data);
    assert_allowed(&first.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
    let mut second = RawHttp2::open(site.gateway.data, &[]);
    assert_eq!(second.goaway_code(), Some(ENHANCE_YOUR_CALM));
    site.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "503")], 1.0);
    assert_eq!(site.upstream.total(), 1);
}

#[test]
fn concurrent_http2_requests_count_towards_max_connections() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let upstream = RecordingUpstream::start(move |exchange| {
        released.lock().unwrap().recv().unwrap();
        exchange.answer(200, &[], b"hello")
    });
    let site = Site::with_upstream(upstream, "limits: { maxConnections: 3 }\n");
    let client = Http2::open(site.gateway.data);
    let begin = || client.begin(http2_request("GET", "/", HOST, &[("Origin", ORIGIN)]), true).unwrap().answer;
    let running = [begin(), begin(), begin()];
    let too_many = client.answer(begin()).unwrap();
    assert_edge_error(&too_many, 503);
    site.gateway.wait_metric("crossgate_requests_refused_total", &[("status", "503")], 1.0);
    // Each release lets one of the running requests finish.
    (0..running.len()).for_each(|_| release.send(()).unwrap());
    for answer in running {
        assert_allowed(&client.answer(answer).unwrap());
    }
    // A request counts until the work after its answer is done.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = begin();
        let _released = release.send(());
        let answer = client.answer(answer).unwrap();
        if answer.status == 200 {
            return assert_allowed(&answer);
        }
        assert!(answer.status == 503 && Instant::now() < deadline, "{answer:?}");
    }
}

#[test]
fn idle_http2_connection_does_not_delay_shutdown() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::start();
        let mut client = Http2::open(site.gateway.data);
        assert_allowed(&client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap());
        // A connection without requests that ignores GOAWAY.
        let _silent = RawHttp2::open(site.gateway.data, &[]);
        site.gateway.process.signal(signal);
        let status = site.gateway.process.wait_at_most(Duration::from_secs(2));
        assert_eq!(status.code(), Some(0), "{}", site.gateway.process.stderr());
        if signal == Signal::TERM {
            client.wait_for_end().unwrap();
        }
    }
}

#[test]
fn shutdown_finishes_running_http2_response_and_closes_connection() {
    let ((arrived, arrivals), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let mut site = Site::scripted(move |exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        arrived.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        exchange.write(b" done");
        Then::KeepAlive
    });
    let mut client = Http2::open(site.gateway.data);
    let open = client.begin(http2_request("GET", "/", HOST, &[("Origin", ORIGIN)]), true).unwrap();
    arrivals.recv_timeout(PATIENCE).unwrap();
    site.gateway.process.signal(Signal::TERM);
    // GOAWAY refuses new requests, so a refused request was certainly not processed (RFC 9113,
    // section 6.8).
    let mut refused = None;
    let deadline = Instant::now() + PATIENCE;
    while refused.is_none() {
        assert!(Instant::now() < deadline, "no GOAWAY arrived");
        let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
        refused = client.ask("OPTIONS", "/", HOST, &preflight, b"").err();
    }
    assert_eq!(refused.unwrap().reason(), Some(Reason::NO_ERROR));
    assert!(site.gateway.process.is_running());
    release.send(()).unwrap();
    let answer = client.answer(open.answer).unwrap();
    assert_allowed(&answer);
    assert_eq!(answer.text(), "half done");
    client.wait_for_end().unwrap();
    assert_eq!(site.gateway.process.wait_at_most(Duration::from_secs(7)).code(), Some(0));
}
