//! How long rules may run: one run by the processor's time, a tenant's runs by the clock.
//!
//! Operations do not bound time: five thousand of them on long texts take milliseconds. A run's own limit counts the time that its thread
//! really ran, so that a busy machine denies nobody; that clock is a system call, which short runs never make.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What rules may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleTimes {
    /// Processor time of one run.
    pub run: Duration,
    /// Time of all runs of one tenant, in each second.
    pub per_second: Duration,
}

impl Default for RuleTimes {
    fn default() -> Self {
        RuleTimes { run: Duration::from_millis(5), per_second: Duration::from_millis(250) }
    }
}

thread_local! {
    static RUN: Cell<(Duration, Option<Duration>)> = const { Cell::new((Duration::MAX, None)) };
}

/// From now on this thread's time counts, beginning with the first look at it.
pub(super) fn begin_run(max: Duration) {
    RUN.set((max, None));
}

/// Whether this thread has run for as long as it may.
pub(super) fn is_run_over() -> bool {
    let now = thread_time();
    let (max, began) = RUN.get();
    match began {
        Some(began) => now.saturating_sub(began) > max,
        None => {
            RUN.set((max, Some(now)));
            false
        }
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

const SECOND_NS: u64 = 1_000_000_000;

/// The time that a tenant has for rules. It is earned as it passes, up to a second's worth, and paid after each run.
#[derive(Debug)]
pub(super) struct Budget {
    made: Instant,
    /// When all that was taken will have been earned: nanoseconds after `made`.
    paid_until: AtomicU64,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Budget { made: now, paid_until: AtomicU64::new(0) }
    }

    /// Whether there is any left.
    pub(super) fn has_left(&self, now: Instant) -> bool {
        self.paid_until.load(Relaxed) < self.nanos(now).saturating_add(SECOND_NS)
    }

    /// Pays for a run. One that was interrupted by others for long pays no more than twice what one may take.
    pub(super) fn pay(&self, now: Instant, took: Duration, times: RuleTimes) {
        let took = nanos(took.min(times.run * 2));
        let per_second = nanos(times.per_second).max(1);
        let worth =
            u64::try_from(u128::from(took) * u128::from(SECOND_NS) / u128::from(per_second)).unwrap_or(u64::MAX);
        let now = self.nanos(now);
        let paid = |until: u64| Some(until.max(now).saturating_add(worth));
        let _always = self.paid_until.fetch_update(Relaxed, Relaxed, paid);
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.made))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_quarter_of_each_second() {
        let (start, times) = (Instant::now(), RuleTimes::default());
        let budget = Budget::new(start);
        let mut runs = 0;
        while budget.has_left(start) {
            budget.pay(start, Duration::from_millis(5), times);
            runs += 1;
        }
        assert_eq!(runs, 50, "a second's worth at once");
        let later = start + Duration::from_millis(100);
        while budget.has_left(later) {
            budget.pay(later, Duration::from_millis(5), times);
            runs += 1;
        }
        assert_eq!(runs, 55, "and a tenth of it in a tenth of a second");
        budget.pay(later, Duration::from_secs(3_600), times);
        assert!(budget.has_left(later + Duration::from_millis(200)), "one run pays no more than twice its limit");
    }

    #[test]
    fn only_time_that_the_thread_ran_counts() {
        begin_run(Duration::from_millis(1));
        assert!(!is_run_over(), "the first look begins");
        let begun = thread_time();
        while thread_time() - begun < Duration::from_millis(2) {}
        assert!(is_run_over());
        begin_run(Duration::from_secs(1));
        assert!(!is_run_over());
    }
}
