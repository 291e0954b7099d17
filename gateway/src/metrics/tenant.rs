//! What is counted for one tenant.
//!
//! A tenant that is never asked for anything costs its name and two pointers: its tables are allocated at the
//! first count, and those of a kind of request at the first of that kind. Afterwards a count is one atomic
//! addition, without a lock, and in a hot tenant to a cell of the worker's own: see [`Cells`].

use std::array;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crossgate_policy::{EntryId, Kind, Policy, Reason};

use super::cells::Cells;
use super::origins::{EntryHandles, Handle, OriginSeries, SeriesBudget};
use super::{Change, VerdictLabel};
use crate::ledger::{Ledger, Page};

const REASONS: usize = Reason::ALL.len();
const CELLS: usize = VerdictLabel::ALL.len() * REASONS;

/// The counters of one tenant, by which every snapshot that names it counts.
#[derive(Debug)]
pub struct TenantCounters {
    id: Arc<str>,
    budget: Arc<SeriesBudget>,
    tables: OnceLock<Box<Tables>>,
    page: OnceLock<Arc<Page>>,
}

#[derive(Debug)]
struct Tables {
    requests: [OnceLock<Cells>; Kind::ALL.len()],
    disagreements: Cells,
    other: Cells,
    origins: OriginSeries,
}

impl TenantCounters {
    pub(super) fn new(id: Arc<str>, budget: Arc<SeriesBudget>) -> Self {
        TenantCounters { id, budget, tables: OnceLock::new(), page: OnceLock::new() }
    }

    /// The tenant's id, as its series carry it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Counts one request.
    pub fn count_request(&self, kind: Kind, verdict: VerdictLabel, reason: Reason) {
        let Some(table) = self.tables().requests.get(kind as usize) else {
            return;
        };
        table.get_or_init(|| Cells::new(CELLS)).count(verdict as usize * REASONS + reason as usize);
    }

    /// Fetches what counting a request of this kind will write to. With thousands of tenants that is in no cache, and comes from memory
    /// while the request is judged.
    pub(crate) fn foresee(&self, kind: Kind) {
        let table = self.tables.get().and_then(|tables| tables.requests.get(kind as usize)?.get());
        black_box(table.map(Cells::first));
    }

    /// Counts one request under the configured entry that decided it, or under `other`. For requests whose origin was
    /// judged: of those without one, or from the same origin, this family says nothing.
    pub fn count_origin(&self, handles: &EntryHandles, policy: &Policy, entry: Option<EntryId>, verdict: VerdictLabel) {
        let tables = self.tables();
        let place = entry.and_then(|entry| {
            let (index, count) = index_among_all(policy, entry);
            let place = handles.place(index, count, verdict)?;
            Some(place.get_or_init(|| tables.origins.handle(policy.entry_text(entry), verdict)))
        });
        match place {
            Some(Handle::Own(counter)) => {
                counter.count(0);
            }
            Some(Handle::Overflow) => {
                tables.origins.count_overflow();
                tables.other.count(verdict as usize);
            }
            None => {
                tables.other.count(verdict as usize);
            }
        }
    }

    /// Its page of this ledger, of which there is one.
    pub fn page(&self, ledger: &Arc<Ledger>) -> &Arc<Page> {
        self.page.get_or_init(|| Page::new(Arc::clone(ledger)))
    }

    /// The same, unless nothing was recorded yet.
    pub fn page_if_any(&self) -> Option<&Arc<Page>> {
        self.page.get()
    }

    /// Counts one answer that enforcing a reported policy would have changed.
    pub fn count_disagreement(&self, change: Change) {
        self.tables().disagreements.count(change as usize);
    }

    /// The entries that have a series, in order; an entry is there once for every verdict.
    pub(crate) fn counted_origins(&self) -> Vec<Box<str>> {
        let mut entries = Vec::new();
        if let Some(tables) = self.tables.get() {
            tables.origins.each(|entry, _, _| entries.push(entry.into()));
        }
        entries
    }

    /// Drops the series of the other entries, which makes room for new ones.
    pub(crate) fn retain_origins(&self, keep: impl Fn(&str) -> bool) {
        if let Some(tables) = self.tables.get() {
            tables.origins.retain(keep);
        }
    }

    fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| {
            Box::new(Tables {
                requests: array::from_fn(|_| OnceLock::new()),
                disagreements: Cells::new(Change::ALL.len()),
                other: Cells::new(VerdictLabel::ALL.len()),
                origins: OriginSeries::new(Arc::clone(&self.budget)),
            })
        })
    }

    /// Calls `visit` with every request series that has counted.
    pub(super) fn each_request(&self, mut visit: impl FnMut(Kind, VerdictLabel, Reason, u64)) {
        let Some(tables) = self.tables.get() else {
            return;
        };
        for (kind, table) in Kind::ALL.iter().zip(&tables.requests) {
            let Some(table) = table.get() else { continue };
            for (verdict, first) in VerdictLabel::ALL.iter().zip((0..).step_by(REASONS)) {
                let counts = (first..).map(|index| table.read(index));
                above_zero(&Reason::ALL, counts).for_each(|(reason, count)| visit(*kind, *verdict, reason, count));
            }
        }
    }

    /// Calls `visit` with every origin series that has counted, `other` last.
    pub(super) fn each_origin(&self, mut visit: impl FnMut(&str, VerdictLabel, u64)) {
        let Some(tables) = self.tables.get() else {
            return;
        };
        tables.origins.each(&mut visit);
        let counts = (0..).map(|index| tables.other.read(index));
        above_zero(&VerdictLabel::ALL, counts).for_each(|(verdict, count)| visit("other", verdict, count));
    }

    /// Requests whose entry found no room for a series.
    pub(super) fn overflow(&self) -> u64 {
        self.tables.get().map_or(0, |tables| tables.origins.overflow())
    }

    /// Calls `visit` with every kind of disagreement that has counted.
    pub(super) fn each_disagreement(&self, mut visit: impl FnMut(Change, u64)) {
        let Some(tables) = self.tables.get() else {
            return;
        };
        let counts = (0..).map(|index| tables.disagreements.read(index));
        above_zero(&Change::ALL, counts).for_each(|(change, count)| visit(change, count));
    }
}

/// The place of an entry among all of its policy's, the template's first, and how many there are.
fn index_among_all(policy: &Policy, entry: EntryId) -> (usize, usize) {
    let counts = policy.entry_counts();
    let own = || counts.template + entry.own_index().unwrap_or(0);
    (entry.template_index().unwrap_or_else(own), counts.template + counts.own)
}

/// The members of a closed set whose cell is not zero: a series exists once counted.
pub(super) fn counted<'a, T: Copy>(set: &'a [T], cells: &'a [AtomicU64]) -> impl Iterator<Item = (T, u64)> + 'a {
    above_zero(set, cells.iter().map(|cell| cell.load(Relaxed)))
}

fn above_zero<T: Copy>(set: &[T], counts: impl Iterator<Item = u64>) -> impl Iterator<Item = (T, u64)> {
    set.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
}
