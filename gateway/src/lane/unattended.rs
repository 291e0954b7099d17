//! Ends an exchange that has lost sight of its client.
//!
//! The waits of an exchange are bounded by the client's connection, which has to be looked at for that, and Pingora 0.9.1 stops looking once an
//! upstream over HTTP/2 has not taken a piece of an upload in time: it goes on to wait for the answer alone, without limit, whether the
//! client is there or not. This counts how long nobody has looked. Over HTTP/1.1 it costs a load for each time an exchange waits.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::time::Instant;

use super::waiting::Alarm;
use super::watch::Watch;

/// Nobody has looked at the client for as long as the exchange may be silent.
pub(crate) struct Unattended;

/// What an exchange leads to.
pub(crate) async fn bounded<T>(exchange: impl Future<Output = T>, watch: &Watch) -> Result<T, Unattended> {
    let mut exchange = pin!(exchange);
    let (mut alarm, mut since) = (Alarm::default(), None);
    poll_fn(|cx| {
        if let Poll::Ready(result) = exchange.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        let Some(max) = watch.unattended_max() else { return Poll::Pending };
        if watch.was_attended() {
            since = None;
            return Poll::Pending;
        }
        let since = *since.get_or_insert_with(Instant::now);
        alarm.poll_until(cx, since + max).map(|()| Err(Unattended))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;
    use crate::lane::watch::{ExchangeLimits, Phase};

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: ExchangeLimits = ExchangeLimits {
        body_grace: SECOND,
        body_rate_min: 1,
        write_stall: SECOND,
        drain_bytes: 1,
        drain_time: SECOND,
    };

    /// How long an exchange lasts that never ends, of which something stirs every second, and the client is looked at for the first five.
    async fn lasts(watch: &Watch) -> Option<Duration> {
        let began = Instant::now();
        let exchange = async {
            for _ in 0..5 {
                watch.attend();
                tokio::time::sleep(SECOND).await;
            }
            for _ in 0..100 {
                tokio::time::sleep(SECOND).await;
            }
        };
        bounded(exchange, watch).await.is_err().then(|| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_once_nobody_has_looked_for_too_long() {
        let watch = Watch::new(LIMITS, None, 0);
        watch.begin_attempt(10 * SECOND, 30 * SECOND);
        assert_eq!(lasts(&watch).await, None, "over HTTP/1.1 it is always looked at");
        watch.go_over_http2();
        assert_eq!(lasts(&watch).await, Some((5 + 20) * SECOND));
        watch.enter(Phase::Streaming);
        assert_eq!(lasts(&watch).await, Some((5 + 30) * SECOND));
        watch.begin_attempt(10 * SECOND, 30 * SECOND);
        assert_eq!(lasts(&watch).await, None, "another attempt may take a while to connect");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_too() {
        let watch = Watch::new(LIMITS, None, 0);
        watch.begin_attempt(10 * SECOND, 30 * SECOND);
        watch.go_over_http2();
        let began = Instant::now();
        assert!(bounded(pending::<()>(), &watch).await.is_err());
        assert_eq!(began.elapsed(), 20 * SECOND);
    }
}
