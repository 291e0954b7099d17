//! Parses bytes to an [`Origin`], or returns the first rule of the grammar that they break.
//!
//! The grammar is `scheme "://" host [":" port]`, in the exact form that browsers send. Nothing is
//! trimmed, lower-cased or decoded: the browser compares bytes, so two spellings are two origins.
//! The length is checked first ([`ORIGIN_LEN_MAX`]), and nothing is allocated. `null` is not an
//! origin here; the caller handles it first.

use super::host;
use crate::origin::scheme::Scheme;

/// The longest origin, in bytes: scheme 64, `://` 3, host 253, `:` 1, port 5.
pub const ORIGIN_LEN_MAX: usize = 326;

/// The longest scheme, in bytes. The URL standard has no limit; other implementations have this
/// one.
const SCHEME_LEN_MAX: usize = 64;

/// The origins without a host that clients send. In the URL standard the origin of `file:` is
/// opaque, which serialises as `null`. Cordova, Android web views and Electron send `file://`
/// instead, and Electron applications with packed files send `app://.`.
pub(crate) const LOCAL_FILE_ORIGINS: [&str; 2] = ["file://", "app://."];

/// A well-formed origin. It borrows the bytes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// The whole origin.
    pub(crate) text: &'a [u8],
    /// The part before `://`.
    pub(crate) scheme: &'a [u8],
    /// The host; an IPv6 address with its brackets. For [`LOCAL_FILE_ORIGINS`], the part after
    /// `://`.
    pub(crate) host: &'a [u8],
    /// The port, if it is not the scheme's default.
    pub(crate) port: Option<u16>,
}

impl Origin<'_> {
    /// Returns the scheme, if it is `https` or `http`.
    pub(crate) fn web_scheme(&self) -> Option<Scheme> {
        match self.scheme {
            b"https" => Some(Scheme::Https),
            b"http" => Some(Scheme::Http),
            _ => None,
        }
    }

    /// Whether pages of local files send this origin.
    pub(crate) fn is_local_file(&self) -> bool {
        LOCAL_FILE_ORIGINS.iter().any(|origin| origin.as_bytes() == self.text)
    }
}

/// The rule of the grammar that a text breaks. The message follows the quoted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OriginFlaw {
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
    #[error("has white space, expected one origin and nothing else")]
    WhiteSpace,
    #[error("lists several origins, expected one")]
    List,
    #[error("has upper-case letters, expected lower case")]
    UpperCase,
    #[error("has non-ASCII characters, expected the host as punycode (`xn--..`)")]
    NotAscii,
    #[error("has an invalid byte in its host, expected labels of `a-z`, `0-9`, `-` and `_`")]
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
    #[error("has the default port, expected the origin without it")]
    DefaultPort,
}

/// Whether these bytes are an origin in the exact form that browsers send. `null` is not an origin.
/// The function allocates nothing.
///
/// ```
/// use crossgate_policy::is_origin;
///
/// assert!(is_origin(b"https://app.example:8443"));
/// assert!(!is_origin(b"https://app.example/") && !is_origin(b"https://app.example:443"));
/// assert!(!is_origin(b"null"));
/// ```
pub fn is_origin(value: &[u8]) -> bool {
    parse(value).is_ok()
}

/// Parses one origin.
pub(crate) fn parse(value: &[u8]) -> Result<Origin<'_>, OriginFlaw> {
    // Checked first, so that a hostile value costs no scan.
    if value.len() > ORIGIN_LEN_MAX {
        return Err(OriginFlaw::TooLong);
    }
    let (scheme, authority) = split_scheme(value)?;
    let (host, rest) = match host::split(authority, is_special(scheme)) {
        Ok(split) => split,
        Err(flaw) => {
            // Electron, Cordova and Android web views send origins without a host for local files.
            let origin = Origin { text: value, scheme, host: authority, port: None };
            return if origin.is_local_file() { Ok(origin) } else { Err(flaw) };
        }
    };
    let port = parse_port(rest).map_err(|flaw| host::blame(authority).unwrap_or(flaw))?;
    // https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin never has the default port.
    if port.is_some() && port == default_port(scheme) {
        return Err(OriginFlaw::DefaultPort);
    }
    Ok(Origin { text: value, scheme, host, port })
}

fn split_scheme(value: &[u8]) -> Result<(&[u8], &[u8]), OriginFlaw> {
    // A fast path for the common case.
    if let Some(authority) = value.strip_prefix(b"https://") {
        return Ok((b"https", authority));
    }
    let end = value.iter().position(|byte| *byte == b':').ok_or(OriginFlaw::NoScheme)?;
    let (scheme, rest) = value.split_at_checked(end).ok_or(OriginFlaw::NoScheme)?;
    let authority = rest.strip_prefix(b"://").ok_or(OriginFlaw::NoScheme)?;
    let (first, others) = scheme.split_first().ok_or(OriginFlaw::NoScheme)?;
    if !first.is_ascii_lowercase() || !others.iter().all(is_scheme_byte) || scheme.len() > SCHEME_LEN_MAX {
        return Err(OriginFlaw::Scheme);
    }
    Ok((scheme, authority))
}

// https://url.spec.whatwg.org/#url-scheme-string, as serialised.
fn is_scheme_byte(byte: &u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.')
}

