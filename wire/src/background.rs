//! Tasks that restart after a panic, with a count of panics.
//!
//! The accept loops and the background tasks of the gateway run in [`supervise`]. A bug in one of
//! them does not stop it for good.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crossgate_telemetry::restart::{RESTART_PAUSE, catch_panic};

use crate::metrics::{PanicCounters, PanicPlace};

/// Runs `work`. Returns `None` after a panic, which is counted.
pub fn attempt<T>(place: PanicPlace, panics: &PanicCounters, work: impl FnOnce() -> T) -> Option<T> {
    catch_panic(work).inspect_err(|_| panics.count(place)).ok()
}

/// Runs a task until it ends, and restarts it after each panic, which is counted.
pub async fn supervise<F: Future<Output = ()>>(
    place: PanicPlace,
    panics: impl AsRef<PanicCounters>,
    mut task: impl FnMut() -> F,
) {
    loop {
        let mut running = pin!(task());
        let ended = poll_fn(|context| match catch_panic(|| running.as_mut().poll(context)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        if ended.await.is_ok() {
            return;
        }
        panics.as_ref().count(place);
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::*;

    fn counted(panics: &PanicCounters, place: PanicPlace) -> u64 {
        panics.read().find(|(one, _)| *one == place).unwrap().1
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_runs_again_after_a_panic_and_the_panic_is_counted() {
        let panics = Arc::new(PanicCounters::default());
        let runs = Cell::new(0);
        supervise(PanicPlace::Checks, Arc::clone(&panics), || async {
            tokio::task::yield_now().await;
            runs.set(runs.get() + 1);
            assert!(runs.get() > 2, "a bug on purpose");
        })
        .await;
        assert_eq!((runs.get(), counted(&panics, PanicPlace::Checks)), (3, 2));
    }

    #[test]
    fn an_attempt_that_panics_is_counted() {
        let panics = PanicCounters::default();
        assert_eq!(attempt(PanicPlace::Reload, &panics, || 1), Some(1));
        assert_eq!(attempt(PanicPlace::Reload, &panics, || -> i32 { panic!("a bug on purpose") }), None);
        assert_eq!(counted(&panics, PanicPlace::Reload), 1);
    }
}
