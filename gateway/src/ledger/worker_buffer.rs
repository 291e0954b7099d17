//! The ledger's buffer of one worker: a small table to which only that worker writes.
//!
//! An origin finds its slot by a hash. If the slot is its own, counting costs two plain additions:
//! no lock, no clock, no atomic read-modify-write, no allocation. If not, the origin takes the slot
//! and the previous owner's counts are entered in its ledger. An owner that was seen several times
//! since the last turn keeps the slot, and the newcomer is entered directly. Slots change owners
//! only under the table's lock, which the ledger thread holds for a moment at each turn. A worker
//! never waits: if the lock is taken, the request goes to a short queue for the ledger thread. If
//! too many newcomers came since the last turn, the request is counted as dropped. A flood of
//! made-up origins therefore costs little, and frequent origins are counted exactly.

use std::array;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ahash::RandomState;
use crossbeam_queue::ArrayQueue;
use crossgate_policy::{Reason, is_origin};
use parking_lot::{Mutex, MutexGuard};

use super::tenant_ledger::{OriginSighting, TenantLedger};
use super::{GroupLabel, MALFORMED, NULL, RecordedOutcome};
use crate::metrics::VerdictLabel;

/// Slots of one worker: the origins that a busy worker sees again within a moment. The table takes
/// 200 KiB, and 850 KiB if all origins have the maximum length.
const SLOTS: usize = 1_024;
/// Newcomers that one worker may have entered between two turns of the ledger thread, of which
/// there are four a second. With thousands of tenants an entry is in no CPU cache; eight thousand a
/// second take less than 1 % of the worker's time.
const NEWCOMERS_MAX: u32 = 2_048;
/// An owner with this many requests since the last turn keeps its slot.
const KEEPS_AT: u32 = 2;
/// Slots that the ledger thread enters at once. During this time newcomers go to the queue.
const SLOTS_AT_ONCE: usize = 64;
/// Newcomers that wait for the ledger thread, in the 16 moments of a turn in which it holds the
/// lock.
const LATE_MAX: usize = 64;

const VERDICTS: usize = VerdictLabel::ALL.len();

/// The part of a worker's buffer that the ledger thread reads.
#[derive(Debug)]
struct SharedCounts {
    /// Only the worker writes here, so a load and a store are enough.
    slot_counts: Box<[OriginCounts]>,
    newcomers_left: AtomicU32,
    owners: Mutex<Box<[SlotOwner]>>,
    /// Newcomers that found a lock taken.
    late: ArrayQueue<LateNewcomer>,
}

/// A request that its worker could not enter, because another thread held a lock.
#[derive(Debug)]
struct LateNewcomer {
    tenant_ledger: Weak<TenantLedger>,
    origin: Box<[u8]>,
    outcome: RecordedOutcome,
}

/// The requests of one slot. The counts never start again at zero; 32 bits are enough between two
/// turns.
#[derive(Debug, Default)]
struct OriginCounts {
    counts: [AtomicU32; VERDICTS],
    /// The last reason in the lowest eight bits, and the last group above them.
    last: AtomicU32,
}

/// The origin that a slot belongs to.
#[derive(Debug, Default)]
struct SlotOwner {
    tenant_ledger: Weak<TenantLedger>,
    origin: Vec<u8>,
    /// The part of the slot's counts that is already entered, or that belongs to earlier owners.
    entered: [u32; VERDICTS],
}

/// The worker's own copy of the slot's owner, which it reads with every request.
#[derive(Debug, Default)]
struct LedgerSlot {
    /// The address_of of the tenant's ledger. The weak reference in `SlotOwner` keeps the
    /// address_of from being used again.
    tenant_ledger: usize,
    origin: Vec<u8>,
}

/// The buffer of one worker.
struct WorkerBuffer {
    // Random keys: clients choose what is hashed (hash flooding).
    hasher: RandomState,
    slots: Box<[LedgerSlot]>,
    shared: Arc<SharedCounts>,
}

/// The shared parts of all workers that have counted a request.
static ALL: Mutex<Vec<Arc<SharedCounts>>> = Mutex::new(Vec::new());

thread_local! {
    static BUFFER: RefCell<WorkerBuffer> = RefCell::new(WorkerBuffer::new());
}

pub(super) fn note(tenant_ledger: &Arc<TenantLedger>, name: &[u8], outcome: RecordedOutcome) {
    BUFFER.with_borrow_mut(|buffer| buffer.note(tenant_ledger, name, outcome));
}

