//! Tests of the admin listener over a socket.

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
    is_impaired: AtomicBool,
    is_broken: AtomicBool,
}

impl AdminControl for Fake {
    fn phase(&self) -> ProcessPhase {
        match (self.is_draining.load(SeqCst), self.is_impaired.load(SeqCst)) {
            (true, _) => ProcessPhase::Draining,
            (false, true) => ProcessPhase::Impaired(BackgroundTask::Reload),
            (false, false) => ProcessPhase::Serving,
        }
    }

    fn status(&self) -> Value {
        json!({ "generation": 3 })
    }

    fn reload(&self) -> Result<Value, Value> {
        if self.is_broken.load(SeqCst) { Err(json!({ "errors": ["bad"] })) } else { Ok(json!({ "generation": 4 })) }
    }

    fn origins(&self, origins_query: &OriginsQuery) -> Option<Value> {
        origins_query.tenant.as_ref().is_none_or(|id| id == "acme").then(|| json!({ "limit": origins_query.limit }))
    }

    fn explain(&self, probe: &ExplainedRequest) -> RenderedExplanation {
        let text = format!("fields     {}\ncause      <b>&\"\n", probe.fields.len());
        RenderedExplanation { json: json!({ "fields": probe.fields.len() }), text }
    }

    fn explain_denial(&self, request_id: &str) -> Result<RenderedExplanation, String> {
        match request_id {
            "known" => {
                Ok(RenderedExplanation { json: json!({ "id": "known" }), text: "request id known\n".to_owned() })
            }
            _ => Err("no such denial".to_owned()),
        }
    }
}

struct Fixture {
    address: SocketAddr,
    control: Arc<Fake>,
    _stop: watch::Sender<bool>,
}

fn start() -> Fixture {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let control = Arc::new(Fake::default());
    let access = AdminAccess::new(address, Arc::default(), MetricsAccess::Token, Vec::new()).unwrap();
    let state =
        AdminState { access, metrics: GatewayMetrics::new(), control: Arc::clone(&control) as Arc<dyn AdminControl> };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(serve(TcpListener::from_std(listener).unwrap(), Arc::new(state), stopped));
    Fixture { address, control, _stop: stop }
}

/// Returns the head in lower case, and the body.
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

async fn send_line(fixture: &Fixture, line: &str, status: u16) -> (String, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.address);
    let (head, body) = send(fixture.address, &request).await;
    check_head(&head, status);
    (head, body)
}

#[tokio::test]
async fn every_admin_endpoint_responds() {
    let fixture = start();
    assert_eq!(send_line(&fixture, "GET /livez", 200).await.1, "ok\n");
    assert_eq!(send_line(&fixture, "GET /readyz", 200).await.1, "ok\n");
    assert!(send_line(&fixture, "GET /metrics", 200).await.1.contains("crossgate_build_info{"));
    assert!(send_line(&fixture, "GET /status", 200).await.1.contains("\"generation\": 3"));
    assert!(send_line(&fixture, "GET /explain?host=a&origin=b", 200).await.1.contains("\"fields\": 2"));
    assert!(send_line(&fixture, "GET /origins?tenant=acme&limit=7", 200).await.1.contains("\"limit\": 7"));
    assert!(send_line(&fixture, "POST /reload", 200).await.1.contains("\"generation\": 4"));
}

#[tokio::test]
async fn unknown_admin_paths_methods_and_hosts_are_refused() {
    let fixture = start();
    send_line(&fixture, "GET /unknown", 404).await;
    send_line(&fixture, "GET /metrics/", 404).await;
    send_line(&fixture, "GET http://127.0.0.1/livez", 400).await;
    assert!(send_line(&fixture, "GET /reload", 405).await.0.contains("allow: post"));
    assert!(send_line(&fixture, "POST /metrics", 405).await.0.contains("allow: get, head"));
    assert!(send_line(&fixture, "GET /explain", 400).await.1.contains("no host given"));
    assert!(send_line(&fixture, "GET /origins?limit=0", 400).await.1.contains("from 1 to"));
    send_line(&fixture, "GET /origins?tenant=unknown", 404).await;
    assert!(send_line(&fixture, "POST /origins", 405).await.0.contains("allow: get, head"));
    let (head, _) = send(fixture.address, "GET /status HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    check_head(&head, 421);
}

#[tokio::test]
async fn admin_head_response_has_length_without_body() {
    let fixture = start();
    let (head, body) = send_line(&fixture, "HEAD /livez", 200).await;
    assert!(head.contains("content-length: 3"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn drain_fails_readiness_only() {
    let fixture = start();
    fixture.control.is_draining.store(true, SeqCst);
    send_line(&fixture, "GET /readyz", 503).await;
    send_line(&fixture, "GET /livez", 200).await;
    send_line(&fixture, "GET /metrics", 200).await;
}

#[tokio::test]
async fn refused_reload_returns_its_errors() {
    let fixture = start();
    fixture.control.is_broken.store(true, SeqCst);
    assert!(send_line(&fixture, "POST /reload", 422).await.1.contains("bad"));
}

#[tokio::test]
async fn unexpected_admin_body_does_not_destroy_the_response() {
    let fixture = start();
    let body = "x".repeat(32 << 10);
    let head = format!("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let (head, _) = send(fixture.address, &(head + &body)).await;
    check_head(&head, 200);
}

#[tokio::test]
async fn admin_head_over_the_limits_is_refused() {
    let fixture = start();
    let long = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "y".repeat(20 << 10));
    check_head(&send(fixture.address, &long).await.0, 431);
    check_head(&send(fixture.address, "GET /livez HTTP/1.1\r\n\r\n").await.0, 400);
}

#[tokio::test]
async fn silent_connections_do_not_block_admin_probes() {
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
async fn repeated_authorization_field_is_refused() {
    let fixture = start();
    let request =
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nAuthorization: Bearer y\r\n\r\n";
    check_head(&send(fixture.address, request).await.0, 400);
}

#[tokio::test]
async fn readiness_names_a_stopped_background_task() {
    let fixture = start();
    fixture.control.is_impaired.store(true, SeqCst);
    let (head, body) = send(fixture.address, "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(body, "background task stopped: reload; restart the gateway\n");
    let (head, _) = send(fixture.address, "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}
