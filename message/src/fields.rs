//! The header fields of a request, in Pingora's map or still in the lane's buffer.
//!
//! Policies read about a dozen names. Building a map costs an allocation for each field, so the
//! lane does not build one for a request that it answers itself. It searches the few parsed lines
//! instead. Both forms give values without surrounding whitespace.

use std::ops::ControlFlow;

pub use crossgate_policy::RequestField;
use crossgate_policy::{FieldLines, HeadFields};
use http::header::ValueIter;
use http::{HeaderMap, HeaderName, HeaderValue};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The header fields of one request.
#[derive(Clone, Copy, Debug)]
pub enum HeaderFields<'a> {
    /// Parsed by Pingora.
    Map(&'a HeaderMap),
    /// Parsed by the lane, in order of arrival; at most `FIELDS_MAX`.
    Lines(&'a [httparse::Header<'a>]),
}

impl<'a> From<&'a HeaderMap> for HeaderFields<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        HeaderFields::Map(map)
    }
}

impl<'a> HeaderFields<'a> {
    /// All lines of a field, in order.
    pub fn lines(self, name: &HeaderName) -> FieldLineIter<'a, '_> {
        match self {
            HeaderFields::Map(map) => FieldLineIter::Map(map.get_all(name).into_iter()),
            HeaderFields::Lines(lines) => FieldLineIter::Lines { rest: lines.iter(), name: name.as_str() },
        }
    }

    pub fn first(self, name: &HeaderName) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// Whether the request has this field.
    pub fn has(self, name: &HeaderName) -> bool {
        self.first(name).is_some()
    }

    /// The elements of a list field over all its lines, without surrounding whitespace. Empty
    /// elements are included.
    pub fn elements(self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }
}

/// The fields that are read for every request, collected in one pass over all lines.
#[derive(Clone, Copy, Debug)]
pub struct KnownHeaders<'a> {
    pub host: RequestField<'a>,
    pub origin: RequestField<'a>,
    pub requested_method: RequestField<'a>,
    pub sec_fetch_site: RequestField<'a>,
    pub forwarded_proto: RequestField<'a>,
    pub request_id: RequestField<'a>,
    pub traceparent: RequestField<'a>,
    pub connection: RequestField<'a>,
    pub upgrade: RequestField<'a>,
    pub content_length: RequestField<'a>,
    pub transfer_encoding: RequestField<'a>,
    /// Whether the request has an `Expect` field.
    pub has_expect: bool,
    /// Whether the request has a `Cookie` or an `Authorization` field.
    pub has_credentials: bool,
}

impl<'a> KnownHeaders<'a> {
    /// Collects the known fields.
    pub fn of(fields: HeaderFields<'a>) -> Self {
        let mut known = KnownHeaders {
            host: RequestField::Absent,
            origin: RequestField::Absent,
            requested_method: RequestField::Absent,
            sec_fetch_site: RequestField::Absent,
            forwarded_proto: RequestField::Absent,
            request_id: RequestField::Absent,
            traceparent: RequestField::Absent,
            connection: RequestField::Absent,
            upgrade: RequestField::Absent,
            content_length: RequestField::Absent,
            transfer_encoding: RequestField::Absent,
            has_expect: false,
            has_credentials: false,
        };
        match fields {
            HeaderFields::Map(map) => map.iter().for_each(|(name, value)| known.note(name.as_str(), value.as_bytes())),
            HeaderFields::Lines(lines) => lines.iter().for_each(|line| known.note(line.name, line.value)),
        }
        known
    }

    /// Whether an OPTIONS request with these fields is a preflight as browsers send it: without a
    /// body, an expectation or an upgrade.
    pub fn is_plain_preflight(&self) -> bool {
        let is_absent = |field: RequestField<'_>| field == RequestField::Absent;
        let asks = !is_absent(self.origin) && !is_absent(self.requested_method);
        asks && is_absent(self.content_length) && is_absent(self.upgrade) && !self.has_expect
    }

    fn note(&mut self, name: &str, line: &'a [u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let field = match name.len() {
            4 if is("host") => &mut self.host,
            6 if is("origin") => &mut self.origin,
            7 if is("upgrade") => &mut self.upgrade,
            10 if is("connection") => &mut self.connection,
            11 if is("traceparent") => &mut self.traceparent,
            12 if is("x-request-id") => &mut self.request_id,
            14 if is("sec-fetch-site") => &mut self.sec_fetch_site,
            14 if is("content-length") => &mut self.content_length,
            17 if is("transfer-encoding") => &mut self.transfer_encoding,
            17 if is("x-forwarded-proto") => &mut self.forwarded_proto,
            29 if is("access-control-request-method") => &mut self.requested_method,
            6 if is("cookie") => return self.has_credentials = true,
            6 if is("expect") => return self.has_expect = true,
            13 if is("authorization") => return self.has_credentials = true,
            _ => return,
        };
        // A repeated field is kept as `Many`: two values of `Origin` or `Host` must not be reduced
        // to one.
        *field = match field {
            RequestField::Absent => RequestField::One(line),
            RequestField::One(_) | RequestField::Many => RequestField::Many,
        };
    }
}

