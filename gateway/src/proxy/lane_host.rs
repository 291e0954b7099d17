//! The lane's interface to the gateway: the limits in force, the answers of the lane, and counting.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{StatusCode, Version};
use pingora::http::RequestHeader;

use super::Gateway;
use super::context;
use super::direct::{self, DirectUpstream};
use super::preflight_timer::PreflightTimer;
use crate::counters::SentResponse;
use crate::denials::DenialLabels;
use crate::judge::{self, Judgement, PolicyMatch, RequestAction};
use crate::log_request::{self, CompletedRequest};
use crate::metrics::{CheckResult, ConnectionLimits, EarlyClose, HandshakeEnd, PanicPlace, ProxyHeaderFault};
use crate::proxy::context::LostIfPanicked;
use crate::request_head::RequestHead;
use crate::respond;
use crate::respond::AnswerContext;
use crate::route::Route;
use crate::verdicts::TenantRule;
use crossgate_config::{Limits, Mode};
use crossgate_message::fields::{HeaderFields, KnownHeaders};
use crossgate_message::forwarded::{ConnectionPeer, RequestId};
use crossgate_message::health_path::HealthPath;
use crossgate_message::received_head::ReceivedHead;
use crossgate_wire::exchange::direct::{ExchangeStart, UploadFraming};
use crossgate_wire::exchange::state::{ExchangeLimits, ExchangeState};
use crossgate_wire::exchange::{
    ClientIdentity, ConnectionPersistence, EdgeAnswer, ExchangeHost, HeadLimits, Http2Limits, LaneLimits, write_answer,
};
use crossgate_wire::lane::preflight::Preflight;
use crossgate_wire::lane::{Answered, LaneHost};
use crossgate_wire::proxy_protocol::ConnectionStart;
use crossgate_wire::refusal::HeadRefusal;
use crossgate_wire::tls::Terminator;

impl ExchangeHost for Gateway {
    type Upstream = DirectUpstream;

    fn begin(
        self: &Arc<Self>,
        request: &ReceivedHead<'_>,
        framing: UploadFraming,
        state: &Arc<ExchangeState>,
    ) -> ExchangeStart<DirectUpstream> {
        direct::begin(self, request, framing, state)
    }

    fn is_draining(&self) -> bool {
        self.is_draining()
    }

    fn limits(&self) -> LaneLimits {
        let snapshot = self.snapshot.load();
        let limits = &snapshot.settings.limits;
        LaneLimits {
            tls_handshake: limits.tls_handshake,
            head: head_limits(limits),
            exchange: ExchangeLimits {
                body_grace: limits.min_body_rate_after,
                body_rate_min: limits.min_body_rate,
                write_stall: limits.write_stall,
                drain_bytes: limits.drain_bytes as u64,
                drain_time: limits.drain_time,
            },
            requests: u64::from(limits.keep_alive_requests),
            http2: Http2Limits { streams: limits.http2_streams, idle: limits.http2_idle },
            connections: ConnectionLimits {
                all: limits.max_connections.map_or(u64::MAX, u64::from).min(self.descriptors.clients),
                of_client: limits.max_connections_per_client,
            },
        }
    }

    fn health_path(&self, listener: usize) -> Option<&HealthPath> {
        Some(&self.listeners.get(listener)?.health_path.as_ref()?.value)
    }

    fn answer_health_check(&self, method: &[u8]) -> EdgeAnswer {
        // Not `self.draining`, which is set after a hand-over too: the process that took the
        // sockets over is well.
        let result = if self.metrics.draining.load(Relaxed) { CheckResult::Failed } else { CheckResult::Passed };
        self.metrics.connections.count_health_check(result);
        let request_id = RequestId::random();
        respond::health_check(result, method, self.answer_context(&request_id))
    }

    fn answer_preflight(
        &self,
        head: &RequestHeader,
        known: &KnownHeaders<'_>,
        client: &ClientIdentity,
    ) -> Option<EdgeAnswer> {
        let received = ReceivedPreflight {
            version: Version::HTTP_2,
            target: head.raw_path(),
            fields: (&head.headers).into(),
            known: *known,
        };
        let mut made = None;
        answer_preflight(self, &received, client, |judgement, head, context| {
            let answer = respond::answer(judgement, head, context)?;
            Some(made.insert(answer).status)
        })?;
        made
    }

