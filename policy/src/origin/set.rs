//! A frozen set of entries, and the lookup of the entry that covers an origin.
//!
//! An exact origin takes one probe of a hash table with the whole text. Patterns are indexed by
//! their host: a lookup probes the suffixes of the origin's host that have as many labels as some
//! pattern. The longest suffix wins, and for one host at most [`PATTERNS_PER_HOST_MAX`] patterns
//! are compared. So the cost of a lookup does not depend on the number of entries. The star of an
//! extension scheme is one bit. A template's set and a tenant's set are searched together, so that
//! each hash is computed once.
//!
//! The most particular entry wins: the whole origin, then the longest suffix, then the order of
//! [`PatternRank`]. The order of the configuration has no influence. The value of a table names
//! the entry and its group, so that the group costs no second lookup.

use super::extension::{self, ExtensionScheme, ExtensionSchemes};
use super::hash::{self, HashSeed};
use super::parse::Origin;
use super::pattern::{OriginEntry, OriginPattern, PatternShape, PortPattern};
use super::table::{OriginTable, TooLarge};
use crate::group::GroupId;
use crate::origin::scheme::Scheme;

/// The most patterns with the same host. They are compared one by one.
pub(crate) const PATTERNS_PER_HOST_MAX: usize = 64;

/// The bits of an index in the value of a table. Above them are six bits of a group and, in the
/// table of hosts, [`PLAIN`].
const INDEX_BITS: u32 = 25;

/// The limit of exact origins, and of patterns.
pub(crate) const ENTRIES_MAX: usize = 1 << INDEX_BITS;

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
    null: Option<GroupId>,
    any: Option<GroupId>,
}

/// An entry of a set, and the group whose terms it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundEntry {
    pub(crate) index: u32,
    pub(crate) group: GroupId,
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
    group: GroupId,
    /// Whether the next pattern has the same host.
    has_next: bool,
}

impl CompiledOrigins {
    /// Builds a set of distinct entries.
    pub(crate) fn new<'e>(
        seed: &HashSeed,
        entries: impl Iterator<Item = (OriginEntry<'e>, GroupId)>,
    ) -> Result<Self, TooLarge> {
        let (mut exact, mut patterns, mut null, mut any) = (Vec::new(), Vec::new(), None, None);
        let mut extensions = ExtensionSchemes::default();
        for (entry, group) in entries {
            match entry {
                OriginEntry::Any => any = Some(group),
                OriginEntry::Null => null = Some(group),
                OriginEntry::Exact(text) => exact.push((text.as_bytes(), group)),
                OriginEntry::Starred(pattern) => patterns.push(PlacedPattern { pattern, group, has_next: false }),
                OriginEntry::Extensions(scheme) => extensions.insert(scheme, group),
            }
        }
        if exact.len().max(patterns.len()) >= ENTRIES_MAX {
            return Err(TooLarge);
        }
        patterns.sort_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        let values =
            exact.iter().zip(0..).map(|((text, group), index)| (seed.whole(text), *text, value(index, *group)));
        let exact = OriginTable::new(exact.len(), values)?;
        let hosts = host_table(seed, &patterns)?;
        let has_whole = patterns.iter().any(|placed| placed.pattern.shape() == PatternShape::Whole);
        let depths = patterns
            .iter()
            .map(|placed| LabelDepths::of(&placed.pattern))
            .fold(LabelDepths::default(), LabelDepths::and);
        let patterns = linked(patterns);
        Ok(Self { exact, hosts, patterns, depths, has_whole, extensions, null, any })
    }

    /// Returns the entry that equals `text`, whose hash is `hash`.
    pub(crate) fn exact(&self, hash: u64, text: &[u8]) -> Option<FoundEntry> {
        self.exact.get(hash, text).map(entry)
    }

