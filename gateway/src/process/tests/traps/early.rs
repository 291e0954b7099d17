//! Responses that come before the request was sent to its end.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::cells::{in_cells, in_every_cell};
use super::client::{Ending, Framing};
use super::frames::{DATA, END_STREAM, FrameClient, HEADERS, RST_STREAM};
use super::server::{Next, ServerExchange};
use super::{Settings, Site, answer_target};

/// The frames of a body in two pieces, as the server gets them.
const FRAMINGS: [(Framing, &[u8]); 2] = [(Framing::Length(11), b"first"), (Framing::Chunked, b"5\r\nfirst\r\n")];

/// Answers `/early/STATUS` with that status, and other requests with their target. The gateway has
/// sent `begun` of the body then, and must send no more of it.
fn answer_early(exchange: &mut ServerExchange<'_>, begun: &[u8]) -> Next {
    let Some(status) = exchange.target().strip_prefix("/early/") else { return answer_target(exchange) };
    let head = format!("HTTP/1.1 {status} Early\r\nContent-Length: 4\r\n\r\nmuch");
    exchange.wait_for_bytes(begun.len());
    exchange.write(head.as_bytes());
    assert_eq!(exchange.read_to_end(), begun);
    Next::End
}

#[test]
fn final_answer_instead_of_100_sends_no_body_and_ends_the_connection() {
    // Over HTTP/2 the gateway itself asks for the body.
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            let site = Site::start(cell, |exchange| {
                if exchange.target().starts_with("/early/") {
                    assert_eq!(exchange.fields()["expect"], ["100-continue"]);
                }
                answer_early(exchange, b"")
            });
            for status in [200, 302, 401, 413, 417, 500] {
                for (framing, _) in FRAMINGS {
                    for is_sent_at_once in [true, false] {
                        let mut client = site.client();
                        let expects = [("Expect", "100-continue")];
                        let first: &[u8] = if is_sent_at_once { b"first piece" } else { b"" };
                        client.begin("POST", &format!("/early/{status}"), &expects, framing, first);
                        let answer = client.answer();
                        assert_eq!((&*answer.interim, answer.status), (&[][..], status));
                        assert_eq!((answer.text(), answer.ending), ("much".to_owned(), Ending::Whole));
                        // The gateway may have closed the connection.
                        let _is_taken = is_sent_at_once || client.send(b"first piece");
                        let _is_taken = client.finish();
                        site.assert_serves();
                    }
                }
            }
        },
    );
}

#[test]
fn server_that_sends_no_100_gets_the_body_and_is_not_used_again() {
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            let site = Site::start(cell, |exchange| {
                let next = answer_target(exchange);
                if exchange.target() != "/no100" {
                    return next;
                }
                // It could also have answered without reading: the gateway cannot know.
                exchange.assert_ends();
                Next::End
            });
            for (framing, _) in FRAMINGS {
                let mut client = site.client();
                client.begin("POST", "/no100", &[("Expect", "100-continue")], framing, b"first piece");
                client.finish();
                let answer = client.answer();
                assert_eq!((&*answer.interim, answer.text()), (&[][..], "/no100".to_owned()));
                site.assert_serves();
            }
        },
    );
}

#[test]
fn expectation_over_http2_is_answered_by_the_gateway() {
    in_cells(
        |cell| cell.is_http2(),
        |cell| {
            let site = Site::start(cell, |exchange| {
                assert!(!exchange.fields().contains_key("expect"), "{:?}", exchange.fields());
                answer_target(exchange)
            });
            for framing in [Framing::Length(11), Framing::Chunked] {
                let mut client = site.client();
                client.begin("POST", "/asked", &[("expect", "100-continue")], framing, b"");
                client.http2().wait_for_interim();
                assert!(client.send(b"first piece") && client.finish());
                let answer = client.answer();
                assert_eq!((&*answer.interim, answer.text()), (&[100][..], "/asked".to_owned()));
            }
        },
    );
}

#[test]
fn early_success_gets_the_whole_upload_and_ends_the_connection() {
    const LEN: usize = 300_000;
    in_every_cell(|cell| {
        for is_whole_at_once in [true, false] {
            // Pingora's path reads no more of an HTTP/2 stream once its response is complete.
            if is_whole_at_once && !cell.is_direct() && cell.is_http2() {
                continue;
            }
            let site = Site::start(cell, move |exchange| {
                if exchange.target() != "/early" {
                    return answer_target(exchange);
                }
                exchange.wait_for_bytes(5);
                let begun: &[u8] = if is_whole_at_once {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun end"
                } else {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nbegun \r\n"
                };
                exchange.write(begun);
                let body = exchange.read_body();
                assert!(body.starts_with(b"first") && body[5..] == [b'x'; LEN], "{} bytes", body.len());
                if !is_whole_at_once {
                    exchange.write(b"3\r\nend\r\n0\r\n\r\n");
                }
                exchange.assert_ends();
                Next::End
            });
            for framing in [Framing::Length(LEN + 5), Framing::Chunked] {
                let mut client = site.client();
                client.begin("POST", "/early", &[], framing, b"first");
                let head = client.head();
                client.wait_for(b"begun ");
                for piece in [b'x'; LEN].chunks(7_000) {
                    assert!(client.send(piece), "the gateway takes no more");
                }
                assert!(client.finish());
                let answer = client.rest(head);
                assert_eq!((answer.text(), answer.ending), ("begun end".to_owned(), Ending::Whole));
                if !cell.is_http2() {
                    assert_eq!(answer.field("connection"), ["close"]);
                    assert_eq!(client.connection_end(), Ending::Closed);
                }
                site.assert_serves();
            }
        }
    });
}

