//! The attempts of one request at its upstream: the server of each, what a failure means, and what
//! is counted. Both engines call these functions, so retries and counters are the same.

use std::time::Duration;

use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::context::{AttemptTarget, RequestContext};
use super::{Gateway, admission, head_view, internal, judged};
use crate::counters::SentResponse;
use crate::judge::PolicyMatch;
use crate::metrics::{UpstreamError, UpstreamRefusal};
use crate::respond::{self, AnswerContext};
use crate::servers::PickedServer;
use crate::upstream::{self, Failure, Upstream};
use crossgate_config::model::BodyMax;
use crossgate_config::own_sockets;
use crossgate_message::forwarded;
use crossgate_message::received_head::ReceivedHead;
use crossgate_wire::exchange::EdgeAnswer;
use crossgate_wire::exchange::state::{ExchangePhase, ExchangeState};

/// How often the servers of one request may turn out to speak another HTTP than they were known to.
pub(super) const NEGOTIATIONS_MAX: u32 = 3;

impl Gateway {
    /// The server for the next attempt of a request.
    pub(super) fn next_server(&self, context: &mut RequestContext) -> Result<AttemptTarget> {
        let (_, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        let upstream = judged.upstream().ok_or_else(|| internal("no upstream"))?;
        let turn = context.turn.unwrap_or_else(|| upstream.draw_turn());
        let Some(server) = upstream.server(turn, context.attempts, context.server) else {
            return Err(admission::refuse(context, UpstreamRefusal::NoAddress));
        };
        if self.admin.is_some_and(|admin| own_sockets::reaches(admin, server.address)) {
            return Err(admission::refuse(context, UpstreamRefusal::OwnAdmin));
        }
        if upstream.tls.is_some() && upstream.servers.pauses_handshakes(server) {
            context.upstream_error = Some(UpstreamError::TlsHandshake);
            let what = "handshakes with this server keep failing";
            return Err(Error::explain(ErrorType::TLSHandshakeFailure, what).into_up());
        }
        Ok(AttemptTarget { turn, server })
    }
}

/// Refuses a request that has passed this gateway before.
pub(super) fn refuse_loop(received: &ReceivedHead<'_>, context: &mut RequestContext) -> Result<()> {
    if received.known.has_cdn_loop && forwarded::is_loop(received.fields) {
        return Err(admission::refuse(context, UpstreamRefusal::Loop));
    }
    Ok(())
}

/// Counts data of a request's body.
pub(super) fn count_body(context: &mut RequestContext, len: usize) -> Result<()> {
    context.body_len += len as u64;
    let max = context.request.as_ref().map(|request| request.snapshot().settings.limits.max_request_body);
    match max {
        Some(BodyMax::Bytes(max)) if context.body_len > max => {
            Err(Error::explain(ErrorType::HTTPStatus(413), "request body too large").into_down())
        }
        Some(BodyMax::Bytes(_) | BodyMax::Unlimited) | None => Ok(()),
    }
}

/// Records the final response of an upstream.
pub(super) fn note_final(context: &mut RequestContext, status: StatusCode, lasts: bool) {
    let took = context.upstream_began.map(|began| began.elapsed());
    if let Some((_, judged)) = judged(context) {
        note_answer(judged, context.server, status, took);
    }
    context.upstream_duration = took.or(context.upstream_duration);
    context.took_to_head = lasts.then(|| context.took());
    context.response = Some(SentResponse::by_upstream(status));
}

/// From here on silence is judged as a pause in a body, not as a missing head. Whether the answer
/// lasts as long as the client wants.
pub(super) fn enter_response(
    watch: &ExchangeState,
    judged: &PolicyMatch<'_>,
    status: StatusCode,
    content_type: Option<&[u8]>,
) -> bool {
    let upgraded = status == StatusCode::SWITCHING_PROTOCOLS;
    let is_stream = |value: &[u8]| {
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    let long = upgraded || content_type.is_some_and(is_stream);
    if let (true, Some(upstream)) = (long, judged.upstream()) {
        watch.set_idle(upstream.timeouts.upgraded_idle);
    }
    watch.enter(if upgraded { ExchangePhase::Upgraded } else { ExchangePhase::Streaming });
    long
}

/// The gateway's own answer to a request whose exchange failed before the final response. `None` if
/// the client has gone.
pub(super) fn error_answer(context: &RequestContext, received: &ReceivedHead<'_>, error: &Error) -> Option<EdgeAnswer> {
    let (request, judged) = judged(context)?;
    let status = upstream::status(error, &request.watch)?;
    let head = head_view(received, request.peer, &request.watch);
    let proxy_status = request.snapshot().settings.proxy_status;
    let answer_context =
        AnswerContext { request_id: &request.request_id, proxy_status, fault: context.upstream_fault() };
    Some(respond::error(status, judged, &head, answer_context))
}

/// Records a failure to connect; whether another attempt follows.
pub(super) fn retries_connecting(context: &mut RequestContext, error: &Error) -> bool {
    let failure = failure(context, |watch| Failure::to_connect(error, watch));
    let is_free = failure.is_some_and(|failure| failure.is_free());
    failure.into_iter().for_each(|failure| note(context, &failure));
    // Nothing was sent, so any request may be tried again.
    has_attempts(context) && (is_free || has_budget(context))
}

/// What is known of an attempt that failed on its connection.
#[derive(Clone, Copy)]
pub(super) struct FailedAttempt {
    /// The connection has served an earlier request.
    pub(super) is_reused: bool,
    /// The client has no final response, and the gateway still has the whole request.
    pub(super) is_repeatable: bool,
    pub(super) is_idempotent: bool,
}

/// Records a failed attempt; whether another one follows.
pub(super) fn retries(context: &mut RequestContext, error: &Error, attempt: FailedAttempt) -> bool {
    let failure = failure(context, |watch| Failure::of(error, watch, attempt.is_reused));
    let is_free = failure.is_some_and(|failure| failure.is_free());
    let unbegun = failure.is_some_and(|failure| failure.is_unprocessed());
    let is_unopened = failure.is_some_and(|failure| failure.is_unopened());
    let lasts = failure.is_some_and(|failure| failure.is_lasting());
    failure.into_iter().for_each(|failure| note(context, &failure));
    let is_harmless = unbegun || attempt.is_idempotent;
    // The client's side detects that a request was not sent; see
    // `ExchangeTimeouts::poll_response`.
    let is_upstreams = *error.esource() == ErrorSource::Upstream || is_unopened;
    let failed_there = is_upstreams && !lasts;
    let may_retry = attempt.is_repeatable && is_harmless && failed_there && has_attempts(context);
    // The end of an idle connection is not a failure of the server.
    may_retry && (is_free || has_budget(context))
}

/// The server takes another HTTP than it was asked in: the next attempt asks in that one. Such an
/// attempt does not count as failed.
pub(super) fn negotiated(context: &mut RequestContext, speaks_http2: bool, mut error: Box<Error>) -> Box<Error> {
    context.negotiations += 1;
    if let (Some(upstream), Some(server)) = (upstream_of(context), context.server) {
        upstream.servers.set_http2(server, speaks_http2);
    }
    context.attempts = context.attempts.saturating_sub(1);
    context.server = None;
    error.set_retry(context.negotiations <= NEGOTIATIONS_MAX);
    error
}

/// What a failed attempt says, if it is about the upstream.
pub(super) fn failure<'e>(
    context: &RequestContext,
    of: impl FnOnce(&ExchangeState) -> Option<Failure<'e>>,
) -> Option<Failure<'e>> {
    judged(context).and_then(|(request, _)| of(&request.watch))
}

