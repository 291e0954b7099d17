//! How often the log tells of something that strangers or servers can make happen at any rate: everything is counted, and most of it is
//! like the one before.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const PAUSE: Duration = Duration::from_secs(10);

/// Lets one through every ten seconds.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    /// Whether this one may pass. Nobody waits.
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
    fn it_lets_one_through() {
        let throttle = Throttle::default();
        assert_eq!([throttle.passes(), throttle.passes()], [true, false]);
    }
}
