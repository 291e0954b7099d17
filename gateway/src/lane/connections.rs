//! The open connections of the data listeners: counted from the accept until the socket is closed
//! for good, a lingering close included. A drain waits for this count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of connections, open and ever opened.
#[derive(Debug, Default)]
pub struct Connections {
    active: AtomicU64,
    opened: AtomicU64,
}

impl Connections {
    /// Counts one more, until the last clone of the returned value is dropped.
    pub fn open(self: &Arc<Self>) -> OpenConnection {
        self.active.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        OpenConnection(Arc::new(Guard(Arc::clone(self))))
    }

    /// Connections open now.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// Connections opened since the start.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }
}

/// One open connection.
#[derive(Clone, Debug)]
pub struct OpenConnection(#[expect(dead_code, reason = "held for its Drop alone")] Arc<Guard>);

#[derive(Debug)]
struct Guard(Arc<Connections>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
