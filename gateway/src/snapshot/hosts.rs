//! The host table: which tenant a host belongs to, and whether a host is still free.
//!
//! Names are kept in hash tables with a seed of this process, so nobody outside can make them collide. A wildcard costs one probe
//! for each label that some wildcard is long enough for, longest first, whatever the number of tenants.

use std::collections::hash_map::Entry;

use ahash::AHashMap;

use crate::host::HostPattern;

/// What a host stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// The tenant at this index.
    Tenant(u32),
    /// A tenant that could not be compiled.
    Broken,
}

/// Hosts to tenants.
#[derive(Debug, Default)]
pub(super) struct HostTable {
    exact: AHashMap<Box<str>, Slot>,
    below: AHashMap<Box<str>, Slot>,
    /// The most labels that the name of any wildcard has.
    below_labels_max: usize,
    any: Option<Slot>,
}

impl HostTable {
    /// With room for as many hosts.
    pub(super) fn with_capacity(hosts: usize) -> Self {
        HostTable { exact: AHashMap::with_capacity(hosts), ..HostTable::default() }
    }

    /// What a canonical host stands for.
    pub(super) fn find(&self, host: &str) -> Option<Slot> {
        let exact = self.exact.get(host).copied();
        exact.or_else(|| self.find_below(host)).or(self.any)
    }

    fn find_below(&self, host: &str) -> Option<Slot> {
        let mut labels = host.matches('.').count();
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if labels <= self.below_labels_max
                && let Some(slot) = self.below.get(parent)
            {
                return Some(*slot);
            }
            labels -= 1;
            rest = parent;
        }
        None
    }

    /// What exactly this entry stands for so far.
    pub(super) fn get(&self, pattern: &HostPattern) -> Option<Slot> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name).copied(),
            HostPattern::Below(name) => self.below.get(name).copied(),
            HostPattern::Any => self.any,
        }
    }

    /// Gives an entry to somebody, if it is nobody's yet.
    pub(super) fn claim(&mut self, pattern: &HostPattern, slot: Slot) {
        let entry = match pattern {
            HostPattern::Exact(name) => self.exact.entry(name.clone()),
            HostPattern::Below(name) => {
                self.below_labels_max = self.below_labels_max.max(name.matches('.').count() + 1);
                self.below.entry(name.clone())
            }
            HostPattern::Any => {
                self.any.get_or_insert(slot);
                return;
            }
        };
        if let Entry::Vacant(free) = entry {
            free.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hosts: &[&str]) -> HostTable {
        let mut table = HostTable::default();
        for (index, host) in (0..).zip(hosts) {
            table.claim(&HostPattern::parse(host).unwrap(), Slot::Tenant(index));
        }
        table
    }

    #[test]
    fn exact_beats_the_longest_wildcard_beats_any() {
        let hosts = ["a.x.example", "*.x.example", "*.example", "*", "*.y.x.example", "[::1]"];
        let table = table(&hosts);
        for (host, expected) in [
            ("a.x.example", "a.x.example"),
            ("b.x.example", "*.x.example"),
            ("c.b.x.example", "*.x.example"),
            ("a.a.x.example", "*.x.example"),
            ("b.y.x.example", "*.y.x.example"),
            ("y.x.example", "*.x.example"),
            ("x.example", "*.example"),
            ("bx.example", "*.example"),
            ("example", "*"),
            ("x.example.evil.test", "*"),
            ("[::1]", "[::1]"),
            ("127.0.0.1", "*"),
        ] {
            let index = hosts.iter().position(|entry| *entry == expected).unwrap();
            assert_eq!(table.find(host), Some(Slot::Tenant(u32::try_from(index).unwrap())), "{host}");
        }
    }

    #[test]
    fn knows_nothing_else() {
        let table = table(&["a.example", "*.b.example"]);
        for host in ["b.example", "x.a.example", "example", "xb.example", "a.example.", ""] {
            assert_eq!(table.find(host), None, "{host}");
        }
        assert_eq!(table.find(&("x.".repeat(120) + "b.example")), Some(Slot::Tenant(1)));
    }

    #[test]
    fn the_first_claim_stays() {
        let mut table = table(&["a.example", "*.a.example", "*"]);
        for host in ["a.example", "*.a.example", "*"] {
            let pattern = HostPattern::parse(host).unwrap();
            let before = table.get(&pattern);
            table.claim(&pattern, Slot::Broken);
            assert!(before.is_some() && table.get(&pattern) == before, "{host}");
        }
    }
}
