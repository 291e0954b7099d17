//! The timer and the stop signal of a connection, both reused for all of its waits.
//!
//! Nearly every wait ends when bytes arrive. Arming a timer and joining a list of waiters each time
//! would cost more than the read itself. One task serves a connection from its accept to its end,
//! so a registration with that task is valid for every later wait.

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::server::ShutdownWatch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

/// How long an idle connection stays open after a stop: the round trip of a network. A request that
/// a client sent before it could see the stop is still read, and answered with `Connection: close`.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// A timer that is reset only if it must be: to an earlier time, or when it fires too early. It is
/// polled without regard to the task's budget: with none left, the runtime would register nothing.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The task was registered after the last reset.
    is_registered: bool,
}

impl Timer {
    /// Ready once `deadline` has passed.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        } else if self.is_registered && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        while poll_unconstrained(sleep.as_mut(), cx).is_ready() {
            if Instant::now() >= deadline {
                self.is_registered = false;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        self.is_registered = true;
        Poll::Pending
    }
}

fn poll_unconstrained<F: Future + ?Sized>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(unconstrained(future)).poll(cx)
}

/// The gateway's stop, as seen by one connection.
pub struct StopSignal {
    watch: ShutdownWatch,
    began_stopped: bool,
    is_registered: bool,
    last_chance_over: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl StopSignal {
    /// Makes the signal of a new connection. The channel carries one value in its life, `true`.
    pub fn new(watch: &ShutdownWatch) -> Self {
        let mut stopping = watch.clone();
        let last_chance_over = async move {
            drop(stopping.wait_for(|stop| *stop).await);
            tokio::time::sleep(LAST_CHANCE).await;
        };
        let watch = watch.clone();
        let began_stopped = *watch.borrow();
        StopSignal { watch, began_stopped, is_registered: false, last_chance_over: Box::pin(last_chance_over) }
    }

    /// Whether the gateway is stopping. Costs one load and no lock.
    pub fn is_stopping(&self) -> bool {
        self.began_stopped || self.watch.has_changed().unwrap_or(true)
    }

    /// Ready once the gateway stops and the time for a last request is over. All polls must come
    /// from one task.
    pub fn poll_last_chance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_registered && !self.is_stopping() {
            return Poll::Pending;
        }
        self.is_registered = true;
        poll_unconstrained(self.last_chance_over.as_mut(), cx)
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopSignal").field("is_stopping", &self.is_stopping()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::watch;
    use tokio::task::coop::poll_proceed;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timer_fires_at_the_requested_deadline() {
        let mut timer = Timer::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        // Set for 5, polled for 3: it must not sleep on. Then polled for 9: it must not fire at 5.
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(cx, at(5)))).await.is_pending());
        poll_fn(|cx| timer.poll_until(cx, at(3))).await;
        assert_eq!(Instant::now(), at(3));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(cx, at(5)))).await.is_pending());
        poll_fn(|cx| timer.poll_until(cx, at(9))).await;
        assert_eq!(Instant::now(), at(9));
    }

    /// Uses up the budget of the task, but for `left` units.
    fn use_up_budget(cx: &mut Context<'_>, left: usize) {
        for _ in left..BUDGET {
            let Poll::Ready(unit) = poll_proceed(cx) else { return };
            unit.made_progress();
        }
    }

    /// The units of a turn of a task.
    const BUDGET: usize = 128;

    #[tokio::test(start_paused = true)]
    async fn timer_fires_that_was_first_polled_without_budget() {
        for left in [0, 1, 2] {
            let mut timer = Timer::default();
            let began = Instant::now();
            let at = move |seconds| began + Duration::from_secs(seconds);
            let fresh = tokio::spawn(async move {
                poll_fn(|cx| {
                    use_up_budget(cx, left);
                    Poll::Ready(timer.poll_until(cx, at(3)).is_pending())
                })
                .await;
                poll_fn(|cx| timer.poll_until(cx, at(3))).await;
                // Fired once, it is set again with as little budget.
                tokio::time::sleep_until(at(4)).await;
                poll_fn(|cx| {
                    use_up_budget(cx, left);
                    Poll::Ready(timer.poll_until(cx, at(6)).is_pending())
                })
                .await;
                poll_fn(|cx| timer.poll_until(cx, at(6))).await;
                Instant::now()
            });
            let fired = tokio::time::timeout(Duration::from_secs(60), fresh).await;
            assert_eq!(fired.expect("a timer that fires").expect("no panic"), at(6), "{left}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stop_signal_reaches_waiting_and_new_connections() {
        let (sender, watch) = watch::channel(false);
        let mut waiting = StopSignal::new(&watch);
        assert!(poll_fn(|cx| Poll::Ready(waiting.poll_last_chance(cx))).await.is_pending());
        assert!(!waiting.is_stopping());
        sender.send_replace(true);
        for mut stop in [waiting, StopSignal::new(&watch)] {
            assert!(stop.is_stopping());
            let began = Instant::now();
            poll_fn(|cx| stop.poll_last_chance(cx)).await;
            assert!(began.elapsed() <= LAST_CHANCE * 2);
        }
    }
}
