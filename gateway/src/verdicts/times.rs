//! Time limits of rules: one run by CPU time, all runs of a tenant by elapsed time.
//!
//! The limit on operations does not bound time: five thousand operations on long texts take
//! milliseconds. The limit of a run counts the CPU time of its thread, so that a busy machine
//! denies no requests. Reading that clock is a system call, which short runs never make.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crossgate_config::model::RuleTimes;

thread_local! {
    static RUN: Cell<(Duration, Option<Duration>)> = const { Cell::new((Duration::MAX, None)) };
}

/// Starts a run on this thread. Its time counts from the first call of [`is_run_over`].
pub(super) fn begin_run(max: Duration) {
    RUN.set((max, None));
}

/// Returns whether the run on this thread has used up its time.
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

/// The time budget of a tenant for rules. It refills continuously up to the amount of one second,
/// and each run is charged afterwards.
#[derive(Debug)]
pub(super) struct RuleTimeBudget {
    made: Instant,
    /// The time at which the budget is full again, in nanoseconds after `made`.
    charged_until: AtomicU64,
}

impl RuleTimeBudget {
    pub(super) fn new(now: Instant) -> Self {
        RuleTimeBudget { made: now, charged_until: AtomicU64::new(0) }
    }

    /// Returns whether any budget is left.
    pub(super) fn has_left(&self, now: Instant) -> bool {
        self.charged_until.load(Relaxed) < self.nanos(now).saturating_add(SECOND_NS)
    }

    /// Charges a run. A run that was interrupted for long is charged at most twice the limit of a
    /// run.
    pub(super) fn charge(&self, now: Instant, took: Duration, times: RuleTimes) {
        let took = nanos(took.min(times.run * 2));
        let per_second = nanos(times.per_second).max(1);
        let worth =
            u64::try_from(u128::from(took) * u128::from(SECOND_NS) / u128::from(per_second)).unwrap_or(u64::MAX);
        let now = self.nanos(now);
        let charged = |until: u64| Some(until.max(now).saturating_add(worth));
        let _is_charged = self.charged_until.fetch_update(Relaxed, Relaxed, charged);
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
    fn tenant_may_run_rules_for_a_quarter_of_each_second() {
        let (start, times) = (Instant::now(), RuleTimes::default());
        let budget = RuleTimeBudget::new(start);
        let mut runs = 0;
        while budget.has_left(start) {
            budget.charge(start, Duration::from_millis(5), times);
            runs += 1;
        }
        assert_eq!(runs, 50, "the budget of one second at once");
        let later = start + Duration::from_millis(100);
        while budget.has_left(later) {
            budget.charge(later, Duration::from_millis(5), times);
            runs += 1;
        }
        assert_eq!(runs, 55, "a tenth of the budget after a tenth of a second");
        budget.charge(later, Duration::from_secs(3_600), times);
        assert!(budget.has_left(later + Duration::from_millis(200)), "a run is charged at most twice its limit");
    }

    #[test]
    fn run_limit_counts_cpu_time_of_the_thread() {
        begin_run(Duration::from_millis(1));
        assert!(!is_run_over(), "the first call starts the clock");
        let begun = thread_time();
        while thread_time() - begun < Duration::from_millis(2) {}
        assert!(is_run_over());
        begin_run(Duration::from_secs(1));
        assert!(!is_run_over());
    }
}
