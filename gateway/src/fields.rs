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
