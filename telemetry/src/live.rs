//! Counters by configured name, kept alive by the snapshots that use them.
//!
//! The register holds weak references. When the last snapshot that names a tenant or an upstream is
//! dropped, its series are gone from the next scrape. A later tenant of that name starts at zero.
//! While such a snapshot lives, the next snapshot gets the same counters, so that counts survive a
//! reload. Only compile and scrape lock the register, never a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

#[derive(Debug)]
pub struct LiveCounters<T> {
    inner: Mutex<LiveCountersInner<T>>,
}

#[derive(Debug)]
struct LiveCountersInner<T> {
    by_name: BTreeMap<Arc<str>, Weak<T>>,
    /// The number of names at which dead ones are swept, so that adding a name has constant
    /// amortized cost.
    sweep_at: usize,
}

/// The smallest number of names for a sweep.
const SWEEP_AT_MIN: usize = 64;

impl<T> Default for LiveCounters<T> {
    fn default() -> Self {
        LiveCounters { inner: Mutex::new(LiveCountersInner { by_name: BTreeMap::new(), sweep_at: SWEEP_AT_MIN }) }
    }
}

impl<T> LiveCounters<T> {
    /// The live counters of this name, or new ones.
    pub fn get_or_make(&self, name: &str, make: impl FnOnce(Arc<str>) -> T) -> Arc<T> {
        let mut inner = self.lock();
        if let Some(live) = inner.by_name.get(name).and_then(Weak::upgrade) {
            return live;
        }
        inner.sweep_if_due();
        let name: Arc<str> = name.into();
        let made = Arc::new(make(Arc::clone(&name)));
        inner.by_name.insert(name, Arc::downgrade(&made));
        made
    }

    /// All live counters, by name.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.lock().by_name.values().filter_map(Weak::upgrade).collect()
    }

    /// Locks the map. The lock has no poisoning: single calls change the map, so a panic leaves it
    /// consistent.
    fn lock(&self) -> MutexGuard<'_, LiveCountersInner<T>> {
        self.inner.lock()
    }
}

impl<T> LiveCountersInner<T> {
    fn sweep_if_due(&mut self) {
        if self.by_name.len() >= self.sweep_at {
            self.by_name.retain(|_, counters| counters.strong_count() > 0);
            self.sweep_at = SWEEP_AT_MIN.max(self.by_name.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_name_shares_counters_and_dropped_name_restarts_at_zero() {
        let live = LiveCounters::default();
        let first = live.get_or_make("a", |_| 1);
        assert_eq!(*live.get_or_make("a", |_| 2), 1);
        drop(first);
        assert!(live.all().is_empty());
        assert_eq!(*live.get_or_make("a", |_| 3), 3);
    }

    #[test]
    fn dropped_counter_names_are_swept() {
        let live = LiveCounters::default();
        for i in 0..10_000 {
            drop(live.get_or_make(&i.to_string(), |_| ()));
        }
        assert!(live.lock().by_name.len() <= SWEEP_AT_MIN);
    }
}
