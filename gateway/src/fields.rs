//! The fields of a request's head, wherever they are held: in Pingora's map, or still in the lane's buffer.
//!
//! Judging asks for a dozen names. A map costs an allocation a field to build, so a request that is answered in the lane never
//! gets one: its few lines are looked through instead. Values come without surrounding whitespace either way.

use std::ops::ControlFlow;

use crossgate_policy::{Field, FieldLines, HeadFields};
use http::header::ValueIter;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A request's fields.
#[derive(Clone, Copy, Debug)]
pub enum Fields<'a> {
    /// Parsed by Pingora.
    Map(&'a HeaderMap),
    /// As the lane's parser found them, in order; at most [`FIELDS_MAX`](crate::lane::head::FIELDS_MAX).
    Lines(&'a [httparse::Header<'a>]),
}

impl<'a> From<&'a HeaderMap> for Fields<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        Fields::Map(map)
    }
}

impl<'a> Fields<'a> {
    /// Every line of a field, in order.
    pub fn lines(self, name: &HeaderName) -> Lines<'a, '_> {
        match self {
            Fields::Map(map) => Lines::Map(map.get_all(name).into_iter()),
            Fields::Lines(lines) => Lines::Lines { rest: lines.iter(), name: name.as_str() },
        }
    }

    /// The first line of a field.
    pub fn first(self, name: &HeaderName) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// Whether a field is there.
    pub fn has(self, name: &HeaderName) -> bool {
        self.first(name).is_some()
    }

    /// The elements of a field that is a list, over all its lines, without surrounding whitespace. Empty ones are there too.
    pub fn elements(self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }
}

/// The fields that every request is asked about, found in one look at all of them.
#[derive(Clone, Copy, Debug)]
pub struct Noted<'a> {
    /// `Host`
    pub host: Field<'a>,
    /// `Origin`
    pub origin: Field<'a>,
    /// `Access-Control-Request-Method`
    pub requested_method: Field<'a>,
    /// `Sec-Fetch-Site`
    pub sec_fetch_site: Field<'a>,
    /// `X-Forwarded-Proto`
    pub forwarded_proto: Field<'a>,
    /// `X-Request-Id`
    pub request_id: Field<'a>,
    /// `Traceparent`
    pub traceparent: Field<'a>,
    /// `Connection`
    pub connection: Field<'a>,
    /// `Upgrade`
    pub upgrade: Field<'a>,
    /// `Content-Length`
    pub content_length: Field<'a>,
    /// `Transfer-Encoding`
    pub transfer_encoding: Field<'a>,
    /// Whether there is an `Expect` field.
    pub has_expect: bool,
    /// Whether there is a `Cookie` or an `Authorization` field.
    pub has_credentials: bool,
}

impl<'a> Noted<'a> {
    /// Of these fields.
    pub fn of(fields: Fields<'a>) -> Self {
        let mut noted = Noted {
            host: Field::Absent,
            origin: Field::Absent,
            requested_method: Field::Absent,
            sec_fetch_site: Field::Absent,
            forwarded_proto: Field::Absent,
            request_id: Field::Absent,
            traceparent: Field::Absent,
            connection: Field::Absent,
            upgrade: Field::Absent,
            content_length: Field::Absent,
            transfer_encoding: Field::Absent,
            has_expect: false,
            has_credentials: false,
        };
        match fields {
            Fields::Map(map) => map.iter().for_each(|(name, value)| noted.note(name.as_str(), value.as_bytes())),
            Fields::Lines(lines) => lines.iter().for_each(|line| noted.note(line.name, line.value)),
        }
        noted
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
        *field = match field {
            Field::Absent => Field::One(line),
            Field::One(_) | Field::Many => Field::Many,
        };
    }
}

/// The lines of one field.
#[derive(Debug)]
pub enum Lines<'a, 'n> {
    /// Of a map.
    Map(ValueIter<'a, HeaderValue>),
    /// Among all lines of a head.
    Lines {
        /// Those still to be looked at.
        rest: std::slice::Iter<'a, httparse::Header<'a>>,
        /// What they must be called.
        name: &'n str,
    },
}

impl<'a> Iterator for Lines<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Lines::Map(values) => values.next().map(HeaderValue::as_bytes),
            Lines::Lines { rest, name } => {
                rest.find(|line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
            }
        }
    }
}

impl HeadFields for Fields<'_> {
    fn try_each_of(&self, name: &HeaderName, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.lines(name).try_for_each(visit)
    }
}

/// One field of a request.
#[derive(Debug)]
pub struct Named<'a> {
    /// Of these.
    pub fields: Fields<'a>,
    /// Which.
    pub name: HeaderName,
}

impl FieldLines for Named<'_> {
    fn try_each<'s>(&'s self, visit: &mut dyn FnMut(&'s [u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.fields.lines(&self.name).try_for_each(visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTED: [&str; 14] = [
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

    /// What is noted, under its name; the presence of one field looks like that of its kind.
    fn all<'a>(noted: &Noted<'a>) -> Vec<(&'static str, Field<'a>)> {
        let presence = |is_there| if is_there { Field::One(b"there") } else { Field::Absent };
        let fields = [
            noted.host,
            noted.origin,
            noted.requested_method,
            noted.sec_fetch_site,
            noted.forwarded_proto,
            noted.request_id,
            noted.traceparent,
            noted.connection,
            noted.upgrade,
            noted.content_length,
            noted.transfer_encoding,
            presence(noted.has_expect),
            presence(noted.has_credentials),
            presence(noted.has_credentials),
        ];
        NOTED.into_iter().zip(fields).filter(|(_, field)| field.is_present()).collect()
    }

    /// Shows these lines to `check`, in a map and as they are in a head.
    fn in_both(lines: &[(&str, &str)], check: impl Fn(Fields<'_>)) {
        let of_head: Vec<_> =
            lines.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        check(Fields::Lines(&of_head));
        let of_map = lines.iter().map(|(name, value)| (name.parse().unwrap(), value.trim().parse().unwrap()));
        check(Fields::from(&of_map.collect::<HeaderMap>()));
    }

    fn check(lines: &[(&str, &str)], expected: &[(&'static str, Field<'_>)]) {
        in_both(lines, |fields| assert_eq!(all(&Noted::of(fields)), expected, "{lines:?}"));
    }

    #[test]
    fn each_field_is_noted_and_no_other_of_its_length() {
        let there = |name| (name, Field::One(b"there"));
        for name in NOTED {
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
        check(&twice, &[("Host", Field::One(b"b")), ("Origin", Field::Many)]);
    }

    #[test]
    fn lines_and_elements_are_found_in_order() {
        let via = http::header::VIA;
        in_both(&[("Via", "a, b"), ("Vias", "x"), ("via", ""), ("VIA", "c \t,d")], |fields| {
            assert_eq!(fields.lines(&via).collect::<Vec<_>>(), [&b"a, b"[..], b"", b"c \t,d"]);
            assert_eq!(fields.elements(&via).collect::<Vec<_>>(), [&b"a"[..], b"b", b"", b"c", b"d"]);
            assert_eq!((fields.first(&via), fields.has(&via)), (Some(&b"a, b"[..]), true));
            assert_eq!((fields.first(&http::header::TE), fields.has(&http::header::TE)), (None, false));
            let mut seen = Vec::new();
            let outcome = Named { fields, name: via.clone() }.try_each(&mut |line| {
                seen.push(line.to_vec());
                if line.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!((outcome, seen), (ControlFlow::Break(()), vec![b"a, b".to_vec(), Vec::new()]));
        });
    }
}
