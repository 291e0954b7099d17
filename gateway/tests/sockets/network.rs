//! Network faults between the gateway and its upstream: the outcome of each fault, in each
//! direction, for a GET and a POST.
//!
//! The expected outcome of every cell is listed. Each outcome comes in time, and the next request
//! is answered normally.
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Direction, Fault, FaultyNetwork, Gateway, Http2, Http2Upstream, ORIGIN, RecordingUpstream, Response,
    Then, WireError, assert_allowed, assert_edge_error, config, request, tenant_config, tenant_config_at,
};

/// Body of requests and answers: longer than any fault lets through.
const BODY: [u8; 16 * 1024] = [b'x'; 16 * 1024];
/// Shorter than a head.
const PART_OF_HEAD: usize = 40;
/// Longer than a head, shorter than an answer.
const PART_OF_BODY: usize = 4 * 1024;
/// Shorter than the gateway's time limits.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes per second: a body takes a quarter of a second.
const RATE: usize = 64 * 1024;
const TIMEOUTS: &str = ", timeouts: { connect: 4s, head: 4s, idle: 4s }";
/// The gateway's time limits, two attempts, and a margin for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Result for the client.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// The whole answer of the upstream.
    Whole,
    /// An error response of the gateway, which an allowed page can read.
    Error(u16),
    /// A detectably truncated answer, or 502 if the fault is found before the head is forwarded.
    Cut,
}

use Fault::{Bandwidth, Latency, Limit, Reset, Silence, Slicer, SlowClose};
use Outcome::{Cut, Error, Whole};

/// Outcomes for GET and POST.
const CELLS: [(Fault, Direction, Outcome); 16] = [
    (Latency(PAUSE), Direction::Up, Whole),
    (Latency(PAUSE), Direction::Down, Whole),
    (SlowClose(PAUSE), Direction::Up, Whole),
    (SlowClose(PAUSE), Direction::Down, Whole),
    (Silence(0), Direction::Up, Error(504)),
    (Silence(PART_OF_HEAD), Direction::Up, Error(504)),
    (Silence(0), Direction::Down, Error(504)),
    (Silence(PART_OF_BODY), Direction::Down, Cut),
    (Reset(PART_OF_HEAD), Direction::Up, Error(502)),
    (Reset(PART_OF_BODY), Direction::Down, Cut),
    (Slicer(100), Direction::Up, Whole),
    (Slicer(100), Direction::Down, Whole),
    (Limit(PART_OF_HEAD), Direction::Up, Error(502)),
    (Limit(PART_OF_BODY), Direction::Down, Cut),
    (Bandwidth(RATE), Direction::Up, Whole),
    (Bandwidth(RATE), Direction::Down, Whole),
];

#[test]
fn network_faults_over_http2_give_a_whole_answer_or_an_error() {
    let upstream = Http2Upstream::start(|asked| async move { asked.answer(200, &[], &BODY).await });
    let runtime = FaultyNetwork::runtime();
    // The HTTP/2 preface and settings are longer than `PART_OF_HEAD`.
    let shift = |fault: Fault| match fault {
        Silence(at) => Silence(at * 4),
        Reset(at) => Reset(at * 4),
        Limit(at) => Limit(at * 4),
        Latency(_) | SlowClose(_) | Slicer(_) | Bandwidth(_) => fault,
    };
    let cells: Vec<_> = CELLS
        .iter()
        .flat_map(|(fault, way, wanted)| ["GET", "POST"].map(|method| (shift(*fault), *way, *wanted, method)))
        .map(|(fault, way, wanted, method)| {
            (fault, way, wanted, method, FaultyNetwork::start(&runtime, upstream.address, fault, way))
        })
        .collect();
    let gateway =
        before(&tenant_config_at(upstream.address, ""), ", protocol: Http2", cells.iter().map(|cell| cell.4.address));
    thread::scope(|scope| {
        for (index, (fault, way, wanted, method, network)) in cells.iter().enumerate() {
            let (gateway, cell) = (&gateway, format!("HTTP/2 {fault:?} {way:?} {method}"));
            scope.spawn(move || check(gateway, index, method, network, *wanted, &cell, &["/"]));
        }
    });
    gateway.wait_zero("crossgate_connections_active", &[]);
}

