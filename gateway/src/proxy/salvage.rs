//! The end of an exchange that is dropped because a server of HTTP/2 took no more of an upload.
//!
//! Pingora calls no hook for it. What the answer and the log line need is kept with the request,
//! for uploads to such servers alone, and used when the request's context is dropped: the answer is
//! left with the client's side, which is dropped after it.

use std::sync::Arc;

use http::StatusCode;
use pingora::http::RequestHeader;

use super::attempts::note_given_up;
use super::{head_view, judged};
use crate::access_log::AccessLog;
use crate::counters::SentResponse;
use crate::log_request::{self, CompletedRequest, UpstreamOutcome};
use crate::metrics::UpstreamError;
use crate::proxy::context::RequestContext;
use crate::respond::{self, AnswerContext};
use crossgate_message::received_head::ReceivedHead;
use crossgate_wire::exchange::state::{AbandonCause, ExchangePhase};

/// What is kept of a request.
pub(crate) struct Salvage {
    pub(super) head: RequestHeader,
    pub(super) log: Arc<AccessLog>,
}

impl Salvage {
    /// Answers, counts and logs the request, if its exchange was dropped for a reason that this is
    /// for.
    pub(crate) fn conclude(&self, context: &mut RequestContext) {
        let watch = context.request.as_ref().map(|request| Arc::clone(&request.watch));
        let Some(abandoned) = watch.as_ref().and_then(|watch| watch.abandoned()) else { return };
        let is_unanswered = watch.is_some_and(|watch| watch.phase() == ExchangePhase::Request);
        let (status, kind) = match abandoned {
            AbandonCause::ClientGone => (None, None),
            AbandonCause::Overdue if is_unanswered => {
                (Some(StatusCode::GATEWAY_TIMEOUT), Some(UpstreamError::HeadTimeout))
            }
            AbandonCause::Overdue => (None, Some(UpstreamError::IdleTimeout)),
            AbandonCause::Unopened => (Some(StatusCode::SERVICE_UNAVAILABLE), Some(UpstreamError::StreamLimit)),
        };
        if let Some(kind) = kind {
            note_given_up(context, kind);
        }
        if let (Some(status), Some((request, judged))) = (status, judged(context)) {
            let received = ReceivedHead::from(&self.head);
            let head = head_view(&received, request.peer, &request.watch);
            let snapshot = request.snapshot();
            let answer_context = AnswerContext {
                request_id: &request.request_id,
                proxy_status: snapshot.settings.proxy_status,
                fault: context.upstream_fault(),
            };
            request.watch.leave_answer(respond::error(status, judged, &head, answer_context));
        }
        let took = context.took();
        context.count(status.map(SentResponse::by_gateway).or(context.response), took);
        self.write_log(context, status);
    }

    fn write_log(&self, context: &RequestContext, status: Option<StatusCode>) {
        let Some(request) = &context.request else { return };
        if !log_request::is_wanted(request.snapshot(), request.judgement()) {
            return;
        }
        let (duration, error) = (context.upstream_duration, context.upstream_error);
        log_request::write(
            &self.log,
            &CompletedRequest {
                version: self.head.version,
                head: head_view(&ReceivedHead::from(&self.head), request.peer, &request.watch),
                peer: request.peer,
                request_id: &request.request_id,
                snapshot: request.snapshot(),
                judgement: request.judgement(),
                took: context.took(),
                status,
                is_abandoned: status.is_none() && request.watch.abandoned() == Some(AbandonCause::ClientGone),
                upstream: (context.attempts > 0).then_some(UpstreamOutcome { duration, error }),
                upstream_flaw: context.upstream_flaw.as_ref(),
                upstream_refusal: context.upstream_refusal,
            },
        );
    }
}
