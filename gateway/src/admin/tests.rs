//! The listener over a socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;

#[derive(Default)]
struct Fake {
    is_draining: AtomicBool,
    is_broken: AtomicBool,
}

impl Control for Fake {
    fn phase(&self) -> Phase {
        if self.is_draining.load(SeqCst) { Phase::Draining } else { Phase::Serving }
    }

    fn status(&self) -> Value {
        json!({ "generation": 3 })
    }

    fn reload(&self) -> Result<Value, Value> {
        if self.is_broken.load(SeqCst) { Err(json!({ "errors": ["bad"] })) } else { Ok(json!({ "generation": 4 })) }
    }

    fn origins(&self, asked: &Origins) -> Option<Value> {
        asked.tenant.as_ref().is_none_or(|id| id == "acme").then(|| json!({ "limit": asked.limit }))
    }

    fn explain(&self, probe: &Probe) -> Value {
        json!({ "fields": probe.fields.len() })
    }
}

struct Fixture {
    address: SocketAddr,
    control: Arc<Fake>,
    _stop: watch::Sender<bool>,
}

fn start() -> Fixture {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let control = Arc::new(Fake::default());
    let access = Access::new(address, None, MetricsAccess::Token, Vec::new()).unwrap();
    let state = AdminState { access, metrics: Metrics::new(), control: Arc::clone(&control) as Arc<dyn Control> };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, Arc::new(state), stopped));
    Fixture { address, control, _stop: stop }
}

/// The head in lower case, and the body.
async fn send(address: SocketAddr, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[track_caller]
fn check_head(head: &str, status: u16) {
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
    assert!(!head.contains("access-control"), "{head}");
    for field in ["cache-control: no-store", "x-content-type-options: nosniff", "connection: close"] {
        assert!(head.contains(field), "{head}");
    }
}

async fn ask(fixture: &Fixture, line: &str, status: u16) -> (String, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.address);
    let (head, body) = send(fixture.address, &request).await;
    check_head(&head, status);
    (head, body)
}

#[tokio::test]
async fn every_endpoint_answers() {
    let fixture = start();
    assert_eq!(ask(&fixture, "GET /livez", 200).await.1, "ok\n");
    assert_eq!(ask(&fixture, "GET /readyz", 200).await.1, "ok\n");
    assert!(ask(&fixture, "GET /metrics", 200).await.1.contains("crossgate_build_info{"));
    assert!(ask(&fixture, "GET /status", 200).await.1.contains("\"generation\": 3"));
    assert!(ask(&fixture, "GET /explain?host=a&origin=b", 200).await.1.contains("\"fields\": 2"));
    assert!(ask(&fixture, "GET /origins?tenant=acme&limit=7", 200).await.1.contains("\"limit\": 7"));
    assert!(ask(&fixture, "POST /reload", 200).await.1.contains("\"generation\": 4"));
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let fixture = start();
    ask(&fixture, "GET /", 404).await;
    ask(&fixture, "GET /metrics/", 404).await;
    ask(&fixture, "GET http://127.0.0.1/livez", 400).await;
    assert!(ask(&fixture, "GET /reload", 405).await.0.contains("allow: post"));
    assert!(ask(&fixture, "POST /metrics", 405).await.0.contains("allow: get, head"));
    assert!(ask(&fixture, "GET /explain", 400).await.1.contains("no host given"));
    assert!(ask(&fixture, "GET /origins?limit=0", 400).await.1.contains("from 1 to"));
    ask(&fixture, "GET /origins?tenant=nobody", 404).await;
    assert!(ask(&fixture, "POST /origins", 405).await.0.contains("allow: get, head"));
    let (head, _) = send(fixture.address, "GET /status HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    check_head(&head, 421);
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let fixture = start();
    let (head, body) = ask(&fixture, "HEAD /livez", 200).await;
    assert!(head.contains("content-length: 3"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn a_drain_fails_readiness_and_nothing_else() {
    let fixture = start();
    fixture.control.is_draining.store(true, SeqCst);
    ask(&fixture, "GET /readyz", 503).await;
    ask(&fixture, "GET /livez", 200).await;
    ask(&fixture, "GET /metrics", 200).await;
}

#[tokio::test]
async fn a_refused_reload_tells_its_errors() {
    let fixture = start();
    fixture.control.is_broken.store(true, SeqCst);
    assert!(ask(&fixture, "POST /reload", 422).await.1.contains("bad"));
}

#[tokio::test]
async fn a_body_nobody_asked_for_does_not_hide_the_answer() {
    let fixture = start();
    let body = "x".repeat(32 << 10);
    let head = format!("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let (head, _) = send(fixture.address, &(head + &body)).await;
    check_head(&head, 200);
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused() {
    let fixture = start();
    let long = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "y".repeat(20 << 10));
    check_head(&send(fixture.address, &long).await.0, 431);
    check_head(&send(fixture.address, "GET /livez HTTP/1.1\r\n\r\n").await.0, 400);
}

#[tokio::test]
async fn silent_connections_keep_no_probe_out() {
    let fixture = start();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(fixture.address).await.unwrap());
    }
    let request = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.address);
    let (head, _) = timeout(Duration::from_secs(2), send(fixture.address, &request)).await.expect("an answer in time");
    check_head(&head, 200);
}

#[tokio::test]
async fn a_repeated_field_is_refused() {
    let fixture = start();
    let request =
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nAuthorization: Bearer y\r\n\r\n";
    check_head(&send(fixture.address, request).await.0, 400);
}
