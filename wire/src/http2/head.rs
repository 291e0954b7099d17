//! The head of a request over HTTP/2, in the form in which one over HTTP/1.1 is judged: origin-form
//! target, one `Host` field.
//!
//! `h2` has refused what RFC 9113, section 8.2 and 8.3 call malformed: upper-case names, bytes that
//! no field has, fields of a connection, pseudo-header fields that are missing, repeated, late or
//! in trailers, bodies of another length than announced. What is checked here is what the lane
//! checks, by the same limits, and what would be read in two ways once it is HTTP/1.1. `h2` drops a
//! fragment of the target without a word, as it drops the scheme where there is no authority.

use std::sync::Arc;

use bytes::Bytes;
use crossgate_message::fields::RequestField;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use pingora::http::RequestHeader;

use crate::exchange::HeadLimits;
use crate::exchange::state::ExchangeState;
use crate::refusal::{FRAMING, HOST, HeadRefusal, METHOD, TOO_LARGE};
use crossgate_message::content_length;

const MALFORMED: HeadRefusal = HeadRefusal {
    status: StatusCode::BAD_REQUEST,
    reason: "head_malformed",
    detail: "the request head is not valid HTTP/2",
};

/// What a request line of HTTP/1.1 has besides method and target, and a field line besides name and
/// value.
const REQUEST_LINE_LEN: usize = "  HTTP/1.1\r\n".len();
const FIELD_LINE_LEN: usize = ": \r\n".len();

/// Checks a head, and brings it to that form.
///
/// # Errors
/// The refusal, if it is not served.
pub(super) fn accept(mut parts: Parts, limits: &HeadLimits) -> Result<RequestHeader, HeadRefusal> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(METHOD);
    }
    let host = host(&parts.uri, &parts.headers)?;
    let target = target(&parts.uri, &parts.method)?;
    parts.headers.insert(header::HOST, host);
    join_cookies(&mut parts.headers)?;
    check_size(&parts, &target, limits)?;
    if parts.headers.values().any(|value| value.as_bytes().trim_ascii().len() != value.len()) {
        return Err(MALFORMED);
    }
    // `h2` takes a byte in names that no token has (RFC 9110, section 5.6.2).
    if parts.headers.keys().any(|name| name.as_str().contains('"')) {
        return Err(MALFORMED);
    }
    let lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    match RequestField::from_lines(lengths) {
        RequestField::Absent => {}
        RequestField::One(length) => drop(content_length::parse(length).ok_or(FRAMING)?),
        RequestField::Many => return Err(FRAMING),
    }
    parts.uri = Uri::from(target);
    Ok(RequestHeader::from(parts))
}

/// Adds the state of the exchange to its head.
pub(super) fn set_watch(head: &mut RequestHeader, watch: Arc<ExchangeState>) {
    head.extensions_mut().insert(watch);
}

/// The state that a request's exchange shares with the hooks.
pub fn watch(head: &RequestHeader) -> Option<&Arc<ExchangeState>> {
    head.extensions.get()
}

/// RFC 9113, section 8.3.1: `:authority` or one `Host`; where there are both they say the same.
fn host(uri: &Uri, fields: &HeaderMap) -> Result<HeaderValue, HeadRefusal> {
    let mut lines = fields.get_all(header::HOST).iter();
    let host = match (uri.authority(), lines.next(), lines.next()) {
        (Some(authority), None, None) => HeaderValue::from_str(authority.as_str()).map_err(|_| HOST)?,
        (Some(authority), Some(host), None) if authority.as_str().as_bytes() == host.as_bytes() => host.clone(),
        (None, Some(host), None) => host.clone(),
        _ => return Err(HOST),
    };
    // Userinfo has no place there.
    if host.as_bytes().contains(&b'@') { Err(HOST) } else { Ok(host) }
}

/// The target in origin form, or `*`.
fn target(uri: &Uri, method: &Method) -> Result<PathAndQuery, HeadRefusal> {
    let target = uri.path_and_query().ok_or(MALFORMED)?;
    let is_origin_form = target.as_str().starts_with('/');
    let is_of_http = uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    let is_of_server = target.as_str() == "*" && method == Method::OPTIONS;
    if !(is_of_http && (is_origin_form || is_of_server)) {
        return Err(MALFORMED);
    }
    Ok(target.clone())
}

/// RFC 9113, section 8.2.3: a cookie may come in pieces, for the sake of compression.
fn join_cookies(fields: &mut HeaderMap) -> Result<(), HeadRefusal> {
    let crumbs = || fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    if crumbs().nth(1).is_none() {
        return Ok(());
    }
    let whole = Bytes::from(crumbs().collect::<Vec<_>>().join(&b"; "[..]));
    fields.insert(header::COOKIE, HeaderValue::from_maybe_shared(whole).map_err(|_| MALFORMED)?);
    Ok(())
}