/// Counts a failed attempt. The end of an idle connection is not a failure of its server.
pub(super) fn note(context: &mut RequestContext, failure: &Failure<'_>) {
    if let (Some(upstream), Some(server)) = (upstream_of(context), context.server) {
        upstream.counters.count_error(failure.kind);
        if (failure.is_silence() || failure.is_unopened())
            && context.request.as_ref().is_some_and(|request| request.watch.is_over_http2())
        {
            upstream.retire_connections();
        }
        if !failure.is_stale() {
            upstream.servers.failed(server);
        }
        if failure.is_of_tls() {
            upstream.servers.note_handshake(server, false);
        }
        if let Some(error) = failure.tls_complaint().filter(|_| upstream.complaints.passes()) {
            let (upstream, server) = (&*upstream.name, server.address);
            tracing::warn!(upstream, %server, error, "no connection over TLS to this server");
        }
    }
    // Others that were kept may have ended too.
    context.needs_new_connection |= failure.is_stale();
    context.upstream_error = Some(failure.kind);
    // What a hook has found is not in the error.
    let flaw = failure.head_flaw();
    context.upstream_flaw = context.upstream_flaw.take().filter(|_| failure.is_lasting()).or(flaw);
}

/// Counts an answer of a server to a request that `took` so long until its head.
pub(super) fn note_answer(
    judged: &PolicyMatch<'_>,
    server: Option<PickedServer>,
    status: StatusCode,
    took: Option<Duration>,
) {
    let Some(upstream) = judged.upstream() else { return };
    if let Some(server) = server {
        if upstream.tls.is_some() {
            upstream.servers.note_handshake(server, true);
        }
        match upstream::is_failure(status) {
            true => upstream.servers.failed(server),
            false => upstream.servers.succeeded(server),
        }
    }
    if let Some(took) = took {
        upstream.counters.duration.observe(took);
    }
}

/// Counts an attempt over HTTP/2 that was given up. A server that allows no further request on a
/// connection has not failed.
pub(super) fn note_given_up(context: &mut RequestContext, kind: UpstreamError) {
    if let (Some(upstream), Some(server)) = (upstream_of(context), context.server) {
        upstream.counters.count_error(kind);
        upstream.retire_connections();
        if kind != UpstreamError::StreamLimit {
            upstream.servers.failed(server);
        }
    }
    context.upstream_error = Some(kind);
}

pub(super) fn has_attempts(context: &RequestContext) -> bool {
    upstream_of(context).is_some_and(|upstream| context.attempts < upstream.attempts)
}

pub(super) fn has_budget(context: &RequestContext) -> bool {
    upstream_of(context).is_some_and(Upstream::may_retry)
}

pub(super) fn upstream_of(context: &RequestContext) -> Option<&Upstream> {
    judged(context).and_then(|(_, judged)| judged.upstream())
}