    /// Returns the narrowest pattern that covers the origin among those with the host `suffix`,
    /// whose hash is `hash`.
    pub(crate) fn under(&self, hash: u64, suffix: &[u8], origin: &Origin<'_>) -> Option<FoundEntry> {
        let is_whole = suffix.len() == origin.host.len();
        if is_whole && !self.has_whole {
            return None;
        }
        let value = self.hosts.get(hash, suffix)?;
        if value & PLAIN != 0 {
            let is_covered = !is_whole && origin.port.is_none() && origin.scheme == b"https";
            let FoundEntry { index, group } = entry(value);
            return is_covered.then(|| FoundEntry { index: self.exact_count() + index, group });
        }
        let mut candidates = (self.exact_count() + value..).zip(self.placed_at(value));
        let (index, placed) = candidates.find(|(_, placed)| placed.pattern.covers_under(origin))?;
        Some(FoundEntry { index, group: placed.group })
    }

    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Returns the entry for all extensions of the scheme.
    pub(crate) fn extensions(&self, scheme: ExtensionScheme) -> Option<FoundEntry> {
        let position = self.extensions.position(scheme)?;
        let index = self.exact_count() + self.pattern_count() + position;
        Some(FoundEntry { index, group: self.extensions.group(scheme) })
    }

    /// Returns the entry `null`.
    pub(crate) fn null(&self) -> Option<FoundEntry> {
        self.null.map(|group| FoundEntry { index: self.starred_end(), group })
    }

    /// Returns the entry `*`.
    pub(crate) fn any(&self) -> Option<FoundEntry> {
        self.any.map(|group| FoundEntry { index: self.starred_end() + u32::from(self.null.is_some()), group })
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.starred_end() as usize + usize::from(self.null.is_some()) + usize::from(self.any.is_some())
    }

    /// Returns the group of an entry.
    pub(crate) fn group(&self, index: usize) -> Option<GroupId> {
        if let Some(value) = self.exact.value(index) {
            return Some(entry(value).group);
        }
        let after_exact = index.checked_sub(self.exact.len())?;
        if let Some(placed) = self.patterns.get(after_exact) {
            return Some(placed.group);
        }
        match self.extensions.nth(after_exact.checked_sub(self.patterns.len())?) {
            Some(scheme) => Some(self.extensions.group(scheme)),
            None if index == self.starred_end() as usize => self.null.or(self.any),
            None => self.any,
        }
    }

