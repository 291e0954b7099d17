//! Limits how often the log repeats an event that clients or servers can cause at any rate. Metrics
//! count every event, and most events repeat the one before.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const PAUSE: Duration = Duration::from_secs(10);

/// Lets one log event pass every ten seconds.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Returns whether this event may be logged. Never blocks.
    pub fn passes(&self) -> bool {
        let Some(mut last) = self.0.try_lock() else { return false };
        let is_due = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_event_within_the_pause_is_throttled() {
        let throttle = LogThrottle::default();
        assert_eq!([throttle.passes(), throttle.passes()], [true, false]);
    }
}
