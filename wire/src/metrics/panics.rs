//! Counters of panics, by the work that they ended.
//!
//! A panic is a bug. It ends only the connection or the HTTP/2 stream in whose task it happens. A
//! task holds a [`PanicWatch`] while it runs, and unwinding drops that once. Background work
//! restarts after a panic ([`background`](crate::background)).

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::PanicPlace;
use crossgate_telemetry::all_counts;

#[derive(Debug)]
pub struct PanicCounters {
    counts: [AtomicU64; PanicPlace::ALL.len()],
}

impl Default for PanicCounters {
    fn default() -> Self {
        PanicCounters { counts: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl PanicCounters {
    /// Counts a panic.
    pub fn count(&self, place: PanicPlace) {
        if let Some(count) = self.counts.get(place as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub fn read(&self) -> impl Iterator<Item = (PanicPlace, u64)> + '_ {
        all_counts(&PanicPlace::ALL, &self.counts)
    }
}

/// Calls a function if a panic drops it.
#[derive(Debug)]
pub struct PanicWatch<F: Fn(PanicPlace)> {
    /// The work that the task does now.
    pub place: PanicPlace,
    count: F,
}

impl<F: Fn(PanicPlace)> PanicWatch<F> {
    /// Makes the watch of a task that begins at `place`.
    pub fn new(place: PanicPlace, count: F) -> Self {
        PanicWatch { place, count }
    }
}

impl<F: Fn(PanicPlace)> Drop for PanicWatch<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.count)(self.place);
        }
    }
}
