//! Stops asking a rule that only fails, and tries it again from time to time.
//!
//! It opens after [`FAILURES_MAX`] failures in a row with no success for [`QUIET`]; from then on one run per [`PROBE_EVERY`] is let
//! through, and one that succeeds closes it. The caller tells the time, and keeps one for every rule and tenant: answers that are
//! kept already never come here. Two threads that see the same moment may each be let through; nothing worse.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failures in a row before it may open.
const FAILURES_MAX: u32 = 20;
/// A rule that has succeeded within this time is not given up yet.
const QUIET: Duration = Duration::from_secs(5);
/// While it is open, one run in this time.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// The failures of one rule for one tenant.
#[derive(Debug)]
pub struct Breaker {
    made: Instant,
    failures: AtomicU32,
    /// Milliseconds after `made`, plus one; 0 if there was none.
    succeeded: AtomicU64,
    /// The same of the last probe.
    probed: AtomicU64,
}

/// Whether a rule may be run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As always.
    Run,
    /// As the one that tells whether it works again.
    Probe,
    /// Not now.
    Refused,
}

impl Breaker {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Breaker { made: now, failures: AtomicU32::new(0), succeeded: AtomicU64::new(0), probed: AtomicU64::new(0) }
    }

    /// Whether to run.
    pub fn admit(&self, now: Instant) -> Admission {
        if !self.is_open(now) {
            return Admission::Run;
        }
        let now = self.millis(now);
        let probed = self.probed.load(Relaxed);
        let is_due = probed == 0 || now.saturating_sub(probed) >= millis(PROBE_EVERY);
        if is_due && self.probed.compare_exchange(probed, now, Relaxed, Relaxed).is_ok() {
            Admission::Probe
        } else {
            Admission::Refused
        }
    }

    /// Whether it is open.
    pub fn is_open(&self, now: Instant) -> bool {
        if self.failures.load(Relaxed) < FAILURES_MAX {
            return false;
        }
        let succeeded = self.succeeded.load(Relaxed);
        succeeded == 0 || self.millis(now).saturating_sub(succeeded) >= millis(QUIET)
    }

    /// Whether it ever refused or probed.
    pub fn was_open(&self) -> bool {
        self.probed.load(Relaxed) != 0
    }

    /// Notes a run that gave an answer.
    pub fn succeed(&self, now: Instant) {
        // Most runs follow a success of the same second: a shared line is not written for each.
        let (last, now) = (self.succeeded.load(Relaxed), self.millis(now));
        if last == 0 || now.saturating_sub(last) >= 1_000 {
            self.succeeded.store(now, Relaxed);
        }
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Notes a run that failed.
    pub fn fail(&self) {
        let one_more = |failures: u32| failures.checked_add(1);
        // At the end of its range it stays there.
        let _full = self.failures.fetch_update(Relaxed, Relaxed, one_more);
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.made)).saturating_add(1)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn it_opens_probes_and_closes() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.admit(start), Admission::Run);
            breaker.fail();
        }
        assert_eq!(breaker.admit(start), Admission::Probe);
        assert_eq!(breaker.admit(after(start, 99)), Admission::Refused);
        assert_eq!(breaker.admit(after(start, 100)), Admission::Probe);
        breaker.fail();
        assert_eq!(breaker.admit(after(start, 150)), Admission::Refused);
        assert_eq!(breaker.admit(after(start, 200)), Admission::Probe);
        breaker.succeed(after(start, 200));
        assert_eq!(breaker.admit(after(start, 201)), Admission::Run);
    }

    #[test]
    fn a_rule_that_has_just_worked_is_not_given_up() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        breaker.succeed(start);
        (0..100).for_each(|_| breaker.fail());
        assert_eq!(breaker.admit(after(start, 4_999)), Admission::Run);
        assert_eq!(breaker.admit(after(start, 5_000)), Admission::Probe);
        assert_eq!(breaker.admit(after(start, 5_001)), Admission::Refused);
    }

    #[test]
    fn failures_among_successes_do_not_open_it() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        for n in 0..1_000 {
            if n % 20 == 0 {
                breaker.succeed(after(start, n))
            } else {
                breaker.fail()
            }
            assert_eq!(breaker.admit(after(start, 1_000_000 + n)), Admission::Run);
        }
    }
}
