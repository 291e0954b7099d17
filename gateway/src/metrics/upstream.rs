//! What is counted for one upstream: how long its answers took, and why there was none.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::UpstreamError;
use super::histogram::Histogram;

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
    /// How many of its servers are left out now.
    pub(crate) ejected: AtomicU64,
    ejections: AtomicU64,
    errors: [AtomicU64; UpstreamError::ALL.len()],
}

impl UpstreamCounters {
    pub(super) fn new(name: Arc<str>) -> Self {
        let errors = array::from_fn(|_| AtomicU64::new(0));
        let (ejected, ejections) = (AtomicU64::new(0), AtomicU64::new(0));
        UpstreamCounters { name, duration: Histogram::new(&BOUNDS_NS), ejected, ejections, errors }
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

    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Every kind with its count, those that never came included: an alert needs the zero.
    pub(super) fn errors(&self) -> impl Iterator<Item = (UpstreamError, u64)> + '_ {
        UpstreamError::ALL.into_iter().zip(self.errors.iter().map(|count| count.load(Relaxed)))
    }
}
