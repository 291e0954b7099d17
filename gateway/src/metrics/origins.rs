//! Counts by configured origin entry, with a bound on how many series there may be.
//!
//! A series is an entry's text and a verdict. Its counter lives in the tenant and survives recompiles; a compiled route
//! keeps a handle to it, found by the entry's text at the first count and by its index from then on. After a reload the
//! series of entries that no route has any more are dropped. Series beyond
//! the bounds share the tenant's `other`, and every count that lands there for that reason is counted as overflow.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::VerdictLabel;
use super::cells::Cells;

/// How many origin series one tenant may have: enough for every entry somebody reads, and a scrape stays small.
pub const SERIES_MAX_TENANT: usize = 2_000;
/// How many origin series all tenants may have together.
pub const SERIES_MAX_TOTAL: usize = 20_000;

/// Handles in one block, and blocks in one shelf. A route that has counted one of a million entries has allocated one of
/// each, 9 KiB in all; one that has counted nothing, nothing.
const BLOCK_LEN: usize = 64;
const SHELF_LEN: usize = 256;

const VERDICTS: usize = VerdictLabel::ALL.len();

/// A compiled route's handles to the counters of its policy's entries. For the counters of one tenant only.
#[derive(Debug, Default)]
pub struct EntryHandles {
    places: OnceLock<Places>,
}

#[derive(Debug)]
enum Places {
    /// All in one block, as nearly always.
    Few(Table<Handle>),
    Many(Table<Table<Table<Handle>>>),
}

/// Places that are filled when they are first looked for.
type Table<T> = Box<[OnceLock<T>]>;

#[derive(Clone, Debug)]
pub(super) enum Handle {
    Own(Arc<Cells>),
    /// The bound was reached when this entry first came up.
    Overflow,
}

impl EntryHandles {
    /// Handles of a route that has counted nothing yet.
    pub fn new() -> Self {
        EntryHandles::default()
    }

    /// Fetches what counting the first entry will write to, as [`TenantCounters::foresee`](super::TenantCounters::foresee) does.
    pub(crate) fn foresee(&self) {
        let first = match self.places.get() {
            Some(Places::Few(few)) => few.first().and_then(OnceLock::get),
            Some(Places::Many(_)) | None => None,
        };
        black_box(match first {
            Some(Handle::Own(counter)) => counter.first(),
            Some(Handle::Overflow) | None => 0,
        });
    }

    /// The place of one entry's handle; `None` if the entry is not among `entries`.
    pub(super) fn place(&self, entry: usize, entries: usize, verdict: VerdictLabel) -> Option<&OnceLock<Handle>> {
        let len = entries * VERDICTS;
        let index = entry * VERDICTS + verdict as usize;
        let blocks = len.div_ceil(BLOCK_LEN);
        let few_or_many = || match blocks {
            ..=1 => Places::Few(empty(len)),
            _ => Places::Many(empty(blocks.div_ceil(SHELF_LEN))),
        };
        let shelves = match self.places.get_or_init(few_or_many) {
            Places::Few(few) => return few.get(index),
            Places::Many(shelves) => shelves,
        };
        let block = index / BLOCK_LEN;
        let shelf = shelves.get(block / SHELF_LEN)?.get_or_init(|| part(blocks, block, SHELF_LEN));
        shelf.get(block % SHELF_LEN)?.get_or_init(|| part(len, index, BLOCK_LEN)).get(index % BLOCK_LEN)
    }
}

/// The part, of so many places at most, in which `index` lies, of a whole of `len`.
fn part<T>(len: usize, index: usize, len_max: usize) -> Table<T> {
    let start = index - index % len_max;
    empty(len.saturating_sub(start).min(len_max))
}

fn empty<T>(len: usize) -> Table<T> {
    std::iter::repeat_with(OnceLock::new).take(len).collect()
}

/// What all tenants share: the number of series there are.
#[derive(Debug, Default)]
pub(super) struct SeriesBudget {
    taken: AtomicUsize,
}

impl SeriesBudget {
    fn take(&self) -> bool {
        let one_more = |taken| (taken < SERIES_MAX_TOTAL).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }
}

/// Each a row of one count.
type Series = BTreeMap<(Box<str>, VerdictLabel), Arc<Cells>>;

/// The origin series of one tenant.
#[derive(Debug)]
pub(super) struct OriginSeries {
    by_entry: Mutex<Series>,
    /// Counts that found no room.
    overflow: AtomicU64,
    budget: Arc<SeriesBudget>,
}

impl OriginSeries {
    pub(super) fn new(budget: Arc<SeriesBudget>) -> Self {
        OriginSeries { by_entry: Mutex::default(), overflow: AtomicU64::new(0), budget }
    }

