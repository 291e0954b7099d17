//! Hosts: an authority (`Host` field, absolute-form target, configured host) in its one canonical
//! form.
//!
//! Tenants are found by comparing bytes, so every host has one form: lower case, no trailing dot,
//! no port, IPv6 as RFC 5952 in brackets. Values that are not clearly one host are refused, never
//! guessed at. Examples are userinfo, spaces, commas, and an empty name or label. A port outside
//! 1..65535 or with leading zeros is refused too, and any byte that no host name has. A canonical
//! name costs no allocation. Names are never resolved. IPv4 in unusual notations is a name like any
//! other.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest host name that the DNS can carry (RFC 1035, section 2.3.4).
pub const HOST_LEN_MAX: usize = 253;
/// The longest label of a host name.
const LABEL_LEN_MAX: usize = 63;

/// A host in canonical form, and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Lower case, no trailing dot, IPv6 in brackets.
    pub host: Cow<'a, str>,
    /// The port, `None` if absent.
    pub port: Option<u16>,
}

/// An error in an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// An empty host or label.
    #[error("empty host name or label; write a name such as api.acme.example")]
    Empty,
    /// A name or a label over its length limit.
    #[error("host name over {HOST_LEN_MAX} bytes or label over {LABEL_LEN_MAX} bytes")]
    TooLong,
    /// A byte that no host name has.
    #[error(
        "invalid character; expected letters, digits, `-`, `_` and dots (others as punycode), or an IP address, IPv6 in brackets"
    )]
    Byte,
    /// Brackets that do not contain an IPv6 address.
    #[error("invalid brackets; expected an IPv6 address in them, such as [2001:db8::1]")]
    Ipv6,
    /// An invalid port.
    #[error("invalid port; expected a number from 1 to 65535 without leading zeros")]
    Port,
}

/// Parses `host [":" port]`, RFC 9110, section 7.2.
pub fn parse_authority(bytes: &[u8]) -> Result<Authority<'_>, HostError> {
    let text = std::str::from_utf8(bytes).map_err(|_| HostError::Byte)?;
    match text.strip_prefix('[') {
        Some(rest) => parse_bracketed(rest),
        None => parse_named(text),
    }
}

fn parse_named(text: &str) -> Result<Authority<'_>, HostError> {
    let (name, port) = match text.bytes().position(|b| b == b':') {
        Some(at) => (text.get(..at).unwrap_or_default(), Some(parse_port(text.get(at + 1..).unwrap_or_default())?)),
        None => (text, None),
    };
    // A fully qualified name with its root dot names the same host.
    let name = name.strip_suffix('.').unwrap_or(name);
    check_name(name)?;
    Ok(Authority { host: lower_case(name), port })
}

fn parse_bracketed(rest: &str) -> Result<Authority<'_>, HostError> {
    let (inside, after) = rest.split_once(']').ok_or(HostError::Ipv6)?;
    let address: Ipv6Addr = inside.parse().map_err(|_| HostError::Ipv6)?;
    let port = match after.strip_prefix(':') {
        Some(port) => Some(parse_port(port)?),
        None if after.is_empty() => None,
        None => return Err(HostError::Byte),
    };
    // The only form that always allocates: two spellings of an address are equal only once printed.
    Ok(Authority { host: Cow::Owned(format!("[{address}]")), port })
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    // `parse` alone would accept a leading plus sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if digits { text.parse().map_err(|_| HostError::Port) } else { Err(HostError::Port) }
}

fn check_name(name: &str) -> Result<(), HostError> {
    if name.len() > HOST_LEN_MAX {
        return Err(HostError::TooLong);
    }
    let mut label_len = 0;
    for byte in name.bytes() {
        match byte {
            b'.' => {
                check_label_len(label_len)?;
                label_len = 0;
            }
            b'a'..=b'z' | b'0'..=b'9' | b'A'..=b'Z' | b'-' | b'_' => label_len += 1,
            _ => return Err(HostError::Byte),
        }
    }
    check_label_len(label_len)
}

fn check_label_len(len: usize) -> Result<(), HostError> {
    match len {
        0 => Err(HostError::Empty),
        1..=LABEL_LEN_MAX => Ok(()),
        _ => Err(HostError::TooLong),
    }
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The hosts that an entry of a tenant's `hosts` covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host, in canonical form.
    Exact(Box<str>),
    /// Every name below this one at any depth, without the name itself: `*.acme.example` without
    /// star and dot.
    Below(Box<str>),
    /// Every host that no other entry covers.
    Any,
}

