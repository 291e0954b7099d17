//! Injected panics at every stage of a request: each ends only its own connection, or over HTTP/2
//! its own stream, and is counted once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use super::harness::{Gateway, Sent};
use crate::fault;
use crate::process::*;

const CLIENTS: usize = 4;
const ROUNDS: usize = 40;
/// The stages, the method that passes each, and whether the request is counted by its verdict.
const PLACES: [(&str, &str, bool); 7] = [
    ("judging", "OPTIONS", false),
    ("answering", "OPTIONS", false),
    ("judging", "GET", false),
    ("request-filter", "GET", true),
    ("upstream-request-filter", "GET", true),
    ("response-filter", "GET", true),
    ("logging", "GET", true),
];

/// More than the window of a stream, and less than that of a connection.
const LARGE_LEN: usize = 300_000;

/// An upstream that answers every request; requests have no body.
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
                        let head: Vec<u8> = seen.drain(..end + 4).collect();
                        let len = if head.starts_with(b"GET /large ") { LARGE_LEN } else { 2 };
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{}", "o".repeat(len));
                        // A client that has given up is not an error.
                        let _is_sent = stream.write_all(answer.as_bytes());
                    }
                }
            });
        }
    });
    address
}

/// Checks the counted responses: tenant, class, source and count.
fn check_responses(gateway: &Gateway, expected: &[(&str, &str, &str, usize)]) {
    for (tenant, class, by, count) in expected {
        let labels = format!("tenant=\"{tenant}\",class=\"{class}\",by=\"{by}\"");
        gateway.wait_metric(&format!("crossgate_responses_total{{{labels}}}"), *count);
    }
    let counted = gateway.counts().into_iter().filter(|line| line.starts_with("crossgate_responses_total{"));
    assert_eq!(counted.count(), expected.len(), "no other series: {:?}", gateway.counts());
    gateway.wait_metric("crossgate_requests_active", 0);
}

fn start() -> Gateway {
    let config = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
upstreams: { a: { servers: ["UPSTREAM"] } }
policies: { spa: { allowOrigins: ["https://app.test"], allowMethods: [PUT] } }
tenants: [{ id: acme, hosts: [api.test], upstream: a, policy: spa }]
"#;
    Gateway::start(&config.replace("UPSTREAM", &upstream().to_string()), &[], RequestEngine::Direct)
}

fn request(method: &str, target: &str, connection: &str) -> Vec<u8> {
    let requested = if method == "OPTIONS" { "Access-Control-Request-Method: PUT\r\n" } else { "" };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: api.test\r\nOrigin: https://app.test\r\n");
    format!("{head}{requested}Connection: {connection}\r\n\r\n").into_bytes()
}

/// Two requests that are answered, and end their connection.
fn good(method: &str) -> Vec<u8> {
    [request(method, "/", "keep-alive"), request(method, "/", "close")].concat()
}

#[test]
fn panic_at_any_stage_ends_one_connection_and_is_counted_once() {
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
    let after_answer = struck(|(place, ..)| *place == "logging");
    let unanswered = struck(|(place, _, is_counted)| *is_counted && *place != "logging");
    check_responses(
        &gateway,
        &[
            ("acme", "2xx", "gateway", answered),
            ("acme", "2xx", "upstream", answered + after_answer),
            ("acme", "none", "none", unanswered),
            ("none", "none", "none", struck(|(.., is_counted)| !is_counted)),
        ],
    );
}

type Client = h2::client::SendRequest<bytes::Bytes>;

/// The head of an answer, with its body.
async fn ask(client: &mut Client, method: &str, target: &str) -> Result<http::Response<h2::RecvStream>, h2::Error> {
    let request = http::Request::builder().method(method).uri(format!("http://api.test{target}"));
    let request = request.header("origin", "https://app.test").header("access-control-request-method", "PUT");
    let (answer, _) = client.send_request(request.body(()).unwrap(), true)?;
    answer.await
}

/// The length of the body.
async fn len(answer: http::Response<h2::RecvStream>) -> Result<usize, h2::Error> {
    let (mut body, mut len) = (answer.into_body(), 0);
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        len += piece.len();
    }
    Ok(len)
}

#[test]
fn panic_resets_one_http2_stream_and_the_others_continue() {
    let gateway = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let struck = ROUNDS * PLACES.len();
    let judged = ROUNDS * PLACES.iter().filter(|(.., is_counted)| *is_counted).count();
    // The connection's task answers preflights.
    let lane = ROUNDS * PLACES.iter().filter(|(_, method, _)| *method == "OPTIONS").count();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(gateway.data()).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(1 << 20);
        let (mut client, connection) = builder.handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        // A response in progress all the time: its body is larger than the stream's window.
        let large = ask(&mut client, "GET", "/large").await.unwrap();
        for (place, method, _) in PLACES.iter().cycle().take(struck) {
            let bad = match ask(&mut client, method, &format!("{}{place}", fault::PATH)).await {
                Ok(answer) => len(answer).await,
                Err(error) => Err(error),
            };
            match bad {
                Ok(len) => assert_eq!((*place, len), ("logging", 2)),
                Err(error) => assert!(error.is_reset() && error.is_remote(), "{place}: {error}"),
            }
            for (method, status) in [("OPTIONS", 204), ("GET", 200)] {
                assert_eq!(ask(&mut client, method, "/").await.unwrap().status(), status, "after {place}");
            }
        }
        assert_eq!(len(large).await.unwrap(), LARGE_LEN);
        drop(client);
        connection.await.unwrap().unwrap();
    });
    gateway.wait_metric("crossgate_panics_total{place=\"proxy\"}", struck - lane);
    gateway.wait_metric("crossgate_panics_total{place=\"lane\"}", lane);
    for (kind, count) in [("preflight", struck), ("actual", struck + judged + 1)] {
        let labels = format!("tenant=\"acme\",kind=\"{kind}\",verdict=\"allow\",reason=\"exact\"");
        gateway.wait_metric(&format!("crossgate_requests_total{{{labels}}}"), count);
    }
    gateway.wait_metric("crossgate_http2_connections_total", 1);
    gateway.wait_metric("crossgate_http2_requests_total", 3 * struck + 1);
    gateway.wait_metric("crossgate_connections_active", 0);
    check_responses(
        &gateway,
        &[
            ("acme", "2xx", "gateway", struck),
            ("acme", "2xx", "upstream", struck + 1 + ROUNDS),
            ("acme", "none", "none", judged - ROUNDS),
            ("none", "none", "none", struck - judged),
        ],
    );
}
