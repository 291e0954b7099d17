//! Bugs on purpose, at every place that a request passes: each ends its own connection, is counted once, and is noticed by nobody else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use super::harness::{Gateway, Sent};
use super::*;
use crate::fault;

const CLIENTS: usize = 4;
const ROUNDS: usize = 40;
/// The places, whether a preflight passes there, and whether it is counted by its verdict all the same.
const PLACES: [(&str, &str, bool); 7] = [
    ("judging", "OPTIONS", false),
    ("answering", "OPTIONS", false),
    ("judging", "GET", false),
    ("request-filter", "GET", true),
    ("upstream-request-filter", "GET", true),
    ("response-filter", "GET", true),
    ("logging", "GET", true),
];

/// Answers every request, which has no body.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
                while let Ok(len @ 1..) = stream.read(&mut chunk) {
                    seen.extend_from_slice(&chunk[..len]);
                    while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                        seen.drain(..end + 4);
                        // Whoever gave up has its reasons.
                        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                }
            });
        }
    });
    address
}

fn start() -> Gateway {
    let config = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
upstreams: { a: { servers: ["UPSTREAM"] } }
policies: { spa: { allowOrigins: ["https://app.test"], allowMethods: [PUT] } }
tenants: [{ id: acme, hosts: [api.test], upstream: a, policy: spa }]
"#;
    Gateway::start(&config.replace("UPSTREAM", &upstream().to_string()), &[], Answers::Preflights)
}

fn request(method: &str, target: &str, connection: &str) -> Vec<u8> {
    let requested = if method == "OPTIONS" { "Access-Control-Request-Method: PUT\r\n" } else { "" };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: api.test\r\nOrigin: https://app.test\r\n");
    format!("{head}{requested}Connection: {connection}\r\n\r\n").into_bytes()
}

/// Two that are answered, and end their connection.
fn good(method: &str) -> Vec<u8> {
    [request(method, "/", "keep-alive"), request(method, "/", "close")].concat()
}

#[test]
fn a_bug_at_any_place_ends_one_connection_and_is_counted_once() {
    let gateway = start();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let gateway = &gateway;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let (place, method, _) = PLACES[(round + client) % PLACES.len()];
                    let bad =
                        gateway.send(&Sent::at_once(request(method, &format!("{}{place}", fault::PATH), "close")));
                    assert!(bad.is_empty() || place == "logging", "{place}: {bad:?}");
                    for (method, status) in [("OPTIONS", 204), ("GET", 200)] {
                        let answers = gateway.send(&Sent::at_once(good(method)));
                        assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [status, status]);
                    }
                }
            });
        }
    });
    let struck = |counts: fn(&(&str, &str, bool)) -> bool| {
        let turns = (0..CLIENTS).flat_map(|client| (0..ROUNDS).map(move |round| (round + client) % PLACES.len()));
        turns.filter(|place| counts(&PLACES[*place])).count()
    };
    let lane = struck(|(_, method, _)| *method == "OPTIONS");
    gateway.wait_metric("crossgate_panics_total{place=\"lane\"}", lane);
    gateway.wait_metric("crossgate_panics_total{place=\"proxy\"}", struck(|_| true) - lane);
    let answered = 2 * CLIENTS * ROUNDS;
    for (kind, judged) in [("preflight", 0), ("actual", struck(|(_, _, is_counted)| *is_counted))] {
        let labels = format!("tenant=\"acme\",kind=\"{kind}\",verdict=\"allow\",reason=\"exact\"");
        gateway.wait_metric(&format!("crossgate_requests_total{{{labels}}}"), answered + judged);
    }
    gateway.wait_metric("crossgate_connections_active", 0);
}
