//! Rules for one hop: framing on both sides, upgrades, retries, the end of connections.
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Gateway, HOST, NameServer, ORIGIN, PATIENCE, RecordingUpstream, RefusedAddress, Site, Then, WireError,
    assert_allowed, assert_edge_error, config, request, tenant_config, tenant_config_at,
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
fn retry_uses_another_server_under_concurrency() {
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
fn http_1_0_client_gets_no_chunks_or_interim_responses() {
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
fn redundant_upstream_framing_is_normalised() {
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
fn unusual_upstream_header_lines_are_normalised_or_refused() {
    let answer = answering(b"HTTP/1.1 200 OK\nContent-Length: 2\nX-A: 1\n\nok").ask("GET", "/", &[]);
    assert_eq!((answer.status, &*answer.text(), answer.headers.one("x-a")), (200, "ok", "1"), "{answer:?}");
    // Recipients read these lines differently: RFC 9112, sections 5.1 and 5.2.
    let ambiguous: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A : 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n  2\r\n\r\nok",
    ];
    for bytes in ambiguous {
        let answer = answering(bytes).ask("GET", "/", &[]);
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.headers.one("proxy-status").contains("invalid field name"), "{answer:?}");
    }
}

#[test]
fn hop_by_hop_response_headers_are_stripped() {
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
fn lookalike_forwarding_headers_are_dropped() {
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
fn pipelined_request_after_a_chunked_one_is_answered() {
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
fn malformed_chunked_body_gets_400() {
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
fn retried_upload_is_counted_once() {
    let upstream = RecordingUpstream::start(|exchange| {
        if exchange.seen.connection == 0 {
            exchange.read_body();
            return Then::Close;
        }
        exchange.answer(200, &[], b"hello")
    });
    let site = Site::with_upstream(upstream, "limits: { maxRequestBody: 1000 }\n");
    let put = request("PUT", "/", HOST, &[("Origin", ORIGIN)], &[b'x'; 600]);
    assert_eq!(site.raw(&put).unwrap().status, 200);
    let long = request("PUT", "/", HOST, &[("Origin", ORIGIN)], &[b'x'; 1001]);
    assert_eq!(site.raw(&long).unwrap().status, 413);
}

#[test]
fn stalled_upload_after_early_answer_releases_the_upstream() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        Then::Stall
    });
    let site = Site::with_upstream(upstream, "limits: { minBodyRateAfter: 1s, drainTime: 1s }\n");
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
fn unrequested_upgrade_is_not_forwarded() {
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
fn scheme_of_a_trusted_proxy_is_used() {
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
fn upstream_that_never_sends_100_gets_504() {
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
fn client_without_body_after_100_gets_408() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        Then::Stall
    });
    let site = Site::with_upstream(upstream, "limits: { minBodyRateAfter: 1s }\n");
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
fn flowing_answer_survives_a_paused_upload() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(200));
            exchange.write(b"1\r\nx\r\n");
        }
        exchange.write(b"0\r\n\r\n");
        Then::Close
    });
    let site = Site::with_upstream(upstream, "limits: { minBodyRateAfter: 1s }\n");
    let mut connection = site.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer_to(b"POST").unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 10));
}

#[test]
fn upgrade_header_is_rewritten_by_the_gateway() {
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
fn answers_during_a_drain_close_their_connections() {
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

#[test]
fn a6_looping_request_is_refused_before_it_takes_a_connection() {
    // A TCP relay back to the gateway, which the gateway cannot detect by its address.
    let front = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&config(&tenant_config_at(front.local_addr().unwrap(), "")), &[]);
    let data = gateway.data;
    std::thread::spawn(move || {
        for from in front.incoming().map_while(Result::ok) {
            let to = std::net::TcpStream::connect(data).unwrap();
            for (mut from, mut to) in [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let answer = gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]);
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_allowed(&answer);
    // The first pass through the gateway appends its own member.
    assert_eq!(
        answer.headers.all("proxy-status"),
        ["crossgate; error=proxy_loop_detected; details=\"loop\"", "crossgate"]
    );
    gateway.wait_metric("crossgate_upstream_refusals_total", &[("reason", "loop")], 1.0);
    assert_eq!(gateway.metric("crossgate_requests_total", &[]), 2.0, "the request looped more than once");
}

#[test]
fn a6_upstream_at_the_admin_address_is_never_connected() {
    // Configured by name, so only the resolved address shows that it is the admin listener.
    let name_server = NameServer::with(&["127.0.0.1"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "version: 1\nlisteners:\n  - address: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:{port} }}\n\
         resolver: {{ servers: [{}] }}\n\
         upstreams:\n  api: {{ servers: [\"admin.test:{port}\"] }}\n\
         policies: {{ open: {{ allowOrigins: [\"*\"] }} }}\n\
         tenants: [{{ id: a, hosts: [{HOST}], upstream: api, policy: open }}]\n",
        name_server.address
    );
    let gateway = Gateway::start(&text, &[]);
    let deadline = std::time::Instant::now() + PATIENCE;
    // Without an address until the name is resolved, the answer is 503.
    let answer = loop {
        let answer = gateway.ask("POST", "/reload", HOST, &[]);
        if answer.status != 503 || std::time::Instant::now() > deadline {
            break answer;
        }
    };
    assert_eq!(answer.status, 502, "{answer:?}");
    gateway.wait_metric("crossgate_upstream_refusals_total", &[("reason", "own_admin")], 1.0);
}
