//! Admission of a request to its upstream: a permit of the upstream's queue, awaited if necessary.
//!
//! While a request waits, its client's connection is watched: a client that disconnects loses its
//! turn. No body is read during the wait, except bytes that the connection buffers. Absent on
//! purpose: `Retry-After` on refusals. The time of the next permit is unknown, and clients with the
//! same value would all return at once.

use std::sync::Arc;

use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::attempts::upstream_of;
use super::judged;
use crate::metrics::UpstreamRefusal;
use crate::proxy::context::RequestContext;
use crate::queue::UpstreamQueue;

pub(super) enum AdmissionOutcome {
    Now,
    /// The request must wait for a permit of this queue.
    Later(Arc<UpstreamQueue>),
}

/// Takes a permit before the first attempt, if the upstream has a queue and a permit is free.
pub(super) fn enter(context: &mut RequestContext) -> AdmissionOutcome {
    let queue = upstream_of(context).and_then(|upstream| upstream.queue.as_ref());
    let Some(queue) = queue.filter(|_| context.place.is_none()) else { return AdmissionOutcome::Now };
    match queue.enter() {
        Some(place) => {
            context.place = Some(place);
            AdmissionOutcome::Now
        }
        None => AdmissionOutcome::Later(Arc::clone(queue)),
    }
}

/// Waits for a permit. Fails if the queue is full, the wait times out or the client disconnects.
pub(super) async fn wait(session: &mut Session, context: &mut RequestContext, queue: Arc<UpstreamQueue>) -> Result<()> {
    let Ok(waiter) = queue.wait() else { return Err(refuse(context, UpstreamRefusal::Limit)) };
    let watch = judged(context).map(|(request, _)| &request.watch);
    let hold = |is_held| watch.iter().for_each(|watch| watch.hold(is_held));
    hold(true);
    let waited = tokio::select! {
        biased;
        permit = waiter.acquire() => Ok(Some(permit)),
        _ = session.as_downstream_mut().read_body_or_idle(true) => Err(Error::new(ErrorType::ConnectionClosed).into_down()),
        () = tokio::time::sleep(queue.limits().pending_timeout) => Ok(None),
    };
    hold(false);
    context.place = Some(waited?.ok_or_else(|| refuse(context, UpstreamRefusal::PendingTimeout))?);
    Ok(())
}

/// Waits for a permit of a direct exchange, which watches its client itself. Fails if the queue is
/// full or the wait times out.
pub(super) async fn wait_unwatched(context: &mut RequestContext, queue: Arc<UpstreamQueue>) -> Result<()> {
    let Ok(waiter) = queue.wait() else { return Err(refuse(context, UpstreamRefusal::Limit)) };
    let waited = tokio::time::timeout(queue.limits().pending_timeout, waiter.acquire()).await;
    context.place = Some(waited.map_err(|_| refuse(context, UpstreamRefusal::PendingTimeout))?);
    Ok(())
}

/// The error of a request that is not sent to its upstream, counted.
pub(super) fn refuse(context: &mut RequestContext, why: UpstreamRefusal) -> Box<Error> {
    if let Some(upstream) = upstream_of(context) {
        upstream.counters.count_refusal(why);
    }
    context.upstream_refusal = Some(why);
    let status = match why {
        UpstreamRefusal::Limit | UpstreamRefusal::PendingTimeout | UpstreamRefusal::NoAddress => 503,
        UpstreamRefusal::Loop | UpstreamRefusal::OwnAdmin => 502,
    };
    Error::explain(ErrorType::HTTPStatus(status), why.as_str())
}
