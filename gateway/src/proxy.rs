//! A request between its client and its upstream: judged once, counted once, logged once.
//!
//! ```text
//! lane_host.rs   what the servers of HTTP/1.1 and HTTP/2 ask of the gateway; preflights
//! direct.rs      the direct exchange, for nearly every request to an upstream
//! hooks.rs       Pingora's proxy, for what the direct exchange declines
//! attempts.rs    the attempts of a request at its servers
//! fields.rs      the fields of requests and responses on their way
//! context.rs     what a request carries, and how it is counted
//! edge.rs        answers that the gateway makes by itself
//! ```
//!
//! Both engines call the same functions, so that a change of a field, a retry or a counter holds
//! for both. Caching, compression and subrequests are absent on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use pingora::{Error, ErrorType};

use self::context::{LostIfPanicked, PinnedJudgement, RequestContext, RequestState};
use crate::access_log::AccessLog;
use crate::counters::SentResponse;
use crate::descriptors::DescriptorShares;
use crate::judge::{self, Judgement, PolicyMatch};
use crate::log_request::{self, CompletedRequest, UpstreamOutcome};
use crate::metrics::EarlyClose;
use crate::registry::GatewayMetrics;
use crate::request_head::RequestHead;
use crate::snapshot::{CurrentSnapshot, PinnedSnapshot};
use crate::throttle::LogThrottle;
use crate::upstream;
use crate::verdicts::TenantRule;
use crossgate_config::model::Listener;
use crossgate_message::forwarded::{ConnectionPeer, RequestId};
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::trace_context;
use crossgate_wire::exchange::state::{ExchangeEnd, ExchangeState};

mod admission;
mod attempts;
pub mod context;
mod direct;
mod edge;
mod fields;
mod hooks;
mod lane_host;
mod preflight_timer;
mod report;
mod salvage;
mod until_close;

#[cfg(test)]
pub(crate) use direct::DirectUpstream;
pub(crate) use edge::answer_at_edge;
pub(crate) use lane_host::head_limits;
pub(crate) use salvage::Salvage;

/// What all requests share.
#[derive(Clone)]
pub struct Gateway {
    snapshot: Arc<CurrentSnapshot>,
    metrics: Arc<GatewayMetrics>,
    log: Arc<AccessLog>,
    listeners: Vec<Listener>,
    draining: Arc<AtomicBool>,
    descriptors: DescriptorShares,
    /// Where the admin listener is, which no name of an upstream may lead to.
    admin: Option<SocketAddr>,
    /// Limits the log events of failed handshakes.
    complaints: Arc<LogThrottle>,
}

impl Gateway {
    /// A gateway that serves whatever snapshot is current when a request begins, on these
    /// listeners, and ends connections with their present answer once `draining` is set. Clients
    /// get no more open files than their share.
    pub fn new(
        snapshot: Arc<CurrentSnapshot>,
        metrics: Arc<GatewayMetrics>,
        log: Arc<AccessLog>,
        listeners: Vec<Listener>,
        draining: Arc<AtomicBool>,
        descriptors: DescriptorShares,
    ) -> Self {
        Gateway { snapshot, metrics, log, listeners, draining, descriptors, admin: None, complaints: Arc::default() }
    }

    /// Sets the admin listener's address, which no name of an upstream may lead to.
    #[must_use]
    pub fn with_admin_address(self, admin: Option<SocketAddr>) -> Self {
        Gateway { admin, ..self }
    }

    fn judge(
        &self,
        snapshot: Arc<PinnedSnapshot>,
        watch: Arc<ExchangeState>,
        head: &RequestHead<'_>,
        peer: ConnectionPeer,
    ) -> RequestState {
        watch.mark_seen();
        let _lost = LostIfPanicked(&self.metrics);
        let timer = &self.metrics.decisions;
        let pinned =
            PinnedJudgement::new(snapshot, |snapshot| timer.time(|| judge::judge(snapshot, head, TenantRule::decide)));
        context::note_origin(&self.metrics, pinned.judgement(), head.known.origin);
        let request_id = RequestId::of(&head.known, peer);
        let judgement = pinned.judgement();
        context::note_denial(&self.metrics, pinned.snapshot().generation, judgement, head, &request_id);
        let is_traced = trace_context::trace_id(head.known.traceparent).is_some();
        RequestState { pinned, peer, scheme: head.scheme, request_id, is_traced, watch }
    }

