//! A client of HTTP/2 that sees frames: the kind of each, its flags and its order.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use super::cells::Cell;
use crate::process::tests::streams::ByteStream;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const END_STREAM: u8 = 1;

const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) payload: Vec<u8>,
}

pub(super) struct FrameClient {
    stream: ByteStream,
    scheme: &'static str,
}

impl FrameClient {
    pub(super) fn open(cell: Cell, address: SocketAddr) -> Self {
        let mut client =
            FrameClient { stream: cell.transport.connect_for_frames(address), scheme: cell.transport.scheme() };
        client.stream.write_all(PREFACE).unwrap();
        client.send(SETTINGS, 0, 0, &[]);
        client
    }

    /// Sends a frame. `false` if the connection has ended.
    pub(super) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.stream.write_all(&frame).is_ok()
    }

    /// Sends the head of a request, as literals without indexing (RFC 7541, section 6.2.2).
    pub(super) fn send_head(&mut self, stream: u32, method: &str, path: &str, flags: u8) {
        let fields = [(":method", method), (":scheme", self.scheme), (":authority", "api.test"), (":path", path)];
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("a short field"));
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS | flags, stream, &block);
    }

    /// The next frame of this stream. `None` if the connection ends before.
    pub(super) fn next(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).ok()?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).ok()?;
            if kind == SETTINGS && flags & ACK == 0 {
                self.send(SETTINGS, ACK, 0, &[]);
            }
            if u32::from_be_bytes(id) == stream {
                return Some(Frame { kind, flags, payload });
            }
        }
    }
}
