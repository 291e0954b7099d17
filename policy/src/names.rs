//! Methods and header names: the safelisted and the forbidden ones, and sorted sets of them.
//!
//! The lists are those of the Fetch standard. A lookup takes a few comparisons, allocates nothing,
//! and accepts any bytes. Methods are compared byte by byte (RFC 9110, section 9.1), header names
//! without regard to ASCII case (section 5.1).

use std::cmp::Ordering;

/// Methods that a page may always use: <https://fetch.spec.whatwg.org/#cors-safelisted-method>.
pub const SAFELISTED_METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

/// Methods that a page can never use: <https://fetch.spec.whatwg.org/#forbidden-method>.
pub const FORBIDDEN_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

/// Methods that a browser converts to upper case:
/// <https://fetch.spec.whatwg.org/#concept-method-normalize>.
pub const NORMALIZED_METHODS: [&str; 6] = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];

/// Response headers that a page may always read:
/// <https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name>.
pub const SAFELISTED_RESPONSE_HEADERS: [&str; 7] =
    ["cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"];

/// Response headers that a page can never read:
/// <https://fetch.spec.whatwg.org/#forbidden-response-header-name>.
pub const FORBIDDEN_RESPONSE_HEADERS: [&str; 2] = ["set-cookie", "set-cookie2"];

/// Request headers that a page can never set:
/// <https://fetch.spec.whatwg.org/#forbidden-request-header>. Those with one of
/// [`FORBIDDEN_REQUEST_HEADER_PREFIXES`] are not listed.
pub const FORBIDDEN_REQUEST_HEADERS: [&str; 19] = [
    "accept-charset",
    "accept-encoding",
    "connection",
    "content-length",
    "cookie",
    "cookie2",
    "date",
    "dnt",
    "expect",
    "host",
    "keep-alive",
    "origin",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Prefixes of request headers that a page can never set:
/// <https://fetch.spec.whatwg.org/#forbidden-request-header>.
pub const FORBIDDEN_REQUEST_HEADER_PREFIXES: [&str; 2] = ["proxy-", "sec-"];

/// The prefix of every field of the CORS protocol.
pub const CORS_PREFIX: &str = "access-control-";

/// The one request header that `*` does not cover:
/// <https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name>.
pub const NON_WILDCARD_REQUEST_HEADER: &str = "authorization";

/// Whether these bytes are a token, as methods and header names must be:
/// <https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2>.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
    ) || byte.is_ascii_alphanumeric()
}

/// Whether a response field belongs to the CORS protocol, in any case. The gateway removes such
/// fields from upstream responses.
///
/// ```
/// assert!(crossgate_policy::is_cors_response_field("Access-Control-Allow-Origin"));
/// assert!(!crossgate_policy::is_cors_response_field("access-control"));
/// ```
pub fn is_cors_response_field(name: impl AsRef<[u8]>) -> bool {
    let start = name.as_ref().get(..CORS_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(CORS_PREFIX.as_bytes()))
}

/// A sorted set of methods or of lower-case header names.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameSet(Box<[Box<str>]>);

impl NameSet {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<Box<str>> = names.into_iter().map(String::into_boxed_str).collect();
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set contains exactly `name`.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.0.binary_search_by(|listed| listed.as_bytes().cmp(name)).is_ok()
    }

    /// Whether the set of lower-case names contains `name` in any case.
    pub(crate) fn contains_in_any_case(&self, name: &[u8]) -> bool {
        // Browsers send names in lower case, and an exact comparison is much faster.
        self.contains(name) || self.0.binary_search_by(|listed| compare_lower(listed, name)).is_ok()
    }

    /// Returns the names as the value of a list field.
    pub(crate) fn joined(&self) -> String {
        self.0.join(",")
    }
}

fn compare_lower(listed: &str, name: &[u8]) -> Ordering {
    listed.bytes().cmp(name.iter().map(u8::to_ascii_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_set_finds_only_its_names() {
        let names = NameSet::new(["x-req", "authorization", "x-req", "content-type"].map(str::to_owned));
        assert_eq!(names.joined(), "authorization,content-type,x-req");
        assert!(names.contains_in_any_case(b"X-Req") && names.contains(b"x-req") && !names.contains(b"X-Req"));
        for name in [&b""[..], b"x-re", b"x-reqq", b"x-re\xff", b"a", b"zz"] {
            assert!(!names.contains_in_any_case(name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn tokens_have_no_separators() {
        assert!(is_token(b"x-A1!#$%&'*+.^_`|~"));
        for byte in b"\"(),/:;<=>?@[\\]{} \t\r\n\0\x7f\x80\xff" {
            assert!(!is_token(&[b'a', *byte]), "{byte:#x}");
        }
        assert!(!is_token(b""));
    }
}
