//! Hop-by-hop parts of messages: the `Connection` field and the fields it names, upgrades, and
//! framing.
//!
//! Every proxy removes the fields that `Connection` names. A client that names `Origin` there could
//! make the upstream see another request than the one that was judged. So requests that name fields
//! of a judgement, of an identity or of the framing are refused. Requests are stripped right before
//! they go upstream, responses right after their head arrives.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use pingora_http::RequestHeader;

use crate::content_length;
use crate::fields::{HeaderFields, is_named};
use crate::head_flaw::{HEAD_FIELDS_MAX, HEAD_LEN_MAX, HeadFlaw};
use crate::rewrite;

/// The most options in a `Connection` field; clients send one or two.
const TOKENS_MAX: usize = 8;

/// Fields that `Connection` must not name, in addition to those with a prefix in [`KEPT_PREFIXES`].
const KEPT: [&str; 12] = [
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cdn-loop",
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

/// Whether the `Connection` field is a valid list that names no field which must reach the gateway
/// or the upstream.
pub fn is_connection_harmless(headers: HeaderFields<'_>) -> bool {
    let mut tokens = headers.elements(&header::CONNECTION);
    let is_harmless_list = tokens.by_ref().take(TOKENS_MAX).all(|token| token.is_empty() || is_harmless(token));
    is_harmless_list && tokens.next().is_none()
}

fn is_harmless(token: &[u8]) -> bool {
    token.iter().all(|byte| is_tchar(*byte)) && !is_kept(token)
}

/// Whether a name is a kept field for any server. CGI and similar servers read `_`, and some `.`,
/// as `-`.
fn is_kept(name: &[u8]) -> bool {
    KEPT.iter().any(|kept| is_same_for_servers(name, kept.as_bytes()))
        || KEPT_PREFIXES
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|start| is_same_for_servers(start, prefix.as_bytes())))
}

/// Whether some servers read two names as the same.
pub(crate) fn is_same_for_servers(name: &[u8], other: &[u8]) -> bool {
    let is_separator = |byte: &u8| matches!(byte, b'_' | b'.' | b'-');
    let same = |one: &u8, other: &u8| one.eq_ignore_ascii_case(other) || is_separator(one) && is_separator(other);
    name.len() == other.len() && name.iter().zip(other).all(|(one, other)| same(one, other))
}

