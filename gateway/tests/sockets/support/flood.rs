//! A flood of preflights with known counts: pipelined, on many connections to two listeners, during
//! scrapes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use super::gateway::{Gateway, recorded};
use super::site::{HOST, ORIGIN, tenant_config};
use super::upstream::RecordingUpstream;
use super::wire::{Connection, request};

const CONNECTIONS: usize = 8;
const BATCH: usize = 100;

/// The number in each batch, origin, method, and the labels that count them.
const MIX: [(usize, &str, &str, [&str; 2]); 3] = [
    (60, ORIGIN, "PUT", ["allow", "exact"]),
    (25, "https://evil.test", "PUT", ["deny", "no_match"]),
    (15, ORIGIN, "PATCH", ["deny", "method"]),
];

/// Sends `total` preflights and checks the counts during the flood and at its end.
pub(crate) fn counted_flood(total: usize) {
    let upstream = RecordingUpstream::answering("hello");
    let listeners = "version: 1\nlisteners: [{ address: 127.0.0.1:0 }, { address: 127.0.0.1:0 }]\nadmin: { address: 127.0.0.1:0 }\n";
    let limits = "limits: { keepAliveRequests: 1000000 }\naccessLog: { level: Off }\n";
    let gateway = Gateway::start(&format!("{listeners}{}{limits}", tenant_config(&upstream, "")), &[]);
    let listeners = gateway.data_listeners();
    assert_eq!(listeners.len(), 2);
    let is_over = AtomicBool::new(false);
    let scrapes = thread::scope(|scope| {
        let batches = total / BATCH / CONNECTIONS;
        let each = |connection: usize| listeners[connection % listeners.len()];
        let floods: Vec<_> = (0..CONNECTIONS).map(|number| scope.spawn(move || flood(each(number), batches))).collect();
        let scrapes = scope.spawn(|| scrape(&gateway, total, &is_over));
        let ended: Vec<_> = floods.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, SeqCst);
        ended.into_iter().for_each(|flood| flood.expect("every preflight has the expected answer"));
        scrapes.join().expect("no count decreased or exceeded the requests sent")
    });
    assert!(scrapes > 3, "too few scrapes");
    assert_counted(&gateway, total);
    assert_eq!(upstream.total(), 0);
}

fn flood(listener: SocketAddr, batches: usize) {
    let of = |origin: &str, method: &str| {
        request("OPTIONS", "/", HOST, &[("Origin", origin), ("Access-Control-Request-Method", method)], b"")
    };
    let batch: Vec<u8> = MIX.iter().flat_map(|(times, origin, method, _)| of(origin, method).repeat(*times)).collect();
    let mut connection = Connection::open(listener);
    for _ in 0..batches {
        connection.send(&batch).unwrap();
        for (times, .., [_, reason]) in MIX {
            let status = if reason == "no_match" { 403 } else { 204 };
            for _ in 0..times {
                assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, status);
            }
        }
    }
}

/// Scrapes until the flood is over. Returns the number of scrapes.
fn scrape(gateway: &Gateway, total: usize, is_over: &AtomicBool) -> usize {
    let (mut before, mut scrapes) = (0.0, 0);
    while !is_over.load(SeqCst) {
        let now = gateway.metric("crossgate_requests_total", &[]);
        assert!(now >= before && now <= total as f64, "{now} after {before}");
        (before, scrapes) = (now, scrapes + 1);
    }
    scrapes
}

fn assert_counted(gateway: &Gateway, total: usize) {
    gateway.wait_metric("crossgate_requests_total", &[], total as f64);
    assert_eq!(recorded(&gateway.origins("tenant=a&limit=10000")), total as u64);
    for (times, .., [verdict, reason]) in MIX {
        let labels = [("tenant", "a"), ("kind", "preflight"), ("verdict", verdict), ("reason", reason)];
        let counted = gateway.metric("crossgate_requests_total", &labels);
        assert_eq!(counted, (total / BATCH * times) as f64, "{labels:?}");
    }
    for (times, origin, verdict) in [(60, ORIGIN, "allow"), (15, ORIGIN, "deny"), (25, "other", "deny")] {
        let labels = [("tenant", "a"), ("origin", origin), ("verdict", verdict)];
        let counted = gateway.metric("crossgate_origin_requests_total", &labels);
        assert_eq!(counted, (total / BATCH * times) as f64, "{labels:?}");
    }
}
