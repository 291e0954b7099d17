//! Limits of upstreams: concurrent requests, queued requests, and an immediate 503 for all others.
use std::fs;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;

use crate::support::{
    Connection, HOST, Http2, ORIGIN, OpenRequest, PATIENCE, RecordingUpstream, Response, Site, WireError,
    assert_allowed, assert_edge_error, assert_never_readable, config, http2_request, request, tenant_config,
};

/// A gate at which requests to `/held` wait until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(is_open, PATIENCE, |is_open| !*is_open).unwrap());
    }
}

/// Starts the usual site with limits, in front of an upstream that echoes bodies.
fn limited(limits: &str) -> (Site, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = RecordingUpstream::start(move |exchange| {
        let (_, body) = exchange.read_body();
        if exchange.seen.target == "/held" {
            held.pass();
        }
        exchange.answer(200, &[], &body)
    });
    let gateway = crate::support::Gateway::start(&text(&upstream, limits), &[]);
    (Site { gateway, upstream }, gate)
}

fn text(upstream: &RecordingUpstream, limits: &str) -> String {
    config(&tenant_config(upstream, &format!(", limits: {{ {limits} }}")))
}

/// Sends a request that occupies a slot until the gate is open.
fn send_held_request(site: &Site) -> Connection {
    let mut connection = site.connect();
    connection.send(&request("GET", "/held", HOST, &[("Origin", ORIGIN)], b"")).unwrap();
    wait_until("asked", || site.upstream.total() > 0);
    connection
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timeout while waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn assert_refused(answer: &Response) {
    assert_edge_error(answer, 503);
    assert_allowed(answer);
    assert!(!answer.headers.has("retry-after"));
}

#[test]
fn request_over_the_queue_limit_gets_503_at_once() {
    let (site, gate) = limited("maxRequests: 1, maxPending: 0");
    let mut held = send_held_request(&site);
    assert_refused(&site.ask("GET", "/", &[]));
    let own = site.gateway.ask("GET", "/", HOST, &[]);
    assert_edge_error(&own, 503);
    assert_never_readable(&own);
    let preflight = [("Access-Control-Request-Method", "PUT")];
    assert_eq!(site.ask("OPTIONS", "/", &preflight).status, 204, "a response of the gateway occupies a slot");
    let refused = |reason| site.gateway.metric("crossgate_upstream_refusals_total", &[("reason", reason)]);
    assert_eq!((refused("limit"), refused("pending_timeout"), refused("no_address")), (2.0, 0.0, 0.0));
    assert_eq!(site.gateway.metric("crossgate_upstream_requests_active", &[]), 1.0);
    let line = site.gateway.process.stdout_line(|line| line.contains("\"note\":\"limit\"").then(|| line.to_owned()));
    assert!(line.contains("\"status\":503") && line.contains("\"upstream\":\"api\""), "{line}");
    gate.open();
    assert_eq!(held.answer_to(b"GET").unwrap().status, 200);
    site.gateway.wait_zero("crossgate_upstream_requests_active", &[]);
    assert_eq!(site.ask("GET", "/", &[]).status, 200);
    assert_eq!(site.upstream.total(), 2);
}

#[test]
fn queued_requests_are_served_in_order_with_their_bodies() {
    let (site, gate) = limited("maxRequests: 1, maxPending: 2, pendingTimeout: 60s");
    let mut held = send_held_request(&site);
    let pending = |wanted| site.gateway.wait_metric("crossgate_upstream_requests_pending", &[], wanted);
    let mut waiting: Vec<Connection> = ["/1", "/2"]
        .iter()
        .zip([1.0, 2.0])
        .map(|(target, nth)| {
            let mut connection = site.connect();
            let whole = request("POST", target, HOST, &[("Origin", ORIGIN)], b"a whole body");
            // Part of the body is sent with the head, the rest while the request is queued.
            connection.send(&whole[..whole.len() - 5]).unwrap();
            pending(nth);
            connection.send(&whole[whole.len() - 5..]).unwrap();
            connection
        })
        .collect();
    assert_refused(&site.ask("GET", "/3", &[]));
    gate.open();
    assert_eq!(held.answer_to(b"GET").unwrap().status, 200);
    for connection in &mut waiting {
        let answer = connection.answer_to(b"GET").unwrap();
        assert_allowed(&answer);
        assert_eq!((answer.status, &*answer.text()), (200, "a whole body"));
    }
    let targets: Vec<_> = site.upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/held", "/1", "/2"]);
}

#[test]
fn queued_request_gets_503_after_the_configured_wait() {
    let (site, gate) = limited("maxRequests: 1, pendingTimeout: 300ms");
    let mut held = send_held_request(&site);
    let begun = Instant::now();
    assert_refused(&site.ask("GET", "/", &[]));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(site.gateway.metric("crossgate_upstream_refusals_total", &[("reason", "pending_timeout")]), 1.0);
    gate.open();
    assert_eq!(held.answer_to(b"GET").unwrap().status, 200);
}

#[test]
fn aborted_request_leaves_the_queue() {
    let (site, gate) = limited("maxRequests: 1, maxPending: 1, pendingTimeout: 300s");
    let mut held = send_held_request(&site);
    for (target, body) in [("/gone", &b""[..]), ("/gone-with-body", b"body")] {
        let mut gone = site.connect();
        gone.send(&request("POST", target, HOST, &[("Origin", ORIGIN)], body)).unwrap();
        site.gateway.wait_metric("crossgate_upstream_requests_pending", &[], 1.0);
        drop(gone);
        if body.is_empty() {
            site.gateway.wait_zero("crossgate_upstream_requests_pending", &[]);
            site.gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], 1.0);
        }
    }
    gate.open();
    assert_eq!(held.answer_to(b"GET").unwrap().status, 200);
    site.gateway.wait_zero("crossgate_upstream_requests_active", &[]);
    assert!(site.upstream.seen().iter().all(|seen| seen.target != "/gone"));
}

