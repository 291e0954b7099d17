//! Where a chunked body ends: the framing of RFC 9112, section 7.1, to the letter.
//!
//! The bytes are passed on as they are; what is found here is how many of them belong to this request, so that the next one is
//! left alone, and whether two readers could disagree about it. Stricter than the parser behind it where that one guesses: a
//! size has digits, a line ends with CRLF. Extensions and trailer lines are bounded and not looked into: nobody gets them.

/// Hexadecimal digits of a size: 15 cannot overflow.
const SIZE_DIGITS_MAX: u32 = 15;
/// Bytes of all extensions and trailer lines of one body.
const EXTRA_BYTES_MAX: u32 = 8 * 1024;

/// Follows a chunked body byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    left: u64,
    digits: u32,
    extra: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty one that ends the body.
    LineStart,
    Line,
    LineEnd,
    LastLf,
    Done,
}

/// The bytes are no chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Chunked {
    /// Before the first byte.
    pub const fn new() -> Self {
        Chunked { state: State::Size, left: 0, digits: 0, extra: 0 }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of `bytes`, the next ones to come, belong to the body.
    ///
    /// # Errors
    /// [`Malformed`] where they are none.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while let (Some(byte), false) = (bytes.get(at), self.is_done()) {
            at += match self.state {
                State::Data => self.skip_data(bytes.len() - at),
                State::Size
                | State::Extension
                | State::SizeEnd
                | State::DataCr
                | State::DataLf
                | State::LineStart
                | State::Line
                | State::LineEnd
                | State::LastLf
                | State::Done => {
                    self.state = self.next(*byte)?;
                    1
                }
            };
        }
        Ok(at)
    }

    fn skip_data(&mut self, available: usize) -> usize {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left -= len as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        len
    }

    fn next(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => Ok(State::SizeEnd),
            (State::Size, b';') if self.digits > 0 => Ok(State::Extension),
            (State::Size, _) => self.size_digit(byte),
            (State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Extension, _) => self.extra(byte, State::Extension),
            (State::SizeEnd, b'\n') => Ok(self.after_size()),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(self.before_size()),
            (State::LineStart, b'\r') => Ok(State::LastLf),
            (State::Line, b'\r') => Ok(State::LineEnd),
            (State::LineStart | State::Line, _) => self.extra(byte, State::Line),
            (State::LineEnd, b'\n') => Ok(State::LineStart),
            (State::LastLf, b'\n') => Ok(State::Done),
            (
                State::SizeEnd
                | State::Data
                | State::DataCr
                | State::DataLf
                | State::LineEnd
                | State::LastLf
                | State::Done,
                _,
            ) => Err(Malformed),
        }
    }

    fn size_digit(&mut self, byte: u8) -> Result<State, Malformed> {
        let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
        self.digits += 1;
        if self.digits > SIZE_DIGITS_MAX {
            return Err(Malformed);
        }
        self.left = self.left * 16 + u64::from(digit);
        Ok(State::Size)
    }

    fn after_size(&self) -> State {
        if self.left == 0 { State::LineStart } else { State::Data }
    }

    fn before_size(&mut self) -> State {
        self.digits = 0;
        State::Size
    }

    /// A byte of an extension or a trailer line: text, and not without end.
    fn extra(&mut self, byte: u8, state: State) -> Result<State, Malformed> {
        self.extra += 1;
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        if is_text && self.extra <= EXTRA_BYTES_MAX { Ok(state) } else { Err(Malformed) }
    }
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes belong to the body and whether it ended with them, found in one piece and byte by byte: the same.
    fn check(bytes: &[u8], expected: Result<(usize, bool), Malformed>) {
        let mut whole = Chunked::new();
        let found = whole.take(bytes).map(|len| (len, whole.is_done()));
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
        let mut pieces = Chunked::new();
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
    fn the_end_is_found_and_what_follows_is_left() {
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
    fn each_limit_is_sharp() {
        check(b"000000000000001\r\nx\r\n0\r\n\r\n", Ok((25, true)));
        check(b"fffffffffffffff\r\nx", Ok((18, false)));
        check(b"0000000000000001\r\nx\r\n0\r\n\r\n", Err(Malformed));
        // Over all extensions and trailer lines together.
        for (len, is_let_in) in [(8 * 1024, true), (8 * 1024 + 1, false)] {
            let trailers = [b"1;a\tb\r\nx\r\n0;\r\nX: ".as_slice(), &vec![b'x'; len - 6], b"\r\n\r\n"].concat();
            check(&trailers, if is_let_in { Ok((trailers.len(), true)) } else { Err(Malformed) });
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
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
            let mut chunked = Chunked::new();
            assert_eq!(chunked.take(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        let long = [b"5;".as_slice(), &[b'x'; 9000], b"\r\n"].concat();
        assert_eq!(Chunked::new().take(&long), Err(Malformed));
    }
}
