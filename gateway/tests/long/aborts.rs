//! Ten thousand clients that abort an upload or a download.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, PATIENCE, RecordingUpstream, assert_allowed, config, request, tenant_config,
};

const CLIENTS: usize = 16;
const EACH: usize = 625;
const MIB: u64 = 1024 * 1024;
/// Announced length of bodies that are never complete.
const LENGTH: &str = "1000000";

/// An upstream that sends part of an answer, or 100 Continue, and then waits for the connection's
/// end.
struct WaitingUpstream {
    address: SocketAddr,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl WaitingUpstream {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&begun), Arc::clone(&ended));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (begun, ended) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                tokio::spawn(async move {
                    begun.fetch_add(1, SeqCst);
                    serve(stream).await;
                    ended.fetch_add(1, SeqCst);
                });
            }
        });
        Self { address, begun, ended, _runtime: runtime }
    }
}

async fn serve(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    let begin = if head.starts_with(b"GET ") {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\nhalf")
    } else {
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned()
    };
    // If the gateway has closed already, the read below ends.
    let _ = stream.write_all(begin.as_bytes()).await;
    let mut piece = vec![0; 64 * 1024];
    while matches!(stream.read(&mut piece).await, Ok(1..)) {}
}

#[test]
fn ten_thousand_aborted_transfers_leak_nothing() {
    let upstream = WaitingUpstream::start();
    let placeholder = RecordingUpstream::answering("");
    let text = tenant_config(&placeholder, "").replace(&placeholder.address.to_string(), &upstream.address.to_string());
    let gateway = Gateway::start(&config(&format!("{text}accessLog: {{ level: Off }}\n")), &[]);
    (0..50).for_each(|number| abort_transfer(gateway.data, number));
    wait_for_no_connection(&gateway, &upstream, 50);
    let (memory, files) = (gateway.process.memory("VmRSS"), gateway.process.entries("fd"));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..EACH).for_each(|number| abort_transfer(gateway.data, number)));
        }
    });
    wait_for_no_connection(&gateway, &upstream, 50 + CLIENTS * EACH);
    let grown = gateway.process.memory("VmRSS").saturating_sub(memory) / MIB;
    assert!(grown < 32, "grown by {grown} MiB");
    let deadline = Instant::now() + PATIENCE;
    while gateway.process.entries("fd") > files {
        assert!(Instant::now() < deadline, "{} descriptors after {files}", gateway.process.entries("fd"));
    }
    assert_eq!(gateway.metric("crossgate_upstream_errors_total", &[]), 0.0);
}

/// Aborts an upload or a download, by a close or by a reset, depending on `number`.
fn abort_transfer(gateway: SocketAddr, number: usize) {
    let mut connection = Connection::open(gateway);
    if number.is_multiple_of(2) {
        connection.send(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
        assert_allowed(&connection.head().unwrap());
    } else {
        let fields = [("Origin", ORIGIN), ("Expect", "100-continue"), ("Content-Length", LENGTH)];
        connection.send(&request("PUT", "/", HOST, &fields, b"")).unwrap();
        assert_eq!(connection.head().unwrap().status, 100);
        connection.send(&[b'x'; 20_000]).unwrap();
    }
    if number % 4 < 2 {
        SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn wait_for_no_connection(gateway: &Gateway, upstream: &WaitingUpstream, all: usize) {
    gateway.wait_zero("crossgate_connections_active", &[]);
    gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], all as f64);
    gateway.wait_metric("crossgate_requests_total", &[], all as f64);
    let deadline = Instant::now() + PATIENCE;
    while upstream.ended.load(SeqCst) < all {
        assert!(Instant::now() < deadline, "{} of {all} upstream connections were closed", upstream.ended.load(SeqCst));
        thread::yield_now();
    }
    assert_eq!(upstream.begun.load(SeqCst), all);
}
