//! Bytes to [`Origin`], or the first rule of the grammar they break.
//!
//! `scheme "://" host [":" port]`, in the exact form that browsers send: nothing is trimmed, lower-cased or decoded,
//! since two spellings of one origin are two origins to the page that compares them. Bounded by [`ORIGIN_LEN_MAX`],
//! which is checked first, and free of allocation. `null` is not an origin here; whoever asks has looked for it before.

use super::host;
use crate::request::Scheme;

/// The longest origin: scheme 64, `://`, host 253, `:`, port 5.
pub const ORIGIN_LEN_MAX: usize = 326;

/// The longest scheme, as in other implementations; the URL standard names no limit.
const SCHEME_LEN_MAX: usize = 64;

/// A well-formed origin, still in the bytes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// The whole of it.
    pub(crate) text: &'a [u8],
    /// What is before `://`.
    pub(crate) scheme: &'a [u8],
    /// The host; an IPv6 address with its brackets.
    pub(crate) host: &'a [u8],
    /// The port, if it is not the scheme's default.
    pub(crate) port: Option<u16>,
}

impl Origin<'_> {
    /// The scheme, if it is one of the web's.
    pub(crate) fn web_scheme(&self) -> Option<Scheme> {
        match self.scheme {
            b"https" => Some(Scheme::Https),
            b"http" => Some(Scheme::Http),
            _ => None,
        }
    }
}

/// The rule that some text breaks. The message completes a sentence that begins with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("is empty, expected `scheme://host[:port]`")]
    Empty,
    #[error("is longer than an origin can be, expected at most {ORIGIN_LEN_MAX} bytes")]
    TooLong,
    #[error("has no scheme, expected `scheme://host[:port]` such as `https://app.example.com`")]
    NoScheme,
    #[error(
        "has a malformed scheme, expected a lower-case letter and then at most 63 of `a-z`, `0-9`, `+`, `.` and `-`"
    )]
    Scheme,
    #[error("has no host, expected `scheme://host[:port]`")]
    NoHost,
    #[error("has a path, query or fragment, expected it to end after host and port, without a slash")]
    Path,
    #[error("has a user name or password, expected only `scheme://host[:port]`")]
    UserInfo,
    #[error("has white space in it, expected one origin and nothing else")]
    WhiteSpace,
    #[error("lists several origins, expected one")]
    List,
    #[error("has upper-case letters, expected lower case")]
    UpperCase,
    #[error("is not all ASCII, expected the host as punycode (`xn--..`)")]
    NotAscii,
    #[error("has a host byte that no origin is allowed to have here, expected labels of `a-z`, `0-9`, `-` and `_`")]
    HostByte,
    #[error("has an empty label in its host, expected a single dot between labels")]
    EmptyLabel,
    #[error("has a trailing dot, expected the host without it")]
    TrailingDot,
    #[error("has a label that is too long, expected at most 63 bytes")]
    LabelTooLong,
    #[error("has a host that is too long, expected at most 253 bytes")]
    HostTooLong,
    #[error("has a host that ends like an IPv4 address, expected four decimal numbers up to 255 without leading zeros")]
    Ipv4,
    #[error("has a malformed IPv6 address, expected the shortest lower-case form in brackets such as `[2001:db8::1]`")]
    Ipv6,
    #[error("has a malformed port, expected 1 to 65535 without leading zeros")]
    Port,
    #[error("writes out the default port, expected the origin without it")]
    DefaultPort,
}

/// Whether these bytes are an origin in the exact form in which browsers send one; `null` is none. Allocates nothing.
///
/// ```
/// use crossgate_policy::is_origin;
///
/// assert!(is_origin(b"https://app.example:8443"));
/// assert!(!is_origin(b"https://app.example/") && !is_origin(b"https://app.example:443") && !is_origin(b"null"));
/// ```
pub fn is_origin(value: &[u8]) -> bool {
    parse(value).is_ok()
}

/// Parses one origin.
pub(crate) fn parse(value: &[u8]) -> Result<Origin<'_>, Flaw> {
    if value.len() > ORIGIN_LEN_MAX {
        return Err(Flaw::TooLong);
    }
    let (scheme, authority) = split_scheme(value)?;
    let (host, rest) = host::split(authority, is_special(scheme))?;
    let port = parse_port(rest)?;
    if port.is_some() && port == default_port(scheme) {
        return Err(Flaw::DefaultPort);
    }
    Ok(Origin { text: value, scheme, host, port })
}

fn split_scheme(value: &[u8]) -> Result<(&[u8], &[u8]), Flaw> {
    // Nearly all origins begin so.
    if let Some(authority) = value.strip_prefix(b"https://") {
        return Ok((b"https", authority));
    }
    let end = value.iter().position(|byte| *byte == b':').ok_or(Flaw::NoScheme)?;
    let (scheme, rest) = value.split_at_checked(end).ok_or(Flaw::NoScheme)?;
    let authority = rest.strip_prefix(b"://").ok_or(Flaw::NoScheme)?;
    let (first, others) = scheme.split_first().ok_or(Flaw::NoScheme)?;
    if !first.is_ascii_lowercase() || !others.iter().all(is_scheme_byte) || scheme.len() > SCHEME_LEN_MAX {
        return Err(Flaw::Scheme);
    }
    Ok((scheme, authority))
}

