//! Numbers of the threads that serve requests, so that each worker can have its own copy of shared
//! counters.
//!
//! A thread gets its number at its first call, so the workers of a gateway have the lowest numbers.
//! Threads that do not serve requests must use [`guest_number`], since they would take a number
//! from a worker.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

thread_local! {
    static ASSIGNED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of this worker, assigned at its first call.
pub fn worker_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    ASSIGNED.get().unwrap_or_else(|| {
        let assigned = NEXT.fetch_add(1, Relaxed);
        ASSIGNED.set(Some(assigned));
        assigned
    })
}

/// A number for any thread: its own if it has one, else the first.
pub fn guest_number() -> usize {
    ASSIGNED.get().unwrap_or(0)
}
