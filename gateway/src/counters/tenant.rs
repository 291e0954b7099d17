//! The counters of one tenant.
//!
//! A tenant without requests costs its name and two pointers: its tables are allocated at the first
//! count, and those of a kind of request at the first of that kind. After that, a count is one
//! atomic addition without a lock, and in a busy tenant to a cell of the worker: see
//! [`CounterCells`].

use std::array;
use std::hint::black_box;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossgate_policy::{EntryId, GroupId, Policy, Reason, RequestKind};
use http::StatusCode;

use super::origins::{EntryHandles, OriginSeries, SeriesBudget, SeriesHandle};
use super::responses::{ResponseCounters, SentResponse};
use crate::ledger::{Ledger, TenantLedger};
use crate::metrics::{Change, ResponseClass, ResponseSource, VerdictLabel};
use crossgate_telemetry::{CounterCells, HistogramSnapshot};

const REASONS: usize = Reason::ALL.len();
const CELLS: usize = VerdictLabel::ALL.len() * REASONS;

/// The counters of one tenant, shared by all snapshots that contain the tenant.
#[derive(Debug)]
pub struct TenantCounters {
    id: Arc<str>,
    budget: Arc<SeriesBudget>,
    tables: OnceLock<Box<TenantTables>>,
    tenant_ledger: OnceLock<Arc<TenantLedger>>,
}

/// The entry that decided about an origin, and the group whose terms it gave.
#[derive(Clone, Copy, Debug)]
pub struct CountedEntry {
    pub entry: EntryId,
    pub group: GroupId,
}

#[derive(Debug)]
struct TenantTables {
    requests: [OnceLock<CounterCells>; RequestKind::ALL.len()],
    responses: OnceLock<ResponseCounters>,
    disagreements: CounterCells,
    unsendable_cookies: CounterCells,
    public_responses: CounterCells,
    other: CounterCells,
    origins: OriginSeries,
}

impl TenantCounters {
    pub(crate) fn new(id: Arc<str>, budget: Arc<SeriesBudget>) -> Self {
        TenantCounters { id, budget, tables: OnceLock::new(), tenant_ledger: OnceLock::new() }
    }

