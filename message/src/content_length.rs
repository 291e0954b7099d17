//! The value of `Content-Length`, RFC 9110, section 8.6.
//!
//! The lane parses the length of a request body here, `hop_by_hop` that of a response. Stricter
//! than the RFC on purpose: lists of equal values are not accepted here.

/// The largest length that is accepted: many clients keep lengths in signed 64-bit numbers.
pub const MAX: u64 = i64::MAX as u64;

/// Parses a field value. A sign, a list, whitespace or a leading zero makes it invalid.
pub fn parse(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    // Some servers read a number with a leading zero as octal.
    let is_octal = digits.len() > 1 && digits.starts_with('0');
    if digits.is_empty() || is_octal || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|length| *length <= MAX)
}
