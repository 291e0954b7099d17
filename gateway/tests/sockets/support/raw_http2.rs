//! An HTTP/2 client that sends any frames, valid or not. Of a response head it reads only the
//! status.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::http2_frames::{
    DATA, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};
use super::process::PATIENCE;

/// SETTINGS_HEADER_TABLE_SIZE 0: without a dynamic table, a status is in the static table or a
/// literal.
const HEADER_TABLE_SIZE_0: [u8; 6] = [0, 1, 0, 0, 0, 0];

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(u16),
    /// RST_STREAM with its error code.
    Reset(u32),
    /// GOAWAY with its error code.
    GoneAway(u32),
    /// The connection ended without any of these.
    Closed,
}

#[derive(Debug)]
pub(crate) struct RawHttp2 {
    frames: Frames,
}

impl RawHttp2 {
    /// Opens a connection and sends the preface with `settings` and the table size.
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

    /// A second handle to the same connection, for a thread that reads.
    pub(crate) fn reader(&self) -> Self {
        Self::over(self.frames.stream.try_clone().unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        Self { frames: Frames { stream } }
    }

    /// Sends bytes. `false`: the connection has ended.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.frames.send(bytes).is_some()
    }

    /// Closes the sending side.
    pub(crate) fn finish_sending(&self) {
        let _ended_already = self.frames.stream.shutdown(Shutdown::Write);
    }

    /// Reads the next frame. `None`: the connection has ended.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        self.frames.next()
    }

    /// Reads until the request on this stream has an outcome.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        self.outcome_after(stream, |_, _| {})
    }

    /// As [`outcome`](Self::outcome), and sends a byte of body for each that the window of the
    /// stream gains: sooner or later the buffers on the way are full.
    pub(crate) fn upload_outcome(&mut self, stream: u32) -> Outcome {
        self.outcome_after(stream, |raw, frame| {
            if frame.kind == WINDOW_UPDATE && frame.stream == stream {
                for piece in vec![b'x'; frame.number(0) as usize].chunks(16 * 1024) {
                    raw.send(&data_frame(stream, piece));
                }
            }
        })
    }

    fn outcome_after(&mut self, stream: u32, mut on_frame: impl FnMut(&mut Self, &Frame)) -> Outcome {
        while let Some(frame) = self.read() {
            on_frame(self, &frame);
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Answered(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                GOAWAY => return Outcome::GoneAway(frame.number(4)),
                _ => {}
            }
        }
        Outcome::Closed
    }

    /// Reads the body of an answer whose head was read. The windows of the client must have room
    /// for it.
    pub(crate) fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(frame) = self.read() {
            if frame.kind == DATA && frame.stream == stream {
                body.extend(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        body
    }

    /// Reads until the connection ends. Returns the error code of its last GOAWAY.
    pub(crate) fn goaway_code(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }
}

fn data_frame(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, body)
}

/// The status at the beginning of a field block: from the static table (RFC 7541, appendix A), or a
/// literal, plain or in Huffman code (appendix B).
fn status(block: &[u8]) -> u16 {
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match block {
        [byte @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        [_, length, rest @ ..] if length & 0x80 != 0 => digits(&rest[..usize::from(length & 0x7f)]),
        [_, 3, rest @ ..] => String::from_utf8_lossy(&rest[..3]).parse().unwrap(),
        _ => panic!("no status in {block:?}"),
    }
}

/// Decodes three Huffman-coded digits.
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
