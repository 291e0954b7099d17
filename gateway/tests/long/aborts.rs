//! Ten thousand clients that leave in the middle of an upload or a download.
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
/// The length of bodies that never come to their end.
const LENGTH: &str = "1000000";

/// An upstream that begins to answer, or asks for the body, and then waits for the other side's end.
struct Waiting {
    address: SocketAddr,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Waiting {
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
    // A gateway that is gone already is seen by reading.
    let _ = stream.write_all(begin.as_bytes()).await;
    let mut piece = vec![0; 64 * 1024];
    while matches!(stream.read(&mut piece).await, Ok(1..)) {}
}

#[test]
fn ten_thousand_clients_that_leave_in_the_middle_leave_nothing_behind() {
    let upstream = Waiting::start();
    let nobody = RecordingUpstream::answering("");
    let text = tenant_config(&nobody, "").replace(&nobody.address.to_string(), &upstream.address.to_string());
    let gateway = Gateway::start(&config(&format!("{text}accessLog: {{ level: Off }}\n")), &[]);
    (0..50).for_each(|number| come_and_leave(gateway.data, number));
    wait_for_nobody(&gateway, &upstream, 50);
    let (memory, files) = (gateway.process.memory("VmRSS"), gateway.process.entries("fd"));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..EACH).for_each(|number| come_and_leave(gateway.data, number)));
        }
    });
    wait_for_nobody(&gateway, &upstream, 50 + CLIENTS * EACH);
    let grown = gateway.process.memory("VmRSS").saturating_sub(memory) / MIB;
    assert!(grown < 32, "grown by {grown} MiB");
    let deadline = Instant::now() + PATIENCE;
    while gateway.process.entries("fd") > files {
        assert!(Instant::now() < deadline, "{} descriptors after {files}", gateway.process.entries("fd"));
    }
    assert_eq!(gateway.metric("crossgate_upstream_errors_total", &[]), 0.0);
}

/// By turns in an upload and in a download, by an end and by a reset.
fn come_and_leave(gateway: SocketAddr, number: usize) {
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

fn wait_for_nobody(gateway: &Gateway, upstream: &Waiting, all: usize) {
    gateway.wait_gone("crossgate_connections_active", &[]);
    gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], all as f64);
    gateway.wait_metric("crossgate_requests_total", &[], all as f64);
    let deadline = Instant::now() + PATIENCE;
    while upstream.ended.load(SeqCst) < all {
        assert!(Instant::now() < deadline, "{} of {all} were let go", upstream.ended.load(SeqCst));
        thread::yield_now();
    }
    assert_eq!(upstream.begun.load(SeqCst), all);
}
