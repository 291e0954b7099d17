//! The frames in what a client sends, RFC 9113, section 4.1: followed from one head to the next,
//! and those counted that carry nothing.
//!
//! `h2` parses the same bytes and is the judge of them; here nothing is looked at but a frame's
//! length and kind.

/// A frame's head.
const HEAD_LEN: usize = 9;
/// What comes before the first frame.
const PREFACE_LEN: usize = 24;
/// RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Where in its frames a client is.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that belong to no head: the preface, or what is left of a frame.
    skip: usize,
    head: [u8; HEAD_LEN],
    head_len: usize,
}

impl Frames {
    /// Of a connection of which nothing has been read.
    pub(super) fn new() -> Self {
        Frames { skip: PREFACE_LEN, head: [0; HEAD_LEN], head_len: 0 }
    }

    /// Follows the next bytes; how many frames that carry nothing begin in them.
    pub(super) fn count_idle(&mut self, mut bytes: &[u8]) -> u32 {
        let mut idle = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let missing = self.head.iter_mut().skip(self.head_len).zip(bytes);
            let taken = missing.map(|(slot, byte)| *slot = *byte).count();
            self.head_len += taken;
            if self.head_len < HEAD_LEN {
                return idle;
            }
            bytes = bytes.get(taken..).unwrap_or_default();
            self.head_len = 0;
            let [high, middle, low, kind, flags, ..] = self.head;
            let len = u32::from_be_bytes([0, high, middle, low]);
            self.skip = len as usize;
            idle += u32::from(is_idle(kind, flags, len));
        }
    }
}

/// Whether a frame carries no part of a request. HEADERS are one each, and `h2` bounds how many
/// CONTINUATION frames follow.
fn is_idle(kind: u8, flags: u8, len: u32) -> bool {
    match kind {
        HEADERS => false,
        DATA => len == 0 && flags & END_STREAM == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_followed_wherever_they_are_cut() {
        let ping = frame(6, 0, &[0; 8]);
        // What is in a frame is not taken for one.
        let data = frame(DATA, 0, &frame(3, 0, &[0; 4]));
        let frames = [
            (frame(4, 0, &[]), 1),
            (frame(HEADERS, 5, &[0x82, 0x86]), 0),
            (data, 0),
            (frame(DATA, 0, &[]), 1),
            (frame(DATA, END_STREAM, &[]), 0),
            (ping.clone(), 1),
            (frame(3, 0, &[0; 4]), 1),
            (frame(8, 0, &[0; 4]), 1),
            (frame(0xbe, 0xff, &[1; 300]), 1),
            (ping, 1),
        ];
        let wanted: u32 = frames.iter().map(|(_, idle)| idle).sum();
        let bytes = [PREFACE.to_vec(), frames.map(|(bytes, _)| bytes).concat()].concat();
        for piece_len in 1..bytes.len() {
            let mut followed = Frames::new();
            let idle: u32 = bytes.chunks(piece_len).map(|piece| followed.count_idle(piece)).sum();
            assert_eq!(idle, wanted, "in pieces of {piece_len}");
        }
    }
}
