//! Whole gateways in process: they start, tell of themselves, and stop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use tempfile::TempDir;

use super::*;
use crate::explain::explain;
use crate::explain::probe::Description;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "DATA" }]
admin: { address: "127.0.0.1:0" }
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies: { spa: { allowOrigins: ["https://app.example"], allowMethods: [PUT] } }
tenants: [{ id: acme, hosts: [api.example], upstream: a, policy: spa }]
"#;

fn start(config: &str) -> (Result<Process, StartError>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, config).unwrap();
    let options = Options { config: path, broken_tenants: BrokenTenants::Refuse, answers: Answers::default() };
    (Process::start(&options, std::io::sink()), dir)
}

fn good() -> (Process, TempDir) {
    let (process, dir) = start(&CONFIG.replace("DATA", "127.0.0.1:0"));
    (process.unwrap_or_else(|error| panic!("{error}")), dir)
}

/// Status, and the fields but for those of the connection and the id, names in lower case.
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
fn a_taken_port_binds_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (process, _dir) = start(&CONFIG.replace("DATA", &taken.local_addr().unwrap().to_string()));
    let error = process.err().unwrap();
    assert!(error.to_string().contains("cannot listen on"), "{error}");
}

#[test]
fn mistakes_in_the_configuration_are_told_at_their_place() {
    let (process, _dir) = start("version: 1\nlisteners: []\nupstream: {}\n");
    let error = process.err().unwrap();
    assert!(matches!(error, StartError::Config(_)));
    assert!(error.to_string().contains("gateway.yaml:3:1"), "{error}");
}

#[test]
fn an_idle_gateway_stops_at_once() {
    let (process, _dir) = good();
    let began = Instant::now();
    assert_eq!(process.stop(Stop::Gracefully), 0);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_drain_is_seen_by_the_readiness_probe() {
    let (process, _dir) = good();
    let admin = process.listening().admin.unwrap();
    let ready = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(ask(admin, ready).0, 200);
    process.control.drain();
    assert_eq!(ask(admin, ready).0, 503);
    process.stop(Stop::AtOnce);
}

#[test]
fn an_explanation_is_what_happens() {
    let (process, _dir) = good();
    let snapshot = process.reloader().current().latest();
    for query in [
        "host=api.example&origin=https://app.example&method=PUT&request-headers=",
        "host=api.example&origin=https://app.example&method=PUT&request-headers=x-a",
        "host=api.example&origin=https://app.example&method=DELETE&request-headers=",
        "host=api.example&origin=https://evil.example",
        "host=api.example&origin=null&method=HEAD",
        "host=api.example&origin=HTTPS://app.example&method=POST&header=content-length:0",
        "host=other.example",
        "host=api.example&path=/%ZZ",
        "host=api.example&method=TRACE",
        "host=api.example&header=host:b",
    ] {
        let probe = Description::from_query(query).and_then(Description::into_probe).unwrap();
        let told = explain(&snapshot, &probe).response;
        let headers = told.headers.into_iter().filter(|(name, _)| name != "x-request-id");
        let expected = (told.status.unwrap(), headers.collect());
        assert_eq!(ask(process.listening().data[0], &probe.head()), expected, "{query}");
    }
    process.stop(Stop::AtOnce);
}
