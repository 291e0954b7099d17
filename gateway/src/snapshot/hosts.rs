//! The host table: the tenant of each host.
//!
//! Names are in hash tables with a random seed for each process, so clients cannot make them
//! collide (hash flooding). A wildcard lookup costs one probe for each label, longest name first,
//! and none for names longer than every wildcard. The number of tenants does not matter.

use std::collections::hash_map::Entry;

use ahash::AHashMap;

use crossgate_message::host::HostPattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostEntry {
    /// The tenant at this index.
    Tenant(u32),
    /// A tenant that could not be compiled.
    Broken,
}

#[derive(Debug, Default)]
pub(super) struct HostTable {
    exact: AHashMap<Box<str>, HostEntry>,
    below: AHashMap<Box<str>, HostEntry>,
    /// The maximum number of labels in the name of a wildcard.
    below_labels_max: usize,
    any: Option<HostEntry>,
}

impl HostTable {
    /// Creates a table with room for as many exact hosts.
    pub(super) fn with_capacity(hosts: usize) -> Self {
        HostTable { exact: AHashMap::with_capacity(hosts), ..HostTable::default() }
    }

    /// Finds the entry for a canonical host.
    pub(super) fn find(&self, host: &str) -> Option<HostEntry> {
        let exact = self.exact.get(host).copied();
        exact.or_else(|| self.find_below(host)).or(self.any)
    }

    fn find_below(&self, host: &str) -> Option<HostEntry> {
        let mut labels = host.matches('.').count();
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if labels <= self.below_labels_max
                && let Some(host_entry) = self.below.get(parent)
            {
                return Some(*host_entry);
            }
            labels -= 1;
            rest = parent;
        }
        None
    }

    /// The entry of exactly this pattern.
    pub(super) fn get(&self, pattern: &HostPattern) -> Option<HostEntry> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name).copied(),
            HostPattern::Below(name) => self.below.get(name).copied(),
            HostPattern::Any => self.any,
        }
    }

    /// Sets the entry of a pattern, unless it has one.
    pub(super) fn claim(&mut self, pattern: &HostPattern, host_entry: HostEntry) {
        let entry = match pattern {
            HostPattern::Exact(name) => self.exact.entry(name.clone()),
            HostPattern::Below(name) => {
                self.below_labels_max = self.below_labels_max.max(name.matches('.').count() + 1);
                self.below.entry(name.clone())
            }
            HostPattern::Any => {
                self.any.get_or_insert(host_entry);
                return;
            }
        };
        if let Entry::Vacant(free) = entry {
            free.insert(host_entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hosts: &[&str]) -> HostTable {
        let mut table = HostTable::default();
        for (index, host) in (0..).zip(hosts) {
            table.claim(&HostPattern::parse(host).unwrap(), HostEntry::Tenant(index));
        }
        table
    }

    #[test]
    fn host_lookup_prefers_exact_then_longest_wildcard_then_any() {
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
            assert_eq!(table.find(host), Some(HostEntry::Tenant(u32::try_from(index).unwrap())), "{host}");
        }
    }

    #[test]
    fn hosts_outside_the_table_are_not_found() {
        let table = table(&["a.example", "*.b.example"]);
        for host in ["b.example", "x.a.example", "example", "xb.example", "a.example.", ""] {
            assert_eq!(table.find(host), None, "{host}");
        }
        assert_eq!(table.find(&("x.".repeat(120) + "b.example")), Some(HostEntry::Tenant(1)));
    }

    #[test]
    fn second_claim_of_a_host_changes_nothing() {
        let mut table = table(&["a.example", "*.a.example", "*"]);
        for host in ["a.example", "*.a.example", "*"] {
            let pattern = HostPattern::parse(host).unwrap();
            let before = table.get(&pattern);
            table.claim(&pattern, HostEntry::Broken);
            assert!(before.is_some() && table.get(&pattern) == before, "{host}");
        }
    }
}
