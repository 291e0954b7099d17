//! Counters that many threads increment at once.
//!
//! A counter that every core writes to is one cache line that moves between the cores. Most
//! counters never see two writers at a time, and there may be millions, so a row of counters starts
//! as plain cells. When threads collide on a row twice within two seconds, the row is split into a
//! copy for every worker. Each worker then adds to its own copy, and a reader sums them. The number
//! of split rows is bounded over all rows together. A sum that is read during additions was true at
//! some moment between, and is never less than an earlier sum.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use smallvec::SmallVec;

use crate::thread_number;

/// The most copies of a row: the workers of the largest machines. Each copy costs the size of the
/// row.
const COPIES_MAX: usize = 64;

/// The most rows that are split at one time: the hottest thousand, at 32 KiB each on 64 cores for
/// the largest row.
const SPLIT_MAX: usize = 1_024;

/// Two collisions within this many seconds split a row.
const SOON_S: u32 = 2;

/// The number of split rows.
static SPLIT: AtomicUsize = AtomicUsize::new(0);

/// A row of counters that start at zero.
#[derive(Debug)]
pub struct CounterCells {
    /// A row of one counter is stored inline, which saves a pointer to follow.
    plain: SmallVec<[AtomicU64; 1]>,
    /// The second of the last collision, counted from 1 at the first collision of the process; 0
    /// for none.
    collided_s: AtomicU32,
    copies: OnceLock<Box<[Own]>>,
}

/// One worker's copy of a row, on cache lines of its own. The alignment is two lines, since
/// processors prefetch pairs.
type Own = Box<[CacheLines]>;

#[derive(Debug, Default)]
#[repr(align(128))]
struct CacheLines([AtomicU64; LINES_LEN]);

const LINES_LEN: usize = 16;

impl CounterCells {
    pub fn new(len: usize) -> Self {
        let plain = std::iter::repeat_with(AtomicU64::default).take(len).collect();
        CounterCells { plain, collided_s: AtomicU32::new(0), copies: OnceLock::new() }
    }

    /// Makes a row that is split from the start, for counters that all workers increment all the
    /// time.
    pub fn per_worker(len: usize) -> Self {
        let cells = Self::new(len);
        cells.split();
        cells
    }

    /// Adds one to a counter. Returns the previous value of the cell that this thread adds to,
    /// which grows by one with each call.
    pub fn count(&self, index: usize) -> u64 {
        self.add(index, 1)
    }

    pub fn add(&self, index: usize, amount: u64) -> u64 {
        if let Some(copies) = self.copies.get() {
            let own = thread_number::worker_number().checked_rem(copies.len()).and_then(|number| copies.get(number));
            return own.and_then(|copy| cell(copy, index)).map_or(0, |cell| cell.fetch_add(amount, Relaxed));
        }
        let Some(cell) = self.plain.get(index) else { return 0 };
        let before = cell.load(Relaxed);
        // A failed exchange detects another writer, which `fetch_add` would not.
        cell.compare_exchange(before, before.wrapping_add(amount), Relaxed, Relaxed).unwrap_or_else(|_| {
            self.note_collision();
            cell.fetch_add(amount, Relaxed)
        })
    }

    pub fn read(&self, index: usize) -> u64 {
        let copies = self.copies.get().into_iter().flatten().filter_map(|copy| cell(copy, index));
        let all = self.plain.get(index).into_iter().chain(copies);
        all.fold(0, |sum, cell| sum.wrapping_add(cell.load(Relaxed)))
    }

    /// Reads the first plain cell, for callers that want its cache line loaded early.
    pub fn first(&self) -> u64 {
        self.plain.first().map_or(0, |cell| cell.load(Relaxed))
    }

    fn len(&self) -> usize {
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
        let copy = || std::iter::repeat_with(CacheLines::default).take(self.len().div_ceil(LINES_LEN)).collect();
        if self.copies.set(std::iter::repeat_with(copy).take(workers).collect()).is_err() {
            // Another thread has split the row first.
            SPLIT.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for CounterCells {
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
    fn splitting_a_row_loses_no_counts() {
        const THREADS: usize = 4;
        const COUNTS: u64 = 200_000;
        let cells = CounterCells::new(20);
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
                        // Splits the row even if no threads have collided.
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
    fn two_collisions_within_seconds_split_a_row() {
        let cells = CounterCells::new(1);
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
    fn per_worker_row_is_split_and_accepts_subtraction() {
        let cells = CounterCells::per_worker(2);
        assert!(cells.copies.get().is_some());
        cells.add(1, 3);
        std::thread::scope(|scope| {
            scope.spawn(|| cells.add(1, 2_u64.wrapping_neg()));
        });
        assert_eq!((cells.read(0), cells.read(1)), (0, 1));
    }

    #[test]
    fn index_out_of_range_counts_nothing() {
        let cells = CounterCells::new(1);
        cells.count(1);
        assert_eq!((cells.read(0), cells.read(1)), (0, 0));
        cells.split();
        cells.count(LINES_LEN);
        assert_eq!(cells.read(LINES_LEN), 0);
    }
}
