//! What one worker has seen and not yet entered: a small table of its own, to which it alone writes.
//!
//! An origin that comes again finds its place by a hash, and costs two plain additions there: no lock, no clock, no atomic operation, no
//! allocation. One that is not there takes a place, and whoever had it is entered on its page; one that has just been seen several times
//! keeps its place, and the newcomer itself is entered. A place changes hands only under the table's lock, which the thread beside holds for
//! a moment when it enters what is new. A worker waits for nobody: what is busy, and newcomers beyond so many between two entries, are not
//! recorded, and counted as dropped. So a flood of made-up origins costs little, and those seen often are counted to the request.

use std::array;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ahash::RandomState;
use crossgate_policy::{Reason, is_origin};
use parking_lot::{Mutex, MutexGuard};

use super::page::{Page, Seen};
use super::{Counts, MALFORMED, NULL};
use crate::metrics::VerdictLabel;

/// Places of one worker: the origins that a busy one sees again within a moment. With what they hold, 200 KiB; 850 KiB with origins as long
/// as they can be.
const PLACES: usize = 1_024;
/// Newcomers that one worker may have entered between two turns of the thread beside, of which there are four a second: with thousands of
/// tenants an entry is in no cache, and eight thousand a second take less than a hundredth of the worker's time.
const NEWCOMERS_MAX: u32 = 2_048;
/// Whoever was seen so often since the last turn keeps its place.
const KEEPS_AT: u32 = 2;
/// Places that are looked through in one go, during which the worker has no newcomers entered.
const PLACES_AT_ONCE: usize = 64;

const VERDICTS: usize = VerdictLabel::ALL.len();

/// One worker's notes, as others see them.
#[derive(Debug)]
struct Notes {
    /// To each its worker alone adds, so that a load and a store will do.
    tallies: Box<[Tally]>,
    newcomers_left: AtomicU32,
    holders: Mutex<Box<[Holder]>>,
}

/// What was seen in one place. It goes up and never begins anew; 32 bits are enough between two turns.
#[derive(Debug, Default)]
struct Tally {
    counts: [AtomicU32; VERDICTS],
    last_reason: AtomicU8,
}

/// Whose place it is.
#[derive(Debug, Default)]
struct Holder {
    page: Weak<Page>,
    origin: Vec<u8>,
    /// How much of the tally is entered, or was somebody else's.
    entered: [u32; VERDICTS],
}

/// The same for the worker itself, which looks here with every request.
#[derive(Debug, Default)]
struct Place {
    /// Where its page is. The holder's reference sees to it that no other page can be there.
    page: usize,
    origin: Vec<u8>,
}

/// One worker's side.
struct Desk {
    // With random keys: clients choose what is hashed.
    hasher: RandomState,
    places: Box<[Place]>,
    notes: Arc<Notes>,
}

/// Of every worker that has noted anything.
static ALL: Mutex<Vec<Arc<Notes>>> = Mutex::new(Vec::new());

thread_local! {
    static DESK: RefCell<Desk> = RefCell::new(Desk::new());
}

/// Counts one request of this origin.
pub(super) fn note(page: &Arc<Page>, name: &[u8], verdict: VerdictLabel, reason: Reason) {
    DESK.with_borrow_mut(|desk| desk.note(page, name, verdict, reason));
}

/// Enters what all workers have noted, and lets each have newcomers again.
pub(super) fn enter_all() {
    let all = ALL.lock().clone();
    for notes in &all {
        notes.enter_all();
    }
    drop(all);
    // A thread that has ended holds its notes no more, and adds nothing.
    ALL.lock().retain(|notes| Arc::strong_count(notes) > 1 || notes.has_news());
}

impl Desk {
    fn new() -> Self {
        let notes = Arc::new(Notes {
            tallies: many(),
            newcomers_left: AtomicU32::new(NEWCOMERS_MAX),
            holders: Mutex::new(many()),
        });
        ALL.lock().push(Arc::clone(&notes));
        Desk { hasher: RandomState::new(), places: many(), notes }
    }

