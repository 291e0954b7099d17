//! Whether a request may go to its upstream: a place among those that it has at one time, waited for if need be.
//!
//! While a request waits, its client's connection is watched: who has gone gives up its turn. Nothing of a body is read meanwhile but what
//! the connection keeps by itself. Absent on purpose: `Retry-After` on what is refused, since nobody knows when there will be room, and all
//! who are told the same moment come back in it.

use std::sync::Arc;

use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::{judged, upstream_of};
use crate::context::Context;
use crate::metrics::UpstreamRefusal;
use crate::queue::Queue;

/// Whether a request may go on.
pub(super) enum Entered {
    /// It may.
    Now,
    /// Not before it has a place here.
    Later(Arc<Queue>),
}

/// Gives the request its place, before its first attempt, if it needs one and one is free.
pub(super) fn enter(context: &mut Context) -> Entered {
    let queue = upstream_of(context).and_then(|upstream| upstream.queue.as_ref());
    let Some(queue) = queue.filter(|_| context.place.is_none()) else { return Entered::Now };
    match queue.enter() {
        Some(place) => {
            context.place = Some(place);
            Entered::Now
        }
        None => Entered::Later(Arc::clone(queue)),
    }
}

/// Waits for a place; an error where there is none, or nobody wants it any more.
pub(super) async fn wait(session: &mut Session, context: &mut Context, queue: Arc<Queue>) -> Result<()> {
    let Ok(waiter) = queue.wait() else { return Err(refuse(context, UpstreamRefusal::Limit)) };
    let watch = judged(context).map(|(request, _)| &request.watch);
    let hold = |is_held| watch.iter().for_each(|watch| watch.hold(is_held));
    hold(true);
    let waited = tokio::select! {
        biased;
        place = waiter.place() => Ok(Some(place)),
        _ = session.as_downstream_mut().read_body_or_idle(true) => Err(Error::new(ErrorType::ConnectionClosed).into_down()),
        () = tokio::time::sleep(queue.limits().pending_timeout) => Ok(None),
    };
    hold(false);
    context.place = Some(waited?.ok_or_else(|| refuse(context, UpstreamRefusal::PendingTimeout))?);
    Ok(())
}

/// The error that is answered with 503, counted.
pub(super) fn refuse(context: &mut Context, why: UpstreamRefusal) -> Box<Error> {
    if let Some(upstream) = upstream_of(context) {
        upstream.counters.count_refusal(why);
    }
    context.upstream_refusal = Some(why);
    Error::explain(ErrorType::HTTPStatus(503), why.as_str())
}
