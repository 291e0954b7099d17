//! Room for what clients send of uploads that their servers do not take.
//!
//! The kernel reports a client's end only after the bytes before it, so an upload that is stuck has
//! to be read on to notice that its client has left. All connections together have a fixed room for
//! that; where it is used up, a stuck upload ends by its timeout.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Of one connection: what its client's kernel and ours hold at most by their usual settings
/// (`tcp_wmem`, `tcp_rmem`).
const LEN_MAX: usize = 12 << 20;
/// Of all connections.
const TOTAL_MAX: usize = 64 << 20;
/// Taken at once.
const STEP_LEN: usize = 64 << 10;

static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// The room that one connection has, given back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Overflow(usize);

impl Overflow {
    /// More room; `None` where there is no more.
    pub(super) fn grow(&mut self) -> Option<usize> {
        let more = |total: usize| (total + STEP_LEN <= TOTAL_MAX).then_some(total + STEP_LEN);
        if self.0 + STEP_LEN > LEN_MAX || TOTAL.fetch_update(Relaxed, Relaxed, more).is_err() {
            return None;
        }
        self.0 += STEP_LEN;
        Some(STEP_LEN)
    }
}

impl Drop for Overflow {
    fn drop(&mut self) {
        TOTAL.fetch_sub(self.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_for_each_and_for_all_and_given_back() {
        let mut connections: Vec<Overflow> = (0..8).map(|_| Overflow::default()).collect();
        let taken: usize = connections.iter_mut().map(|one| std::iter::from_fn(|| one.grow()).sum::<usize>()).sum();
        assert_eq!(taken, TOTAL_MAX);
        assert!(connections.iter().all(|one| one.0 <= LEN_MAX));
        assert_eq!(Overflow::default().grow(), None);
        drop(connections);
        assert_eq!(TOTAL.load(Relaxed), 0);
    }
}
