//! A client that writes frames of HTTP/2 as it likes: what no library would send. Heads are written as literals, and of answers the status is
//! read.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::process::PATIENCE;

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
/// Of GOAWAY and RST_STREAM.
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;
const ACK: u8 = 1;
/// No dynamic table, so that a status is always written out.
const HEADER_TABLE_SIZE_0: [u8; 6] = [0, 1, 0, 0, 0, 0];

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(u16),
    /// RST_STREAM, with its reason.
    Reset(u32),
    /// GOAWAY, with its reason.
    GoneAway(u32),
    /// The connection ended.
    Closed,
}

#[derive(Debug)]
pub(crate) struct RawHttp2 {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl RawHttp2 {
    /// A connection with the preface sent, and `settings` besides that of the table.
    pub(crate) fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut raw = Self::over(stream);
        let settings = [&HEADER_TABLE_SIZE_0[..], settings].concat();
        assert!(raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()));
        raw
    }

    /// The same connection, for whoever listens to it.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Whether it could be sent.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` once the connection has ended.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer) {
                if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                    self.send(&super::raw_http2::frame(SETTINGS, ACK, 0, &[]));
                }
                return Some(frame);
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(len @ 1..) => self.buffer.extend_from_slice(&piece[..len]),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// What becomes of a request.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.read() {
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Answered(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(number(&frame.payload[..4])),
                GOAWAY => return Outcome::GoneAway(number(&frame.payload[4..8])),
                _ => {}
            }
        }
        Outcome::Closed
    }

    /// The reason of the GOAWAY with which the connection ends; `None` if it ends without.
    pub(crate) fn reason_of_end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                reason = Some(number(&frame.payload[4..8]));
            }
        }
        reason
    }
}

/// A frame in bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A whole head in one frame.
pub(crate) fn head(stream: u32, fields: &[(&str, &str)], end: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | end, stream, &block(fields))
}

/// Fields as literals that nobody is to remember. Characters up to U+00FF are bytes.
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

/// RFC 7541, section 5.1, with a prefix of 7 bits.
fn push_len(block: &mut Vec<u8>, len: usize) {
    let Some(mut rest) = len.checked_sub(127) else { return block.push(u8::try_from(len).unwrap()) };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

fn take_frame(buffer: &mut Vec<u8>) -> Option<Frame> {
    let (head, rest) = buffer.split_at_checked(9)?;
    let length = number(&head[..3]) as usize;
    let payload = rest.get(..length)?.to_vec();
    let frame = Frame { kind: head[3], flags: head[4], stream: number(&head[5..9]) & 0x7fff_ffff, payload };
    buffer.drain(..9 + length);
    Some(frame)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The status at the beginning of a block, RFC 7541: of the static table, or written out by Huffman's code, of which the digits are known here.
fn status(block: &[u8]) -> u16 {
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match block {
        [byte @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        [_, length, rest @ ..] if length & 0x80 != 0 => digits(&rest[..usize::from(length & 0x7f)]),
        [_, 3, rest @ ..] => String::from_utf8_lossy(&rest[..3]).parse().unwrap(),
        _ => panic!("no status in {block:?}"),
    }
}

fn digits(coded: &[u8]) -> u16 {
    let mut bits = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |number, bit| number << 1 | bit);
    (0..3).fold(0, |number, _| {
        let digit = match take(5) {
            short @ 0..=2 => short,
            long => (long << 1 | take(1)) - 0x19 + 3,
        };
        number * 10 + digit
    })
}
