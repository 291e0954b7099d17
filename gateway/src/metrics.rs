//! Counters, and the text a scrape gets.
//!
//! Counters live where they are counted: with a tenant, an upstream, a connection. This module hands them out by name,
//! and gathers them when somebody asks. Label values come from the configuration or from closed sets, never from a
//! client, so that no traffic can grow a scrape. Absent on purpose: the encoder crate's own registry and counters (see
//! `exposition`), and any lock on a request's way after its first count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use prometheus::process_collector::ProcessCollector;

use crate::ledger::{self, Ledger, LedgerLimits, Page};
use crate::verdicts::Verdicts;

mod cells;
mod connections;
mod exposition;
mod histogram;
mod labels;
mod live;
mod origins;
mod panics;
mod reloads;
mod render;
mod rules;
mod tenant;
mod tls;
mod upstream;

pub(crate) use self::cells::Cells;
pub use self::connections::{ActiveConnection, ConnectionLimits, Connections, ExtraRequest, Full};
pub use self::histogram::{Histogram, SampledTimer};
pub use self::labels::{
    AcceptError, BadIntroduction, Change, CheckResult, EarlyClose, HandshakeEnd, PanicPlace, ReloadResult,
    UpstreamError, UpstreamRefusal, VerdictLabel,
};
pub use self::origins::{EntryHandles, SERIES_MAX_TENANT, SERIES_MAX_TOTAL};
pub use self::panics::{PanicWatch, Panics};
pub use self::reloads::Reloads;
pub use self::rules::RuleCounters;
pub use self::tenant::TenantCounters;
pub use self::tls::TlsCounters;
pub use self::upstream::UpstreamCounters;

pub(crate) use self::live::Live;
use self::origins::SeriesBudget;

/// From 50 ns, a hit in a small table, to a millisecond, which no decision should take.
const DECISION_BOUNDS_NS: [u64; 12] = [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 50_000, 200_000, 1_000_000];

/// The label of what no tenant can be charged with. The configuration refuses a tenant of that name.
pub const NO_TENANT: &str = "none";

/// Everything that is counted in this process.
#[derive(Debug)]
pub struct Metrics {
    /// How long a decision took, for one in [`SampledTimer::EVERY`].
    pub decisions: SampledTimer,
    /// The data listeners' connections.
    pub connections: Arc<Connections>,
    /// Their TLS.
    pub tls: TlsCounters,
    /// Bugs that ended something.
    pub panics: Panics,
    /// The configuration in force.
    pub reloads: Reloads,
    /// Access log lines that were not written, since the log could not keep up.
    pub access_log_dropped: Arc<AtomicU64>,
    /// What is kept and counted of rules.
    pub verdicts: Arc<Verdicts>,
    /// Which origins were seen.
    pub ledger: Arc<Ledger>,
    tenants: Live<TenantCounters>,
    upstreams: Live<UpstreamCounters>,
    no_tenant: Arc<TenantCounters>,
    budget: Arc<SeriesBudget>,
    started: SystemTime,
    /// Set when the process begins to end: it is not ready from then on.
    pub draining: Arc<AtomicBool>,
    process: ProcessCollector,
}

impl Metrics {
    /// Counters that all stand at zero, of a process started now.
    pub fn new() -> Arc<Self> {
        let budget = Arc::new(SeriesBudget::default());
        let tenants = Live::new();
        let started = SystemTime::now();
        let ledger = Ledger::new(started);
        let make = |id| TenantCounters::new(id, Arc::clone(&budget));
        let no_tenant = tenants.get_or_make(NO_TENANT, make);
        Arc::new(Metrics {
            decisions: SampledTimer::new(&DECISION_BOUNDS_NS),
            connections: Arc::default(),
            tls: TlsCounters::default(),
            panics: Panics::default(),
            reloads: Reloads::new(),
            access_log_dropped: Arc::default(),
            verdicts: Arc::default(),
            ledger,
            tenants,
            upstreams: Live::new(),
            no_tenant,
            budget,
            started,
            draining: Arc::default(),
            process: ProcessCollector::for_self(),
        })
    }

    /// The counters of a tenant: those of the living one of that id, or new ones that stand at zero. Its series are gone
    /// when the last of these is dropped.
    pub fn tenant(&self, id: &str) -> Arc<TenantCounters> {
        let make = |id| TenantCounters::new(id, Arc::clone(&self.budget));
        self.tenants.get_or_make(id, make)
    }

    /// The counters of requests to hosts of no tenant.
    pub fn no_tenant(&self) -> &Arc<TenantCounters> {
        &self.no_tenant
    }

    /// The counters of an upstream, like [`Metrics::tenant`].
    pub fn upstream(&self, name: &str) -> Arc<UpstreamCounters> {
        self.upstreams.get_or_make(name, UpstreamCounters::new)
    }

    /// Sets how many origins are recorded; if that is news, the record begins anew.
    pub fn set_ledger_limits(&self, limits: LedgerLimits) {
        self.ledger.set_limits(limits, || self.pages());
    }

    /// Enters in the ledger what workers have noted. To be called several times a second, by a thread that may wait.
    pub fn tend_ledger(&self, now: SystemTime) {
        self.ledger.tend(now, || self.pages());
    }

    /// What the ledger says of the origins that somebody asks for, up to this moment.
    pub fn origins(&self, asked: &ledger::Origins, now: SystemTime) -> ledger::Report {
        self.tend_ledger(now);
        let tenants = self.tenants.all();
        let is_asked_for = |id: &str| asked.tenant.as_ref().is_none_or(|asked| asked == id);
        let pages = tenants.iter().filter(|tenant| is_asked_for(tenant.id()));
        let pages: Vec<_> =
            pages.filter_map(|tenant| Some((tenant.id().into(), Arc::clone(tenant.page_if_any()?)))).collect();
        ledger::report(&self.ledger, &pages, asked)
    }

    fn pages(&self) -> Vec<Arc<Page>> {
        self.tenants.all().iter().filter_map(|tenant| tenant.page_if_any().cloned()).collect()
    }

    /// When the process started.
    pub fn started(&self) -> SystemTime {
        self.started
    }
}

/// Every member of a closed set with its count, those that never came included: an alert must see the first one.
fn every<T: Copy>(set: &[T], cells: &[AtomicU64]) -> impl Iterator<Item = (T, u64)> {
    set.iter().copied().zip(cells.iter().map(|cell| cell.load(Relaxed)))
}

#[cfg(test)]
mod tests;