    fn note(&mut self, page: &Arc<Page>, name: &[u8], verdict: VerdictLabel, reason: Reason) {
        let at = address(page);
        let index = (self.hasher.hash_one((at, name)) % PLACES as u64) as usize;
        let (Some(place), Some(tally)) = (self.places.get_mut(index), self.notes.tallies.get(index)) else { return };
        if place.page == at && *place.origin == *name {
            return tally.count(verdict, reason);
        }
        // Whatever has a place is well-formed.
        if name != MALFORMED && name != NULL && !is_origin(name) {
            return self.note(page, MALFORMED, verdict, reason);
        }
        match self.notes.admit(index, tally, page, name, verdict, reason) {
            Admitted::HasPlace => {
                place.page = at;
                place.origin.clear();
                place.origin.extend_from_slice(name);
                tally.count(verdict, reason);
            }
            Admitted::IsEntered => {}
            Admitted::Not => page.ledger().count_dropped(1),
        }
    }
}

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    /// The place is its own.
    HasPlace,
    /// It is on its page.
    IsEntered,
    /// There was no time.
    Not,
}

impl Notes {
    /// Finds a newcomer a place, or enters it.
    fn admit(
        &self,
        index: usize,
        tally: &Tally,
        page: &Arc<Page>,
        name: &[u8],
        verdict: VerdictLabel,
        reason: Reason,
    ) -> Admitted {
        let left = self.newcomers_left.load(Relaxed);
        let (Some(left), Some(mut holders)) = (left.checked_sub(1), self.holders.try_lock()) else {
            return Admitted::Not;
        };
        let Some(holder) = holders.get_mut(index) else { return Admitted::Not };
        self.newcomers_left.store(left, Relaxed);
        let counts = tally.read();
        let new = holder.new_of(&counts);
        let is_done = if new.iter().sum::<u32>() >= KEEPS_AT {
            let mut counts = Counts::default();
            counts.iter_mut().zip(VerdictLabel::ALL).for_each(|(count, label)| *count = u64::from(label == verdict));
            page.try_enter(&Seen { origin: name, counts, last_reason: reason }).map(|()| Admitted::IsEntered)
        } else {
            let holding = holder.page.upgrade().filter(|_| new != [0; VERDICTS]);
            let entered = holding.map_or(Ok(()), |old| old.try_enter(&holder.seen(new, tally)));
            entered.map(|()| {
                holder.page = Arc::downgrade(page);
                holder.origin.clear();
                holder.origin.extend_from_slice(name);
                holder.entered = counts;
                Admitted::HasPlace
            })
        };
        is_done.unwrap_or(Admitted::Not)
    }

    fn enter_all(&self) {
        for (first, tallies) in (0..).step_by(PLACES_AT_ONCE).zip(self.tallies.chunks(PLACES_AT_ONCE)) {
            let mut holders = self.holders.lock();
            let holders = holders.get_mut(first..).unwrap_or_default();
            holders.iter_mut().zip(tallies).for_each(|(holder, tally)| holder.enter(tally));
        }
        self.newcomers_left.store(NEWCOMERS_MAX, Relaxed);
    }

    fn has_news(&self) -> bool {
        let holders: MutexGuard<'_, _> = self.holders.lock();
        holders.iter().zip(&self.tallies).any(|(holder, tally)| holder.entered != tally.read())
    }
}

impl Holder {
    /// Enters what is new. With the page goes what was noted for it.
    fn enter(&mut self, tally: &Tally) {
        let counts = tally.read();
        let new = self.new_of(&counts);
        if new != [0; VERDICTS] {
            if let Some(page) = self.page.upgrade() {
                page.enter(&self.seen(new, tally));
            }
            self.entered = counts;
        }
    }

    fn new_of(&self, counts: &[u32; VERDICTS]) -> [u32; VERDICTS] {
        let mut new = *counts;
        new.iter_mut().zip(self.entered).for_each(|(count, entered)| *count = count.wrapping_sub(entered));
        new
    }

    fn seen(&self, new: [u32; VERDICTS], tally: &Tally) -> Seen<'_> {
        Seen { origin: &self.origin, counts: new.map(u64::from), last_reason: tally.last_reason() }
    }
}

impl Tally {
    /// For its worker alone.
    fn count(&self, verdict: VerdictLabel, reason: Reason) {
        if let Some(count) = self.counts.get(verdict as usize) {
            count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        }
        self.last_reason.store(reason as u8, Relaxed);
    }

    fn read(&self) -> [u32; VERDICTS] {
        array::from_fn(|index| self.counts.get(index).map_or(0, |count| count.load(Relaxed)))
    }

    fn last_reason(&self) -> Reason {
        let index = usize::from(self.last_reason.load(Relaxed));
        Reason::ALL.get(index).copied().unwrap_or(Reason::NoMatch)
    }
}

fn many<T: Default>() -> Box<[T]> {
    std::iter::repeat_with(T::default).take(PLACES).collect()
}

fn address(page: &Arc<Page>) -> usize {
    Arc::as_ptr(page).addr()
}
