//! The CORS view of one request, and what kind of request it is.
//!
//! A [`Request`] borrows the few fields that matter and says of each how often it is there: a field that is there twice
//! is not the same as one that is absent. Classifying looks only at what is present; whether the origin is a good one
//! is judged afterwards. Field values come as the HTTP parser gives them, without surrounding whitespace. Paths, other
//! headers and bodies are absent on purpose.

use std::ops::ControlFlow;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::origin::{Origin, parse};
use crate::verdict::Kind;

/// The CORS view of one request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, in the case it was sent.
    pub method: &'a [u8],
    /// `Origin`.
    pub origin: Field<'a>,
    /// `Access-Control-Request-Method`.
    pub requested_method: Field<'a>,
    /// Every line of `Access-Control-Request-Headers`.
    pub requested_headers: &'a dyn FieldLines,
    /// `Sec-Fetch-Site`.
    pub sec_fetch_site: Field<'a>,
    /// The origin of the API itself, as far as it is known.
    pub own: OwnOrigin<'a>,
    /// Whether the request is a WebSocket handshake.
    pub upgrade: Upgrade,
    /// Whether the request carries credentials that a page cannot see.
    pub credentials: Credentials,
}

/// How often a request field is there, and its value if that is once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not at all.
    Absent,
    /// Once.
    One(&'a [u8]),
    /// More than once; what it says then does not matter.
    Many,
}

/// All lines of one request field, in order.
///
/// The lines live as long as the request, since an answer may quote them.
pub trait FieldLines {
    /// Shows each line to `visit` until it breaks; says whether it broke.
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()>;
}

/// The fields of a request's head.
pub trait HeadFields {
    /// Shows each line of the field of that name to `visit`, in order, until it breaks; says whether it broke.
    fn try_each_of(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()>;
}

/// The origin under which the API itself was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnOrigin<'a> {
    /// The host in canonical form: lower case, no trailing dot, no port, IPv6 in brackets.
    pub host: &'a str,
    /// The port as `Host` names it.
    pub port: Option<u16>,
    /// The scheme, where it is known.
    pub scheme: Option<Scheme>,
}

/// The scheme of a web origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// What the request asks to upgrade to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing, or something that is not a WebSocket.
    None,
    /// A WebSocket.
    WebSocket,
}

/// Whether a `Cookie` or an `Authorization` field is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// Neither.
    Absent,
    /// At least one of them.
    Present,
}

impl<'a> Request<'a> {
    /// A request of `method` to `own` with none of the fields: the base for struct update syntax.
    pub fn new(method: &'a [u8], own: OwnOrigin<'a>) -> Self {
        const NO_LINES: &[&[u8]; 0] = &[];
        Self {
            method,
            origin: Field::Absent,
            requested_method: Field::Absent,
            requested_headers: NO_LINES,
            sec_fetch_site: Field::Absent,
            own,
            upgrade: Upgrade::None,
            credentials: Credentials::Absent,
        }
    }

    /// What kind of request this is.
    ///
    /// ```
    /// use crossgate_policy::{Field, Kind, OwnOrigin, Request};
    ///
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let mut request = Request::new(b"OPTIONS", own);
    /// request.origin = Field::One(b"https://app.example.test");
    /// assert_eq!(request.classify(), Kind::Actual);
    /// request.requested_method = Field::One(b"PUT");
    /// assert_eq!(request.classify(), Kind::Preflight);
    /// ```
    pub fn classify(&self) -> Kind {
        // https://fetch.spec.whatwg.org/#cors-preflight-request: by presence alone, so that a malformed one is never
        // forwarded as if it were an ordinary `OPTIONS`.
        if self.method == b"OPTIONS" && self.origin.is_present() && self.requested_method.is_present() {
            return Kind::Preflight;
        }
        // https://fetch.spec.whatwg.org/#cors-request: no `Origin`, no CORS.
        if !self.origin.is_present() {
            return Kind::NonCors;
        }
        // https://fetch.spec.whatwg.org/#append-a-request-origin-header: pages send `Origin` to their own origin too.
        if self.is_same_origin() {
            return Kind::SameOrigin;
        }
        match self.upgrade {
            // https://websockets.spec.whatwg.org/#the-websocket-interface: no preflight, no CORS check by the browser.
            Upgrade::WebSocket => Kind::WebSocket,
            Upgrade::None => Kind::Actual,
        }
    }

