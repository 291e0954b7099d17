//! The request queue of an upstream: `max_requests` active requests, and `max_pending` waiting
//! ones, first come, first served.
//!
//! A request holds its permit from before its first attempt until it is over; an upgraded
//! connection holds it until it closes. Permits come from a fair semaphore: the longest waiting
//! request gets the next one, and a new request cannot overtake it. An upstream without limits has
//! no queue, so its requests write to no shared state here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crossgate_config::model::UpstreamLimits;

#[derive(Debug)]
pub struct UpstreamQueue {
    limits: UpstreamLimits,
    free: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// One of the `max_requests` permits, held until it is dropped.
#[derive(Debug)]
pub struct QueuePermit {
    _permit: OwnedSemaphorePermit,
}

/// One of the `max_pending` waiting requests, until it is dropped.
#[derive(Debug)]
pub struct QueueWaiter(Arc<UpstreamQueue>);

/// `max_pending` requests are already waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl UpstreamQueue {
    pub(crate) fn new(limits: UpstreamLimits) -> Self {
        let free = Arc::new(Semaphore::new(limits.max_requests as usize));
        UpstreamQueue { limits, free, waiting: AtomicU32::new(0) }
    }

    pub fn limits(&self) -> &UpstreamLimits {
        &self.limits
    }

    /// A permit, if one is free and no request waits.
    pub fn enter(&self) -> Option<QueuePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| QueuePermit { _permit: permit })
    }

    /// Registers a waiting request.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn wait(self: &Arc<Self>) -> Result<QueueWaiter, QueueFull> {
        let one_more = |waiting| (waiting < self.limits.max_pending).then_some(waiting + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, one_more).map_err(|_| QueueFull)?;
        Ok(QueueWaiter(Arc::clone(self)))
    }

    /// The number of active requests.
    pub(crate) fn active(&self) -> usize {
        (self.limits.max_requests as usize).saturating_sub(self.free.available_permits())
    }

    /// The number of waiting requests.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }
}

impl QueueWaiter {
    /// Waits for a permit. A request that stops waiting loses its turn.
    pub async fn acquire(&self) -> QueuePermit {
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => QueuePermit { _permit: permit },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for QueueWaiter {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    fn queue(max_requests: u32, max_pending: u32) -> Arc<UpstreamQueue> {
        Arc::new(UpstreamQueue::new(UpstreamLimits {
            max_requests,
            max_pending,
            pending_timeout: Duration::from_secs(1),
        }))
    }

    #[test]
    fn queue_admits_max_requests_and_holds_max_pending() {
        let queue = queue(2, 1);
        let (first, _second) = (queue.enter().unwrap(), queue.enter().unwrap());
        assert!(queue.enter().is_none());
        let waiter = queue.wait().unwrap();
        assert_eq!(queue.wait().err(), Some(QueueFull));
        assert_eq!((queue.active(), queue.waiting()), (2, 1));
        drop(waiter);
        drop(first);
        assert_eq!((queue.active(), queue.waiting()), (1, 0));
        assert!(queue.enter().is_some());
        assert_eq!(self::queue(1, 0).wait().err(), Some(QueueFull), "no waiting requests allowed");
    }

    #[test]
    fn longest_waiting_request_gets_the_next_permit() {
        let queue = queue(1, 2);
        let permit = queue.enter().unwrap();
        let (first, second) = (queue.wait().unwrap(), queue.wait().unwrap());
        let (mut first, mut second) = (pin!(first.acquire()), pin!(second.acquire()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending());
        drop(permit);
        assert!(queue.enter().is_none(), "the permit goes to the first waiter");
        assert!(second.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(permit) = first.as_mut().poll(&mut context) else { panic!("no permit for the first waiter") };
        drop(permit);
        assert!(second.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn cancelled_waiter_passes_its_turn_on() {
        let queue = queue(1, 2);
        let permit = queue.enter().unwrap();
        let (cancelled, remaining) = (queue.wait().unwrap(), queue.wait().unwrap());
        let mut remaining = pin!(remaining.acquire());
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut cancelled = pin!(cancelled.acquire());
            assert!(
                cancelled.as_mut().poll(&mut context).is_pending()
                    && remaining.as_mut().poll(&mut context).is_pending()
            );
            drop(permit);
        }
        drop(cancelled);
        assert!(remaining.as_mut().poll(&mut context).is_ready());
    }
}
