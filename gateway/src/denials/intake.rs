//! The workers' buffers of denials that are not yet in the store.
//!
//! Each worker has a buffer, of which each tenant gets a part, so a flood of one tenant leaves room
//! for others. A hash chooses the part and changes at every collection, so two tenants that share a
//! part do not share it for long.

use std::array;
use std::sync::Arc;

use ahash::RandomState;
use parking_lot::Mutex;

use super::record::RecordedDenial;
use crate::counters::TenantCounters;
use crossgate_telemetry::thread_number;

/// The number of buffers. More workers than that share one; a worker that finds its buffer locked
/// drops the denial.
const INTAKES: usize = 16;
const PARTS: usize = 16;
/// The limit on denials of one part between two collections, of which there are four a second: a
/// flood costs a worker at most 128 copies a second.
pub(super) const PART_DENIALS_MAX: usize = 32;
/// The limit on those with the same origin, so that one broken page does not hide the others of its
/// tenant.
pub(super) const PART_DENIALS_OF_ORIGIN_MAX: usize = 24;
/// The limit on bytes of one part: 4 MiB for all parts of all buffers.
const PART_BYTES_MAX: usize = 16 << 10;

/// The buffers of all workers.
#[derive(Debug)]
pub(super) struct WorkerIntakes {
    buffers: [Mutex<IntakeBuffer>; INTAKES],
    // Randomly keyed against hash flooding, because clients choose the hashed origins.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct IntakeBuffer {
    turn: u64,
    parts: [IntakePart; PARTS],
}

#[derive(Debug, Default)]
struct IntakePart {
    denials: Vec<RecordedDenial>,
    bytes: usize,
}

/// The identity that the limits apply to.
#[derive(Debug)]
pub(super) struct IntakeQuota<'a> {
    pub(super) tenant: &'a Arc<TenantCounters>,
    pub(super) origin: &'a [u8],
}

/// The buffer has no room or is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Default for WorkerIntakes {
    fn default() -> Self {
        WorkerIntakes { buffers: array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl WorkerIntakes {
    /// Adds a denial to this worker's buffer; `make` runs only if there is room.
    pub(super) fn add(&self, quota: &IntakeQuota<'_>, make: impl FnOnce() -> RecordedDenial) -> Result<(), NoRoom> {
        let buffer = self.buffers.get(thread_number::worker_number() % INTAKES).ok_or(NoRoom)?;
        let mut buffer = buffer.try_lock().ok_or(NoRoom)?;
        let tenant = Arc::as_ptr(quota.tenant).addr();
        let origin_hash = self.hasher.hash_one(quota.origin);
        let index = self.hasher.hash_one((tenant, buffer.turn)) % PARTS as u64;
        let part = buffer.parts.get_mut(index as usize).ok_or(NoRoom)?;
        let same_origin = || part.denials.iter().filter(|denial| denial.origin_hash() == origin_hash).count();
        if part.bytes >= PART_BYTES_MAX
            || part.denials.len() >= PART_DENIALS_MAX
            || part.denials.len() >= PART_DENIALS_OF_ORIGIN_MAX && same_origin() >= PART_DENIALS_OF_ORIGIN_MAX
        {
            return Err(NoRoom);
        }
        let denial = make().with_origin_hash(origin_hash);
        part.bytes += denial.bytes();
        part.denials.push(denial);
        Ok(())
    }

    /// Takes all denials, the oldest of each buffer first.
    pub(super) fn drain(&self) -> Vec<RecordedDenial> {
        let mut all = Vec::new();
        for buffer in &self.buffers {
            let mut locked = buffer.lock();
            locked.turn = locked.turn.wrapping_add(1);
            let parts = std::mem::take(&mut locked.parts);
            // Workers that find the lock taken drop their denials, so it is released first.
            drop(locked);
            all.extend(parts.into_iter().flat_map(|part| part.denials));
        }
        all
    }
}
