//! Hosts: an authority (`Host` field, absolute-form target, configured host) in its one canonical form.
//!
//! Tenants are found by comparing bytes, so everything is brought to one form first: lower case, no trailing dot, no port,
//! IPv6 as RFC 5952 in brackets. What is not clearly one host is refused rather than guessed at: userinfo, spaces, commas,
//! an empty name or label, a port outside 1..65535 or written oddly, any byte that no host name has. Nothing is allocated
//! when a name is canonical already. No name is looked up, and IPv4 in odd notations is a name like any other.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest host name the DNS can carry.
pub const HOST_LEN_MAX: usize = 253;
/// The longest label of one.
const LABEL_LEN_MAX: usize = 63;

/// A host in canonical form, and the port if one was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Lower case, no trailing dot, IPv6 in brackets.
    pub host: Cow<'a, str>,
    /// As written; `None` if there was none.
    pub port: Option<u16>,
}

/// Why bytes are no authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing where the host belongs, or nothing between two dots.
    #[error("a host name has no empty part; write one such as api.acme.example")]
    Empty,
    /// A name over 253 bytes or a label over 63.
    #[error("a host name has at most {HOST_LEN_MAX} bytes, and {LABEL_LEN_MAX} between two dots")]
    TooLong,
    /// A byte that no host name has.
    #[error(
        "a host name is made of letters, digits, `-`, `_` and dots (others as punycode), or is an IP address, IPv6 in brackets"
    )]
    Byte,
    /// Brackets without an IPv6 address in them.
    #[error("brackets belong around an IPv6 address, such as [2001:db8::1]")]
    Ipv6,
    /// A port that is none.
    #[error("a port is a number from 1 to 65535 without leading zeros")]
    Port,
}

/// Parses `host [":" port]`.
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
    // The one form that allocates: two spellings of an address compare equal only once printed.
    Ok(Authority { host: Cow::Owned(format!("[{address}]")), port })
}

fn parse_port(text: &str) -> Result<u16, HostError> {
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

/// Which hosts an entry of a tenant's `hosts` stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host, in canonical form.
    Exact(Box<str>),
    /// Every name below this one at any depth, itself not included: `*.acme.example` without the star and its dot.
    Below(Box<str>),
    /// Every host that nothing else claims.
    Any,
}

/// Why a text is no entry of `hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has a port.
    #[error("a host has no port here, since tenants are found by name alone; write the name only")]
    Port,
    /// A star that is not the whole leftmost label.
    #[error("a star is the whole first label, as in *.acme.example, or stands alone")]
    Star,
    /// It is no host name.
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
    fn brings_hosts_to_one_form() {
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
    fn refuses_what_is_not_clearly_one_host() {
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
    fn borrows_what_is_canonical() {
        assert!(matches!(parse_authority(b"api.acme.example:80").unwrap().host, Cow::Borrowed(_)));
        assert!(matches!(parse_authority(b"Api.acme.example").unwrap().host, Cow::Owned(_)));
    }

    #[test]
    fn parses_patterns() {
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
