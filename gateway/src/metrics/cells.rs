//! Counts that many threads add to at once.
//!
//! A count that every core writes to is one cache line that travels between them. Most counts are never written to by two at a
//! time, and there may be millions of them, so a row of counts begins as plain cells. When threads are seen to collide on one
//! of them, twice within two seconds, the row gets a copy for every worker, and from then on each adds to its own; a reader adds
//! them up. How many rows may have copies is bounded, for all of them together. Counts never shrink, so a sum that is read while
//! others add is one that was true at some moment between, and never less than the one before.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use smallvec::SmallVec;

use crate::thread_number;

/// Copies of a row: no more than there are workers on the largest machines, since each costs its row's size.
const COPIES_MAX: usize = 64;

/// Rows that have copies at one time: the hottest thousand, at 32 KiB each on 64 cores for the largest row.
const SPLIT_MAX: usize = 1_024;

/// Two collisions within this many seconds make a row hot.
const SOON_S: u32 = 2;

/// How many rows have copies now.
static SPLIT: AtomicUsize = AtomicUsize::new(0);

/// A row of counts that stand at zero in the beginning.
#[derive(Debug)]
pub(crate) struct Cells {
    /// A row of one lies in here, one step less to its count.
    plain: SmallVec<[AtomicU64; 1]>,
    /// The second of the last collision, counted from 1 at the process's first.
    collided_s: AtomicU32,
    copies: OnceLock<Box<[Own]>>,
}

/// One worker's part of the counts, on cache lines of its own: processors fetch two at a time.
type Own = Box<[Lines]>;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Lines([AtomicU64; LINES_LEN]);

const LINES_LEN: usize = 16;

impl Cells {
    pub(crate) fn new(len: usize) -> Self {
        let plain = std::iter::repeat_with(AtomicU64::default).take(len).collect();
        Cells { plain, collided_s: AtomicU32::new(0), copies: OnceLock::new() }
    }

    /// Adds one to a count. What it was before where this thread counts: a number that goes up by one each time.
    pub(crate) fn count(&self, index: usize) -> u64 {
        self.add(index, 1)
    }

    pub(crate) fn add(&self, index: usize, amount: u64) -> u64 {
        if let Some(copies) = self.copies.get() {
            let own = thread_number::of_worker().checked_rem(copies.len()).and_then(|number| copies.get(number));
            return own.and_then(|copy| cell(copy, index)).map_or(0, |cell| cell.fetch_add(amount, Relaxed));
        }
        let Some(cell) = self.plain.get(index) else { return 0 };
        let before = cell.load(Relaxed);
        // A plain addition would not tell that somebody else was there.
        cell.compare_exchange(before, before.wrapping_add(amount), Relaxed, Relaxed).unwrap_or_else(|_| {
            self.note_collision();
            cell.fetch_add(amount, Relaxed)
        })
    }

    pub(crate) fn read(&self, index: usize) -> u64 {
        let copies = self.copies.get().into_iter().flatten().filter_map(|copy| cell(copy, index));
        let all = self.plain.get(index).into_iter().chain(copies);
        all.fold(0, |sum, cell| sum.wrapping_add(cell.load(Relaxed)))
    }

    /// The first plain cell as it is, for whoever wants nothing but to have looked there.
    pub(crate) fn first(&self) -> u64 {
        self.plain.first().map_or(0, |cell| cell.load(Relaxed))
    }

    pub(crate) fn len(&self) -> usize {
        self.plain.len()
    }

    #[cold]
    fn note_collision(&self) {
        let now = second();
        let last = self.collided_s.swap(now, Relaxed);
        if last != 0 && now.saturating_sub(last) < SOON_S {
            self.split();
        }
    }

    fn split(&self) {
        let one_more = |rows| (rows < SPLIT_MAX).then_some(rows + 1);
        if SPLIT.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            return;
        }
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(COPIES_MAX);
        let copy = || std::iter::repeat_with(Lines::default).take(self.len().div_ceil(LINES_LEN)).collect();
        if self.copies.set(std::iter::repeat_with(copy).take(workers).collect()).is_err() {
            // Another thread was quicker.
            SPLIT.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        if self.copies.get().is_some() {
            SPLIT.fetch_sub(1, Relaxed);
        }
    }
}

fn cell(copy: &Own, index: usize) -> Option<&AtomicU64> {
    copy.get(index / LINES_LEN)?.0.get(index % LINES_LEN)
}

fn second() -> u32 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    u32::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn nothing_is_lost_when_a_row_gets_copies() {
        const THREADS: usize = 4;
        const COUNTS: u64 = 200_000;
        let cells = Cells::new(20);
        let barrier = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for number in 0..THREADS {
                let (cells, barrier) = (&cells, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..COUNTS {
                        cells.count(17);
                    }
                    if number == 0 {
                        // However many have collided so far.
                        cells.split();
                    }
                    for _ in 0..COUNTS {
                        cells.add(17, 2);
                    }
                });
            }
        });
        assert!(cells.copies.get().is_some());
        assert_eq!(cells.read(17), THREADS as u64 * COUNTS * 3);
        assert_eq!((0..20).map(|index| cells.read(index)).sum::<u64>(), THREADS as u64 * COUNTS * 3);
    }

    #[test]
    fn two_collisions_in_a_short_time_give_a_row_copies_and_one_does_not() {
        let cells = Cells::new(1);
        cells.count(0);
        cells.note_collision();
        assert!(cells.copies.get().is_none());
        cells.collided_s.store(second() + 1_000, Relaxed);
        cells.note_collision();
        assert!(cells.copies.get().is_some());
        assert_eq!(cells.count(0), 0, "a copy counts from its own beginning");
        assert_eq!(cells.read(0), 2);
    }

    #[test]
    fn a_place_that_is_not_there_counts_nothing() {
        let cells = Cells::new(1);
        cells.count(1);
        assert_eq!((cells.read(0), cells.read(1)), (0, 0));
        cells.split();
        cells.count(LINES_LEN);
        assert_eq!(cells.read(LINES_LEN), 0);
    }
}
