//! A WebSocket on its way to the client: where its frames begin, so that it can be ended by one of
//! the gateway's own.
//!
//! A drain ends by cutting what is left. Between two frames of the server a Close frame with 1001
//! (going away) fits in, RFC 6455, sections 5.5.1 and 7.4.1, and has the client connect again;
//! within a frame it would be payload, so the connection just ends there. Only the headers of
//! frames are read: extensions change payloads alone. Absent on purpose: the client's frames, masks
//! and messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::watch;

/// FIN, Close, two bytes without a mask: 1001.
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

const HEAD_END: &[u8] = b"\r\n\r\n";
/// Where the status stands in `HTTP/1.1 101`.
const STATUS_AT: std::ops::Range<usize> = 9..12;
const SWITCHING: &[u8] = b"101";
/// Two bytes, a length of eight, a mask of four.
const HEADER_LEN_MAX: usize = 14;
const CLOSE: u8 = 0x8;

/// A connection that has switched to WebSocket, and the signal of the gateway's stop.
pub(super) struct Tunnel {
    frames: TunnelFrames,
    /// Ends once the gateway does. It counts the tunnel as an open one.
    end: Pin<Box<dyn Future<Output = watch::Receiver<bool>> + Send + Sync>>,
    /// The same count after that end.
    stopped: Option<watch::Receiver<bool>>,
}

impl Tunnel {
    /// A tunnel to whose client nothing was written since the answer that opened it. The notice is
    /// `true` once the gateway ends.
    pub(super) fn new(mut notice: watch::Receiver<bool>) -> Self {
        let end = Box::pin(async move {
            if notice.wait_for(|ends| *ends).await.is_err() {
                // A dropped sender is not a stop.
                std::future::pending::<()>().await;
            }
            notice
        });
        Tunnel { frames: TunnelFrames::default(), end, stopped: None }
    }

    /// Follows what the client was sent.
    pub(super) fn follow(&mut self, sent: &[u8]) {
        self.frames.follow(sent);
    }

    /// Ready once the gateway ends.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stopped.is_none() {
            self.stopped = Some(ready!(self.end.as_mut().poll(cx)));
        }
        Poll::Ready(())
    }

    /// Whether the gateway has stopped.
    pub(super) fn is_over(&self) -> bool {
        self.stopped.is_some()
    }

    /// The Close frame, if one fits in here. No other frame does from then on.
    pub(super) fn take_close_frame(&mut self) -> Option<[u8; 4]> {
        let fits = self.frames.are_between();
        self.frames = TunnelFrames::Closed;
        fits.then_some(GOING_AWAY)
    }
}

/// Where the server's bytes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TunnelFrames {
    /// In the head of an answer: of an interim one, or of the one that switches.
    Head { len: usize, is_switch: bool, matched: usize },
    /// In the header of a frame, of which so many bytes have come.
    Header { bytes: [u8; HEADER_LEN_MAX], len: usize },
    /// In the payload of a frame.
    Payload { left: u64, is_last: bool },
    /// Behind the server's own Close frame: no frame may follow it.
    Closed,
}

const BETWEEN: TunnelFrames = TunnelFrames::Header { bytes: [0; HEADER_LEN_MAX], len: 0 };

impl Default for TunnelFrames {
    fn default() -> Self {
        TunnelFrames::Head { len: 0, is_switch: true, matched: 0 }
    }
}

impl TunnelFrames {
    fn are_between(self) -> bool {
        matches!(self, TunnelFrames::Header { len: 0, .. })
    }

    fn follow(&mut self, mut sent: &[u8]) {
        while let Some((byte, rest)) = sent.split_first() {
            (*self, sent) = match *self {
                TunnelFrames::Head { len, is_switch, matched } => (in_head(len, is_switch, matched, *byte), rest),
                TunnelFrames::Header { bytes, len } => (in_header(bytes, len, *byte), rest),
                TunnelFrames::Payload { left, is_last } => {
                    let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(sent.len());
                    let next = after_header(left - skipped as u64, is_last);
                    (next, sent.get(skipped..).unwrap_or_default())
                }
                TunnelFrames::Closed => return,
            };
        }
    }
}

fn in_head(len: usize, is_switch: bool, matched: usize, byte: u8) -> TunnelFrames {
    let is_of_status = STATUS_AT.contains(&len);
    let is_switch = is_switch && (!is_of_status || SWITCHING.get(len - STATUS_AT.start) == Some(&byte));
    let matched = match HEAD_END.get(matched) {
        Some(wanted) if *wanted == byte => matched + 1,
        _ => usize::from(HEAD_END.first() == Some(&byte)),
    };
    match (matched == HEAD_END.len(), is_switch) {
        (false, _) => TunnelFrames::Head { len: len.saturating_add(1), is_switch, matched },
        (true, true) => BETWEEN,
        // An interim answer: the next head follows.
        (true, false) => TunnelFrames::default(),
    }
}

