//! A circuit breaker for one rule of one tenant: stops running a rule that only fails, and retries
//! from time to time.
//!
//! The breaker opens after [`FAILURES_MAX`] failures in a row with no success for [`QUIET`]. While
//! open, it admits one run per [`PROBE_EVERY`]; one success closes it. The caller passes the time
//! in. Cached answers never reach the breaker. Two threads may race and both get a probe, which is
//! harmless.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The failures in a row before the breaker may open.
const FAILURES_MAX: u32 = 20;
/// The breaker stays closed for this long after a success.
const QUIET: Duration = Duration::from_secs(5);
/// While the breaker is open, one run is admitted in this time.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// The failures of one rule for one tenant.
#[derive(Debug)]
pub struct Breaker {
    created: Instant,
    failures: AtomicU32,
    /// The time of the last success: milliseconds after `created` plus one, or 0 for never.
    succeeded: AtomicU64,
    /// The time of the last probe, in the same form.
    probed: AtomicU64,
}

/// The permission to run a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAdmission {
    /// Run normally: the breaker is closed.
    Run,
    /// Run as a probe: the result decides whether the breaker closes.
    Probe,
    /// Do not run.
    Refused,
}

impl Breaker {
    /// Creates a closed breaker.
    pub fn new(now: Instant) -> Self {
        Breaker { created: now, failures: AtomicU32::new(0), succeeded: AtomicU64::new(0), probed: AtomicU64::new(0) }
    }

    /// Decides whether a run is admitted.
    pub fn admit(&self, now: Instant) -> RunAdmission {
        if !self.is_open(now) {
            return RunAdmission::Run;
        }
        let now = self.millis(now);
        let probed = self.probed.load(Relaxed);
        let is_due = probed == 0 || now.saturating_sub(probed) >= millis(PROBE_EVERY);
        if is_due && self.probed.compare_exchange(probed, now, Relaxed, Relaxed).is_ok() {
            RunAdmission::Probe
        } else {
            RunAdmission::Refused
        }
    }

    pub fn is_open(&self, now: Instant) -> bool {
        if self.failures.load(Relaxed) < FAILURES_MAX {
            return false;
        }
        let succeeded = self.succeeded.load(Relaxed);
        succeeded == 0 || self.millis(now).saturating_sub(succeeded) >= millis(QUIET)
    }

    /// Whether the breaker ever refused a run or admitted a probe.
    pub fn was_open(&self) -> bool {
        self.probed.load(Relaxed) != 0
    }

    /// Records a run that gave an answer.
    pub fn record_success(&self, now: Instant) {
        // Most runs follow a success in the same second; writing the shared cache line for each
        // would be slow.
        let (last, now) = (self.succeeded.load(Relaxed), self.millis(now));
        if last == 0 || now.saturating_sub(last) >= 1_000 {
            self.succeeded.store(now, Relaxed);
        }
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Records a failed run.
    pub fn record_failure(&self) {
        let one_more = |failures: u32| failures.checked_add(1);
        // Saturates instead of wrapping to zero, which would close the breaker.
        let _full = self.failures.fetch_update(Relaxed, Relaxed, one_more);
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.created)).saturating_add(1)
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
    fn breaker_opens_probes_and_closes() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.admit(start), RunAdmission::Run);
            breaker.record_failure();
        }
        assert_eq!(breaker.admit(start), RunAdmission::Probe);
        assert_eq!(breaker.admit(after(start, 99)), RunAdmission::Refused);
        assert_eq!(breaker.admit(after(start, 100)), RunAdmission::Probe);
        breaker.record_failure();
        assert_eq!(breaker.admit(after(start, 150)), RunAdmission::Refused);
        assert_eq!(breaker.admit(after(start, 200)), RunAdmission::Probe);
        breaker.record_success(after(start, 200));
        assert_eq!(breaker.admit(after(start, 201)), RunAdmission::Run);
    }

    #[test]
    fn recent_success_keeps_the_breaker_closed() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        breaker.record_success(start);
        (0..100).for_each(|_| breaker.record_failure());
        assert_eq!(breaker.admit(after(start, 4_999)), RunAdmission::Run);
        assert_eq!(breaker.admit(after(start, 5_000)), RunAdmission::Probe);
        assert_eq!(breaker.admit(after(start, 5_001)), RunAdmission::Refused);
    }

    #[test]
    fn failures_between_successes_keep_the_breaker_closed() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        for n in 0..1_000 {
            if n % 20 == 0 {
                breaker.record_success(after(start, n))
            } else {
                breaker.record_failure()
            }
            assert_eq!(breaker.admit(after(start, 1_000_000 + n)), RunAdmission::Run);
        }
    }
}
