//! Start and end: what must be wrong at once, what must be let finish, and who is told first.
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

/// Runs the gateway with a configuration that it must refuse; gives what it said.
fn refused(text: &str) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    std::fs::write(&path, text).unwrap();
    let mut process = Process::crossgate(&["run", "--config", path.to_str().unwrap()]);
    let status = process.wait_at_most(Duration::from_secs(5));
    assert_eq!(status.code(), Some(1), "{}", process.stderr());
    assert!(!process.stderr().contains("panicked"), "{}", process.stderr());
    process.stderr()
}

/// The usual tenant, whose upstream nobody asks.
fn usual() -> String {
    tenant_config(&RecordingUpstream::answering("hello"), "")
}

#[test]
fn a_taken_port_is_told_at_once() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let data = refused(&config(&usual()).replacen("127.0.0.1:0", &taken, 1));
    assert!(data.contains(&taken), "{data}");
    let admin = config(&usual()).replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: {taken} }}"));
    assert!(refused(&admin).contains(&taken));
}

#[test]
fn a_bad_configuration_names_every_mistake_and_binds_nothing() {
    let bad = config(&usual())
        .replace("https://app.a.test", "https://APP.a.test/path")
        .replace("policy: spa", "policy: spaa, colour: red")
        .replace("maxAge", "maxage");
    let said = refused(&bad);
    assert!(!said.contains("listening"), "{said}");
    for message in ["https://APP.a.test/path", "spaa", "colour"] {
        assert!(said.contains(message), "{message} in {said}");
    }
    let places = said.lines().filter(|line| line.contains("crossgate.yaml:")).count();
    assert!(places >= 3, "every mistake has its place: {said}");
}

#[test]
fn an_unreadable_configuration_is_told() {
    for text in ["", "version: 1\nlisteners: [", "version: 2\n", "\0"] {
        assert!(!refused(text).contains("listening"), "{text:?}");
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

/// Ends the gateway with a signal; gives how long it took.
fn end(gateway: &mut Gateway, signal: Signal, limit: Duration) -> Duration {
    let begin = Instant::now();
    gateway.process.signal(signal);
    let status = gateway.process.wait_at_most(limit);
    assert_eq!(status.code(), Some(0), "{}", gateway.process.stderr());
    begin.elapsed()
}

#[test]
fn an_idle_gateway_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut site = Site::start();
        // Idle keep-alive connections are no reason to stay.
        let mut idle = site.connect();
        idle.exchange(&request("GET", "/", HOST, &[], b"")).unwrap();
        let fresh = site.connect();
        end(&mut site.gateway, signal, Duration::from_secs(2));
        assert!(idle.is_at_end());
        drop(fresh);
    }
}

#[test]
fn a_running_answer_is_finished_and_no_new_one_begun() {
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
    // Closed to newcomers, while the running one is waited for.
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
fn a_client_that_never_finishes_is_waited_for_only_so_long() {
    let upstream = RecordingUpstream::start(|_| Then::Stall);
    let mut site = Site::before(upstream, "shutdown: { grace: 1s }\n");
    let mut connection = site.connect();
    connection.send(&request("GET", "/", HOST, &[], b"")).unwrap();
    while site.upstream.total() == 0 {
        std::thread::yield_now();
    }
    let took = end(&mut site.gateway, Signal::TERM, Duration::from_secs(4));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    let answer = connection.answer_to(b"GET");
    assert!(matches!(answer, Err(WireError::Closed | WireError::Reset)), "{answer:?}");
}

#[test]
fn an_open_websocket_is_waited_for_only_so_long() {
    let upstream = RecordingUpstream::start(websocket);
    let mut site = Site::before(upstream, "shutdown: { grace: 1s }\n");
    let mut connection = site.connect();
    assert_eq!(connection.exchange(&handshake(ORIGIN)).unwrap().status, 101);
    connection.send(b"frame").unwrap();
    assert_eq!(connection.exactly(5).unwrap(), b"frame");
    let took = end(&mut site.gateway, Signal::TERM, Duration::from_secs(4));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(connection.is_at_end());
}

#[test]
fn an_interrupt_waits_for_no_answer() {
    let mut site = Site::scripted(|exchange| {
        exchange.read_body();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        Then::Stall
    });
    let mut connection = site.connect();
    connection.send(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    assert_allowed(&connection.head().unwrap());
    end(&mut site.gateway, Signal::INT, Duration::from_secs(3));
    let rest = connection.exactly(9);
    assert!(matches!(rest, Err(WireError::Truncated | WireError::Reset)), "{rest:?}");
}

#[test]
fn the_readiness_probe_fails_before_the_listeners_close() {
    let upstream = RecordingUpstream::answering("hello");
    let mut site = Site::before(upstream, "shutdown: { drainDelay: 1s }\n");
    assert_eq!(site.gateway.admin("GET", "/readyz").status, 200);
    let begin = Instant::now();
    site.gateway.process.signal(Signal::TERM);
    while site.gateway.admin("GET", "/readyz").status == 200 {
        assert!(begin.elapsed() < Duration::from_secs(1), "still ready");
    }
    assert_eq!(site.gateway.admin("GET", "/livez").status, 200);
    assert_eq!(site.gateway.metric("crossgate_ready", &[]), 0.0);
    let answer = Connection::ask(site.gateway.data, &request("GET", "/", HOST, &[], b"")).unwrap();
    assert_eq!(answer.status, 200, "still serving while the load balancer takes it out");
    assert!(begin.elapsed() < Duration::from_secs(1), "too slow to tell");
    assert_eq!(site.gateway.process.wait_at_most(Duration::from_secs(4)).code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_secs(1));
}
