//! A histogram of durations: fixed bounds, two atomic additions an observation, no lock and no floating point.
//!
//! Bounds are nanoseconds, ascending, each inclusive as Prometheus has it. The sum wraps after 584 years of observed
//! time, which reads as a counter reset. Quantiles are left to whoever scrapes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Durations counted by upper bound.
#[derive(Debug)]
pub struct Histogram {
    bounds_ns: &'static [u64],
    /// One more than the bounds: the last is what exceeds them all.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
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
        let counts = (0..=bounds_ns.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds_ns, counts, sum_ns: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds_ns.partition_point(|bound| *bound < ns);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
            self.sum_ns.fetch_add(ns, Relaxed);
        }
    }

    pub(super) fn read(&self) -> Reading {
        let mut count = 0;
        let mut cumulative = self.counts.iter().map(|bucket| {
            count += bucket.load(Relaxed);
            count
        });
        let buckets = self.bounds_ns.iter().zip(&mut cumulative).map(|(bound, n)| (seconds(*bound), n)).collect();
        cumulative.for_each(drop);
        Reading { buckets, count, sum_seconds: seconds(self.sum_ns.load(Relaxed)) }
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
