//! How long the lane takes for a preflight.
//!
//! Reading the clock twice costs more than everything else that is counted of a preflight. So the
//! clock is read where a log line needs it, where a rule may run, and for one preflight in 64 of
//! each worker. Any other takes as long as the last of those on the same worker that no rule was
//! behind: such an answer waits for nothing, so they differ by less than the finest bucket.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// One preflight in this many is timed.
const EVERY: u32 = 64;

thread_local! {
    static SEEN: Cell<u32> = const { Cell::new(0) };
    static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The timing of one preflight.
pub(super) struct PreflightTimer {
    began: Option<Instant>,
    is_exact: bool,
    may_run_rule: bool,
}

impl PreflightTimer {
    /// Begins with a preflight, which may be logged.
    pub(super) fn start(is_log_on: bool) -> Self {
        let seen = SEEN.replace(SEEN.get().wrapping_add(1));
        let is_exact = seen.is_multiple_of(EVERY);
        PreflightTimer { began: (is_exact || is_log_on).then(Instant::now), is_exact, may_run_rule: false }
    }

    /// Says that a rule may run, which takes as long as it likes.
    pub(super) fn need(&mut self) {
        self.may_run_rule = true;
        self.began.get_or_insert_with(Instant::now);
    }

    /// How long it took: exactly, if it is logged.
    pub(super) fn took(&self, is_logged: bool) -> Duration {
        match self.began.filter(|_| self.is_exact || self.may_run_rule || is_logged) {
            None => LAST.get(),
            Some(began) => {
                let took = began.elapsed();
                if !self.may_run_rule {
                    LAST.set(took);
                }
                took
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, whose first preflight is timed.
    fn on_new_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    fn after(pause: Duration, timer: &PreflightTimer, is_logged: bool) -> Duration {
        let until = Instant::now() + pause;
        while Instant::now() < until {}
        timer.took(is_logged)
    }

    const PAUSE: Duration = Duration::from_millis(2);

    #[test]
    fn one_in_sixty_four_is_timed_and_stands_for_the_others() {
        on_new_thread(|| {
            let first = after(PAUSE, &PreflightTimer::start(false), false);
            assert!(first >= PAUSE);
            for _ in 1..EVERY {
                assert_eq!(PreflightTimer::start(false).took(false), first);
            }
            assert!(PreflightTimer::start(false).took(false) < first);
        });
    }

    #[test]
    fn what_is_logged_or_may_run_a_rule_is_timed() {
        on_new_thread(|| {
            let first = PreflightTimer::start(false).took(false);
            let mut ruled = PreflightTimer::start(false);
            ruled.need();
            assert!(after(PAUSE, &ruled, false) >= PAUSE);
            assert_eq!(PreflightTimer::start(false).took(false), first, "a rule's time does not stand for others");
            let logged = PreflightTimer::start(true);
            assert!(after(PAUSE, &logged, true) >= PAUSE);
            let unlogged = PreflightTimer::start(true);
            assert!(unlogged.took(false) >= PAUSE, "the last one that was timed");
        });
    }
}
