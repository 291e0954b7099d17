//! Frames of HTTP/2 (RFC 9113, section 4) as bytes, for clients and upstreams that send what
//! libraries cannot.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Error codes of GOAWAY and RST_STREAM.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A received frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// One side of a connection.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
}

impl Frames {
    /// Sends bytes. `None`: the connection has ended.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).ok()
    }

    /// Reads the next frame, and acknowledges settings and pings before it. `None`: the connection
    /// has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).ok()?;
            // A peer that no longer reads may have sent more frames.
            let _sent_or_closed = match kind {
                SETTINGS if flags & ACK == 0 => self.send(&frame(SETTINGS, ACK, 0, &[])),
                PING if flags & ACK == 0 => self.send(&frame(PING, ACK, 0, &payload)),
                _ => return Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload }),
            };
        }
    }
}

impl Frame {
    /// The 32-bit number at an offset of the payload. The error code of RST_STREAM is at 0, that of
    /// GOAWAY at 4.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A complete head in one HEADERS frame.
pub(crate) fn head(stream: u32, fields: &[(&str, &str)], end: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | end, stream, &block(fields))
}

/// Fields as literals without indexing (RFC 7541, section 6.2.2). Characters up to U+00FF are
/// bytes.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let bytes = super::wire::latin1(text);
            push_len(&mut block, bytes.len());
            block.extend(bytes);
        }
    }
    block
}

/// Appends an integer with a prefix of 7 bits: RFC 7541, section 5.1.
fn push_len(block: &mut Vec<u8>, len: usize) {
    let Some(mut rest) = len.checked_sub(127) else { return block.push(u8::try_from(len).unwrap()) };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}
