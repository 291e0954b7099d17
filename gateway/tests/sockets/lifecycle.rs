//! Start and stop: errors at the start, running requests at a stop, and the readiness probe.
mod farewells;
mod stops;

use std::net::TcpListener;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, Process, RecordingUpstream, Site, Then, WireError, assert_allowed, config,
    handshake, request, tenant_config, websocket,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// Runs the gateway with an invalid configuration and returns its standard error.
fn run_refused(text: &str) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    std::fs::write(&path, text).unwrap();
    let mut process = Process::crossgate(&["run", "--config", path.to_str().unwrap()]);
    let status = process.wait_at_most(Duration::from_secs(5));
    assert_eq!(status.code(), Some(1), "{}", process.stderr());
    assert!(!process.stderr().contains("panicked"), "{}", process.stderr());
    process.stderr()
}

/// Renders the usual tenant, whose upstream gets no request.
fn usual_config() -> String {
    tenant_config(&RecordingUpstream::answering("hello"), "")
}

#[test]
fn taken_port_fails_the_start_at_once() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let data = run_refused(&config(&usual_config()).replacen("127.0.0.1:0", &taken, 1));
    assert!(data.contains(&taken), "{data}");
    let admin =
        config(&usual_config()).replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: {taken} }}"));
    assert!(run_refused(&admin).contains(&taken));
}

#[test]
fn invalid_configuration_reports_every_mistake_and_binds_nothing() {
    let bad = config(&usual_config())
        .replace("https://app.a.test", "https://APP.a.test/path")
        .replace("policy: spa", "policy: spaa, colour: red")
        .replace("maxAge", "maxage");
    let output = run_refused(&bad);
    assert!(!output.contains("listening"), "{output}");
    for message in ["https://APP.a.test/path", "spaa", "colour"] {
        assert!(output.contains(message), "{message} in {output}");
    }
    let places = output.lines().filter(|line| line.contains("crossgate.yaml:")).count();
    assert!(places >= 3, "a mistake has no location: {output}");
}

#[test]
fn unreadable_configuration_fails_the_start() {
    for text in ["", "version: 1\nlisteners: [", "version: 2\n", "\0"] {
        assert!(!run_refused(text).contains("listening"), "{text:?}");
    }
    let mut missing = Process::crossgate(&["run", "--config", "/nonexistent/crossgate.yaml"]);
    assert_eq!(missing.wait_at_most(Duration::from_secs(5)).code(), Some(1));
    assert!(missing.stderr().contains("/nonexistent/crossgate.yaml"), "{}", missing.stderr());
}

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [["run", "--nonsense"], ["nonsense", "x"]] {
        let mut process = Process::crossgate(&arguments);
        assert_eq!(process.wait_at_most(Duration::from_secs(5)).code(), Some(2), "{arguments:?}");
    }
}

/// Stops the gateway with a signal and returns the time it took.
fn stop_gateway(gateway: &mut Gateway, signal: Signal, limit: Duration) -> Duration {
    let begin = Instant::now();
    gateway.process.signal(signal);
    let status = gateway.process.wait_at_most(limit);
    assert_eq!(status.code(), Some(0), "{}", gateway.process.stderr());
    begin.elapsed()
}

#[test]
fn idle_gateway_stops_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::start();
        // Idle keep-alive connections do not delay the stop.
        let mut idle = site.connect();
        idle.exchange(&request("GET", "/", HOST, &[], b"")).unwrap();
        let fresh = site.connect();
        stop_gateway(&mut site.gateway, signal, Duration::from_secs(2));
        assert!(idle.is_at_end());
        drop(fresh);
    }
}

#[test]
fn stop_finishes_running_answers_and_accepts_no_new_ones() {
    let (arrived, arrivals) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let mut site = Site::scripted(move |exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        arrived.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        exchange.write(b" done");
        Then::KeepAlive
    });
    let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
    let mut connection = site.connect();
    connection.send(&get).unwrap();
    arrivals.recv().unwrap();
    site.gateway.process.signal(Signal::TERM);
    // New connections are refused while the running request is finished.
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::net::TcpStream::connect(site.gateway.data).is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
    }
    assert!(site.gateway.process.is_running());
    release.send(()).unwrap();
    let answer = connection.answer_to(&get).unwrap();
    assert_allowed(&answer);
    assert_eq!(answer.text(), "half done");
    assert!(connection.is_at_end());
    assert_eq!(site.gateway.process.wait_at_most(Duration::from_secs(3)).code(), Some(0));
}

#[test]
fn stop_closes_an_endless_request_after_the_drain_limit() {
    let upstream = RecordingUpstream::start(|_| Then::Stall);
    let mut site = Site::with_upstream(upstream, "shutdown: { grace: 1s }\n");
    let mut connection = site.connect();
    connection.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    while site.upstream.total() == 0 {
        std::thread::yield_now();
    }
    let took = stop_gateway(&mut site.gateway, Signal::TERM, Duration::from_secs(4));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    let answer = connection.answer_to(b"GET");
    assert!(matches!(answer, Err(WireError::Closed | WireError::Reset)), "{answer:?}");
}

#[test]
fn stop_closes_an_open_websocket_after_the_drain_limit() {
    let upstream = RecordingUpstream::start(websocket);
    let mut site = Site::with_upstream(upstream, "shutdown: { grace: 1s }\n");
    let mut connection = site.connect();
    assert_eq!(connection.exchange(&handshake(ORIGIN)).unwrap().status, 101);
    connection.send(b"frame").unwrap();
    assert_eq!(connection.exactly(5).unwrap(), b"frame");
    let took = stop_gateway(&mut site.gateway, Signal::TERM, Duration::from_secs(4));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(connection.is_at_end());
}

#[test]
fn sigint_stops_without_waiting_for_answers() {
    let mut site = Site::scripted(|exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        Then::Stall
    });
    let mut connection = site.connect();
    connection.send(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    assert_allowed(&connection.head().unwrap());
    stop_gateway(&mut site.gateway, Signal::INT, Duration::from_secs(3));
    let rest = connection.exactly(9);
    assert!(matches!(rest, Err(WireError::Truncated | WireError::Reset)), "{rest:?}");
}

#[test]
fn the_readiness_probe_fails_before_the_listeners_close() {
    let upstream = RecordingUpstream::answering("hello");
    let mut site = Site::with_upstream(upstream, "shutdown: { drainDelay: 1s }\n");
    assert_eq!(site.gateway.admin("GET", "/readyz").status, 200);
    let begin = Instant::now();
    site.gateway.process.signal(Signal::TERM);
    while site.gateway.admin("GET", "/readyz").status == 200 {
        assert!(begin.elapsed() < Duration::from_secs(1), "still ready");
    }
    assert_eq!(site.gateway.admin("GET", "/livez").status, 200);
    assert_eq!(site.gateway.metric("crossgate_ready", &[]), 0.0);
    let answer = Connection::ask(site.gateway.data, &request("GET", "/", HOST, &[], b"")).unwrap();
    assert_eq!(answer.status, 200, "the gateway must serve until the load balancer has removed it");
    assert!(begin.elapsed() < Duration::from_secs(1), "the machine is too slow for this test");
    assert_eq!(site.gateway.process.wait_at_most(Duration::from_secs(4)).code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_secs(1));
}