/// Enters what all workers have counted, and resets their allowance of newcomers.
pub(super) fn enter_all() {
    let all = ALL.lock().clone();
    for shared in &all {
        shared.enter_all();
    }
    drop(all);
    // A thread that has ended has dropped its reference, and adds nothing more.
    ALL.lock().retain(|shared| Arc::strong_count(shared) > 1 || shared.has_new_counts());
}

impl WorkerBuffer {
    fn new() -> Self {
        let shared = Arc::new(SharedCounts {
            slot_counts: default_slots(),
            newcomers_left: AtomicU32::new(NEWCOMERS_MAX),
            owners: Mutex::new(default_slots()),
            late: ArrayQueue::new(LATE_MAX),
        });
        ALL.lock().push(Arc::clone(&shared));
        WorkerBuffer { hasher: RandomState::new(), slots: default_slots(), shared }
    }

    fn note(&mut self, tenant_ledger: &Arc<TenantLedger>, name: &[u8], outcome: RecordedOutcome) {
        let at = address_of(tenant_ledger);
        let index = (self.hasher.hash_one((at, name)) % SLOTS as u64) as usize;
        let (Some(slot), Some(slot_counts)) = (self.slots.get_mut(index), self.shared.slot_counts.get(index)) else {
            return;
        };
        if slot.tenant_ledger == at && *slot.origin == *name {
            return slot_counts.count(outcome);
        }
        // The owner of a slot is well-formed, so only newcomers are checked.
        if name != MALFORMED && name != NULL && !is_origin(name) {
            return self.note(tenant_ledger, MALFORMED, outcome);
        }
        match self.shared.admit(index, slot_counts, tenant_ledger, name, outcome) {
            SlotAdmission::TookSlot => {
                slot.tenant_ledger = at;
                slot.origin.clear();
                slot.origin.extend_from_slice(name);
                slot_counts.count(outcome);
            }
            SlotAdmission::Entered => {}
            SlotAdmission::Busy => self.shared.enter_later(tenant_ledger, name, outcome),
            SlotAdmission::Dropped => tenant_ledger.ledger().count_dropped(1),
        }
    }
}

/// The result for a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotAdmission {
    TookSlot,
    /// Its request was added to the tenant's ledger.
    Entered,
    /// Another thread held a lock.
    Busy,
    /// The allowance of newcomers was used up.
    Dropped,
}

impl SharedCounts {
    /// Gives a newcomer the slot, or enters its request directly.
    fn admit(
        &self,
        index: usize,
        slot_counts: &OriginCounts,
        tenant_ledger: &Arc<TenantLedger>,
        name: &[u8],
        outcome: RecordedOutcome,
    ) -> SlotAdmission {
        let left = self.newcomers_left.load(Relaxed);
        let Some(left) = left.checked_sub(1) else { return SlotAdmission::Dropped };
        let Some(mut owners) = self.owners.try_lock() else { return SlotAdmission::Busy };
        let Some(owner) = owners.get_mut(index) else { return SlotAdmission::Dropped };
        self.newcomers_left.store(left, Relaxed);
        let counts = slot_counts.read();
        let new = owner.new_counts(&counts);
        let is_done = if new.iter().sum::<u32>() >= KEEPS_AT {
            tenant_ledger.try_enter(&OriginSighting::of_one(name, outcome)).map(|()| SlotAdmission::Entered)
        } else {
            let still_there = owner.tenant_ledger.upgrade().filter(|_| new != [0; VERDICTS]);
            let entered = still_there.map_or(Ok(()), |old| old.try_enter(&owner.seen(new, slot_counts)));
            entered.map(|()| {
                owner.tenant_ledger = Arc::downgrade(tenant_ledger);
                owner.origin.clear();
                owner.origin.extend_from_slice(name);
                owner.entered = counts;
                SlotAdmission::TookSlot
            })
        };
        is_done.unwrap_or(SlotAdmission::Busy)
    }

    /// Hands a request to the ledger thread, if the queue has room.
    fn enter_later(&self, tenant_ledger: &Arc<TenantLedger>, name: &[u8], outcome: RecordedOutcome) {
        let late = LateNewcomer { tenant_ledger: Arc::downgrade(tenant_ledger), origin: name.into(), outcome };
        if self.late.push(late).is_err() {
            tenant_ledger.ledger().count_dropped(1);
        }
    }

