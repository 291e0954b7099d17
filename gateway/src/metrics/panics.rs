//! Panics, by what they ended.
//!
//! A panic is a bug, and ends the connection, or the stream of HTTP/2, whose task it was in and nothing else. Whoever runs a task holds a [`PanicWatch`] as long as it
//! runs: unwinding drops that, once.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{PanicPlace, every};

/// Counts of panics.
#[derive(Debug)]
pub struct Panics {
    counts: [AtomicU64; PanicPlace::ALL.len()],
}

impl Default for Panics {
    fn default() -> Self {
        Panics { counts: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Panics {
    /// Counts one.
    pub fn count(&self, place: PanicPlace) {
        if let Some(count) = self.counts.get(place as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn read(&self) -> impl Iterator<Item = (PanicPlace, u64)> + '_ {
        every(&PanicPlace::ALL, &self.counts)
    }
}

/// Calls a function if it is dropped by a panic.
#[derive(Debug)]
pub struct PanicWatch<F: Fn(PanicPlace)> {
    /// Where the task is now.
    pub place: PanicPlace,
    count: F,
}

impl<F: Fn(PanicPlace)> PanicWatch<F> {
    /// Of a task that begins at `place`.
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
