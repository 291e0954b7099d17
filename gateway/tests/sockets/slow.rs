//! Slow clients: two thousand connections that send one byte a second, send nothing or read
//! nothing.
//!
//! They are closed at their deadlines, use little memory, and do not affect other clients. Each
//! kind of client has a test, and most tests use `check`. The time limits are short, and the tests
//! wait for them.
use std::net::SocketAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;

use crate::support::http2_frames::{END_STREAM, WINDOW_UPDATE, frame, head};
use crate::support::{
    Authority, Connection, ConnectionEnd, Gateway, HOST, Issued, LARGE_LEN, ORIGIN, Outcome, PATIENCE, Process,
    RawHttp2, ReadTiming, RecordingUpstream, Sink, SlowClient, Then, Tunnel, allow_open_files, assert_allowed, config,
    config_with_tls, crowd, request, tenant_config, tenant_config_at,
};

const CLIENTS: usize = 2_000;
/// Fewer clients, because data for clients that do not read fills the kernel's buffers.
const CLIENTS_NOT_READING: usize = 200;
const KIB: u64 = 1024;
/// Two sockets per client, one of them to the upstream, and a margin. Applies to this process and
/// to the gateway.
const OPEN_FILES: u64 = 2 * CLIENTS as u64 + 500;
const LIMITS: &str = "limits: { tlsHandshake: 4s, head: 4s, keepAliveIdle: IDLE, minBodyRateAfter: 3s, writeStall: 3s, drainTime: 2s }\n\
                      accessLog: { level: Off }\n";

