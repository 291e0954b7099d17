//! The CORS view of one request, and its classification.
//!
//! A [`CorsRequest`] borrows the few fields that matter. For each it records whether the field is
//! absent, present once or repeated, since a repeated field is not an absent one. The
//! classification does not require a well-formed origin; the policy checks the origin later. Field
//! values come from the HTTP parser, without surrounding white space. Paths, other headers and
//! bodies are absent on purpose.

use std::ops::ControlFlow;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::origin::{Origin, Scheme, parse};
use crate::verdict::RequestKind;

/// The CORS view of one request.
#[derive(Clone, Copy)]
pub struct CorsRequest<'a> {
    /// The method, in its original case.
    pub method: &'a [u8],
    /// The `Origin` field.
    pub origin: RequestField<'a>,
    /// The `Access-Control-Request-Method` field.
    pub requested_method: RequestField<'a>,
    /// The lines of `Access-Control-Request-Headers`.
    pub requested_headers: &'a dyn FieldLines,
    /// The `Sec-Fetch-Site` field.
    pub sec_fetch_site: RequestField<'a>,
    /// The `Sec-Fetch-Mode` field.
    pub sec_fetch_mode: RequestField<'a>,
    /// The `Sec-Fetch-Dest` field.
    pub sec_fetch_dest: RequestField<'a>,
    /// The origin of the API itself, as far as it is known.
    pub own: OwnOrigin<'a>,
    /// Whether the request is a WebSocket handshake.
    pub upgrade: RequestedUpgrade,
    /// The strongest credentials of the request.
    pub credentials: CredentialFields,
}

/// A request field: absent, present once, or repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestField<'a> {
    /// The field is absent.
    Absent,
    /// The field is present once, with this value.
    One(&'a [u8]),
    /// The field is present more than once. The values do not matter.
    Many,
}

/// All lines of one request field, in order.
///
/// The lines live as long as the request, since a response may contain them.
pub trait FieldLines {
    /// Calls `visit` with each line until it breaks. Returns whether it broke.
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()>;
}

/// The fields of a request head.
pub trait HeadFields {
    /// Calls `visit` with each line of the field `name`, in order, until it breaks. Returns whether
    /// it broke.
    fn try_each_of(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()>;
}

/// The origin under which the API itself was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnOrigin<'a> {
    /// The host in canonical form: lower case, no trailing dot, no port, IPv6 in brackets.
    pub host: &'a str,
    /// The port in `Host`, if there is one.
    pub port: Option<u16>,
    /// The scheme, if it is known.
    pub scheme: Option<Scheme>,
}

/// The protocol to which the request asks to upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedUpgrade {
    /// No upgrade, or a protocol other than WebSocket.
    None,
    /// A WebSocket.
    WebSocket,
}

/// The credentials in the `Cookie` and `Authorization` fields of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialFields {
    /// Neither field is present.
    Absent,
    /// `Authorization` with a scheme that a browser never sends by itself, such as `Bearer`.
    Explicit,
    /// Credentials that a browser adds to the requests of any page: `Cookie`, or `Authorization`
    /// with a scheme for which it asks the user.
    Ambient,
}

/// The schemes whose credentials a browser stores and sends again.
const AMBIENT_SCHEMES: [&[u8]; 4] = [b"basic", b"digest", b"ntlm", b"negotiate"];

impl CredentialFields {
    /// Classifies the value of an `Authorization` field (RFC 9110, section 11.6.2).
    pub fn of_authorization(value: &[u8]) -> Self {
        let scheme = value.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
        let is_ambient = AMBIENT_SCHEMES.iter().any(|ambient| scheme.eq_ignore_ascii_case(ambient));
        if is_ambient { Self::Ambient } else { Self::Explicit }
    }
}

impl<'a> CorsRequest<'a> {
    /// Creates a request of `method` to `own` without any of the fields, as a base for struct
    /// update syntax.
    pub fn new(method: &'a [u8], own: OwnOrigin<'a>) -> Self {
        const NO_LINES: &[&[u8]; 0] = &[];
        Self {
            method,
            origin: RequestField::Absent,
            requested_method: RequestField::Absent,
            requested_headers: NO_LINES,
            sec_fetch_site: RequestField::Absent,
            sec_fetch_mode: RequestField::Absent,
            sec_fetch_dest: RequestField::Absent,
            own,
            upgrade: RequestedUpgrade::None,
            credentials: CredentialFields::Absent,
        }
    }

