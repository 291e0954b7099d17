//! Idle connections to servers: reused while they are open, and no request fails because one was
//! closed.

use std::collections::HashMap;
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Connection, Exchange, HOST, PATIENCE, RecordingUpstream, Site, Then, request, tenant_config};
use crate::support::{Gateway, config};

/// Answers, closes the connection and signals the close.
fn answer_and_close(exchange: &mut Exchange, closed: &Mutex<mpsc::Sender<()>>, more: &[(&str, &str)]) -> Then {
    exchange.answer(200, more, b"hello");
    exchange.close();
    closed.lock().unwrap().send(()).unwrap();
    Then::Close
}

#[test]
fn a5_closed_idle_connection_is_not_used() {
    let (closed, closes) = mpsc::channel();
    let closed = Mutex::new(closed);
    let site = Site::scripted(move |exchange| answer_and_close(exchange, &closed, &[]));
    for round in 0..300 {
        for method in ["POST", "PATCH", "PUT", "GET"] {
            let body: &[u8] = if method == "GET" { b"" } else { b"body" };
            let answer = Connection::ask(site.gateway.data, &request(method, "/", HOST, &[], body)).unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{method} {round}");
            closes.recv_timeout(PATIENCE).unwrap();
        }
    }
    assert_eq!(site.upstream.total(), 1_200, "a request was sent twice");
    assert_eq!(site.gateway.metric("crossgate_upstream_errors_total", &[]), 0.0);
}

/// Starts a gateway whose server never closes a connection. The receiver gets the time for which
/// the gateway kept it open.
fn start_measuring_idle_time(
    options: &str,
    headers: &'static [(&'static str, &'static str)],
) -> (Site, mpsc::Receiver<Duration>) {
    let (ended, ends) = mpsc::channel();
    let ended = Mutex::new(ended);
    let upstream = RecordingUpstream::start(move |exchange| {
        exchange.answer(200, headers, b"hello");
        let began = Instant::now();
        exchange.wait_for_end();
        ended.lock().unwrap().send(began.elapsed()).unwrap();
        Then::Close
    });
    let gateway = Gateway::start(&config(&tenant_config(&upstream, options)), &[]);
    let site = Site { gateway, upstream };
    assert_eq!(site.ask("GET", "/", &[]).status, 200);
    (site, ends)
}

#[test]
fn a5_idle_connection_is_kept_until_the_shorter_timeout() {
    for (options, headers, at_least, at_most) in [
        ("", &[("Keep-Alive", "timeout=3, max=100")][..], 1_500, 5_000),
        ("", &[("Keep-Alive", "max=0")], 0, 500),
        ("", &[("Keep-Alive", "timeout=1")], 0, 500),
        (", timeouts: { keepAlive: 2s }", &[], 1_500, 5_000),
        (", timeouts: { keepAlive: 2s }", &[("Keep-Alive", "timeout=600")], 1_500, 5_000),
        (", timeouts: { keepAlive: 0s }", &[], 0, 500),
    ] {
        let (_site, ends) = start_measuring_idle_time(options, headers);
        let kept = ends.recv_timeout(PATIENCE).unwrap();
        let range = Duration::from_millis(at_least)..Duration::from_millis(at_most);
        assert!(range.contains(&kept), "{options} {headers:?}: {kept:?}");
    }
}

#[test]
fn a5_idle_connection_is_reused() {
    let site = Site::start();
    let mut connection = site.connect();
    for _ in 0..50 {
        // Sequential requests on one client connection.
        assert_eq!(connection.exchange(&request("POST", "/", HOST, &[], b"body")).unwrap().status, 200);
    }
    assert!(site.upstream.connections() <= 3, "{}", site.upstream.connections());
}

#[test]
fn f3_retry_after_a_failed_idle_connection_uses_a_new_one() {
    const KEPT: usize = 8;
    let served: Mutex<HashMap<usize, usize>> = Mutex::default();
    let all = Barrier::new(KEPT);
    let site = Site::scripted(move |exchange| {
        let count = {
            let mut served = served.lock().unwrap();
            let count = served.entry(exchange.seen.connection).or_default();
            *count += 1;
            *count
        };
        if exchange.seen.target == "/together" {
            all.wait();
        }
        match count {
            1 => exchange.answer(200, &[], b"hello"),
            // As a server that closed the connection before the request arrived.
            _ => Then::Reset,
        }
    });
    thread::scope(|scope| {
        for _ in 0..KEPT {
            scope.spawn(|| assert_eq!(site.ask("GET", "/together", &[]).status, 200));
        }
    });
    for nth in 0..KEPT {
        let answer = site.ask("GET", &format!("/{nth}"), &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{nth}");
    }
}
