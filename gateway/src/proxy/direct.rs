//! The gateway's side of direct exchanges: judging, servers, heads, retries and accounting.
//!
//! Every step is the one that the hooks take for a request that Pingora's proxy serves.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use pingora::{Error, ErrorSource, Result};

use super::admission::{self, AdmissionOutcome};
use super::attempts::{
    FailedAttempt, count_body, enter_response, error_answer, has_attempts, negotiated, note_final, refuse_loop,
    retries, retries_connecting,
};
use super::context::RequestContext;
use super::edge::{answer_at_edge, body_may_be_drained};
use super::fields::{UpstreamResponse, upstream_request};
use super::{Gateway, head_view, internal, judged};
#[cfg(test)]
use crate::fault;
use crate::metrics::ExchangePath;
use crate::upstream::{self, DirectConnection, Wanted};
use crossgate_config::model::Protocol;
use crossgate_message::field_sink::FieldSink;
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::response_head::ResponseHead;
use crossgate_wire::exchange::begin_request_head;
use crossgate_wire::exchange::direct::{
    AfterFailure, AttemptFailure, AttemptStage, ConnectionReuse, ExchangeStart, ServerStream as _, UploadFraming,
    UpstreamSide,
};
use crossgate_wire::exchange::state::ExchangeState;

/// One request on its way to an upstream.
pub struct DirectUpstream {
    gateway: Arc<Gateway>,
    context: RequestContext,
    framing: UploadFraming,
    /// A server was picked, and is connected to.
    is_connecting: bool,
}

/// Judges a request for the direct exchange.
pub(super) fn begin(
    gateway: &Arc<Gateway>,
    received: &ReceivedHead<'_>,
    framing: UploadFraming,
    state: &Arc<ExchangeState>,
) -> ExchangeStart<DirectUpstream> {
    let peer = gateway.peer(state.peer(), state.listener());
    let head = head_view(received, peer, state);
    let mut context = RequestContext::default();
    context.began = Some(Instant::now());
    let request = context.begin(gateway.judge(gateway.snapshot.pin(), Arc::clone(state), &head, peer));
    #[cfg(test)]
    fault::panic_at("request-filter", received.target);
    if received.expects_continue() {
        state.expect_continue();
    }
    let limits = request.snapshot().settings.limits;
    let answer = answer_at_edge(request.snapshot(), request.judgement(), &head, &request.request_id);
    let speaks_http2 = judged(&context)
        .and_then(|(_, judged)| judged.upstream())
        .is_some_and(|upstream| upstream.protocol == Protocol::Http2);
    if answer.is_none() && speaks_http2 {
        state.decline(Box::new(context));
        return ExchangeStart::Declined;
    }
    let closes = !body_may_be_drained(&head.known, &limits);
    let upstream = DirectUpstream { gateway: Arc::clone(gateway), context, framing, is_connecting: false };
    match answer {
        Some(answer) => ExchangeStart::Answered { answer, closes, upstream },
        None => ExchangeStart::Direct(upstream),
    }
}

impl DirectUpstream {
    /// Writes the head for the server, once for all attempts.
    fn write_head(&self, received: &ReceivedHead<'_>, head: &mut Vec<u8>) -> Result<()> {
        let (request, judged) = judged(&self.context).ok_or_else(|| internal("not judged"))?;
        let target = judged.rewritten.as_ref().map_or(received.target, |target| target.as_bytes());
        begin_request_head(received.method.as_str(), target, head);
        upstream_request(received, request, judged).write(head);
        head.extend_from_slice(match self.framing {
            UploadFraming::NoBody | UploadFraming::Length => b"\r\n",
            UploadFraming::Chunked => b"transfer-encoding: chunked\r\n\r\n",
        });
        Ok(())
    }

    /// Leaves the request to Pingora's proxy, with what was found of it.
    fn decline(&mut self) -> AfterFailure {
        let context = std::mem::take(&mut self.context);
        if let Some(state) = context.request.as_ref().map(|request| Arc::clone(&request.watch)) {
            state.decline(Box::new(context));
        }
        AfterFailure::Decline
    }
}

impl UpstreamSide for DirectUpstream {
    type Server = DirectConnection;