/// A head is as large as it would be over HTTP/1.1.
fn check_size(parts: &Parts, target: &PathAndQuery, limits: &HeadLimits) -> Result<(), HeadRefusal> {
    let mut len = parts.method.as_str().len() + target.as_str().len() + REQUEST_LINE_LEN + "\r\n".len();
    for (name, value) in &parts.headers {
        let field_len = name.as_str().len() + value.len();
        if field_len > limits.field_bytes {
            return Err(TOO_LARGE);
        }
        len += field_len + FIELD_LINE_LEN;
    }
    if len > limits.bytes || parts.headers.len() > limits.fields { Err(TOO_LARGE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::exchange::state::ExchangeLimits;

    const LIMITS: HeadLimits = HeadLimits {
        time: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        bytes: 1024,
        field_bytes: 256,
        fields: 8,
    };

    const EXCHANGE: ExchangeLimits = ExchangeLimits {
        body_grace: Duration::ZERO,
        body_rate_min: 0,
        write_stall: Duration::ZERO,
        drain_bytes: 0,
        drain_time: Duration::ZERO,
    };

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<RequestHeader, StatusCode> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        accept(parts, &LIMITS).map_err(|refusal| refusal.status)
    }

    fn accepted(method: &str, uri: &str, fields: &[(&str, &str)]) -> RequestHeader {
        request(method, uri, fields).unwrap_or_else(|status| panic!("{method} {uri} {fields:?}: {status}"))
    }

    #[track_caller]
    fn refused(method: &str, uri: &str, fields: &[(&str, &str)], status: StatusCode) {
        assert_eq!(request(method, uri, fields).err(), Some(status), "{method} {uri} {fields:?}");
    }

    #[test]
    fn a_host_is_there_once_and_agrees() {
        for (uri, fields) in
            [("http://a.test/x", &[][..]), ("http://a.test/x", &[("host", "a.test")]), ("/x", &[("host", "a.test")])]
        {
            let mut head = accepted("GET", uri, fields);
            set_watch(&mut head, Arc::new(ExchangeState::new(EXCHANGE, None, 0)));
            assert_eq!((head.raw_path(), head.headers[header::HOST].as_bytes()), (&b"/x"[..], &b"a.test"[..]), "{uri}");
            assert!(watch(&head).is_some());
        }
        let bad = StatusCode::BAD_REQUEST;
        refused("GET", "/x", &[], bad);
        refused("GET", "http://a.test/x", &[("host", "A.test")], bad);
        refused("GET", "http://a.test/x", &[("host", "a.test"), ("host", "a.test")], bad);
        refused("GET", "/x", &[("host", "a.test"), ("host", "a.test")], bad);
        refused("GET", "http://u@a.test/x", &[], bad);
        refused("GET", "/x", &[("host", "u@a.test")], bad);
    }

    #[test]
    fn targets_and_methods_are_those_of_a_gateway() {
        assert_eq!(accepted("OPTIONS", "*", &[("host", "a.test")]).raw_path(), b"*");
        refused("GET", "*", &[("host", "a.test")], StatusCode::BAD_REQUEST);
        refused("GET", "ftp://a.test/x", &[], StatusCode::BAD_REQUEST);
        refused("TRACE", "http://a.test/", &[], StatusCode::METHOD_NOT_ALLOWED);
        refused("CONNECT", "a.test:80", &[], StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn a_head_is_as_large_as_over_http_1() {
        let large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let value = &"v".repeat(255);
        accepted("GET", "http://a.test/", &[("x", value)]);
        refused("GET", "http://a.test/", &[("x", &format!("{value}v"))], large);
        // With `Host` it is eight.
        accepted("GET", "http://a.test/", &[("x", ""); 7]);
        refused("GET", "http://a.test/", &[("x", ""); 8], large);
        // "GET / HTTP/1.1", the Host line and the empty one are 32 bytes.
        let target = |len: usize| format!("http://a.test/{}", "x".repeat(len));
        accepted("GET", &target(1024 - 32), &[]);
        refused("GET", &target(1024 - 31), &[], large);
    }

    #[test]
    fn cookie_crumbs_are_one_cookie() {
        let head = accepted("GET", "http://a.test/", &[("cookie", "a=1"); 20]);
        assert_eq!(head.headers.get_all(header::COOKIE).iter().count(), 1);
        assert_eq!(head.headers[header::COOKIE].as_bytes(), ["a=1"; 20].join("; ").as_bytes());
        refused("GET", "http://a.test/", &[("cookie", "a=1"); 60], StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }

    #[test]
    fn what_http_1_would_read_otherwise_is_refused() {
        for fields in [
            &[("x", " a")][..],
            &[("x", "a\t")],
            &[("content-length", "+1")],
            &[("content-length", "01")],
            &[("content-length", "9223372036854775808")],
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "1, 1")],
        ] {
            refused("PUT", "http://a.test/", fields, StatusCode::BAD_REQUEST);
        }
        accepted("PUT", "http://a.test/", &[("content-length", "1"), ("x", "")]);
        let mut request = Request::get("http://a.test/").body(()).unwrap();
        let name = header::HeaderName::from_lowercase(b"x\"y").unwrap();
        request.headers_mut().insert(name, HeaderValue::from_static("1"));
        let refused = accept(request.into_parts().0, &LIMITS).map_err(|refusal| refusal.status);
        assert_eq!(refused.err(), Some(StatusCode::BAD_REQUEST));
    }
}
