//! Threads that restart after a panic.
//!
//! Background threads run in [`restart_on_panic`], so that a bug in one of them stops neither
//! logging nor reloads. `wire::background` does the same for tasks.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The pause between a panic and the next attempt.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs `work` until it ends without a panic, with a pause after each panic.
pub fn restart_on_panic(mut count_panic: impl FnMut(), mut work: impl FnMut()) {
    while catch_panic(&mut work).is_err() {
        count_panic();
        std::thread::sleep(RESTART_PAUSE);
    }
}

/// Runs `work` and catches its panic. Unwind safety is asserted: callers change their state in
/// single steps, so it is usable after a panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(work))
}
