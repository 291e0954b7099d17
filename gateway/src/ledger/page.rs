//! One tenant's origins: those that are seen most, by the space-saving algorithm (Metwally, Agrawal and El Abbadi, 2005).
//!
//! An origin without an entry takes the place of the one that is seen least, if there is no other. What is told of an entry is exact
//! since it was made; how much the origin may have been seen before that is its error, which is what the entries that were given up had at most.
//! What those had counted is kept as one sum. Origins are few, so they are looked through: a tag of each stands beside the others'.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ahash::RandomState;
use crossgate_policy::Reason;
use parking_lot::{Mutex, MutexGuard};

use super::{Counts, Ledger};

/// One tenant's page.
#[derive(Debug)]
pub struct Page {
    ledger: Arc<Ledger>,
    rows: Mutex<Rows>,
    /// Of the rows, for whoever wants no more than that.
    len: AtomicUsize,
}

/// The entries, and what is known of those that were given up.
#[derive(Debug)]
struct Rows {
    /// As many as there are entries.
    marks: Vec<Mark>,
    entries: Vec<Entry>,
    /// What entries that were given up had counted, together.
    forgotten: u64,
    /// The most that one of them weighed.
    weight_max_gone: u64,
    since_s: u64,
}

/// What an entry is found by, and how much it weighs: what its origin was seen at most.
#[derive(Debug, Clone, Copy)]
struct Mark {
    tag: u32,
    weight: u64,
}

/// What is known of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) origin: Box<str>,
    /// Since the entry was made.
    pub(super) counts: Counts,
    /// How often it may have been seen before, at most.
    pub(super) error: u64,
    /// Seconds since 1970.
    pub(super) first_seen_s: u64,
    pub(super) last_seen_s: u64,
    pub(super) last_reason: Reason,
}

/// What a page says at one moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) entries: Vec<Entry>,
    /// Requests of origins whose entries were given up.
    pub(super) forgotten: u64,
    /// When the page was begun, in seconds since 1970.
    pub(super) since_s: u64,
}

/// What is entered at once of one origin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Well-formed, or one of the two names for what is no origin.
    pub(super) origin: &'a [u8],
    pub(super) counts: Counts,
    pub(super) last_reason: Reason,
}

/// Somebody else is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

impl Page {
    /// An empty one.
    pub(crate) fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        let rows = Mutex::new(Rows::new(ledger.now_s.load(Relaxed)));
        Arc::new(Page { ledger, rows, len: AtomicUsize::new(0) })
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Enters what was seen, unless somebody else is writing.
    ///
    /// # Errors
    /// [`Busy`]; nothing is entered then.
    pub(super) fn try_enter(&self, seen: &Seen<'_>) -> Result<(), Busy> {
        let mut rows = self.rows.try_lock().ok_or(Busy)?;
        self.enter_in(&mut rows, seen);
        Ok(())
    }

    /// Enters what was seen. Waits for others.
    pub(super) fn enter(&self, seen: &Seen<'_>) {
        self.enter_in(&mut self.rows.lock(), seen);
    }

    fn enter_in(&self, rows: &mut Rows, seen: &Seen<'_>) {
        let now_s = self.ledger.now_s.load(Relaxed);
        let tag = tag(seen.origin);
        if rows.add(tag, seen, now_s) {
            return;
        }
        let is_full = rows.entries.len() >= self.ledger.entries_max_tenant.load(Relaxed);
        if !is_full && self.ledger.take_place() {
            rows.push(tag, seen, now_s);
            self.len.store(rows.entries.len(), Relaxed);
        } else if rows.replace_lightest(tag, seen, now_s) {
            self.ledger.count_evictions(1);
        } else {
            self.ledger.count_dropped(seen.counts.iter().sum());
        }
    }

    /// Gives up the lightest entries until there are no more than that.
    pub(super) fn shorten_to(&self, len_max: usize) {
        if self.len() <= len_max {
            return;
        }
        let mut rows = self.rows.lock();
        let before = rows.entries.len();
        while rows.entries.len() > len_max && rows.remove_lightest() {}
        let given_up = before - rows.entries.len();
        self.ledger.count_evictions(given_up);
        self.settle(&mut rows, given_up);
    }

    /// Begins anew.
    pub(super) fn clear(&self) {
        let mut rows = self.rows.lock();
        let anew = Rows::new(self.ledger.now_s.load(Relaxed));
        let given_up = std::mem::replace(&mut *rows, anew).entries.len();
        self.settle(&mut rows, given_up);
    }

    /// Gives places back, and the memory.
    fn settle(&self, rows: &mut MutexGuard<'_, Rows>, given_up: usize) {
        rows.marks.shrink_to_fit();
        rows.entries.shrink_to_fit();
        self.len.store(rows.entries.len(), Relaxed);
        self.ledger.give_back(given_up);
    }

