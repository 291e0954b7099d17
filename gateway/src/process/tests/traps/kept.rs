//! Connections to the server that wait for their next request.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};

use super::cells::{Cell, in_cells, in_every_cell};
use super::client::Framing;
use super::server::{Next, ServerExchange};
use super::{PATIENCE, Settings, Site, answer_target};

/// What a server sends on a connection that has no request.
#[derive(Clone, Copy, Debug)]
enum Stray {
    Bytes(&'static [u8]),
    CloseNotify,
    End,
    Cut,
}

const STRAYS: [Stray; 6] = [
    Stray::Bytes(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    Stray::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
    Stray::Bytes(b"\r"),
    Stray::CloseNotify,
    Stray::End,
    Stray::Cut,
];

impl Stray {
    fn send(self, exchange: &mut ServerExchange<'_>) {
        match self {
            Stray::Bytes(bytes) => exchange.write(bytes),
            Stray::CloseNotify => exchange.stream().close_notify(),
            Stray::End => exchange.stream().end(),
            Stray::Cut => exchange.stream().cut(),
        }
    }
}

#[test]
fn what_comes_on_an_idle_connection_is_no_response() {
    in_every_cell(|cell| {
        for stray in STRAYS {
            if matches!(stray, Stray::CloseNotify) && !cell.is_tls() {
                continue;
            }
            for (method, body) in [("GET", &b""[..]), ("POST", b""), ("PUT", b"body")] {
                let (go, gone) = mpsc::channel::<()>();
                let (done, dones) = mpsc::channel();
                let (gone, done) = (Mutex::new(gone), Mutex::new(done));
                let site = Site::start(cell, move |exchange| {
                    let next = answer_target(exchange);
                    if exchange.target() == "/next" {
                        return next;
                    }
                    gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                    stray.send(exchange);
                    done.lock().unwrap().send(()).unwrap();
                    exchange.assert_ends();
                    Next::End
                });
                let mut client = site.client();
                assert_eq!(client.ask("GET", "/first", &[], b"").text(), "/first");
                go.send(()).unwrap();
                dones.recv_timeout(PATIENCE).unwrap();
                let answer = client.ask(method, "/next", &[], body);
                assert_eq!((answer.status, answer.text()), (200, "/next".to_owned()), "{stray:?} {method}");
                assert_eq!(site.server.requests().len(), 2, "{stray:?} {method}");
            }
        }
    });
}

#[test]
fn late_408_that_closes_repeats_an_idempotent_request() {
    in_every_cell(|cell| {
        for (method, body, is_repeated) in
            [("GET", &b""[..], true), ("DELETE", b"", true), ("PUT", b"body", true), ("POST", b"", false)]
        {
            let hits = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&hits);
            let site = Site::start(cell, move |exchange| {
                if exchange.nth() == 0 {
                    return answer_target(exchange);
                }
                // The timeout of the connection, which has met the request.
                counted.fetch_add(1, SeqCst);
                exchange.read_body();
                exchange.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                Next::End
            });
            let mut client = site.client();
            let mut last = 0;
            for _ in 0..20 {
                last = client.ask(method, "/", &[], body).status;
                if hits.load(SeqCst) > 0 {
                    break;
                }
                assert_eq!(last, 200);
            }
            assert_eq!(hits.load(SeqCst), 1, "{method}");
            // Pingora passes it on.
            let expected = if is_repeated && cell.is_direct() { 200 } else { 408 };
            assert_eq!(last, expected, "{method}");
        }
    });
}

#[test]
fn http1_0_server_is_used_again_only_if_it_says_so() {
    in_every_cell(|cell| {
        for (fields, is_kept) in [
            ("", false),
            ("Connection: x-a\r\n", false),
            ("Connection: close\r\n", false),
            ("Connection: Keep-Alive\r\n", true),
            ("Connection: x-a, keep-alive\r\n", true),
        ] {
            // Pingora finds this option only if it is alone.
            if !cell.is_direct() && is_kept && fields.contains(',') {
                continue;
            }
            let site = Site::start(cell, move |exchange| {
                let head = format!("HTTP/1.0 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok");
                exchange.write(head.as_bytes());
                if is_kept {
                    return Next::Request;
                }
                exchange.assert_ends();
                Next::End
            });
            let mut client = site.client();
            if is_kept {
                site.assert_reuses(&mut client, "/");
            } else {
                for _ in 0..3 {
                    assert_eq!(client.ask("GET", "/", &[], b"").text(), "ok", "{fields:?}");
                }
            }
        }
    });
}

#[test]
fn key_updates_of_the_server_lose_nothing() {
    in_cells(
        |cell| cell.is_tls(),
        |cell| {
            const LEN: usize = 100_000;
            let site = Site::start(cell, |exchange| {
                exchange.stream().update_keys();
                let body = exchange.read_body();
                assert!(body.is_empty() || body == [b'x'; LEN], "{} bytes", body.len());
                exchange.write(b"HTTP/1.1 200 OK\r\n");
                exchange.stream().update_keys();
                exchange.write(format!("Content-Length: {LEN}\r\n\r\n").as_bytes());
                exchange.stream().update_keys();
                for piece in [b'y'; LEN].chunks(30_000) {
                    exchange.write(piece);
                    exchange.stream().update_keys();
                }
                Next::Request
            });
            let mut client = site.client();
            site.assert_reuses(&mut client, "/");
            for body in [&b""[..], &[b'x'; LEN]] {
                for _ in 0..3 {
                    let answer = client.ask("PUT", "/", &[], body);
                    assert!(answer.status == 200 && answer.body == [b'y'; LEN], "{} bytes", answer.body.len());
                }
            }
            let connections = site.server.received().len();
            assert!(connections < site.server.requests().len(), "no connection is used again");
        },
    );
}

/// A rule that takes the worker tens of milliseconds.
const SLOW_RULE: &str = r#"fn decide(req) {
    let n = 0;
    for i in 0..20000 { n += i; }
    allow()
}
"#;

