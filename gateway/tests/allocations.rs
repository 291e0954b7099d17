//! A proxied request on kept connections of HTTP/1.1 takes no memory from the allocator.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::alloc::System;
use std::io::{Read, Write, sink};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crossgate::process::{GatewayProcess, ProcessOptions, StopMode};
use crossgate::reload::BrokenTenants;
use crossgate_wire::exchange::RequestEngine;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
runtime: { threads: 1 }
accessLog: { level: LEVEL }
limits: { keepAliveRequests: 1000000 }
upstreams: { a: { servers: ["UPSTREAM"] } }
policies: { spa: { allowOrigins: ["https://app.example"], allowCredentials: true, exposeHeaders: [etag] } }
tenants: [{ id: acme, hosts: [api.example], upstream: a, policy: spa }]
"#;

const REQUEST: &[u8] = b"GET /orders?page=2 HTTP/1.1\r\nHost: api.example\r\nOrigin: https://app.example\r\n\
    Accept: application/json\r\nAccept-Language: en\r\nUser-Agent: Mozilla/5.0\r\nCookie: session=1\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nVary: Accept-Encoding\r\n\
    ETag: \"1\"\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\n{}";

const REQUESTS: usize = 2_000;
/// What tasks of the gateway may allocate while the requests are served.
const ALLOCATIONS_ASIDE_MAX: usize = 50;

/// Answers every request. It allocates for a connection, and for no request.
fn start_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut request = [0; 4096];
                // A head comes in one piece.
                while stream.read(&mut request).is_ok_and(|len| len > 0) {
                    stream.write_all(RESPONSE).unwrap();
                }
            });
        }
    });
    address
}

fn ask(stream: &mut TcpStream, times: usize) {
    let mut response = [0; 4096];
    for _ in 0..times {
        stream.write_all(REQUEST).unwrap();
        let mut len = 0;
        while !response[..len].ends_with(b"\r\n\r\n{}") {
            let read = stream.read(&mut response[len..]).unwrap();
            assert_ne!(read, 0, "{}", response[..len].escape_ascii());
            len += read;
        }
        assert!(response.starts_with(b"HTTP/1.1 200 "));
    }
}

/// The allocations of a gateway that serves some requests with this access log.
fn allocations(log_level: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("crossgate.yaml");
    let text = CONFIG.replace("UPSTREAM", &start_upstream().to_string()).replace("LEVEL", log_level);
    std::fs::write(&config, text).unwrap();
    let options = ProcessOptions { config, broken_tenants: BrokenTenants::Refuse, engine: RequestEngine::default() };
    let process = GatewayProcess::start(&options, sink()).unwrap_or_else(|error| panic!("{error}"));
    let mut stream = TcpStream::connect(process.listening().data[0]).unwrap();
    stream.set_nodelay(true).unwrap();
    // Buffers, counters and connections that are kept are made for the first ones.
    ask(&mut stream, 200);
    let region = Region::new(ALLOCATOR);
    ask(&mut stream, REQUESTS);
    let stats = region.change();
    process.stop(StopMode::AtOnce);
    stats.allocations + stats.reallocations
}

#[test]
fn proxied_request_on_kept_connections_allocates_nothing() {
    let counted = allocations("Off");
    assert!(counted < ALLOCATIONS_ASIDE_MAX, "{counted} allocations by {REQUESTS} requests");
}
