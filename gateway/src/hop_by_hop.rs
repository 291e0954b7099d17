//! What is for one hop alone: the `Connection` field and what it names, upgrades, and the framing of messages.
//!
//! Every proxy removes the fields named there, so a client that names `Origin` can make the upstream see another request than
//! the one that was judged. Names of fields that carry a judgement, an identity or the framing are refused.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use pingora::http::RequestHeader;

use crate::fields::Fields;
use crate::rewrite;

/// Options in one `Connection` list; clients send one or two.
const TOKENS_MAX: usize = 8;

/// Fields that must not be named, beside those with a prefix of [`KEPT_PREFIXES`].
const KEPT: [&str; 11] = [
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "transfer-encoding",
    "x-real-ip",
    "x-request-id",
];
const KEPT_PREFIXES: [&str; 5] = ["access-control-request-", "content-", "sec-fetch-", "x-forwarded-", "x-crossgate-"];

/// Whether the `Connection` field names nothing that must reach the gateway or the upstream, and is a list of names at all.
pub fn connection_is_harmless(headers: Fields<'_>) -> bool {
    let mut tokens = headers.elements(&header::CONNECTION);
    let harmless = tokens.by_ref().take(TOKENS_MAX).all(|token| token.is_empty() || is_harmless(token));
    harmless && tokens.next().is_none()
}

fn is_harmless(token: &[u8]) -> bool {
    token.iter().all(|byte| is_tchar(*byte)) && !is_kept(token)
}

/// Whether a name is one of those fields for a server that, like CGI, takes `-`, `_` and perhaps `.` for the same.
fn is_kept(name: &[u8]) -> bool {
    let same = |one: &u8, other: &u8| one.eq_ignore_ascii_case(other) || (matches!(one, b'_' | b'.') && *other == b'-');
    let begins_with =
        |text: &[u8]| text.len() <= name.len() && name.iter().zip(text).all(|(one, other)| same(one, other));
    KEPT.iter().any(|kept| kept.len() == name.len() && begins_with(kept.as_bytes()))
        || KEPT_PREFIXES.iter().any(|prefix| begins_with(prefix.as_bytes()))
}

