//! Clients that leave in the middle: each is counted as one that left, the upstream is let go, and nothing is kept.
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use socket2::SockRef;

use crate::support::{Connection, HOST, ORIGIN, PATIENCE, Site, Then, assert_allowed, request};

/// In the middle of what.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The upstream has said nothing yet.
    Awaited,
    /// The answer has begun.
    Answered,
    /// The request's body has not come to its end.
    Uploading,
}

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    HalfClose,
    Close,
    Reset,
}

#[test]
fn a_client_that_leaves_is_counted_and_its_upstream_let_go() {
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
    let mut left = 0.0;
    for stage in [Stage::Awaited, Stage::Answered, Stage::Uploading] {
        for leaving in [Leaving::HalfClose, Leaving::Close, Leaving::Reset] {
            let mut connection = begin(&site, stage);
            arrivals.recv_timeout(PATIENCE).expect("it is asked");
            if let Stage::Answered = stage {
                assert_allowed(&connection.head().unwrap());
                assert_eq!(connection.exactly(4).unwrap(), b"half");
            }
            let _rest = leave(connection, leaving);
            ends.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{stage:?} {leaving:?}: the upstream is kept"));
            left += 1.0;
            site.gateway.wait_metric("crossgate_connections_closed_early_total", &[("reason", "client_gone")], left);
            site.gateway.wait_gone("crossgate_connections_active", &[]);
        }
    }
    assert_eq!(site.gateway.metric("crossgate_connections_closed_early_total", &[]), left);
    assert_eq!(site.gateway.metric("crossgate_upstream_errors_total", &[]), 0.0);
    assert_eq!(site.gateway.metric("crossgate_requests_total", &[]), left);
}

fn begin(site: &Site, stage: Stage) -> Connection {
    let from = ("Origin", ORIGIN);
    let bytes = match stage {
        Stage::Awaited => request("GET", "/", HOST, &[from], b""),
        Stage::Answered => request("GET", "/answered", HOST, &[from], b""),
        Stage::Uploading => {
            [&request("PUT", "/", HOST, &[from, ("Content-Length", "9")], b""), b"half".as_slice()].concat()
        }
    };
    let mut connection = site.connect();
    connection.send(&bytes).unwrap();
    connection
}

/// What is left of the connection.
fn leave(mut connection: Connection, leaving: Leaving) -> Option<Connection> {
    match leaving {
        Leaving::HalfClose => {
            connection.finish_sending();
            return Some(connection);
        }
        Leaving::Close => {}
        Leaving::Reset => SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO)).unwrap(),
    }
    None
}
