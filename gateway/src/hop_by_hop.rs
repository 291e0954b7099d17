//! The `Connection` field: which of a request's fields are for this hop alone.
//!
//! Every proxy removes the fields named there, so a client that names `Origin` can make the upstream see another request than
//! the one that was judged. Names of fields that carry a judgement, an identity or the framing are refused.

use http::{HeaderMap, header};

/// Options in one `Connection` list; clients send one or two.
const TOKENS_MAX: usize = 8;

/// Fields that must not be named, beside those with a prefix of [`KEPT_PREFIXES`].
const KEPT: [&str; 9] = [
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "x-real-ip",
    "x-request-id",
];
const KEPT_PREFIXES: [&str; 5] = ["access-control-request-", "content-", "sec-fetch-", "x-forwarded-", "x-crossgate-"];

/// Whether the `Connection` field names nothing that must reach the gateway or the upstream, and is a list of names at all.
pub fn connection_is_harmless(headers: &HeaderMap) -> bool {
    let mut tokens = 0;
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            tokens += 1;
            if tokens > TOKENS_MAX || !(token.is_empty() || is_harmless(token)) {
                return false;
            }
        }
    }
    true
}

fn is_harmless(token: &[u8]) -> bool {
    let starts_with = |prefix: &&str| {
        let start = token.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    token.iter().all(|byte| is_tchar(*byte))
        && !KEPT.iter().any(|name| token.eq_ignore_ascii_case(name.as_bytes()))
        && !KEPT_PREFIXES.iter().any(starts_with)
}

/// RFC 9110, section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the request asks to become a WebSocket.
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let mut protocols =
        headers.get_all(header::UPGRADE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(value: &'static str, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static(value));
        assert_eq!(connection_is_harmless(&headers), expected, "{value}");
    }

    #[test]
    fn ordinary_lists_pass() {
        for value in
            ["close", "keep-alive", "Upgrade", "keep-alive, Upgrade", "close, x-app", "", ",close,", "te, x-origin"]
        {
            check(value, true);
        }
    }

    #[test]
    fn names_that_carry_a_judgement_are_refused() {
        for value in [
            "close, Origin",
            "ORIGIN",
            "Access-Control-Request-Method",
            "access-control-request-headers",
            "Cookie",
            "authorization",
            "Host",
            "content-length",
            "Content-Type",
            "Sec-Fetch-Site",
            "Forwarded",
            "X-Forwarded-For",
            "x-forwarded-anything",
            "x-crossgate-tenant",
            "x-request-id",
            "\"Origin\"",
            ":authority",
            "a b",
            "a,b,c,d,e,f,g,h,i",
        ] {
            check(value, false);
        }
    }
}
