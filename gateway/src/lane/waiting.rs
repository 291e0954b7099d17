//! What a connection waits with: one timer and one registration for the gateway's stop, both kept for all its waits.
//!
//! Nearly every wait ends by bytes that come, so arming a timer and joining a list of waiters each time would cost more than the
//! read itself. A connection is served by one task from its accept to its end, so what was registered with that task once is good
//! for every later wait.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::server::ShutdownWatch;
use tokio::time::{Instant, Sleep};

/// How long an idle connection is kept after a stop: a network's round trip. What a client sent just before it could know of the
/// stop is still read, and answered with `Connection: close`.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// A timer that is moved only when it must be: to an earlier time, or when it rings too early.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `deadline` has passed.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The gateway's stop, as one connection sees it.
pub struct Stop {
    watch: ShutdownWatch,
    began_stopped: bool,
    is_registered: bool,
    last_chance_over: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Stop {
    /// Of a connection that begins now. The watch is sent one value in its life, `true`.
    pub fn new(watch: &ShutdownWatch) -> Self {
        let mut told = watch.clone();
        let last_chance_over = async move {
            drop(told.wait_for(|stop| *stop).await);
            tokio::time::sleep(LAST_CHANCE).await;
        };
        let watch = watch.clone();
        let began_stopped = *watch.borrow();
        Stop { watch, began_stopped, is_registered: false, last_chance_over: Box::pin(last_chance_over) }
    }

    /// Whether the gateway is stopping: one load, no lock.
    pub fn is_told(&self) -> bool {
        self.began_stopped || self.watch.has_changed().unwrap_or(true)
    }

    /// Ready once the gateway stops and a last request has had its chance to come. Always polled from one task.
    pub fn poll_last_chance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_registered && !self.is_told() {
            return Poll::Pending;
        }
        self.is_registered = true;
        self.last_chance_over.as_mut().poll(cx)
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("is_told", &self.is_told()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::watch;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_at_the_deadline_that_is_asked_for() {
        let mut alarm = Alarm::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        // Set for 5, asked for 3: it must not sleep on. Then for 9: it must not ring at 5.
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll_until(cx, at(5)))).await.is_pending());
        poll_fn(|cx| alarm.poll_until(cx, at(3))).await;
        assert_eq!(Instant::now(), at(3));
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll_until(cx, at(5)))).await.is_pending());
        poll_fn(|cx| alarm.poll_until(cx, at(9))).await;
        assert_eq!(Instant::now(), at(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_noticed_by_whoever_waits_and_whoever_comes_later() {
        let (sender, watch) = watch::channel(false);
        let mut waiting = Stop::new(&watch);
        assert!(poll_fn(|cx| Poll::Ready(waiting.poll_last_chance(cx))).await.is_pending());
        assert!(!waiting.is_told());
        sender.send_replace(true);
        for mut stop in [waiting, Stop::new(&watch)] {
            assert!(stop.is_told());
            let began = Instant::now();
            poll_fn(|cx| stop.poll_last_chance(cx)).await;
            assert!(began.elapsed() <= LAST_CHANCE * 2);
        }
    }
}
