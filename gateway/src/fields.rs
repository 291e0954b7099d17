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

    /// How often a field is there, and its value.
    pub fn field(self, name: &HeaderName) -> Field<'a> {
        Field::from_lines(self.lines(name))
    }

    /// The elements of a field that is a list, over all its lines, without surrounding whitespace. Empty ones are there too.
    pub fn elements(self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
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
