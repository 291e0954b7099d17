//! Connections that have not sent a whole head yet. At the connection limit the oldest one is
//! closed.
//!
//! A client that opens connections and sends nothing would otherwise block probes and operators
//! until each connection times out. A connection whose request is being served is never closed
//! here.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// The silent connections in the order of arrival. There are at most as many as the connection
/// limit.
#[derive(Debug, Default)]
pub(super) struct SilentConnections {
    order: Mutex<ArrivalOrder>,
}

#[derive(Debug, Default)]
struct ArrivalOrder {
    next: u64,
    /// Dropping a sender closes its connection.
    senders: BTreeMap<u64, oneshot::Sender<()>>,
}

/// The registration of one connection; dropping it ends the registration.
pub(super) struct SilentConnection {
    waiting: Arc<SilentConnections>,
    number: u64,
    shed: oneshot::Receiver<()>,
}

impl SilentConnections {
    /// Registers a new connection.
    pub(super) fn register(self: &Arc<Self>) -> SilentConnection {
        let (sender, shed) = oneshot::channel();
        let mut order = self.lock();
        let number = order.next;
        order.next += 1;
        order.senders.insert(number, sender);
        SilentConnection { waiting: Arc::clone(self), number, shed }
    }

    /// Closes the oldest silent connection, if there is one.
    pub(super) fn shed_oldest(&self) {
        drop(self.lock().senders.pop_first());
    }

    fn lock(&self) -> MutexGuard<'_, ArrivalOrder> {
        self.order.lock()
    }
}

impl SilentConnection {
    /// Returns when the connection has to close.
    pub(super) async fn shed(&mut self) {
        // Nothing is ever sent: dropping the sender is the signal.
        let _ended = (&mut self.shed).await;
    }
}

impl Drop for SilentConnection {
    fn drop(&mut self) {
        self.waiting.lock().senders.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn oldest_silent_connection_is_shed() {
        let waiting = Arc::new(SilentConnections::default());
        let (answered, mut oldest, mut newest) = (waiting.register(), waiting.register(), waiting.register());
        drop(answered);
        waiting.shed_oldest();
        oldest.shed().await;
        assert!(newest.shed.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop((oldest, newest));
        waiting.shed_oldest();
        assert!(waiting.lock().senders.is_empty());
    }
}
