//! `healthPath`: health checks of load balancers are answered on a data listener, for any host and
//! HTTP version, and fail from SIGTERM on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Authority, Connection, Gateway, HOST, Http2, ORIGIN, PATIENCE, RecordingUpstream, Response, Successor, Tunnel,
    config, config_with_tls, request, tenant_config,
};

const PATH: &str = "/gateway-health";
const CHECKS: &str = "crossgate_listener_health_checks_total";

/// A gateway with a plain-text and a TLS listener that answer health checks.
struct Setup {
    gateway: Gateway,
    upstream: RecordingUpstream,
    authority: Authority,
    plain: SocketAddr,
    secure: SocketAddr,
}

fn with_health_path(text: &str) -> String {
    text.replace("- address: 127.0.0.1:0\n", &format!("- {{ address: 127.0.0.1:0, healthPath: {PATH} }}\n"))
        .replace("- { address: 127.0.0.1:0, tls", &format!("- {{ address: 127.0.0.1:0, healthPath: {PATH}, tls"))
}

fn start(more: &str) -> Setup {
    let (upstream, authority) = (RecordingUpstream::answering("hello"), Authority::new("ours"));
    let text = with_health_path(&config_with_tls(&format!("{}{more}", tenant_config(&upstream, ""))));
    let gateway = Gateway::start(&text, &authority.issue(&[HOST, "127.0.0.1", "other.a.test"]).files());
    let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
    Setup { gateway, upstream, authority, plain, secure }
}

/// Checks the whole answer of a gateway that accepts requests. The answer to HEAD has no body.
#[track_caller]
fn assert_passed(answer: &Response, body: &str) {
    let mut fields: Vec<(&str, &str)> = answer.headers.0.iter().map(|(name, value)| (&**name, &**value)).collect();
    fields.retain(|(name, _)| !["date", "connection"].contains(name));
    fields.sort_unstable();
    let wanted = [
        ("cache-control", "no-store"),
        ("content-length", "3"),
        ("content-type", "text/plain; charset=utf-8"),
        ("proxy-status", "crossgate; error=proxy_internal_response"),
        ("x-content-type-options", "nosniff"),
    ];
    assert_eq!((answer.status, &fields[..], &*answer.text()), (200, &wanted[..], body));
}

#[track_caller]
fn assert_failed(answer: &Response) {
    assert_eq!((answer.status, answer.headers.one("cache-control")), (503, "no-store"), "{answer:?}");
    let proxy_status = "crossgate; error=proxy_internal_response; details=\"draining\"";
    assert_eq!(answer.headers.one("proxy-status"), proxy_status);
    assert_eq!(answer.json()["reason"], "draining");
    assert!(answer.headers.cors().is_empty(), "{answer:?}");
}

#[test]
fn d5_balancer_checks_pass_with_any_host() {
    let setup = start("");
    let mut count = 0.0;
    // AWS application load balancer; kubelet; Google; HAProxy and nginx over HTTP/1.0; no host.
    for (head, body) in [
        (
            "GET /gateway-health HTTP/1.1\r\nHost: 10.1.2.3:8080\r\nConnection: close\r\nUser-Agent: ELB-HealthChecker/2.0\r\nAccept-Encoding: gzip, compressed\r\n\r\n",
            "ok\n",
        ),
        (
            "GET /gateway-health HTTP/1.1\r\nHost: [fd00::1]:8080\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            "ok\n",
        ),
        (
            "GET /gateway-health HTTP/1.1\r\nHost: 10.1.2.3\r\nUser-Agent: GoogleHC/1.0\r\nConnection: keep-alive\r\n\r\n",
            "ok\n",
        ),
        ("GET /gateway-health HTTP/1.0\r\n\r\n", "ok\n"),
        ("HEAD /gateway-health HTTP/1.0\r\n\r\n", ""),
        ("GET /gateway-health HTTP/1.0\r\nHost: the_backend\r\nConnection: close\r\n\r\n", "ok\n"),
        ("GET /gateway-health HTTP/1.1\r\nHost:\r\n\r\n", "ok\n"),
        ("HEAD /gateway-health HTTP/1.1\r\nHost: unknown.test\r\n\r\n", ""),
        ("GET /gateway-health?from=lb HTTP/1.1\r\nHost: api.a.test\r\nOrigin: https://evil.test\r\n\r\n", "ok\n"),
        ("GET /gateway-%68ealth HTTP/1.1\r\nHost: api.a.test\r\n\r\n", "ok\n"),
        ("GET http://unknown.test/gateway-health HTTP/1.1\r\nHost: unknown.test\r\n\r\n", "ok\n"),
    ] {
        let answer = Connection::ask(setup.plain, head.as_bytes()).unwrap_or_else(|error| panic!("{head}: {error:?}"));
        assert_passed(&answer, body);
        count += 1.0;
    }
    assert_eq!(setup.gateway.metric(CHECKS, &[("result", "passed")]), count);
    assert_eq!(setup.gateway.metric(CHECKS, &[("result", "failed")]), 0.0);
    // Checks are counted for no tenant and not as refusals.
    for family in ["crossgate_requests_total", "crossgate_responses_total", "crossgate_requests_refused_total"] {
        assert_eq!(setup.gateway.metric(family, &[]), 0.0, "{family}");
    }
    assert_eq!(setup.upstream.total(), 0);
    // The first log line belongs to a later request, so checks are not logged.
    setup.gateway.ask("GET", "/last", "unknown.test", &[]);
    let line = setup.gateway.process.stdout_line(|line| Some(line.to_owned()));
    assert!(line.contains("/last"), "{line}");
}