    fn refusal(&self, refusal: &HeadRefusal, peer: Option<SocketAddr>) -> EdgeAnswer {
        let request_id = self.note_refusal(refusal, peer, Some(Version::HTTP_2));
        respond::refusal(refusal, self.answer_context(&request_id))
    }

    fn count_early_close(&self, reason: EarlyClose) {
        self.metrics.connections.count_early_close(reason);
    }

    fn count_panic(&self, place: PanicPlace) {
        self.metrics.panics.count(place);
    }

    fn count_unseen_refusal(&self) {
        self.metrics.count_refused(StatusCode::BAD_REQUEST.as_u16());
    }
}

impl LaneHost for Gateway {
    fn terminator(&self, listener: usize) -> Option<Arc<Terminator>> {
        self.snapshot.load().terminator(listener).map(Arc::clone)
    }

    fn answer(&self, preflight: &Preflight<'_>, client: &ClientIdentity, out: &mut Vec<u8>) -> Answered {
        let received = ReceivedPreflight {
            version: Version::HTTP_11,
            target: preflight.target,
            fields: HeaderFields::Lines(preflight.fields),
            known: preflight.noted,
        };
        let answered = answer_preflight(self, &received, client, |judgement, head, context| {
            write_preflight_answer(judgement, head, context, preflight.persistence, out)
        });
        answered.map_or(Answered::Not, |()| Answered::Here)
    }

    fn lone_client(&self, client: &ClientIdentity) -> Option<IpAddr> {
        let ConnectionPeer { address, is_trusted } = self.peer(client.address, client.listener);
        address.filter(|_| !is_trusted)
    }

    fn entry(&self, peer: &ClientIdentity) -> ConnectionStart {
        let Some(balancers) = self.listeners.get(peer.listener).and_then(|listener| listener.proxy_protocol.as_ref())
        else {
            return ConnectionStart::Client;
        };
        let is_balancer = peer.address.is_some_and(|address| balancers.include(address.ip()));
        if is_balancer { ConnectionStart::Header } else { ConnectionStart::Closed }
    }

    fn count_proxy_header_fault(&self, reason: ProxyHeaderFault) {
        self.metrics.connections.count_proxy_header_fault(reason);
    }

    fn refuse(&self, refusal: &HeadRefusal, peer: Option<SocketAddr>) -> Vec<u8> {
        let request_id = self.note_refusal(refusal, peer, None);
        respond::refusal_bytes(refusal, self.answer_context(&request_id))
    }

    fn handshake_over(&self, end: HandshakeEnd, client: &ClientIdentity, host: Option<&str>) {
        self.metrics.tls.count_handshake(end);
        // Scanners and lost clients cause most of the others, and the operator cannot fix those.
        let is_a_matter_of_setup = match end {
            HandshakeEnd::UnknownName | HandshakeEnd::Rejected | HandshakeEnd::Incompatible | HandshakeEnd::Failed => {
                true
            }
            HandshakeEnd::Success
            | HandshakeEnd::PlainHttp
            | HandshakeEnd::Malformed
            | HandshakeEnd::Timeout
            | HandshakeEnd::ClientGone => false,
        };
        if is_a_matter_of_setup && self.complaints.passes() {
            let client = client.address.map(|address| tracing::field::display(address.ip()));
            tracing::info!(host, client, result = end.as_str(), "a TLS handshake failed");
        }
    }
}

impl Gateway {
    fn answer_context<'a>(&self, request_id: &'a str) -> AnswerContext<'a> {
        let proxy_status = self.snapshot.load().settings.proxy_status;
        AnswerContext { request_id, proxy_status, ..AnswerContext::default() }
    }

    /// Counts and logs a head that is refused; its id.
    fn note_refusal(&self, refusal: &HeadRefusal, peer: Option<SocketAddr>, version: Option<Version>) -> RequestId {
        self.metrics.count_refused(refusal.status.as_u16());
        let request_id = RequestId::random();
        let client = peer.map(|peer| peer.ip());
        let snapshot = self.snapshot.load();
        let labels = DenialLabels { request_id: &request_id, generation: snapshot.generation };
        self.metrics.denials.record_refusal(self.metrics.no_tenant(), refusal, labels);
        log_request::write_refused(&self.log, &snapshot, refusal, &request_id, client, version);
        request_id
    }
}