/// The status of a first response on a connection to the server, and the method of the next
/// request.
const IN_SUCCESSION: [(u16, &str); 4] = [(204, "GET"), (200, "POST"), (200, "PATCH"), (200, "GET")];

#[test]
fn what_the_kernel_has_before_a_request_is_no_response_to_it() {
    // A worker goes from one request on a client's connection to the next without a look at other
    // sockets, if that request is there.
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            for (status, method) in IN_SUCCESSION {
                let is_shown = (0..10).any(|_| is_sent_before(cell, status, method));
                assert!(is_shown, "{status} {method}: the request always comes before the bytes");
            }
        },
    );
}

/// Sends bytes on a connection to the server after a response with this status on it, and before
/// the next request, which has this method. Asserts that they are no response to that. `false` if
/// the request came before the bytes.
fn is_sent_before(cell: Cell, status: u16, method: &str) -> bool {
    let (go, gone) = mpsc::channel::<()>();
    let (sent, sends) = mpsc::channel();
    let (gone, sent) = (Mutex::new(gone), Mutex::new(sent));
    let script = move |exchange: &mut ServerExchange<'_>| {
        if exchange.target() != "/first" {
            return answer_target(exchange);
        }
        let body = if status == 204 { "\r\n" } else { "Content-Length: 6\r\n\r\n/first" };
        exchange.write(format!("HTTP/1.1 {status} First\r\n{body}").as_bytes());
        gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\npoison");
        sent.lock().unwrap().send(!exchange.has_more()).unwrap();
        exchange.read_to_end();
        Next::End
    };
    let settings = Settings {
        policy: Some("{ rule: { script: slow.rhai } }"),
        sections: "scriptsDir: scripts\nruntime: { threads: 1 }\n\
            limits: { rules: { operations: 10000000, time: 1s, timePerSecond: 1s } }\n",
        script: Some(("scripts/slow.rhai", SLOW_RULE)),
        ..Settings::default()
    };
    let site = Site::with_settings(cell, settings, script);
    let mut client = site.client();
    client.begin("GET", "/first", &[], Framing::NoBody, b"");
    client.begin(method, "/second", &[("Origin", "https://app.test")], Framing::NoBody, b"");
    assert_eq!(client.answer().status, status);
    go.send(()).unwrap();
    let answer = client.answer();
    let is_sent_before = sends.recv_timeout(PATIENCE).unwrap();
    if is_sent_before {
        assert_eq!((answer.status, answer.text()), (200, "/second".to_owned()), "{status} {method}");
    }
    is_sent_before
}
