//! What is for one hop alone: framing on both sides, upgrades, retries, the end of connections.
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, RefusedAddress, Site, Then, WireError, assert_allowed,
    assert_edge_error, config, request, tenant_config,
};

/// An upstream that answers every request with these bytes.
fn answering(bytes: &'static [u8]) -> Site {
    Site::scripted(move |exchange| {
        exchange.read_body();
        exchange.write(bytes);
        Then::Close
    })
}

fn get(headers: &[(&str, &str)]) -> Vec<u8> {
    request("GET", "/", HOST, headers, b"")
}

#[test]
fn a_retry_goes_to_another_server_however_many_ask_at_once() {
    let down = RefusedAddress::new();
    let upstream = RecordingUpstream::answering("hello");
    let servers = format!("[{}, {}]", down.address, upstream.address);
    let text = tenant_config(&upstream, "").replace(&format!("[{}]", upstream.address), &servers);
    let gateway = Gateway::start(&config(&text), &[]);
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..4 {
                    assert_eq!(gateway.ask("GET", "/", HOST, &[]).status, 200);
                }
            });
        }
    });
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks_and_no_interim_heads() {
    let site = answering(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
          HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let mut connection = site.connect();
    let old = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n");
    let answer = connection.exchange(old.as_bytes()).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()), "{answer:?}");
    assert!(answer.interim.is_empty() && !answer.headers.has("transfer-encoding"), "{answer:?}");
    assert_eq!(answer.headers.all("connection"), ["close"]);
    assert!(!site.upstream.seen()[0].headers.has("expect"));
}

