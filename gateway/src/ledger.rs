//! Which real origins were seen, of which tenant, allowed and denied: a bounded record, beside metrics that know configured ones alone.
//!
//! Every tenant has a [`Page`] of the origins that are seen most. A worker does not write there with every request: it counts what it sees
//! again and again by itself ([`notes`]), without lock, clock or allocation, and a thread beside enters that several times a second. How many
//! entries there may be is bounded for a tenant and in all, and so is what recording may cost; whatever finds no room, or no time, is
//! counted as such, so that what is told adds up to the requests whose origin was judged. Origins are a stranger's texts: one that is not
//! well-formed is never kept, only counted as such. Absent on purpose: anything of a request beyond its origin and its verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crossgate_policy::{Field, ORIGIN_LEN_MAX, Reason};

use crate::judge::Judged;
use crate::metrics::{Cells, VerdictLabel};

mod notes;
mod page;
mod report;

#[cfg(test)]
mod tests;

pub use page::Page;
pub use report::{Asked, Origins, OriginsError, Report, report};

/// How an origin is told that is not well-formed. No origin is written so.
const MALFORMED: &[u8] = b"malformed";
const NULL: &[u8] = b"null";

/// What is left free of all entries after the largest pages were shortened, and when they are: a quarter and an eighth.
const FREE_AFTERWARDS: usize = 4;
const FREE_AT_LEAST: usize = 8;

/// How many origins are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLimits {
    /// In all.
    pub origins: usize,
    /// Of one tenant.
    pub origins_per_tenant: usize,
}

impl LedgerLimits {
    /// Nothing is recorded.
    pub const OFF: LedgerLimits = LedgerLimits { origins: 0, origins_per_tenant: 0 };
}

impl Default for LedgerLimits {
    fn default() -> Self {
        LedgerLimits { origins: 65_536, origins_per_tenant: 256 }
    }
}

/// What all pages share.
#[derive(Debug)]
pub struct Ledger {
    entries: AtomicUsize,
    entries_max: AtomicUsize,
    entries_max_tenant: AtomicUsize,
    /// Seconds since 1970, as of the last time that notes were entered.
    now_s: AtomicU64,
    /// Entries that were given up for others.
    evictions: AtomicU64,
    /// Requests that were not recorded, of whichever tenant.
    dropped: Cells,
    /// Of these, those before the record was last begun anew.
    dropped_before: AtomicU64,
}

impl Ledger {
    /// An empty one, at this time.
    pub fn new(now: SystemTime) -> Arc<Self> {
        let limits = LedgerLimits::default();
        Arc::new(Ledger {
            entries: AtomicUsize::new(0),
            entries_max: AtomicUsize::new(limits.origins),
            entries_max_tenant: AtomicUsize::new(limits.origins_per_tenant),
            now_s: AtomicU64::new(unix_seconds(now)),
            evictions: AtomicU64::new(0),
            dropped: Cells::new(1),
            dropped_before: AtomicU64::new(0),
        })
    }

    /// How many entries there may be.
    pub fn limits(&self) -> LedgerLimits {
        let origins_per_tenant = self.entries_max_tenant.load(Relaxed);
        LedgerLimits { origins: self.entries_max.load(Relaxed), origins_per_tenant }
    }

    /// Sets how many entries there may be. If that is news, the record begins anew.
    pub fn set_limits(&self, limits: LedgerLimits, pages: impl FnOnce() -> Vec<Arc<Page>>) {
        if limits == self.limits() {
            return;
        }
        self.entries_max.store(limits.origins, Relaxed);
        self.entries_max_tenant.store(limits.origins_per_tenant, Relaxed);
        notes::enter_all();
        pages().iter().for_each(|page| page.clear());
        self.dropped_before.store(self.dropped(), Relaxed);
    }

    /// Enters what workers have noted, as seen now, and makes room where little is left. For a thread that may wait.
    pub fn tend(&self, now: SystemTime, pages: impl FnOnce() -> Vec<Arc<Page>>) {
        self.now_s.store(unix_seconds(now), Relaxed);
        notes::enter_all();
        let max = self.entries_max.load(Relaxed);
        if max > 0 && self.entries() > max - max / FREE_AT_LEAST {
            shorten(&pages(), max - max / FREE_AFTERWARDS);
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// How many were given up for others.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// How many requests were not recorded.
    pub fn dropped(&self) -> u64 {
        self.dropped.read(0)
    }

    fn is_on(&self) -> bool {
        self.entries_max.load(Relaxed) > 0
    }

    fn count_evictions(&self, entries: usize) {
        self.evictions.fetch_add(entries as u64, Relaxed);
    }

    fn count_dropped(&self, requests: u64) {
        self.dropped.add(0, requests);
    }

    /// How many requests were not recorded since the record was begun.
    fn dropped_since(&self) -> u64 {
        self.dropped().saturating_sub(self.dropped_before.load(Relaxed))
    }

    /// A place for one more entry, if there is one.
    fn take_place(&self) -> bool {
        let max = self.entries_max.load(Relaxed);
        let one_more = |entries| (entries < max).then_some(entries + 1);
        self.entries.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn give_back(&self, places: usize) {
        self.entries.fetch_sub(places, Relaxed);
    }
}

/// Records a request whose origin was judged.
pub fn note(ledger: &Arc<Ledger>, judged: &Judged<'_>, origin: Field<'_>) {
    if ledger.is_on() {
        let page = judged.tenant.counters.page(ledger);
        notes::note(page, name(judged.verdict.reason, origin), judged.label(), judged.reason());
    }
}

/// What an origin is called here, so far as that is clear from its verdict: a policy for `*` does not look at it.
fn name<'a>(reason: Reason, origin: Field<'a>) -> &'a [u8] {
    match origin {
        Field::One(value) if reason != Reason::MalformedOrigin && value.len() <= ORIGIN_LEN_MAX => value,
        Field::One(_) | Field::Many | Field::Absent => MALFORMED,
    }
}

/// Requests by verdict, in the order of [`VerdictLabel::ALL`].
type Counts = [u64; VerdictLabel::ALL.len()];

/// Shortens the longest pages until there are so many entries in all. Where that leaves every page one entry and is not enough,
/// pages that were not written to for the longest time are emptied.
fn shorten(pages: &[Arc<Page>], entries: usize) {
    let lens: Vec<usize> = pages.iter().map(|page| page.len()).collect();
    let fair = fair_len(lens, entries).max(1);
    pages.iter().for_each(|page| page.shorten_to(fair));
    let mut left: usize = pages.iter().map(|page| page.len()).sum();
    if left <= entries {
        return;
    }
    let mut by_age: Vec<(u64, &Arc<Page>)> =
        pages.iter().filter_map(|page| Some((page.last_seen_s()?, page))).collect();
    by_age.sort_unstable_by_key(|(last_seen_s, _)| *last_seen_s);
    for (_, page) in by_age {
        if left <= entries {
            return;
        }
        left = left.saturating_sub(page.len());
        page.shorten_to(0);
    }
}

/// The length that pages may have so that all of them together have so many entries: short ones keep what they have.
fn fair_len(mut lens: Vec<usize>, entries: usize) -> usize {
    lens.sort_unstable();
    let mut left = entries;
    for (number, len) in lens.iter().enumerate() {
        let share = left / (lens.len() - number);
        if *len > share {
            return share;
        }
        left -= len;
    }
    usize::MAX
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
