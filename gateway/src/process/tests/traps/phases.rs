//! Exchanges that change what becomes of their connection: the stop of the gateway, and upgrades.

use std::io::{Read as _, Write as _};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::cells::{in_cells, in_every_cell};
use super::client::{Ending, Framing};
use super::server::Next;
use super::{PATIENCE, Site, answer_target};
use crate::process::StopMode;

#[test]
fn drain_within_a_response_ends_the_connection_after_it() {
    in_every_cell(|cell| {
        for framing in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
            let (go, gone) = mpsc::channel::<()>();
            let gone = Mutex::new(gone);
            let mut site = Site::start(cell, move |exchange| {
                exchange.write(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes());
                gone.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                exchange.write(if framing.starts_with('C') { b" done" } else { b"5\r\n done\r\n0\r\n\r\n" });
                exchange.assert_ends();
                Next::End
            });
            let mut client = site.client();
            client.begin("GET", "/", &[], Framing::NoBody, b"");
            let head = client.head();
            client.wait_for(b"half");
            let gateway = site.gateway.take().expect("running");
            gateway.drain();
            let stopping = thread::spawn(move || gateway.stop(StopMode::Gracefully));
            go.send(()).unwrap();
            let answer = client.rest(head);
            assert_eq!((answer.text(), answer.ending), ("half done".to_owned(), Ending::Whole));
            if !cell.is_http2() {
                // The head was sent before.
                assert_eq!(answer.field("connection"), ["keep-alive"]);
            }
            assert_eq!(client.connection_end(), Ending::Closed);
            assert_eq!(stopping.join().unwrap(), 0, "a connection was cut off");
        }
    });
}

/// A delay before the 101, as of a network. Pingora 0.9.1 ends an upgraded connection if the 101
/// arrives before it has handled the end of its own, empty request body.
const SWITCH_DELAY: Duration = Duration::from_millis(50);

#[test]
fn websocket_opens_on_a_connection_that_has_served_requests() {
    const UPGRADE: [(&str, &str); 4] = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    in_cells(
        |cell| !cell.is_http2(),
        |cell| {
            let site = Site::start(cell, |exchange| {
                if exchange.target() != "/opened" {
                    return answer_target(exchange);
                }
                assert_eq!(exchange.fields()["upgrade"], ["websocket"]);
                thread::sleep(SWITCH_DELAY);
                exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
                exchange.write(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
                let mut piece = [0; 1024];
                while let Ok(len @ 1..) = exchange.stream().read(&mut piece) {
                    exchange.write(&piece[..len]);
                }
                Next::End
            });
            let mut client = site.client();
            for _ in 0..3 {
                assert_eq!(client.ask("GET", "/get", &[], b"").text(), "/get");
                assert_eq!(client.ask("POST", "/post", &[], b"body").text(), "/post");
                let refused = client.ask("GET", "/refused", &UPGRADE, b"");
                assert_eq!((refused.status, refused.text()), (200, "/refused".to_owned()));
                assert_eq!(refused.field("connection"), ["keep-alive"]);
            }
            client.begin("GET", "/opened", &UPGRADE, Framing::NoBody, b"");
            let head = client.head();
            assert_eq!((head.status, &*head.fields["upgrade"]), (101, &["websocket".to_owned()][..]));
            let client = client.http1();
            for round in 0..5 {
                // A text frame with an empty mask.
                let text = format!("frame {round}\r\n\r\n");
                let frame = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat();
                client.stream.write_all(&frame).unwrap();
                assert_eq!(client.exactly(frame.len()), frame);
            }
            client.stream.end();
            assert!(matches!(client.fill(), Err(Ending::Closed | Ending::Cut)));
        },
    );
}