#[test]
fn reload_with_equal_limits_keeps_the_queue() {
    let (site, gate) = limited("maxRequests: 1, maxPending: 0");
    let mut held = send_held_request(&site);
    let changed = text(&site.upstream, "maxRequests: 1, maxPending: 0").replace("limits:", "attempts: 1, limits:");
    fs::write(site.gateway.path("next"), changed).unwrap();
    fs::rename(site.gateway.path("next"), site.gateway.path("crossgate.yaml")).unwrap();
    assert_eq!(site.gateway.admin("POST", "/reload").status, 200);
    assert_refused(&site.ask("GET", "/", &[]));
    gate.open();
    assert_eq!(held.answer_to(b"GET").unwrap().status, 200);
    site.gateway.wait_zero("crossgate_upstream_requests_active", &[]);
    assert_eq!(site.ask("GET", "/", &[]).status, 200);
}

#[test]
fn concurrent_requests_never_exceed_the_limit() {
    const CLIENTS: usize = 24;
    const ROUNDS: usize = 10;
    let (now, most) = (Arc::new(Mutex::new(0_usize)), Arc::new(Mutex::new(0_usize)));
    let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
    let upstream = RecordingUpstream::start(move |exchange| {
        let under_way = {
            let mut running = running.lock().unwrap();
            *running += 1;
            *running
        };
        let mut peak = peak.lock().unwrap();
        *peak = under_way.max(*peak);
        drop(peak);
        thread::sleep(Duration::from_millis(1));
        // Before the answer: the client may send its next request before this thread continues.
        *running.lock().unwrap() -= 1;
        exchange.answer(200, &[], b"")
    });
    let gateway =
        crate::support::Gateway::start(&text(&upstream, "maxRequests: 3, maxPending: 100, pendingTimeout: 60s"), &[]);
    let ask = || -> Result<u16, WireError> {
        let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
        Connection::ask(gateway.data, &get).map(|answer| answer.status)
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..ROUNDS).for_each(|_| assert_eq!(ask(), Ok(200))));
        }
    });
    assert!((1..=3).contains(&*most.lock().unwrap()), "{most:?}");
    gateway.wait_zero("crossgate_upstream_requests_active", &[]);
}

#[test]
fn http2_streams_queue_and_abort_like_http1_requests() {
    let (site, gate) = limited("maxRequests: 1, maxPending: 2, pendingTimeout: 300s");
    let mut held = send_held_request(&site);
    let client = Http2::open(site.gateway.data);
    let pending = |wanted| site.gateway.wait_metric("crossgate_upstream_requests_pending", &[], wanted);
    let begin = |target, end| client.begin(http2_request("POST", target, HOST, &[("Origin", ORIGIN)]), end).unwrap();
    // With an open body and without a body: neither is sent to the upstream while it is queued.
    for end in [false, true] {
        let gone = begin("/gone", end);
        pending(1.0);
        let OpenRequest { answer, mut body } = gone;
        body.send_reset(Reason::CANCEL);
        drop(answer);
        site.gateway.wait_zero("crossgate_upstream_requests_pending", &[]);
    }
    let mut waits = begin("/waits", false);
    pending(1.0);
    waits.body.send_data(Bytes::from_static(b"a whole body"), true).unwrap();
    let last = begin("/last", true);
    pending(2.0);
    let refused = client.ask("GET", "/", HOST, &[("Origin", ORIGIN)], b"").unwrap();
    assert_refused(&refused);
    gate.open();
    assert_eq!(held.answer_to(b"GET").unwrap().status, 200);
    let answers = [waits, last].map(|begun| client.answer(begun.answer).unwrap());
    assert_eq!(
        answers.each_ref().map(|answer| (answer.status, answer.text())),
        [(200, "a whole body".to_owned()), (200, String::new())]
    );
    let targets: Vec<_> = site.upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/held", "/waits", "/last"]);
}
