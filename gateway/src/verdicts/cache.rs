//! The answers kept: one bounded concurrent map, and beside it for every tenant the order in which its answers came.
//!
//! A hit takes the read lock of one of the map's shards and nothing else, and a hot key's not even that: see [`hot`]. An insertion takes the tenant's own lock too, after a run that
//! cost far more. A tenant at its bound gives up its own oldest answer; when the whole is full, the inserting tenant gives way if it has
//! its fair share, else the one with the most. An answer that was used since it was last looked at is passed over once, so a flood of
//! origins that come once does not drive out those that come often. Keys are compared whole.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ahash::RandomState;
use crossgate_policy::Answer;
use dashmap::DashMap;

use super::hot;

/// Bytes of a key: more than any origin and a few fields. An answer that depends on more is not kept.
pub(super) const KEY_LEN_MAX: usize = 2_048;

/// How often an eviction passes over an answer that was used.
const PASSED_OVER_MAX: usize = 16;

/// How many answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// In all.
    pub entries: usize,
    /// For one tenant.
    pub entries_per_tenant: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits { entries: 65_536, entries_per_tenant: 8_192 }
    }
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    used: AtomicBool,
}

type Key = Arc<[u8]>;

/// All answers.
#[derive(Debug)]
pub(super) struct Cache {
    // With random keys: clients choose what is hashed.
    map: DashMap<Key, Entry, RandomState>,
    entries: AtomicUsize,
    entries_max: AtomicUsize,
    entries_max_tenant: AtomicUsize,
    shares: AtomicUsize,
    /// The share that was the largest when one last grew past it.
    largest: Mutex<Weak<Share>>,
}

/// One tenant's answers.
#[derive(Debug)]
pub(super) struct Share {
    cache: Arc<Cache>,
    /// The oldest first.
    order: Mutex<VecDeque<Key>>,
    len: AtomicUsize,
    evictions: AtomicU64,
}

impl Cache {
    pub(super) fn new(limits: CacheLimits) -> Arc<Self> {
        Arc::new(Cache {
            map: DashMap::with_hasher(RandomState::new()),
            entries: AtomicUsize::new(0),
            entries_max: AtomicUsize::new(limits.entries),
            entries_max_tenant: AtomicUsize::new(limits.entries_per_tenant),
            shares: AtomicUsize::new(0),
            largest: Mutex::default(),
        })
    }