    /// Returns the rank of a pattern, whose index among all entries is given.
    fn rank(&self, found: FoundEntry) -> Option<PatternRank> {
        let index = found.index.checked_sub(self.exact_count())?;
        self.patterns.get(index as usize).map(|placed| rank(&placed.pattern))
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
            None if self.null.is_some() && index == self.starred_end() as usize => Some("null"),
            None => Some("*"),
        }
    }

    /// Returns every pattern of this set that covers all origins of `pattern`, including `pattern`
    /// itself if the set contains it.
    pub(crate) fn wider<'s>(&'s self, seed: &'s HashSeed, pattern: &'s OriginPattern) -> impl Iterator<Item = &'s str> {
        let found = self.at_suffixes(seed, pattern).map(|(other, _)| other);
        found.filter(|other| other.covers_all_of(pattern)).map(OriginPattern::text)
    }

    /// Returns the patterns, with their groups, whose host is the pattern's or a suffix of it: all
    /// that can cover an origin of the pattern.
    pub(crate) fn at_suffixes<'s>(
        &'s self,
        seed: &'s HashSeed,
        pattern: &'s OriginPattern,
    ) -> impl Iterator<Item = (&'s OriginPattern, GroupId)> {
        let hosts = hash::suffixes(seed, pattern.host().as_bytes());
        let found = hosts.filter_map(|(hash, suffix)| self.hosts.get(hash, suffix));
        found.flat_map(|value| self.placed_at(entry(value).index)).map(|placed| (&placed.pattern, placed.group))
    }

    /// Returns the patterns of the host whose first pattern is given.
    fn placed_at(&self, first: u32) -> impl Iterator<Item = &PlacedPattern> {
        let mut has_more = true;
        let from = self.patterns.get(first as usize..).unwrap_or_default();
        from.iter().map_while(move |placed| {
            let is_included = has_more;
            has_more = placed.has_next;
            is_included.then_some(placed)
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

/// Packs an index and a group into the value of a table.
fn value(index: u32, group: GroupId) -> u32 {
    index | group.bits() << INDEX_BITS
}

/// Unpacks the value of a table.
fn entry(value: u32) -> FoundEntry {
    let bits = (value & !PLAIN) >> INDEX_BITS;
    FoundEntry { index: value & (ENTRIES_MAX as u32 - 1), group: GroupId::from_bits(bits) }
}

/// The order of patterns with the same host; the most particular is the least. Two patterns of one
/// rank may cover the same origin only if both have a star within a label.
pub(crate) type PatternRank = (u8, std::cmp::Reverse<usize>, PortPattern);

/// Returns the rank of a pattern: a star within a label before a whole label, then more literal
/// characters, then a given port before any port.
pub(crate) fn rank(pattern: &OriginPattern) -> PatternRank {
    let (before, after) = pattern.literals();
    let shape = match pattern.shape() {
        PatternShape::Whole => 0,
        PatternShape::InLabel { .. } => 1,
        PatternShape::Subdomains => 2,
    };
    (shape, std::cmp::Reverse(before.len() + after.len()), pattern.port())
}

impl PlacedPattern {
    /// Returns the order in a set. The text is the last part, so that the order of the
    /// configuration has no influence.
    fn sort_key(&self) -> (&str, PatternRank, &str) {
        (self.pattern.host(), rank(&self.pattern), self.pattern.text())
    }
}

fn host_table(seed: &HashSeed, patterns: &[PlacedPattern]) -> Result<OriginTable, TooLarge> {
    let hosts: Vec<&[PlacedPattern]> =
        patterns.chunk_by(|one, next| one.pattern.host() == next.pattern.host()).collect();
    let firsts = hosts.iter().scan(0, |next, same_host| {
        let first = *next;
        *next += same_host.len() as u32;
        Some(first)
    });
    let entries = hosts.iter().zip(firsts).filter_map(|(same_host, first)| {
        let host = same_host.first()?.pattern.host().as_bytes();
        let value = match same_host {
            [placed] if is_plain(&placed.pattern) => value(first, placed.group) | PLAIN,
            _ => first,
        };
        Some((hash::host_hash(seed, host), host, value))
    });
    OriginTable::new(hosts.len(), entries)
}

fn is_plain(pattern: &OriginPattern) -> bool {
    (pattern.scheme(), pattern.shape(), pattern.port())
        == (Scheme::Https, PatternShape::Subdomains, PortPattern::Default)
}

/// Marks the patterns that are followed by another one of their host.
fn linked(mut patterns: Vec<PlacedPattern>) -> Box<[PlacedPattern]> {
    let followers = patterns.iter().zip(patterns.iter().skip(1));
    let has_next: Vec<bool> = followers.map(|(one, next)| one.pattern.host() == next.pattern.host()).collect();
    patterns.iter_mut().zip(has_next).for_each(|(placed, has_next)| placed.has_next = has_next);
    patterns.into()
}

/// Returns the most particular pattern of two sets that covers the origin, with the index of its
/// set. Of two equal patterns it is the one of the first set.
pub(crate) fn find(seed: &HashSeed, sets: [&CompiledOrigins; 2], origin: &Origin<'_>) -> Option<(usize, FoundEntry)> {
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
            let found = sets.map(|set| set.under(hash, suffix, origin));
            match found {
                [Some(shared), Some(own)] if sets[1].rank(own) < sets[0].rank(shared) => Some((1, own)),
                [Some(shared), _] => Some((0, shared)),
                [None, own] => own.map(|own| (1, own)),
            }
        }),
    }
}

fn find_extensions(
    sets: [&CompiledOrigins; 2],
    scheme: ExtensionScheme,
    origin: &Origin<'_>,
) -> Option<(usize, FoundEntry)> {
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
