//! The cached answers of rules: one bounded concurrent map, and for every tenant the order in which
//! its answers came.
//!
//! A hit takes the read lock of one shard of the map, or no lock for a hot key (see [`hot`]). An
//! insertion also takes the tenant's lock, after a run that costs far more. A tenant at its limit
//! evicts its own oldest answer. If the whole cache is full, the inserting tenant evicts its own if
//! it has its fair share, otherwise the tenant with the most answers does. An answer that was used
//! since its last turn is skipped once, so a flood of new origins does not evict frequent ones.
//! Keys are compared completely.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ahash::RandomState;
use crossgate_policy::RuleAnswer;
use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};

use super::hot;

use crossgate_config::model::CacheLimits;

/// The maximum length of a key: more than any origin and a few fields. Answers with longer keys are
/// not cached.
pub(super) const KEY_LEN_MAX: usize = 2_048;

/// The maximum number of used answers that an eviction skips.
const SKIPPED_MAX: usize = 16;

#[derive(Debug)]
struct CachedVerdict {
    answer: RuleAnswer,
    used: AtomicBool,
}

type Key = Arc<[u8]>;

/// The answers of all tenants.
#[derive(Debug)]
pub(super) struct VerdictCache {
    // Random keys: clients choose what is hashed (hash flooding).
    map: DashMap<Key, CachedVerdict, RandomState>,
    entries: AtomicUsize,
    entries_max: AtomicUsize,
    entries_max_tenant: AtomicUsize,
    tenant_caches: AtomicUsize,
    /// The tenant cache that was largest when one last grew past it.
    largest: Mutex<Weak<TenantCache>>,
}

/// The answers of one tenant.
#[derive(Debug)]
pub(super) struct TenantCache {
    cache: Arc<VerdictCache>,
    /// The keys, oldest first.
    order: Mutex<VecDeque<Key>>,
    len: AtomicUsize,
    evictions: AtomicU64,
}

impl VerdictCache {
    pub(super) fn new(limits: CacheLimits) -> Arc<Self> {
        Arc::new(VerdictCache {
            map: DashMap::with_hasher(RandomState::new()),
            entries: AtomicUsize::new(0),
            entries_max: AtomicUsize::new(limits.entries),
            entries_max_tenant: AtomicUsize::new(limits.entries_per_tenant),
            tenant_caches: AtomicUsize::new(0),
            largest: Mutex::default(),
        })
    }

