//! Thousands of reloads of a large configuration, with requests that keep old snapshots alive.
use std::fs;
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};

use crate::support::{Connection, Gateway, HOST, ORIGIN, RecordingUpstream, config, request};

const RELOADS: usize = 2_000;
/// Reloads after which the memory of the process is settled.
const WARM_UP: usize = 200;
const ENTRIES: usize = 10_000;
/// Requests that begin during the first reloads, each with its own generation, and end after the
/// last one.
const HELD: usize = 50;
const MIB: u64 = 1024 * 1024;

/// Renders the origins of one of two alternating sets.
fn entries(set: usize) -> String {
    (0..ENTRIES).map(|entry| format!("    - https://app{entry}.g{set}.test\n")).collect()
}

fn generation(upstream: SocketAddr, n: usize, entries: &str) -> String {
    config(&format!(
        "accessLog: {{ level: Off }}
upstreams:
  api: {{ servers: [{upstream}], timeouts: {{ head: 1h }} }}
originSets:
  many:
{entries}policies:
  spa: {{ allowOrigins: [\"{ORIGIN}\"], allowOriginSets: [many], exposeHeaders: [x-gen-{n}] }}
tenants:
  - {{ id: a, hosts: [{HOST}], upstream: api, policy: spa }}
"
    ))
}

#[test]
fn two_thousand_reloads_with_pending_requests_do_not_grow_memory() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let upstream = RecordingUpstream::start(move |exchange| {
        released.lock().unwrap().recv().unwrap();
        exchange.answer(200, &[], b"hello")
    });
    let sets = [entries(0), entries(1)];
    let text = |n: usize| generation(upstream.address, n, &sets[n % 2]);
    let gateway = Gateway::start(&text(0), &[]);
    let mut held: Vec<Connection> = Vec::new();
    let mut warm = 0;
    for n in 1..=RELOADS {
        reload(&gateway, &text(n));
        if held.len() < HELD {
            held.push(send_held_request(&gateway, &upstream));
        }
        if n % 100 == 0 {
            println!("{n} reloads: {} KiB", gateway.process.memory("VmRSS") / 1024);
        }
        if n == WARM_UP {
            warm = gateway.process.memory("VmRSS");
        }
    }
    let full = gateway.process.memory("VmRSS");
    assert!(full < warm + warm / 20 + 4 * MIB, "{} MiB after the warm-up, {} MiB at the end", warm / MIB, full / MIB);
    held.iter().for_each(|_| release.send(()).unwrap());
    for (n, mut connection) in held.into_iter().enumerate() {
        let answer = connection.answer_to(b"GET").unwrap();
        assert_eq!(answer.headers.one("access-control-expose-headers"), format!("x-gen-{}", n + 1), "{answer:?}");
    }
}

fn reload(gateway: &Gateway, text: &str) {
    fs::write(gateway.path("new"), text).unwrap();
    fs::rename(gateway.path("new"), gateway.path("crossgate.yaml")).unwrap();
    let report = gateway.admin("POST", "/reload");
    assert_eq!(report.status, 200, "{report:?}");
}

/// Sends a request that the upstream does not answer yet.
fn send_held_request(gateway: &Gateway, upstream: &RecordingUpstream) -> Connection {
    let arrived = upstream.total();
    let mut connection = Connection::open(gateway.data);
    connection.send(&request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    while upstream.total() == arrived {
        std::thread::yield_now();
    }
    connection
}
