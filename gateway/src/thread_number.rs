//! A number for every thread that serves requests, so that each can have a copy to itself of what all of them use.
//!
//! Numbers are drawn in the order in which threads first ask, so the first so many workers of a gateway have the first so many
//! numbers. Threads that do not serve requests must not draw one: it would be a worker's.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

thread_local! {
    static DRAWN: Cell<Option<usize>> = const { Cell::new(None) };
}

/// This worker's number, drawn at its first call.
pub(crate) fn of_worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    DRAWN.get().unwrap_or_else(|| {
        let drawn = NEXT.fetch_add(1, Relaxed);
        DRAWN.set(Some(drawn));
        drawn
    })
}

/// A number for a thread that may be no worker: its own if it has drawn one, else the first.
pub(crate) fn of_guest() -> usize {
    DRAWN.get().unwrap_or(0)
}