    /// From the next insertions on.
    pub(super) fn set_limits(&self, limits: CacheLimits) {
        self.entries_max.store(limits.entries, Relaxed);
        self.entries_max_tenant.store(limits.entries_per_tenant, Relaxed);
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Answer> {
        hot::find(key, || self.find_shared(key))
    }

    fn find_shared(&self, key: &[u8]) -> Option<Answer> {
        let entry = self.map.get(key)?;
        // Written once, not at every hit.
        if !entry.used.load(Relaxed) {
            entry.used.store(true, Relaxed);
        }
        Some(entry.answer.clone())
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.map.contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes of all keys, for tests of the bound.
    #[cfg(test)]
    pub(super) fn key_bytes(&self) -> usize {
        self.map.iter().map(|entry| entry.key().len()).sum()
    }
}

impl Share {
    pub(super) fn new(cache: &Arc<Cache>) -> Arc<Self> {
        cache.shares.fetch_add(1, Relaxed);
        let cache = Arc::clone(cache);
        Arc::new(Share { cache, order: Mutex::default(), len: AtomicUsize::new(0), evictions: AtomicU64::new(0) })
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// Keeps an answer, if there is room or can be made. Whether it is kept.
    pub(super) fn insert(self: &Arc<Self>, key: &[u8], answer: &Answer) -> bool {
        let mut order = self.lock();
        if self.cache.has(key) {
            return true;
        }
        while order.len() >= self.cache.entries_max_tenant.load(Relaxed).max(1) {
            self.evict(&mut order);
        }
        if !self.take_place(&mut order) {
            return false;
        }
        let key: Key = key.into();
        order.push_back(Arc::clone(&key));
        self.len.store(order.len(), Relaxed);
        self.cache.map.insert(key, Entry { answer: answer.clone(), used: AtomicBool::new(false) });
        self.note_largest(order.len());
        true
    }

    /// A place among all entries, of which there are never more than the bound.
    fn take_place(self: &Arc<Self>, order: &mut VecDeque<Key>) -> bool {
        let max = self.cache.entries_max.load(Relaxed);
        let take = || {
            let one_more = |entries| (entries < max).then_some(entries + 1);
            self.cache.entries.fetch_update(Relaxed, Relaxed, one_more).is_ok()
        };
        if take() {
            return true;
        }
        let fair = max / self.cache.shares.load(Relaxed).max(1);
        if order.len() < fair.max(1) {
            self.evict_largest();
        }
        // Nobody else gave way, or somebody was quicker.
        take() || {
            self.evict(order);
            take()
        }
    }

    fn evict_largest(self: &Arc<Self>) {
        let largest = self.cache.largest.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let Some(largest) = largest.filter(|largest| !Arc::ptr_eq(largest, self)) else { return };
        // Its own lock is held, so another one is only tried for: two that wait for each other wait for ever.
        if let Ok(mut order) = largest.order.try_lock() {
            largest.evict(&mut order);
        }
    }

    fn note_largest(self: &Arc<Self>, len: usize) {
        // A hint, so nobody waits for it.
        if let Ok(mut largest) = self.cache.largest.try_lock() {
            let other = largest.upgrade();
            if other.is_none_or(|other| other.len() < len) {
                *largest = Arc::downgrade(self);
            }
        }
    }

    /// Drops the oldest answer that was not used lately.
    fn evict(&self, order: &mut VecDeque<Key>) {
        for _ in 0..PASSED_OVER_MAX {
            let Some(key) = order.pop_front() else { return };
            let is_used = self.cache.map.get(&key).is_some_and(|entry| entry.used.swap(false, Relaxed));
            if !is_used {
                return self.remove(&key, order.len());
            }
            order.push_back(key);
        }
        if let Some(key) = order.pop_front() {
            self.remove(&key, order.len());
        }
    }

    fn remove(&self, key: &Key, left: usize) {
        if self.cache.map.remove(key).is_some() {
            self.cache.entries.fetch_sub(1, Relaxed);
            self.evictions.fetch_add(1, Relaxed);
        }
        self.len.store(left, Relaxed);
    }

    /// A panic elsewhere leaves the list whole: it is changed by single calls only.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Key>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With the tenant go its answers; whoever still inserts holds the share.
impl Drop for Share {
    fn drop(&mut self) {
        let order = std::mem::take(self.order.get_mut().unwrap_or_else(PoisonError::into_inner));
        for key in order {
            if self.cache.map.remove(&key).is_some() {
                self.cache.entries.fetch_sub(1, Relaxed);
            }
        }
        self.cache.shares.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossgate_policy::Terms;

    const ALLOW: Answer = Answer::Allow(Terms::NONE);

    fn key(tenant: u32, n: u32) -> Vec<u8> {
        format!("{tenant} https://origin-{n}.example").into_bytes()
    }

    fn limits(entries: usize, entries_per_tenant: usize) -> CacheLimits {
        CacheLimits { entries, entries_per_tenant }
    }

    #[test]
    fn memory_is_flat_after_the_cap_under_five_million_distinct_origins() {
        const ORIGINS: u32 = 5_000_000;
        const LATER: u32 = 1_000_000;
        let bounds = CacheLimits::default();
        let cache = Cache::new(bounds);
        let tenants: Vec<_> = (0..10).map(|_| Share::new(&cache)).collect();
        let mut at_cap = 0;
        for n in 0..ORIGINS {
            let tenant = n % 10;
            assert!(tenants[tenant as usize].insert(&key(tenant, n), &ALLOW));
            if n == LATER {
                at_cap = cache.key_bytes();
                assert_eq!(cache.len(), bounds.entries);
            }
        }
        assert_eq!(cache.len(), bounds.entries);
        assert!(tenants.iter().all(|tenant| tenant.len() <= bounds.entries_per_tenant));
        let bytes = cache.key_bytes();
        assert!(bytes.abs_diff(at_cap) * 20 < at_cap, "{at_cap} bytes of keys at the cap, {bytes} at the end");
    }

    #[test]
    fn a_tenant_that_floods_drives_out_its_own() {
        let cache = Cache::new(limits(1_000, 100));
        let (quiet, loud) = (Share::new(&cache), Share::new(&cache));
        (0..50).for_each(|n| assert!(quiet.insert(&key(1, n), &ALLOW)));
        (0..10_000).for_each(|n| assert!(loud.insert(&key(2, n), &ALLOW)));
        assert_eq!((quiet.len(), loud.len()), (50, 100));
        assert!((0..50).all(|n| cache.has(&key(1, n))));
        assert_eq!(loud.evictions(), 9_900);
    }

    #[test]
    fn when_all_is_full_the_largest_gives_way() {
        let cache = Cache::new(limits(100, 100));
        let (first, late) = (Share::new(&cache), Share::new(&cache));
        (0..100).for_each(|n| assert!(first.insert(&key(1, n), &ALLOW)));
        (0..1_000).for_each(|n| assert!(late.insert(&key(2, n), &ALLOW)));
        assert_eq!((first.len(), late.len(), cache.len()), (50, 50, 100));
    }

    #[test]
    fn what_is_used_survives_a_flood() {
        let cache = Cache::new(limits(1_000, 100));
        let share = Share::new(&cache);
        let hot: Vec<_> = (0..10).map(|n| key(1, n)).collect();
        hot.iter().for_each(|key| assert!(share.insert(key, &ALLOW)));
        for n in 1_000..10_000 {
            share.insert(&key(1, n), &ALLOW);
            if n % 50 == 0 {
                assert!(hot.iter().all(|key| cache.find_shared(key).is_some()), "after {n}");
            }
        }
    }

    #[test]
    fn with_a_tenant_go_its_answers() {
        let cache = Cache::new(limits(1_000, 100));
        let (gone, stays) = (Share::new(&cache), Share::new(&cache));
        (0..50).for_each(|n| assert!(gone.insert(&key(1, n), &ALLOW) && stays.insert(&key(2, n), &ALLOW)));
        let late = Arc::clone(&gone);
        drop(gone);
        assert!(late.insert(&key(1, 99), &ALLOW), "whoever inserts late holds the share");
        drop(late);
        assert_eq!((cache.len(), cache.entries.load(Relaxed)), (50, 50));
    }

    #[test]
    fn threads_neither_deadlock_nor_pass_the_bounds() {
        let cache = Cache::new(limits(500, 200));
        let shares: Vec<_> = (0..4).map(|_| Share::new(&cache)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let (cache, shares) = (&cache, &shares);
                scope.spawn(move || {
                    for n in 0..20_000 {
                        let tenant = (thread + n) % 4;
                        shares[tenant as usize].insert(&key(tenant, n % 700), &ALLOW);
                        cache.find_shared(&key(tenant, n % 300));
                        if n % 5_000 == 0 {
                            assert!(cache.entries.load(Relaxed) <= 500 && cache.map.iter().count() > 0);
                            drop(Share::new(cache));
                        }
                    }
                });
            }
        });
        assert!(cache.len() <= 500 && shares.iter().all(|share| share.len() <= 200));
        assert_eq!(cache.len(), cache.entries.load(Relaxed));
        drop(shares);
        assert_eq!((cache.len(), cache.entries.load(Relaxed)), (0, 0));
    }
}