#[test]
fn d5_ambiguous_check_requests_are_refused() {
    let setup = start("");
    for head in [
        "GET /gateway-health HTTP/1.1\r\n\r\n",
        "GET /gateway-health HTTP/1.0\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "GET /gateway-health HTTP/1.1\r\nHost: u@a.test\r\n\r\n",
        "GET http://a.test/gateway-health HTTP/1.1\r\nHost: b.test\r\n\r\n",
        "GET /gateway-health HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /other HTTP/1.0\r\n\r\n",
        "POST /gateway-health HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(Connection::ask(setup.plain, head.as_bytes()).unwrap().status, 400, "{head}");
    }
    // Other methods and paths are ordinary requests.
    for (method, target, status) in
        [("POST", PATH, 200), ("GET", "/gateway-health/", 200), ("GET", "/Gateway-Health", 200), ("TRACE", PATH, 405)]
    {
        assert_eq!(setup.gateway.ask(method, target, HOST, &[]).status, status, "{method} {target}");
    }
    assert_eq!(setup.gateway.ask("POST", PATH, "unknown.test", &[]).status, 421);
    let preflight = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(setup.gateway.ask("OPTIONS", PATH, HOST, &preflight).status, 204);
    assert_eq!(setup.gateway.metric(CHECKS, &[]), 0.0);
}

#[test]
fn d5_connection_stays_usable_after_a_check() {
    let setup = start("");
    let mut connection = Connection::open(setup.plain);
    let check = request("GET", PATH, "10.0.0.1", &[], b"");
    let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
    connection.send(&[&*check, &check, &get, &check].concat()).unwrap();
    for _ in 0..2 {
        assert_passed(&connection.answer_to(&check).unwrap(), "ok\n");
    }
    assert_eq!(connection.answer_to(&get).unwrap().text(), "hello");
    assert_passed(&connection.answer_to(&check).unwrap(), "ok\n");
    // A body is not read, so the connection closes after it, and after an upgrade request.
    let with_body = request("GET", PATH, "10.0.0.1", &[], b"GET / HTTP/1.1\r\n");
    let upgrade = request("GET", PATH, "10.0.0.1", &[("Connection", "Upgrade"), ("Upgrade", "websocket")], b"");
    let chunked = request("GET", PATH, "10.0.0.1", &[("Transfer-Encoding", "chunked")], b"");
    for bytes in [with_body, upgrade, chunked, b"GET /gateway-health HTTP/1.0\r\n\r\n".to_vec()] {
        let mut connection = Connection::open(setup.plain);
        let answer = connection.exchange(&bytes).unwrap();
        assert_passed(&answer, "ok\n");
        assert_eq!(answer.headers.one("connection"), "close");
        assert!(connection.is_at_end());
    }
    assert_eq!(setup.upstream.total(), 1);
}

