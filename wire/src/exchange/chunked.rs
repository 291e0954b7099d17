//! Finds the end of a chunked body, strictly by RFC 9112, section 7.1.
//!
//! The bytes are forwarded unchanged. The decoder finds how many of them belong to this request, so
//! that the next request stays in the buffer. It refuses bodies that two recipients could read
//! differently. It is stricter than Pingora's parser where that one guesses: a size has digits, a
//! line ends with CRLF. Extensions and trailer lines are bounded, not parsed, and not forwarded.

/// The most hexadecimal digits of a size: 15 cannot overflow.
const SIZE_DIGITS_MAX: u32 = 15;
/// The most bytes of all extensions and trailer lines of one body.
const EXTRA_BYTES_MAX: u32 = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedDecoder {
    state: ChunkState,
    left: u64,
    digits: u32,
    extra: u32,
    is_response: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    LineStart,
    Line,
    LineEnd,
    LastLf,
    Done,
}

/// The bytes are not a valid chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedChunk;

impl ChunkedDecoder {
    /// Makes a decoder before the first byte.
    pub const fn new() -> Self {
        ChunkedDecoder { state: ChunkState::Size, left: 0, digits: 0, extra: 0, is_response: false }
    }

    /// Makes a decoder for the body of a response. The gateway makes the chunks for the client, so
    /// space after a size does no harm, and each chunk may have extensions up to the limit.
    pub const fn of_response() -> Self {
        ChunkedDecoder { is_response: true, ..Self::new() }
    }

    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Takes the next bytes and returns how many of them belong to the body.
    ///
    /// # Errors
    /// Returns [`MalformedChunk`] if the bytes are not valid.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, MalformedChunk> {
        let mut at = 0;
        while let (Some(byte), false) = (bytes.get(at), self.is_done()) {
            at += match self.state {
                ChunkState::Data => self.skip_data(bytes.len() - at),
                ChunkState::Size
                | ChunkState::Extension
                | ChunkState::SizeEnd
                | ChunkState::DataCr
                | ChunkState::DataLf
                | ChunkState::LineStart
                | ChunkState::Line
                | ChunkState::LineEnd
                | ChunkState::LastLf
                | ChunkState::Done => {
                    self.state = self.next(*byte)?;
                    1
                }
            };
        }
        Ok(at)
    }

    /// Takes bytes up to the end of the next piece of data. Returns how many they are, and that
    /// piece, which is empty at the end of `bytes` or of the body.
    ///
    /// # Errors
    /// Returns [`MalformedChunk`] if the bytes are not valid.
    pub fn next_data<'b>(&mut self, bytes: &'b [u8]) -> Result<(usize, &'b [u8]), MalformedChunk> {
        let mut at = 0;
        while let (Some(byte), false) = (bytes.get(at), self.is_done()) {
            if self.state == ChunkState::Data {
                let len = self.skip_data(bytes.len() - at);
                return Ok((at + len, bytes.get(at..at + len).unwrap_or_default()));
            }
            self.state = self.next(*byte)?;
            at += 1;
        }
        Ok((at, &[]))
    }

    fn skip_data(&mut self, available: usize) -> usize {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left -= len as u64;
        if self.left == 0 {
            self.state = ChunkState::DataCr;
        }
        len
    }

    fn next(&mut self, byte: u8) -> Result<ChunkState, MalformedChunk> {
        match (self.state, byte) {
            // Request smuggling: some servers read a size without digits as 0, or end a line with
            // LF only.
            (ChunkState::Size, b'\r') if self.digits > 0 => Ok(ChunkState::SizeEnd),
            (ChunkState::Size, b';') if self.digits > 0 => Ok(ChunkState::Extension),
            (ChunkState::Size, b' ' | b'\t') if self.digits > 0 && self.is_response => Ok(ChunkState::Extension),
            (ChunkState::Size, _) => self.size_digit(byte),
            (ChunkState::Extension, b'\r') => Ok(ChunkState::SizeEnd),
            (ChunkState::Extension, _) => self.extra(byte, ChunkState::Extension),
            (ChunkState::SizeEnd, b'\n') => Ok(self.after_size()),
            (ChunkState::DataCr, b'\r') => Ok(ChunkState::DataLf),
            (ChunkState::DataLf, b'\n') => Ok(self.before_size()),
            (ChunkState::LineStart, b'\r') => Ok(ChunkState::LastLf),
            (ChunkState::Line, b'\r') => Ok(ChunkState::LineEnd),
            (ChunkState::LineStart | ChunkState::Line, _) => self.extra(byte, ChunkState::Line),
            (ChunkState::LineEnd, b'\n') => Ok(ChunkState::LineStart),
            (ChunkState::LastLf, b'\n') => Ok(ChunkState::Done),
            (
                ChunkState::SizeEnd
                | ChunkState::Data
                | ChunkState::DataCr
                | ChunkState::DataLf
                | ChunkState::LineEnd
                | ChunkState::LastLf
                | ChunkState::Done,
                _,
            ) => Err(MalformedChunk),
        }
    }

    fn size_digit(&mut self, byte: u8) -> Result<ChunkState, MalformedChunk> {
        let digit = char::from(byte).to_digit(16).ok_or(MalformedChunk)?;
        self.digits += 1;
        if self.digits > SIZE_DIGITS_MAX {
            return Err(MalformedChunk);
        }
        self.left = self.left * 16 + u64::from(digit);
        Ok(ChunkState::Size)
    }

    fn after_size(&self) -> ChunkState {
        if self.left == 0 { ChunkState::LineStart } else { ChunkState::Data }
    }

    fn before_size(&mut self) -> ChunkState {
        self.digits = 0;
        if self.is_response {
            self.extra = 0;
        }
        ChunkState::Size
    }

    /// Counts a byte of an extension or a trailer line, which must be text and within the limit.
    fn extra(&mut self, byte: u8, state: ChunkState) -> Result<ChunkState, MalformedChunk> {
        self.extra += 1;
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        if is_text && self.extra <= EXTRA_BYTES_MAX { Ok(state) } else { Err(MalformedChunk) }
    }
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks how many bytes belong to the body and whether it ended, in one piece and byte by
    /// byte.
    fn check(bytes: &[u8], expected: Result<(usize, bool), MalformedChunk>) {
        let mut whole = ChunkedDecoder::new();
        let found = whole.take(bytes).map(|len| (len, whole.is_done()));
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
        let mut pieces = ChunkedDecoder::new();
        let mut len = 0;
        let mut result = Ok(());
        for byte in bytes {
            match pieces.take(&[*byte]) {
                Ok(taken) => len += taken,
                Err(error) => result = result.and(Err(error)),
            }
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result.map(|()| (len, pieces.is_done())), expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn chunked_body_ends_before_the_next_request() {
        check(b"0\r\n\r\n", Ok((5, true)));
        check(b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n", Ok((15, true)));
        check(b"00a;x=\"y\"\r\n0123456789\r\n000\r\n\r\n", Ok((30, true)));
        check(b"1\r\nx\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nrest", Ok((27, true)));
        check(b"1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", Ok((37, true)));
        check(b"5\r\nhel", Ok((6, false)));
        check(b"5\r\nhello", Ok((8, false)));
        check(b"0\r\n", Ok((3, false)));
    }

    #[test]
    fn data_is_found_wherever_the_body_is_cut() {
        let body = b"5;a=b\r\nhello\r\n00b\r\n to you all\r\n0\r\nX-Sum: 1\r\n\r\nrest";
        for piece_len in 1..=body.len() {
            let (mut decoder, mut data, mut used) = (ChunkedDecoder::new(), Vec::new(), 0);
            for piece in body.chunks(piece_len) {
                let mut rest = piece;
                while !rest.is_empty() && !decoder.is_done() {
                    let (len, part) = decoder.next_data(rest).unwrap();
                    data.extend_from_slice(part);
                    used += len;
                    rest = &rest[len..];
                }
            }
            assert_eq!((&*data, used), (&b"hello to you all"[..], body.len() - 4), "{piece_len}");
        }
        assert_eq!(ChunkedDecoder::new().next_data(b"x"), Err(MalformedChunk));
    }

    #[test]
    fn chunks_of_a_response_may_have_space_and_many_extensions() {
        let chunk = [b"1 ;a=".as_slice(), &[b'x'; 8_000], b"\r\ny\r\n"].concat();
        let body = [&*chunk, &chunk, b"1 \t\r\nz\r\n0 \r\n\r\n"].concat();
        let mut decoder = ChunkedDecoder::of_response();
        assert_eq!((decoder.take(&body), decoder.is_done()), (Ok(body.len()), true));
        assert_eq!(ChunkedDecoder::new().take(&chunk), Err(MalformedChunk));
        for bad in [&b" 1\r\n"[..], b"\t\r\n", b"1 \n"] {
            assert_eq!(ChunkedDecoder::of_response().take(bad), Err(MalformedChunk), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn chunked_limits_are_exact() {
        check(b"000000000000001\r\nx\r\n0\r\n\r\n", Ok((25, true)));
        check(b"fffffffffffffff\r\nx", Ok((18, false)));
        check(b"0000000000000001\r\nx\r\n0\r\n\r\n", Err(MalformedChunk));
        // Over all extensions and trailer lines together.
        for (len, is_accepted) in [(8 * 1024, true), (8 * 1024 + 1, false)] {
            let trailers = [b"1;a\tb\r\nx\r\n0;\r\nX: ".as_slice(), &vec![b'x'; len - 6], b"\r\n\r\n"].concat();
            check(&trailers, if is_accepted { Ok((trailers.len(), true)) } else { Err(MalformedChunk) });
        }
    }

    #[test]
    fn ambiguous_chunked_bodies_are_refused() {
        let bad: [&[u8]; 16] = [
            b"\r\n\r\n",
            b";x\r\n\r\n",
            b"   \r\n\r\n",
            b"0x5\r\nhello\r\n",
            b"-1\r\n",
            b"+5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5;a=b\rX",
            b"0\r\n\rX",
            b"0\r\n\n",
            b"0\r\nX: 1\nY: 2\r\n\r\n",
            b"1000000000000000\r\n",
        ];
        for bytes in bad {
            let mut decoder = ChunkedDecoder::new();
            assert_eq!(decoder.take(bytes), Err(MalformedChunk), "{}", bytes.escape_ascii());
        }
        let long = [b"5;".as_slice(), &[b'x'; 9000], b"\r\n"].concat();
        assert_eq!(ChunkedDecoder::new().take(&long), Err(MalformedChunk));
    }
}
