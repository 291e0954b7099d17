//! A frozen set of entries, and which of them covers an origin.
//!
//! Exact origins are one probe of a hash table by the whole text. Patterns lie under their host's suffix: one probe for
//! each label of the origin, as far as patterns have as many labels, the longest suffix wins, and under one suffix at most [`PATTERNS_PER_HOST_MAX`] are
//! compared. So a lookup costs the same with one entry and with a million. Two sets are asked together, a template's and a
//! tenant's own, so that a hash is computed once.

use super::hash::{self, Seed};
use super::parse::Origin;
use super::pattern::{Entry, Pattern, PortPattern, Shape};
use super::table::{Table, TooLarge};
use crate::request::Scheme;

/// The most patterns over one host: they are compared one by one.
pub(crate) const PATTERNS_PER_HOST_MAX: usize = 64;

/// The most exact origins, and the most patterns: their places leave one bit of a `u32` free.
const ENTRIES_MAX: usize = 1 << 30;

#[derive(Debug, Clone, Default)]
pub(crate) struct Set {
    exact: Table,
    /// Each host that has patterns, with the place of its first.
    hosts: Table,
    /// Sorted by host, then the narrower first.
    patterns: Box<[Placed]>,
    depths: Depths,
    /// Whether a pattern stands for its host itself, with any port.
    has_whole: bool,
    null: bool,
    any: bool,
}

/// Marks a host whose one pattern is `https://*.host`, as most are: whether it covers an origin is then known without
/// looking at the pattern, which in a large set is in no cache.
const PLAIN: u32 = 0x8000_0000;

/// How many labels the hosts of patterns have: no shorter and no longer suffix of an origin needs a probe.
#[derive(Debug, Clone, Copy)]
struct Depths {
    least: usize,
    most: usize,
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
        if exact.len().max(patterns.len()) >= ENTRIES_MAX {
            return Err(TooLarge);
        }
        patterns.sort_by(|one, other| one.host().cmp(other.host()).then_with(|| width(one).cmp(&width(other))));
        let exact =
            Table::new(exact.len(), exact.iter().zip(0..).map(|(text, index)| (seed.whole(text), *text, index)))?;
        let hosts = host_table(seed, &patterns)?;
        let has_whole = patterns.iter().any(|pattern| pattern.shape() == Shape::Whole);
        let depths = patterns.iter().map(Depths::of).fold(Depths::default(), Depths::and);
        Ok(Self { exact, hosts, patterns: place(patterns), depths, has_whole, null, any })
    }

    /// The entry that is this very text, whose hash is `hash`.
    pub(crate) fn exact(&self, hash: u64, text: &[u8]) -> Option<u32> {
        self.exact.get(hash, text)
    }

    /// The narrowest pattern over exactly the host `suffix`, whose hash is `hash`, that covers the origin.
    pub(crate) fn under(&self, hash: u64, suffix: &[u8], origin: &Origin<'_>) -> Option<u32> {
        let is_whole = suffix.len() == origin.host.len();
        if is_whole && !self.has_whole {
            return None;
        }
        let value = self.hosts.get(hash, suffix)?;
        if value & PLAIN != 0 {
            let is_covered = !is_whole && origin.port.is_none() && origin.scheme == b"https";
            return is_covered.then(|| self.exact_count() + (value ^ PLAIN));
        }
        let mut over_host = (value..).zip(self.over_one_host(value));
        over_host.find(|(_, pattern)| pattern.covers_under(origin)).map(|(index, _)| self.exact_count() + index)
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
        let found = hosts
            .filter_map(|(hash, suffix)| self.hosts.get(hash, suffix))
            .flat_map(|value| self.over_one_host(value & !PLAIN));
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

impl Default for Depths {
    fn default() -> Self {
        Self { least: usize::MAX, most: 0 }
    }
}

impl Depths {
    fn of(pattern: &Pattern) -> Self {
        let labels = pattern.host().split('.').count();
        Self { least: labels, most: labels }
    }

    fn and(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
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
    let groups: Vec<&[Pattern]> = patterns.chunk_by(|one, next| one.host() == next.host()).collect();
    let firsts = groups.iter().scan(0, |next, group| {
        let first = *next;
        *next += group.len() as u32;
        Some(first)
    });
    let entries = groups.iter().zip(firsts).filter_map(|(group, first)| {
        let host = group.first()?.host().as_bytes();
        let mark = if matches!(group, [pattern] if is_plain(pattern)) { PLAIN } else { 0 };
        Some((hash::host_hash(seed, host), host, first | mark))
    });
    Table::new(groups.len(), entries)
}

fn is_plain(pattern: &Pattern) -> bool {
    (pattern.scheme(), pattern.shape(), pattern.port()) == (Scheme::Https, Shape::Subdomains, PortPattern::Default)
}

fn place(patterns: Vec<Pattern>) -> Box<[Placed]> {
    let followers = patterns.iter().zip(patterns.iter().skip(1));
    let has_next: Vec<bool> = followers.map(|(one, next)| one.host() == next.host()).chain([false]).collect();
    patterns.into_iter().zip(has_next).map(|(pattern, has_next)| Placed { pattern, has_next }).collect()
}

/// The narrowest pattern of two sets that covers the origin, told with its set: `0` is the first.
pub(crate) fn find(seed: &Seed, sets: [&Set; 2], origin: &Origin<'_>) -> Option<(usize, u32)> {
    let depths = sets[0].depths.and(sets[1].depths);
    match sets.map(Set::has_patterns) {
        [false, false] => None,
        [true, false] => longest(seed, origin, depths, |hash, suffix| Some((0, sets[0].under(hash, suffix, origin)?))),
        [false, true] => longest(seed, origin, depths, |hash, suffix| Some((1, sets[1].under(hash, suffix, origin)?))),
        [true, true] => longest(seed, origin, depths, |hash, suffix| {
            let own = || sets[1].under(hash, suffix, origin).map(|index| (1, index));
            sets[0].under(hash, suffix, origin).map(|index| (0, index)).or_else(own)
        }),
    }
}

/// What `under` gives for the longest suffix for which it gives anything.
fn longest<T>(seed: &Seed, origin: &Origin<'_>, depths: Depths, under: impl Fn(u64, &[u8]) -> Option<T>) -> Option<T> {
    let suffixes = hash::suffixes(seed, origin.host).take(depths.most).skip(depths.least.saturating_sub(1));
    suffixes.filter_map(|(hash, suffix)| under(hash, suffix)).last()
}