    /// Determines the kind of the request from the fields that are present.
    ///
    /// ```
    /// use crossgate_policy::{CorsRequest, OwnOrigin, RequestField, RequestKind};
    ///
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let mut request = CorsRequest::new(b"OPTIONS", own);
    /// request.origin = RequestField::One(b"https://app.example.test");
    /// assert_eq!(request.classify(), RequestKind::Actual);
    /// request.requested_method = RequestField::One(b"PUT");
    /// assert_eq!(request.classify(), RequestKind::Preflight);
    /// ```
    pub fn classify(&self) -> RequestKind {
        // https://fetch.spec.whatwg.org/#cors-preflight-request. Presence alone decides, so that a
        // malformed preflight is never forwarded as an ordinary `OPTIONS`.
        if self.method == b"OPTIONS" && self.origin.is_present() && self.requested_method.is_present() {
            return RequestKind::Preflight;
        }
        // https://fetch.spec.whatwg.org/#cors-request: a CORS request has an `Origin` field.
        if !self.origin.is_present() {
            return RequestKind::NonCors;
        }
        // https://fetch.spec.whatwg.org/#append-a-request-origin-header: pages also send `Origin`
        // to their own origin, with methods other than `GET` and `HEAD`.
        if self.is_same_origin() {
            return RequestKind::SameOrigin;
        }
        match self.upgrade {
            // https://websockets.spec.whatwg.org/#the-websocket-interface: the browser sends no
            // preflight and makes no CORS check.
            RequestedUpgrade::WebSocket => RequestKind::WebSocket,
            RequestedUpgrade::None => RequestKind::Actual,
        }
    }

    fn is_same_origin(&self) -> bool {
        let RequestField::One(origin) = self.origin else { return false };
        match self.sec_fetch_site {
            // https://w3c.github.io/webappsec-fetch-metadata/#sec-fetch-site-header. Under a strict
            // referrer policy a browser sends `null` with a page's form posts to its own origin.
            RequestField::One(b"same-origin") => origin == b"null" || self.own.web_origin(origin).is_some(),
            RequestField::One(b"none") => self.own.web_origin(origin).is_some(),
            RequestField::One(_) | RequestField::Many => false,
            RequestField::Absent => {
                self.own.web_origin(origin).is_some_and(|(scheme, origin)| self.own.equals(scheme, &origin))
            }
        }
    }
}

impl<'a> RequestField<'a> {
    /// Classifies a field by its lines.
    pub fn from_lines(mut lines: impl Iterator<Item = &'a [u8]>) -> Self {
        match (lines.next(), lines.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Many,
        }
    }

    /// The field with one more line. Two lines are kept apart from one, whatever they say: two
    /// values of `Origin` or `Host` must not be reduced to one.
    #[must_use]
    pub const fn with_line(self, line: &'a [u8]) -> Self {
        match self {
            Self::Absent => Self::One(line),
            Self::One(_) | Self::Many => Self::Many,
        }
    }

    /// Whether the field is present, once or repeated.
    pub const fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

impl<'h> OwnOrigin<'h> {
    /// Parses an `http` or `https` origin of this host.
    fn web_origin<'a>(&self, value: &'a [u8]) -> Option<(Scheme, Origin<'a>)> {
        let (scheme, rest) = match value.strip_prefix(b"https://") {
            Some(rest) => (Scheme::Https, rest),
            None => (Scheme::Http, value.strip_prefix(b"http://")?),
        };
        // Another host is the common case, and a prefix comparison detects it without parsing.
        if !rest.starts_with(self.host.as_bytes()) {
            return None;
        }
        let origin = parse(value).ok()?;
        (origin.host == self.host.as_bytes()).then_some((scheme, origin))
    }