#[test]
fn d5_checks_pass_over_tls_and_http_2() {
    let setup = start("");
    for asked in [HOST, "other.a.test"] {
        for protocol in ["http/1.1", "h2"] {
            let tunnel = Tunnel::with_protocol(protocol, setup.secure, asked, &setup.authority);
            for host in ["unknown.test", "10.0.0.1:8443", HOST] {
                let answer = match protocol {
                    "h2" => Http2::open(tunnel.address).ask("GET", PATH, host, &[], b"").unwrap(),
                    _ => Connection::ask(tunnel.address, &request("GET", PATH, host, &[], b"")).unwrap(),
                };
                assert_passed(&answer, "ok\n");
            }
        }
    }
    // SNI has no IP addresses, so the first certificate is served, as to most load balancers.
    let mut unnamed = setup.authority.connect(setup.secure, "127.0.0.1").unwrap();
    unnamed.send(b"GET /gateway-health HTTP/1.1\r\nHost: 10.0.0.1:8443\r\nConnection: close\r\n\r\n");
    let unnamed = unnamed.read_to_end().unwrap();
    assert!(unnamed.starts_with("HTTP/1.1 200 OK\r\n") && unnamed.ends_with("\r\n\r\nok\n"), "{unnamed}");
    // In plain text with prior knowledge, next to other requests of the connection.
    let client = Http2::open(setup.plain);
    assert_passed(&client.ask("GET", PATH, "10.0.0.1", &[], b"").unwrap(), "ok\n");
    assert_eq!(client.ask("GET", "/", HOST, &[], b"").unwrap().text(), "hello");
    assert_passed(&client.ask("HEAD", PATH, "unknown.test", &[], b"").unwrap(), "");
    assert_passed(&client.ask("GET", PATH, "unknown.test", &[], b"a body that is not read").unwrap(), "ok\n");
    assert_eq!(client.ask("POST", PATH, "unknown.test", &[], b"").unwrap().status, 421);
    assert_passed(&client.ask("GET", &format!("{PATH}?x"), "unknown.test", &[], b"").unwrap(), "ok\n");
    assert_eq!(setup.upstream.total(), 1);
}

#[test]
fn d5_checks_fail_from_sigterm_on_until_the_listeners_close() {
    let mut setup = start("shutdown: { drainDelay: 1s }\n");
    let check = request("GET", PATH, "10.0.0.1", &[], b"");
    let tunnel = Tunnel::with_protocol("h2", setup.secure, HOST, &setup.authority);
    let mut kept = Connection::open(setup.plain);
    assert_passed(&kept.exchange(&check).unwrap(), "ok\n");
    setup.gateway.process.signal(Signal::TERM);
    let begun = Instant::now();
    while setup.gateway.admin("GET", "/readyz").status == 200 {
        assert!(begun.elapsed() < PATIENCE);
    }
    let answer = kept.exchange(&check).unwrap();
    assert_failed(&answer);
    assert_eq!(answer.headers.one("connection"), "close");
    assert!(kept.is_at_end());
    assert_failed(&Connection::ask(setup.plain, &check).unwrap());
    let head = Connection::ask(setup.plain, b"HEAD /gateway-health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((head.status, head.body.len()), (503, 0));
    assert_failed(&Http2::open(tunnel.address).ask("GET", PATH, "unknown.test", &[], b"").unwrap());
    // Requests are still served and counted separately.
    assert_eq!(setup.gateway.ask("GET", "/", HOST, &[]).status, 200);
    assert_eq!(setup.gateway.metric(CHECKS, &[("result", "failed")]), 4.0);
    assert_eq!(setup.gateway.metric("crossgate_responses_total", &[("class", "5xx")]), 0.0);
    assert!(begun.elapsed() < Duration::from_secs(1), "the machine is too slow for this test");
    assert_eq!(setup.gateway.process.wait_at_most(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn d5_hand_over_passes_all_checks() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&with_health_path(&config(&tenant_config(&upstream, ""))), &[]);
    let check = request("GET", PATH, "10.0.0.1", &[], b"");
    let mut kept = Connection::open(gateway.data);
    assert_passed(&kept.exchange(&check).unwrap(), "ok\n");
    let successor = Successor::of(&gateway.process, |signal| gateway.process.signal(signal), &[]);
    // The old process still serves this connection.
    while kept.exchange(&check).is_ok_and(|answer| {
        assert_passed(&answer, "ok\n");
        answer.headers.one("connection") == "keep-alive"
    }) {}
    assert_passed(&Connection::ask(gateway.data, &check).unwrap(), "ok\n");
    assert!(successor.is_running());
}
