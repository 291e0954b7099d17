//! The most frequent origins of one tenant, by the space-saving algorithm (Metwally, Agrawal and El
//! Abbadi, 2005).
//!
//! If there is no room, a new origin replaces the entry with the smallest weight. The counts of an
//! entry are exact since it was made. Its `error` is the maximum number of requests that came
//! before: the largest weight of all evicted entries. The counts of evicted entries are kept as one
//! sum. Entries are few, so lookups scan an array of tags.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ahash::RandomState;
use crossgate_policy::Reason;
use parking_lot::{Mutex, MutexGuard};

use super::{Counts, GroupLabel, Ledger, RecordedOutcome};
use crate::metrics::VerdictLabel;

#[derive(Debug)]
pub struct TenantLedger {
    ledger: Arc<Ledger>,
    rows: Mutex<LedgerRows>,
    /// The number of rows, readable without the lock.
    len: AtomicUsize,
}

/// The entries, and a summary of those that were evicted.
#[derive(Debug)]
struct LedgerRows {
    /// One mark for each entry.
    marks: Vec<EntryMark>,
    entries: Vec<LedgerEntry>,
    /// The sum of the counts of evicted entries.
    forgotten: u64,
    /// The largest weight of an evicted entry.
    weight_max_evicted: u64,
    since_s: u64,
}

/// The tag by which an entry is found, and its weight: the maximum number of its requests.
#[derive(Debug, Clone, Copy)]
struct EntryMark {
    tag: u32,
    weight: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LedgerEntry {
    pub(super) origin: Box<str>,
    /// Requests since the entry was made, by verdict.
    pub(super) counts: Counts,
    /// The maximum number of requests before the entry was made.
    pub(super) error: u64,
    /// Seconds since 1970.
    pub(super) first_seen_s: u64,
    pub(super) last_seen_s: u64,
    pub(super) last_reason: Reason,
    pub(super) last_group: GroupLabel,
}

/// A copy of a tenant's ledger at one moment.
#[derive(Debug, Clone)]
pub(super) struct LedgerSnapshot {
    pub(super) entries: Vec<LedgerEntry>,
    /// Requests of origins whose entries were evicted.
    pub(super) forgotten: u64,
    /// The start of the record, in seconds since 1970.
    pub(super) since_s: u64,
}

/// Requests of one origin that are entered together.
#[derive(Debug, Clone, Copy)]
pub(super) struct OriginSighting<'a> {
    /// A well-formed origin, `null` or `malformed`.
    pub(super) origin: &'a [u8],
    pub(super) counts: Counts,
    pub(super) last_reason: Reason,
    pub(super) last_group: GroupLabel,
}

impl<'a> OriginSighting<'a> {
    /// One request.
    pub(super) fn of_one(origin: &'a [u8], outcome: RecordedOutcome) -> Self {
        let counts = VerdictLabel::ALL.map(|label| u64::from(label == outcome.verdict));
        OriginSighting { origin, counts, last_reason: outcome.reason, last_group: outcome.group }
    }
}

/// Another thread holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LedgerBusy;

impl TenantLedger {
    /// Creates an empty ledger.
    pub(crate) fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        let rows = Mutex::new(LedgerRows::new(ledger.now_s.load(Relaxed)));
        Arc::new(TenantLedger { ledger, rows, len: AtomicUsize::new(0) })
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Enters requests, unless another thread holds the lock.
    ///
    /// # Errors
    /// [`LedgerBusy`]; nothing is entered then.
    pub(super) fn try_enter(&self, seen: &OriginSighting<'_>) -> Result<(), LedgerBusy> {
        let mut rows = self.rows.try_lock().ok_or(LedgerBusy)?;
        self.enter_in(&mut rows, seen);
        Ok(())
    }

    /// Enters requests. Blocks until the lock is free.
    pub(super) fn enter(&self, seen: &OriginSighting<'_>) {
        self.enter_in(&mut self.rows.lock(), seen);
    }

    fn enter_in(&self, rows: &mut LedgerRows, seen: &OriginSighting<'_>) {
        let now_s = self.ledger.now_s.load(Relaxed);
        let tag = tag(seen.origin);
        if rows.add(tag, seen, now_s) {
            return;
        }
        let is_full = rows.entries.len() >= self.ledger.entries_max_tenant.load(Relaxed);
        if !is_full && self.ledger.reserve_entry() {
            rows.push(tag, seen, now_s);
            self.len.store(rows.entries.len(), Relaxed);
        } else if rows.replace_lightest(tag, seen, now_s) {
            self.ledger.count_evictions(1);
        } else {
            self.ledger.count_dropped(seen.counts.iter().sum());
        }
    }

    /// Evicts the entries with the smallest weights until at most `len_max` are left.
    pub(super) fn shorten_to(&self, len_max: usize) {
        if self.len() <= len_max {
            return;
        }
        let mut rows = self.rows.lock();
        let before = rows.entries.len();
        while rows.entries.len() > len_max && rows.remove_lightest() {}
        let evicted = before - rows.entries.len();
        self.ledger.count_evictions(evicted);
        self.settle(&mut rows, evicted);
    }

    /// Discards all entries and starts the record again.
    pub(super) fn clear(&self) {
        let mut rows = self.rows.lock();
        let empty = LedgerRows::new(self.ledger.now_s.load(Relaxed));
        let evicted = std::mem::replace(&mut *rows, empty).entries.len();
        self.settle(&mut rows, evicted);
    }

