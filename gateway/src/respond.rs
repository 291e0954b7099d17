//! The one writer of responses: what the gateway answers by itself, and the CORS fields of every answer.
//!
//! [`write_cors`] and, for the lane's bytes, [`write_preflight`] are the only places where `Access-Control-*` enters a response head:
//! whatever the upstream sent is removed by prefix, then comes what the policy engine renders for the verdict. Answers made here say why in
//! `application/problem+json` (RFC 9457), are never stored, and echo nothing of the request but its id.

use bytes::Bytes;
use crossgate_policy::{Edit, Kind, OwnOrigin, Reason, Request, Value, is_cors_response_field, missing_vary};
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;
use serde::Serialize;

use crate::fields::Named;
use crate::judge::{Action, HeadView, Judged, Judgement};
use crate::lane::head as lane_head;
use crate::lane::preflight::Persistence;

/// The field that carries the request's id.
pub const X_REQUEST_ID: &str = "x-request-id";

/// An answer made by the gateway.
pub struct Answer {
    /// Status and fields, but for what the connection adds (`Date`, `Connection`).
    pub header: ResponseHeader,
    /// Empty for 204 and for answers to HEAD.
    pub body: Bytes,
}

/// The body of an answer that is an error or a denial.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    #[serde(rename = "requestId")]
    request_id: &'a str,
}

/// The answer to a judged head, where the gateway answers by itself.
pub fn answer(judgement: &Judgement, head: &HeadView<'_>, request_id: &str) -> Option<Answer> {
    let judged = match judgement {
        Judgement::Refused(refusal) => {
            let problem = problem(refusal.status, refusal.detail, refusal.reason, request_id);
            return Some(finish(problem, head));
        }
        Judgement::Judged(judged) => judged,
    };
    match judged.action {
        Action::Forward | Action::Report => None,
        Action::AnswerPreflight => {
            let mut header = head_of(StatusCode::NO_CONTENT);
            write_cors(&mut header, judged, head);
            Some(Answer { header, body: Bytes::new() })
        }
        Action::Deny => Some(error(StatusCode::FORBIDDEN, judged, head, request_id)),
        Action::NotFound => Some(error(StatusCode::NOT_FOUND, judged, head, request_id)),
    }
}

/// An error answer to a request whose policy is known: a page that may read answers may read this one.
pub fn error(status: StatusCode, judged: &Judged, head: &HeadView<'_>, request_id: &str) -> Answer {
    let told = told_by_rule(judged, head).filter(|_| status == StatusCode::FORBIDDEN);
    let mut answer =
        problem(status, told.unwrap_or_else(|| detail(status, judged)), reason(status, judged), request_id);
    if is_readable(status) && judged.verdict.kind != Kind::Preflight {
        write_cors(&mut answer.header, judged, head);
    } else {
        write_vary(&mut answer.header, judged);
    }
    finish(answer, head)
}

/// What a denying rule says to the caller. A message made of the origin stays here, since no denial echoes one: it is in the log and
/// in `explain`.
fn told_by_rule<'j>(judged: &'j Judged, head: &HeadView<'_>) -> Option<&'j str> {
    let message = judged.rule_message().filter(|_| judged.verdict.reason == Reason::RuleDeny)?;
    let origin = std::str::from_utf8(head.headers.first(&ORIGIN)?).ok()?;
    (!message.contains(origin)).then_some(message)
}

/// 400, 405, 421, 431 and our 403 never carry CORS headers: they say nothing of the resource.
fn is_readable(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 400 | 403 | 405 | 408 | 421 | 431)
}

fn detail(status: StatusCode, judged: &Judged) -> &'static str {
    match status.as_u16() {
        400 => "the request body is not what its head announced",
        403 => denial_detail(judged),
        404 => "no route of this tenant has the path and method",
        408 => "the request body came too slowly",
        413 => "the request body is larger than allowed",
        502 => "the upstream gave no valid answer",
        503 => "the upstream cannot take the request",
        504 => "the upstream did not answer in time",
        _ => "the gateway failed",
    }
}