    /// The counter of an entry and a verdict, new if there is room for it.
    pub(super) fn handle(&self, entry: &str, verdict: VerdictLabel) -> Handle {
        let mut by_entry = self.by_entry.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(entry), verdict);
        if let Some(counter) = by_entry.get(&key) {
            return Handle::Own(Arc::clone(counter));
        }
        if by_entry.len() >= SERIES_MAX_TENANT || !self.budget.take() {
            return Handle::Overflow;
        }
        Handle::Own(Arc::clone(by_entry.entry(key).or_insert_with(|| Arc::new(Cells::new(1)))))
    }

    /// Drops the series of the entries that are not to be kept.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut by_entry = self.by_entry.lock().unwrap_or_else(PoisonError::into_inner);
        let before = by_entry.len();
        by_entry.retain(|(entry, _), _| keep(entry));
        self.budget.taken.fetch_sub(before - by_entry.len(), Relaxed);
    }

    pub(super) fn count_overflow(&self) {
        self.overflow.fetch_add(1, Relaxed);
    }

    pub(super) fn overflow(&self) -> u64 {
        self.overflow.load(Relaxed)
    }

    /// Calls `visit` with every entry, verdict and count.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, VerdictLabel, u64)) {
        let by_entry = self.by_entry.lock().unwrap_or_else(PoisonError::into_inner);
        for ((entry, verdict), count) in by_entry.iter() {
            visit(entry, *verdict, count.read(0));
        }
    }
}

impl Drop for OriginSeries {
    fn drop(&mut self) {
        let by_entry = self.by_entry.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.taken.fetch_sub(by_entry.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_own(handle: &Handle) -> bool {
        matches!(handle, Handle::Own(_))
    }

    #[test]
    fn a_tenant_has_no_more_series_than_its_bound() {
        let series = OriginSeries::new(Arc::default());
        let handles =
            (0..SERIES_MAX_TENANT + 1).map(|i| series.handle(&i.to_string(), VerdictLabel::Allow)).collect::<Vec<_>>();
        assert_eq!(handles.iter().filter(|handle| is_own(handle)).count(), SERIES_MAX_TENANT);
        assert!(is_own(&series.handle("0", VerdictLabel::Allow)), "a known series stays");
        assert!(!is_own(&series.handle("0", VerdictLabel::Deny)));
    }

    #[test]
    fn all_tenants_share_a_bound_and_a_dropped_one_gives_back() {
        let budget = Arc::new(SeriesBudget::default());
        let tenants = (0..SERIES_MAX_TOTAL / SERIES_MAX_TENANT)
            .map(|_| OriginSeries::new(Arc::clone(&budget)))
            .collect::<Vec<_>>();
        for tenant in &tenants {
            for i in 0..SERIES_MAX_TENANT {
                tenant.handle(&i.to_string(), VerdictLabel::Allow);
            }
        }
        let late = OriginSeries::new(budget);
        assert!(!is_own(&late.handle("a", VerdictLabel::Allow)));
        drop(tenants);
        assert!(is_own(&late.handle("a", VerdictLabel::Allow)));
    }

    #[test]
    fn every_entry_and_verdict_has_a_place_of_its_own() {
        for entries in [1, BLOCK_LEN / VERDICTS, BLOCK_LEN, BLOCK_LEN * SHELF_LEN / VERDICTS + 200] {
            check_places(entries);
        }
    }

    fn check_places(entries: usize) {
        let handles = EntryHandles::new();
        let mut places = Vec::new();
        for entry in 0..entries {
            for verdict in VerdictLabel::ALL {
                places.push(std::ptr::from_ref(handles.place(entry, entries, verdict).unwrap()));
            }
        }
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), entries * VERDICTS);
        assert!(handles.place(entries, entries, VerdictLabel::Allow).is_none());
        assert!(handles.place(entries * 100, entries, VerdictLabel::Allow).is_none());
    }

    #[test]
    fn one_count_among_a_million_entries_allocates_little() {
        let handles = EntryHandles::new();
        handles.place(999_999, 1_000_000, VerdictLabel::Deny).unwrap();
        let Some(Places::Many(shelves)) = handles.places.get() else { panic!("few") };
        let shelf = shelves.last().unwrap().get().unwrap();
        let block = shelf.iter().find_map(OnceLock::get).unwrap();
        let bytes = size_of_val(&**shelves) + size_of_val(&**shelf) + size_of_val(&**block);
        assert!(bytes < 16 << 10, "{bytes}");
        assert_eq!(shelves.iter().filter_map(OnceLock::get).count(), 1);
    }
}
