//! A frozen set of entries, and the lookup of the entry that covers an origin.
//!
//! An exact origin takes one probe of a hash table with the whole text. Patterns are indexed by
//! their host: a lookup probes the suffixes of the origin's host that have as many labels as some
//! pattern. The longest suffix wins, and for one host at most [`PATTERNS_PER_HOST_MAX`] patterns
//! are compared. So the cost of a lookup does not depend on the number of entries. The star of an
//! extension scheme is one bit. A template's set and a tenant's set are searched together, so that
//! each hash is computed once.

use super::extension::{self, ExtensionScheme, ExtensionSchemes};
use super::hash::{self, HashSeed};
use super::parse::Origin;
use super::pattern::{OriginEntry, OriginPattern, PatternShape, PortPattern};
use super::table::{OriginTable, TooLarge};
use crate::origin::scheme::Scheme;

/// The most patterns with the same host. They are compared one by one.
pub(crate) const PATTERNS_PER_HOST_MAX: usize = 64;

/// The limit of exact origins, and of patterns. Their indices leave one bit of a `u32` free.
const ENTRIES_MAX: usize = 1 << 30;

#[derive(Debug, Clone, Default)]
pub(crate) struct CompiledOrigins {
    exact: OriginTable,
    /// Each host that has patterns, with the index of its first pattern.
    hosts: OriginTable,
    /// The patterns, sorted by host, then the narrower first.
    patterns: Box<[PlacedPattern]>,
    depths: LabelDepths,
    /// Whether a pattern covers exactly its host, with any port.
    has_whole: bool,
    extensions: ExtensionSchemes,
    null: bool,
    any: bool,
}

/// Marks a host whose only pattern is `https://*.host`, the most common kind. The lookup then needs
/// no access to the pattern, which in a large set would be a cache miss.
const PLAIN: u32 = 0x8000_0000;

/// The range of label counts of the patterns' hosts. Other suffixes of an origin need no probe.
#[derive(Debug, Clone, Copy)]
struct LabelDepths {
    least: usize,
    most: usize,
}

#[derive(Debug, Clone)]
struct PlacedPattern {
    pattern: OriginPattern,
    /// Whether the next pattern has the same host.
    has_next: bool,
}

impl CompiledOrigins {
    /// Builds a set of distinct entries.
    pub(crate) fn new(seed: &HashSeed, entries: Vec<OriginEntry<'_>>) -> Result<Self, TooLarge> {
        let (mut exact, mut patterns, mut null, mut any) = (Vec::new(), Vec::new(), false, false);
        let mut extensions = ExtensionSchemes::default();
        for entry in entries {
            match entry {
                OriginEntry::Any => any = true,
                OriginEntry::Null => null = true,
                OriginEntry::Exact(text) => exact.push(text.as_bytes()),
                OriginEntry::Starred(pattern) => patterns.push(pattern),
                OriginEntry::Extensions(scheme) => extensions.insert(scheme),
            }
        }
        if exact.len().max(patterns.len()) >= ENTRIES_MAX {
            return Err(TooLarge);
        }
        patterns.sort_by(|one, other| one.host().cmp(other.host()).then_with(|| width(one).cmp(&width(other))));
        let exact =
            OriginTable::new(exact.len(), exact.iter().zip(0..).map(|(text, index)| (seed.whole(text), *text, index)))?;
        let hosts = host_table(seed, &patterns)?;
        let has_whole = patterns.iter().any(|pattern| pattern.shape() == PatternShape::Whole);
        let depths = patterns.iter().map(LabelDepths::of).fold(LabelDepths::default(), LabelDepths::and);
        Ok(Self { exact, hosts, patterns: place(patterns), depths, has_whole, extensions, null, any })
    }

    /// Returns the entry that equals `text`, whose hash is `hash`.
    pub(crate) fn exact(&self, hash: u64, text: &[u8]) -> Option<u32> {
        self.exact.get(hash, text)
    }

