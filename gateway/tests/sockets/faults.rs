//! Upstreams that are down, slow or send invalid answers: 502 or 504 with CORS headers for an
//! allowed page. A truncated answer never ends cleanly.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Exchange, Gateway, HOST, ORIGIN, RecordingUpstream, RefusedAddress, Site, Then, UnansweredAddress,
    WireError, assert_allowed, assert_denied, assert_edge_error, assert_never_readable, config, request, tenant_config,
};

const SHORT: &str = ", timeouts: { connect: 300ms, head: 500ms, idle: 700ms }";

/// Starts the usual tenant, with short timeouts, in front of a server.
fn before(server: SocketAddr) -> Gateway {
    let placeholder = RecordingUpstream::answering("");
    let text = tenant_config(&placeholder, SHORT).replace(&placeholder.address.to_string(), &server.to_string());
    Gateway::start(&config(&text), &[])
}

fn scripted(script: impl Fn(&mut Exchange) -> Then + Send + Sync + 'static) -> Site {
    let upstream = RecordingUpstream::start(script);
    Site { gateway: before(upstream.address), upstream }
}

/// Checks the answer to a fault for an allowed and for a denied origin.
fn assert_fault(gateway: &Gateway, status: u16) {
    let allowed = gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]);
    assert_edge_error(&allowed, status);
    assert_allowed(&allowed);
    let own = gateway.ask("GET", "/", HOST, &[]);
    assert_edge_error(&own, status);
    assert_never_readable(&own);
    assert_eq!(own.headers.vary(), ["origin"]);
    assert_denied(&gateway.ask("GET", "/", HOST, &[("Origin", "https://evil.test")]), "evil");
    let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(gateway.ask("OPTIONS", "/", HOST, &preflight).status, 204);
}

fn within(limit: Duration, what: impl FnOnce()) {
    let begin = Instant::now();
    what();
    assert!(begin.elapsed() < limit, "took {:?}", begin.elapsed());
}

#[test]
fn a_refused_connection_is_a_quick_502() {
    let down = RefusedAddress::new();
    let gateway = before(down.address);
    within(Duration::from_secs(2), || assert_fault(&gateway, 502));
}

#[test]
fn unanswered_connection_attempt_gets_504() {
    let hanging = UnansweredAddress::new();
    let gateway = before(hanging.address);
    let begin = Instant::now();
    let answer = gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]);
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    within(Duration::from_secs(10), || assert_fault(&gateway, answer.status));
}

#[test]
fn upstream_without_answer_gets_504() {
    let site = scripted(|_| Then::Stall);
    let begin = Instant::now();
    assert_fault(&site.gateway, 504);
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn partial_upstream_head_gets_504() {
    let site = scripted(|exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Le");
        Then::Stall
    });
    assert_fault(&site.gateway, 504);
}

#[test]
fn reset_within_upstream_head_gets_502() {
    let site = scripted(|exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Le");
        Then::Reset
    });
    assert_fault(&site.gateway, 502);
}

#[test]
fn invalid_upstream_answer_gets_502() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2 * 1024 * 1024)).into_bytes();
    let cases: Vec<Vec<u8>> = [
        b"".as_slice(),
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"complete nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: nul\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"just a body, as HTTP/0.9 had it",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ]
    .map(<[u8]>::to_vec)
    .into_iter()
    .chain([huge])
    .collect();
    let answers = cases.clone();
    let site = scripted(move |exchange| {
        exchange.read_body();
        let case: usize = exchange.seen.target.trim_start_matches('/').parse().unwrap();
        exchange.write(&answers[case]);
        Then::Close
    });
    for (case, bytes) in cases.iter().enumerate() {
        let answer = site.ask("GET", &format!("/{case}"), &[]);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
        assert_eq!(answer.status, 502, "{shown:?}: {answer:?}");
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
    }
}

#[test]
fn truncated_body_never_ends_cleanly() {
    let cases: [(&[u8], Then); 5] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Then::Close),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Then::Reset),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Then::Stall),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", Then::Close),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", Then::Reset),
    ];
    for (bytes, then) in cases {
        let site = scripted(move |exchange| {
            exchange.read_body();
            exchange.write(bytes);
            then
        });
        let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
        let answer = site.raw(&get);
        match &answer {
            // Detected before the head was forwarded.
            Ok(answer) => {
                assert_edge_error(answer, 502);
                assert_allowed(answer);
            }
            Err(error) => assert!(matches!(error, WireError::Truncated | WireError::Reset), "{error:?}"),
        }
        assert_eq!(site.upstream.count("GET"), 1, "a request with a partial answer was sent again");
        // The head has CORS headers, so the page can read the part that arrived.
        let mut connection = site.connect();
        connection.send(&get).unwrap();
        assert_allowed(&connection.head().unwrap());
    }
}

