//! A frozen set of entries, and which of them covers an origin.
//!
//! Exact origins are one probe of a hash table by the whole text. Patterns lie under their host's suffix: one probe for
//! each label of the origin, the longest suffix wins, and under one suffix at most [`PATTERNS_PER_HOST_MAX`] are
//! compared. So a lookup costs the same with one entry and with a million. Two sets are asked together, a template's and a
//! tenant's own, so that a hash is computed once.

use super::hash::{self, Seed};
use super::parse::Origin;
use super::pattern::{Entry, Pattern, PortPattern, Shape};
use super::table::{Table, TooLarge};

/// The most patterns over one host: they are compared one by one.
pub(crate) const PATTERNS_PER_HOST_MAX: usize = 64;

#[derive(Debug, Clone, Default)]
pub(crate) struct Set {
    exact: Table,
    /// Each host that has patterns, with the place of its first.
    hosts: Table,
    /// Sorted by host, then the narrower first.
    patterns: Box<[Placed]>,
    null: bool,
    any: bool,
}

#[derive(Debug, Clone)]
struct Placed {
    pattern: Pattern,
    /// Whether the next pattern is over the same host.
    has_next: bool,
}

impl Set {
    /// Builds a set of distinct entries.
    pub(crate) fn new(seed: &Seed, entries: Vec<Entry<'_>>) -> Result<Self, TooLarge> {
        let (mut exact, mut patterns, mut null, mut any) = (Vec::new(), Vec::new(), false, false);
        for entry in entries {
            match entry {
                Entry::Any => any = true,
                Entry::Null => null = true,
                Entry::Exact(text) => exact.push(text.as_bytes()),
                Entry::Starred(pattern) => patterns.push(pattern),
            }
        }
        if u32::try_from(exact.len() + patterns.len() + 2).is_err() {
            return Err(TooLarge);
        }
        patterns.sort_by(|one, other| one.host().cmp(other.host()).then_with(|| width(one).cmp(&width(other))));
        let exact =
            Table::new(exact.len(), exact.iter().zip(0..).map(|(text, index)| (seed.whole(text), *text, index)))?;
        let hosts = host_table(seed, &patterns)?;
        Ok(Self { exact, hosts, patterns: place(patterns), null, any })
    }

    /// The entry that is this very text, whose hash is `hash`.
    pub(crate) fn exact(&self, hash: u64, text: &[u8]) -> Option<u32> {
        self.exact.get(hash, text)
    }

    /// The narrowest pattern over exactly the host `suffix`, whose hash is `hash`, that covers the origin.
    pub(crate) fn under(&self, hash: u64, suffix: &[u8], origin: &Origin<'_>) -> Option<u32> {
        let first = self.hosts.get(hash, suffix)?;
        let index = (first..).zip(self.over_one_host(first)).find(|(_, pattern)| pattern.covers_under(origin))?.0;
        Some(self.exact_count() + index)
    }

    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The entry `null`.
    pub(crate) fn null(&self) -> Option<u32> {
        self.null.then_some(self.exact_count() + self.pattern_count())
    }

    /// The entry `*`.
    pub(crate) fn any(&self) -> Option<u32> {
        self.any.then_some(self.exact_count() + self.pattern_count() + u32::from(self.null))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.patterns.len() + usize::from(self.null) + usize::from(self.any)
    }

    /// An entry's text.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        if let Some(text) = self.exact.text(index) {
            return std::str::from_utf8(text).ok();
        }
        match self.patterns.get(index.checked_sub(self.exact.len())?) {
            Some(placed) => Some(placed.pattern.text()),
            None if index >= self.len() => None,
            None if self.null && index == self.exact.len() + self.patterns.len() => Some("null"),
            None => Some("*"),
        }
    }

    /// Every pattern of this set that covers all that `pattern` does; itself too, if it is one of the set's.
    pub(crate) fn wider<'s>(&'s self, seed: &'s Seed, pattern: &'s Pattern) -> impl Iterator<Item = &'s str> {
        let hosts = hash::suffixes(seed, pattern.host().as_bytes());
        let found =
            hosts.filter_map(|(hash, suffix)| self.hosts.get(hash, suffix)).flat_map(|first| self.over_one_host(first));
        found.filter(|other| other.covers_all_of(pattern)).map(Pattern::text)
    }

    fn over_one_host(&self, first: u32) -> impl Iterator<Item = &Pattern> {
        let mut goes_on = true;
        let from = self.patterns.get(first as usize..).unwrap_or_default();
        from.iter().map_while(move |placed| {
            let is_here = goes_on;
            goes_on = placed.has_next;
            is_here.then_some(&placed.pattern)
        })
    }

    // Building has checked that there are fewer entries than a `u32` counts.
    fn exact_count(&self) -> u32 {
        self.exact.len() as u32
    }

    fn pattern_count(&self) -> u32 {
        self.patterns.len() as u32
    }
}

/// Orders patterns over one host: those that cover less come first.
fn width(pattern: &Pattern) -> (u8, std::cmp::Reverse<usize>, PortPattern) {
    let (before, after) = pattern.literals();
    let rank = match pattern.shape() {
        Shape::Whole => 0,
        Shape::InLabel { .. } => 1,
        Shape::Subdomains => 2,
    };
    (rank, std::cmp::Reverse(before.len() + after.len()), pattern.port())
}

fn host_table(seed: &Seed, patterns: &[Pattern]) -> Result<Table, TooLarge> {
    let mut hosts: Vec<(&[u8], u32)> = patterns.iter().map(|pattern| pattern.host().as_bytes()).zip(0..).collect();
    hosts.dedup_by_key(|(host, _)| *host);
    Table::new(hosts.len(), hosts.into_iter().map(|(host, first)| (hash::host_hash(seed, host), host, first)))
}

fn place(patterns: Vec<Pattern>) -> Box<[Placed]> {
    let followers = patterns.iter().zip(patterns.iter().skip(1));
    let has_next: Vec<bool> = followers.map(|(one, next)| one.host() == next.host()).chain([false]).collect();
    patterns.into_iter().zip(has_next).map(|(pattern, has_next)| Placed { pattern, has_next }).collect()
}

/// The set's entry, told with the set: `0` is the first of two.
pub(crate) fn find(seed: &Seed, sets: [&Set; 2], origin: &Origin<'_>) -> Option<(usize, u32)> {
    if !sets.iter().any(|set| set.has_patterns()) {
        return None;
    }
    let mut longest = None;
    for (hash, suffix) in hash::suffixes(seed, origin.host) {
        let mut found =
            sets.iter().enumerate().filter_map(|(which, set)| Some((which, set.under(hash, suffix, origin)?)));
        longest = found.next().or(longest);
    }
    longest
}
