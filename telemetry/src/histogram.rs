//! A histogram of durations: fixed bounds, two atomic additions per observation, no lock and no
//! floating point.
//!
//! Bounds are in nanoseconds, ascending, and inclusive as in Prometheus. The sum wraps after 584
//! years of observed time, which Prometheus reads as a counter reset. Absent on purpose: quantiles,
//! which queries compute from the buckets.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::cells::CounterCells;

#[derive(Debug)]
pub struct Histogram {
    bounds_ns: &'static [u64],
    /// A count for each bound, one for durations over all bounds, and the sum in nanoseconds.
    cells: CounterCells,
}

/// The contents of a histogram at one moment.
pub struct HistogramSnapshot {
    /// Each upper bound in seconds, with the number of observations at or below it.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl HistogramSnapshot {
    /// Builds a snapshot from the count of each bucket; the last bucket is the one over all bounds.
    pub fn new(bounds_ns: &[u64], count_of: impl Fn(usize) -> u64, sum_ns: u64) -> Self {
        let mut count = 0;
        let mut cumulative = (0..=bounds_ns.len()).map(|bucket| {
            count += count_of(bucket);
            count
        });
        let buckets = bounds_ns.iter().zip(&mut cumulative).map(|(bound, n)| (seconds(*bound), n)).collect();
        cumulative.for_each(drop);
        HistogramSnapshot { buckets, count, sum_seconds: seconds(sum_ns) }
    }
}

impl Histogram {
    pub fn new(bounds_ns: &'static [u64]) -> Self {
        Histogram { bounds_ns, cells: CounterCells::new(bounds_ns.len() + 2) }
    }

    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.cells.count(self.bounds_ns.partition_point(|bound| *bound < ns));
        self.cells.add(self.sum_cell(), ns);
    }

    pub fn read(&self) -> HistogramSnapshot {
        HistogramSnapshot::new(self.bounds_ns, |bucket| self.cells.read(bucket), self.cells.read(self.sum_cell()))
    }

    fn sum_cell(&self) -> usize {
        self.bounds_ns.len() + 1
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Times one in [`SampledTimer::EVERY`] short operations of a thread. Reading the clock twice costs
/// as much as the operation itself.
#[derive(Debug)]
pub struct SampledTimer {
    histogram: Histogram,
}

impl SampledTimer {
    /// One operation in this many is timed.
    pub const EVERY: u32 = 64;

    pub fn new(bounds_ns: &'static [u64]) -> Self {
        SampledTimer { histogram: Histogram::new(bounds_ns) }
    }

    /// Runs `operation`, and observes its duration if it is sampled.
    pub fn time<T>(&self, operation: impl FnOnce() -> T) -> T {
        if !is_sampled() {
            return operation();
        }
        let start = Instant::now();
        let result = operation();
        self.histogram.observe(start.elapsed());
        result
    }

    pub fn read(&self) -> HistogramSnapshot {
        self.histogram.read()
    }
}

/// Whether this operation is sampled. Each thread counts its own operations; its first is sampled.
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
        let snapshot = histogram.read();
        assert_eq!(snapshot.buckets, [(1e-8, 2), (1e-7, 4), (1e-6, 4)]);
        assert_eq!(snapshot.count, 5);
        assert_eq!(snapshot.sum_seconds, 5_122e-9);
    }

    #[test]
    fn duration_over_all_bounds_is_counted() {
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
