//! Counts by configured origin entry, with a limit on the number of series.
//!
//! A series is an entry's text, its group and a verdict. Its counter lives in the tenant and
//! survives a recompile. A compiled route keeps a handle to it: found by the entry's text at the
//! first count, by its index from then on. A reload drops the series of entries that no route has
//! any more. Counts beyond the limits go to the tenant's `other` series and are also counted as
//! overflow.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::responses::SharedDurations;

use crate::metrics::VerdictLabel;
use crossgate_telemetry::CounterCells;

/// The limit on origin series of one tenant. It covers every entry that people look at, and keeps a
/// scrape small.
pub const SERIES_MAX_TENANT: usize = 2_000;
/// The limit on origin series of all tenants together.
pub const SERIES_MAX_TOTAL: usize = 20_000;

/// The number of handles in a block, and of blocks in a shelf. A route that has counted one entry
/// of a million has allocated one of each, 9 KiB in total. A route that has counted nothing has
/// allocated nothing.
const BLOCK_LEN: usize = 64;
const SHELF_LEN: usize = 256;

const VERDICTS: usize = VerdictLabel::ALL.len();

/// A compiled route's handles to the counters of its policy's entries. Use it with the counters of
/// one tenant only.
#[derive(Debug, Default)]
pub struct EntryHandles {
    table: OnceLock<SeriesTable>,
}

#[derive(Debug)]
enum SeriesTable {
    /// All handles in one block, the usual case.
    Few(Table<SeriesHandle>),
    Many(Table<Table<Table<SeriesHandle>>>),
}

/// Slots that are filled at first use.
type Table<T> = Box<[OnceLock<T>]>;

#[derive(Clone, Debug)]
pub(crate) enum SeriesHandle {
    Own(Arc<CounterCells>),
    /// The limit was reached when this entry first occurred.
    Overflow,
}

impl EntryHandles {
    /// Creates the handles of a route that has counted nothing yet.
    pub fn new() -> Self {
        EntryHandles::default()
    }

    /// Loads the memory for counting the first entry into the CPU cache, as
    /// [`TenantCounters::prefetch`](super::TenantCounters::prefetch) does.
    pub(crate) fn prefetch(&self) {
        let first = match self.table.get() {
            Some(SeriesTable::Few(few)) => few.first().and_then(OnceLock::get),
            Some(SeriesTable::Many(_)) | None => None,
        };
        black_box(match first {
            Some(SeriesHandle::Own(counter)) => counter.first(),
            Some(SeriesHandle::Overflow) | None => 0,
        });
    }

    /// The slot of one entry's handle; `None` if the entry is not among `entries`.
    pub(crate) fn slot(&self, entry: usize, entries: usize, verdict: VerdictLabel) -> Option<&OnceLock<SeriesHandle>> {
        let len = entries * VERDICTS;
        let index = entry * VERDICTS + verdict as usize;
        let blocks = len.div_ceil(BLOCK_LEN);
        let few_or_many = || match blocks {
            ..=1 => SeriesTable::Few(empty_table(len)),
            _ => SeriesTable::Many(empty_table(blocks.div_ceil(SHELF_LEN))),
        };
        let shelves = match self.table.get_or_init(few_or_many) {
            SeriesTable::Few(few) => return few.get(index),
            SeriesTable::Many(shelves) => shelves,
        };
        let block = index / BLOCK_LEN;
        let shelf = shelves.get(block / SHELF_LEN)?.get_or_init(|| allocate_part(blocks, block, SHELF_LEN));
        shelf.get(block % SHELF_LEN)?.get_or_init(|| allocate_part(len, index, BLOCK_LEN)).get(index % BLOCK_LEN)
    }
}

/// Allocates the part that contains `index`, of at most `len_max` slots, of a table of `len` slots.
fn allocate_part<T>(len: usize, index: usize, len_max: usize) -> Table<T> {
    let start = index - index % len_max;
    empty_table(len.saturating_sub(start).min(len_max))
}

fn empty_table<T>(len: usize) -> Table<T> {
    std::iter::repeat_with(OnceLock::new).take(len).collect()
}

/// The state that all tenants share: the number of series, and the histogram of tenants without
/// their own.
#[derive(Debug)]
pub(crate) struct SeriesBudget {
    taken: AtomicUsize,
    pub(crate) durations: Arc<SharedDurations>,
}

impl Default for SeriesBudget {
    fn default() -> Self {
        SeriesBudget { taken: AtomicUsize::new(0), durations: Arc::new(SharedDurations::new()) }
    }
}

impl SeriesBudget {
    fn take(&self) -> bool {
        let one_more = |taken| (taken < SERIES_MAX_TOTAL).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }
}

/// Each series is a row with one count, by entry, group and verdict.
type Series = BTreeMap<(Box<str>, Box<str>, VerdictLabel), Arc<CounterCells>>;

/// The origin series of one tenant.
#[derive(Debug)]
pub(crate) struct OriginSeries {
    by_entry: Mutex<Series>,
    /// The number of counts beyond the limits.
    overflow: AtomicU64,
    budget: Arc<SeriesBudget>,
}