#[test]
fn network_faults_give_a_whole_answer_or_an_error_in_time() {
    // For this target the close of the connection ends the answer.
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.read_body();
        if exchange.seen.target == "/until-closed" {
            exchange.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            exchange.write(&BODY);
            return Then::Close;
        }
        exchange.answer(200, &[], &BODY)
    });
    let runtime = FaultyNetwork::runtime();
    let methods = ["GET", "POST"];
    let each = CELLS.iter().flat_map(|cell| methods.map(|method| (cell, method)));
    let cells: Vec<_> = each
        .map(|(cell, method)| (cell, method, FaultyNetwork::start(&runtime, upstream.address, cell.0, cell.1)))
        .collect();
    let usual = tenant_config(&upstream, "");
    let gateway = before(&usual, "", cells.iter().map(|(.., network)| network.address));
    thread::scope(|scope| {
        for (index, ((fault, way, wanted), method, network)) in cells.iter().enumerate() {
            let (gateway, cell) = (&gateway, format!("{fault:?} {way:?} {method}"));
            // A truncated answer that is delimited by the connection's close looks whole.
            let targets = if matches!(wanted, Whole) { ["/", "/until-closed"].as_slice() } else { &["/"] };
            scope.spawn(move || check(gateway, index, method, network, *wanted, &cell, targets));
        }
    });
    gateway.wait_zero("crossgate_connections_active", &[]);
}

/// Starts a gateway with one tenant per network.
fn before(usual: &str, options: &str, networks: impl Iterator<Item = SocketAddr>) -> Gateway {
    let (_, policies) = usual.split_once("\npolicies:").unwrap();
    let (policies, _) = policies.split_once("tenants:").unwrap();
    let (mut upstreams, mut tenants) = (String::new(), String::new());
    for (index, address) in networks.enumerate() {
        writeln!(upstreams, "  u{index}: {{ servers: [{address}]{TIMEOUTS}{options} }}").unwrap();
        writeln!(tenants, "  - {{ id: t{index}, hosts: [{}], upstream: u{index}, policy: spa }}", host(index)).unwrap();
    }
    Gateway::start(&config(&format!("upstreams:\n{upstreams}policies:{policies}tenants:\n{tenants}")), &[])
}

fn host(index: usize) -> String {
    format!("api.n{index}.test")
}

fn check(
    gateway: &Gateway,
    index: usize,
    method: &str,
    network: &FaultyNetwork,
    wanted: Outcome,
    cell: &str,
    targets: &[&str],
) {
    let asked = |method: &str, target: &str| {
        let body = if method == "POST" { BODY.as_slice() } else { b"" };
        request(method, target, &host(index), &[("Origin", ORIGIN)], body)
    };
    for target in targets {
        let (begun, mut connection) = (Instant::now(), Connection::open(gateway.data));
        // An answer may come before the whole request was read.
        let _ = connection.send(&asked(method, target));
        let answer = connection.answer_to(method.as_bytes());
        assert!(begun.elapsed() < ENDS_WITHIN, "{cell} {target}: {:?}", begun.elapsed());
        assert_outcome(answer, wanted, &format!("{cell} {target}"));
        let begun = Instant::now();
        let answer = ask_over_http2(gateway, method, target, &host(index));
        assert!(begun.elapsed() < ENDS_WITHIN, "{cell} {target} over HTTP/2: {:?}", begun.elapsed());
        assert_outcome(answer, wanted, &format!("{cell} {target} over HTTP/2"));
    }
    network.stop_faults();
    for method in ["GET", "POST", "GET"] {
        let answer = Connection::ask(gateway.data, &asked(method, "/"));
        assert_outcome(answer, Outcome::Whole, &format!("{method} after {cell}"));
    }
}

/// Sends the request over HTTP/2. A reset stream counts as a reset connection.
fn ask_over_http2(gateway: &Gateway, method: &str, target: &str, host: &str) -> Result<Response, WireError> {
    let body = if method == "POST" { BODY.as_slice() } else { b"" };
    let answer = Http2::open(gateway.data).ask(method, target, host, &[("Origin", ORIGIN)], body);
    answer.map_err(|error| match error.is_reset() {
        true => WireError::Reset,
        false => panic!("the connection: {error}"),
    })
}

fn assert_outcome(answer: Result<Response, WireError>, wanted: Outcome, cell: &str) {
    match (wanted, answer) {
        (Whole, Ok(answer)) => {
            assert_allowed(&answer);
            assert!(answer.status == 200 && answer.body == BODY, "{cell}: {} {}", answer.status, answer.body.len());
        }
        (Error(status), Ok(answer)) => {
            assert_eq!(answer.status, status, "{cell}: {answer:?}");
            assert_edge_error(&answer, status);
            assert_allowed(&answer);
        }
        (Cut, Ok(answer)) => {
            assert_eq!(answer.status, 502, "{cell}: {answer:?}");
            assert_edge_error(&answer, 502);
            assert_allowed(&answer);
        }
        (Cut, Err(WireError::Truncated | WireError::Reset)) => {}
        (_, other) => panic!("{cell}: {other:?} instead of {wanted:?}"),
    }
}