#[test]
fn connection_with_a_broken_answer_is_not_reused() {
    // The upstream leaves each connection open.
    let broken: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfXX0\r\n\r\n",
    ];
    for bytes in broken {
        let site = scripted(move |exchange| {
            if exchange.seen.target != "/broken" {
                return exchange.answer(200, &[], b"hello");
            }
            exchange.read_body();
            exchange.write(bytes);
            Then::Stall
        });
        let answer = site.raw(&request("GET", "/broken", HOST, &[("Origin", ORIGIN)], b""));
        let is_error = matches!(&answer, Ok(answer) if matches!(answer.status, 502 | 504));
        let is_cut = matches!(answer, Err(WireError::Truncated | WireError::Reset | WireError::Malformed(_)));
        assert!(is_error || is_cut, "{}: {answer:?}", String::from_utf8_lossy(bytes));
        assert_eq!(site.ask("GET", "/", &[]).text(), "hello");
        let seen = site.upstream.seen();
        let of = |target: &str| seen.iter().filter(|seen| seen.target == target).map(|seen| seen.connection).max();
        assert!(of("/") > of("/broken"), "{}: {seen:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn bytes_after_an_upstream_answer_are_discarded() {
    let site = scripted(|exchange| {
        exchange.read_body();
        exchange
            .write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        Then::KeepAlive
    });
    for _ in 0..20 {
        assert_eq!(site.ask("GET", "/", &[]).text(), "ok");
    }
}

#[test]
fn late_bytes_after_an_upstream_answer_are_discarded() {
    let site = scripted(|exchange| {
        exchange.read_body();
        let answer: &[u8] = match &*exchange.seen.target {
            "/empty" => b"HTTP/1.1 204 No Content\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        exchange.write(answer);
        // The client has the answer by now, and the connection is in the idle pool.
        std::thread::sleep(Duration::from_millis(50));
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        Then::KeepAlive
    });
    for round in 0..10 {
        let target = if round % 2 == 0 { "/empty" } else { "/" };
        let answer = site.ask("GET", target, &[]);
        assert!(["", "ok"].contains(&&*answer.text()), "{round}: {answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(site.upstream.connections(), 10, "a connection with late bytes was reused");
}

#[test]
fn closed_idle_upstream_connection_is_replaced() {
    let site = scripted(|exchange| {
        exchange.answer(200, &[], b"hello");
        Then::Close
    });
    for round in 0..50 {
        let answer = site.ask("GET", "/", &[]);
        assert_eq!(answer.text(), "hello", "{round}");
    }
}

#[test]
fn failed_get_has_at_most_two_attempts_and_post_one() {
    let site = scripted(|exchange| {
        exchange.read_body();
        Then::Close
    });
    let ask = |method: &str, body: &[u8]| {
        let answer = site.raw(&request(method, "/", HOST, &[("Origin", ORIGIN)], body)).unwrap();
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
        site.upstream.count(method)
    };
    assert!((1..=2).contains(&ask("GET", b"")));
    assert_eq!(ask("POST", b"once"), 1, "a POST that may have been processed was sent again");
}

#[test]
fn post_on_a_closing_idle_connection_is_sent_once() {
    // The first answer keeps the connection open; it ends when the next request has arrived.
    let site = scripted(|exchange| {
        if exchange.seen.target == "/first" {
            return exchange.answer(200, &[], b"hello");
        }
        exchange.read_body();
        Then::Close
    });
    for end in ["/close", "/again"] {
        let mut connection = site.connect();
        assert_eq!(connection.exchange(&request("GET", "/first", HOST, &[], b"")).unwrap().status, 200);
        let answer = connection.exchange(&request("POST", end, HOST, &[("Origin", ORIGIN)], b"once")).unwrap();
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
    }
    let seen = site.upstream.seen();
    let targets: Vec<&str> = seen.iter().map(|seen| seen.target.as_str()).collect();
    assert_eq!(targets, ["/first", "/close", "/first", "/again"]);
    let connections: Vec<usize> = seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1, 1], "a POST did not use the idle connection");
}

#[test]
fn post_on_a_closed_idle_connection_is_sent_at_most_once() {
    const POSTS: usize = 100;
    let site = scripted(|exchange| {
        exchange.answer(200, &[], b"hello");
        Then::Close
    });
    for round in 0..POSTS {
        let answer = site.raw(&request("POST", &format!("/{round}"), HOST, &[("Origin", ORIGIN)], b"once")).unwrap();
        let came = site.upstream.seen().iter().filter(|seen| seen.target == format!("/{round}")).count();
        match answer.status {
            200 => assert_eq!(came, 1, "{round}"),
            // The POST was sent on a connection that the server had closed, so no server read it.
            _ => {
                assert_edge_error(&answer, 502);
                assert_eq!(came, 0, "{round}");
            }
        }
    }
}

#[test]
fn upstream_that_is_down_leaks_no_descriptors() {
    let down = RefusedAddress::new();
    let gateway = before(down.address);
    let round = || {
        let mut connection = Connection::open(gateway.data);
        let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
        assert_eq!(connection.exchange(&request("OPTIONS", "/", HOST, &preflight, b"")).unwrap().status, 204);
        let answer = connection.exchange(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
        assert_edge_error(&answer, 502);
    };
    let descriptors = || {
        gateway.wait_zero("crossgate_connections_active", &[]);
        gateway.process.entries("fd")
    };
    round();
    let before = descriptors();
    for _ in 0..300 {
        round();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while descriptors() > before {
        assert!(Instant::now() < deadline, "{} descriptors after {before}", descriptors());
    }
}

#[test]
fn server_that_is_down_is_skipped() {
    let (down, up) = (RefusedAddress::new(), RecordingUpstream::answering("hello"));
    let servers = format!("{}, {}", down.address, up.address);
    let text = tenant_config(&up, SHORT).replace(&up.address.to_string(), &servers);
    let gateway = Gateway::start(&config(&text), &[]);
    for _ in 0..20 {
        assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
    }
    assert_eq!(up.count("GET"), 20);
}

#[test]
fn requests_rotate_over_servers() {
    let (one, two) = (RecordingUpstream::answering("one"), RecordingUpstream::answering("two"));
    let servers = format!("{}, {}", one.address, two.address);
    let text = tenant_config(&one, SHORT).replace(&one.address.to_string(), &servers);
    let gateway = Gateway::start(&config(&text), &[]);
    for _ in 0..20 {
        assert_eq!(gateway.ask("GET", "/", HOST, &[]).status, 200);
    }
    assert_eq!((one.count("GET"), two.count("GET")), (10, 10));
}

#[test]
fn recovered_upstream_is_used_at_once() {
    let down = RefusedAddress::new();
    let gateway = before(down.address);
    assert_eq!(gateway.ask("GET", "/", HOST, &[]).status, 502);
    let address = down.address;
    drop(down);
    let _back = RecordingUpstream::start_at(address, |exchange| exchange.answer(200, &[], b"back"));
    assert_eq!(gateway.ask("GET", "/", HOST, &[]).status, 200);
}

#[test]
fn failing_server_is_ejected_and_retried_later() {
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let one = RecordingUpstream::start(move |exchange| match is_broken.load(SeqCst) {
        true => exchange.answer(503, &[], b"not me"),
        false => exchange.answer(200, &[], b"me again"),
    });
    let two = RecordingUpstream::answering("two");
    let servers = format!("{}, {}", one.address, two.address);
    let text = tenant_config(&one, SHORT).replace(&one.address.to_string(), &servers);
    let gateway = Gateway::start(&config(&text), &[]);
    let ask = || gateway.ask("GET", "/", HOST, &[]).status;
    let failed = (0..100).filter(|_| ask() == 503).count();
    // On a slow machine the first ejection may end before all hundred requests are sent.
    assert!((5..=8).contains(&failed), "{failed} of 100");
    assert!(gateway.metric("crossgate_upstream_ejections_total", &[("upstream", "api")]) >= 1.0);
    broken.store(false, SeqCst);
    let deadline = Instant::now() + Duration::from_secs(30);
    let before = one.total();
    while one.total() == before {
        assert!(Instant::now() < deadline, "the ejected server got no further request");
        assert_eq!(ask(), 200);
    }
    for _ in 0..20 {
        assert_eq!(ask(), 200);
    }
    assert!(one.total() >= before + 10, "the server is not back in rotation");
    assert_eq!(gateway.metric("crossgate_upstream_servers_ejected", &[]), 0.0);
}

#[test]
fn retry_budget_limits_retries_to_a_dead_upstream() {
    let (one, two) = (RefusedAddress::new(), RefusedAddress::new());
    let placeholder = RecordingUpstream::answering("");
    let servers = format!("{}, {}", one.address, two.address);
    let text = tenant_config(&placeholder, SHORT).replace(&placeholder.address.to_string(), &servers);
    let gateway = Gateway::start(&config(&text), &[]);
    for _ in 0..2_000 {
        assert_eq!(gateway.ask("GET", "/", HOST, &[]).status, 502);
    }
    let attempts = gateway.metric("crossgate_upstream_errors_total", &[("upstream", "api")]);
    assert!((2_000.0..=2_400.0).contains(&attempts), "{attempts} attempts for 2,000 requests");
}