    /// When anything was last entered; `None` if there is no entry.
    pub(super) fn last_seen_s(&self) -> Option<u64> {
        self.rows.lock().entries.iter().map(|entry| entry.last_seen_s).max()
    }

    pub(super) fn read(&self) -> Reading {
        let rows = self.rows.lock();
        Reading { entries: rows.entries.clone(), forgotten: rows.forgotten, since_s: rows.since_s }
    }
}

#[cfg(test)]
impl Page {
    /// What it takes, origins included.
    pub(super) fn bytes(&self) -> usize {
        let rows = self.rows.lock();
        let tables = rows.marks.capacity() * size_of::<Mark>() + rows.entries.capacity() * size_of::<Entry>();
        size_of::<Page>() + tables + rows.entries.iter().map(|entry| entry.origin.len()).sum::<usize>()
    }
}

/// With the tenant go its entries.
impl Drop for Page {
    fn drop(&mut self) {
        self.ledger.give_back(self.rows.get_mut().entries.len());
    }
}

impl Rows {
    fn new(since_s: u64) -> Self {
        let (marks, entries) = (Vec::new(), Vec::new());
        Rows { marks, entries, forgotten: 0, weight_max_gone: 0, since_s }
    }

    fn find(&self, tag: u32, origin: &[u8]) -> Option<usize> {
        let mut marks = self.marks.iter().enumerate();
        let is_it = |index: usize| self.entries.get(index).is_some_and(|entry| entry.origin.as_bytes() == origin);
        marks.find(|(index, mark)| mark.tag == tag && is_it(*index)).map(|(index, _)| index)
    }

    /// Adds to the origin's entry, if it has one.
    fn add(&mut self, tag: u32, seen: &Seen<'_>, now_s: u64) -> bool {
        let index = self.find(tag, seen.origin);
        let found = index.and_then(|index| Some((self.marks.get_mut(index)?, self.entries.get_mut(index)?)));
        let Some((mark, entry)) = found else { return false };
        mark.weight = mark.weight.saturating_add(seen.counts.iter().sum());
        entry.counts.iter_mut().zip(seen.counts).for_each(|(count, more)| *count = count.saturating_add(more));
        entry.last_reason = seen.last_reason;
        entry.last_seen_s = now_s;
        true
    }

    fn push(&mut self, tag: u32, seen: &Seen<'_>, now_s: u64) {
        let (mark, entry) = self.entry(tag, seen, now_s);
        self.marks.push(mark);
        self.entries.push(entry);
    }

    /// Whether there was an entry to replace.
    fn replace_lightest(&mut self, tag: u32, seen: &Seen<'_>, now_s: u64) -> bool {
        let Some(index) = self.lightest() else { return false };
        self.note_gone(index);
        let (mark, entry) = self.entry(tag, seen, now_s);
        if let (Some(old_mark), Some(old)) = (self.marks.get_mut(index), self.entries.get_mut(index)) {
            (*old_mark, *old) = (mark, entry);
        }
        true
    }

    /// Whether there was one to remove.
    fn remove_lightest(&mut self) -> bool {
        let Some(index) = self.lightest() else { return false };
        self.note_gone(index);
        self.marks.swap_remove(index);
        self.entries.swap_remove(index);
        true
    }

    fn lightest(&self) -> Option<usize> {
        self.marks.iter().enumerate().min_by_key(|(_, mark)| mark.weight).map(|(index, _)| index)
    }

    fn note_gone(&mut self, index: usize) {
        if let (Some(mark), Some(entry)) = (self.marks.get(index), self.entries.get(index)) {
            self.weight_max_gone = self.weight_max_gone.max(mark.weight);
            self.forgotten = self.forgotten.saturating_add(entry.counts.iter().sum());
        }
    }

    /// A new entry. Its origin may be one of those that were given up.
    fn entry(&self, tag: u32, seen: &Seen<'_>, now_s: u64) -> (Mark, Entry) {
        let error = self.weight_max_gone;
        let mark = Mark { tag, weight: error.saturating_add(seen.counts.iter().sum()) };
        let entry = Entry {
            // ASCII, all of it.
            origin: String::from_utf8_lossy(seen.origin).into(),
            counts: seen.counts,
            error,
            first_seen_s: now_s,
            last_seen_s: now_s,
            last_reason: seen.last_reason,
        };
        (mark, entry)
    }
}

/// With random keys: clients choose what is hashed.
fn tag(origin: &[u8]) -> u32 {
    static HASHER: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
    HASHER.hash_one(origin) as u32
}
