//! The hosts of a certificate: its subjectAltName in the canonical form of hosts.
//!
//! The rules are those of browsers (RFC 9525): the common name is ignored, and a star stands for
//! exactly one label, the whole leftmost one. IP addresses are hosts too, although clients never
//! name one in SNI. The handshake and the check for uncovered tenants use these names.

use std::net::{IpAddr, Ipv4Addr};

use ahash::AHashSet;

use crossgate_message::host::{HostPattern, parse_authority};

#[derive(Debug, Default)]
pub struct CertificateNames {
    exact: AHashSet<Box<str>>,
    /// The parent domains of wildcards: names without star and dot.
    below: AHashSet<Box<str>>,
}

impl CertificateNames {
    /// Merges the names of several certificates.
    pub fn of_all<'n>(all: impl Iterator<Item = &'n CertificateNames>) -> Self {
        let mut sum = CertificateNames::default();
        for names in all {
            sum.exact.extend(names.exact.iter().cloned());
            sum.below.extend(names.below.iter().cloned());
        }
        sum
    }

    /// Adds a name from a certificate. Names that no client can ask for are skipped.
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

    /// Whether a host in canonical form is covered.
    pub fn cover(&self, host: &str) -> bool {
        let by_wildcard =
            || host.split_once('.').is_some_and(|(_, parent)| self.below.contains(parent)) && !is_address(host);
        self.exact.contains(host) || by_wildcard()
    }

    /// Whether a tenant's pattern is covered. For a wildcard pattern, hosts with one more label
    /// suffice, since no certificate covers more.
    pub fn cover_pattern(&self, pattern: &HostPattern) -> bool {
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

    fn names(texts: &[&str]) -> CertificateNames {
        let mut names = CertificateNames::default();
        texts.iter().for_each(|text| names.add(text));
        names
    }

    #[test]
    fn certificate_names_cover_hosts_as_browsers_match_them() {
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
    fn certificate_wildcards_cover_tenant_patterns_of_one_label() {
        let names = names(&["a.test", "*.b.test"]);
        let covers = |text: &str| names.cover_pattern(&HostPattern::parse(text).unwrap());
        assert!(covers("a.test") && covers("x.b.test") && covers("*.b.test") && covers("*"));
        assert!(!covers("*.a.test") && !covers("b.test") && !covers("*.x.b.test"));
    }
}
