//! What is counted for one upstream: how long its answers took, and why there was none. What it is like now is not counted here but
//! looked at when somebody asks.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::histogram::Histogram;
use super::{CheckResult, UpstreamError, UpstreamRefusal, every};
use crate::tenant::Upstream;

/// From half a millisecond to the default head timeout of 30 s and beyond.
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

/// The counters of one upstream, by which every snapshot that names it counts.
#[derive(Debug)]
pub struct UpstreamCounters {
    name: Arc<str>,
    /// From the choice of a server to the end of the response head, attempts included.
    pub duration: Histogram,
    ejections: AtomicU64,
    lookup_failures: AtomicU64,
    errors: [AtomicU64; UpstreamError::ALL.len()],
    refusals: [AtomicU64; UpstreamRefusal::ALL.len()],
    checks: [AtomicU64; CheckResult::ALL.len()],
    /// The upstream as it serves.
    serving: Mutex<Weak<Upstream>>,
}

impl UpstreamCounters {
    pub(super) fn new(name: Arc<str>) -> Self {
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

    /// From now on this is the upstream of the name that serves.
    pub(crate) fn set_serving(&self, upstream: &Arc<Upstream>) {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(upstream);
    }

    /// The upstream that serves, if it still does.
    pub(super) fn serving(&self) -> Option<Arc<Upstream>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// The upstream's name, as its series carry it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts one attempt that gave no usable answer.
    pub fn count_error(&self, kind: UpstreamError) {
        if let Some(cell) = self.errors.get(kind as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts one server that is left out from now on.
    pub(crate) fn count_ejection(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    /// Counts one lookup of a name that led nowhere.
    pub(crate) fn count_lookup_failure(&self) {
        self.lookup_failures.fetch_add(1, Relaxed);
    }

    /// Counts one request that was not sent there.
    pub(crate) fn count_refusal(&self, why: UpstreamRefusal) {
        if let Some(cell) = self.refusals.get(why as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts one health check of a server.
    pub(crate) fn count_check(&self, result: CheckResult) {
        if let Some(cell) = self.checks.get(result as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn lookup_failures(&self) -> u64 {
        self.lookup_failures.load(Relaxed)
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (UpstreamRefusal, u64)> + '_ {
        every(&UpstreamRefusal::ALL, &self.refusals)
    }

    pub(super) fn checks(&self) -> impl Iterator<Item = (CheckResult, u64)> + '_ {
        every(&CheckResult::ALL, &self.checks)
    }

    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    pub(super) fn errors(&self) -> impl Iterator<Item = (UpstreamError, u64)> + '_ {
        every(&UpstreamError::ALL, &self.errors)
    }
}
