//! Recent denials, which lead from a request id in a browser's developer tools to the reason.
//!
//! A worker copies a bounded part of a denied request into its own buffer ([`intake`]), without
//! waiting for a lock. The side thread moves the copies into the store ([`store`]) several times a
//! second and adds the time, so no clock is read for a request. Intake, denials per tenant, total
//! number and age are limited. Each tenant has its own limits, so a flood displaces only the
//! denials of the same tenant. Absent on purpose: query strings, cookies and credentials, which may
//! be secrets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crossgate_policy::RequestField;
use parking_lot::Mutex;

use crate::counters::TenantCounters;
use crate::metrics::VerdictLabel;
use crate::request_head::RequestHead;
use crossgate_wire::refusal::HeadRefusal;

mod intake;
mod record;
mod store;

#[cfg(test)]
mod tests;

pub use record::{DeniedRequest, RecordedDenial};
pub(crate) use store::DENIALS_PER_ORIGIN_MAX;

use intake::{IntakeQuota, WorkerIntakes};
use record::HeadCopy;
use store::DenialStore;

/// The number of denials kept for one tenant. One page load causes a few dozen at most.
pub const DENIALS_PER_TENANT_MAX: usize = 64;
/// The number of denials kept for all tenants. With the longest texts they take 16 MiB, with common
/// ones 3 MiB.
pub const DENIALS_MAX: usize = 8_192;
/// The age at which a denial is dropped.
pub const DENIAL_AGE_MAX: Duration = Duration::from_secs(3_600);

/// The recent denials of this process.
#[derive(Debug)]
pub struct RecentDenials {
    is_on: AtomicBool,
    intakes: WorkerIntakes,
    /// Locked only by threads that may wait.
    store: Mutex<DenialStore>,
    /// Denials that were not recorded because the intake limit was reached. A total over all
    /// tenants.
    dropped: AtomicU64,
}

/// The request id and configuration generation of a denial.
#[derive(Clone, Copy, Debug)]
pub struct DenialLabels<'a> {
    /// The id in the response.
    pub request_id: &'a str,
    /// The configuration generation that judged the request.
    pub generation: u64,
}

/// The judgement of a request.
#[derive(Clone, Copy, Debug)]
pub struct DenialVerdict<'a> {
    pub tenant: &'a Arc<TenantCounters>,
    pub verdict: VerdictLabel,
    pub reason: &'static str,
}

/// A denial from the store.
#[derive(Debug)]
pub struct FoundDenial {
    pub denial: RecordedDenial,
    /// The time of recording, accurate to a quarter of a second.
    pub recorded_at: SystemTime,
}

impl Default for RecentDenials {
    fn default() -> Self {
        RecentDenials {
            is_on: AtomicBool::new(true),
            intakes: WorkerIntakes::default(),
            store: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }
}

impl RecentDenials {
    /// Records a judged request if it is denied. Called by workers.
    pub fn record_judged(&self, judged: DenialVerdict<'_>, head: &RequestHead<'_>, labels: DenialLabels<'_>) {
        let DenialVerdict { tenant, verdict, reason } = judged;
        if !verdict.is_denial() {
            return;
        }
        let origin = match head.known.origin {
            RequestField::One(origin) => origin,
            RequestField::Absent | RequestField::Many => b"",
        };
        self.add(tenant, origin, || {
            let copy = HeadCopy::of_head(labels.request_id, head);
            RecordedDenial::new(tenant, labels.generation, verdict, reason, copy, None)
        });
    }

    /// Records a head that the lane refuses. Only its id is kept. Called by workers.
    pub fn record_refusal(&self, no_tenant: &Arc<TenantCounters>, refusal: &HeadRefusal, labels: DenialLabels<'_>) {
        self.add(no_tenant, b"", || {
            let copy = HeadCopy::of_id(labels.request_id);
            RecordedDenial::new(no_tenant, labels.generation, VerdictLabel::Deny, refusal.reason, copy, Some(*refusal))
        });
    }

    fn add(&self, tenant: &Arc<TenantCounters>, origin: &[u8], make: impl FnOnce() -> RecordedDenial) {
        if self.is_on() && self.intakes.add(&IntakeQuota { tenant, origin }, make).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Moves the workers' denials into the store with the time `now`, and drops expired ones.
    /// Called by threads that may wait.
    pub fn collect(&self, now: SystemTime) {
        self.store.lock().take(self.intakes.drain(), now);
    }

    /// Starts or stops recording. Stopping drops every denial.
    pub fn set_enabled(&self, is_on: bool) {
        self.is_on.store(is_on, Relaxed);
        if !is_on {
            drop(self.intakes.drain());
            *self.store.lock() = DenialStore::default();
        }
    }

    /// Whether denials are recorded.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// The newest denial with a request id, including those not yet in the store.
    pub fn find(&self, request_id: &str, now: SystemTime) -> Option<FoundDenial> {
        self.collect(now);
        self.store.lock().find(request_id)
    }

    /// The number of denials that were not recorded because of the intake limit.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