/// A preflight, as either HTTP version received it.
struct ReceivedPreflight<'a> {
    version: Version,
    target: &'a [u8],
    fields: HeaderFields<'a>,
    known: KnownHeaders<'a>,
}

/// Judges a preflight, makes its answer, counts and logs it; all as for one that comes through the
/// hooks. `make` returns the answer's status. `None` where the proxy is to have the request.
fn answer_preflight(
    gateway: &Gateway,
    preflight: &ReceivedPreflight<'_>,
    client: &ClientIdentity,
    make: impl FnOnce(&Judgement<'_>, &RequestHead<'_>, AnswerContext<'_>) -> Option<StatusCode>,
) -> Option<()> {
    let peer = gateway.peer(client.address, client.listener);
    let head = RequestHead::with_known(b"OPTIONS", preflight.target, preflight.fields, preflight.known, peer);
    let head = head.with_certificate(client.shown.as_deref());
    let snapshot = gateway.snapshot.load();
    let lost = LostIfPanicked(&gateway.metrics);
    let mut timer = PreflightTimer::start(log_request::is_on(&snapshot));
    let enforced = |route: &Route| match route.mode {
        Mode::Enforce => {
            if route.rule.is_some() {
                timer.need();
            }
            Ok(())
        }
        Mode::Report => Err(()),
    };
    let judge = || judge::judge_unless(&snapshot, &head, enforced, TenantRule::decide);
    let judgement = gateway.metrics.decisions.time(judge).ok()?;
    #[cfg(test)]
    crate::fault::panic_at("answering", preflight.target);
    let is_logged = log_request::is_wanted(&snapshot, &judgement);
    // The answer to an allowed preflight does not contain it.
    let needs_id = is_logged || allowed_preflight(&judgement).is_none();
    let request_id = if needs_id { RequestId::of(&head.known, peer) } else { RequestId::default() };
    let proxy_status = snapshot.settings.proxy_status;
    let context = AnswerContext { request_id: &request_id, proxy_status, ..AnswerContext::default() };
    let status = make(&judgement, &head, context)?;
    let took = timer.took(is_logged);
    // From here on it is counted by its verdict.
    drop(lost);
    context::note_origin(&gateway.metrics, &judgement, head.known.origin);
    if allowed_preflight(&judgement).is_none() {
        context::note_denial(&gateway.metrics, snapshot.generation, &judgement, &head, &request_id);
    }
    // The count comes after the records, so that a reader who sees it finds them.
    context::count(&gateway.metrics, &judgement, Some(SentResponse::by_gateway(status)), took);
    if is_logged {
        let finished = CompletedRequest {
            version: preflight.version,
            head,
            peer,
            request_id: &request_id,
            snapshot: &snapshot,
            judgement: &judgement,
            took,
            status: Some(status),
            is_abandoned: false,
            upstream: None,
            upstream_flaw: None,
            upstream_refusal: None,
        };
        log_request::write(&gateway.log, &finished);
    }
    Some(())
}

fn allowed_preflight<'j, 'm>(judgement: &'j Judgement<'m>) -> Option<&'j PolicyMatch<'m>> {
    match judgement {
        Judgement::Judged(judged) if judged.action == RequestAction::AnswerPreflight => Some(judged),
        Judgement::Judged(_) | Judgement::Refused(_) => None,
    }
}

/// Writes the answer to a preflight and returns its status; `None` if the proxy answers.
fn write_preflight_answer(
    judgement: &Judgement<'_>,
    head: &RequestHead<'_>,
    context: AnswerContext<'_>,
    persistence: ConnectionPersistence,
    out: &mut Vec<u8>,
) -> Option<StatusCode> {
    if let Some(judged) = allowed_preflight(judgement) {
        respond::write_preflight(judged, head, persistence, context.proxy_status, out);
        return Some(StatusCode::NO_CONTENT);
    }
    let answer = respond::answer(judgement, head, context)?;
    write_answer(&answer, persistence, out);
    Some(answer.status)
}

/// The bounds on a request head that the configuration sets.
pub(crate) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        time: limits.head,
        idle: limits.keep_alive_idle,
        bytes: limits.head_bytes,
        field_bytes: limits.head_field_bytes,
        fields: limits.head_fields as usize,
    }
}
