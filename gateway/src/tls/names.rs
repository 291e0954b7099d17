//! The hosts that a certificate is for: what its subjectAltName says, in the form in which hosts are compared.
//!
//! As browsers read it (RFC 9525): the common name counts for nothing, and a star stands for the whole leftmost label of a name and
//! for exactly one label. IP addresses are hosts too; no client names one in its handshake.

use std::net::{IpAddr, Ipv4Addr};

use ahash::AHashSet;

use crate::host::{HostPattern, parse_authority};

/// The names of one certificate.
#[derive(Debug, Default)]
pub(crate) struct Names {
    exact: AHashSet<Box<str>>,
    /// Of a wildcard what is right of its star and dot.
    below: AHashSet<Box<str>>,
}

impl Names {
    /// The names of several certificates.
    pub(crate) fn of_all<'n>(all: impl Iterator<Item = &'n Names>) -> Self {
        let mut sum = Names::default();
        for names in all {
            sum.exact.extend(names.exact.iter().cloned());
            sum.below.extend(names.below.iter().cloned());
        }
        sum
    }

    /// Adds a name as a certificate has it. What no client would ask for is left out.
    pub(super) fn add(&mut self, name: &str) {
        let (table, name) = match name.strip_prefix("*.") {
            Some(parent) => (&mut self.below, parent),
            None => (&mut self.exact, name),
        };
        if let Ok(authority) = parse_authority(name.as_bytes())
            && authority.port.is_none()
        {
            table.insert(authority.host.into());
        }
    }

    /// Adds an address.
    pub(super) fn add_address(&mut self, address: IpAddr) {
        let host = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        self.exact.insert(host.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    pub(super) fn exact(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().map(|name| &**name)
    }

    pub(super) fn below(&self) -> impl Iterator<Item = &str> {
        self.below.iter().map(|name| &**name)
    }

    /// Whether a host is among them, which is in canonical form.
    pub(crate) fn cover(&self, host: &str) -> bool {
        let by_wildcard =
            || host.split_once('.').is_some_and(|(_, parent)| self.below.contains(parent)) && !is_address(host);
        self.exact.contains(host) || by_wildcard()
    }

    /// Whether hosts of a tenant are among them: of a pattern those that are one label longer, since no certificate has more.
    pub(crate) fn cover_pattern(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(host) => self.cover(host),
            HostPattern::Below(parent) => self.below.contains(parent),
            HostPattern::Any => true,
        }
    }
}

fn is_address(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Names {
        let mut names = Names::default();
        texts.iter().for_each(|text| names.add(text));
        names
    }

    #[test]
    fn covers_what_a_browser_would_take_it_for_and_nothing_else() {
        let mut names = names(&["Api.A.test", "*.b.test", "*.0.0.1", "*", "f*.c.test", "*.*.d.test", "e.test:443", ""]);
        names.add_address("192.0.2.1".parse().unwrap());
        names.add_address("2001:DB8::1".parse().unwrap());
        for host in ["api.a.test", "x.b.test", "192.0.2.1", "[2001:db8::1]"] {
            assert!(names.cover(host), "{host}");
        }
        for host in [
            "a.test",
            "x.api.a.test",
            "b.test",
            "x.y.b.test",
            "127.0.0.1",
            "x.test",
            "fx.c.test",
            "x.d.test",
            "x.x.d.test",
            "e.test",
            "192.0.2.2",
            "[::1]",
            "",
        ] {
            assert!(!names.cover(host), "{host}");
        }
    }

    #[test]
    fn covers_a_tenants_pattern_as_far_as_a_certificate_can() {
        let names = names(&["a.test", "*.b.test"]);
        let covers = |text: &str| names.cover_pattern(&HostPattern::parse(text).unwrap());
        assert!(covers("a.test") && covers("x.b.test") && covers("*.b.test") && covers("*"));
        assert!(!covers("*.a.test") && !covers("b.test") && !covers("*.x.b.test"));
    }
}