/// RFC 9110, section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the request asks to become a WebSocket.
pub fn asks_for_websocket(headers: Fields<'_>) -> bool {
    headers.elements(&header::UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Whether the request's `Connection` field says that its `Upgrade` field is meant, as RFC 9110, section 7.8 wants it.
fn connection_upgrades(headers: Fields<'_>) -> bool {
    headers.elements(&header::CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether a 101 to this request makes the WebSocket that was asked for.
pub fn upgrades_to_websocket(request: &RequestHeader, response: &HeaderMap) -> bool {
    is_upgrade(request) && asks_for_websocket(response.into())
}

/// Whether the request is a handshake that makes a WebSocket of the connection.
pub fn is_upgrade(request: &RequestHeader) -> bool {
    let fields = Fields::from(&request.headers);
    request.version == Version::HTTP_11 && asks_for_websocket(fields) && connection_upgrades(fields)
}

/// Whether the client waits for `100 Continue` before it sends its body. HTTP/1.0 has no such thing, RFC 9110, section 10.1.1.
pub fn expects_continue(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11 && request.headers.contains_key(header::EXPECT)
}

/// Whether whoever asks takes trailers. gRPC wants a server to be told so.
fn takes_trailers(request: &RequestHeader) -> bool {
    let fields = Fields::from(&request.headers);
    fields.elements(&header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Removes from a request on its way to an upstream what is for this hop alone, beyond what Pingora removes: an upgrade that
/// is not meant, an expectation that is none, and names that a server which takes `_` for `-` reads as one of ours.
///
/// What `is_unwanted` beside is removed too: fields are looked through once.
pub fn clean_request(asked: &RequestHeader, sent: &mut HeaderMap, is_unwanted: impl Fn(&str) -> bool) {
    let keeps_expect = expects_continue(asked);
    rewrite::remove(sent, |name| match name.as_str() {
        "connection" | "upgrade" => true,
        "expect" => !keeps_expect,
        name => is_unwanted(name) || name.bytes().any(|byte| matches!(byte, b'_' | b'.')) && is_kept(name.as_bytes()),
    });
    if is_upgrade(asked) {
        // Of a list of protocols, the one that is passed on.
        sent.insert(header::CONNECTION, UPGRADE);
        sent.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Removes from a request that goes out over HTTP/2 what has no place there: RFC 9113, section 8.2.2. With the expectation of
/// `100 Continue`, which the gateway answers then. That a client of HTTP/2 takes trailers is said again, which
/// Pingora removes with the fields of its hop; one of HTTP/1.1 gets none.
pub fn clean_http2_request(asked: &RequestHeader, sent: &mut HeaderMap) {
    rewrite::remove(sent, |name| {
        let name = name.as_str();
        name == "expect" || name == "te" || CONNECTION_FIELDS.contains(&name)
    });
    if asked.version == Version::HTTP_2 && takes_trailers(asked) {
        sent.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What HTTP/1.1 says of a connection.
const CONNECTION_FIELDS: [&str; 6] =
    ["connection", "http2-settings", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// What an upstream's head over HTTP/2 may have, as Pingora bounds one over HTTP/1.1.
const HEAD_LEN_MAX: usize = 1 << 20;
const HEAD_FIELDS_MAX: usize = 256;

/// Checks of a response head over HTTP/2 what the library leaves open, and is no question over HTTP/1.1.
///
/// # Errors
/// What is wrong with it.
pub fn check_http2_response(fields: &HeaderMap) -> Result<(), &'static str> {
    let len: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    match () {
        () if len > HEAD_LEN_MAX => Err("a head that is too long"),
        () if fields.len() > HEAD_FIELDS_MAX => Err("a head of too many fields"),
        () => Ok(()),
    }
}

/// How the body of an answer is delimited for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reframed {
    /// By its own fields.
    AsIs,
    /// By the end of the connection.
    UntilClose,
}

/// The value of a `Connection` field that says what its `Upgrade` field means.
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");

/// Makes an upstream's response head one of this hop: RFC 9110, section 7.6.1, and RFC 9112, sections 2.3 and 6. The version is the
/// caller's to set.
///
/// # Errors
/// What is wrong with it, where its framing could be read in two ways.
pub fn clean_response(status: StatusCode, fields: &mut HeaderMap, client: Version) -> Result<Reframed, &'static str> {
    strip_hop(status, fields);
    one_length(fields)?;
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        (Some(_), _) => return Err("a transfer coding other than chunked"),
    };
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        fields.remove(header::TRANSFER_ENCODING);
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        fields.remove(header::CONTENT_LENGTH);
    }
    if is_chunked && client == Version::HTTP_10 {
        fields.remove(header::TRANSFER_ENCODING);
        return Ok(Reframed::UntilClose);
    }
    Ok(Reframed::AsIs)
}

/// Removes what is for the hop between upstream and gateway; trailers are not passed on.
fn strip_hop(status: StatusCode, fields: &mut HeaderMap) {
    let upgrades = status == StatusCode::SWITCHING_PROTOCOLS;
    let connection = header::CONNECTION;
    let named: Vec<HeaderName> = Fields::from(&*fields)
        .elements(&connection)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| ![header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::UPGRADE].contains(name))
        .collect();
    rewrite::remove(fields, |name| match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "proxy-authenticate" | "te" | "trailer" => true,
        "upgrade" => !upgrades,
        _ => named.contains(name),
    });
    if upgrades {
        fields.insert(header::CONNECTION, UPGRADE);
    }
}

/// Removes from an answer's trailers what has no place there: fields of one hop, and of framing (RFC 9110, section 6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    rewrite::remove(trailers, |name| {
        matches!(
            name.as_str(),
            "connection"
                | "content-length"
                | "host"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
    });
}

/// RFC 9110, section 8.6: one length that is said twice is said once; two lengths are an error.
fn one_length(fields: &mut HeaderMap) -> Result<(), &'static str> {
    let name = header::CONTENT_LENGTH;
    let mut values = Fields::from(&*fields).elements(&name);
    let Some(first) = values.next() else { return Ok(()) };
    let mut is_repeated = false;
    for value in values {
        is_repeated = true;
        if value != first {
            return Err("two lengths of one body");
        }
    }
    if is_repeated {
        let value = HeaderValue::from_bytes(first).map_err(|_| "a length that is none")?;
        fields.insert(header::CONTENT_LENGTH, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    type Lines = [(&'static str, &'static str)];

    fn map(lines: &Lines) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    fn asked(version: Version, lines: &Lines) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.set_version(version);
        for (name, value) in lines {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn told(fields: &HeaderMap) -> Vec<String> {
        let mut all: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        all
    }

    fn check(value: &'static str, expected: bool) {
        assert_eq!(connection_is_harmless((&map(&[("connection", value)])).into()), expected, "{value}");
    }

    #[test]
    fn http2_is_told_nothing_of_connections() {
        let mut sent = HeaderMap::new();
        for name in CONNECTION_FIELDS.iter().chain(&["expect", "te", "x-app"]) {
            sent.insert(HeaderName::from_static(name), HeaderValue::from_static("trailers"));
        }
        let mut asked = RequestHeader::build("POST", b"/", None).unwrap();
        clean_http2_request(&asked, &mut sent);
        assert!(!sent.contains_key(header::TE));
        asked.insert_header(header::TE, "gzip, Trailers").unwrap();
        clean_http2_request(&asked, &mut sent);
        assert!(!sent.contains_key(header::TE));
        asked.set_version(Version::HTTP_2);
        clean_http2_request(&asked, &mut sent);
        assert_eq!(sent[header::TE], "trailers");
        asked.insert_header(header::TE, "gzip").unwrap();
        clean_http2_request(&asked, &mut sent);
        assert!(!sent.contains_key(header::TE));
        asked.insert_header(header::TE, "trailers").unwrap();
        clean_http2_request(&asked, &mut sent);
        let mut left: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-app"]);
        assert_eq!(sent[header::TE], "trailers");
    }

    #[test]
    fn a_head_over_http2_is_bounded_as_one_over_http1() {
        let fields = |count: usize, value_len: usize| {
            let value = HeaderValue::from_str(&"v".repeat(value_len)).unwrap();
            let names = (0..count).map(|nth| HeaderName::try_from(format!("x{nth:03}")).unwrap());
            names.map(|name| (name, value.clone())).collect::<HeaderMap>()
        };
        let check = |count, value_len| check_http2_response(&fields(count, value_len));
        assert_eq!(check(1, 1), Ok(()));
        assert_eq!(check(HEAD_FIELDS_MAX, 1), Ok(()));
        assert_eq!(check(HEAD_FIELDS_MAX + 1, 1), Err("a head of too many fields"));
        assert_eq!(check(4, HEAD_LEN_MAX / 4 - 4), Ok(()));
        assert_eq!(check(4, HEAD_LEN_MAX / 4 - 3), Err("a head that is too long"));
    }

    #[test]
    fn trailers_frame_nothing_and_say_nothing_of_connections() {
        let mut trailers = map(&[
            ("connection", "x"),
            ("content-length", "1"),
            ("host", "a.test"),
            ("keep-alive", "x"),
            ("proxy-authenticate", "x"),
            ("proxy-connection", "x"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("grpc-status", "0"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(told(&trailers), ["grpc-status: 0"]);
    }

    #[test]
    fn ordinary_lists_pass() {
        for value in [
            "close",
            "keep-alive",
            "Upgrade",
            "keep-alive, Upgrade",
            "close, x-app",
            "",
            ",close,",
            "te, x-origin",
            "hosts, _rigin, x-ab",
            "contentxtype, content",
            "a,b,c,d,e,f,g,h",
        ] {
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
            "x_forwarded_for",
            "X_Crossgate-Tenant",
            "x.forwarded.for",
            "Expect",
            "Transfer-Encoding",
            "\"Origin\"",
            ":authority",
            "a b",
            "a,b,c,d,e,f,g,h,i",
        ] {
            check(value, false);
        }
    }

    #[test]
    fn a_request_goes_on_without_what_was_for_this_hop() {
        use Version as V;
        let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "h2c, WebSocket"), ("x-a", "1")];
        let table: [(V, &Lines, &[&str]); 10] = [
            (V::HTTP_11, &[("connection", "close"), ("x-a", "1")], &["x-a: 1"]),
            (V::HTTP_11, &upgrade, &["connection: Upgrade", "upgrade: websocket", "x-a: 1"]),
            (V::HTTP_10, &upgrade, &["x-a: 1"]),
            (V::HTTP_11, &upgrade[1..], &["x-a: 1"]),
            (V::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")], &[]),
            (V::HTTP_11, &[("expect", "100-continue")], &["expect: 100-continue"]),
            (V::HTTP_10, &[("expect", "100-continue")], &[]),
            (V::HTTP_11, &[("x_forwarded_for", "1"), ("x.request.id", "1"), ("sec.fetch-site", "1")], &[]),
            (V::HTTP_11, &[("x_app", "1"), ("x-request-id", "1")], &["x-request-id: 1", "x_app: 1"]),
            (V::HTTP_11, &[("x-unwanted", "1"), ("x-unwanted2", "1")], &["x-unwanted2: 1"]),
        ];
        for (version, lines, expected) in table {
            let mut sent = map(lines);
            clean_request(&asked(version, lines), &mut sent, |name| name == "x-unwanted");
            assert_eq!(told(&sent), expected, "{version:?} {lines:?}");
        }
    }

    #[test]
    fn both_sides_have_to_want_the_upgrade() {
        let wants: &Lines = &[("connection", "upgrade"), ("upgrade", "websocket")];
        for (request, response, expected) in [
            (wants, wants, true),
            (wants, &[("upgrade", "h2c")][..], false),
            (wants, &[], false),
            (&[("upgrade", "websocket")], wants, false),
            (&[], wants, false),
        ] {
            let becomes = upgrades_to_websocket(&asked(Version::HTTP_11, request), &map(response));
            assert_eq!(becomes, expected, "{request:?} {response:?}");
        }
    }

    #[test]
    fn an_expectation_is_one_of_http_1_1_and_said() {
        let expect: &Lines = &[("expect", "100-continue")];
        for (version, lines, expected) in
            [(Version::HTTP_11, expect, true), (Version::HTTP_10, expect, false), (Version::HTTP_11, &[], false)]
        {
            assert_eq!(expects_continue(&asked(version, lines)), expected, "{version:?} {lines:?}");
        }
    }

    #[test]
    fn a_response_becomes_one_of_this_hop() {
        use Version as V;
        let hop = [
            ("connection", "close, X-Named"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("proxy-authenticate", "Basic"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("upgrade", "websocket"),
            ("x-named", "1"),
        ];
        let chunked = ("transfer-encoding", "Chunked");
        let (length, named) = (("content-length", "3"), ("connection", "content-length, transfer-encoding"));
        let table: [(u16, V, &Lines, &[&str], Reframed); 13] = [
            (200, V::HTTP_11, &hop, &[], Reframed::AsIs),
            (101, V::HTTP_11, &hop, &["connection: Upgrade", "upgrade: websocket"], Reframed::AsIs),
            (200, V::HTTP_11, &[named, length], &["content-length: 3"], Reframed::AsIs),
            (200, V::HTTP_11, &[named, chunked], &["transfer-encoding: Chunked"], Reframed::AsIs),
            (200, V::HTTP_10, &[length], &["content-length: 3"], Reframed::AsIs),
            (200, V::HTTP_10, &[chunked], &[], Reframed::UntilClose),
            (204, V::HTTP_11, &[length], &[], Reframed::AsIs),
            (204, V::HTTP_11, &[chunked], &[], Reframed::AsIs),
            (103, V::HTTP_11, &[length], &[], Reframed::AsIs),
            (103, V::HTTP_11, &[chunked], &[], Reframed::AsIs),
            (304, V::HTTP_11, &[length], &["content-length: 3"], Reframed::AsIs),
            (304, V::HTTP_11, &[chunked], &[], Reframed::AsIs),
            (200, V::HTTP_11, &[length, ("content-length", "3, 3")], &["content-length: 3"], Reframed::AsIs),
        ];
        for (status, client, lines, expected, reframed) in table {
            let mut fields = map(lines);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(clean_response(status, &mut fields, client), Ok(reframed), "{status} {lines:?}");
            assert_eq!(told(&fields), expected, "{status} {lines:?}");
        }
    }

    #[test]
    fn a_response_that_could_be_framed_in_two_ways_is_refused() {
        let table: [&Lines; 5] = [
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("content-length", "3, 4")],
            &[("content-length", "3"), ("content-length", "4")],
        ];
        for lines in table {
            assert!(clean_response(StatusCode::OK, &mut map(lines), Version::HTTP_11).is_err(), "{lines:?}");
        }
    }
}