    fn is_same_origin(&self) -> bool {
        let Field::One(origin) = self.origin else { return false };
        match self.sec_fetch_site {
            // https://w3c.github.io/webappsec-fetch-metadata/#sec-fetch-site-header. Under a strict referrer policy a
            // browser sends `null` with the page's own form posts.
            Field::One(b"same-origin") => origin == b"null" || self.own.web_origin(origin).is_some(),
            Field::One(b"none") => self.own.web_origin(origin).is_some(),
            Field::One(_) | Field::Many => false,
            Field::Absent => {
                self.own.web_origin(origin).is_some_and(|(scheme, origin)| self.own.equals(scheme, &origin))
            }
        }
    }
}

impl<'a> Field<'a> {
    /// How often a field is there, from its lines.
    pub fn from_lines(mut lines: impl Iterator<Item = &'a [u8]>) -> Self {
        match (lines.next(), lines.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Many,
        }
    }

    /// Whether it is there at all.
    pub const fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

impl<'h> OwnOrigin<'h> {
    /// The parsed origin, if it is an http(s) origin of this host.
    fn web_origin<'a>(&self, value: &'a [u8]) -> Option<(Scheme, Origin<'a>)> {
        let (scheme, rest) = match value.strip_prefix(b"https://") {
            Some(rest) => (Scheme::Https, rest),
            None => (Scheme::Http, value.strip_prefix(b"http://")?),
        };
        // Another host is the common case and needs no parsing to be told apart.
        if !rest.starts_with(self.host.as_bytes()) {
            return None;
        }
        let origin = parse(value).ok()?;
        (origin.host == self.host.as_bytes()).then_some((scheme, origin))
    }

    fn equals(&self, scheme: Scheme, origin: &Origin<'_>) -> bool {
        // A request without a port in `Host` went to the default one, of whichever scheme the page thinks it uses.
        let default = scheme.default_port();
        self.port.unwrap_or(default) == origin.port.unwrap_or(default) && self.scheme.is_none_or(|own| own == scheme)
    }
}

impl Scheme {
    /// The port that is never written.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// The scheme as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
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

    fn kind(origin: &[u8], sec_fetch_site: Field<'_>, own: OwnOrigin<'_>) -> Kind {
        Request { origin: Field::One(origin), sec_fetch_site, ..Request::new(b"POST", own) }.classify()
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
            assert_eq!(kind(origin.as_bytes(), Field::Absent, own), Kind::SameOrigin, "{origin} {own:?}");
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
            assert_eq!(kind(origin.as_bytes(), Field::Absent, own), Kind::Actual, "{origin} {own:?}");
        }
    }

    #[test]
    fn with_fetch_metadata_the_browser_is_believed_about_port_and_scheme() {
        let own = own(Some(8080), Some(Scheme::Http));
        let table: [(&[u8], Field<'_>, Kind); 9] = [
            (b"null", Field::One(b"same-origin"), Kind::SameOrigin),
            (b"https://api.test", Field::One(b"same-origin"), Kind::SameOrigin),
            (b"https://api.test", Field::One(b"none"), Kind::SameOrigin),
            (b"null", Field::One(b"none"), Kind::Actual),
            (b"https://app.test", Field::One(b"same-origin"), Kind::Actual),
            (b"https://app.test", Field::One(b"none"), Kind::Actual),
            (b"http://api.test:8080", Field::One(b"cross-site"), Kind::Actual),
            (b"http://api.test:8080", Field::Many, Kind::Actual),
            (b"http://api.test:8080", Field::One(b"Same-Origin"), Kind::Actual),
        ];
        for (origin, site, expected) in table {
            assert_eq!(kind(origin, site, own), expected, "{} {site:?}", origin.escape_ascii());
        }
    }

    #[test]
    fn a_field_is_counted() {
        let lines: [&[u8]; 2] = [b"a", b""];
        assert_eq!(Field::from_lines(lines.iter().copied().take(0)), Field::Absent);
        assert_eq!(Field::from_lines(lines.iter().copied().take(1)), Field::One(b"a"));
        assert_eq!(Field::from_lines(lines.iter().copied()), Field::Many);
    }
}
