//! Tests of whole gateways in process: start, status and stop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use tempfile::TempDir;

use super::*;
use crate::explain::explain;
use crate::probe::RequestDescription;

mod corpus;
mod differential;
mod exchanges;
mod faults;
mod harness;
mod http1;
mod lane;
mod streams;
mod traps;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "DATA" }]
admin: { address: "127.0.0.1:0" }
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies: { spa: { allowOrigins: ["https://app.example"], allowMethods: [PUT] } }
tenants: [{ id: acme, hosts: [api.example], upstream: a, policy: spa }]
"#;

fn start(config: &str) -> (Result<GatewayProcess, StartError>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, config).unwrap();
    let options =
        ProcessOptions { config: path, broken_tenants: BrokenTenants::Refuse, engine: RequestEngine::default() };
    (GatewayProcess::start(&options, std::io::sink()), dir)
}

fn good() -> (GatewayProcess, TempDir) {
    let (process, dir) = start(&CONFIG.replace("DATA", "127.0.0.1:0"));
    (process.unwrap_or_else(|error| panic!("{error}")), dir)
}

/// The status and the fields of an answer, names in lower case, without date, connection and id.
fn ask(address: SocketAddr, head: &[u8]) -> (u16, BTreeMap<String, String>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.write_all(head).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() > 0 {
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let mut lines = answer.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let skipped = ["date", "connection", "x-request-id"];
    (status, fields.filter(|(name, _)| !skipped.contains(&name.as_str())).collect())
}

#[test]
fn taken_port_is_a_start_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (process, _dir) = start(&CONFIG.replace("DATA", &taken.local_addr().unwrap().to_string()));
    let error = process.err().unwrap();
    assert!(error.to_string().contains("cannot listen on"), "{error}");
}

#[test]
fn configuration_mistakes_are_start_errors_with_location() {
    let (process, _dir) = start("version: 1\nlisteners: []\nupstream: {}\n");
    let error = process.err().unwrap();
    assert!(matches!(error, StartError::Config(_)));
    assert!(error.to_string().contains("gateway.yaml:3:1"), "{error}");
}

#[test]
fn idle_gateway_stops_without_waiting() {
    let (process, _dir) = good();
    let began = Instant::now();
    assert_eq!(process.stop(StopMode::Gracefully), 0);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn draining_gateway_fails_the_readiness_probe() {
    let (process, _dir) = good();
    let admin = process.listening().admin.unwrap();
    let ready = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(ask(admin, ready).0, 200);
    process.control.drain();
    assert_eq!(ask(admin, ready).0, 503);
    process.stop(StopMode::AtOnce);
}

#[test]
fn explanation_equals_the_actual_response() {
    let (process, _dir) = good();
    let snapshot = process.reloader().current().latest();
    for query in [
        "host=api.example&origin=https://app.example&method=PUT&request-headers=",
        "host=api.example&origin=https://app.example&method=PUT&request-headers=x-a",
        "host=api.example&origin=https://app.example&method=DELETE&request-headers=",
        "host=api.example&origin=https://evil.example",
        "host=api.example&origin=null&method=HEAD",
        "host=api.example&header=origin:HTTPS://app.example&method=POST&header=content-length:0",
        "host=other.example",
        "host=api.example&path=/%ZZ",
        "host=api.example&method=TRACE",
        "host=api.example&header=host:b",
    ] {
        let probe = RequestDescription::from_query(query).and_then(RequestDescription::into_request).unwrap();
        let explained = explain(&snapshot, &probe).response;
        let headers = explained.headers.into_iter().filter(|(name, _)| name != "x-request-id");
        let expected = (explained.status.unwrap(), headers.collect());
        assert_eq!(ask(process.listening().data[0], &probe.head()), expected, "{query}");
    }
    process.stop(StopMode::AtOnce);
}
