//! The host of an origin: a domain name, an IPv4 address, or an IPv6 address in brackets; each in its one canonical form.
//!
//! <https://url.spec.whatwg.org/#host-serializing> is what browsers write. Labels are `[a-z0-9_-]` only: some browsers
//! send more (`https://foo{.example`), which is nothing but a way past sloppy matchers. On the web a host whose last label
//! begins with a digit must be an IPv4 address, as no other host serialises so. Punycode is checked in configured text alone.

use std::fmt::{self, Write};
use std::net::Ipv6Addr;

use super::parse::Flaw;

/// The longest domain name, <https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4>, written without a trailing dot.
const HOST_LEN_MAX: usize = 253;

/// The longest label of one.
const LABEL_LEN_MAX: usize = 63;

/// Splits an authority into its host and what follows it: nothing, or a colon and more. Only where the scheme is special
/// to URLs does a number stand for an address; elsewhere it is a name, such as an extension's.
pub(crate) fn split(authority: &[u8], is_special: bool) -> Result<(&[u8], &[u8]), Flaw> {
    if authority.first() == Some(&b'[') {
        return split_ipv6(authority).ok_or_else(|| blame(authority).unwrap_or(Flaw::Ipv6));
    }
    let scanned = scan_domain(authority, is_special);
    let split = scanned.and_then(|end| authority.split_at_checked(end).ok_or(Flaw::NoHost));
    match split {
        Ok((_, rest)) if rest.contains(&b'@') => Err(Flaw::UserInfo),
        Ok(split) => Ok(split),
        Err(flaw) => Err(blame(authority).unwrap_or(flaw)),
    }
}

/// Whether a byte may be in a label.
fn is_label_byte(byte: u8) -> bool {
    LABEL_BYTES.get(usize::from(byte)).is_some_and(|is_label| *is_label)
}

/// A byte's place says whether it may be in a label: one load instead of four comparisons, on every byte of every origin.
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

/// Whether only the machine itself can be meant: <https://w3c.github.io/webappsec-secure-contexts/#is-origin-trustworthy>.
pub(crate) fn is_loopback(host: &[u8]) -> bool {
    host == b"localhost" || host.ends_with(b".localhost") || host == b"[::1]" || is_loopback_ipv4(host)
}

fn is_loopback_ipv4(host: &[u8]) -> bool {
    host.starts_with(b"127.") && check_ipv4(host).is_ok()
}

/// Whether this is an address and not a name.
pub(crate) fn is_address(host: &[u8]) -> bool {
    host.first() == Some(&b'[') || check_ipv4(host).is_ok()
}

/// Where the domain name or IPv4 address ends, in one pass: at a colon or at the end.
fn scan_domain(authority: &[u8], is_special: bool) -> Result<usize, Flaw> {
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
            _ => return Err(Flaw::HostByte),
        }
    }
    check_label_len(end - label_start)?;
    if end > HOST_LEN_MAX {
        return Err(Flaw::HostTooLong);
    }
    // https://url.spec.whatwg.org/#ends-in-a-number-checker, made a little wider.
    let is_number = is_special && authority.get(label_start).is_some_and(u8::is_ascii_digit);
    if is_number { check_ipv4(authority.get(..end).unwrap_or_default()).map(|()| end) } else { Ok(end) }
}

fn check_label_len(len: usize) -> Result<(), Flaw> {
    match len {
        0 => Err(Flaw::EmptyLabel),
        1..=LABEL_LEN_MAX => Ok(()),
        _ => Err(Flaw::LabelTooLong),
    }
}

fn check_ipv4(host: &[u8]) -> Result<(), Flaw> {
    let octets = host.split(|byte| *byte == b'.');
    let is_canonical = octets.clone().count() == 4 && octets.clone().all(is_octet);
    if is_canonical { Ok(()) } else { Err(Flaw::Ipv4) }
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
    // A mapped address has two spellings in the wild, and no page was ever served from one.
    let is_canonical = address.to_ipv4_mapped().is_none() && prints_as(&address, text);
    is_canonical.then_some((host, rest))
}

/// Whether the address prints as `text`, told without a buffer: `Ipv6Addr` prints as RFC 5952 says.
fn prints_as(address: &Ipv6Addr, text: &str) -> bool {
    struct Expect<'a>(&'a str);
    impl Write for Expect<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut expect = Expect(text);
    write!(expect, "{address}").is_ok() && expect.0.is_empty()
}

/// The flaw that a person would name first, once it is known that there is one.
fn blame(authority: &[u8]) -> Option<Flaw> {
    let has = |bytes: &[u8]| authority.iter().any(|byte| bytes.contains(byte));
    match authority {
        [] | [b':' | b'/', ..] => Some(Flaw::NoHost),
        _ if has(b",") => Some(Flaw::List),
        _ if has(b" \t\r\n") => Some(Flaw::WhiteSpace),
        _ if has(b"@") => Some(Flaw::UserInfo),
        _ if has(b"/?#\\") => Some(Flaw::Path),
        _ if !authority.is_ascii() => Some(Flaw::NotAscii),
        _ if authority.iter().any(u8::is_ascii_uppercase) => Some(Flaw::UpperCase),
        [.., b'.'] if !authority.ends_with(b"..") => Some(Flaw::TrailingDot),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
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
    fn loopback_is_the_machine_itself() {
        for host in ["localhost", "app.localhost", "127.0.0.1", "127.255.0.9", "[::1]"] {
            assert!(is_loopback(host.as_bytes()), "{host}");
        }
        for host in ["localhost.evil", "xlocalhost", "127.0.0.1.evil", "127.evil", "128.0.0.1", "[::2]", "0.0.0.0"] {
            assert!(!is_loopback(host.as_bytes()), "{host}");
        }
    }
}
