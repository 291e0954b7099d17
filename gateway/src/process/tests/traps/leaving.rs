//! Clients that leave before their response is complete.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::cells::{Cell, in_cells, in_every_cell};
use super::client::{Client, Framing};
use super::server::{Next, StrictServer};
use super::{PATIENCE, Settings, Site, answer_target, start_gateway};
use crate::process::StopMode;

/// What the gateway waits for when the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The head of the response.
    Head,
    /// More of its body.
    Body,
    /// More of the request's body.
    Upload,
}

const MOMENTS: [Moment; 3] = [Moment::Head, Moment::Body, Moment::Upload];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// The sending side of the connection, over TLS with `close_notify`.
    HalfClose,
    /// `close_notify` alone.
    CloseNotify,
    Close,
    Reset,
    /// The stream of HTTP/2.
    StreamReset,
}

impl Leaving {
    fn is_possible(self, cell: Cell) -> bool {
        match self {
            Leaving::HalfClose | Leaving::Close => true,
            Leaving::CloseNotify => cell.is_tls() && !cell.is_http2(),
            Leaving::Reset => !cell.is_http2(),
            Leaving::StreamReset => cell.is_http2(),
        }
    }

    /// Leaves. Returns the client if something of it is still open.
    fn leave(self, mut client: Client) -> Option<Client> {
        match (self, &mut client) {
            (Leaving::HalfClose, Client::Http1(client)) => client.stream.end(),
            (Leaving::HalfClose, Client::Http2(client)) => client.socket.shutdown(Shutdown::Write).unwrap(),
            (Leaving::CloseNotify, client) => client.http1().stream.close_notify(),
            (Leaving::StreamReset, client) => client.http2().reset_stream(),
            (Leaving::Close, _) => {
                client.close();
                return None;
            }
            (Leaving::Reset, _) => {
                let Client::Http1(client) = client else { panic!("a client of HTTP/2") };
                client.stream.reset();
                return None;
            }
        }
        Some(client)
    }
}

/// Lets a client leave in each of these ways at each moment. Its connection to the server must end
/// then, the request must not be repeated, and the server must not be blamed.
fn check(cell: Cell, ways: &[Leaving]) {
    for moment in MOMENTS {
        for leaving in ways.iter().filter(|leaving| leaving.is_possible(cell)) {
            let what = format!("{moment:?} {leaving:?}");
            let (arrived, arrivals) = mpsc::channel();
            let arrived = Mutex::new(arrived);
            // One request at a time: the place of the client that left must be free again.
            let upstream = ", limits: { maxRequests: 1, maxPending: 1, pendingTimeout: 20s }";
            let settings = Settings { upstream, ..Settings::default() };
            let site = Site::with_settings(cell, settings, move |exchange| {
                if exchange.target() == "/next" {
                    return answer_target(exchange);
                }
                match moment {
                    Moment::Head => {}
                    Moment::Body => exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
                    Moment::Upload => exchange.wait_for_bytes(4),
                }
                arrived.lock().unwrap().send(()).unwrap();
                let rest = exchange.read_to_end();
                assert_eq!(rest, if moment == Moment::Upload { &b"half"[..] } else { b"" });
                Next::End
            });
            let mut client = site.client();
            match moment {
                Moment::Head => client.begin("GET", "/", &[], Framing::NoBody, b""),
                Moment::Body => {
                    client.begin("GET", "/", &[], Framing::NoBody, b"");
                    client.head();
                    client.wait_for(b"half");
                }
                Moment::Upload => client.begin("PUT", "/", &[], Framing::Length(9), b"half"),
            }
            arrivals.recv_timeout(PATIENCE).expect("a request at the server");
            let mut left = leaving.leave(client);
            // The gateway ends the connection.
            site.server.wait_for_scripts();
            if let Some(client) = left.as_mut().filter(|_| *leaving == Leaving::StreamReset) {
                assert_eq!(client.ask("GET", "/next", &[], b"").text(), "/next", "{what}");
            }
            site.assert_serves();
            let leaving_requests = site.server.requests().iter().filter(|request| request.line.contains(" / ")).count();
            assert_eq!(leaving_requests, 1, "{what}: the request is repeated");
            site.gateway().wait_metric("crossgate_requests_active", 0);
            assert_eq!(site.gateway().metric_sum("crossgate_upstream_errors_total"), 0.0, "{what}");
            if !cell.is_http2() {
                site.gateway().wait_metric("crossgate_connections_closed_early_total{reason=\"client_gone\"}", 1);
            }
        }
    }
}

