//! Connections that have not sent a whole head yet, so that the oldest can make room for a new one.
//!
//! Somebody who opens connections and says nothing would otherwise keep probes and operators out until each times out. A
//! connection whose request is being answered is never shed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who waits for a head, in the order of arrival. There are at most as many as connections are served.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    /// Dropping a sender sheds its connection.
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A connection's place; it is given up when this is dropped.
pub(super) struct Place {
    waiting: Arc<Waiting>,
    number: u64,
    shed: oneshot::Receiver<()>,
}

impl Waiting {
    /// A place at the end of the line.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let (sender, shed) = oneshot::channel();
        let mut line = self.lock();
        let number = line.next;
        line.next += 1;
        line.places.insert(number, sender);
        Place { waiting: Arc::clone(self), number, shed }
    }

    /// Sheds whoever has waited longest, if anybody waits.
    pub(super) fn shed_oldest(&self) {
        drop(self.lock().places.pop_first());
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns when the connection is to make room.
    pub(super) async fn shed(&mut self) {
        // Nothing is ever sent: the end of the sender is the word.
        let _ended = (&mut self.shed).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_still_waits_is_shed() {
        let waiting = Arc::new(Waiting::default());
        let (answered, mut oldest, mut newest) = (waiting.enter(), waiting.enter(), waiting.enter());
        drop(answered);
        waiting.shed_oldest();
        oldest.shed().await;
        assert!(newest.shed.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop((oldest, newest));
        waiting.shed_oldest();
        assert!(waiting.lock().places.is_empty());
    }
}
