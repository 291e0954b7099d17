//! The `Location` of an upstream as the client has to see it: with the client's host instead of the
//! server's, and with the part of the path that a route took away.
//!
//! A value that leads to another host, or that is no plain reference, stays as it is. Absent on
//! purpose: `Link`, `Refresh`, paths of cookies and links in bodies.

use std::net::SocketAddr;

use crossgate_policy::Scheme;

use crate::host::{Authority, parse_authority};
use crate::path_change::{self, PathChange};

/// The two views of one request.
#[derive(Debug, Clone, Copy)]
pub struct LocationMap<'a> {
    /// The change of the path on the way to the upstream.
    pub change: Option<&'a PathChange>,
    /// The `Host` that the upstream received.
    pub sent_host: &'a [u8],
    /// The server's address.
    pub server: Option<SocketAddr>,
    /// The scheme of the connection to the server.
    pub sent_scheme: Scheme,
    /// The `Host` of the client's request.
    pub client_host: &'a [u8],
    /// The client's scheme, where it is known.
    pub client_scheme: Option<Scheme>,
}

/// The parts of an absolute reference, or of one that begins with a slash.
struct Reference<'v> {
    scheme: Option<Scheme>,
    authority: Option<Authority<'v>>,
    path: &'v str,
    /// Query and fragment.
    rest: &'v str,
}

impl LocationMap<'_> {
    /// The value for the client. `None` if the received one stays.
    pub fn map(&self, value: &[u8]) -> Option<String> {
        let reference = Reference::parse(value)?;
        let names_server = reference.authority.as_ref().map(|named| self.is_server(named, reference.scheme));
        if names_server == Some(false) || has_dots(reference.path) {
            return None;
        }
        let restored = self.change.and_then(|change| change.undo(reference.path));
        if restored.is_none() && names_server.is_none() {
            return None;
        }
        let path = restored.as_deref().unwrap_or(reference.path);
        if path_change::is_ambiguous(path) {
            return None;
        }
        let mut mapped = self.origin(&reference)?;
        mapped.push_str(path);
        mapped.push_str(reference.rest);
        Some(mapped)
    }

    /// The part before the path: empty, unless the upstream leads to the other scheme, as in a
    /// redirect from http to https.
    fn origin(&self, reference: &Reference<'_>) -> Option<String> {
        match reference.scheme {
            Some(scheme) if scheme != self.sent_scheme && Some(scheme) != self.client_scheme => {
                let client = parse_authority(self.client_host).ok()?;
                Some(format!("{}://{}", scheme.as_str(), client.host))
            }
            Some(_) | None => Some(String::new()),
        }
    }

    /// Whether an authority is the server, by the name that it was asked under or by its address.
    fn is_server(&self, named: &Authority<'_>, scheme: Option<Scheme>) -> bool {
        let with_port =
            |authority: &Authority<'_>, scheme: Scheme| authority.port.unwrap_or_else(|| scheme.default_port());
        let scheme = scheme.unwrap_or(self.sent_scheme);
        let is_sent_name = parse_authority(self.sent_host).is_ok_and(|sent| {
            // Behind the gateway the application knows neither the client's port nor its scheme.
            let is_port = named.port.is_none() || with_port(named, scheme) == with_port(&sent, self.sent_scheme);
            sent.host == named.host && is_port
        });
        let is_address = || {
            self.server.is_some_and(|server| {
                let address = server.to_string();
                let address = parse_authority(address.as_bytes());
                address
                    .is_ok_and(|address| address.host == named.host && address.port == Some(with_port(named, scheme)))
            })
        };
        is_sent_name || is_address()
    }
}

impl<'v> Reference<'v> {
    fn parse(value: &'v [u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        // Browsers read a backslash as a slash, and leave control characters out.
        if !text.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'\\') {
            return None;
        }
        let (scheme, after) = split_scheme(text);
        let (authority, reference) = match after.strip_prefix("//") {
            Some(rest) => {
                let (authority, reference) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                (Some(parse_authority(authority.as_bytes()).ok()?), reference)
            }
            None if scheme.is_some() => return None,
            None => (None, after),
        };
        let (path, rest) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
        match path {
            "" if authority.is_some() => Some(Reference { scheme, authority, path: "/", rest }),
            _ if path.starts_with('/') => Some(Reference { scheme, authority, path, rest }),
            _ => None,
        }
    }
}

fn split_scheme(text: &str) -> (Option<Scheme>, &str) {
    let after = |prefix: &str| {
        let (start, rest) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(rest)
    };
    match (after("http:"), after("https:")) {
        (Some(rest), _) => (Some(Scheme::Http), rest),
        (None, Some(rest)) => (Some(Scheme::Https), rest),
        (None, None) => (None, text),
    }
}