#[test]
fn ambiguous_framing_of_an_upstream_is_a_502() {
    for fields in [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 2, 5",
        "Content-Length: 2\r\nContent-Length: 5",
    ] {
        let site = Site::scripted(move |exchange| {
            exchange.write(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok").as_bytes());
            Then::Close
        });
        let answer = site.ask("GET", "/", &[]);
        assert_edge_error(&answer, 502);
        assert_allowed(&answer);
    }
}

#[test]
fn clumsy_framing_of_an_upstream_is_made_plain() {
    for fields in ["Content-Length: 2, 2", "Content-Length: 2\r\nContent-Length: 2"] {
        let site = Site::scripted(move |exchange| {
            exchange.write(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok").as_bytes());
            Then::Close
        });
        let answer = site.ask("GET", "/", &[]);
        assert_eq!(answer.headers.all("content-length"), ["2"], "{fields}");
    }
    let empty = answering(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n").ask("GET", "/", &[]);
    assert!(!empty.headers.has("content-length"), "{empty:?}");
    let old = answering(b"HTTP/1.0 200 OK\r\n\r\nok");
    let mut connection = old.connect();
    connection.send(&get(&[])).unwrap();
    let mut line = [0; 8];
    std::io::Read::read_exact(&mut connection.stream, &mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1");
}

#[test]
fn clumsy_lines_of_an_upstream_are_written_anew() {
    let cases: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 200 OK\nContent-Length: 2\nX-A: 1\n\nok", "1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A : 1\r\n\r\nok", "1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n  2\r\n\r\nok", "1 2"),
    ];
    for (bytes, value) in cases {
        let answer = answering(bytes).ask("GET", "/", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{answer:?}");
        assert_eq!(answer.headers.one("x-a"), value, "{answer:?}");
    }
}

#[test]
fn fields_of_the_upstreams_hop_stay_there() {
    let site = answering(
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\
          Proxy-Authenticate: Basic\r\nTrailer: X-Sum\r\nX-Bar: 2\r\nContent-Length: 2\r\n\r\nok",
    );
    let answer = site.ask("GET", "/", &[]);
    for name in ["x-foo", "keep-alive", "upgrade", "proxy-authenticate", "trailer"] {
        assert!(!answer.headers.has(name), "{name}: {answer:?}");
    }
    assert_eq!((answer.headers.one("x-bar"), answer.headers.one("connection")), ("2", "keep-alive"));
}

#[test]
fn look_alikes_of_our_fields_are_dropped() {
    let site = Site::start();
    let forged = [
        ("X_Crossgate_Tenant", "evil"),
        ("X_Forwarded_For", "1.1.1.1"),
        ("X-Forwarded_Proto", "https"),
        ("x_request_id", "evil"),
        ("X_Real_IP", "1.1.1.1"),
        ("X.Forwarded.For", "1.1.1.1"),
        ("Transfer_Encoding", "chunked"),
        ("x_app", "mine"),
    ];
    assert_eq!(site.ask("GET", "/", &forged).status, 200);
    let seen = &site.upstream.seen()[0];
    for (name, _) in &forged[..7] {
        assert!(!seen.headers.has(name), "{name}: {seen:?}");
    }
    assert_eq!(seen.headers.one("x_app"), "mine");
    assert_eq!(seen.headers.one("x-crossgate-tenant"), "a");
}

#[test]
fn a_request_behind_a_chunked_one_is_answered_too() {
    let site = Site::start();
    let mut connection = site.connect();
    let first = format!(
        "POST /1 HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    );
    let second = format!("GET /2 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for _ in 0..20 {
        connection.send([first.as_bytes(), second.as_bytes()].concat().as_slice()).unwrap();
        for _ in 0..2 {
            let answer = connection.answer_to(b"POST").unwrap();
            assert_eq!((answer.status, answer.headers.one("connection")), (200, "keep-alive"), "{answer:?}");
        }
    }
    assert_eq!((site.upstream.count("POST"), site.upstream.count("GET")), (20, 20));
}

#[test]
fn a_body_that_is_not_chunked_as_announced_is_a_400() {
    for body in ["\r\n\r\n", ";x\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5\nhello\n0\n\n", "5\r\nhelloX\r\n0\r\n\r\n"] {
        let site = Site::start();
        let mut connection = site.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send([head.as_bytes(), body.as_bytes()].concat().as_slice()).unwrap();
        let answer = connection.answer_to(b"POST").unwrap();
        assert_edge_error(&answer, 400);
        assert!(connection.is_at_end(), "{body:?}");
    }
}

#[test]
fn a_retried_upload_is_not_counted_twice() {
    let upstream = RecordingUpstream::start(|exchange| {
        if exchange.seen.connection == 0 {
            exchange.read_body();
            return Then::Close;
        }
        exchange.answer(200, &[], b"hello")
    });
    let site = Site::before(upstream, "limits: { maxRequestBody: 1000 }\n");
    let put = request("PUT", "/", HOST, &[("Origin", ORIGIN)], &[b'x'; 600]);
    assert_eq!(site.raw(&put).unwrap().status, 200);
    let long = request("PUT", "/", HOST, &[("Origin", ORIGIN)], &[b'x'; 1001]);
    assert_eq!(site.raw(&long).unwrap().status, 413);
}

#[test]
fn an_upload_that_stops_after_an_early_answer_holds_nothing() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        Then::Stall
    });
    let site = Site::before(upstream, "limits: { minBodyRateAfter: 1s, drainTime: 1s }\n");
    let mut connection = site.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {ORIGIN}\r\nContent-Length: 900\r\n\r\nabc");
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer_to(b"POST").unwrap();
    assert_eq!((answer.status, answer.headers.one("connection")), (413, "close"));
    let begun = Instant::now();
    assert!(connection.is_at_end());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn an_upgrade_that_is_not_meant_is_not_passed_on() {
    let site = Site::scripted(|exchange| {
        if exchange.seen.headers.has("upgrade") {
            exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            return Then::Stall;
        }
        exchange.answer(200, &[], b"plain")
    });
    for connection in ["keep-alive", "close"] {
        let answer = site.ask("GET", "/", &[("Upgrade", "websocket"), ("Connection", connection)]);
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"plain".as_slice()), "{connection}");
    }
    let other = answering(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    let asked = [("Upgrade", "websocket"), ("Connection", "upgrade")];
    assert_edge_error(&other.ask("GET", "/", &asked), 502);
}

#[test]
fn a_trusted_proxys_scheme_is_understood() {
    let upstream = RecordingUpstream::answering("hello");
    let text = config(&tenant_config(&upstream, ""))
        .replace("address: 127.0.0.1:0\nadmin", "address: 127.0.0.1:0\n    trustedProxies: [127.0.0.1/32]\nadmin");
    let gateway = Gateway::start(&text, &[]);
    for (sent, wanted) in
        [("https", "https"), ("HTTPS", "https"), ("wss", "https"), ("https, http", "https"), ("ws", "http")]
    {
        let fields = [("X-Forwarded-Proto", sent), ("Forwarded", "for=1.1.1.1")];
        assert_eq!(gateway.ask("GET", "/", HOST, &fields).status, 200);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.headers.one("x-forwarded-proto"), wanted, "{sent}");
        assert_eq!(seen.headers.all("forwarded"), ["for=1.1.1.1", "for=127.0.0.1"]);
    }
}

#[test]
fn an_upstream_that_never_says_continue_is_to_blame() {
    let upstream = RecordingUpstream::start(|_| Then::Stall);
    let timeouts = ", timeouts: { head: 2s }";
    let limits = "limits: { minBodyRateAfter: 1s }\n";
    let gateway = Gateway::start(&config(&format!("{}{limits}", tenant_config(&upstream, timeouts))), &[]);
    let mut connection = Connection::open(gateway.data);
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {ORIGIN}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    );
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer_to(b"PUT").unwrap();
    assert_edge_error(&answer, 504);
    assert_allowed(&answer);
}