    /// Returns the narrowest pattern that covers the origin among those with the host `suffix`,
    /// whose hash is `hash`.
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
        let mut candidates = (value..).zip(self.patterns_of_host(value));
        candidates.find(|(_, pattern)| pattern.covers_under(origin)).map(|(index, _)| self.exact_count() + index)
    }

    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Returns the entry for all extensions of the scheme.
    pub(crate) fn extensions(&self, scheme: ExtensionScheme) -> Option<u32> {
        self.extensions.position(scheme).map(|position| self.exact_count() + self.pattern_count() + position)
    }

    /// Returns the entry `null`.
    pub(crate) fn null(&self) -> Option<u32> {
        self.null.then_some(self.starred_end())
    }

    /// Returns the entry `*`.
    pub(crate) fn any(&self) -> Option<u32> {
        self.any.then_some(self.starred_end() + u32::from(self.null))
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.starred_end() as usize + usize::from(self.null) + usize::from(self.any)
    }

    /// Returns the text of an entry.
    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        if let Some(text) = self.exact.text(index) {
            return std::str::from_utf8(text).ok();
        }
        let after_exact = index.checked_sub(self.exact.len())?;
        if let Some(placed) = self.patterns.get(after_exact) {
            return Some(placed.pattern.text());
        }
        match self.extensions.nth(after_exact.checked_sub(self.patterns.len())?) {
            Some(scheme) => Some(scheme.star()),
            None if index >= self.len() => None,
            None if self.null && index == self.starred_end() as usize => Some("null"),
            None => Some("*"),
        }
    }

    /// Returns every pattern of this set that covers all origins of `pattern`, including `pattern`
    /// itself if the set contains it.
    pub(crate) fn wider<'s>(&'s self, seed: &'s HashSeed, pattern: &'s OriginPattern) -> impl Iterator<Item = &'s str> {
        let hosts = hash::suffixes(seed, pattern.host().as_bytes());
        let found = hosts
            .filter_map(|(hash, suffix)| self.hosts.get(hash, suffix))
            .flat_map(|value| self.patterns_of_host(value & !PLAIN));
        found.filter(|other| other.covers_all_of(pattern)).map(OriginPattern::text)
    }

    fn patterns_of_host(&self, first: u32) -> impl Iterator<Item = &OriginPattern> {
        let mut has_more = true;
        let from = self.patterns.get(first as usize..).unwrap_or_default();
        from.iter().map_while(move |placed| {
            let is_included = has_more;
            has_more = placed.has_next;
            is_included.then_some(&placed.pattern)
        })
    }

    // `new` has checked that the number of entries fits in a `u32`.
    fn exact_count(&self) -> u32 {
        self.exact.len() as u32
    }

    fn pattern_count(&self) -> u32 {
        self.patterns.len() as u32
    }

    /// Returns the index after the last entry with a star, except `*`.
    fn starred_end(&self) -> u32 {
        self.exact_count() + self.pattern_count() + self.extensions.len()
    }
}

impl Default for LabelDepths {
    fn default() -> Self {
        Self { least: usize::MAX, most: 0 }
    }
}

impl LabelDepths {
    fn of(pattern: &OriginPattern) -> Self {
        let labels = pattern.host().split('.').count();
        Self { least: labels, most: labels }
    }

    fn and(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}

/// Orders patterns with the same host: those that cover less come first.
fn width(pattern: &OriginPattern) -> (u8, std::cmp::Reverse<usize>, PortPattern) {
    let (before, after) = pattern.literals();
    let rank = match pattern.shape() {
        PatternShape::Whole => 0,
        PatternShape::InLabel { .. } => 1,
        PatternShape::Subdomains => 2,
    };
    (rank, std::cmp::Reverse(before.len() + after.len()), pattern.port())
}

fn host_table(seed: &HashSeed, patterns: &[OriginPattern]) -> Result<OriginTable, TooLarge> {
    let groups: Vec<&[OriginPattern]> = patterns.chunk_by(|one, next| one.host() == next.host()).collect();
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
    OriginTable::new(groups.len(), entries)
}

fn is_plain(pattern: &OriginPattern) -> bool {
    (pattern.scheme(), pattern.shape(), pattern.port())
        == (Scheme::Https, PatternShape::Subdomains, PortPattern::Default)
}

fn place(patterns: Vec<OriginPattern>) -> Box<[PlacedPattern]> {
    let followers = patterns.iter().zip(patterns.iter().skip(1));
    let has_next: Vec<bool> = followers.map(|(one, next)| one.host() == next.host()).chain([false]).collect();
    patterns.into_iter().zip(has_next).map(|(pattern, has_next)| PlacedPattern { pattern, has_next }).collect()
}

/// Returns the narrowest pattern of two sets that covers the origin, with the index of its set.
pub(crate) fn find(seed: &HashSeed, sets: [&CompiledOrigins; 2], origin: &Origin<'_>) -> Option<(usize, u32)> {
    // Patterns have only the schemes `https` and `http`, so they cover no extension.
    if let Some(scheme) = ExtensionScheme::of(origin.scheme) {
        return find_extensions(sets, scheme, origin);
    }
    let depths = sets[0].depths.and(sets[1].depths);
    match sets.map(CompiledOrigins::has_patterns) {
        [false, false] => None,
        [true, false] => longest(seed, origin, depths, |hash, suffix| Some((0, sets[0].under(hash, suffix, origin)?))),
        [false, true] => longest(seed, origin, depths, |hash, suffix| Some((1, sets[1].under(hash, suffix, origin)?))),
        [true, true] => longest(seed, origin, depths, |hash, suffix| {
            let own = || sets[1].under(hash, suffix, origin).map(|index| (1, index));
            sets[0].under(hash, suffix, origin).map(|index| (0, index)).or_else(own)
        }),
    }
}

fn find_extensions(sets: [&CompiledOrigins; 2], scheme: ExtensionScheme, origin: &Origin<'_>) -> Option<(usize, u32)> {
    let stars = (0..).zip(sets).find_map(|(set, entries)| Some((set, entries.extensions(scheme)?)));
    stars.filter(|_| extension::covers_host(origin))
}

/// Returns the result of `under` for the longest suffix with a result.
fn longest<T>(
    seed: &HashSeed,
    origin: &Origin<'_>,
    depths: LabelDepths,
    under: impl Fn(u64, &[u8]) -> Option<T>,
) -> Option<T> {
    let suffixes = hash::suffixes(seed, origin.host).take(depths.most).skip(depths.least.saturating_sub(1));
    suffixes.filter_map(|(hash, suffix)| under(hash, suffix)).last()
}
