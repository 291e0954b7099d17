//! Drops an exchange that no longer watches its client.
//!
//! The client's connection bounds the waits of an exchange, but only while it is polled. Pingora
//! 0.9.1 does not poll it while a server of HTTP/2 accepts no more of an upload. It waits for the
//! server only, even if the client has gone. In this state the exchange checks the client
//! periodically. It is dropped if the client has gone, or if the server has accepted nothing for
//! its longest silence. Over HTTP/1.1 this costs one load each time an exchange waits.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::state::{AbandonCause, ExchangeState};
use super::timeouts::OPENING_TIME;
use super::timer::Timer;

/// How often an unattended client is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Runs an exchange to its end, or drops it. The cause is recorded in the [`ExchangeState`] before
/// the drop.
pub async fn run_attended<T>(exchange: impl Future<Output = T>, state: &ExchangeState) -> Result<T, AbandonCause> {
    let mut exchange = pin!(exchange);
    let (mut timer, mut since) = (Timer::default(), None);
    poll_fn(|cx| {
        state.leave_unattended();
        if let Poll::Ready(result) = exchange.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        let Some(max) = state.unattended_max().filter(|_| !state.is_attended()) else {
            since = None;
            return Poll::Pending;
        };
        let since = *since.get_or_insert_with(Instant::now);
        loop {
            let unattended = since.elapsed();
            let cause = match () {
                () if unattended >= max => Some(AbandonCause::Overdue),
                () if state.is_client_gone(cx) => Some(AbandonCause::ClientGone),
                () if unattended >= OPENING_TIME && state.is_unopened() => Some(AbandonCause::Unopened),
                () => None,
            };
            if let Some(cause) = cause {
                state.abandon(cause);
                return Poll::Ready(Err(cause));
            }
            let next_check = since + (unattended + CHECK_INTERVAL).min(max);
            if timer.poll_until(cx, next_check).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;
    use crate::exchange::state::{ExchangeLimits, ExchangePhase};

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: ExchangeLimits = ExchangeLimits {
        body_grace: SECOND,
        body_rate_min: 1,
        write_stall: SECOND,
        drain_bytes: 1,
        drain_time: SECOND,
    };

    /// The time after which an endless exchange is dropped. It wakes every second, and attends to
    /// its client for the first five.
    async fn dropped_after(state: &ExchangeState) -> Option<Duration> {
        let began = Instant::now();
        let mut wakeups = 0;
        let mut sleep = Box::pin(tokio::time::sleep(SECOND));
        let exchange = poll_fn(|cx| {
            while sleep.as_mut().poll(cx).is_ready() {
                wakeups += 1;
                if wakeups == 100 {
                    return Poll::Ready(());
                }
                sleep = Box::pin(tokio::time::sleep(SECOND));
            }
            if wakeups < 5 {
                state.attend();
            }
            Poll::Pending
        });
        run_attended(exchange, state).await.is_err().then(|| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn unattended_exchange_ends_after_its_timeout() {
        let state = ExchangeState::new(LIMITS, None, 0);
        state.begin_attempt(10 * SECOND, 30 * SECOND);
        assert_eq!(dropped_after(&state).await, None, "over HTTP/1.1 the client is always attended");
        state.set_http2();
        assert_eq!(dropped_after(&state).await, Some((5 + 10) * SECOND));
        state.enter(ExchangePhase::Streaming);
        assert_eq!(dropped_after(&state).await, Some((5 + 30) * SECOND));
        state.begin_attempt(10 * SECOND, 30 * SECOND);
        assert_eq!(dropped_after(&state).await, None, "another attempt may take a while to connect");
    }

    #[tokio::test(start_paused = true)]
    async fn unattended_exchange_ends_after_its_client_leaves() {
        let state = ExchangeState::new(LIMITS, None, 0);
        state.begin_attempt(10 * SECOND, 30 * SECOND);
        state.set_http2();
        let began = Instant::now();
        state.set_probe(Box::new(move |_| began.elapsed() >= 3 * SECOND));
        assert_eq!(run_attended(pending::<()>(), &state).await, Err(AbandonCause::ClientGone));
        assert_eq!(state.abandoned(), Some(AbandonCause::ClientGone));
        assert!(began.elapsed() <= 4 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_unattended_exchange_ends_after_its_timeout() {
        let state = ExchangeState::new(LIMITS, None, 0);
        state.begin_attempt(10 * SECOND, 30 * SECOND);
        state.set_http2();
        let began = Instant::now();
        assert!(run_attended(pending::<()>(), &state).await.is_err());
        assert_eq!(began.elapsed(), 10 * SECOND);
    }
}
