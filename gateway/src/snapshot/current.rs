//! The snapshot in force, for many threads that read it with every request.
//!
//! A reference count that every core writes to is a cache line that moves between them with every
//! request. So each worker has its own pin with its own count: usually one worker serves a request
//! from its head to its end. A swap updates the pins one after the other. Until its pin is updated,
//! a worker sees by the generation that its snapshot is old, and uses the newest one. This matters
//! because connections move between workers, and no client may get an answer of an older
//! configuration than before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use arc_swap::{ArcSwap, Guard};

use super::Snapshot;
use crate::registry::GatewayMetrics;
use crossgate_telemetry::thread_number;

#[derive(Debug)]
pub struct CurrentSnapshot {
    /// One pin for each worker; never empty. If there are more threads than pins, some share one.
    pins: Box<[WorkerPin]>,
    /// The newest snapshot and its generation. They are written once for each swap, so every core
    /// has them in its cache.
    newest: WorkerPin,
    generation: AtomicU64,
    metrics: Arc<GatewayMetrics>,
}

/// The pin of one worker. Aligned to two cache lines, because processors prefetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct WorkerPin(ArcSwap<PinnedSnapshot>);

/// A snapshot with the metrics of its process, kept alive by its holder.
#[derive(Debug)]
#[repr(align(128))]
pub struct PinnedSnapshot {
    snapshot: Arc<Snapshot>,
    metrics: Arc<GatewayMetrics>,
}

impl PinnedSnapshot {
    pub fn metrics(&self) -> &GatewayMetrics {
        &self.metrics
    }
}

impl std::ops::Deref for PinnedSnapshot {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl CurrentSnapshot {
    /// Creates pins for `workers` workers, with this first snapshot.
    pub fn new(snapshot: &Arc<Snapshot>, metrics: &Arc<GatewayMetrics>, workers: usize) -> Self {
        let new_pin = || WorkerPin(ArcSwap::new(pinned(snapshot, metrics)));
        let pins = std::iter::repeat_with(new_pin).take(workers.max(1)).collect();
        let generation = AtomicU64::new(snapshot.generation);
        CurrentSnapshot { pins, newest: new_pin(), generation, metrics: Arc::clone(metrics) }
    }

    /// Borrows the newest snapshot for a moment.
    pub fn load(&self) -> Guard<Arc<PinnedSnapshot>> {
        let own = self.own_pin().load();
        if own.generation < self.generation.load(Acquire) { self.newest.0.load() } else { own }
    }

    /// Pins the newest snapshot for the duration of one request.
    pub fn pin(&self) -> Arc<PinnedSnapshot> {
        Guard::into_inner(self.load())
    }

    /// The newest snapshot, for threads that are not workers.
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.0.load().snapshot)
    }

    /// Replaces the snapshot. When this returns, no request starts with the old one.
    pub fn store(&self, snapshot: &Arc<Snapshot>) {
        self.announce(snapshot);
        self.pins.iter().for_each(|pin| pin.0.store(pinned(snapshot, &self.metrics)));
    }

    /// The first part of [`CurrentSnapshot::store`]: from here on, no request starts with the old
    /// snapshot.
    pub(super) fn announce(&self, snapshot: &Arc<Snapshot>) {
        self.newest.0.store(pinned(snapshot, &self.metrics));
        self.generation.store(snapshot.generation, Release);
    }

    #[expect(clippy::indexing_slicing, reason = "there is at least one pin, and a remainder is below the divisor")]
    fn own_pin(&self) -> &ArcSwap<PinnedSnapshot> {
        &self.pins[thread_number::worker_number() % self.pins.len()].0
    }
}

fn pinned(snapshot: &Arc<Snapshot>, metrics: &Arc<GatewayMetrics>) -> Arc<PinnedSnapshot> {
    Arc::new(PinnedSnapshot { snapshot: Arc::clone(snapshot), metrics: Arc::clone(metrics) })
}
