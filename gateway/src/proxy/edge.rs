//! Answers that the gateway makes by itself, and what becomes of a request body that they leave
//! unread.

use http::StatusCode;
use pingora::Result;
use pingora::proxy::Session;

use crate::judge::Judgement;
use crate::request_head::RequestHead;
use crate::respond::{self, AnswerContext};
use crate::snapshot::Snapshot;
use crossgate_config::Limits;
use crossgate_config::model::BodyMax;
use crossgate_message::fields::{KnownHeaders, RequestField};
use crossgate_wire::exchange::EdgeAnswer;

/// Writes an answer made here.
pub(super) async fn write_answer(session: &mut Session, answer: EdgeAnswer) -> Result<()> {
    let EdgeAnswer { status, fields, body } = answer;
    let mut head = http::Response::new(()).into_parts().0;
    (head.status, head.headers) = (status, fields);
    let end = body.is_empty();
    session.write_response_header(Box::new(head.into()), end).await?;
    if !end {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// The answer to a judged head, if the upstream is not to be asked.
pub(crate) fn answer_at_edge(
    snapshot: &Snapshot,
    judgement: &Judgement<'_>,
    head: &RequestHead<'_>,
    request_id: &str,
) -> Option<EdgeAnswer> {
    let proxy_status = snapshot.settings.proxy_status;
    let context = AnswerContext { request_id, proxy_status, ..AnswerContext::default() };
    let answer = respond::answer(judgement, head, context);
    match judgement {
        Judgement::Judged(judged)
            if answer.is_none() && declared_too_large(&head.known, snapshot.settings.limits.max_request_body) =>
        {
            Some(respond::error(StatusCode::PAYLOAD_TOO_LARGE, judged, head, context))
        }
        Judgement::Judged(_) | Judgement::Refused(_) => answer,
    }
}

fn declared_len(known: &KnownHeaders<'_>) -> Option<u64> {
    match known.content_length {
        RequestField::One(length) => std::str::from_utf8(length).ok()?.parse().ok(),
        // A repeated one was refused.
        RequestField::Absent | RequestField::Many => None,
    }
}

fn declared_too_large(known: &KnownHeaders<'_>, max: BodyMax) -> bool {
    match max {
        BodyMax::Unlimited => false,
        BodyMax::Bytes(max) => declared_len(known).is_some_and(|len| len > max),
    }
}

/// Whether an unused body is small enough to be read to its end. A client that waits for
/// `100 Continue` may never send it.
pub(super) fn body_may_be_drained(known: &KnownHeaders<'_>, limits: &Limits) -> bool {
    let len = declared_len(known).unwrap_or(0);
    let opaque = known.transfer_encoding.is_present() || known.has_expect;
    !opaque && len <= limits.drain_bytes as u64
}