/// The lines of one field.
#[derive(Debug)]
pub enum FieldLineIter<'a, 'n> {
    /// From a map.
    Map(ValueIter<'a, HeaderValue>),
    /// From all lines of a head.
    Lines {
        /// Lines not searched yet.
        rest: std::slice::Iter<'a, httparse::Header<'a>>,
        /// The field name, compared without case.
        name: &'n str,
    },
}

impl<'a> Iterator for FieldLineIter<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            FieldLineIter::Map(values) => values.next().map(HeaderValue::as_bytes),
            FieldLineIter::Lines { rest, name } => {
                rest.find(|line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
            }
        }
    }
}

impl HeadFields for HeaderFields<'_> {
    fn try_each_of(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.lines(name).try_for_each(visit)
    }
}

/// One field of a request, as a policy reads it.
#[derive(Debug)]
pub struct NamedField<'a> {
    pub fields: HeaderFields<'a>,
    pub name: HeaderName,
}

impl FieldLines for NamedField<'_> {
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.fields.lines(&self.name).try_for_each(visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 14] = [
        "Host",
        "Origin",
        "Access-Control-Request-Method",
        "Sec-Fetch-Site",
        "X-Forwarded-Proto",
        "X-Request-Id",
        "Traceparent",
        "Connection",
        "Upgrade",
        "Content-Length",
        "Transfer-Encoding",
        "Expect",
        "Cookie",
        "Authorization",
    ];

    /// The known fields that are present, by name. For a presence flag, the value is `there`.
    fn all<'a>(known: &KnownHeaders<'a>) -> Vec<(&'static str, RequestField<'a>)> {
        let presence = |is_there| if is_there { RequestField::One(b"there") } else { RequestField::Absent };
        let fields = [
            known.host,
            known.origin,
            known.requested_method,
            known.sec_fetch_site,
            known.forwarded_proto,
            known.request_id,
            known.traceparent,
            known.connection,
            known.upgrade,
            known.content_length,
            known.transfer_encoding,
            presence(known.has_expect),
            presence(known.has_credentials),
            presence(known.has_credentials),
        ];
        KNOWN.into_iter().zip(fields).filter(|(_, field)| field.is_present()).collect()
    }

    /// Runs `check` with these lines as a map and as lines of a head.
    fn in_both(lines: &[(&str, &str)], check: impl Fn(HeaderFields<'_>)) {
        let of_head: Vec<_> =
            lines.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        check(HeaderFields::Lines(&of_head));
        let of_map = lines.iter().map(|(name, value)| (name.parse().unwrap(), value.trim().parse().unwrap()));
        check(HeaderFields::from(&of_map.collect::<HeaderMap>()));
    }

    fn check(lines: &[(&str, &str)], expected: &[(&'static str, RequestField<'_>)]) {
        in_both(lines, |fields| assert_eq!(all(&KnownHeaders::of(fields)), expected, "{lines:?}"));
    }

    #[test]
    fn known_headers_match_whole_names_in_any_case() {
        let there = |name| (name, RequestField::One(b"there"));
        for name in KNOWN {
            let expected = match name {
                "Cookie" | "Authorization" => ["Cookie", "Authorization"].map(there).to_vec(),
                name => vec![there(name)],
            };
            check(&[(name, "there")], &expected);
            check(&[(&name.to_ascii_uppercase(), "there")], &expected);
            check(&[(&format!("q{}", name.split_at(1).1), "there")], &[]);
            check(&[(&format!("{name}s"), "there")], &[]);
        }
        let twice = [("Origin", "a"), ("Host", "b"), ("origin", "a")];
        check(&twice, &[("Host", RequestField::One(b"b")), ("Origin", RequestField::Many)]);
    }

    #[test]
    fn field_lines_and_elements_come_in_order() {
        let via = http::header::VIA;
        in_both(&[("Via", "a, b"), ("Vias", "x"), ("via", ""), ("VIA", "c \t,d")], |fields| {
            assert_eq!(fields.lines(&via).collect::<Vec<_>>(), [&b"a, b"[..], b"", b"c \t,d"]);
            assert_eq!(fields.elements(&via).collect::<Vec<_>>(), [&b"a"[..], b"b", b"", b"c", b"d"]);
            assert_eq!((fields.first(&via), fields.has(&via)), (Some(&b"a, b"[..]), true));
            assert_eq!((fields.first(&http::header::TE), fields.has(&http::header::TE)), (None, false));
            let mut seen = Vec::new();
            let outcome = NamedField { fields, name: via.clone() }.try_each(&mut |line| {
                seen.push(line.to_vec());
                if line.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!((outcome, seen), (ControlFlow::Break(()), vec![b"a, b".to_vec(), Vec::new()]));
        });
    }
}
