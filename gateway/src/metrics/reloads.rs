//! What is told about the configuration: its generation, and how the reloads went.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{ReloadResult, every};

/// Figures about the configuration in force. The first load counts as a reload too.
#[derive(Debug)]
pub struct Reloads {
    generation: AtomicU64,
    /// The last result's place in `ReloadResult::ALL`.
    last: AtomicU64,
    last_unix_ms: AtomicU64,
    results: [AtomicU64; ReloadResult::ALL.len()],
    broken_files: AtomicU64,
}

impl Reloads {
    pub(super) fn new() -> Self {
        Reloads {
            generation: AtomicU64::new(0),
            last: AtomicU64::new(ReloadResult::Failure as u64),
            last_unix_ms: AtomicU64::new(0),
            results: array::from_fn(|_| AtomicU64::new(0)),
            broken_files: AtomicU64::new(0),
        }
    }

    /// Notes a load or reload that ended at `at`, the generation that serves after it, and how many files keep
    /// their last good version.
    pub fn note(&self, result: ReloadResult, generation: u64, broken_files: usize, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.generation.store(generation, Relaxed);
        self.broken_files.store(broken_files as u64, Relaxed);
        self.last_unix_ms.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.last.store(result as u64, Relaxed);
        if let Some(count) = self.results.get(result as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Notes what serves since certificates were renewed, which is no reload.
    pub fn note_renewed(&self, generation: u64, broken_files: usize) {
        self.generation.store(generation, Relaxed);
        self.broken_files.store(broken_files as u64, Relaxed);
    }

    /// The generation that serves.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub(super) fn last_successful(&self) -> bool {
        self.last.load(Relaxed) == ReloadResult::Success as u64
    }

    pub(super) fn last_unix_seconds(&self) -> f64 {
        self.last_unix_ms.load(Relaxed) as f64 / 1e3
    }

    pub(super) fn broken_files(&self) -> u64 {
        self.broken_files.load(Relaxed)
    }

    pub(super) fn results(&self) -> impl Iterator<Item = (ReloadResult, u64)> + '_ {
        every(&ReloadResult::ALL, &self.results)
    }
}
