//! The ledger: a bounded record of the origins that clients sent, by tenant and verdict. Metrics
//! count configured origins only.
//!
//! Every tenant has a [`TenantLedger`] with its most frequent origins. A request writes to its
//! worker's own table ([`worker_buffer`]), without a lock, a clock or an allocation. The ledger
//! thread enters those tables several times a second. Entries are bounded for each tenant and in
//! total, and so is the cost of recording. Requests over a bound are counted as dropped or
//! forgotten, so that a report adds up to the requests whose origin was judged. Origins are text
//! from clients: the ledger counts malformed ones and never keeps their text. Absent on purpose:
//! anything of a request except its origin and its verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crossgate_policy::{ORIGIN_LEN_MAX, Reason, RequestField};

use crate::metrics::VerdictLabel;
use crossgate_config::model::LedgerLimits;
use crossgate_telemetry::CounterCells;

mod group_label;
mod report;
mod tenant_ledger;
mod worker_buffer;

#[cfg(test)]
mod tests;

pub use group_label::GroupLabel;
pub use report::{OriginsError, OriginsQuery, OriginsReport, VerdictFilter, report};
pub use tenant_ledger::TenantLedger;

/// The ledger's name for all malformed origins. No valid origin has this text.
const MALFORMED: &[u8] = b"malformed";
const NULL: &[u8] = b"null";

/// The largest tenant ledgers are shortened when less than an eighth (`FREE_AT_LEAST`) of all
/// entries is free, until a quarter (`FREE_AFTERWARDS`) is free.
const FREE_AFTERWARDS: usize = 4;
const FREE_AT_LEAST: usize = 8;

/// The limits and counts that all tenant ledgers share.
#[derive(Debug)]
pub struct Ledger {
    entries: AtomicUsize,
    entries_max: AtomicUsize,
    entries_max_tenant: AtomicUsize,
    /// Seconds since 1970 at the last run of [`Ledger::tend`].
    now_s: AtomicU64,
    /// Entries that were evicted for others.
    evictions: AtomicU64,
    /// Requests that were not recorded, of all tenants.
    dropped: CounterCells,
    /// The part of `dropped` from before the ledger was last cleared.
    dropped_before: AtomicU64,
}

impl Ledger {
    /// Creates an empty ledger.
    pub fn new(now: SystemTime) -> Arc<Self> {
        let limits = LedgerLimits::default();
        Arc::new(Ledger {
            entries: AtomicUsize::new(0),
            entries_max: AtomicUsize::new(limits.origins),
            entries_max_tenant: AtomicUsize::new(limits.origins_per_tenant),
            now_s: AtomicU64::new(unix_seconds(now)),
            evictions: AtomicU64::new(0),
            dropped: CounterCells::new(1),
            dropped_before: AtomicU64::new(0),
        })
    }

    pub fn limits(&self) -> LedgerLimits {
        let origins_per_tenant = self.entries_max_tenant.load(Relaxed);
        LedgerLimits { origins: self.entries_max.load(Relaxed), origins_per_tenant }
    }

    /// Sets the maximum numbers of entries. A change clears the ledger.
    pub fn set_limits(&self, limits: LedgerLimits, tenant_ledgers: impl FnOnce() -> Vec<Arc<TenantLedger>>) {
        if limits == self.limits() {
            return;
        }
        self.entries_max.store(limits.origins, Relaxed);
        self.entries_max_tenant.store(limits.origins_per_tenant, Relaxed);
        worker_buffer::enter_all();
        tenant_ledgers().iter().for_each(|tenant_ledger| tenant_ledger.clear());
        self.dropped_before.store(self.dropped(), Relaxed);
    }

    /// Enters what workers have counted, with `now` as the time, and makes room if little is left.
    /// May block.
    pub fn tend(&self, now: SystemTime, tenant_ledgers: impl FnOnce() -> Vec<Arc<TenantLedger>>) {
        self.now_s.store(unix_seconds(now), Relaxed);
        worker_buffer::enter_all();
        let max = self.entries_max.load(Relaxed);
        if max > 0 && self.entries() > max - max / FREE_AT_LEAST {
            shorten(&tenant_ledgers(), max - max / FREE_AFTERWARDS);
        }
    }