#[test]
fn early_error_stops_the_upload_and_ends_the_connection() {
    in_every_cell(|cell| {
        for (framing, begun) in FRAMINGS {
            let site = Site::start(cell, |exchange| answer_early(exchange, begun));
            for status in [302, 400, 401, 403, 413, 500, 503] {
                for method in ["POST", "PUT"] {
                    let mut client = site.client();
                    client.begin(method, &format!("/early/{status}"), &[], framing, b"first");
                    let head = client.head();
                    assert_eq!(head.status, status);
                    // The server would read this as a request.
                    let _is_taken = client.send(b"second") && client.finish();
                    let answer = client.rest(head);
                    assert_eq!((answer.text(), answer.ending), ("much".to_owned(), Ending::Whole));
                    site.assert_serves();
                }
            }
        }
    });
}

#[test]
fn early_error_reaches_an_http1_client_that_goes_on_sending() {
    const LEN: usize = 50_000;
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            // Pingora waits so long for the rest of the body before it closes.
            let settings = Settings { sections: "limits: { minBodyRateAfter: 1s }\n", ..Settings::default() };
            let site = Site::with_settings(cell, settings, |exchange| {
                exchange.wait_for_bytes(5);
                exchange.write(format!("HTTP/1.1 413 Early\r\nContent-Length: {LEN}\r\n\r\n").as_bytes());
                exchange.write(&[b'y'; LEN]);
                assert_eq!(exchange.read_to_end(), b"first");
                Next::End
            });
            let mut client = site.client();
            client.begin("POST", "/", &[], Framing::Length(1_000_000), b"first");
            let head = client.head();
            assert_eq!(head.fields["connection"], ["close"]);
            // Less than the gateway drops. A close with these bytes unread would be a reset.
            for piece in [b'x'; LEN].chunks(1_000) {
                assert!(client.send(piece));
            }
            let answer = client.rest(head);
            assert_eq!((answer.status, answer.ending), (413, Ending::Whole));
            assert!(answer.body == [b'y'; LEN]);
            assert_eq!(client.connection_end(), Ending::Closed);
        },
    );
}

#[test]
fn early_error_ends_an_http2_stream_and_then_resets_it_without_error() {
    in_cells(
        |cell| cell.is_http2(),
        |cell| {
            let site = Site::start(cell, |exchange| answer_early(exchange, b"5\r\nfirst\r\n"));
            let mut client = FrameClient::open(cell, site.gateway().data());
            for stream in [1, 3] {
                client.send_head(stream, "POST", "/early/413", 0);
                client.send(DATA, 0, stream, b"first");
                let head = client.next(stream).expect("a head");
                assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, 0));
                let mut body = Vec::new();
                loop {
                    let frame = client.next(stream).expect("the body");
                    assert_eq!(frame.kind, DATA);
                    body.extend_from_slice(&frame.payload);
                    if frame.flags & END_STREAM != 0 {
                        break;
                    }
                }
                assert_eq!(body, b"much");
                let reset = client.next(stream).expect("a reset");
                assert_eq!((reset.kind, &*reset.payload), (RST_STREAM, &[0, 0, 0, 0][..]));
            }
        },
    );
}

#[test]
fn answer_before_a_reset_is_delivered() {
    in_every_cell(|cell| {
        for (framing, begun) in [(Framing::Length(40_000), 5), (Framing::Chunked, 10)] {
            for method in ["POST", "PUT"] {
                for round in 0..5 {
                    let site = Site::start(cell, move |exchange| {
                        if exchange.target() != "/early" {
                            return answer_target(exchange);
                        }
                        exchange.wait_for_bytes(begun);
                        exchange.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch");
                        Next::Reset
                    });
                    let mut client = site.client();
                    client.begin(method, "/early", &[], framing, b"first");
                    // The gateway fails to send some of these, sooner or later.
                    for piece in [b'x'; 39_995].chunks(400 + round * 400) {
                        if !client.send(piece) {
                            break;
                        }
                    }
                    let _is_taken = client.finish();
                    let answer = client.answer();
                    assert_eq!((answer.status, answer.text()), (413, "much".to_owned()));
                    assert_eq!(site.server.requests().len(), 1, "the request is sent twice");
                    site.assert_serves();
                }
            }
        }
    });
}

#[test]
fn reset_without_an_answer_is_a_502_or_repeats_the_request() {
    in_every_cell(|cell| {
        for (method, status) in [("POST", 502), ("PUT", 200)] {
            let turn = AtomicUsize::new(0);
            let site = Site::start(cell, move |exchange| {
                if exchange.target() == "/reset" && turn.fetch_add(1, SeqCst) == 0 {
                    exchange.wait_for_bytes(5);
                    return Next::Reset;
                }
                if exchange.target() == "/reset" {
                    assert_eq!(exchange.read_body(), b"first piece");
                }
                exchange.answer_target();
                Next::Request
            });
            let mut client = site.client();
            client.begin(method, "/reset", &[], Framing::Length(11), b"first");
            let _is_taken = client.send(b" piece") && client.finish();
            assert_eq!(client.answer().status, status, "{method}");
            site.assert_serves();
        }
    });
}