#[test]
fn a_client_that_was_asked_for_its_body_and_sends_none_is_to_blame() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        Then::Stall
    });
    let site = Site::before(upstream, "limits: { minBodyRateAfter: 1s }\n");
    let mut connection = site.connect();
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {ORIGIN}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    );
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer_to(b"PUT").unwrap();
    assert_edge_error(&answer, 408);
    assert_eq!(answer.interim.len(), 1);
    assert_eq!(site.gateway.metric("crossgate_upstream_errors_total", &[("upstream", "api")]), 0.0);
}

#[test]
fn an_answer_that_flows_is_not_cut_for_an_upload_that_pauses() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(200));
            exchange.write(b"1\r\nx\r\n");
        }
        exchange.write(b"0\r\n\r\n");
        Then::Close
    });
    let site = Site::before(upstream, "limits: { minBodyRateAfter: 1s }\n");
    let mut connection = site.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer_to(b"POST").unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 10));
}

#[test]
fn an_upgrade_is_said_in_the_gateways_own_words() {
    let site = answering(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
          Upgrade: websocket\r\n\r\n",
    );
    let answer = site.ask("GET", "/", &[("Upgrade", "h2c, WebSocket"), ("Connection", "Upgrade")]);
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.headers.all("connection"), ["Upgrade"]);
    assert!(!answer.headers.has("x-hop") && !answer.headers.has("keep-alive"), "{answer:?}");
    assert_eq!(site.upstream_saw("upgrade"), "websocket");
}

#[test]
fn answers_during_a_drain_end_their_connections() {
    let upstream = RecordingUpstream::answering("hello");
    let text = format!("{}shutdown: {{ drainDelay: 2s }}\n", tenant_config(&upstream, ""));
    let mut gateway = Gateway::start(&config(&text), &[]);
    let mut connection = Connection::open(gateway.data);
    assert_eq!(connection.exchange(&get(&[])).unwrap().headers.one("connection"), "keep-alive");
    gateway.process.signal(rustix::process::Signal::TERM);
    let begun = Instant::now();
    while gateway.admin("GET", "/readyz").status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(2), "still ready");
    }
    let answer = connection.exchange(&get(&[])).unwrap();
    assert_eq!((answer.status, answer.headers.one("connection")), (200, "close"));
    assert!(connection.is_at_end());
    let denied = gateway.ask("GET", "/", HOST, &[("Origin", "https://evil.test")]);
    assert_eq!((denied.status, denied.headers.one("connection")), (403, "close"));
    assert!(gateway.process.wait_at_most(Duration::from_secs(6)).success());
}

#[test]
fn disguised_dots_and_fragments_are_refused() {
    let site = Site::start();
    for target in ["/a/..;/b", "/a%2f..;/b", "/a\\..;\\b", "/..;x=1/b", "/a/.;/b", "/a#b", "/#", "/?a#b"] {
        match site.raw(&request("GET", target, HOST, &[], b"")) {
            Ok(answer) => assert_edge_error(&answer, 400),
            Err(error) => assert!(matches!(error, WireError::Closed | WireError::Reset), "{target}: {error:?}"),
        }
    }
    assert_eq!(site.upstream.total(), 0);
}
