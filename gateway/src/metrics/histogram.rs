//! A histogram of durations: fixed bounds, two atomic additions an observation, no lock and no floating point.
//!
//! Bounds are nanoseconds, ascending, each inclusive as Prometheus has it. The sum wraps after 584 years of observed
//! time, which reads as a counter reset. Quantiles are left to whoever scrapes.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::cells::Cells;

/// Durations counted by upper bound.
#[derive(Debug)]
pub struct Histogram {
    bounds_ns: &'static [u64],
    /// A count for each bound, one of what exceeds them all, and the sum in nanoseconds.
    cells: Cells,
}

/// What a histogram held at one moment.
pub(super) struct Reading {
    /// Upper bound in seconds and the number of observations at or below it.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    pub(super) sum_seconds: f64,
}

impl Histogram {
    pub(crate) fn new(bounds_ns: &'static [u64]) -> Self {
        Histogram { bounds_ns, cells: Cells::new(bounds_ns.len() + 2) }
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.cells.count(self.bounds_ns.partition_point(|bound| *bound < ns));
        self.cells.add(self.sum_cell(), ns);
    }

    pub(super) fn read(&self) -> Reading {
        let mut count = 0;
        let mut cumulative = (0..self.sum_cell()).map(|bucket| {
            count += self.cells.read(bucket);
            count
        });
        let buckets = self.bounds_ns.iter().zip(&mut cumulative).map(|(bound, n)| (seconds(*bound), n)).collect();
        cumulative.for_each(drop);
        Reading { buckets, count, sum_seconds: seconds(self.cells.read(self.sum_cell())) }
    }

    fn sum_cell(&self) -> usize {
        self.bounds_ns.len() + 1
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Times one in [`SampledTimer::EVERY`] short operations a thread: reading the clock twice costs as much as what it
/// would measure.
#[derive(Debug)]
pub struct SampledTimer {
    histogram: Histogram,
}

impl SampledTimer {
    /// One operation in this many is timed.
    pub const EVERY: u32 = 64;

    pub(crate) fn new(bounds_ns: &'static [u64]) -> Self {
        SampledTimer { histogram: Histogram::new(bounds_ns) }
    }

    /// Runs `operation`, and counts how long it took if it is this thread's turn.
    pub fn time<T>(&self, operation: impl FnOnce() -> T) -> T {
        if !is_sampled() {
            return operation();
        }
        let start = Instant::now();
        let result = operation();
        self.histogram.observe(start.elapsed());
        result
    }

    pub(super) fn read(&self) -> Reading {
        self.histogram.read()
    }
}

/// Every thread counts for itself, its first operation included.
fn is_sampled() -> bool {
    thread_local! {
        static SEEN: Cell<u32> = const { Cell::new(0) };
    }
    SEEN.with(|seen| seen.replace(seen.get().wrapping_add(1)).is_multiple_of(SampledTimer::EVERY))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [u64; 3] = [10, 100, 1_000];

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let histogram = Histogram::new(&BOUNDS);
        for ns in [1, 10, 11, 100, 5_000] {
            histogram.observe(Duration::from_nanos(ns));
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets, [(1e-8, 2), (1e-7, 4), (1e-6, 4)]);
        assert_eq!(reading.count, 5);
        assert_eq!(reading.sum_seconds, 5_122e-9);
    }

    #[test]
    fn a_duration_beyond_every_unit_is_counted() {
        let histogram = Histogram::new(&BOUNDS);
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.read().count, 1);
    }

    #[test]
    fn one_operation_in_sixty_four_is_timed() {
        let timer = SampledTimer::new(&BOUNDS);
        std::thread::spawn(move || {
            for _ in 0..640 {
                timer.time(|| ());
            }
            assert_eq!(timer.read().count, 10);
        })
        .join()
        .unwrap();
    }
}