    /// Sets the limits for the next insertions.
    pub(super) fn set_limits(&self, limits: CacheLimits) {
        self.entries_max.store(limits.entries, Relaxed);
        self.entries_max_tenant.store(limits.entries_per_tenant, Relaxed);
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<RuleAnswer> {
        hot::find(key, || self.find_shared(key))
    }

    fn find_shared(&self, key: &[u8]) -> Option<RuleAnswer> {
        let entry = self.map.get(key)?;
        // Written only if unset: hits must not write to a shared cache line.
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

    /// The length of all keys, for tests of the limits.
    #[cfg(test)]
    pub(super) fn key_bytes(&self) -> usize {
        self.map.iter().map(|entry| entry.key().len()).sum()
    }
}

impl TenantCache {
    pub(super) fn new(cache: &Arc<VerdictCache>) -> Arc<Self> {
        cache.tenant_caches.fetch_add(1, Relaxed);
        let cache = Arc::clone(cache);
        Arc::new(TenantCache { cache, order: Mutex::default(), len: AtomicUsize::new(0), evictions: AtomicU64::new(0) })
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// Caches an answer, if there is room or room can be made. Returns whether it is cached.
    pub(super) fn insert(self: &Arc<Self>, key: &[u8], answer: &RuleAnswer) -> bool {
        let mut order = self.lock();
        if self.cache.has(key) {
            return true;
        }
        while order.len() >= self.cache.entries_max_tenant.load(Relaxed).max(1) {
            self.evict(&mut order);
        }
        if !self.reserve_entry(&mut order) {
            return false;
        }
        let key: Key = key.into();
        order.push_back(Arc::clone(&key));
        self.len.store(order.len(), Relaxed);
        self.cache.map.insert(key, CachedVerdict { answer: answer.clone(), used: AtomicBool::new(false) });
        self.note_largest(order.len());
        true
    }

    /// Reserves room for one entry. There are never more entries than the limit.
    fn reserve_entry(self: &Arc<Self>, order: &mut VecDeque<Key>) -> bool {
        let max = self.cache.entries_max.load(Relaxed);
        let take = || {
            let one_more = |entries| (entries < max).then_some(entries + 1);
            self.cache.entries.fetch_update(Relaxed, Relaxed, one_more).is_ok()
        };
        if take() {
            return true;
        }
        let fair = max / self.cache.tenant_caches.load(Relaxed).max(1);
        if order.len() < fair.max(1) {
            self.evict_largest();
        }
        // No other tenant made room, or another thread took it.
        take() || {
            self.evict(order);
            take()
        }
    }

    fn evict_largest(self: &Arc<Self>) {
        let largest = self.cache.largest.lock().upgrade();
        let Some(largest) = largest.filter(|largest| !Arc::ptr_eq(largest, self)) else { return };
        // This thread holds its own tenant's lock, so it only tries another one: waiting could
        // deadlock.
        if let Some(mut order) = largest.order.try_lock() {
            largest.evict(&mut order);
        }
    }

    fn note_largest(self: &Arc<Self>, len: usize) {
        // Only a hint, so no thread waits for it.
        if let Some(mut largest) = self.cache.largest.try_lock() {
            let other = largest.upgrade();
            if other.is_none_or(|other| other.len() < len) {
                *largest = Arc::downgrade(self);
            }
        }
    }

    /// Evicts the oldest answer that was not used lately.
    fn evict(&self, order: &mut VecDeque<Key>) {
        for _ in 0..SKIPPED_MAX {
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

    /// Locks the list. A panic leaves it intact, because single calls change it; `parking_lot`
    /// locks are not poisoned.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Key>> {
        self.order.lock()
    }
}

/// Dropping a tenant's cache removes its answers. A thread that still inserts holds a reference.
impl Drop for TenantCache {
    fn drop(&mut self) {
        let order = std::mem::take(self.order.get_mut());
        for key in order {
            if self.cache.map.remove(&key).is_some() {
                self.cache.entries.fetch_sub(1, Relaxed);
            }
        }
        self.cache.tenant_caches.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: u32, n: u32) -> Vec<u8> {
        format!("{tenant} https://origin-{n}.example").into_bytes()
    }

    fn limits(entries: usize, entries_per_tenant: usize) -> CacheLimits {
        CacheLimits { entries, entries_per_tenant }
    }

    #[test]
    fn cache_memory_stays_flat_under_five_million_distinct_origins() {
        const ORIGINS: u32 = 5_000_000;
        const LATER: u32 = 1_000_000;
        let bounds = CacheLimits::default();
        let cache = VerdictCache::new(bounds);
        let tenants: Vec<_> = (0..10).map(|_| TenantCache::new(&cache)).collect();
        let mut at_cap = 0;
        for n in 0..ORIGINS {
            let tenant = n % 10;
            assert!(tenants[tenant as usize].insert(&key(tenant, n), &RuleAnswer::ALLOW));
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
    fn flooding_tenant_evicts_only_its_own_answers() {
        let cache = VerdictCache::new(limits(1_000, 100));
        let (quiet, loud) = (TenantCache::new(&cache), TenantCache::new(&cache));
        (0..50).for_each(|n| assert!(quiet.insert(&key(1, n), &RuleAnswer::ALLOW)));
        (0..10_000).for_each(|n| assert!(loud.insert(&key(2, n), &RuleAnswer::ALLOW)));
        assert_eq!((quiet.len(), loud.len()), (50, 100));
        assert!((0..50).all(|n| cache.has(&key(1, n))));
        assert_eq!(loud.evictions(), 9_900);
    }

    #[test]
    fn full_cache_evicts_answers_of_the_largest_tenant() {
        let cache = VerdictCache::new(limits(100, 100));
        let (first, late) = (TenantCache::new(&cache), TenantCache::new(&cache));
        (0..100).for_each(|n| assert!(first.insert(&key(1, n), &RuleAnswer::ALLOW)));
        (0..1_000).for_each(|n| assert!(late.insert(&key(2, n), &RuleAnswer::ALLOW)));
        assert_eq!((first.len(), late.len(), cache.len()), (50, 50, 100));
    }

    #[test]
    fn used_answers_survive_a_flood_of_new_ones() {
        let cache = VerdictCache::new(limits(1_000, 100));
        let tenant_cache = TenantCache::new(&cache);
        let hot: Vec<_> = (0..10).map(|n| key(1, n)).collect();
        hot.iter().for_each(|key| assert!(tenant_cache.insert(key, &RuleAnswer::ALLOW)));
        for n in 1_000..10_000 {
            tenant_cache.insert(&key(1, n), &RuleAnswer::ALLOW);
            if n % 50 == 0 {
                assert!(hot.iter().all(|key| cache.find_shared(key).is_some()), "after {n}");
            }
        }
    }

    #[test]
    fn dropped_tenant_cache_removes_its_answers() {
        let cache = VerdictCache::new(limits(1_000, 100));
        let (dropped, remaining) = (TenantCache::new(&cache), TenantCache::new(&cache));
        (0..50).for_each(|n| {
            assert!(dropped.insert(&key(1, n), &RuleAnswer::ALLOW) && remaining.insert(&key(2, n), &RuleAnswer::ALLOW))
        });
        let late = Arc::clone(&dropped);
        drop(dropped);
        assert!(late.insert(&key(1, 99), &RuleAnswer::ALLOW), "a late insertion holds the tenant cache");
        drop(late);
        assert_eq!((cache.len(), cache.entries.load(Relaxed)), (50, 50));
    }

    #[test]
    fn concurrent_insertions_stay_within_the_limits() {
        let cache = VerdictCache::new(limits(500, 200));
        let tenant_caches: Vec<_> = (0..4).map(|_| TenantCache::new(&cache)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let (cache, tenant_caches) = (&cache, &tenant_caches);
                scope.spawn(move || {
                    for n in 0..20_000 {
                        let tenant = (thread + n) % 4;
                        tenant_caches[tenant as usize].insert(&key(tenant, n % 700), &RuleAnswer::ALLOW);
                        cache.find_shared(&key(tenant, n % 300));
                        if n % 5_000 == 0 {
                            assert!(cache.entries.load(Relaxed) <= 500 && cache.map.iter().count() > 0);
                            drop(TenantCache::new(cache));
                        }
                    }
                });
            }
        });
        assert!(cache.len() <= 500 && tenant_caches.iter().all(|tenant_cache| tenant_cache.len() <= 200));
        assert_eq!(cache.len(), cache.entries.load(Relaxed));
        drop(tenant_caches);
        assert_eq!((cache.len(), cache.entries.load(Relaxed)), (0, 0));
    }
}
