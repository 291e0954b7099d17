//! Bytes from a client as printable ASCII, and back.
//!
//! A byte outside printable ASCII, and the backslash, is written `\xNN`; everything else stands as it is. What is
//! longer than its cap is cut, and ends with `...`.

use std::fmt;

use serde::{Serialize, Serializer};

/// A client's bytes for a log, of which the first `LEN_MAX` are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escaped<'a, const LEN_MAX: usize>(pub &'a [u8]);

impl<const LEN_MAX: usize> Escaped<'_, LEN_MAX> {
    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is longer than what is shown.
    pub(super) fn is_cut(&self) -> bool {
        self.0.len() > LEN_MAX
    }
}

impl<const LEN_MAX: usize> fmt::Display for Escaped<'_, LEN_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(LEN_MAX) {
            match byte {
                b'\\' => f.write_str("\\x5c")?,
                b' '..=b'~' => fmt::Write::write_char(f, char::from(*byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_str(if self.is_cut() { "..." } else { "" })
    }
}

impl<const LEN_MAX: usize> Serialize for Escaped<'_, LEN_MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The bytes that were escaped. What is no escape stands for itself.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = escaped_byte(rest).unwrap_or((*first, tail));
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

fn escaped_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, tail) = text.strip_prefix(b"\\x")?.split_at_checked(2)?;
    let digits = std::str::from_utf8(digits).ok()?;
    Some((u8::from_str_radix(digits, 16).ok()?, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check<const LEN_MAX: usize>(bytes: &[u8], expected: &str) {
        assert_eq!(Escaped::<LEN_MAX>(bytes).to_string(), expected);
    }

    #[test]
    fn what_cannot_be_printed_is_escaped() {
        check::<100>(b"https://a.example", "https://a.example");
        check::<100>(b"a\r\nb\x1b[31m\x00\xff\\x41\"", r#"a\x0d\x0ab\x1b[31m\x00\xff\x5cx41""#);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        check::<6>(b"abcdef", "abcdef");
        check::<6>(b"abcdefg", "abcdef...");
        check::<0>(b"", "");
    }

    #[test]
    fn no_escape_stands_for_itself() {
        assert_eq!(unescape(r"\x4\xzz\"), br"\x4\xzz\");
    }

    proptest! {
        #[test]
        fn unescape_undoes_escape(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = Escaped::<64>(&bytes).to_string();
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(unescape(&text), bytes);
        }
    }
}