    async fn connect(
        &mut self,
        received: &ReceivedHead<'_>,
        head: &mut Vec<u8>,
        may_decline: bool,
    ) -> Result<DirectConnection> {
        self.is_connecting = false;
        refuse_loop(received, &mut self.context)?;
        if let AdmissionOutcome::Later(queue) = admission::enter(&mut self.context) {
            // Boxed, so that requests which need not wait are no larger for it.
            Box::pin(admission::wait_unwatched(&mut self.context, queue)).await?;
        }
        let now = Instant::now();
        let target = self.gateway.next_server(&mut self.context)?;
        if head.is_empty() {
            #[cfg(test)]
            fault::panic_at("upstream-request-filter", received.target);
            self.write_head(received, head)?;
        }
        let (request, judged) = judged(&self.context).ok_or_else(|| internal("not judged"))?;
        let upstream = judged.upstream().ok_or_else(|| internal("no upstream"))?;
        request.watch.begin_attempt(upstream.timeouts.head, upstream.timeouts.idle);
        let (connector, time) = (Arc::clone(&upstream.connector), upstream.timeouts.connect);
        let is_http1 = upstream.protocol == Protocol::Http1 || !may_decline;
        let wanted = Wanted { is_new: self.context.needs_new_connection, is_http1 };
        let is_http2 = !is_http1 && upstream.servers.is_http2(target.server);
        self.context.begin_attempt(target, now);
        self.is_connecting = true;
        if is_http2 {
            return Err(Error::new(upstream::CHOSE_HTTP2).into_up());
        }
        let connected = connector.connect(target.server.address, wanted, time, now.into()).await;
        if connected.as_ref().err().is_none_or(|error| *error.etype() != upstream::CHOSE_HTTP2) {
            self.context.count_path(ExchangePath::Direct);
        }
        connected
    }

    fn count_body(&mut self, len: usize) -> Result<()> {
        count_body(&mut self.context, len)
    }

    fn is_stale(&self, received: &ReceivedHead<'_>, server: &DirectConnection, head: &ResponseHead<'_>) -> bool {
        head.status == StatusCode::REQUEST_TIMEOUT
            && server.is_reused()
            && !head.keeps_connection()
            && received.method.is_idempotent()
            && has_attempts(&self.context)
    }

    fn respond(&mut self, received: &ReceivedHead<'_>, head: &ResponseHead<'_>, sink: &mut impl FieldSink) {
        #[cfg(test)]
        fault::panic_at("response-filter", received.target);
        let Some((request, judged)) = judged(&self.context) else { return };
        let view = head_view(received, request.peer, &request.watch);
        let status = head.status;
        let server = self.context.server.map(|server| server.address);
        UpstreamResponse { status, head: &view, request, judged, server }.write(head, sink);
        if !status.is_informational() {
            let lasts = enter_response(&request.watch, judged, status, head.content_type);
            note_final(&mut self.context, status, lasts);
        }
    }

    fn failed(&mut self, received: &ReceivedHead<'_>, failure: AttemptFailure) -> AfterFailure {
        let AttemptFailure { error, flaw, stage } = failure;
        let context = &mut self.context;
        if *error.etype() == upstream::CHOSE_HTTP2 {
            drop(negotiated(context, true, error));
            return self.decline();
        }
        context.upstream_flaw = flaw.or(context.upstream_flaw.take());
        let is_retried = match stage {
            // The client has gone, or there was no server to ask.
            AttemptStage::Connecting if *error.esource() != ErrorSource::Upstream || !self.is_connecting => false,
            AttemptStage::Connecting => retries_connecting(context, &error),
            AttemptStage::Waiting { is_reused, .. } | AttemptStage::Responding { is_reused } => {
                let is_repeatable = matches!(stage, AttemptStage::Waiting { is_repeatable: true, .. });
                let is_idempotent = received.method.is_idempotent();
                retries(context, &error, FailedAttempt { is_reused, is_repeatable, is_idempotent })
            }
        };
        if is_retried {
            return AfterFailure::Retry;
        }
        let is_answered = matches!(stage, AttemptStage::Responding { .. });
        match error_answer(context, received, &error).filter(|_| !is_answered) {
            Some(answer) => AfterFailure::Answer(answer, error),
            None => AfterFailure::End(error),
        }
    }

    fn is_draining(&self) -> bool {
        self.gateway.is_draining()
    }

    fn keep(&mut self, server: DirectConnection, reuse: ConnectionReuse) {
        let now = Instant::now();
        // The exchange ends here, but for its record.
        self.context.ended = Some(now);
        server.keep(reuse, now.into());
    }

    fn conclude(&mut self, received: &ReceivedHead<'_>, status: Option<StatusCode>, error: Option<&Error>) {
        #[cfg(test)]
        fault::panic_at("logging", received.target);
        self.gateway.conclude(&mut self.context, received, status, error);
    }
}
