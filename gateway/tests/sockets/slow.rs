//! Slow clients: two thousand connections that send a byte a second, or nothing, or take nothing, are cut at their deadlines, hold
//! little memory, and are not noticed by anybody else.
//!
//! Each kind of client has a test, all run by one `check`. Deadlines are what is looked at here, so the limits are short and time
//! passes.
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

use crate::support::{
    Authority, Connection, End, Gateway, HOST, Issued, LARGE_LEN, ORIGIN, Process, Reads, RecordingUpstream, Sink,
    SlowClient, Tunnel, allow_open_files, assert_allowed, config, crowd, request, tenant_config,
};

const CLIENTS: usize = 2_000;
/// Clients that take nothing cost the kernel what was sent to them, so there are fewer.
const DEAF_CLIENTS: usize = 200;
const KIB: u64 = 1024;
/// A client's socket and its request's at the upstream, and some for everything else: in this process and in the gateway's.
const OPEN_FILES: u64 = 2 * CLIENTS as u64 + 500;
const LIMITS: &str = "limits: { tlsHandshake: 4s, head: 4s, keepAliveIdle: IDLE, minBodyRateAfter: 3s, writeStall: 3s, drainTime: 2s }\n\
                      accessLog: { level: Off }\n";

/// What becomes of a kind of slow client.
struct Case {
    /// Its answer's status; `None` where it gets no whole answer.
    status: Option<u16>,
    /// Where each is counted: a family and a label.
    counted: (&'static str, (&'static str, &'static str)),
    clients: usize,
    /// What each may cost.
    memory_max: u64,
    /// The time between two requests: long, where clients wait for each other.
    idle: &'static str,
    /// Which listener they are at. Everybody else is at both.
    door: Door,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Plain,
    Tls,
}

const REFUSED: Case = Case {
    status: Some(408),
    counted: ("crossgate_requests_refused_total", ("status", "408")),
    clients: CLIENTS,
    memory_max: 80 * KIB,
    idle: "30s",
    door: Door::Plain,
};
const SLOW_BODY: Case = Case { counted: cut("slow_body"), ..REFUSED };
const DENIED: Case = Case { status: Some(403), counted: ("crossgate_requests_total", ("verdict", "deny")), ..REFUSED };
const IDLE: Case = Case { status: None, counted: cut("idle"), idle: "4s", ..REFUSED };
/// Cut before there is anything to read a head from.
const NO_HANDSHAKE: Case = Case {
    status: None,
    counted: ("crossgate_tls_handshakes_total", ("result", "timeout")),
    door: Door::Tls,
    ..REFUSED
};
/// Pingora reads on until ten pieces of 64 KiB are on their way, which no hook can lessen.
const WRITE_STALL: Case =
    Case { status: None, counted: cut("write_stall"), clients: DEAF_CLIENTS, memory_max: 704 * KIB, ..REFUSED };

const fn cut(reason: &'static str) -> (&'static str, (&'static str, &'static str)) {
    ("crossgate_connections_closed_early_total", ("reason", reason))
}

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: api.a.test\r\n";

/// From a deadline to what a loaded machine may need after it.
const fn at(seconds: u64) -> Range<Duration> {
    Duration::from_secs(seconds)..Duration::from_secs(seconds + 6)
}

fn tls() -> (Authority, Issued) {
    let authority = Authority::new("ours");
    let issued = authority.issue(&[HOST]);
    (authority, issued)
}

fn silent() -> SlowClient {
    SlowClient { answered: Vec::new(), burst: Vec::new(), dribble: b"", reads: Reads::AtOnce, ends: at(4) }
}

fn get(target: &str) -> Vec<u8> {
    request("GET", target, HOST, &[("Origin", ORIGIN)], b"")
}

fn preflight() -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

/// The head of a request whose body is still to come.
fn post(origin: &str) -> Vec<u8> {
    request("POST", "/", HOST, &[("Origin", origin), ("Content-Length", "60000")], b"")
}

/// A head of as many fields as are allowed and almost as many bytes, that lacks its end.
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
fn two_thousand_first_heads_that_trickle_are_cut() {
    check(&SlowClient { dribble: HEAD, ..silent() }, &REFUSED);
}

#[test]
fn two_thousand_second_heads_that_trickle_are_cut() {
    check(&SlowClient { answered: get("/"), dribble: HEAD, ..silent() }, &REFUSED);
}

#[test]
fn two_thousand_heads_that_never_end_are_cut() {
    check(&SlowClient { burst: endless_head(), dribble: b"v", ..silent() }, &REFUSED);
}

#[test]
fn two_thousand_bodies_that_trickle_are_cut() {
    // After the 3 s of grace, the next byte shows that the rate is too low.
    let ends = Duration::from_secs(3)..Duration::from_secs(10);
    check(&SlowClient { burst: post(ORIGIN), dribble: b"b", ends, ..silent() }, &SLOW_BODY);
}

#[test]
fn two_thousand_bodies_that_nobody_wants_are_cut() {
    check(&SlowClient { burst: post("https://evil.test"), dribble: b"b", ends: at(2), ..silent() }, &DENIED);
}

#[test]
fn two_thousand_clients_that_say_nothing_are_cut() {
    check(&silent(), &IDLE);
}

#[test]
fn two_thousand_clients_that_send_empty_lines_after_an_answer_are_cut() {
    // Silence is reckoned from a client's answer, which most have before the last one has.
    let ends = Duration::ZERO..at(4).end;
    check(&SlowClient { answered: preflight(), dribble: b"\r\n", ends, ..silent() }, &IDLE);
}

#[test]
fn two_thousand_clients_that_say_nothing_where_tls_is_spoken_are_cut() {
    check(&silent(), &NO_HANDSHAKE);
}

#[test]
fn two_thousand_handshakes_that_trickle_are_cut() {
    // Of a first message as long as a record may be, sent a byte a second.
    check(
        &SlowClient { burst: b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03".to_vec(), dribble: b"r", ..silent() },
        &NO_HANDSHAKE,
    );
}

#[test]
fn two_hundred_clients_that_do_not_read_are_cut() {
    // The stall begins when every buffer on the way is full, more than 100 MiB in all.
    let ends = Duration::from_secs(3)..Duration::from_secs(8);
    check(&SlowClient { burst: get("/large"), reads: Reads::TooLate, ends, ..silent() }, &WRITE_STALL);
}

fn check(client: &SlowClient, case: &Case) {
    // Beside each other they would need more descriptors than may be had, and measure each other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    allow_open_files(OPEN_FILES);
    let sink = Sink::start();
    let nobody = RecordingUpstream::answering("");
    let text = tenant_config(&nobody, "").replace(&nobody.address.to_string(), &sink.address.to_string());
    let limits = LIMITS.replace("IDLE", case.idle);
    let (authority, issued) = tls();
    let listener = "  - { address: 127.0.0.1:0, tls: { certificates: [{ certificate: it.crt, key: it.key }] } }\n";
    let text = config(&format!("{text}{limits}")).replace("admin:", &format!("{listener}admin:"));
    let gateway = Gateway::start(&text, &[("it.crt", &issued.certificate), ("it.key", &issued.key)]);
    let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
    let door = match case.door {
        Door::Plain => plain,
        Door::Tls => secure,
    };
    let tunnel = Tunnel::to(secure, HOST, &authority);
    let usual = || [plain, tunnel.address].into_iter().for_each(usual_round);
    usual();

    let before = gateway.process.memory("VmRSS");
    let (mut most, mut all_were_slow) = (before, false);
    let (ends, rounds) = beside_usual_rounds(usual, || {
        crowd(door, case.clients, client, |all_are_slow| {
            most = most.max(gateway.process.memory("VmRSS"));
            all_were_slow |= all_are_slow;
        })
    });
    let each = most.saturating_sub(before) / case.clients as u64;
    println!("{} bytes a connection, {rounds} usual rounds", each);

    for end in &ends {
        assert_ended_as_it_should(end, client, case);
    }
    let (family, label) = case.counted;
    gateway.wait_metric(family, &[label], case.clients as f64);
    wait_for_no_connection(&gateway);
    assert!(all_were_slow && rounds > 0, "not slow beside each other and the usual: {all_were_slow}, {rounds}");
    assert!(each < case.memory_max, "{each} bytes a connection");
}

fn assert_ended_as_it_should(end: &End, client: &SlowClient, case: &Case) {
    let told = String::from_utf8_lossy(&end.told[..end.told.len().min(200)]);
    let status = told.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse::<u16>().unwrap());
    match client.reads {
        Reads::AtOnce => {
            assert_eq!(status, case.status, "{told}");
            assert!(client.ends.contains(&end.after), "ended after {:?}", end.after);
        }
        Reads::TooLate => assert!(status == Some(200) && end.told.len() < LARGE_LEN, "{told}"),
    }
}

/// Does `what` while another thread has round after round of usual traffic, none of which fails; gives their number too.
fn beside_usual_rounds<T>(usual: impl Fn() + Sync, what: impl FnOnce() -> T) -> (T, usize) {
    let is_over = AtomicBool::new(false);
    let rounds = || {
        let begun = || (!is_over.load(Relaxed)).then(&usual);
        std::iter::from_fn(begun).count()
    };
    thread::scope(|scope| {
        let rounds = scope.spawn(rounds);
        let done = catch_unwind(AssertUnwindSafe(what));
        is_over.store(true, Relaxed);
        let rounds = rounds.join().expect("no error for anybody else");
        (done.unwrap_or_else(|panic| resume_unwind(panic)), rounds)
    })
}

/// What everybody else does: preflights and requests, on a connection that is kept and on fresh ones.
fn usual_round(address: SocketAddr) {
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
fn as_many_files_may_be_open_as_the_hard_limit_allows() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("crossgate.yaml");
    std::fs::write(&path, config(&tenant_config(&RecordingUpstream::answering("hello"), ""))).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64 && exec \"$0\" run --config \"$1\"", env!("CARGO_BIN_EXE_crossgate")]).arg(path);
    let gateway = Process::spawn(command);
    gateway.stderr_line(|line| line.contains("listening role=admin").then_some(()));
    let limits = gateway.proc_file("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line of that name");
    let soft = line.split_whitespace().nth(3).unwrap().parse().ok();
    assert_eq!(soft, getrlimit(Resource::Nofile).maximum, "{line}");
}
