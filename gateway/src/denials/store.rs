//! The stored denials, by tenant.
//!
//! Each tenant has a ring of its last denials, in which no single origin displaces all others. At
//! the total limit the longest rings are shortened. Only threads that may wait use the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Weak;
use std::time::SystemTime;

use super::record::RecordedDenial;
use super::{DENIAL_AGE_MAX, DENIALS_MAX, DENIALS_PER_TENANT_MAX, FoundDenial};
use crate::counters::TenantCounters;
use crate::ledger::fair_len;

/// The number of denials of one origin above which a new one replaces that origin's oldest instead
/// of the tenant's oldest.
pub(crate) const DENIALS_PER_ORIGIN_MAX: usize = DENIALS_PER_TENANT_MAX / 2;
/// The total after the longest rings were shortened; lower than the limit, so that this is rare.
const DENIALS_AFTERWARDS: usize = DENIALS_MAX / 4 * 3;

/// The denials of all tenants.
#[derive(Debug, Default)]
pub(super) struct DenialStore {
    /// Keyed by the address of a tenant's counters. The weak reference keeps the address from being
    /// reused.
    rings: HashMap<usize, DenialRing>,
    len: usize,
}

#[derive(Debug)]
struct DenialRing {
    tenant: Weak<TenantCounters>,
    /// Ordered from the oldest.
    denials: VecDeque<StoredDenial>,
}

#[derive(Debug)]
struct StoredDenial {
    denial: RecordedDenial,
    at: SystemTime,
}

impl DenialStore {
    /// Adds denials with the time `now`, and drops those that are too old, too many, or of a
    /// removed tenant.
    pub(super) fn take(&mut self, denials: Vec<RecordedDenial>, now: SystemTime) {
        self.expire(now);
        for denial in denials {
            self.push(denial, now);
            if self.len > DENIALS_MAX {
                self.shorten();
            }
        }
    }

    /// The newest denial with this request id.
    pub(super) fn find(&self, request_id: &str) -> Option<FoundDenial> {
        let all = self.rings.values().flat_map(|ring| &ring.denials);
        let newest = all.filter(|stored| stored.denial.has_request_id(request_id)).max_by_key(|stored| stored.at)?;
        Some(FoundDenial { denial: newest.denial.clone(), recorded_at: newest.at })
    }

    fn expire(&mut self, now: SystemTime) {
        self.rings.retain(|_, ring| {
            if ring.tenant.strong_count() == 0 {
                return false;
            }
            // After the clock was set back, denials from the future expire when their time comes.
            let is_old = |stored: &StoredDenial| now.duration_since(stored.at).is_ok_and(|age| age > DENIAL_AGE_MAX);
            while ring.denials.front().is_some_and(is_old) {
                ring.denials.pop_front();
            }
            !ring.denials.is_empty()
        });
        self.count();
    }

    fn push(&mut self, denial: RecordedDenial, now: SystemTime) {
        let tenant = denial.tenant().clone();
        let ring = self.rings.entry(tenant.as_ptr().addr());
        let ring = ring.or_insert_with(|| DenialRing { tenant, denials: VecDeque::new() });
        let before = ring.denials.len();
        ring.push(StoredDenial { denial, at: now });
        self.len = self.len + ring.denials.len() - before;
    }

    /// Shortens the longest rings. If one denial per tenant is still too many, the rings that have
    /// been idle longest are removed.
    fn shorten(&mut self) {
        let lens = self.rings.values().map(|ring| ring.denials.len()).collect();
        let fair = fair_len(lens, DENIALS_AFTERWARDS).max(1);
        for ring in self.rings.values_mut() {
            let excess = ring.denials.len().saturating_sub(fair);
            ring.denials.drain(..excess);
        }
        self.count();
        if self.len > DENIALS_AFTERWARDS {
            let newest = |ring: &DenialRing| ring.denials.back().map(|stored| stored.at);
            let mut by_age: Vec<_> = self.rings.iter().map(|(key, ring)| (newest(ring), *key)).collect();
            by_age.sort_unstable();
            for (_, key) in by_age.into_iter().take(self.len - DENIALS_AFTERWARDS) {
                self.rings.remove(&key);
            }
            self.count();
        }
    }

    fn count(&mut self) {
        self.len = self.rings.values().map(|ring| ring.denials.len()).sum();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl DenialRing {
    fn push(&mut self, stored: StoredDenial) {
        let origin = stored.denial.origin_hash();
        let is_same = |other: &StoredDenial| other.denial.origin_hash() == origin;
        if self.denials.len() >= DENIALS_PER_TENANT_MAX {
            let same_origin = self.denials.iter().filter(|other| is_same(other)).count();
            let oldest = self.denials.iter().position(is_same).filter(|_| same_origin >= DENIALS_PER_ORIGIN_MAX);
            self.denials.remove(oldest.unwrap_or(0));
        }
        self.denials.push_back(stored);
    }
}