/// Parses what follows the host: nothing, or a colon and a port.
fn parse_port(rest: &[u8]) -> Result<Option<u16>, OriginFlaw> {
    let Some((colon, digits)) = rest.split_first() else { return Ok(None) };
    // `str::parse` would accept a plus sign.
    let is_canonical =
        matches!(digits, [b'1'..=b'9', more @ ..] if more.len() < 5 && more.iter().all(u8::is_ascii_digit));
    if *colon != b':' || !is_canonical {
        return Err(OriginFlaw::Port);
    }
    let number = digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    u16::try_from(number).map(Some).map_err(|_| OriginFlaw::Port)
}

/// Whether the scheme is special, so that a numeric host is an IPv4 address:
/// <https://url.spec.whatwg.org/#special-scheme>.
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
    fn origin_is_split_into_scheme_host_and_port() {
        let cases: [(&str, &str, &str, Option<u16>); 9] = [
            ("moz-extension://0b4a2a1c-5d1e", "moz-extension", "0b4a2a1c-5d1e", None),
            ("https://example.com", "https", "example.com", None),
            ("http://localhost:3000", "http", "localhost", Some(3000)),
            ("https://a_b.-c.example:65535", "https", "a_b.-c.example", Some(65535)),
            ("http://127.0.0.1:8080", "http", "127.0.0.1", Some(8080)),
            ("http://[2001:db8::1]:9090", "http", "[2001:db8::1]", Some(9090)),
            ("ms-app.x+y://s-1-15", "ms-app.x+y", "s-1-15", None),
            ("file://", "file", "", None),
            ("app://.", "app", ".", None),
        ];
        for (text, scheme, host, port) in cases {
            let origin = parse(text.as_bytes()).unwrap();
            assert_eq!((origin.scheme, origin.host, origin.port), (scheme.as_bytes(), host.as_bytes(), port), "{text}");
        }
    }

    #[test]
    fn malformed_origin_reports_the_broken_rule() {
        let cases: [(&str, OriginFlaw); 43] = [
            ("", OriginFlaw::NoScheme),
            ("null", OriginFlaw::NoScheme),
            ("//example.com", OriginFlaw::NoScheme),
            ("://example.com", OriginFlaw::NoScheme),
            ("https:/example.com", OriginFlaw::NoScheme),
            ("http:://example.com", OriginFlaw::NoScheme),
            ("HTTPS://example.com", OriginFlaw::Scheme),
            ("1x://example.com", OriginFlaw::Scheme),
            ("https://", OriginFlaw::NoHost),
            ("https:///x", OriginFlaw::NoHost),
            ("https://:80", OriginFlaw::NoHost),
            ("capacitor://", OriginFlaw::NoHost),
            ("app://", OriginFlaw::NoHost),
            ("file:///", OriginFlaw::NoHost),
            ("file://.", OriginFlaw::TrailingDot),
            ("ionic://.", OriginFlaw::TrailingDot),
            ("app://..", OriginFlaw::EmptyLabel),
            ("app://./", OriginFlaw::Path),
            ("app://.:1", OriginFlaw::EmptyLabel),
            ("FILE://", OriginFlaw::Scheme),
            ("https://example.com/", OriginFlaw::Path),
            ("https://example.com:8443/", OriginFlaw::Path),
            ("https://[::1]:8443/", OriginFlaw::Path),
            ("https://a.example:1, https://b.example", OriginFlaw::List),
            ("https://evil.com#.example.org", OriginFlaw::Path),
            ("https://u@example.com", OriginFlaw::UserInfo),
            ("https://u:p@example.com", OriginFlaw::UserInfo),
            ("https://exa mple.com", OriginFlaw::WhiteSpace),
            ("https://a.example, https://b.example", OriginFlaw::List),
            ("https://EXAMPLE.com", OriginFlaw::UpperCase),
            ("https://bücher.example", OriginFlaw::NotAscii),
            ("https://a%2e.example", OriginFlaw::HostByte),
            ("https://.example.com", OriginFlaw::EmptyLabel),
            ("https://a..example", OriginFlaw::EmptyLabel),
            ("https://a..", OriginFlaw::EmptyLabel),
            ("https://example.com.", OriginFlaw::TrailingDot),
            ("http://127.1", OriginFlaw::Ipv4),
            ("http://[::0001]", OriginFlaw::Ipv6),
            ("https://example.com:", OriginFlaw::Port),
            ("https://example.com:0443", OriginFlaw::Port),
            ("https://example.com:65536", OriginFlaw::Port),
            ("https://example.com:+80", OriginFlaw::Port),
            ("https://example.com:443", OriginFlaw::DefaultPort),
        ];
        for (text, flaw) in cases {
            assert_eq!(parse(text.as_bytes()), Err(flaw), "{text}");
        }
    }

    #[test]
    fn part_over_its_length_limit_is_refused() {
        let label = "a".repeat(63);
        let host = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let scheme = "s".repeat(64);
        let longest = format!("{scheme}://{host}:65535");
        assert_eq!(longest.len(), ORIGIN_LEN_MAX);
        assert!(parse(longest.as_bytes()).is_ok());
        assert_eq!(parse(format!("{longest}0").as_bytes()), Err(OriginFlaw::TooLong));
        assert_eq!(parse(format!("https://{host}a").as_bytes()), Err(OriginFlaw::HostTooLong));
        assert_eq!(parse(format!("https://{label}a.example").as_bytes()), Err(OriginFlaw::LabelTooLong));
        assert_eq!(parse(format!("s{scheme}://example").as_bytes()), Err(OriginFlaw::Scheme));
    }
}