/// Expected result for a kind of slow client.
struct Case {
    /// The status of the answer; `None` without a whole answer.
    status: Option<u16>,
    /// The metric and the label that count each client.
    counted: (&'static str, (&'static str, &'static str)),
    clients: usize,
    /// Limit on memory per client.
    memory_max: u64,
    /// The keep-alive idle time: long where clients wait for each other.
    idle: &'static str,
    /// The listener of the slow clients. Usual traffic uses both listeners.
    listener: Listener,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    Plain,
    /// TLS; the clients send their bytes without a handshake.
    TlsWithoutHandshake,
    Tls,
}

const REFUSED: Case = Case {
    status: Some(408),
    counted: ("crossgate_requests_refused_total", ("status", "408")),
    clients: CLIENTS,
    memory_max: 80 * KIB,
    idle: "30s",
    listener: Listener::Plain,
};
const SLOW_BODY: Case = Case { counted: cut("slow_body"), ..REFUSED };
const DENIED: Case = Case { status: Some(403), counted: ("crossgate_requests_total", ("verdict", "deny")), ..REFUSED };
const IDLE: Case = Case { status: None, counted: cut("idle"), idle: "4s", ..REFUSED };
/// Closed before a request head can be read.
const NO_HANDSHAKE: Case = Case {
    status: None,
    counted: ("crossgate_tls_handshakes_total", ("result", "timeout")),
    listener: Listener::TlsWithoutHandshake,
    ..REFUSED
};
/// One piece of 16 KiB, besides what a connection holds.
const WRITE_STALL: Case =
    Case { status: None, counted: cut("write_stall"), clients: CLIENTS_NOT_READING, memory_max: 96 * KIB, ..REFUSED };
/// The session, and records that the socket does not take.
const WRITE_STALL_OVER_TLS: Case = Case { listener: Listener::Tls, memory_max: 128 * KIB, ..WRITE_STALL };

const fn cut(reason: &'static str) -> (&'static str, (&'static str, &'static str)) {
    ("crossgate_connections_closed_early_total", ("reason", reason))
}

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: api.a.test\r\n";

/// The time from a deadline to the end of a margin for a loaded machine.
const fn at(seconds: u64) -> Range<Duration> {
    Duration::from_secs(seconds)..Duration::from_secs(seconds + 6)
}

fn tls() -> (Authority, Issued) {
    let authority = Authority::new("ours");
    let issued = authority.issue(&[HOST]);
    (authority, issued)
}

fn silent() -> SlowClient {
    SlowClient { answered: Vec::new(), burst: Vec::new(), dribble: b"", reads: ReadTiming::AtOnce, ends: at(4) }
}

fn get(target: &str) -> Vec<u8> {
    request("GET", target, HOST, &[("Origin", ORIGIN)], b"")
}

fn preflight() -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

/// Renders the head of a request whose body follows.
fn post(origin: &str) -> Vec<u8> {
    request("POST", "/", HOST, &[("Origin", origin), ("Content-Length", "60000")], b"")
}

/// Renders a head with the maximum number of fields, nearly the maximum length and no end.
fn endless_head() -> Vec<u8> {
    let mut head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n").into_bytes();
    for field in 1..98 {
        head.extend(format!("x-{field:02}: {}\r\n", "v".repeat(326)).bytes());
    }
    head.extend(b"x-last: ");
    assert!((32 * 1024 - 600..32 * 1024 - 16).contains(&head.len()), "{}", head.len());
    head
}

#[test]
fn slow_first_heads_of_two_thousand_clients_are_closed() {
    check(&SlowClient { dribble: HEAD, ..silent() }, &REFUSED);
}

#[test]
fn slow_second_heads_of_two_thousand_clients_are_closed() {
    check(&SlowClient { answered: get("/"), dribble: HEAD, ..silent() }, &REFUSED);
}

#[test]
fn endless_heads_of_two_thousand_clients_are_closed() {
    check(&SlowClient { burst: endless_head(), dribble: b"v", ..silent() }, &REFUSED);
}

#[test]
fn slow_bodies_of_two_thousand_clients_are_closed() {
    // After 3 s without a rate check, the next byte shows that the rate is too low.
    let ends = Duration::from_secs(3)..Duration::from_secs(10);
    check(&SlowClient { burst: post(ORIGIN), dribble: b"b", ends, ..silent() }, &SLOW_BODY);
}

#[test]
fn unread_bodies_of_two_thousand_clients_are_closed() {
    check(&SlowClient { burst: post("https://evil.test"), dribble: b"b", ends: at(2), ..silent() }, &DENIED);
}

#[test]
fn two_thousand_silent_clients_are_closed() {
    check(&silent(), &IDLE);
}

#[test]
fn two_thousand_clients_sending_empty_lines_are_closed() {
    // The idle time starts with a client's answer, and most get it before the last client does.
    let ends = Duration::ZERO..at(4).end;
    check(&SlowClient { answered: preflight(), dribble: b"\r\n", ends, ..silent() }, &IDLE);
}

#[test]
fn two_thousand_silent_tls_clients_are_closed() {
    check(&silent(), &NO_HANDSHAKE);
}

#[test]
fn slow_handshakes_of_two_thousand_clients_are_closed() {
    // The first message has the maximum length of a record and is sent one byte a second.
    check(
        &SlowClient { burst: b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03".to_vec(), dribble: b"r", ..silent() },
        &NO_HANDSHAKE,
    );
}

/// Clients that read nothing. The stall begins when all buffers on the way are full, more than
/// 100 MiB in total.
fn reads_nothing() -> SlowClient {
    let ends = Duration::from_secs(3)..Duration::from_secs(8);
    SlowClient { burst: get("/large"), reads: ReadTiming::TooLate, ends, ..silent() }
}

#[test]
fn two_hundred_clients_that_do_not_read_are_closed() {
    check(&reads_nothing(), &WRITE_STALL);
}

#[test]
fn two_hundred_tls_clients_that_do_not_read_are_closed() {
    check(&reads_nothing(), &WRITE_STALL_OVER_TLS);
}

#[test]
fn hundred_unread_streams_of_an_http2_connection_take_8_mib() {
    const CONNECTIONS: u32 = 3;
    const STREAMS: u32 = 100;
    let sink = Sink::start();
    let limits = LIMITS.replace("IDLE", "30s");
    let gateway = Gateway::start(&config(&format!("{}{limits}", tenant_config_at(sink.address, ""))), &[]);
    run_usual_round(gateway.data);
    let before = gateway.process.memory("VmRSS");
    let fields =
        [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/large"), ("origin", ORIGIN)];
    let open = |_| {
        // Windows of 1 MiB for each stream, and of 100 MiB for all: the socket is full before.
        let mut raw = RawHttp2::open(gateway.data, &[0, 4, 0, 0x10, 0, 0]);
        assert!(raw.send(&frame(WINDOW_UPDATE, 0, 0, &(100_u32 << 20).to_be_bytes())));
        for nth in 0..STREAMS {
            assert!(raw.send(&head(nth * 2 + 1, &fields, END_STREAM)));
        }
        raw
    };
    let _unread: Vec<RawHttp2> = (0..CONNECTIONS).map(open).collect();
    let (mut most, mut active) = (before, 0.0_f64);
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric("crossgate_connections_closed_early_total", &[("reason", "write_stall")]) == 0.0 {
        assert!(Instant::now() < deadline, "the connections are not closed");
        active = active.max(gateway.metric("crossgate_requests_active", &[]));
        most = most.max(gateway.process.memory("VmRSS"));
    }
    let each = (most - before) / u64::from(CONNECTIONS);
    println!("{each} bytes a connection, {active} streams");
    assert_eq!(active, f64::from(CONNECTIONS * STREAMS), "not all streams were unread at the same time");
    assert!(each < 8 << 20, "{each} bytes per connection");
}

#[test]
fn large_response_heads_leave_no_memory_with_idle_clients() {
    const CLIENTS: usize = 200;
    let upstream = RecordingUpstream::start(|exchange| {
        let fields: String = (0..60).map(|nth| format!("x-{nth}: {}\r\n", "v".repeat(1_000))).collect();
        exchange.write(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5\r\n\r\nhello").as_bytes());
        Then::KeepAlive
    });
    let (authority, issued) = tls();
    let text = config_with_tls(&format!("{}accessLog: {{ level: Off }}\n", tenant_config(&upstream, "")));
    let gateway = Gateway::start(&text, &issued.files());
    let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
    let tunnel = Tunnel::to(secure, HOST, &authority);
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/"), ("origin", ORIGIN)];
    let ask = |address: SocketAddr| {
        let mut connection = Connection::open(address);
        assert_eq!(connection.exchange(&get("/")).unwrap().text(), "hello");
        connection
    };
    let ask_http2 = || {
        let mut raw = RawHttp2::open(plain, &[]);
        assert!(raw.send(&head(1, &fields, END_STREAM)));
        assert_eq!((raw.outcome(1), &*raw.body(1)), (Outcome::Answered(200), &b"hello"[..]));
        raw
    };
    // What is needed once.
    let _warm = [ask(plain), ask(tunnel.address)];
    let _warm_http2 = ask_http2();
    let mut before = gateway.process.memory("VmRSS");
    let mut check = |what: &str, memory_max: u64| {
        let after = gateway.process.memory("VmRSS");
        let each = after.saturating_sub(before) / CLIENTS as u64;
        println!("{what}: {each} bytes a connection");
        assert!(each < memory_max, "{what}: {each} bytes per connection");
        before = after;
    };
    let _plain: Vec<_> = (0..CLIENTS).map(|_| ask(plain)).collect();
    check("HTTP/1.1", 32 * KIB);
    let _tls: Vec<_> = (0..CLIENTS).map(|_| ask(tunnel.address)).collect();
    check("TLS", 48 * KIB);
    let _http2: Vec<_> = (0..CLIENTS).map(|_| ask_http2()).collect();
    // `h2` keeps a buffer for frames.
    check("HTTP/2", 96 * KIB);
}

fn check(client: &SlowClient, case: &Case) {
    // Concurrent tests would exceed the descriptor limit and distort each other's measurements.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    allow_open_files(OPEN_FILES);
    let sink = Sink::start();
    let placeholder = RecordingUpstream::answering("");
    let text = tenant_config(&placeholder, "").replace(&placeholder.address.to_string(), &sink.address.to_string());
    let limits = LIMITS.replace("IDLE", case.idle);
    let (authority, issued) = tls();
    let listener = "  - { address: 127.0.0.1:0, tls: { certificates: [{ certificate: it.crt, key: it.key }] } }\n";
    let text = config(&format!("{text}{limits}")).replace("admin:", &format!("{listener}admin:"));
    let gateway = Gateway::start(&text, &[("it.crt", &issued.certificate), ("it.key", &issued.key)]);
    let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
    let (listener_address, tls) = match case.listener {
        Listener::Plain => (plain, None),
        Listener::TlsWithoutHandshake => (secure, None),
        Listener::Tls => (secure, Some(authority.usual_client())),
    };
    let tunnel = Tunnel::to(secure, HOST, &authority);
    let usual = || [plain, tunnel.address].into_iter().for_each(run_usual_round);
    usual();

    let before = gateway.process.memory("VmRSS");
    let (mut most, mut all_were_slow) = (before, false);
    let (ends, rounds) = with_usual_rounds(usual, || {
        crowd(listener_address, tls, case.clients, client, |all_are_slow| {
            most = most.max(gateway.process.memory("VmRSS"));
            all_were_slow |= all_are_slow;
        })
    });
    let each = most.saturating_sub(before) / case.clients as u64;
    println!("{} bytes a connection, {rounds} usual rounds", each);

    for end in &ends {
        assert_end(end, client, case);
    }
    let (family, label) = case.counted;
    gateway.wait_metric(family, &[label], case.clients as f64);
    wait_for_no_connection(&gateway);
    assert!(
        all_were_slow && rounds > 0,
        "the clients were not slow at the same time, or no usual round ran: {all_were_slow}, {rounds}"
    );
    assert!(each < case.memory_max, "{each} bytes per connection");
}

fn assert_end(end: &ConnectionEnd, client: &SlowClient, case: &Case) {
    let received = String::from_utf8_lossy(&end.received[..end.received.len().min(400)]);
    let status = received.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse::<u16>().unwrap());
    match client.reads {
        ReadTiming::AtOnce => {
            assert_eq!(status, case.status, "{received}");
            assert!(client.ends.contains(&end.after), "ended after {:?}", end.after);
        }
        ReadTiming::TooLate => assert!(status == Some(200) && end.received.len() < LARGE_LEN, "{received}"),
    }
}

/// Runs `work` while another thread runs rounds of usual traffic, none of which may fail. Also
/// returns the number of rounds.
fn with_usual_rounds<T>(usual: impl Fn() + Sync, work: impl FnOnce() -> T) -> (T, usize) {
    let is_over = AtomicBool::new(false);
    let rounds = || {
        let begun = || (!is_over.load(Relaxed)).then(&usual);
        std::iter::from_fn(begun).count()
    };
    thread::scope(|scope| {
        let rounds = scope.spawn(rounds);
        let done = catch_unwind(AssertUnwindSafe(work));
        is_over.store(true, Relaxed);
        let rounds = rounds.join().expect("a usual round failed");
        (done.unwrap_or_else(|panic| resume_unwind(panic)), rounds)
    })
}

/// Sends preflights and requests on a kept connection and on new ones.
fn run_usual_round(address: SocketAddr) {
    let mut kept = Connection::open(address);
    for _ in 0..10 {
        assert_eq!(kept.exchange(&preflight()).unwrap().status, 204);
        let answer = kept.exchange(&get("/")).unwrap();
        assert_allowed(&answer);
        assert_eq!(answer.text(), "hello");
    }
    assert_eq!(Connection::ask(address, &preflight()).unwrap().status, 204);
    assert_allowed(&Connection::ask(address, &get("/")).unwrap());
}

fn wait_for_no_connection(gateway: &Gateway) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while gateway.metric("crossgate_connections_active", &[]) > 0.0 {
        assert!(Instant::now() < deadline, "connections are still counted");
    }
}

#[test]
fn descriptor_limit_is_raised_to_the_hard_limit() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    std::fs::write(&path, config(&tenant_config(&RecordingUpstream::answering("hello"), ""))).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64 && exec \"$0\" run --config \"$1\"", env!("CARGO_BIN_EXE_crossgate")]).arg(path);
    let gateway = Process::spawn(command);
    gateway.stderr_line(|line| line.contains("listening role=admin").then_some(()));
    let limits = gateway.proc_file("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit on open files");
    let soft = line.split_whitespace().nth(3).unwrap().parse().ok();
    assert_eq!(soft, getrlimit(Resource::Nofile).maximum, "{line}");
}