fn in_header(mut bytes: [u8; HEADER_LEN_MAX], len: usize, byte: u8) -> TunnelFrames {
    if let Some(place) = bytes.get_mut(len) {
        *place = byte;
    }
    let len = len + 1;
    let [first, second, extended @ ..] = bytes;
    let length_len = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    // A server may not mask. One that does is followed like its client.
    let mask_len = if second & 0x80 == 0 { 0 } else { 4 };
    if len < 2 || len < 2 + length_len + mask_len {
        return TunnelFrames::Header { bytes, len };
    }
    let length = match length_len {
        0 => u64::from(second & 0x7f),
        _ => extended.iter().take(length_len).fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    after_header(length, first & 0x0f == CLOSE)
}

fn after_header(left: u64, is_last: bool) -> TunnelFrames {
    match (left, is_last) {
        (0, true) => TunnelFrames::Closed,
        (0, false) => BETWEEN,
        (left, is_last) => TunnelFrames::Payload { left, is_last },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    fn frame(first: u8, payload_len: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload_len {
            0..126 => bytes.push(payload_len as u8),
            126..65_536 => {
                bytes.push(126);
                bytes.extend((payload_len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(127);
                bytes.extend((payload_len as u64).to_be_bytes());
            }
        }
        // Looks like the header of a Close frame, wherever it is cut.
        bytes.extend(std::iter::repeat_n(0x88, payload_len));
        bytes
    }

    /// Where the frames stand after bytes that come in pieces of this length.
    fn after(bytes: &[u8], piece_len: usize) -> TunnelFrames {
        let mut frames = TunnelFrames::default();
        bytes.chunks(piece_len).for_each(|piece| frames.follow(piece));
        frames
    }

    #[test]
    fn d9_the_beginning_of_a_frame_is_known_wherever_bytes_are_cut() {
        let frames = [
            frame(0x81, 5),
            // Fragments, with a Ping between them; compressed ones have RSV1.
            frame(0x41, 0),
            frame(0x89, 125),
            frame(0x80, 126),
            frame(0xc2, 300),
            frame(0x82, 65_535),
            frame(0x82, 65_536),
        ];
        let mut bytes = HEAD.to_vec();
        let mut ends = vec![bytes.len()];
        for frame in &frames {
            bytes.extend(frame);
            ends.push(bytes.len());
        }
        let mut frames = TunnelFrames::default();
        for (at, byte) in (1..).zip(&bytes) {
            frames.follow(std::slice::from_ref(byte));
            assert_eq!(frames.are_between(), ends.contains(&at), "after {at} bytes");
        }
        for piece_len in [2, 3, 7, 1000, bytes.len()] {
            assert!(after(&bytes, piece_len).are_between(), "{piece_len}");
            let cut = &bytes[..bytes.len() - 1];
            assert!(!after(cut, piece_len).are_between(), "{piece_len}");
        }
    }

    #[test]
    fn d9_nothing_follows_the_servers_own_close() {
        let closed = [HEAD, &frame(0x88, 2)].concat();
        assert_eq!(after(&closed, 1), TunnelFrames::Closed);
        assert_eq!(after(&[&*closed, &frame(0x81, 5)].concat(), 1), TunnelFrames::Closed);
        assert_eq!(after(&[HEAD, &frame(0x88, 0)].concat(), 4), TunnelFrames::Closed);
        assert!(!after(&closed[..closed.len() - 1], 3).are_between());
    }

    #[test]
    fn d9_heads_before_the_switch_are_passed_over() {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        for piece_len in [1, 5, 1000] {
            assert!(!after(early, piece_len).are_between());
            assert!(after(&[early, HEAD].concat(), piece_len).are_between());
            assert!(!after(&HEAD[..HEAD.len() - 1], piece_len).are_between());
        }
        // Carriage returns that are not the end of the head.
        assert!(after(b"HTTP/1.1 101 \r\r\nA: b\r\n\r\r\n\r\n", 1).are_between());
    }

    #[test]
    fn d9_a_masked_frame_is_followed() {
        let masked = [&[0x81, 0x83][..], &[1, 2, 3, 4], &[9, 9, 9]].concat();
        assert!(after(&[HEAD, &masked].concat(), 1).are_between());
        assert!(!after(&[HEAD, &masked[..8]].concat(), 1).are_between());
    }

    #[test]
    fn d9_the_longest_frame_does_not_overflow() {
        let endless = [&[0x82, 0x7f][..], &[0xff; 8], &[0; 100]].concat();
        assert_eq!(
            after(&[HEAD, &endless].concat(), 9),
            TunnelFrames::Payload { left: u64::MAX - 100, is_last: false }
        );
    }

    #[test]
    fn d9_a_tunnel_is_stopped_once_and_counted_until_dropped() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (sent, expected) in [(HEAD.to_vec(), Some(GOING_AWAY)), ([HEAD, &frame(0x81, 9)[..3]].concat(), None)] {
            let (ends, notice) = watch::channel(false);
            let mut tunnel = Tunnel::new(notice);
            tunnel.follow(&sent);
            assert!(tunnel.poll_end(&mut cx).is_pending() && !tunnel.is_over());
            ends.send_replace(true);
            for _ in 0..2 {
                assert!(tunnel.poll_end(&mut cx).is_ready() && tunnel.is_over());
            }
            assert_eq!((tunnel.take_close_frame(), tunnel.take_close_frame()), (expected, None));
            assert_eq!(ends.receiver_count(), 1);
            drop(tunnel);
            assert_eq!(ends.receiver_count(), 0);
        }
    }
}