/// Whether a path has dot segments, which a prefix before them would change the meaning of.
fn has_dots(path: &str) -> bool {
    path.split('/').any(|segment| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;
    use crate::redirect::Redirect;
    use crate::target::RequestTarget;

    fn strip() -> PathChange {
        PathChange::Prefix { from: "/orders".into(), to: "/".into() }
    }

    fn map<'a>(change: &'a PathChange, sent_host: &'a str) -> LocationMap<'a> {
        LocationMap {
            change: Some(change),
            sent_host: sent_host.as_bytes(),
            server: Some("10.0.0.1:9001".parse().unwrap()),
            sent_scheme: Scheme::Http,
            client_host: b"api.example",
            client_scheme: Some(Scheme::Https),
        }
    }

    #[test]
    fn references_to_the_server_become_the_clients() {
        let change = strip();
        for (location, mapped) in [
            ("/7", Some("/orders/7")),
            ("/7?a=/b#c", Some("/orders/7?a=/b#c")),
            ("/", Some("/orders/")),
            ("http://api.example/7", Some("/orders/7")),
            ("HTTPS://API.example/7", Some("/orders/7")),
            ("//api.example/7", Some("/orders/7")),
            ("http://api.example", Some("/orders/")),
            ("http://api.example?q", Some("/orders/?q")),
            ("http://api.example:80/7", Some("/orders/7")),
            ("http://10.0.0.1:9001/7", Some("/orders/7")),
            // Other hosts, other ports of the host, and what is no plain reference.
            ("http://login.example/7", None),
            ("http://api.example:81/7", None),
            ("http://10.0.0.1/7", None),
            ("http://user@api.example/7", None),
            ("http:/7", None),
            ("7", None),
            ("../7", None),
            ("", None),
            ("?q", None),
            ("/\\evil.example", None),
            ("/a b", None),
            ("/../7", None),
            ("/%2E%2e/7", None),
            ("javascript:alert(1)", None),
        ] {
            assert_eq!(map(&change, "api.example").map(location.as_bytes()).as_deref(), mapped, "{location}");
        }
    }

    #[test]
    fn hosts_of_the_upstream_are_hidden_and_upgrades_stay() {
        let change = PathChange::Prefix { from: "/orders".into(), to: "/v1".into() };
        let internal = map(&change, "orders.internal");
        assert_eq!(internal.map(b"http://orders.internal/v1/7").as_deref(), Some("/orders/7"));
        // A path that the prefix does not lead to keeps its form, but not the host.
        assert_eq!(internal.map(b"http://orders.internal/login").as_deref(), Some("/login"));
        assert_eq!(internal.map(b"/login"), None);
        let over_http = LocationMap { client_scheme: Some(Scheme::Http), ..internal };
        assert_eq!(over_http.map(b"https://orders.internal/v1/7").as_deref(), Some("https://api.example/orders/7"));
    }

    #[test]
    fn mapped_paths_never_name_another_host() {
        let change = PathChange::Prefix { from: "/".into(), to: "/v1".into() };
        let map = map(&change, "api.example");
        assert_eq!(map.map(b"/v1//evil.example").as_deref(), Some("/evil.example"));
        assert_eq!(map.map(b"/v1/%2fevil.example"), None);
        assert_eq!(map.map(b"http://api.example//evil.example"), None);
    }

    proptest! {
        /// By the URL standard, as a browser reads what the gateway sends.
        #[test]
        fn no_target_and_no_location_made_here_names_another_host(
            from in "/|(/[ab]{1,2}){1,2}",
            to in "/|(/[ab]{1,2}){1,2}",
            target in r"/([ab/\\?;.@:]|%2[fF]|%5[cC]|//|%0[ad]|\.\./){0,16}",
            upstream_host in "(http:|https:|HTTP:)?(//(api\\.example|evil\\.example|api\\.example:80)?)?",
            elsewhere in any::<bool>(),
        ) {
            let base = Url::parse("https://api.example/orders/1").unwrap();
            let change = PathChange::Prefix { from: from.into(), to: to.into() };
            if let Ok(parsed) = RequestTarget::parse(target.as_bytes(), b"GET") {
                if let Some(changed) = change.apply(&parsed) {
                    let read = base.join(&changed).unwrap();
                    prop_assert_eq!(read.host_str(), Some("api.example"), "{}", changed);
                }
                let host: Option<Box<str>> = elsewhere.then(|| "www.example".into());
                let expected = if elsewhere { "www.example" } else { "api.example" };
                let status = http::StatusCode::FOUND;
                let redirect = Redirect { status, scheme: None, host, port: None, path: Some(change.clone()) };
                let own = parse_authority(b"api.example").unwrap();
                if let Some(location) = redirect.location(&parsed, &own, None) {
                    let read = base.join(location.to_str().unwrap()).unwrap();
                    prop_assert_eq!(read.host_str(), Some(expected), "{:?}", location);
                }
            }
            let received = format!("{upstream_host}{target}");
            if let Some(mapped) = map(&change, "api.example").map(received.as_bytes()) {
                let read = base.join(&mapped).unwrap();
                prop_assert_eq!(read.host_str(), Some("api.example"), "{} {}", received, mapped);
                prop_assert_eq!(read.port(), None);
            }
        }
    }
}
