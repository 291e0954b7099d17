//! Counters by configured name, kept alive by whoever counts with them.
//!
//! The register holds weak references: when the last snapshot that names a tenant or an upstream is dropped, its series
//! are gone from the next scrape, and a later one of the same name starts clean. While a snapshot that names it lives,
//! the next gets the same counters, so that counts survive recompiles. Taken at compile and scrape, never by a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Weakly held counters, by name.
#[derive(Debug)]
pub(crate) struct Live<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    by_name: BTreeMap<Arc<str>, Weak<T>>,
    /// Dead names are swept when there are this many names, so that adding costs a constant on average.
    sweep_at: usize,
}

/// The smallest number of names at which a sweep is worth it.
const SWEEP_AT_MIN: usize = 64;

impl<T> Live<T> {
    pub(crate) fn new() -> Self {
        Live { inner: Mutex::new(Inner { by_name: BTreeMap::new(), sweep_at: SWEEP_AT_MIN }) }
    }

    /// The living counters of that name, or new ones.
    pub(crate) fn get_or_make(&self, name: &str, make: impl FnOnce(Arc<str>) -> T) -> Arc<T> {
        let mut inner = self.lock();
        if let Some(living) = inner.by_name.get(name).and_then(Weak::upgrade) {
            return living;
        }
        inner.sweep_if_due();
        let name: Arc<str> = name.into();
        let made = Arc::new(make(Arc::clone(&name)));
        inner.by_name.insert(name, Arc::downgrade(&made));
        made
    }

    /// All that live, by name.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.lock().by_name.values().filter_map(Weak::upgrade).collect()
    }

    /// A panic elsewhere leaves the map whole: it is changed by single calls only.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Inner<T> {
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
    fn a_living_name_is_shared_and_a_dead_one_starts_anew() {
        let live = Live::new();
        let first = live.get_or_make("a", |_| 1);
        assert_eq!(*live.get_or_make("a", |_| 2), 1);
        drop(first);
        assert!(live.all().is_empty());
        assert_eq!(*live.get_or_make("a", |_| 3), 3);
    }

    #[test]
    fn names_that_come_and_go_do_not_pile_up() {
        let live = Live::new();
        for i in 0..10_000 {
            drop(live.get_or_make(&i.to_string(), |_| ()));
        }
        assert!(live.lock().by_name.len() <= SWEEP_AT_MIN);
    }
}