    /// The number of entries of all tenants.
    pub fn entries(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// The number of entries that were evicted for others.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// The number of requests that were not recorded.
    pub fn dropped(&self) -> u64 {
        self.dropped.read(0)
    }

    pub fn is_on(&self) -> bool {
        self.entries_max.load(Relaxed) > 0
    }

    fn count_evictions(&self, entries: usize) {
        self.evictions.fetch_add(entries as u64, Relaxed);
    }

    fn count_dropped(&self, requests: u64) {
        self.dropped.add(0, requests);
    }

    /// The number of requests that were not recorded since the ledger was last cleared.
    fn dropped_since(&self) -> u64 {
        self.dropped().saturating_sub(self.dropped_before.load(Relaxed))
    }

    /// Reserves room for one entry, if there is room.
    fn reserve_entry(&self) -> bool {
        let max = self.entries_max.load(Relaxed);
        let one_more = |entries| (entries < max).then_some(entries + 1);
        self.entries.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn give_back(&self, entries: usize) {
        self.entries.fetch_sub(entries, Relaxed);
    }
}

/// A request whose origin was judged.
#[derive(Clone, Copy, Debug)]
pub struct JudgedOrigin<'a> {
    pub origin: RequestField<'a>,
    /// The policy's reason.
    pub policy_reason: Reason,
    /// What is recorded.
    pub outcome: RecordedOutcome,
}

/// The recorded part of a verdict.
#[derive(Clone, Copy, Debug)]
pub struct RecordedOutcome {
    pub verdict: VerdictLabel,
    /// The reason of the verdict. It can differ from the policy's.
    pub reason: Reason,
    /// The group whose terms apply.
    pub group: GroupLabel,
}

/// Counts one request in the tenant's ledger.
pub fn note(tenant_ledger: &Arc<TenantLedger>, seen: JudgedOrigin<'_>) {
    worker_buffer::note(tenant_ledger, recorded_name(seen.policy_reason, seen.origin), seen.outcome);
}

/// The name under which an origin is recorded. A policy for `*` does not parse the origin, so a
/// name from here can still be malformed.
fn recorded_name<'a>(reason: Reason, origin: RequestField<'a>) -> &'a [u8] {
    match origin {
        RequestField::One(value) if reason != Reason::MalformedOrigin && value.len() <= ORIGIN_LEN_MAX => value,
        RequestField::One(_) | RequestField::Many | RequestField::Absent => MALFORMED,
    }
}

/// Requests by verdict, in the order of [`VerdictLabel::ALL`].
type Counts = [u64; VerdictLabel::ALL.len()];

/// Shortens the longest ledgers until all of them have at most `entries` entries. If one entry for
/// each tenant is still too much, the ledgers with the oldest last entry are emptied.
fn shorten(tenant_ledgers: &[Arc<TenantLedger>], entries: usize) {
    let lens: Vec<usize> = tenant_ledgers.iter().map(|tenant_ledger| tenant_ledger.len()).collect();
    let fair = fair_len(lens, entries).max(1);
    tenant_ledgers.iter().for_each(|tenant_ledger| tenant_ledger.shorten_to(fair));
    let mut left: usize = tenant_ledgers.iter().map(|tenant_ledger| tenant_ledger.len()).sum();
    if left <= entries {
        return;
    }
    let mut by_age: Vec<(u64, &Arc<TenantLedger>)> =
        tenant_ledgers.iter().filter_map(|tenant_ledger| Some((tenant_ledger.last_seen_s()?, tenant_ledger))).collect();
    by_age.sort_unstable_by_key(|(last_seen_s, _)| *last_seen_s);
    for (_, tenant_ledger) in by_age {
        if left <= entries {
            return;
        }
        left = left.saturating_sub(tenant_ledger.len());
        tenant_ledger.shorten_to(0);
    }
}

/// The maximum length of a ledger so that all of them have at most `entries` entries. Ledgers below
/// their share keep what they have.
pub(crate) fn fair_len(mut lens: Vec<usize>, entries: usize) -> usize {
    lens.sort_unstable();
    let mut left = entries;
    for (number, len) in lens.iter().enumerate() {
        let share = left / (lens.len() - number);
        if *len > share {
            return share;
        }
        left -= len;
    }
    usize::MAX
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
