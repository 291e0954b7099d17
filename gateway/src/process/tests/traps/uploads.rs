//! Bodies of requests on their way to the server.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::cells::{in_cells, in_every_cell};
use super::client::{Ending, Framing};
use super::server::{Next, ServerExchange, StrictServer};
use super::{PATIENCE, Settings, Site, answer_target};

/// The byte of an upload at this index.
fn byte_at(at: usize) -> u8 {
    b'a' + (at % 23) as u8
}

#[test]
fn http2_window_opens_only_as_the_server_takes_the_upload() {
    const LEN: usize = 4 << 20;
    in_cells(
        |cell| cell.is_http2(),
        |cell| {
            for framing in [Framing::Length(LEN), Framing::Chunked] {
                let (go, gone) = mpsc::channel::<()>();
                let gone = Mutex::new(gone);
                let script = move |exchange: &mut ServerExchange<'_>| {
                    gone.lock().unwrap().recv_timeout(PATIENCE * 2).unwrap();
                    let body = exchange.read_body();
                    let is_equal = body.iter().enumerate().all(|(at, byte)| *byte == byte_at(at));
                    assert!(body.len() == LEN && is_equal, "{} bytes", body.len());
                    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    Next::Request
                };
                let server = StrictServer::with_small_buffers(cell.transport, script);
                let site = Site::with_server(cell, Settings::default(), server);
                let mut client = site.client();
                client.begin("POST", "/", &[], framing, b"");
                let body: Vec<u8> = (0..LEN).map(byte_at).collect();
                // A shorter pause could only make this less strict.
                let sent = client.http2().send_until_full(&body, Duration::from_millis(500));
                assert!((256 * 1024..1 << 20).contains(&sent), "the windows let {sent} bytes pass");
                go.send(()).unwrap();
                assert!(client.send(&body[sent..]) && client.finish());
                assert_eq!(client.answer().text(), "ok");
            }
        },
    );
}

#[test]
fn empty_piece_of_an_upload_makes_no_chunk() {
    in_cells(
        |cell| cell.is_http2(),
        |cell| {
            let site = Site::start(cell, answer_target);
            let mut client = site.client();
            client.begin("POST", "/", &[], Framing::Chunked, b"");
            // The server accepts no chunk of length 0 but the last one.
            for piece in [&b""[..], b"a", b"", b"", b"b", b""] {
                assert!(client.send(piece));
            }
            assert!(client.finish());
            assert_eq!(client.answer().status, 200);
            let received = site.server.received().concat();
            let body = &received[received.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4..];
            let is_framed = [&b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"[..], b"2\r\nab\r\n0\r\n\r\n"].contains(&body);
            assert!(is_framed, "{}", body.escape_ascii());
        },
    );
}

#[test]
fn upload_shorter_than_announced_never_looks_whole() {
    in_every_cell(|cell| {
        for framing in [Framing::Length(9), Framing::Chunked] {
            let (arrived, arrivals) = mpsc::channel();
            let arrived = Mutex::new(arrived);
            let begun: &[u8] = if framing == Framing::Chunked { b"4\r\nhalf\r\n" } else { b"half" };
            let site = Site::start(cell, move |exchange| {
                if exchange.target() == "/next" {
                    return answer_target(exchange);
                }
                exchange.wait_for_bytes(begun.len());
                arrived.lock().unwrap().send(()).unwrap();
                assert_eq!(exchange.read_to_end(), begun);
                Next::End
            });
            let mut client = site.client();
            client.begin("PUT", "/", &[], framing, b"half");
            arrivals.recv_timeout(PATIENCE).unwrap();
            if cell.is_http2() && framing != Framing::Chunked {
                // The end of the stream, too early.
                client.finish();
                let ending = client.try_head().expect_err("no response");
                assert!(matches!(ending, Ending::StreamReset(_)), "{ending:?}");
            } else if cell.is_http2() {
                client.http2().reset_stream();
            } else {
                drop(client);
            }
            site.server.wait_for_scripts();
            site.assert_serves();
            assert_eq!(site.server.requests().len(), 2, "the request is sent twice");
        }
    });
}

#[test]
fn http2_upload_longer_than_announced_is_reset() {
    in_cells(
        |cell| cell.is_http2(),
        |cell| {
            let site = Site::start(cell, |exchange| {
                let body = exchange.read_to_end();
                assert!(b"whole".starts_with(&body), "{}", body.escape_ascii());
                Next::End
            });
            for data in [&[&b"whole and more"[..]][..], &[b"whole", b" and more"]] {
                let mut client = site.client();
                client.begin("PUT", "/", &[], Framing::Length(5), b"");
                for piece in data {
                    client.send(piece);
                }
                let ending = client.try_head().expect_err("no response");
                assert!(matches!(ending, Ending::StreamReset(_)), "{ending:?}");
            }
        },
    );
}

#[test]
fn bytes_after_an_http1_upload_are_the_next_request() {
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            let site = Site::start(cell, answer_target);
            let mut client = site.client();
            client.begin("PUT", "/", &[], Framing::Length(5), b"whole and more\r\n\r\n");
            assert_eq!(client.answer().status, 200);
            assert_eq!(client.answer().status, 400);
            let received = site.server.received().concat();
            assert!(received.ends_with(b"\r\n\r\nwhole"), "{}", received.escape_ascii());
            assert_eq!(site.server.requests().len(), 1);
        },
    );
}