    fn equals(&self, scheme: Scheme, origin: &Origin<'_>) -> bool {
        // Without a port in `Host` the request went to the default port of the page's scheme
        // (RFC 9110, section 7.2).
        let default = scheme.default_port();
        self.port.unwrap_or(default) == origin.port.unwrap_or(default) && self.scheme.is_none_or(|own| own == scheme)
    }
}

impl FieldLines for &[&[u8]] {
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.iter().try_for_each(|line| visit(line))
    }
}

impl<const N: usize> FieldLines for [&[u8]; N] {
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.iter().try_for_each(|line| visit(line))
    }
}

impl FieldLines for Vec<&[u8]> {
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.iter().try_for_each(|line| visit(line))
    }
}

impl HeadFields for HeaderMap {
    fn try_each_of(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.get_all(name).iter().map(HeaderValue::as_bytes).try_for_each(visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(origin: &[u8], sec_fetch_site: RequestField<'_>, own: OwnOrigin<'_>) -> RequestKind {
        CorsRequest { origin: RequestField::One(origin), sec_fetch_site, ..CorsRequest::new(b"POST", own) }.classify()
    }

    fn own(port: Option<u16>, scheme: Option<Scheme>) -> OwnOrigin<'static> {
        OwnOrigin { host: "api.test", port, scheme }
    }

    #[test]
    fn without_fetch_metadata_scheme_host_and_port_are_compared() {
        let same = [
            ("https://api.test", own(None, None)),
            ("http://api.test", own(None, None)),
            ("https://api.test", own(Some(443), None)),
            ("http://api.test", own(Some(80), Some(Scheme::Http))),
            ("https://api.test:8443", own(Some(8443), Some(Scheme::Https))),
        ];
        for (origin, own) in same {
            assert_eq!(kind(origin.as_bytes(), RequestField::Absent, own), RequestKind::SameOrigin, "{origin} {own:?}");
        }
        let other = [
            ("https://api.test", own(Some(80), None)),
            ("https://api.test", own(Some(8443), None)),
            ("https://api.test:8443", own(None, None)),
            ("http://api.test", own(None, Some(Scheme::Https))),
            ("https://api.test.evil", own(None, None)),
            ("https://api.tes", own(None, None)),
            ("https://api.test:443", own(Some(443), None)),
            ("https://api.test/", own(None, None)),
            ("ws://api.test", own(None, None)),
            ("null", own(None, None)),
        ];
        for (origin, own) in other {
            assert_eq!(kind(origin.as_bytes(), RequestField::Absent, own), RequestKind::Actual, "{origin} {own:?}");
        }
    }

    #[test]
    fn fetch_metadata_overrides_port_and_scheme() {
        let own = own(Some(8080), Some(Scheme::Http));
        let table: [(&[u8], RequestField<'_>, RequestKind); 9] = [
            (b"null", RequestField::One(b"same-origin"), RequestKind::SameOrigin),
            (b"https://api.test", RequestField::One(b"same-origin"), RequestKind::SameOrigin),
            (b"https://api.test", RequestField::One(b"none"), RequestKind::SameOrigin),
            (b"null", RequestField::One(b"none"), RequestKind::Actual),
            (b"https://app.test", RequestField::One(b"same-origin"), RequestKind::Actual),
            (b"https://app.test", RequestField::One(b"none"), RequestKind::Actual),
            (b"http://api.test:8080", RequestField::One(b"cross-site"), RequestKind::Actual),
            (b"http://api.test:8080", RequestField::Many, RequestKind::Actual),
            (b"http://api.test:8080", RequestField::One(b"Same-Origin"), RequestKind::Actual),
        ];
        for (origin, site, expected) in table {
            assert_eq!(kind(origin, site, own), expected, "{} {site:?}", origin.escape_ascii());
        }
    }

    #[test]
    fn field_lines_decide_between_absent_one_and_many() {
        let lines: [&[u8]; 2] = [b"a", b""];
        assert_eq!(RequestField::from_lines(lines.iter().copied().take(0)), RequestField::Absent);
        assert_eq!(RequestField::from_lines(lines.iter().copied().take(1)), RequestField::One(b"a"));
        assert_eq!(RequestField::from_lines(lines.iter().copied()), RequestField::Many);
    }
}
