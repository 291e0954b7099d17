//! Responses of a route without an upstream: redirects and fixed responses.

use std::fmt::Write as _;

use bytes::Bytes;
use crossgate_policy::Scheme;
use http::{HeaderValue, StatusCode};

use crate::host::Authority;
use crate::path_change::{self, PathChange};
use crate::target::RequestTarget;

/// A redirect to another URL. What is `None` stays as in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    pub scheme: Option<Scheme>,
    /// In canonical form.
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<PathChange>,
}

impl Redirect {
    /// The value of `Location` for a request, with the query of the request. `None` if the changed
    /// path is ambiguous.
    ///
    /// The value has no more parts than differ: a path for the same host, and no scheme where the
    /// client's is unknown and kept (RFC 3986, section 4.2).
    pub fn location(
        &self,
        target: &RequestTarget<'_>,
        own: &Authority<'_>,
        scheme: Option<Scheme>,
    ) -> Option<HeaderValue> {
        let path = match &self.path {
            _ if target.path() == "*" => return None,
            Some(change) => change.apply(target)?,
            None => target.upstream().to_owned(),
        };
        let mut location = String::new();
        if self.leads_elsewhere() {
            if let Some(scheme) = self.scheme.or(scheme) {
                let _ = write!(location, "{}:", scheme.as_str());
            }
            let _ = write!(location, "//{}", self.host.as_deref().unwrap_or(&own.host));
            if let Some(port) = self.port {
                let _ = write!(location, ":{port}");
            }
        } else if path_change::is_ambiguous(&path) {
            return None;
        }
        location.push_str(&path);
        HeaderValue::from_str(&location).ok()
    }

    /// Whether more than the path changes.
    pub fn leads_elsewhere(&self) -> bool {
        self.scheme.is_some() || self.host.is_some() || self.port.is_some()
    }
}

/// A response that is the same for every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedResponse {
    pub status: StatusCode,
    /// `None` without a body.
    pub content_type: Option<HeaderValue>,
    pub body: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::parse_authority;

    fn location(redirect: &Redirect, target: &str, scheme: Option<Scheme>) -> Option<String> {
        let target = RequestTarget::parse(target.as_bytes(), b"GET").unwrap();
        let own = parse_authority(b"api.example:8080").unwrap();
        redirect.location(&target, &own, scheme).map(|value| value.to_str().unwrap().to_owned())
    }

    fn plain() -> Redirect {
        Redirect { status: StatusCode::PERMANENT_REDIRECT, scheme: None, host: None, port: None, path: None }
    }

    fn to(path: PathChange) -> Redirect {
        Redirect { path: Some(path), ..plain() }
    }

    #[test]
    fn location_has_only_the_parts_that_change() {
        let new = to(PathChange::Prefix { from: "/old".into(), to: "/new".into() });
        let at = |redirect: Redirect| location(&redirect, "/old/a?b=c", None).unwrap();
        assert_eq!(at(new.clone()), "/new/a?b=c");
        assert_eq!(at(to(PathChange::Whole("/".into()))), "/?b=c");
        let www = || Some("www.example".into());
        assert_eq!(at(Redirect { host: www(), ..plain() }), "//www.example/old/a?b=c");
        assert_eq!(at(Redirect { host: www(), port: Some(81), ..new.clone() }), "//www.example:81/new/a?b=c");
        assert_eq!(at(Redirect { scheme: Some(Scheme::Https), ..new }), "https://api.example/new/a?b=c");
        assert_eq!(at(Redirect { port: Some(8443), ..plain() }), "//api.example:8443/old/a?b=c");
        let known = Redirect { host: www(), ..plain() };
        assert_eq!(location(&known, "/", Some(Scheme::Http)).as_deref(), Some("http://www.example/"));
    }

    #[test]
    fn ambiguous_paths_have_no_location() {
        let strip = to(PathChange::Prefix { from: "/old".into(), to: "/".into() });
        for target in ["/old/%2fevil.example", "/old/\\evil.example", "/old/%5cevil.example"] {
            assert_eq!(location(&strip, target, None), None, "{target}");
        }
        assert_eq!(location(&strip, "/old//evil.example", None).as_deref(), Some("/evil.example"));
        // Without a change of the path it follows the host, so it cannot be taken for one.
        let other_port = Redirect { port: Some(81), ..plain() };
        assert_eq!(location(&other_port, "//a", None).as_deref(), Some("//api.example:81//a"));
    }
}
