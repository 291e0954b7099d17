//! What is counted of clients' connections, and of requests refused before any tenant is known.
//!
//! A drain waits for the number of open connections, so they are counted from the accept until the socket is closed for
//! good.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::EarlyClose;
use super::tenant::counted;

/// The statuses of the gateway's own answers to requests it cannot charge a tenant with, ascending. 421 is not among
/// them: those requests are counted under tenant `none`.
const REFUSALS: [u16; 4] = [400, 405, 408, 431];

/// Counters of the data listeners' connections.
#[derive(Debug)]
pub struct Connections {
    opened: AtomicU64,
    active: AtomicU64,
    closed_early: [AtomicU64; EarlyClose::ALL.len()],
    refusals: [AtomicU64; REFUSALS.len()],
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            opened: AtomicU64::new(0),
            active: AtomicU64::new(0),
            closed_early: array::from_fn(|_| AtomicU64::new(0)),
            refusals: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// One open connection: it counts as active until this is dropped, however the connection ends.
#[derive(Debug)]
pub struct ActiveConnection(Arc<Connections>);

impl Connections {
    /// Counts a connection that was accepted.
    pub fn open(self: &Arc<Self>) -> ActiveConnection {
        self.active.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        ActiveConnection(Arc::clone(self))
    }

    /// How many were accepted so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// How many are open.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// Counts a connection that the gateway closed without a whole answer.
    pub fn count_early_close(&self, reason: EarlyClose) {
        if let Some(cell) = self.closed_early.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a request refused with this status before its tenant was known. Only 400, 405, 408 and 431 are such.
    pub fn count_refusal(&self, status: u16) {
        let cell = REFUSALS.binary_search(&status).ok().and_then(|index| self.refusals.get(index));
        if let Some(cell) = cell {
            cell.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn closed_early(&self) -> impl Iterator<Item = (EarlyClose, u64)> + '_ {
        counted(&EarlyClose::ALL, &self.closed_early)
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        counted(&REFUSALS, &self.refusals)
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_active_until_dropped() {
        let connections = Arc::new(Connections::default());
        let first = connections.open();
        let second = connections.open();
        drop(first);
        assert_eq!((connections.active(), connections.opened()), (1, 2));
        drop(second);
        assert_eq!((connections.active(), connections.opened()), (0, 2));
    }

    #[test]
    fn only_statuses_of_the_closed_set_are_counted() {
        let connections = Connections::default();
        for status in [200, 400, 400, 431, 599] {
            connections.count_refusal(status);
        }
        assert_eq!(connections.refusals().collect::<Vec<_>>(), [(400, 2), (431, 1)]);
    }
}