/// Whether a byte may be part of a token, RFC 9110, section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the `Upgrade` field lists `websocket`, RFC 6455, section 4.2.1.
pub fn requests_websocket(headers: HeaderFields<'_>) -> bool {
    headers.elements(&header::UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Whether the `Connection` field lists `upgrade`, as RFC 9110, section 7.8, requires of a sender
/// of `Upgrade`.
fn connection_upgrades(headers: HeaderFields<'_>) -> bool {
    has_option(headers, b"upgrade")
}

/// Whether the sender keeps the connection after this message: RFC 9112, section 9.3.
pub fn keeps_connection(version: Version, fields: HeaderFields<'_>) -> bool {
    !has_option(fields, b"close") && (version != Version::HTTP_10 || has_option(fields, b"keep-alive"))
}

/// Whether the `Connection` field lists an option.
fn has_option(fields: HeaderFields<'_>, option: &[u8]) -> bool {
    fields.elements(&header::CONNECTION).any(|element| element.eq_ignore_ascii_case(option))
}

/// Whether a 101 response opens the requested WebSocket.
pub fn upgrades_to_websocket(request: &RequestHeader, response: &HeaderMap) -> bool {
    is_upgrade(request) && requests_websocket(response.into())
}

/// Whether the request is a WebSocket handshake.
pub fn is_upgrade(request: &RequestHeader) -> bool {
    let fields = HeaderFields::from(&request.headers);
    request.version == Version::HTTP_11 && requests_websocket(fields) && connection_upgrades(fields)
}

/// Whether the client accepts trailers. gRPC servers require `TE: trailers`.
fn accepts_trailers(request: &RequestHeader) -> bool {
    let fields = HeaderFields::from(&request.headers);
    fields.elements(&header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Whether a field of a request ends at this hop, whatever `Connection` lists: RFC 9110, section
/// 7.6.1. The name may be in any case.
pub(crate) fn ends_request_hop(name: &[u8]) -> bool {
    let is = |other: &str| is_named(name, other);
    match name.len() {
        2 => is("te"),
        7 => is("trailer") || is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        14 => is("http2-settings"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

/// Whether `Connection` lists a name.
pub(crate) fn is_listed(fields: HeaderFields<'_>, name: &[u8]) -> bool {
    has_option(fields, name)
}

/// Whether a server that reads `_` as `-` would confuse a name with that of a kept field.
pub(crate) fn is_confusable(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'_' | b'.')) && is_kept(name)
}

/// Completes a WebSocket handshake to an upstream. Only `websocket` is forwarded, whatever other
/// protocols the client lists.
pub fn write_upgrade(sent: &mut HeaderMap) {
    sent.insert(header::CONNECTION, UPGRADE);
    sent.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Strips a request to an HTTP/2 upstream of fields that RFC 9113, section 8.2.2, forbids. `Expect`
/// is removed as well: the gateway itself sends `100 Continue`.
///
/// `TE` is restored for a client of HTTP/2 that accepts trailers; clients of HTTP/1.1 get no
/// trailers.
pub fn strip_http2_request(received: &RequestHeader, sent: &mut HeaderMap) {
    rewrite::remove(sent, |name| {
        let name = name.as_str();
        name == "expect" || name == "te" || CONNECTION_FIELDS.contains(&name)
    });
    if received.version == Version::HTTP_2 && accepts_trailers(received) {
        sent.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Connection-specific fields of HTTP/1.1.
const CONNECTION_FIELDS: [&str; 6] =
    ["connection", "http2-settings", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Checks the limits of a response head over HTTP/2. The library leaves them open; over HTTP/1.1,
/// the parser enforces them.
///
/// # Errors
/// Returns the limit that the head breaks.
pub fn check_http2_response(fields: &HeaderMap) -> Result<(), HeadFlaw> {
    let len: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    match () {
        () if len > HEAD_LEN_MAX => Err(HeadFlaw::TooLong),
        () if fields.len() > HEAD_FIELDS_MAX => Err(HeadFlaw::Fields(fields.len())),
        () => Ok(()),
    }
}

/// How the body of a response is delimited for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFraming {
    /// By the fields of the response.
    AsIs,
    /// By the end of the connection.
    UntilClose,
}

/// The `Connection` value that makes an `Upgrade` field effective.
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");

/// Strips an upstream's response head of hop-by-hop parts and checks its framing: RFC 9110, section
/// 7.6.1, and RFC 9112, sections 2.3 and 6. The caller sets the version.
///
/// # Errors
/// Returns the flaw of a head whose framing is ambiguous.
pub fn strip_response(status: StatusCode, fields: &mut HeaderMap, client: Version) -> Result<ClientFraming, HeadFlaw> {
    strip_hop(status, fields);
    check_length(fields)?;
    // Response smuggling: recipients that read a coding differently find different ends of the
    // body.
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        (Some(_), None) => return Err(HeadFlaw::TransferCoding),
        (Some(_), Some(_)) => return Err(HeadFlaw::DuplicateTransferEncoding),
    };
    // RFC 9112, section 6.1: no `Transfer-Encoding` in 1xx and 204; a 304 has no body either.
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        fields.remove(header::TRANSFER_ENCODING);
    }
    // RFC 9110, section 8.6: no `Content-Length` in 1xx and 204.
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        fields.remove(header::CONTENT_LENGTH);
    }
    // RFC 9112, section 6.1: a client of HTTP/1.0 gets no transfer coding.
    if is_chunked && client == Version::HTTP_10 {
        fields.remove(header::TRANSFER_ENCODING);
        return Ok(ClientFraming::UntilClose);
    }
    Ok(ClientFraming::AsIs)
}

/// The seconds that the server keeps an idle connection, by its `Keep-Alive: timeout=5`.
pub fn keep_alive_seconds(fields: HeaderFields<'_>) -> Option<u64> {
    let name = HeaderName::from_static("keep-alive");
    let timeouts = fields.elements(&name).filter_map(|element| {
        let (name, value) = std::str::from_utf8(element).ok()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        // `max` is the number of requests that the connection may still carry.
        let is_spent = name.trim().eq_ignore_ascii_case("max") && value == "0";
        if is_spent { Some(0) } else { value.parse().ok().filter(|_| name.trim().eq_ignore_ascii_case("timeout")) }
    });
    timeouts.min()
}

/// The fields of a response that end at this hop.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHop<'a> {
    /// The fields, if there is a `Connection` among them.
    listing: Option<HeaderFields<'a>>,
    upgrades: bool,
}

impl<'a> ResponseHop<'a> {
    /// Of a response with these fields, `has_connection` if `Connection` is among them.
    pub fn new(status: StatusCode, fields: HeaderFields<'a>, has_connection: bool) -> Self {
        let listing = has_connection.then_some(fields);
        ResponseHop { listing, upgrades: status == StatusCode::SWITCHING_PROTOCOLS }
    }

    /// Whether a field ends here, `Trailer` included. The name may be in any case.
    pub fn drops(&self, name: &[u8]) -> bool {
        let is = |other: &str| is_named(name, other);
        match name.len() {
            2 if is("te") => true,
            7 if is("trailer") => true,
            7 if is("upgrade") => !self.upgrades,
            10 if is("connection") || is("keep-alive") => true,
            16 if is("proxy-connection") => true,
            18 if is("proxy-authenticate") => true,
            // An upstream that names its framing in `Connection` must not lose it here.
            14 if is("content-length") => false,
            17 if is("transfer-encoding") => false,
            _ => self.listing.is_some_and(|fields| is_listed(fields, name)),
        }
    }
}

/// Removes the hop-by-hop fields of a response.
fn strip_hop(status: StatusCode, fields: &mut HeaderMap) {
    let hop = ResponseHop::new(status, HeaderFields::from(&*fields), fields.contains_key(header::CONNECTION));
    let names = rewrite::matching(fields, |name| hop.drops(name.as_str().as_bytes()));
    rewrite::remove_all(fields, names);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        fields.insert(header::CONNECTION, UPGRADE);
    }
}

/// Removes fields of framing and of the connection from a response's trailers, RFC 9110, section
/// 6.5.1.
pub fn strip_trailers(trailers: &mut HeaderMap) {
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

/// Reduces a repeated `Content-Length` to one value, RFC 9110, section 8.6. Two lengths that differ
/// are an error.
fn check_length(fields: &mut HeaderMap) -> Result<(), HeadFlaw> {
    let name = header::CONTENT_LENGTH;
    let mut values = HeaderFields::from(&*fields).elements(&name);
    let Some(first) = values.next() else { return Ok(()) };
    let mut is_repeated = false;
    for value in values {
        is_repeated = true;
        if value != first {
            return Err(HeadFlaw::ConflictingLengths);
        }
    }
    // The limit of request lengths holds here too: many clients keep lengths in signed numbers.
    let is_long = |value: &[u8]| value.len() > 18 && content_length::parse(value).is_none();
    if is_long(first) {
        return Err(HeadFlaw::InvalidLength);
    }
    if is_repeated {
        let value = HeaderValue::from_bytes(first).map_err(|_| HeadFlaw::InvalidLength)?;
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

    fn request_with(version: Version, lines: &Lines) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.set_version(version);
        for (name, value) in lines {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn field_lines(fields: &HeaderMap) -> Vec<String> {
        let mut all: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        all
    }

    fn check(value: &'static str, expected: bool) {
        assert_eq!(is_connection_harmless((&map(&[("connection", value)])).into()), expected, "{value}");
    }

    #[test]
    fn http2_requests_carry_no_connection_fields() {
        let mut sent = HeaderMap::new();
        for name in CONNECTION_FIELDS.iter().chain(&["expect", "te", "x-app"]) {
            sent.insert(HeaderName::from_static(name), HeaderValue::from_static("trailers"));
        }
        let mut received = RequestHeader::build("POST", b"/", None).unwrap();
        strip_http2_request(&received, &mut sent);
        assert!(!sent.contains_key(header::TE));
        received.insert_header(header::TE, "gzip, Trailers").unwrap();
        strip_http2_request(&received, &mut sent);
        assert!(!sent.contains_key(header::TE));
        received.set_version(Version::HTTP_2);
        strip_http2_request(&received, &mut sent);
        assert_eq!(sent[header::TE], "trailers");
        received.insert_header(header::TE, "gzip").unwrap();
        strip_http2_request(&received, &mut sent);
        assert!(!sent.contains_key(header::TE));
        received.insert_header(header::TE, "trailers").unwrap();
        strip_http2_request(&received, &mut sent);
        let mut left: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-app"]);
        assert_eq!(sent[header::TE], "trailers");
    }

    #[test]
    fn f6_a_length_beyond_signed_numbers_is_refused() {
        let clean = |length: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from_str(length).unwrap());
            strip_response(StatusCode::OK, &mut fields, Version::HTTP_11).is_ok()
        };
        assert!(clean("0") && clean("9223372036854775807"));
        assert!(!clean("9223372036854775808") && !clean("18446744073709551615") && !clean("99999999999999999999"));
    }

    #[test]
    fn shortest_keep_alive_timeout_wins() {
        for (lines, wanted) in [
            (&[][..], None),
            (&["timeout=5"], Some(5)),
            (&["Timeout=\"5\", max=100"], Some(5)),
            (&["max=100"], None),
            (&["max=0"], Some(0)),
            (&["timeout=5, timeout=3"], Some(3)),
            (&["timeout=9", "timeout=4"], Some(4)),
            (&["timeout", "timeout=soon", "x=1"], None),
        ] {
            let value = |line: &&str| (HeaderName::from_static("keep-alive"), HeaderValue::from_str(line).unwrap());
            assert_eq!(
                keep_alive_seconds((&lines.iter().map(value).collect::<HeaderMap>()).into()),
                wanted,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn http2_response_head_over_the_limits_is_refused() {
        let fields = |count: usize, value_len: usize| {
            let value = HeaderValue::from_str(&"v".repeat(value_len)).unwrap();
            let names = (0..count).map(|nth| HeaderName::try_from(format!("x{nth:03}")).unwrap());
            names.map(|name| (name, value.clone())).collect::<HeaderMap>()
        };
        let check = |count, value_len| check_http2_response(&fields(count, value_len));
        assert_eq!(check(1, 1), Ok(()));
        assert_eq!(check(HEAD_FIELDS_MAX, 1), Ok(()));
        assert_eq!(check(HEAD_FIELDS_MAX + 1, 1), Err(HeadFlaw::Fields(HEAD_FIELDS_MAX + 1)));
        assert_eq!(check(4, HEAD_LEN_MAX / 4 - 4), Ok(()));
        assert_eq!(check(4, HEAD_LEN_MAX / 4 - 3), Err(HeadFlaw::TooLong));
    }

    #[test]
    fn framing_and_connection_fields_are_removed_from_trailers() {
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
        strip_trailers(&mut trailers);
        assert_eq!(field_lines(&trailers), ["grpc-status: 0"]);
    }

    #[test]
    fn ordinary_connection_options_are_accepted() {
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
    fn connection_options_that_name_protected_fields_are_refused() {
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
            "CDN-Loop",
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
    fn websocket_needs_upgrade_in_request_and_response() {
        let wants: &Lines = &[("connection", "upgrade"), ("upgrade", "websocket")];
        for (request, response, expected) in [
            (wants, wants, true),
            (wants, &[("upgrade", "h2c")][..], false),
            (wants, &[], false),
            (&[("upgrade", "websocket")], wants, false),
            (&[], wants, false),
        ] {
            let becomes = upgrades_to_websocket(&request_with(Version::HTTP_11, request), &map(response));
            assert_eq!(becomes, expected, "{request:?} {response:?}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_removed_from_responses() {
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
        let table: [(u16, V, &Lines, &[&str], ClientFraming); 13] = [
            (200, V::HTTP_11, &hop, &[], ClientFraming::AsIs),
            (101, V::HTTP_11, &hop, &["connection: Upgrade", "upgrade: websocket"], ClientFraming::AsIs),
            (200, V::HTTP_11, &[named, length], &["content-length: 3"], ClientFraming::AsIs),
            (200, V::HTTP_11, &[named, chunked], &["transfer-encoding: Chunked"], ClientFraming::AsIs),
            (200, V::HTTP_10, &[length], &["content-length: 3"], ClientFraming::AsIs),
            (200, V::HTTP_10, &[chunked], &[], ClientFraming::UntilClose),
            (204, V::HTTP_11, &[length], &[], ClientFraming::AsIs),
            (204, V::HTTP_11, &[chunked], &[], ClientFraming::AsIs),
            (103, V::HTTP_11, &[length], &[], ClientFraming::AsIs),
            (103, V::HTTP_11, &[chunked], &[], ClientFraming::AsIs),
            (304, V::HTTP_11, &[length], &["content-length: 3"], ClientFraming::AsIs),
            (304, V::HTTP_11, &[chunked], &[], ClientFraming::AsIs),
            (200, V::HTTP_11, &[length, ("content-length", "3, 3")], &["content-length: 3"], ClientFraming::AsIs),
        ];
        for (status, client, lines, expected, framing) in table {
            let mut fields = map(lines);
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(strip_response(status, &mut fields, client), Ok(framing), "{status} {lines:?}");
            assert_eq!(field_lines(&fields), expected, "{status} {lines:?}");
        }
    }

    #[test]
    fn responses_with_ambiguous_framing_are_refused() {
        let table: [(&Lines, HeadFlaw); 5] = [
            (&[("transfer-encoding", "gzip")], HeadFlaw::TransferCoding),
            (&[("transfer-encoding", "gzip, chunked")], HeadFlaw::TransferCoding),
            (
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                HeadFlaw::DuplicateTransferEncoding,
            ),
            (&[("content-length", "3, 4")], HeadFlaw::ConflictingLengths),
            (&[("content-length", "3"), ("content-length", "4")], HeadFlaw::ConflictingLengths),
        ];
        for (lines, flaw) in table {
            let found = strip_response(StatusCode::OK, &mut map(lines), Version::HTTP_11);
            assert_eq!(found, Err(flaw), "{lines:?}");
        }
    }
}