/// The verdict's reason where the verdict is why; else what failed.
fn reason(status: StatusCode, judged: &Judged) -> &'static str {
    match status.as_u16() {
        400 => "bad_request",
        403 | 404 => judged.reason().as_str(),
        408 => "body_too_slow",
        413 => "body_too_large",
        502 => "upstream_error",
        503 => "upstream_unavailable",
        504 => "upstream_timeout",
        _ => "internal_error",
    }
}

fn denial_detail(judged: &Judged) -> &'static str {
    use crossgate_policy::Reason as R;
    let any = judged.policy().is_some_and(|policy| !policy.depends_on_origin());
    match judged.verdict.reason {
        R::NoMatch if any => "`*` does not cover a WebSocket that carries cookies or Authorization",
        R::NoMatch => "the policy of this API does not allow the origin",
        R::NullOrigin => "the policy of this API does not allow the origin null",
        R::MalformedOrigin => "the Origin field is not one serialised origin",
        R::Method => "the policy of this API does not allow the requested method",
        R::Header => "the policy of this API does not allow a requested header",
        R::RuleDeny => "the rule of this API denies the origin",
        R::RuleError => "the rule of this API failed",
        R::UnknownHost | R::UnknownRoute => "no policy is known for the request",
        R::Exact | R::Wildcard | R::Regex | R::Rule | R::Any | R::SameOrigin | R::NonCors => {
            "the policy of this API does not allow the request"
        }
    }
}

/// Makes an upstream's final response head the gateway's: the CORS fields and the request's id. A policy that only reports changes
/// nothing.
///
/// # Errors
/// Where the id cannot be a field value; it is made or checked by [`crate::forwarded::request_id`], so it always can.
pub fn complete(
    header: &mut ResponseHeader,
    judged: &Judged,
    head: &HeadView<'_>,
    request_id: &str,
) -> pingora::Result<()> {
    if judged.action == Action::Report {
        return Ok(());
    }
    write_cors(header, judged, head);
    header.insert_header(X_REQUEST_ID, request_id)
}

/// Writes the CORS fields of a response head: removes every `Access-Control-*` of the upstream, adds the verdict's own, and
/// merges `Vary`. A policy that only reports changes nothing.
pub fn write_cors(header: &mut ResponseHeader, judged: &Judged, head: &HeadView<'_>) {
    strip_cors(header, judged);
    if judged.action == Action::Report {
        return;
    }
    let Some(policy) = judged.policy() else { return };
    with_quoted(judged, head, |request| {
        for Edit { name, value } in policy.edits(&judged.verdict, request) {
            // A value that is no field value cannot come out of a valid policy or a parsed request.
            if let Some(value) = field_value(&value) {
                let _appended = header.append_header(name, value);
            }
        }
    });
    write_vary(header, judged);
}

/// Calls `then` with the part of a request that its answer may quote.
fn with_quoted<R>(judged: &Judged, head: &HeadView<'_>, then: impl FnOnce(&Request<'_>) -> R) -> R {
    let own = OwnOrigin { host: "", port: None, scheme: None };
    let lines = Named { fields: head.headers, name: ACCESS_CONTROL_REQUEST_HEADERS };
    let origin = head.headers.field(&ORIGIN);
    let quoted = Request { origin, requested_headers: &lines, ..Request::new(head.method, own) };
    if judged.verdict.kind != Kind::Preflight {
        return then(&quoted);
    }
    let requested_method = head.headers.field(&ACCESS_CONTROL_REQUEST_METHOD);
    then(&Request { requested_method, ..quoted })
}

fn field_value(value: &Value<'_>) -> Option<HeaderValue> {
    match value {
        Value::Rendered(value) => Some((*value).clone()),
        Value::Narrowed(value) => Some(value.clone()),
        Value::Request(bytes) => HeaderValue::from_bytes(bytes).ok(),
    }
}

/// Removes every `Access-Control-*` of the upstream from a response head: all there is to do for a 1xx, which no page reads.
pub fn strip_cors(header: &mut ResponseHeader, judged: &Judged) {
    if judged.action == Action::Report {
        return;
    }
    let is_cors = |name: &&HeaderName| is_cors_response_field(name.as_str().as_bytes());
    let names: Vec<HeaderName> = header.headers.keys().filter(is_cors).cloned().collect();
    for name in names {
        header.remove_header(&name);
    }
}

