//! Heads of responses: interim ones, and those that are not valid.

use std::thread;
use std::time::Duration;

use super::cells::{in_cells, in_every_cell};
use super::client::{Client, Ending, Framing};
use super::server::{Next, ServerExchange};
use super::{Settings, Site, answer_target};

const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";

#[test]
fn interim_responses_reach_only_clients_that_know_them() {
    in_every_cell(|cell| {
        let site = Site::start(cell, |exchange| {
            exchange.write(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(2));
            exchange.write(HINTS);
            answer_target(exchange)
        });
        let mut client = site.client();
        let answer = client.ask("GET", "/a", &[], b"");
        // Pingora passes each 100 on to clients of HTTP/1.1.
        let expected: &[u16] = if cell.is_direct() || cell.is_http2() { &[103] } else { &[100, 100, 103] };
        assert_eq!((&*answer.interim, answer.text()), (expected, "/a".to_owned()));
        if !cell.is_http2() {
            client.begin("POST", "/b", &[("Expect", "100-continue")], Framing::Length(4), b"");
            client.http1().wait_for_head();
            client.send(b"body");
            let answer = client.answer();
            let expected: &[u16] = if cell.is_direct() { &[100, 103] } else { &[100, 100, 103] };
            assert_eq!((&*answer.interim, answer.text()), (expected, "/b".to_owned()));
            let mut client = Client::open_http1_0(cell, site.gateway().data());
            let answer = client.ask("GET", "/c", &[], b"");
            assert_eq!((&*answer.interim, answer.text()), (&[][..], "/c".to_owned()));
        }
    });
}

#[test]
fn too_many_interim_responses_are_a_502() {
    // Pingora passes them on.
    in_cells(
        |cell| cell.is_direct(),
        |cell| {
            for (count, fill_len, status) in [(8, 0, 200), (9, 0, 502), (7, 9_000, 200), (8, 9_000, 502)] {
                let site = Site::start(cell, move |exchange| {
                    if exchange.target() == "/next" {
                        return answer_target(exchange);
                    }
                    let fill = "x".repeat(fill_len);
                    exchange.write(format!("HTTP/1.1 103 Early Hints\r\nX-A: {fill}\r\n\r\n").repeat(count).as_bytes());
                    if status == 200 {
                        return answer_target(exchange);
                    }
                    exchange.assert_ends();
                    Next::End
                });
                let answer = site.client().ask("GET", "/", &[], b"");
                assert_eq!(answer.status, status, "{count} of {fill_len} bytes");
                site.assert_serves();
            }
        },
    );
}

#[test]
fn interim_responses_do_not_extend_the_time_for_the_head() {
    in_every_cell(|cell| {
        let settings = Settings { upstream: ", timeouts: { head: 1s }, attempts: 1", ..Settings::default() };
        let site = Site::with_settings(cell, settings, |exchange| {
            for _ in 0..8 {
                exchange.write(HINTS);
                thread::sleep(Duration::from_millis(450));
            }
            answer_target(exchange)
        });
        assert_eq!(site.client().ask("GET", "/", &[], b"").status, 504);
    });
}

#[test]
fn unrequested_101_is_a_502() {
    in_every_cell(|cell| {
        let site = Site::start(cell, |exchange| {
            if exchange.target() == "/next" {
                return answer_target(exchange);
            }
            exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nx");
            exchange.assert_ends();
            Next::End
        });
        for method in ["GET", "POST"] {
            let answer = site.client().ask(method, "/", &[], b"");
            assert_eq!((&*answer.interim, answer.status), (&[][..], 502));
        }
        site.assert_serves();
    });
}

/// Answers any target but `/next` with these bytes, after which the connection is not used again.
fn answer_once(exchange: &mut ServerExchange<'_>, bytes: &[u8]) -> Next {
    if exchange.target() == "/next" {
        return answer_target(exchange);
    }
    exchange.write(bytes);
    exchange.assert_ends();
    Next::End
}

#[test]
fn close_option_is_found_in_any_line_list_and_case() {
    in_every_cell(|cell| {
        for fields in [
            "Connection: close",
            "Connection: Close",
            "CONNECTION: keep-alive, CLOSE",
            "Connection: ,\t close ,",
            "Connection: x-a\r\nConnection: close",
        ] {
            // Pingora does not look at a second line.
            if !cell.is_direct() && fields.contains("\r\n") {
                continue;
            }
            let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 5\r\n\r\nwhole");
            let site = Site::start(cell, move |exchange| answer_once(exchange, bytes.as_bytes()));
            let mut client = site.client();
            let answer = client.ask("GET", "/", &[], b"");
            assert_eq!((answer.text(), answer.ending), ("whole".to_owned(), Ending::Whole), "{fields}");
            if !cell.is_http2() {
                assert_eq!(answer.field("connection"), ["keep-alive"], "{fields}");
            }
            assert_eq!(client.ask("GET", "/next", &[], b"").text(), "/next", "{fields}");
        }
    });
}

#[test]
fn invalid_heads_are_a_502() {
    in_every_cell(|cell| {
        for line in
            ["HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 099 OK", "HTTP/1.1 2x0 OK", "HTTP/2.0 200 OK", "hello"]
        {
            let bytes = format!("{line}\r\nContent-Length: 0\r\n\r\n");
            let site = Site::start(cell, move |exchange| answer_once(exchange, bytes.as_bytes()));
            assert_eq!(site.client().ask("GET", "/", &[], b"").status, 502, "{line}");
            site.assert_serves();
        }
        for value in [&b"a\0b"[..], b"a\rb", b"a\x01b", b"a\x7fb"] {
            let bytes = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: ", value, b"\r\n\r\n"].concat();
            let site = Site::start(cell, move |exchange| answer_once(exchange, &bytes));
            assert_eq!(site.client().ask("GET", "/", &[], b"").status, 502, "{}", value.escape_ascii());
            site.assert_serves();
        }
    });
}

#[test]
fn bytes_above_ascii_pass_and_the_reason_phrase_is_replaced() {
    in_every_cell(|cell| {
        for (line, by_exchange) in [
            ("HTTP/1.1 200 Fine", "HTTP/1.1 200 OK"),
            ("HTTP/1.1 404", "HTTP/1.1 404 Not Found"),
            ("HTTP/1.1 299 Own", "HTTP/1.1 299 "),
        ] {
            let bytes = [line.as_bytes(), b"\r\nX-A: caf\xe9 \xff\r\nContent-Length: 2\r\n\r\nok"].concat();
            let site = Site::start(cell, move |exchange| {
                exchange.write(&bytes);
                Next::Request
            });
            let answer = site.client().ask("GET", "/", &[], b"");
            assert_eq!((answer.field("x-a"), answer.text()), (vec!["caf\u{e9} \u{ff}"], "ok".to_owned()));
            // Pingora passes the server's phrase on.
            if !cell.is_http2() && cell.is_direct() {
                assert_eq!(answer.line, by_exchange);
            }
        }
    });
}
