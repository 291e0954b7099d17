//! Bodies of responses: where they end, and what does not look like an end.

use std::sync::{Mutex, mpsc};

use super::cells::{in_cells, in_every_cell};
use super::client::{Client, Ending, Framing};
use super::server::{Next, ServerExchange};
use super::{PATIENCE, Settings, Site, answer_target};

/// Answers any target but `/next` with these bytes, and ends the connection.
fn answer_and_end(exchange: &mut ServerExchange<'_>, bytes: &[u8], next: Next) -> Next {
    if exchange.target() == "/next" {
        return answer_target(exchange);
    }
    exchange.write(bytes);
    next
}

/// How a body ends for a client that must see that it broke off.
fn is_broken(ending: Ending) -> bool {
    matches!(ending, Ending::Closed | Ending::Cut | Ending::Reset | Ending::StreamReset(h2::Reason::INTERNAL_ERROR))
}

#[test]
fn body_until_close_over_tls_needs_close_notify() {
    const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nuntil close";
    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nuntil close";
    const CHUNKS: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nuntil close\r\n0\r\n\r\n";
    in_cells(
        |cell| cell.is_tls(),
        |cell| {
            for (bytes, next, is_whole) in [
                (UNTIL_CLOSE, Next::End, true),
                (UNTIL_CLOSE, Next::Cut, false),
                (LENGTH, Next::Cut, true),
                (CHUNKS, Next::Cut, true),
            ] {
                let what = format!("{next:?} {}", bytes.escape_ascii());
                let site = Site::start(cell, move |exchange| answer_and_end(exchange, bytes, next));
                let mut client = site.client();
                client.begin("GET", "/", &[], Framing::NoBody, b"");
                if is_whole {
                    let answer = client.answer();
                    assert_eq!((answer.text(), answer.ending), ("until close".to_owned(), Ending::Whole), "{what}");
                } else {
                    let ending = client.ending();
                    assert!(is_broken(ending), "{what}: {ending:?}");
                }
                // Pingora ends the connection as if the body were whole.
                if cell.is_direct() {
                    let mut client = Client::open_http1_0(cell, site.gateway().data());
                    client.begin("GET", "/", &[], Framing::NoBody, b"");
                    let ending = client.ending();
                    assert_eq!(ending == Ending::Whole, is_whole, "{what}: {ending:?}");
                }
                site.assert_serves();
            }
        },
    );
}

#[test]
fn response_that_breaks_off_never_looks_whole() {
    in_every_cell(|cell| {
        for (head_and_half, is_valid_so_far) in [
            ("Content-Length: 9\r\n\r\nhalf", true),
            ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true),
            ("Transfer-Encoding: chunked\r\n\r\n8\r\nhalf", true),
            ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", true),
            ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n", false),
            ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalfX", false),
            // Until a close that does not come.
            ("\r\nhalf", true),
        ] {
            for next in [Next::End, Next::Reset] {
                let until_close = head_and_half.starts_with('\r');
                if until_close && next == Next::End {
                    continue;
                }
                let (go, gone) = mpsc::channel::<()>();
                let gone = Mutex::new(gone);
                let site = Site::start(cell, move |exchange| {
                    if exchange.target() == "/next" {
                        return answer_target(exchange);
                    }
                    exchange.write(format!("HTTP/1.1 200 OK\r\n{head_and_half}").as_bytes());
                    gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                    next
                });
                let mut client = site.client();
                client.begin("GET", "/", &[], Framing::NoBody, b"");
                let ending = if is_valid_so_far {
                    // All that came is at the client before the server ends.
                    let head = client.head();
                    client.wait_for(b"half");
                    go.send(()).unwrap();
                    let answer = client.rest(head);
                    assert!(!answer.body.ends_with(b"0\r\n\r\n"), "{answer:?}");
                    answer.ending
                } else {
                    go.send(()).unwrap();
                    client.ending()
                };
                assert!(is_broken(ending), "{head_and_half:?} {next:?}: {ending:?}");
                site.assert_serves();
            }
        }
    });
}

