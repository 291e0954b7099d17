//! What bounds the requests of one upstream: so many under way, so many waiting for one of those to end, first come, first served.
//!
//! A request has its place from before its first attempt until it is over, upgraded connections included. Places are those of a fair
//! semaphore: one that becomes free goes to who has waited longest, and nobody who comes meanwhile gets ahead. An upstream without limits
//! has no queue, so that its requests write to nothing here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::model::UpstreamLimits;

/// The places of one upstream.
#[derive(Debug)]
pub struct Queue {
    limits: UpstreamLimits,
    free: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A request's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Somebody who waits for a place, until dropped.
#[derive(Debug)]
pub struct Waiter(Arc<Queue>);

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Queue {
    pub(crate) fn new(limits: UpstreamLimits) -> Self {
        let free = Arc::new(Semaphore::new(limits.max_requests as usize));
        Queue { limits, free, waiting: AtomicU32::new(0) }
    }

    /// What it was made of.
    pub fn limits(&self) -> &UpstreamLimits {
        &self.limits
    }

    /// A place, if one is free and nobody waits.
    pub fn enter(&self) -> Option<Place> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// Leave to wait for one.
    ///
    /// # Errors
    /// [`Full`].
    pub fn wait(self: &Arc<Self>) -> Result<Waiter, Full> {
        let one_more = |waiting| (waiting < self.limits.max_pending).then_some(waiting + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, one_more).map_err(|_| Full)?;
        Ok(Waiter(Arc::clone(self)))
    }

    /// Requests under way.
    pub(crate) fn active(&self) -> usize {
        (self.limits.max_requests as usize).saturating_sub(self.free.available_permits())
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }
}

impl Waiter {
    /// A place, once it is this one's turn. Whoever stops waiting gives up its turn.
    pub async fn place(&self) -> Place {
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => Place { _permit: permit },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiter {
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

    fn queue(max_requests: u32, max_pending: u32) -> Arc<Queue> {
        Arc::new(Queue::new(UpstreamLimits { max_requests, max_pending, pending_timeout: Duration::from_secs(1) }))
    }

    #[test]
    fn so_many_have_a_place_and_so_many_wait() {
        let queue = queue(2, 1);
        let (first, _second) = (queue.enter().unwrap(), queue.enter().unwrap());
        assert!(queue.enter().is_none());
        let waiter = queue.wait().unwrap();
        assert_eq!(queue.wait().err(), Some(Full));
        assert_eq!((queue.active(), queue.waiting()), (2, 1));
        drop(waiter);
        drop(first);
        assert_eq!((queue.active(), queue.waiting()), (1, 0));
        assert!(queue.enter().is_some());
        assert_eq!(self::queue(1, 0).wait().err(), Some(Full), "nobody may wait");
    }

    #[test]
    fn who_has_waited_longest_is_next_and_nobody_gets_ahead() {
        let queue = queue(1, 2);
        let place = queue.enter().unwrap();
        let (first, second) = (queue.wait().unwrap(), queue.wait().unwrap());
        let (mut first, mut second) = (pin!(first.place()), pin!(second.place()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending());
        drop(place);
        assert!(queue.enter().is_none(), "it is the first one's");
        assert!(second.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(place) = first.as_mut().poll(&mut context) else { panic!("its turn") };
        drop(place);
        assert!(second.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn who_goes_away_gives_up_its_turn() {
        let queue = queue(1, 2);
        let place = queue.enter().unwrap();
        let (gone, stays) = (queue.wait().unwrap(), queue.wait().unwrap());
        let mut stays = pin!(stays.place());
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut gone = pin!(gone.place());
            assert!(gone.as_mut().poll(&mut context).is_pending() && stays.as_mut().poll(&mut context).is_pending());
            drop(place);
        }
        drop(gone);
        assert!(stays.as_mut().poll(&mut context).is_ready());
    }
}
