//! A client that writes frames of HTTP/2 as it likes: what no library would send. Of answers the status is read.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::http2_frames::{Frame, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::process::PATIENCE;

/// No dynamic table, so that a status is always written out.
const HEADER_TABLE_SIZE_0: [u8; 6] = [0, 1, 0, 0, 0, 0];

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
    frames: Frames,
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
    pub(crate) fn listening(&self) -> Self {
        Self::over(self.frames.stream.try_clone().unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        Self { frames: Frames { stream } }
    }

    /// Whether it could be sent.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.frames.send(bytes).is_some()
    }

    /// Says that nothing more comes.
    pub(crate) fn finish_sending(&self) {
        let _ended_already = self.frames.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; `None` once the connection has ended.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        self.frames.next()
    }

    /// What becomes of a request.
    pub(crate) fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.read() {
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Answered(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                GOAWAY => return Outcome::GoneAway(frame.number(4)),
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
                reason = Some(frame.number(4));
            }
        }
        reason
    }
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
