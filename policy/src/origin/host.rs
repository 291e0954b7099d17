//! Parses the host of an origin: a domain name, an IPv4 address, or an IPv6 address in brackets,
//! each in its canonical form.
//!
//! Browsers serialise hosts by <https://url.spec.whatwg.org/#host-serializing>. Labels have only
//! the bytes `[a-z0-9_-]`: some browsers accept more (`https://foo{.example`), which attackers use
//! against loose matchers. With a web scheme, a host whose last label begins with a digit must be
//! an IPv4 address. Punycode is checked only in configured text.

use std::fmt::{self, Write};
use std::net::Ipv6Addr;

use super::parse::OriginFlaw;

/// The longest domain name without a trailing dot, in bytes:
/// <https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4>.
const HOST_LEN_MAX: usize = 253;

/// The longest label of a domain name, in bytes (RFC 1035, section 2.3.4).
const LABEL_LEN_MAX: usize = 63;

/// Splits an authority into its host and the rest: nothing, or a colon and more. A number is an
/// IPv4 address only with a special scheme (<https://url.spec.whatwg.org/#special-scheme>). With
/// other schemes it is a name, such as that of an extension.
pub(crate) fn split(authority: &[u8], is_special: bool) -> Result<(&[u8], &[u8]), OriginFlaw> {
    if authority.first() == Some(&b'[') {
        return split_ipv6(authority).ok_or_else(|| blame(authority).unwrap_or(OriginFlaw::Ipv6));
    }
    let scanned = scan_domain(authority, is_special);
    let split = scanned.and_then(|end| authority.split_at_checked(end).ok_or(OriginFlaw::NoHost));
    match split {
        // In `https://example.com:x@evil.test` the host is `evil.test`.
        Ok((_, rest)) if rest.contains(&b'@') => Err(OriginFlaw::UserInfo),
        Ok(split) => Ok(split),
        Err(flaw) => Err(blame(authority).unwrap_or(flaw)),
    }
}

/// Whether a byte may be in a label.
fn is_label_byte(byte: u8) -> bool {
    LABEL_BYTES.get(usize::from(byte)).is_some_and(|is_label| *is_label)
}

/// For each byte, whether it may be in a label. The table needs one load instead of four
/// comparisons for each byte of an origin.
#[expect(clippy::indexing_slicing, reason = "the loop ends where the array does, and both are constants")]
static LABEL_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < bytes.len() {
        bytes[byte] = matches!(byte as u8, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        byte += 1;
    }
    bytes
};

/// Whether the host is a loopback host:
/// <https://w3c.github.io/webappsec-secure-contexts/#is-origin-trustworthy>.
pub(crate) fn is_loopback(host: &[u8]) -> bool {
    host == b"localhost" || host.ends_with(b".localhost") || host == b"[::1]" || is_loopback_ipv4(host)
}

fn is_loopback_ipv4(host: &[u8]) -> bool {
    host.starts_with(b"127.") && check_ipv4(host).is_ok()
}

/// Whether the host is an IP address.
pub(crate) fn is_address(host: &[u8]) -> bool {
    host.first() == Some(&b'[') || check_ipv4(host).is_ok()
}

/// Returns the end of the domain name or IPv4 address: a colon, or the end of the authority.
fn scan_domain(authority: &[u8], is_special: bool) -> Result<usize, OriginFlaw> {
    let mut label_start = 0;
    let mut end = authority.len();
    for (at, byte) in authority.iter().enumerate() {
        match byte {
            byte if is_label_byte(*byte) => {}
            b'.' => {
                check_label_len(at - label_start)?;
                label_start = at + 1;
            }
            b':' => {
                end = at;
                break;
            }
            _ => return Err(OriginFlaw::HostByte),
        }
    }
    check_label_len(end - label_start)?;
    if end > HOST_LEN_MAX {
        return Err(OriginFlaw::HostTooLong);
    }
    // https://url.spec.whatwg.org/#ends-in-a-number-checker, but a leading digit in the last label
    // is enough here.
    let is_number = is_special && authority.get(label_start).is_some_and(u8::is_ascii_digit);
    if is_number { check_ipv4(authority.get(..end).unwrap_or_default()).map(|()| end) } else { Ok(end) }
}

fn check_label_len(len: usize) -> Result<(), OriginFlaw> {
    match len {
        0 => Err(OriginFlaw::EmptyLabel),
        1..=LABEL_LEN_MAX => Ok(()),
        _ => Err(OriginFlaw::LabelTooLong),
    }
}

