//! The metrics of the configuration: its generation, and the results of reloads.
//!
//! The first load at start is recorded like a reload. Renewed certificates change the generation
//! but are not a reload.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::ReloadResult;
use crossgate_telemetry::all_counts;

/// The reload metrics. The first load counts as a reload too.
#[derive(Debug)]
pub struct ReloadMetrics {
    generation: AtomicU64,
    /// The index of the last result in `ReloadResult::ALL`.
    last: AtomicU64,
    last_unix_ms: AtomicU64,
    results: [AtomicU64; ReloadResult::ALL.len()],
    broken_files: AtomicU64,
}

impl ReloadMetrics {
    pub(crate) fn new() -> Self {
        ReloadMetrics {
            generation: AtomicU64::new(0),
            last: AtomicU64::new(ReloadResult::Failure as u64),
            last_unix_ms: AtomicU64::new(0),
            results: array::from_fn(|_| AtomicU64::new(0)),
            broken_files: AtomicU64::new(0),
        }
    }

    /// Records a load or reload that ended at `at`, the generation that serves after it, and the
    /// number of files that keep their last good version.
    pub fn record(&self, result: ReloadResult, generation: u64, broken_files: usize, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.generation.store(generation, Relaxed);
        self.broken_files.store(broken_files as u64, Relaxed);
        self.last_unix_ms.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.last.store(result as u64, Relaxed);
        if let Some(count) = self.results.get(result as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Records the generation that serves after certificates were renewed, which does not count as
    /// a reload.
    pub fn record_renewal(&self, generation: u64, broken_files: usize) {
        self.generation.store(generation, Relaxed);
        self.broken_files.store(broken_files as u64, Relaxed);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub(crate) fn last_successful(&self) -> bool {
        self.last.load(Relaxed) == ReloadResult::Success as u64
    }

    pub(crate) fn last_unix_seconds(&self) -> f64 {
        self.last_unix_ms.load(Relaxed) as f64 / 1e3
    }

    pub(crate) fn broken_files(&self) -> u64 {
        self.broken_files.load(Relaxed)
    }

    pub(crate) fn results(&self) -> impl Iterator<Item = (ReloadResult, u64)> + '_ {
        all_counts(&ReloadResult::ALL, &self.results)
    }
}
