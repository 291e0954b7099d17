//! Conditions of a route on header fields and on the query.
//!
//! A condition is about one line: a repeated field or parameter fulfils none, since servers differ
//! in which of them they read.

use std::fmt;

use http::HeaderName;

use crate::fields::HeaderFields;

/// The conditions of a route, all of which a request has to fulfil.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteConditions {
    headers: Vec<(HeaderName, Expected)>,
    query: Vec<(Box<str>, Expected)>,
}

/// What a condition expects of a field or a parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// Any value.
    Present,
    /// This value.
    Value(Box<str>),
}

/// A condition that a request does not fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfulfilled<'a> {
    Header(&'a HeaderName),
    Query(&'a str),
}

impl fmt::Display for Unfulfilled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfulfilled::Header(name) => write!(f, "the header {name}"),
            Unfulfilled::Query(name) => write!(f, "the query parameter {}", name.escape_default()),
        }
    }
}

impl Expected {
    fn is_fulfilled(&self, value: &[u8]) -> bool {
        match self {
            Expected::Present => true,
            Expected::Value(expected) => expected.as_bytes() == value,
        }
    }
}

impl RouteConditions {
    /// Conditions in one order, whatever the order of the file.
    pub fn new(mut headers: Vec<(HeaderName, Expected)>, mut query: Vec<(Box<str>, Expected)>) -> Self {
        headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        query.sort();
        RouteConditions { headers, query }
    }

    /// The number of conditions on headers, and of those on the query.
    pub fn counts(&self) -> (usize, usize) {
        (self.headers.len(), self.query.len())
    }

    /// The names of the headers.
    pub fn header_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.headers.iter().map(|(name, _)| name)
    }

    /// Whether no request fulfils these and the others: they expect different values of one name.
    pub fn excludes(&self, other: &RouteConditions) -> bool {
        let differ = |one: &Expected, other: &Expected| matches!((one, other), (Expected::Value(a), Expected::Value(b)) if a != b);
        let headers = self
            .headers
            .iter()
            .any(|(name, one)| other.headers.iter().any(|(known, other)| known == name && differ(one, other)));
        let in_query = |(name, one): &(Box<str>, Expected)| {
            other.query.iter().any(|(known, other)| known == name && differ(one, other))
        };
        headers || self.query.iter().any(in_query)
    }

    /// The first condition that a request does not fulfil. A preflight carries none of the headers
    /// of its request, so it has no `fields`, and fulfils every condition on them.
    pub fn unfulfilled(&self, fields: Option<HeaderFields<'_>>, query: &str) -> Option<Unfulfilled<'_>> {
        let lacks_header = |(name, expected): &&(HeaderName, Expected)| {
            fields.is_some_and(|fields| {
                let mut lines = fields.lines(name);
                let (first, second) = (lines.next(), lines.next());
                second.is_some() || !first.is_some_and(|value| expected.is_fulfilled(value))
            })
        };
        let lacks_parameter = |(name, expected): &&(Box<str>, Expected)| {
            let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(found, _)| *found == **name);
            let (first, second) = (values.next(), values.next());
            second.is_some() || !first.is_some_and(|(_, value)| expected.is_fulfilled(value.as_bytes()))
        };
        let header = self.headers.iter().find(lacks_header).map(|(name, _)| Unfulfilled::Header(name));
        header.or_else(|| self.query.iter().find(lacks_parameter).map(|(name, _)| Unfulfilled::Query(name)))
    }
}

/// Why no route may depend on a header; `None` for the others.
pub fn why_unmatchable(name: &HeaderName) -> Option<&'static str> {
    let name = name.as_str();
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match name {
        "origin" => Some("the policy decides about origins"),
        "host" => Some("tenants have hosts"),
        "cookie" | "authorization" | "proxy-authorization" => Some("no route may depend on secrets"),
        "forwarded" | "x-real-ip" => Some("clients can forge it"),
        "connection" | "content-length" | "expect" | "keep-alive" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => Some("it is about one connection"),
        _ if begins(&["sec-", "access-control-"]) => Some("the policy decides by it"),
        _ if begins(&["x-forwarded-"]) => Some("clients can forge it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn value(text: &str) -> Expected {
        Expected::Value(text.into())
    }

    fn unfulfilled(conditions: &RouteConditions, lines: &[(&'static str, &'static str)], query: &str) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        conditions.unfulfilled(Some((&map).into()), query).map(|found| found.to_string()).unwrap_or_default()
    }

    #[test]
    fn one_line_with_the_value_fulfils_a_condition() {
        let name = HeaderName::from_static;
        let headers = vec![(name("x-canary"), value("1")), (name("x-any"), Expected::Present)];
        let conditions = RouteConditions::new(headers, Vec::new());
        assert_eq!(unfulfilled(&conditions, &[("x-canary", "1"), ("x-any", "")], ""), "");
        for lines in [
            &[("x-any", "")][..],
            &[("x-canary", "2"), ("x-any", "")],
            &[("x-canary", "1 "), ("x-any", "")],
            &[("x-canary", "1"), ("x-canary", "1"), ("x-any", "")],
        ] {
            assert_eq!(unfulfilled(&conditions, lines, ""), "the header x-canary", "{lines:?}");
        }
        assert_eq!(unfulfilled(&conditions, &[("x-canary", "1")], ""), "the header x-any");
        // A preflight has none of them.
        assert_eq!(conditions.unfulfilled(None, ""), None);
    }

    #[test]
    fn one_parameter_with_the_value_fulfils_a_condition() {
        let conditions =
            RouteConditions::new(Vec::new(), vec![("beta".into(), value("a b")), ("x".into(), Expected::Present)]);
        for query in ["beta=a+b&x", "x=&beta=a%20b", "y=1&%62eta=a b&x=2"] {
            assert_eq!(unfulfilled(&conditions, &[], query), "", "{query}");
        }
        for query in ["", "x", "beta=ab&x", "beta=a+b&beta=a+b&x", "Beta=a+b&x", "beta=a%2Bb&x"] {
            assert_eq!(unfulfilled(&conditions, &[], query), "the query parameter beta", "{query}");
        }
        assert_eq!(conditions.unfulfilled(None, "beta=a+b&x=1&x=2"), Some(Unfulfilled::Query("x")));
    }

    #[test]
    fn headers_of_the_decision_and_of_the_connection_are_not_matchable() {
        for name in
            ["origin", "host", "cookie", "sec-fetch-site", "access-control-request-method", "x-forwarded-for", "te"]
        {
            assert!(why_unmatchable(&HeaderName::from_static(name)).is_some(), "{name}");
        }
        for name in ["x-canary", "accept", "user-agent", "content-type", "x-api-version"] {
            assert_eq!(why_unmatchable(&HeaderName::from_static(name)), None, "{name}");
        }
    }
}
