//! The timer and the stop signal of a connection, both reused for all of its waits.
//!
//! Nearly every wait ends when bytes arrive. Arming a timer and joining a list of waiters each time
//! would cost more than the read itself. One task serves a connection from its accept to its end,
//! so a registration with that task is valid for every later wait.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::server::ShutdownWatch;
use tokio::time::{Instant, Sleep};

/// How long an idle connection stays open after a stop: the round trip of a network. A request that
/// a client sent before it could see the stop is still read, and answered with `Connection: close`.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// A timer that is reset only if it must be: to an earlier time, or when it fires too early.
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
        while sleep.as_mut().poll(cx).is_ready() {
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
        self.last_chance_over.as_mut().poll(cx)
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
