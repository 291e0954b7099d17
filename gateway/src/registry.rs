//! All metrics of this process: hands out counters by name, and collects them for a scrape.
//!
//! Counters of tenants and upstreams live as long as something uses them. Names, help texts and
//! labels are in `render`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use prometheus::process_collector::ProcessCollector;

use crate::background::StoppedTasks;
use crate::counters::{SeriesBudget, TenantCounters, UpstreamCounters};
use crate::denials::RecentDenials;
use crate::ledger::{self, Ledger, TenantLedger};
use crate::metrics::{ConnectionCounters, PanicCounters, ReloadMetrics, TlsCounters};
use crate::verdicts::Verdicts;
use crossgate_config::model::LedgerLimits;
use crossgate_config::model::NO_TENANT;
use crossgate_telemetry::{LiveCounters, SampledTimer};

mod render;
mod rules;

/// The most tenants that the status lists for their cookies.
const COOKIE_TENANTS_MAX: usize = 16;

/// From 50 ns, a hit in a small table, to a millisecond, which no decision should take.
const DECISION_BOUNDS_NS: [u64; 12] = [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 50_000, 200_000, 1_000_000];

#[derive(Debug)]
pub struct GatewayMetrics {
    /// The duration of decisions, for one in [`SampledTimer::EVERY`].
    pub decisions: SampledTimer,
    /// Connections of the data listeners.
    pub connections: Arc<ConnectionCounters>,
    /// TLS of the data listeners.
    pub tls: TlsCounters,
    pub panics: Arc<PanicCounters>,
    /// Background tasks that should run but have ended.
    pub stopped: StoppedTasks,
    /// Reloads and the configuration in force.
    pub reloads: ReloadMetrics,
    /// Access log lines that were not written because the log was too slow.
    pub access_log_dropped: Arc<AtomicU64>,
    /// Cached answers and counters of rules.
    pub verdicts: Arc<Verdicts>,
    pub ledger: Arc<Ledger>,
    /// Recent denials, by request id.
    pub denials: RecentDenials,
    tenants: LiveCounters<TenantCounters>,
    upstreams: LiveCounters<UpstreamCounters>,
    no_tenant: Arc<TenantCounters>,
    budget: Arc<SeriesBudget>,
    started: SystemTime,
    /// Set when the process starts to drain: it is not ready from then on.
    pub draining: Arc<AtomicBool>,
    process: ProcessCollector,
}

impl GatewayMetrics {
    /// Creates counters at zero, with the current time as start time.
    pub fn new() -> Arc<Self> {
        let budget = Arc::new(SeriesBudget::default());
        let tenants = LiveCounters::default();
        let started = SystemTime::now();
        let ledger = Ledger::new(started);
        let make = |id| TenantCounters::new(id, Arc::clone(&budget));
        let no_tenant = tenants.get_or_make(NO_TENANT, make);
        Arc::new(GatewayMetrics {
            decisions: SampledTimer::new(&DECISION_BOUNDS_NS),
            connections: Arc::default(),
            tls: TlsCounters::default(),
            panics: Arc::default(),
            stopped: StoppedTasks::default(),
            reloads: ReloadMetrics::new(),
            access_log_dropped: Arc::default(),
            verdicts: Arc::default(),
            ledger,
            denials: RecentDenials::default(),
            tenants,
            upstreams: LiveCounters::default(),
            no_tenant,
            budget,
            started,
            draining: Arc::default(),
            process: ProcessCollector::for_self(),
        })
    }

    /// The counters of the tenant with this id, or new ones at zero. The series end when the last
    /// reference is dropped.
    pub fn tenant(&self, id: &str) -> Arc<TenantCounters> {
        let make = |id| TenantCounters::new(id, Arc::clone(&self.budget));
        self.tenants.get_or_make(id, make)
    }

    /// The counters of requests to hosts without a tenant.
    pub fn no_tenant(&self) -> &Arc<TenantCounters> {
        &self.no_tenant
    }

    /// Counts an answer of the gateway to a request that was not judged.
    pub fn count_refused(&self, status: u16) {
        self.connections.count_refusal(status);
        self.no_tenant.count_refused(status);
    }

    /// The counters of an upstream, with the lifetime of [`GatewayMetrics::tenant`].
    pub fn upstream(&self, name: &str) -> Arc<UpstreamCounters> {
        self.upstreams.get_or_make(name, UpstreamCounters::new)
    }

    /// Sets the maximum numbers of recorded origins. A change clears the ledger. Without a ledger,
    /// no denials are recorded either.
    pub fn set_ledger_limits(&self, limits: LedgerLimits) {
        self.denials.set_enabled(limits != LedgerLimits::OFF);
        self.ledger.set_limits(limits, || self.tenant_ledgers());
    }

    /// Enters the counts of workers in the ledger. To be called several times a second; may block.
    pub fn tend_ledger(&self, now: SystemTime) {
        self.ledger.tend(now, || self.tenant_ledgers());
        self.denials.collect(now);
    }

    /// Reports the ledger's origins that match the query, up to this moment.
    pub fn origins(&self, query: &ledger::OriginsQuery, now: SystemTime) -> ledger::OriginsReport {
        self.tend_ledger(now);
        let tenants = self.tenants.all();
        let is_reported = |id: &str| query.tenant.as_ref().is_none_or(|wanted| wanted == id);
        let tenant_ledgers = tenants.iter().filter(|tenant| is_reported(tenant.id()));
        let tenant_ledgers: Vec<_> = tenant_ledgers
            .filter_map(|tenant| Some((tenant.id().into(), Arc::clone(tenant.tenant_ledger_if_any()?))))
            .collect();
        ledger::report(&self.ledger, &tenant_ledgers, query)
    }

    /// The tenants with the most responses that set cookies which pages cannot send back, and the
    /// numbers of these responses.
    pub fn unsendable_cookies(&self) -> Vec<(String, u64)> {
        let counted = |tenant: &Arc<TenantCounters>| (tenant.id().to_owned(), tenant.unsendable_cookies());
        let mut tenants: Vec<_> = self.tenants.all().iter().map(counted).filter(|(_, count)| *count > 0).collect();
        tenants.sort_unstable_by(|(a, fewer), (b, more)| more.cmp(fewer).then_with(|| a.cmp(b)));
        tenants.truncate(COOKIE_TENANTS_MAX);
        tenants
    }

    fn tenant_ledgers(&self) -> Vec<Arc<TenantLedger>> {
        self.tenants.all().iter().filter_map(|tenant| tenant.tenant_ledger_if_any().cloned()).collect()
    }

    /// The answer of `/readyz`: not draining, and all background tasks run.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Relaxed) && self.stopped.first().is_none()
    }

    pub fn started(&self) -> SystemTime {
        self.started
    }
}

#[cfg(test)]
mod tests;