    fn enter_all(&self) {
        for (first, slot_counts) in (0..).step_by(SLOTS_AT_ONCE).zip(self.slot_counts.chunks(SLOTS_AT_ONCE)) {
            let mut owners = self.owners.lock();
            let owners = owners.get_mut(first..).unwrap_or_default();
            owners.iter_mut().zip(slot_counts).for_each(|(owner, slot_counts)| owner.enter(slot_counts));
        }
        self.newcomers_left.store(NEWCOMERS_MAX, Relaxed);
        // No more than the queue holds, so that a busy worker cannot keep this thread here.
        for late in (0..LATE_MAX).map_while(|_| self.late.pop()) {
            if let Some(tenant_ledger) = late.tenant_ledger.upgrade() {
                tenant_ledger.enter(&OriginSighting::of_one(&late.origin, late.outcome));
            }
        }
    }

    fn has_new_counts(&self) -> bool {
        let owners: MutexGuard<'_, _> = self.owners.lock();
        !self.late.is_empty()
            || owners.iter().zip(&self.slot_counts).any(|(owner, slot_counts)| owner.entered != slot_counts.read())
    }
}

impl SlotOwner {
    /// Enters the new counts. If the tenant is gone, they are discarded.
    fn enter(&mut self, slot_counts: &OriginCounts) {
        let counts = slot_counts.read();
        let new = self.new_counts(&counts);
        if new != [0; VERDICTS] {
            if let Some(tenant_ledger) = self.tenant_ledger.upgrade() {
                tenant_ledger.enter(&self.seen(new, slot_counts));
            }
            self.entered = counts;
        }
    }

    fn new_counts(&self, counts: &[u32; VERDICTS]) -> [u32; VERDICTS] {
        let mut new = *counts;
        new.iter_mut().zip(self.entered).for_each(|(count, entered)| *count = count.wrapping_sub(entered));
        new
    }

    fn seen(&self, new: [u32; VERDICTS], slot_counts: &OriginCounts) -> OriginSighting<'_> {
        let (last_reason, last_group) = slot_counts.last();
        OriginSighting { origin: &self.origin, counts: new.map(u64::from), last_reason, last_group }
    }
}

impl OriginCounts {
    /// Counts one request. Only the slot's worker may call this.
    fn count(&self, outcome: RecordedOutcome) {
        if let Some(count) = self.counts.get(outcome.verdict as usize) {
            count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        }
        self.last.store(u32::from(outcome.reason as u8) | outcome.group.bits() << u8::BITS, Relaxed);
    }

    fn read(&self) -> [u32; VERDICTS] {
        array::from_fn(|index| self.counts.get(index).map_or(0, |count| count.load(Relaxed)))
    }

    fn last(&self) -> (Reason, GroupLabel) {
        let last = self.last.load(Relaxed);
        let reason = Reason::ALL.get(usize::from(last as u8)).copied().unwrap_or(Reason::NoMatch);
        (reason, GroupLabel::from_bits(last >> u8::BITS))
    }
}

fn default_slots<T: Default>() -> Box<[T]> {
    std::iter::repeat_with(T::default).take(SLOTS).collect()
}

fn address_of(tenant_ledger: &Arc<TenantLedger>) -> usize {
    Arc::as_ptr(tenant_ledger).addr()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::Ledger;
    use super::*;

    #[test]
    fn newcomers_that_find_the_table_locked_are_entered_later() {
        let ledger = Ledger::new(UNIX_EPOCH);
        let tenant_ledger = TenantLedger::new(Arc::clone(&ledger));
        let mut buffer = WorkerBuffer::new();
        let shared = Arc::clone(&buffer.shared);
        let outcome = RecordedOutcome { verdict: VerdictLabel::Deny, reason: Reason::NoMatch, group: GroupLabel::NONE };
        let locked = shared.owners.lock();
        for number in 0..=LATE_MAX {
            buffer.note(&tenant_ledger, format!("https://{number}.test").as_bytes(), outcome);
        }
        drop(locked);
        assert_eq!((tenant_ledger.len(), ledger.dropped()), (0, 1));
        shared.enter_all();
        assert_eq!((tenant_ledger.len(), ledger.dropped()), (LATE_MAX, 1));
        assert!(!shared.has_new_counts());
    }
}
