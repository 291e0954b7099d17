//! Clients that abort a request: each is counted, the upstream connection is closed, and no
//! connection leaks.
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use socket2::SockRef;

use crate::support::{Connection, HOST, ORIGIN, PATIENCE, Site, Then, assert_allowed, request};

/// State of the request when the client aborts it.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The upstream has sent no response yet.
    Awaited,
    /// The answer has begun.
    Answered,
    /// The request's body is incomplete.
    Uploading,
}

/// The way in which a client aborts.
#[derive(Debug, Clone, Copy)]
enum Abort {
    HalfClose,
    Close,
    Reset,
}

#[test]
fn aborted_request_is_counted_and_releases_its_upstream() {
    let ((arrived, arrivals), (ended, ends)) = (mpsc::channel(), mpsc::channel());
    let (arrived, ended) = (Mutex::new(arrived), Mutex::new(ended));
    let site = Site::scripted(move |exchange| {
        if exchange.seen.target == "/answered" {
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        }
        arrived.lock().unwrap().send(()).unwrap();
        exchange.wait_for_end();
        ended.lock().unwrap().send(()).unwrap();
        Then::Close
    });
    let mut aborted = 0.0;
    for moment in [Moment::Awaited, Moment::Answered, Moment::Uploading] {
        for abort in [Abort::HalfClose, Abort::Close, Abort::Reset] {
            let mut connection = begin(&site, moment);
            arrivals.recv_timeout(PATIENCE).expect("a request at the upstream");
            if let Moment::Answered = moment {
                assert_allowed(&connection.head().unwrap());
                assert_eq!(connection.exactly(4).unwrap(), b"half");
            }
            let _rest = abort_request(connection, abort);
            ends.recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{moment:?} {abort:?}: the upstream connection stays open"));
            aborted += 1.0;
            site.gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], aborted);
            site.gateway.wait_zero("crossgate_connections_active", &[]);
        }
    }
    assert_eq!(site.gateway.metric("crossgate_connections_closed_early_total", &[]), aborted);
    assert_eq!(site.gateway.metric("crossgate_upstream_errors_total", &[]), 0.0);
    assert_eq!(site.gateway.metric("crossgate_requests_total", &[]), aborted);
    let ended = |class, by| site.gateway.metric("crossgate_responses_total", &[("class", class), ("by", by)]);
    assert_eq!((ended("none", "none"), ended("2xx", "upstream")), (6.0, 3.0));
    assert_eq!(site.gateway.metric("crossgate_responses_total", &[]), aborted);
}

fn begin(site: &Site, moment: Moment) -> Connection {
    let from = ("Origin", ORIGIN);
    let bytes = match moment {
        Moment::Awaited => request("GET", "/", HOST, &[from], b""),
        Moment::Answered => request("GET", "/answered", HOST, &[from], b""),
        Moment::Uploading => {
            [&request("PUT", "/", HOST, &[from, ("Content-Length", "9")], b""), b"half".as_slice()].concat()
        }
    };
    let mut connection = site.connect();
    connection.send(&bytes).unwrap();
    connection
}

/// Aborts the request. Returns the connection if it stays half open.
fn abort_request(mut connection: Connection, abort: Abort) -> Option<Connection> {
    match abort {
        Abort::HalfClose => {
            connection.finish_sending();
            return Some(connection);
        }
        Abort::Close => {}
        Abort::Reset => SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO)).unwrap(),
    }
    None
}
