//! The counters of one upstream: response times, failures and refusals.
//!
//! Every attempt without a usable response counts as an error. Absent on purpose: the current state
//! of the servers, which a scrape reads through [`ServingUpstream`].

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::metrics::{CheckResult, UpstreamError, UpstreamRefusal};
use crossgate_telemetry::Histogram;
use crossgate_telemetry::all_counts;

/// From half a millisecond to the default head timeout of 30 s.
const BOUNDS_NS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// The current state of an upstream, for a scrape.
pub trait ServingUpstream: std::fmt::Debug + Send + Sync {
    /// The number of server addresses in each state, by the state's label.
    fn servers_by_state(&self) -> Vec<(&'static str, usize)>;
    /// The number of addresses that are ejected because requests failed there.
    fn ejected_servers(&self) -> usize;
    /// Whether its servers have health checks.
    fn is_checked(&self) -> bool;
    /// The number of server names whose last lookup failed; `None` if no server has a name.
    fn lost_names(&self) -> Option<usize>;
    /// Running requests, and requests waiting in the queue; `None` without limits.
    fn requests(&self) -> Option<(usize, u32)>;
}

/// The counters of one upstream, shared by all snapshots that contain the upstream.
#[derive(Debug)]
pub struct UpstreamCounters {
    name: Arc<str>,
    /// The time from the choice of a server to the end of the response head, including all
    /// attempts.
    pub duration: Histogram,
    ejections: AtomicU64,
    lookup_failures: AtomicU64,
    errors: [AtomicU64; UpstreamError::ALL.len()],
    refusals: [AtomicU64; UpstreamRefusal::ALL.len()],
    checks: [AtomicU64; CheckResult::ALL.len()],
    /// The upstream that currently serves under this name.
    serving: Mutex<Option<Weak<dyn ServingUpstream>>>,
}

impl UpstreamCounters {
    pub(crate) fn new(name: Arc<str>) -> Self {
        UpstreamCounters {
            name,
            duration: Histogram::new(&BOUNDS_NS),
            ejections: AtomicU64::new(0),
            lookup_failures: AtomicU64::new(0),
            errors: array::from_fn(|_| AtomicU64::new(0)),
            refusals: array::from_fn(|_| AtomicU64::new(0)),
            checks: array::from_fn(|_| AtomicU64::new(0)),
            serving: Mutex::default(),
        }
    }

    /// Sets the upstream that serves under this name.
    pub(crate) fn set_serving(&self, upstream: Weak<dyn ServingUpstream>) {
        *self.serving.lock() = Some(upstream);
    }

    /// The upstream that currently serves, if it still exists.
    pub(crate) fn serving(&self) -> Option<Arc<dyn ServingUpstream>> {
        self.serving.lock().as_ref()?.upgrade()
    }

    /// The upstream's name, as in its series.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts one attempt without a usable response.
    pub fn count_error(&self, kind: UpstreamError) {
        if let Some(cell) = self.errors.get(kind as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts one ejection of a server.
    pub(crate) fn count_ejection(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    /// Counts one failed lookup of a name.
    pub(crate) fn count_lookup_failure(&self) {
        self.lookup_failures.fetch_add(1, Relaxed);
    }

    /// Counts one request that was not sent to the upstream.
    pub(crate) fn count_refusal(&self, reason: UpstreamRefusal) {
        if let Some(cell) = self.refusals.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts one health check of a server.
    pub(crate) fn count_check(&self, result: CheckResult) {
        if let Some(cell) = self.checks.get(result as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn lookup_failures(&self) -> u64 {
        self.lookup_failures.load(Relaxed)
    }

    pub(crate) fn refusals(&self) -> impl Iterator<Item = (UpstreamRefusal, u64)> + '_ {
        all_counts(&UpstreamRefusal::ALL, &self.refusals)
    }

    pub(crate) fn checks(&self) -> impl Iterator<Item = (CheckResult, u64)> + '_ {
        all_counts(&CheckResult::ALL, &self.checks)
    }

    pub(crate) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    pub(crate) fn errors(&self) -> impl Iterator<Item = (UpstreamError, u64)> + '_ {
        all_counts(&UpstreamError::ALL, &self.errors)
    }
}