#[test]
fn client_that_closes_or_half_closes_is_gone() {
    let ways = [Leaving::HalfClose, Leaving::CloseNotify, Leaving::Close, Leaving::Reset];
    in_every_cell(|cell| check(cell, &ways));
}

#[test]
fn http2_reset_ends_the_exchange_and_blames_nothing() {
    in_cells(|cell| cell.is_http2(), |cell| check(cell, &[Leaving::StreamReset]));
}

#[test]
fn client_that_leaves_a_stalled_upload_is_gone() {
    // More than the kernels hold on the way to the server.
    const LEN: usize = 1 << 20;
    in_every_cell(|cell| {
        for leaving in [Leaving::HalfClose, Leaving::CloseNotify, Leaving::Close, Leaving::Reset, Leaving::StreamReset]
        {
            if !leaving.is_possible(cell) {
                continue;
            }
            let (arrived, arrivals) = mpsc::channel();
            let (go, gone) = mpsc::channel::<()>();
            let (arrived, gone) = (Mutex::new(arrived), Mutex::new(gone));
            let server = StrictServer::with_small_buffers(cell.transport, move |exchange| {
                arrived.lock().unwrap().send(()).unwrap();
                // Reads nothing until the gateway has ended the request.
                gone.lock().unwrap().recv_timeout(PATIENCE * 2).unwrap();
                let body = exchange.read_to_end();
                assert!(body.len() < LEN, "the whole upload came");
                Next::End
            });
            let site = Site::with_server(cell, Settings::default(), server);
            let mut client = site.client();
            client.begin("PUT", "/", &[], Framing::Length(LEN + 1), b"");
            arrivals.recv_timeout(PATIENCE).expect("a request at the server");
            match &mut client {
                Client::Http1(_) => assert!(client.send(&vec![b'x'; LEN])),
                Client::Http2(client) => {
                    client.send_until_full(&vec![b'x'; LEN], Duration::from_millis(500));
                }
            }
            let _left = leaving.leave(client);
            site.gateway().wait_metric("crossgate_requests_active", 0);
            go.send(()).unwrap();
            site.server.wait_for_scripts();
            assert_eq!(site.server.requests().len(), 1, "{leaving:?}: the request is repeated");
            assert_eq!(site.gateway().metric_sum("crossgate_upstream_errors_total"), 0.0, "{leaving:?}");
        }
    });
}

#[test]
fn client_is_watched_while_the_server_is_connected_to() {
    // Pingora does not look at the client in that time.
    in_cells(
        |cell| cell.is_tls() && cell.is_direct(),
        |cell| {
            for leaving in [Leaving::HalfClose, Leaving::Close, Leaving::StreamReset] {
                if !leaving.is_possible(cell) {
                    continue;
                }
                // A server that never answers the handshake.
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let settings = Settings { upstream: ", timeouts: { connect: 5m }", ..Settings::default() };
                let gateway = start_gateway(cell, settings, listener.local_addr().unwrap());
                let mut client = Client::open(cell, gateway.data());
                client.begin("GET", "/", &[], Framing::NoBody, b"");
                let (mut connection, _) = listener.accept().unwrap();
                connection.set_read_timeout(Some(PATIENCE)).unwrap();
                let _left = leaving.leave(client);
                let mut hello = Vec::new();
                let read = connection.read_to_end(&mut hello);
                let is_open = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
                assert!(!is_open, "{leaving:?}: the gateway still connects");
                gateway.wait_metric("crossgate_requests_active", 0);
                assert_eq!(gateway.metric_sum("crossgate_upstream_errors_total"), 0.0);
                gateway.stop(StopMode::AtOnce);
            }
        },
    );
}

#[test]
fn half_close_behind_a_request_that_is_still_to_be_read_is_no_end() {
    // The end comes after a second request, which is read when the first is answered.
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            let (arrived, arrivals) = mpsc::channel();
            let (go, gone) = mpsc::channel::<()>();
            let (arrived, gone) = (Mutex::new(arrived), Mutex::new(gone));
            let site = Site::start(cell, move |exchange| {
                if exchange.target() == "/first" {
                    arrived.lock().unwrap().send(()).unwrap();
                    gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                }
                answer_target(exchange)
            });
            let mut client = site.client();
            client.begin("GET", "/first", &[], Framing::NoBody, b"");
            client.begin("GET", "/second", &[], Framing::NoBody, b"");
            client.http1().stream.end();
            arrivals.recv_timeout(PATIENCE).unwrap();
            // Most likely the gateway reads the end before the answer. Either order is right.
            std::thread::sleep(Duration::from_millis(50));
            go.send(()).unwrap();
            assert_eq!(client.answer().text(), "/first");
        },
    );
}
