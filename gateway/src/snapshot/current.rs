//! The snapshot in force, for many threads that look at it with every request.
//!
//! Who keeps a shared object alive counts itself among its holders, and a count that every core writes to is a cache line that
//! travels between them with every request. So each worker has a seat of its own, and counts itself there: a request is served
//! by one worker from its head to its end, or nearly. A swap goes through all of them, one after the other. Meanwhile a worker whose
//! turn has not come sees by the number in force that its own is old: connections move between workers, and no client may be
//! answered by an older configuration than before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use arc_swap::{ArcSwap, Guard};

use super::Snapshot;
use crate::metrics::Metrics;
use crate::thread_number;

/// The snapshot in force.
#[derive(Debug)]
pub struct CurrentSnapshot {
    /// Of each worker; never empty. Where there are more threads than these, some share one.
    seats: Box<[Seat]>,
    /// The one in force, and its generation. They are written once a swap, and so are in every core's cache.
    newest: Seat,
    generation: AtomicU64,
    metrics: Arc<Metrics>,
}

/// What one worker holds. Alone on its cache lines, of which processors fetch two at a time.
#[derive(Debug)]
#[repr(align(128))]
struct Seat(ArcSwap<Pinned>);

/// A snapshot that stays as it is for whoever holds this.
#[derive(Debug)]
#[repr(align(128))]
pub struct Pinned {
    snapshot: Arc<Snapshot>,
    metrics: Arc<Metrics>,
}

impl Pinned {
    /// Where requests are counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl std::ops::Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl CurrentSnapshot {
    /// With this one to begin with, for so many workers.
    pub fn new(snapshot: &Arc<Snapshot>, metrics: &Arc<Metrics>, workers: usize) -> Self {
        let seat = || Seat(ArcSwap::new(pinned(snapshot, metrics)));
        let seats = std::iter::repeat_with(seat).take(workers.max(1)).collect();
        let generation = AtomicU64::new(snapshot.generation);
        CurrentSnapshot { seats, newest: seat(), generation, metrics: Arc::clone(metrics) }
    }

    /// For a worker that needs it for a moment.
    pub fn load(&self) -> Guard<Arc<Pinned>> {
        let own = self.seat().load();
        if own.generation < self.generation.load(Acquire) { self.newest.0.load() } else { own }
    }

    /// For a worker that needs it until a request is over.
    pub fn pin(&self) -> Arc<Pinned> {
        Guard::into_inner(self.load())
    }

    /// For everybody else.
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.0.load().snapshot)
    }

    /// Puts another one in force; when this returns, no request begins with the old one.
    pub fn store(&self, snapshot: &Arc<Snapshot>) {
        self.announce(snapshot);
        self.seats.iter().for_each(|seat| seat.0.store(pinned(snapshot, &self.metrics)));
    }

    /// The part of it after which nobody is given the old one.
    pub(super) fn announce(&self, snapshot: &Arc<Snapshot>) {
        self.newest.0.store(pinned(snapshot, &self.metrics));
        self.generation.store(snapshot.generation, Release);
    }

    #[expect(clippy::indexing_slicing, reason = "there is always a seat, and a remainder is below the divisor")]
    fn seat(&self) -> &ArcSwap<Pinned> {
        &self.seats[thread_number::of_worker() % self.seats.len()].0
    }
}

fn pinned(snapshot: &Arc<Snapshot>, metrics: &Arc<Metrics>) -> Arc<Pinned> {
    Arc::new(Pinned { snapshot: Arc::clone(snapshot), metrics: Arc::clone(metrics) })
}