fn check_ipv4(host: &[u8]) -> Result<(), OriginFlaw> {
    let octets = host.split(|byte| *byte == b'.');
    let is_canonical = octets.clone().count() == 4 && octets.clone().all(is_octet);
    if is_canonical { Ok(()) } else { Err(OriginFlaw::Ipv4) }
}

fn is_octet(text: &[u8]) -> bool {
    let is_number = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
    match text {
        [b'0'] | [b'1'..=b'9'] => true,
        [b'1'..=b'9', digit] => digit.is_ascii_digit(),
        [b'1', rest @ ..] => rest.len() == 2 && is_number(rest),
        [b'2', b'0'..=b'4', digit] => digit.is_ascii_digit(),
        _ => matches!(text, [b'2', b'5', b'0'..=b'5']),
    }
}

fn split_ipv6(authority: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = authority.iter().position(|byte| *byte == b']')?;
    let (host, rest) = authority.split_at_checked(end + 1)?;
    let text = std::str::from_utf8(host.get(1..end)?).ok()?;
    let address: Ipv6Addr = text.parse().ok()?;
    // Clients serialise an IPv4-mapped address in two ways, and pages are not served from one.
    let is_canonical = address.to_ipv4_mapped().is_none() && prints_as(&address, text);
    is_canonical.then_some((host, rest))
}

/// Whether the address prints as `text`, without a buffer. `Ipv6Addr` prints the form of RFC 5952.
fn prints_as(address: &Ipv6Addr, text: &str) -> bool {
    struct ExpectedText<'a>(&'a str);
    impl Write for ExpectedText<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut expect = ExpectedText(text);
    write!(expect, "{address}").is_ok() && expect.0.is_empty()
}

/// Returns the most helpful flaw of an authority that is known to be malformed.
pub(crate) fn blame(authority: &[u8]) -> Option<OriginFlaw> {
    let has = |bytes: &[u8]| authority.iter().any(|byte| bytes.contains(byte));
    match authority {
        [] | [b':' | b'/', ..] => Some(OriginFlaw::NoHost),
        _ if has(b",") => Some(OriginFlaw::List),
        _ if has(b" \t\r\n") => Some(OriginFlaw::WhiteSpace),
        _ if has(b"@") => Some(OriginFlaw::UserInfo),
        _ if has(b"/?#\\") => Some(OriginFlaw::Path),
        _ if !authority.is_ascii() => Some(OriginFlaw::NotAscii),
        _ if authority.iter().any(u8::is_ascii_uppercase) => Some(OriginFlaw::UpperCase),
        [.., b'.'] if !authority.ends_with(b"..") => Some(OriginFlaw::TrailingDot),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_in_another_form_is_refused() {
        let good = [
            "0.0.0.0",
            "255.255.255.255",
            "249.200.199.100",
            "10.99.0.9",
            "[::]",
            "[::1]",
            "[2001:db8::1:0:0:1]",
            "[1:2:3:4:5:6:7:8]",
            "[fe80::1]",
        ];
        for host in good {
            assert_eq!(split(host.as_bytes(), true), Ok((host.as_bytes(), &b""[..])), "{host}");
        }
        let bad = [
            "256.1.1.1",
            "260.1.1.1",
            "1.1.1.1000",
            "1.1.1.10a",
            "1.1.1.20a",
            "01.1.1.1",
            "1.1.1",
            "1.1.1.1.1",
            "0x7f.0.0.1",
            "1.1.1.1a",
            "2130706433",
            "a.1",
            "[]",
            "[::1",
            "[[::1]]",
            "[0:0:0:0:0:0:0:1]",
            "[::0001]",
            "[::0]",
            "[1::0]",
            "[2001:DB8::1]",
            "[2001:db8:0:0:1::1]",
            "[fe80::1%eth0]",
            "[::ffff:7f00:1]",
            "[::ffff:127.0.0.1]",
            "[example.com]",
        ];
        for host in bad {
            assert!(split(host.as_bytes(), true).is_err(), "{host}");
        }
    }

    #[test]
    fn lookalikes_of_loopback_are_not_loopback() {
        for host in ["localhost", "app.localhost", "127.0.0.1", "127.255.0.9", "[::1]"] {
            assert!(is_loopback(host.as_bytes()), "{host}");
        }
        for host in ["localhost.evil", "xlocalhost", "127.0.0.1.evil", "127.evil", "128.0.0.1", "[::2]", "0.0.0.0"] {
            assert!(!is_loopback(host.as_bytes()), "{host}");
        }
    }
}