/// Removes the CORS fields from trailers, where nobody may look for them but somebody might.
pub fn strip_cors_trailers(trailers: &mut http::HeaderMap) {
    let is_cors = |name: &&HeaderName| is_cors_response_field(name.as_str().as_bytes());
    let names: Vec<HeaderName> = trailers.keys().filter(is_cors).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

fn write_vary(header: &mut ResponseHeader, judged: &Judged) {
    let Some(policy) = judged.policy() else { return };
    if judged.action == Action::Report {
        return;
    }
    let vary = policy.vary(judged.verdict.kind);
    let lines: Vec<&[u8]> = header.headers.get_all(VARY).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        if let Some(value) = policy.vary_value(judged.verdict.kind) {
            let _inserted = header.insert_header("vary", value.clone());
        }
        return;
    }
    let missing: Vec<&str> = missing_vary(lines.into_iter(), vary).collect();
    if let Ok(value) = HeaderValue::from_str(&missing.join(", "))
        && !missing.is_empty()
    {
        let _appended = header.append_header("vary", value);
    }
}

fn head_of(status: StatusCode) -> ResponseHeader {
    #[expect(clippy::expect_used, reason = "a StatusCode is a valid status; building fails for nothing else")]
    ResponseHeader::build(status, Some(8)).expect("a valid status")
}

fn problem(status: StatusCode, detail: &str, reason: &str, request_id: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("Error");
    let problem = Problem { title, status: status.as_u16(), detail, reason, request_id };
    let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let mut header = head_of(status);
    let fields =
        [(CONTENT_TYPE, "application/problem+json"), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    for (name, value) in fields {
        let _inserted = header.insert_header(name, HeaderValue::from_static(value));
    }
    let _inserted = header.insert_header(X_REQUEST_ID, request_id);
    Answer { header, body }
}

/// Sets the length, and drops the body where there must be none.
fn finish(mut answer: Answer, head: &HeadView<'_>) -> Answer {
    let _inserted = answer.header.insert_header(CONTENT_LENGTH, answer.body.len());
    if head.method == b"HEAD" {
        answer.body = Bytes::new();
    }
    answer
}

/// Appends the whole bytes of an allowed preflight's answer, the one that [`answer`] gives for it.
pub fn write_preflight(judged: &Judged, head: &HeadView<'_>, persistence: Persistence, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
    let Some(policy) = judged.policy() else { return };
    with_quoted(judged, head, |request| {
        for Edit { name, value } in policy.edits(&judged.verdict, request) {
            write_field(name, value.as_bytes(), out);
        }
    });
    if let Some(vary) = policy.vary_value(judged.verdict.kind) {
        write_field("vary", vary.as_bytes(), out);
    }
    end_head(persistence, out);
}

/// Appends the whole bytes of an answer made here.
pub fn write_answer(answer: &Answer, persistence: Persistence, out: &mut Vec<u8>) {
    let status = answer.header.status;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &answer.header.headers {
        write_field(name.as_str(), value.as_bytes(), out);
    }
    end_head(persistence, out);
    out.extend_from_slice(&answer.body);
}

/// The fields that every answer on a connection has, and the empty line: `Date` as RFC 9110, section 6.6.1 wants it.
fn end_head(persistence: Persistence, out: &mut Vec<u8>) {
    write_field("date", get_cached_date().as_bytes(), out);
    let connection: &[u8] = match persistence {
        Persistence::KeepAlive => b"keep-alive",
        Persistence::Close => b"close",
    };
    write_field("connection", connection, out);
    out.extend_from_slice(b"\r\n");
}

fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The whole bytes of the lane's answer to a head that it refuses. The connection closes after it.
pub fn refusal_bytes(refusal: &lane_head::Refusal, request_id: &str) -> Vec<u8> {
    let mut answer = problem(refusal.status, refusal.detail, refusal.reason, request_id);
    let _inserted = answer.header.insert_header(CONTENT_LENGTH, answer.body.len());
    let mut bytes = Vec::new();
    write_answer(&answer, Persistence::Close, &mut bytes);
    bytes
}