// https://url.spec.whatwg.org/#url-scheme-string, as serialised.
fn is_scheme_byte(byte: &u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.')
}

/// Parses what follows the host: nothing, or a colon and a port.
fn parse_port(rest: &[u8]) -> Result<Option<u16>, Flaw> {
    let Some((colon, digits)) = rest.split_first() else { return Ok(None) };
    // `str::parse` would take a plus sign.
    let is_canonical =
        matches!(digits, [b'1'..=b'9', more @ ..] if more.len() < 5 && more.iter().all(u8::is_ascii_digit));
    if *colon != b':' || !is_canonical {
        return Err(Flaw::Port);
    }
    let number = digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    u16::try_from(number).map(Some).map_err(|_| Flaw::Port)
}

/// Whether hosts of this scheme have numbers for addresses: <https://url.spec.whatwg.org/#special-scheme>.
fn is_special(scheme: &[u8]) -> bool {
    matches!(scheme, b"https" | b"http" | b"wss" | b"ws" | b"ftp")
}

fn default_port(scheme: &[u8]) -> Option<u16> {
    match scheme {
        b"https" | b"wss" => Some(Scheme::Https.default_port()),
        b"http" | b"ws" => Some(Scheme::Http.default_port()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_origins_are_taken_apart() {
        let cases: [(&str, &str, &str, Option<u16>); 7] = [
            ("moz-extension://0b4a2a1c-5d1e", "moz-extension", "0b4a2a1c-5d1e", None),
            ("https://example.com", "https", "example.com", None),
            ("http://localhost:3000", "http", "localhost", Some(3000)),
            ("https://a_b.-c.example:65535", "https", "a_b.-c.example", Some(65535)),
            ("http://127.0.0.1:8080", "http", "127.0.0.1", Some(8080)),
            ("http://[2001:db8::1]:9090", "http", "[2001:db8::1]", Some(9090)),
            ("ms-app.x+y://s-1-15", "ms-app.x+y", "s-1-15", None),
        ];
        for (text, scheme, host, port) in cases {
            let origin = parse(text.as_bytes()).unwrap();
            assert_eq!((origin.scheme, origin.host, origin.port), (scheme.as_bytes(), host.as_bytes(), port), "{text}");
        }
    }

    #[test]
    fn each_rule_is_told() {
        let cases: [(&str, Flaw); 31] = [
            ("", Flaw::NoScheme),
            ("null", Flaw::NoScheme),
            ("//example.com", Flaw::NoScheme),
            ("://example.com", Flaw::NoScheme),
            ("https:/example.com", Flaw::NoScheme),
            ("http:://example.com", Flaw::NoScheme),
            ("HTTPS://example.com", Flaw::Scheme),
            ("1x://example.com", Flaw::Scheme),
            ("https://", Flaw::NoHost),
            ("https:///x", Flaw::NoHost),
            ("https://:80", Flaw::NoHost),
            ("https://example.com/", Flaw::Path),
            ("https://evil.com#.example.org", Flaw::Path),
            ("https://u@example.com", Flaw::UserInfo),
            ("https://u:p@example.com", Flaw::UserInfo),
            ("https://exa mple.com", Flaw::WhiteSpace),
            ("https://a.example, https://b.example", Flaw::List),
            ("https://EXAMPLE.com", Flaw::UpperCase),
            ("https://bücher.example", Flaw::NotAscii),
            ("https://a%2e.example", Flaw::HostByte),
            ("https://.example.com", Flaw::EmptyLabel),
            ("https://a..example", Flaw::EmptyLabel),
            ("https://a..", Flaw::EmptyLabel),
            ("https://example.com.", Flaw::TrailingDot),
            ("http://127.1", Flaw::Ipv4),
            ("http://[::0001]", Flaw::Ipv6),
            ("https://example.com:", Flaw::Port),
            ("https://example.com:0443", Flaw::Port),
            ("https://example.com:65536", Flaw::Port),
            ("https://example.com:+80", Flaw::Port),
            ("https://example.com:443", Flaw::DefaultPort),
        ];
        for (text, flaw) in cases {
            assert_eq!(parse(text.as_bytes()), Err(flaw), "{text}");
        }
    }

    #[test]
    fn every_length_has_its_limit() {
        let label = "a".repeat(63);
        let host = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let scheme = "s".repeat(64);
        let longest = format!("{scheme}://{host}:65535");
        assert_eq!(longest.len(), ORIGIN_LEN_MAX);
        assert!(parse(longest.as_bytes()).is_ok());
        assert_eq!(parse(format!("{longest}0").as_bytes()), Err(Flaw::TooLong));
        assert_eq!(parse(format!("https://{host}a").as_bytes()), Err(Flaw::HostTooLong));
        assert_eq!(parse(format!("https://{label}a.example").as_bytes()), Err(Flaw::LabelTooLong));
        assert_eq!(parse(format!("s{scheme}://example").as_bytes()), Err(Flaw::Scheme));
    }
}