impl OriginSeries {
    pub(crate) fn new(budget: Arc<SeriesBudget>) -> Self {
        OriginSeries { by_entry: Mutex::default(), overflow: AtomicU64::new(0), budget }
    }

    /// The counter of an entry, its group and a verdict; created if the limits permit.
    pub(crate) fn handle(&self, entry: &str, group: &str, verdict: VerdictLabel) -> SeriesHandle {
        let mut by_entry = self.by_entry.lock();
        let key = (Box::from(entry), Box::from(group), verdict);
        if let Some(counter) = by_entry.get(&key) {
            return SeriesHandle::Own(Arc::clone(counter));
        }
        if by_entry.len() >= SERIES_MAX_TENANT || !self.budget.take() {
            return SeriesHandle::Overflow;
        }
        SeriesHandle::Own(Arc::clone(by_entry.entry(key).or_insert_with(|| Arc::new(CounterCells::new(1)))))
    }

    /// Drops the series of entries and groups for which `keep` returns false.
    pub(crate) fn retain(&self, keep: impl Fn(&str, &str) -> bool) {
        let mut by_entry = self.by_entry.lock();
        let before = by_entry.len();
        by_entry.retain(|(entry, group, _), _| keep(entry, group));
        self.budget.taken.fetch_sub(before - by_entry.len(), Relaxed);
    }

    pub(crate) fn count_overflow(&self) {
        self.overflow.fetch_add(1, Relaxed);
    }

    pub(crate) fn overflow(&self) -> u64 {
        self.overflow.load(Relaxed)
    }

    /// Calls `visit` with every entry, group, verdict and count.
    pub(crate) fn each(&self, mut visit: impl FnMut(&str, &str, VerdictLabel, u64)) {
        let by_entry = self.by_entry.lock();
        for ((entry, group, verdict), count) in by_entry.iter() {
            visit(entry, group, *verdict, count.read(0));
        }
    }
}

impl Drop for OriginSeries {
    fn drop(&mut self) {
        let by_entry = self.by_entry.get_mut();
        self.budget.taken.fetch_sub(by_entry.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_own(handle: &SeriesHandle) -> bool {
        matches!(handle, SeriesHandle::Own(_))
    }

    #[test]
    fn origin_series_of_a_tenant_are_limited() {
        let series = OriginSeries::new(Arc::default());
        let handles = (0..SERIES_MAX_TENANT + 1)
            .map(|i| series.handle(&i.to_string(), "", VerdictLabel::Allow))
            .collect::<Vec<_>>();
        assert_eq!(handles.iter().filter(|handle| is_own(handle)).count(), SERIES_MAX_TENANT);
        assert!(is_own(&series.handle("0", "", VerdictLabel::Allow)), "a known series stays");
        assert!(!is_own(&series.handle("0", "", VerdictLabel::Deny)));
    }

    #[test]
    fn origin_series_share_a_limit_that_dropped_tenants_release() {
        let budget = Arc::new(SeriesBudget::default());
        let tenants = (0..SERIES_MAX_TOTAL / SERIES_MAX_TENANT)
            .map(|_| OriginSeries::new(Arc::clone(&budget)))
            .collect::<Vec<_>>();
        for tenant in &tenants {
            for i in 0..SERIES_MAX_TENANT {
                tenant.handle(&i.to_string(), "", VerdictLabel::Allow);
            }
        }
        let late = OriginSeries::new(budget);
        assert!(!is_own(&late.handle("a", "", VerdictLabel::Allow)));
        drop(tenants);
        assert!(is_own(&late.handle("a", "", VerdictLabel::Allow)));
    }

    #[test]
    fn every_entry_and_verdict_has_its_own_slot() {
        for entries in [1, BLOCK_LEN / VERDICTS, BLOCK_LEN, BLOCK_LEN * SHELF_LEN / VERDICTS + 200] {
            check_slots(entries);
        }
    }

    fn check_slots(entries: usize) {
        let handles = EntryHandles::new();
        let mut addresses = Vec::new();
        for entry in 0..entries {
            for verdict in VerdictLabel::ALL {
                addresses.push(std::ptr::from_ref(handles.slot(entry, entries, verdict).unwrap()));
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), entries * VERDICTS);
        assert!(handles.slot(entries, entries, VerdictLabel::Allow).is_none());
        assert!(handles.slot(entries * 100, entries, VerdictLabel::Allow).is_none());
    }

    #[test]
    fn one_count_among_a_million_entries_allocates_little() {
        let handles = EntryHandles::new();
        handles.slot(999_999, 1_000_000, VerdictLabel::Deny).unwrap();
        let Some(SeriesTable::Many(shelves)) = handles.table.get() else { panic!("few") };
        let shelf = shelves.last().unwrap().get().unwrap();
        let block = shelf.iter().find_map(OnceLock::get).unwrap();
        let bytes = size_of_val(&**shelves) + size_of_val(&**shelf) + size_of_val(&**block);
        assert!(bytes < 16 << 10, "{bytes}");
        assert_eq!(shelves.iter().filter_map(OnceLock::get).count(), 1);
    }
}