    /// The tenant's id, as in its series.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn count_request(&self, kind: RequestKind, verdict: VerdictLabel, reason: Reason) {
        let Some(table) = self.tables().requests.get(kind as usize) else {
            return;
        };
        table.get_or_init(|| CounterCells::new(CELLS)).count(verdict as usize * REASONS + reason as usize);
    }

    /// Loads the memory for counting a request of this kind into the CPU cache. With thousands of
    /// tenants it is not cached, and the load overlaps with judging the request.
    pub(crate) fn prefetch(&self, kind: RequestKind) {
        let Some(tables) = self.tables.get() else { return };
        black_box(tables.requests.get(kind as usize).and_then(OnceLock::get).map(CounterCells::first));
        black_box(tables.responses.get().map(ResponseCounters::first));
    }

    /// Counts a completed request: its response, if there was one, and its duration.
    pub fn count_response(&self, response: Option<SentResponse>, took: Duration) {
        self.responses().count(response, took);
    }

    /// Counts the gateway's response to a request that was refused before judgement.
    pub(crate) fn count_refused(&self, status: u16) {
        self.responses().count_class(StatusCode::from_u16(status).ok().map(SentResponse::by_gateway));
    }

    /// Counts a request that a panic ended before judgement.
    pub(crate) fn count_lost(&self) {
        self.responses().count_class(None);
    }

    fn responses(&self) -> &ResponseCounters {
        self.tables().responses.get_or_init(|| ResponseCounters::new(&self.budget.durations))
    }

    /// Counts one request under the configured entry that decided it, or under `other`. Call it
    /// only for requests whose origin was judged: requests without an origin or from the same
    /// origin are not part of this family.
    pub fn count_origin(
        &self,
        handles: &EntryHandles,
        policy: &Policy,
        entry: Option<CountedEntry>,
        verdict: VerdictLabel,
    ) {
        let tables = self.tables();
        let slot = entry.and_then(|counted| {
            let (index, count) = index_among_all(policy, counted);
            let slot = handles.slot(index, count, verdict)?;
            let group = || policy.group_name(counted.group).unwrap_or_default();
            Some(slot.get_or_init(|| tables.origins.handle(policy.entry_text(counted.entry), group(), verdict)))
        });
        match slot {
            Some(SeriesHandle::Own(counter)) => {
                counter.count(0);
            }
            Some(SeriesHandle::Overflow) => {
                tables.origins.count_overflow();
                tables.other.count(verdict as usize);
            }
            None => {
                tables.other.count(verdict as usize);
            }
        }
    }

    /// The tenant's part of the ledger, created at the first call.
    pub fn tenant_ledger(&self, ledger: &Arc<Ledger>) -> &Arc<TenantLedger> {
        self.tenant_ledger.get_or_init(|| TenantLedger::new(Arc::clone(ledger)))
    }

    /// The tenant's part of the ledger, if anything was recorded.
    pub fn tenant_ledger_if_any(&self) -> Option<&Arc<TenantLedger>> {
        self.tenant_ledger.get()
    }

    /// Counts one response that enforcing a reported policy would have changed.
    pub fn count_disagreement(&self, change: Change) {
        self.tables().disagreements.count(change as usize);
    }

    /// Counts one response that sets a cookie which the page cannot send back.
    pub fn count_unsendable_cookie(&self) {
        self.tables().unsendable_cookies.count(0);
    }

    /// Counts one response to a request with cookies that caches may give to other users.
    pub fn count_public_response(&self) {
        self.tables().public_responses.count(0);
    }

    /// The entries that have a series, each with its group, in order; an entry occurs once for
    /// every verdict.
    pub(crate) fn counted_origins(&self) -> Vec<(Box<str>, Box<str>)> {
        let mut entries = Vec::new();
        if let Some(tables) = self.tables.get() {
            tables.origins.each(|entry, group, _, _| entries.push((entry.into(), group.into())));
        }
        entries
    }

    /// Drops the series of entries and groups for which `keep` returns false, to make room for new
    /// ones.
    pub(crate) fn retain_origins(&self, keep: impl Fn(&str, &str) -> bool) {
        if let Some(tables) = self.tables.get() {
            tables.origins.retain(keep);
        }
    }

    fn tables(&self) -> &TenantTables {
        self.tables.get_or_init(|| {
            Box::new(TenantTables {
                requests: array::from_fn(|_| OnceLock::new()),
                responses: OnceLock::new(),
                disagreements: CounterCells::new(Change::ALL.len()),
                unsendable_cookies: CounterCells::new(1),
                public_responses: CounterCells::new(1),
                other: CounterCells::new(VerdictLabel::ALL.len()),
                origins: OriginSeries::new(Arc::clone(&self.budget)),
            })
        })
    }

    /// Calls `visit` with every request series that has a count.
    pub(crate) fn each_request(&self, mut visit: impl FnMut(RequestKind, VerdictLabel, Reason, u64)) {
        let Some(tables) = self.tables.get() else {
            return;
        };
        for (kind, table) in RequestKind::ALL.iter().zip(&tables.requests) {
            let Some(table) = table.get() else { continue };
            for (verdict, first) in VerdictLabel::ALL.iter().zip((0..).step_by(REASONS)) {
                let counts = (first..).map(|index| table.read(index));
                filter_nonzero(&Reason::ALL, counts).for_each(|(reason, count)| visit(*kind, *verdict, reason, count));
            }
        }
    }

    /// Calls `visit` with every class and source of responses that has a count.
    pub(crate) fn each_response(&self, visit: impl FnMut(ResponseClass, ResponseSource, u64)) {
        if let Some(responses) = self.tables.get().and_then(|tables| tables.responses.get()) {
            responses.each(visit);
        }
    }

    /// The request durations, if the tenant has its own histogram and it is not empty.
    pub(crate) fn durations(&self) -> Option<HistogramSnapshot> {
        self.tables.get()?.responses.get()?.durations()
    }

    /// Calls `visit` with every origin series that has a count, `other` last: the entry, its group
    /// or an empty text, the verdict and the count.
    pub(crate) fn each_origin(&self, mut visit: impl FnMut(&str, &str, VerdictLabel, u64)) {
        let Some(tables) = self.tables.get() else {
            return;
        };
        tables.origins.each(&mut visit);
        let counts = (0..).map(|index| tables.other.read(index));
        filter_nonzero(&VerdictLabel::ALL, counts).for_each(|(verdict, count)| visit("other", "", verdict, count));
    }

    /// The number of requests whose entry has no series because of the limits.
    pub(crate) fn overflow(&self) -> u64 {
        self.tables.get().map_or(0, |tables| tables.origins.overflow())
    }

    /// The number of responses with cookies that the page cannot send back.
    pub(crate) fn unsendable_cookies(&self) -> u64 {
        self.tables.get().map_or(0, |tables| tables.unsendable_cookies.read(0))
    }

    /// The number of responses to requests with cookies that caches may give to other users.
    pub(crate) fn public_responses(&self) -> u64 {
        self.tables.get().map_or(0, |tables| tables.public_responses.read(0))
    }

    /// Calls `visit` with every kind of disagreement that has a count.
    pub(crate) fn each_disagreement(&self, mut visit: impl FnMut(Change, u64)) {
        let Some(tables) = self.tables.get() else {
            return;
        };
        let counts = (0..).map(|index| tables.disagreements.read(index));
        filter_nonzero(&Change::ALL, counts).for_each(|(change, count)| visit(change, count));
    }
}

/// The index of an entry among all entries of the policy, the template's first, and their number.
/// An answer of the rule to a group counts as an entry of its own, after all others.
fn index_among_all(policy: &Policy, CountedEntry { entry, group }: CountedEntry) -> (usize, usize) {
    let counts = policy.entry_counts();
    let (entries, answered) = (counts.template + counts.own, policy.rule_groups());
    let index = match answered.iter().position(|answered| *answered == group) {
        Some(index) if policy.rule_entry() == Some(entry) => entries + index,
        Some(_) | None => entry.template_index().unwrap_or_else(|| counts.template + entry.own_index().unwrap_or(0)),
    };
    (index, entries + answered.len())
}

fn filter_nonzero<T: Copy>(set: &[T], counts: impl Iterator<Item = u64>) -> impl Iterator<Item = (T, u64)> {
    set.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
}
