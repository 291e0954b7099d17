//! Bytes from a client as printable ASCII, and back.
//!
//! A byte outside printable ASCII, and the backslash, is written as `\xNN`; all other bytes are
//! kept. Values longer than their cap are cut and end with `...`. Logs and the admin API write
//! every value of a client this way, so that no client can forge a log line.

use std::fmt;

use serde::{Serialize, Serializer};

/// A client's bytes for a log. The first `LEN_MAX` bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscapedBytes<'a, const LEN_MAX: usize>(pub &'a [u8]);

impl<const LEN_MAX: usize> EscapedBytes<'_, LEN_MAX> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the value is longer than the cap.
    pub fn is_cut(&self) -> bool {
        self.0.len() > LEN_MAX
    }
}

impl<const LEN_MAX: usize> fmt::Display for EscapedBytes<'_, LEN_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.get(..LEN_MAX).unwrap_or(self.0);
        while !rest.is_empty() {
            let kept_len = rest.iter().position(|byte| !is_kept(*byte)).unwrap_or(rest.len());
            let (kept, others) = rest.split_at_checked(kept_len).unwrap_or((rest, b""));
            f.write_str(std::str::from_utf8(kept).unwrap_or_default())?;
            rest = others;
            if let Some((byte, more)) = rest.split_first() {
                write!(f, "\\x{byte:02x}")?;
                rest = more;
            }
        }
        f.write_str(if self.is_cut() { "..." } else { "" })
    }
}

impl<const LEN_MAX: usize> Serialize for EscapedBytes<'_, LEN_MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn is_kept(byte: u8) -> bool {
    byte != b'\\' && matches!(byte, b' '..=b'~')
}

/// Decodes escaped bytes. Text that is not a valid escape is kept.
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
        assert_eq!(EscapedBytes::<LEN_MAX>(bytes).to_string(), expected);
    }

    #[test]
    fn unprintable_bytes_are_escaped() {
        check::<100>(b"https://a.example", "https://a.example");
        check::<100>(b"a\r\nb\x1b[31m\x00\xff\\x41\"", r#"a\x0d\x0ab\x1b[31m\x00\xff\x5cx41""#);
    }

    #[test]
    fn bytes_over_the_cap_are_cut() {
        check::<6>(b"abcdef", "abcdef");
        check::<6>(b"abcdefg", "abcdef...");
        check::<0>(b"", "");
    }

    #[test]
    fn invalid_escapes_are_kept_as_text() {
        assert_eq!(unescape(r"\x4\xzz\"), br"\x4\xzz\");
    }

    proptest! {
        #[test]
        fn unescape_undoes_escape(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = EscapedBytes::<64>(&bytes).to_string();
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(unescape(&text), bytes);
        }
    }
}
