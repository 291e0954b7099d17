//! How many frames that carry nothing a client may send: as many at once as honest ones ever do, a
//! rate after that, and more with every piece of an answer it is sent.
//!
//! Such frames cost the gateway work, and the client thirteen bytes each: cancelled requests
//! ("rapid reset"), PING and SETTINGS that must be answered, windows opened byte by byte, empty
//! DATA. `h2` bounds some of them and answers the others for as long as they come.

use std::time::Duration;

use tokio::time::Instant;

/// At once: what clients that cancel all they have asked for, ten times over, send.
const BURST: u32 = 1_000;
/// A second: a client that is slower than that costs nothing worth mentioning.
const RATE: u32 = 100;

/// What is left to a client.
#[derive(Debug)]
pub(super) struct FloodAllowance {
    left: u32,
    refilled_at: Instant,
}

/// There were more frames than there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl FloodAllowance {
    pub(super) fn new() -> Self {
        FloodAllowance { left: BURST, refilled_at: Instant::now() }
    }

    /// Takes `frames` from what is left. The clock is read, and `earned` taken, only when that is
    /// not enough.
    pub(super) fn spend(&mut self, frames: u32, earned: impl FnOnce() -> u32) -> Result<(), Exhausted> {
        if frames > self.left {
            self.refill(earned());
        }
        self.left = self.left.checked_sub(frames).ok_or(Exhausted)?;
        Ok(())
    }

    fn refill(&mut self, earned: u32) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.refilled_at).min(Duration::from_secs(u64::from(BURST / RATE)));
        let of_time = passed.as_millis().saturating_mul(u128::from(RATE)) / 1_000;
        self.refilled_at = now;
        let refilled = u128::from(self.left) + of_time;
        // Earned frames are not capped by the burst: they pay for frames already sent.
        let refilled = u32::try_from(refilled).unwrap_or(BURST).min(BURST);
        self.left = refilled.saturating_add(earned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_through_and_a_rate_after_it() {
        let mut allowance = FloodAllowance::new();
        assert_eq!(allowance.spend(BURST, || 0), Ok(()));
        assert_eq!(allowance.spend(1, || 0), Err(Exhausted));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(allowance.spend(RATE, || 0), Ok(()));
        assert_eq!(allowance.spend(1, || 0), Err(Exhausted));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(allowance.spend(BURST + 1, || 0), Err(Exhausted), "no more than a burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn earned_allowance_is_spent_next_to_the_rest() {
        let mut allowance = FloodAllowance::new();
        assert_eq!(allowance.spend(BURST + 5_000, || 5_000), Ok(()));
        assert_eq!(allowance.spend(1, || 0), Err(Exhausted));
    }
}