/// An error in an entry of `hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The entry has a port.
    #[error("a port is not allowed here, since tenants are found by host name; remove the port")]
    Port,
    #[error("a star must be the whole first label, as in *.acme.example, or the whole entry")]
    Star,
    /// Not a valid host name.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl HostPattern {
    /// Parses an entry of `hosts`: `name`, `*.name` or `*`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') || (below && name.starts_with('[')) {
            return Err(PatternError::Star);
        }
        let authority = parse_authority(name.as_bytes())?;
        if authority.port.is_some() {
            return Err(PatternError::Port);
        }
        let host = authority.host.into();
        Ok(if below { HostPattern::Below(host) } else { HostPattern::Exact(host) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<u16>), HostError> {
        parse_authority(text.as_bytes()).map(|authority| (authority.host.into_owned(), authority.port))
    }

    #[test]
    fn hosts_are_canonicalized() {
        let same = |text: &str, host: &str, port| assert_eq!(parsed(text), Ok((host.to_owned(), port)), "{text}");
        same("api.acme.example", "api.acme.example", None);
        same("API.Acme.example", "api.acme.example", None);
        same("api.acme.example.", "api.acme.example", None);
        same("api.acme.example.:8443", "api.acme.example", Some(8443));
        same("localhost:1", "localhost", Some(1));
        same("a_b-c:65535", "a_b-c", Some(65535));
        same("127.0.0.1:80", "127.0.0.1", Some(80));
        same("[::1]", "[::1]", None);
        same("[0:0:0:0:0:0:0:1]:80", "[::1]", Some(80));
        same("[2001:DB8::1]", "[2001:db8::1]", None);
    }

    #[test]
    fn ambiguous_or_invalid_hosts_are_refused() {
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            (":80", HostError::Empty),
            ("a..b", HostError::Empty),
            (".a", HostError::Empty),
            ("a..", HostError::Empty),
            ("u@a.example", HostError::Byte),
            ("a b", HostError::Byte),
            ("a,b", HostError::Byte),
            ("a/b", HostError::Byte),
            ("a%2e", HostError::Byte),
            ("*.a", HostError::Byte),
            ("bücher.example", HostError::Byte),
            ("[::1]x", HostError::Byte),
            ("[::1", HostError::Ipv6),
            ("[a.example]", HostError::Ipv6),
            ("[fe80::1%25eth0]", HostError::Ipv6),
            ("a:", HostError::Port),
            ("a:0", HostError::Port),
            ("a:080", HostError::Port),
            ("a:65536", HostError::Port),
            ("a:+80", HostError::Port),
            ("a:80:80", HostError::Port),
            ("::1", HostError::Port),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
        assert_eq!(parse_authority(b"a\xff").unwrap_err(), HostError::Byte);
        assert_eq!(parsed(&"a".repeat(64)), Err(HostError::TooLong));
        assert_eq!(parsed(&"a.".repeat(127)), Ok(("a.".repeat(126) + "a", None)));
        assert_eq!(parsed(&("a.".repeat(127) + "a")), Err(HostError::TooLong));
    }

    #[test]
    fn canonical_hosts_are_borrowed() {
        assert!(matches!(parse_authority(b"api.acme.example:80").unwrap().host, Cow::Borrowed(_)));
        assert!(matches!(parse_authority(b"Api.acme.example").unwrap().host, Cow::Owned(_)));
    }

    #[test]
    fn host_patterns_are_parsed() {
        let shown = |text: &str| HostPattern::parse(text).map(|pattern| pattern.to_string());
        for (text, canonical) in [("*", "*"), ("*.Acme.example", "*.acme.example"), ("a.b.", "a.b"), ("[::1]", "[::1]")]
        {
            assert_eq!(shown(text), Ok(canonical.to_owned()));
        }
        for (text, error) in [
            ("a:80", PatternError::Port),
            ("*.a:80", PatternError::Port),
            ("a.*.b", PatternError::Star),
            ("*.*.b", PatternError::Star),
            ("*a.b", PatternError::Star),
            ("*.[::1]", PatternError::Star),
            ("*.", PatternError::Host(HostError::Empty)),
        ] {
            assert_eq!(shown(text), Err(error), "{text}");
        }
    }
}