    /// Counts and logs a request at its end, with the status that was sent.
    fn conclude(
        &self,
        context: &mut RequestContext,
        received: &ReceivedHead<'_>,
        status: Option<StatusCode>,
        error: Option<&Error>,
    ) {
        let took = context.took();
        context.count(status.map(|status| sent_response(status, context)), took);
        context.place = None;
        if let Some(request) = &context.request {
            let ended = match request.watch.end() {
                Some(expired) => early_close(expired),
                None => error.filter(|error| upstream::is_client_gone(error)).map(|_| EarlyClose::ClientGone),
            };
            if let Some(reason) = ended {
                self.metrics.connections.count_early_close(reason);
            }
            if log_request::is_wanted(request.snapshot(), request.judgement()) {
                self.log(received, context, request, status, took);
            }
        }
    }

    fn log(
        &self,
        received: &ReceivedHead<'_>,
        context: &RequestContext,
        request: &RequestState,
        status: Option<StatusCode>,
        took: Duration,
    ) {
        let (duration, error) = (context.upstream_duration, context.upstream_error);
        let finished = CompletedRequest {
            version: received.version,
            head: head_view(received, request.peer, &request.watch),
            peer: request.peer,
            request_id: &request.request_id,
            snapshot: request.snapshot(),
            judgement: request.judgement(),
            took,
            status,
            is_abandoned: status.is_none() && request.watch.end().is_none(),
            upstream: (context.attempts > 0).then_some(UpstreamOutcome { duration, error }),
            upstream_flaw: context.upstream_flaw.as_ref(),
            upstream_refusal: context.upstream_refusal,
        };
        log_request::write(&self.log, &finished);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Who speaks on a connection that this listener accepted.
    fn peer(&self, address: Option<SocketAddr>, listener: usize) -> ConnectionPeer {
        let address = address.map(|peer| peer.ip());
        let listener = self.listeners.get(listener);
        let is_trusted = address.zip(listener).is_some_and(|(address, listener)| listener.trusts(address));
        ConnectionPeer { address, is_trusted }
    }
}

fn head_view<'a>(received: &ReceivedHead<'a>, peer: ConnectionPeer, watch: &'a ExchangeState) -> RequestHead<'a> {
    let ReceivedHead { method, target, fields, known, .. } = *received;
    let head = RequestHead::with_known(method.as_str().as_bytes(), target, fields, known, peer);
    head.with_certificate(watch.certificate())
}

/// The policy's side of a request, once it is judged.
fn judged(context: &RequestContext) -> Option<(&RequestState, &PolicyMatch<'_>)> {
    let request = context.request.as_ref()?;
    match request.judgement() {
        Judgement::Judged(judged) => Some((request, judged)),
        Judgement::Refused(_) => None,
    }
}

fn internal(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, what)
}

/// The answer for the counters. What no hook has seen pass or has written is Pingora's own, and so
/// the gateway's.
fn sent_response(status: StatusCode, context: &RequestContext) -> SentResponse {
    context.response.filter(|response| response.status == status).unwrap_or(SentResponse::by_gateway(status))
}

/// The limit of the client's that an exchange hit, for the count of connections ended early; other
/// ends are counted as what they are answered with.
fn early_close(expired: ExchangeEnd) -> Option<EarlyClose> {
    match expired {
        ExchangeEnd::Body => Some(EarlyClose::SlowBody),
        ExchangeEnd::Idle => Some(EarlyClose::ExchangeIdle),
        ExchangeEnd::Write => Some(EarlyClose::WriteStall),
        ExchangeEnd::Head | ExchangeEnd::Malformed | ExchangeEnd::GoingAway | ExchangeEnd::Unopened => None,
    }
}