    /// Returns evicted entries to the ledger's total, and frees their memory.
    fn settle(&self, rows: &mut MutexGuard<'_, LedgerRows>, evicted: usize) {
        rows.marks.shrink_to_fit();
        rows.entries.shrink_to_fit();
        self.len.store(rows.entries.len(), Relaxed);
        self.ledger.give_back(evicted);
    }

    /// The time of the last entry; `None` if there is no entry.
    pub(super) fn last_seen_s(&self) -> Option<u64> {
        self.rows.lock().entries.iter().map(|entry| entry.last_seen_s).max()
    }

    pub(super) fn read(&self) -> LedgerSnapshot {
        let rows = self.rows.lock();
        LedgerSnapshot { entries: rows.entries.clone(), forgotten: rows.forgotten, since_s: rows.since_s }
    }
}

#[cfg(test)]
impl TenantLedger {
    /// The memory in use, origins included.
    pub(super) fn bytes(&self) -> usize {
        let rows = self.rows.lock();
        let tables =
            rows.marks.capacity() * size_of::<EntryMark>() + rows.entries.capacity() * size_of::<LedgerEntry>();
        size_of::<TenantLedger>() + tables + rows.entries.iter().map(|entry| entry.origin.len()).sum::<usize>()
    }
}

/// Dropping a tenant's ledger frees its entries.
impl Drop for TenantLedger {
    fn drop(&mut self) {
        self.ledger.give_back(self.rows.get_mut().entries.len());
    }
}

impl LedgerRows {
    fn new(since_s: u64) -> Self {
        let (marks, entries) = (Vec::new(), Vec::new());
        LedgerRows { marks, entries, forgotten: 0, weight_max_evicted: 0, since_s }
    }

    fn find(&self, tag: u32, origin: &[u8]) -> Option<usize> {
        let mut marks = self.marks.iter().enumerate();
        let is_it = |index: usize| self.entries.get(index).is_some_and(|entry| entry.origin.as_bytes() == origin);
        marks.find(|(index, mark)| mark.tag == tag && is_it(*index)).map(|(index, _)| index)
    }

    /// Adds to the origin's entry. Returns `false` if there is no entry.
    fn add(&mut self, tag: u32, seen: &OriginSighting<'_>, now_s: u64) -> bool {
        let index = self.find(tag, seen.origin);
        let found = index.and_then(|index| Some((self.marks.get_mut(index)?, self.entries.get_mut(index)?)));
        let Some((mark, entry)) = found else { return false };
        mark.weight = mark.weight.saturating_add(seen.counts.iter().sum());
        entry.counts.iter_mut().zip(seen.counts).for_each(|(count, more)| *count = count.saturating_add(more));
        entry.last_reason = seen.last_reason;
        entry.last_group = seen.last_group;
        entry.last_seen_s = now_s;
        true
    }

    fn push(&mut self, tag: u32, seen: &OriginSighting<'_>, now_s: u64) {
        let (mark, entry) = self.entry(tag, seen, now_s);
        self.marks.push(mark);
        self.entries.push(entry);
    }

    /// Replaces the entry with the smallest weight. Returns `false` if there is no entry.
    fn replace_lightest(&mut self, tag: u32, seen: &OriginSighting<'_>, now_s: u64) -> bool {
        let Some(index) = self.lightest() else { return false };
        self.note_evicted(index);
        let (mark, entry) = self.entry(tag, seen, now_s);
        if let (Some(old_mark), Some(old)) = (self.marks.get_mut(index), self.entries.get_mut(index)) {
            (*old_mark, *old) = (mark, entry);
        }
        true
    }

    /// Removes the entry with the smallest weight. Returns `false` if there is no entry.
    fn remove_lightest(&mut self) -> bool {
        let Some(index) = self.lightest() else { return false };
        self.note_evicted(index);
        self.marks.swap_remove(index);
        self.entries.swap_remove(index);
        true
    }

    fn lightest(&self) -> Option<usize> {
        self.marks.iter().enumerate().min_by_key(|(_, mark)| mark.weight).map(|(index, _)| index)
    }

    fn note_evicted(&mut self, index: usize) {
        if let (Some(mark), Some(entry)) = (self.marks.get(index), self.entries.get(index)) {
            self.weight_max_evicted = self.weight_max_evicted.max(mark.weight);
            self.forgotten = self.forgotten.saturating_add(entry.counts.iter().sum());
        }
    }

    /// Creates an entry. Its origin may have been evicted before, so it has an error.
    fn entry(&self, tag: u32, seen: &OriginSighting<'_>, now_s: u64) -> (EntryMark, LedgerEntry) {
        let error = self.weight_max_evicted;
        let mark = EntryMark { tag, weight: error.saturating_add(seen.counts.iter().sum()) };
        let entry = LedgerEntry {
            // Origins and the two fixed names are ASCII.
            origin: String::from_utf8_lossy(seen.origin).into(),
            counts: seen.counts,
            error,
            first_seen_s: now_s,
            last_seen_s: now_s,
            last_reason: seen.last_reason,
            last_group: seen.last_group,
        };
        (mark, entry)
    }
}

/// A short hash of an origin, with random keys: clients choose what is hashed (hash flooding).
fn tag(origin: &[u8]) -> u32 {
    static HASHER: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
    HASHER.hash_one(origin) as u32
}