#[test]
fn response_to_http1_0_that_breaks_off_ends_with_a_reset() {
    // Pingora closes the connection in order.
    in_cells(
        |cell| cell.is_direct() && !cell.is_http2(),
        |cell| {
            for (bytes, next, is_whole) in [
                (&b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"[..], Next::End, false),
                (b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", Next::Reset, false),
                (b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n", Next::End, false),
                (b"\r\nhalf", Next::Reset, false),
                (b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n", Next::End, true),
                (b"\r\nhalf", Next::End, true),
            ] {
                let bytes = [b"HTTP/1.1 200 OK\r\n", bytes].concat();
                let what = format!("{next:?} {}", bytes.escape_ascii());
                let site = Site::start(cell, move |exchange| answer_and_end(exchange, &bytes, next));
                let mut client = Client::open_http1_0(cell, site.gateway().data());
                client.begin("GET", "/", &[], Framing::NoBody, b"");
                // The reset may overtake the head.
                let ending = client.try_head().map_or_else(|ending| ending, |head| client.rest(head).ending);
                if is_whole {
                    assert_eq!(ending, Ending::Whole, "{what}");
                } else {
                    assert!(matches!(ending, Ending::Reset | Ending::Cut), "{what}: {ending:?}");
                    assert!(cell.is_tls() || ending == Ending::Reset, "{what}: {ending:?}");
                }
                site.assert_serves();
            }
        },
    );
}

#[test]
fn body_until_close_keeps_the_connection_to_the_client() {
    in_every_cell(|cell| {
        for line in ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\nConnection: close", "HTTP/1.0 200 OK"] {
            let bytes = format!("{line}\r\n\r\nuntil close");
            let site = Site::start(cell, move |exchange| answer_and_end(exchange, bytes.as_bytes(), Next::End));
            let mut client = site.client();
            for _ in 0..2 {
                let answer = client.ask("GET", "/", &[], b"");
                assert_eq!((answer.text(), answer.ending), ("until close".to_owned(), Ending::Whole), "{line}");
                if !cell.is_http2() {
                    let framing = (answer.field("transfer-encoding"), answer.field("connection"));
                    assert_eq!(framing, (vec!["chunked"], vec!["keep-alive"]), "{line}");
                }
            }
            if !cell.is_http2() {
                let mut client = Client::open_http1_0(cell, site.gateway().data());
                let answer = client.ask("GET", "/", &[("Connection", "keep-alive")], b"");
                let framing = (answer.field("transfer-encoding"), answer.field("connection"));
                assert_eq!(framing, (vec![], vec!["close"]), "{line}");
                assert_eq!((answer.text(), answer.ending), ("until close".to_owned(), Ending::Whole), "{line}");
            }
        }
    });
}

#[test]
fn coding_of_an_http1_0_server_is_a_502() {
    // Pingora reads the chunks.
    in_cells(
        |cell| cell.is_direct(),
        |cell| {
            let site = Site::start(cell, |exchange| {
                if exchange.target() == "/next" {
                    return answer_target(exchange);
                }
                exchange.write(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n");
                exchange.write(b"5\r\nwhole\r\n0\r\n\r\n");
                exchange.assert_ends();
                Next::End
            });
            assert_eq!(site.client().ask("GET", "/", &[], b"").status, 502);
            site.assert_serves();
        },
    );
}

/// A response without a body, and what its fields announce.
const BODILESS: [(&str, &str); 8] = [
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"),
    ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"),
    ("HEAD", "HTTP/1.1 200 OK\r\n"),
    ("HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n"),
    ("GET", "HTTP/1.1 204 No Content\r\n"),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n"),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n"),
    ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n"),
];

#[test]
fn response_without_a_body_ends_with_its_head() {
    in_every_cell(|cell| {
        for (method, head) in BODILESS {
            let site = Site::start(cell, move |exchange| match exchange.target() {
                "/next" => answer_target(exchange),
                _ => {
                    exchange.write(format!("{head}\r\n").as_bytes());
                    Next::Request
                }
            });
            let mut client = site.client();
            for _ in 0..20 {
                let answer = client.ask(method, "/", &[], b"");
                assert_eq!((answer.text(), answer.ending), (String::new(), Ending::Whole), "{head:?}");
                assert_eq!(client.ask("GET", "/next", &[], b"").text(), "/next", "{head:?}");
                if site.server.last_nth() > 0 {
                    break;
                }
            }
            assert!(site.server.last_nth() > 0, "{head:?}: no connection is used again");
        }
    });
}

#[test]
fn surplus_of_a_response_without_a_body_is_no_response() {
    in_every_cell(|cell| {
        for (method, head) in BODILESS {
            for is_late in [false, true] {
                let (go, gone) = mpsc::channel::<()>();
                let (done, dones) = mpsc::channel();
                let (gone, done) = (Mutex::new(gone), Mutex::new(done));
                let site = Site::start(cell, move |exchange| {
                    if exchange.target() == "/next" {
                        return answer_target(exchange);
                    }
                    let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
                    if is_late {
                        exchange.write(format!("{head}\r\n").as_bytes());
                        gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                        exchange.write(surplus.as_bytes());
                    } else {
                        exchange.write(format!("{head}\r\n{surplus}").as_bytes());
                    }
                    done.lock().unwrap().send(()).unwrap();
                    exchange.assert_ends();
                    Next::End
                });
                let mut client = site.client();
                let answer = client.ask(method, "/", &[], b"");
                assert_eq!((answer.text(), answer.ending), (String::new(), Ending::Whole), "{head:?}");
                let _ended = go.send(());
                dones.recv_timeout(PATIENCE).unwrap();
                for client in [&mut client, &mut site.client()] {
                    assert_eq!(client.ask("GET", "/next", &[], b"").text(), "/next", "{head:?} {is_late}");
                }
            }
        }
    });
}

#[test]
fn surplus_of_a_whole_response_ends_the_connection() {
    in_every_cell(|cell| {
        for framed in ["Content-Length: 5\r\n\r\nwhole", "Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"] {
            for surplus in ["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", "\r\n", "x"] {
                let site = Site::start(cell, move |exchange| {
                    if exchange.target() == "/next" {
                        return answer_target(exchange);
                    }
                    exchange.write(format!("HTTP/1.1 200 OK\r\n{framed}{surplus}").as_bytes());
                    exchange.assert_ends();
                    Next::End
                });
                let mut client = site.client();
                let answer = client.ask("GET", "/", &[], b"");
                assert_eq!((answer.text(), answer.ending), ("whole".to_owned(), Ending::Whole), "{surplus:?}");
                assert_eq!(client.ask("GET", "/next", &[], b"").text(), "/next", "{surplus:?}");
                site.assert_serves();
            }
        }
    });
}

#[test]
fn reset_content_has_no_body() {
    // Pingora passes a body on.
    in_cells(
        |cell| cell.is_direct(),
        |cell| {
            for (fields, is_kept) in [
                ("Content-Length: 0\r\n\r\n", true),
                ("Content-Length: 4\r\n\r\n", false),
                ("Content-Length: 4\r\n\r\nbody", false),
                ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
                ("\r\n", false),
            ] {
                let site = Site::start(cell, move |exchange| {
                    if exchange.target() == "/next" {
                        return answer_target(exchange);
                    }
                    exchange.write(format!("HTTP/1.1 205 Reset Content\r\n{fields}").as_bytes());
                    if is_kept {
                        return Next::Request;
                    }
                    exchange.assert_ends();
                    Next::End
                });
                let mut client = site.client();
                let answer = client.ask("GET", "/", &[], b"");
                assert_eq!(
                    (answer.status, answer.text(), answer.ending),
                    (205, String::new(), Ending::Whole),
                    "{fields:?}"
                );
                assert_eq!(answer.field("content-length"), ["0"], "{fields:?}");
                assert_eq!(client.ask("GET", "/next", &[], b"").text(), "/next", "{fields:?}");
            }
        },
    );
}

#[test]
fn pieces_of_concurrent_responses_are_not_mixed() {
    const LEN: usize = 1 << 20;
    const CLIENTS: usize = 6;
    in_every_cell(|cell| {
        // All responses pass through the buffer of one worker.
        let one_worker = Settings { sections: "runtime: { threads: 1 }\n", ..Settings::default() };
        let site = Site::with_settings(cell, one_worker, |exchange| {
            let byte = exchange.target().as_bytes()[1];
            let framing = if byte % 2 == 0 { "chunked" } else { "length" };
            if framing == "length" {
                exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").as_bytes());
                exchange.write(&vec![byte; LEN]);
            } else {
                exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for _ in 0..LEN / 1024 {
                    exchange.write(&[b"400\r\n", &[byte; 1024][..], b"\r\n"].concat());
                }
                exchange.write(b"0\r\n\r\n");
            }
            Next::Request
        });
        // None of them reads, until all have their heads: pieces are held for each.
        let mut clients: Vec<(Client, u8)> = (0..CLIENTS).map(|nth| (site.client(), b'a' + nth as u8)).collect();
        let mut heads = Vec::new();
        for (client, byte) in &mut clients {
            let target = format!("/{}", char::from(*byte));
            client.begin("GET", &target, &[], Framing::NoBody, b"");
            heads.push(client.head());
        }
        for ((client, byte), head) in clients.iter_mut().zip(heads).rev() {
            let answer = client.rest(head);
            assert_eq!((answer.body.len(), answer.ending), (LEN, Ending::Whole));
            assert!(answer.body.iter().all(|found| found == byte), "bytes of another response");
        }
    });
}
