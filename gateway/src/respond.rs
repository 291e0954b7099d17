//! The one writer of responses: what the gateway answers by itself, and the CORS fields of every answer.
//!
//! [`write_cors`] and, for the lane's bytes, [`write_preflight`] are the only places where `Access-Control-*` enters a response head:
//! whatever the upstream sent is removed by prefix, then comes what the policy engine renders for the verdict. Answers made here say why in
//! `application/problem+json` (RFC 9457), are never stored, and echo nothing of the request but its id.

use bytes::Bytes;
use crossgate_policy::{Edit, Kind, OwnOrigin, Reason, Request, Value, is_cors_response_field, missing_vary};
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, InvalidHeaderValue, ORIGIN, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora::protocols::http::date::get_cached_date;
use serde::Serialize;

use crate::fields::Named;
use crate::judge::{Action, HeadView, Judged, Judgement};
use crate::lane::head as lane_head;
use crate::lane::preflight::Persistence;
use crate::rewrite;

/// The field that carries the request's id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An answer made by the gateway.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// All fields but those that the connection adds (`Date`, `Connection`).
    pub fields: HeaderMap,
    /// Empty for 204 and for answers to HEAD.
    pub body: Bytes,
}

/// Room for the fields of an answer.
const FIELDS_USUAL: usize = 8;

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
pub fn answer(judgement: &Judgement<'_>, head: &HeadView<'_>, request_id: &str) -> Option<Answer> {
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
            let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
            write_cors(&mut fields, judged, head);
            Some(Answer { status: StatusCode::NO_CONTENT, fields, body: Bytes::new() })
        }
        Action::Deny => Some(error(StatusCode::FORBIDDEN, judged, head, request_id)),
        Action::NotFound => Some(error(StatusCode::NOT_FOUND, judged, head, request_id)),
    }
}

/// An error answer to a request whose policy is known: a page that may read answers may read this one.
pub fn error(status: StatusCode, judged: &Judged<'_>, head: &HeadView<'_>, request_id: &str) -> Answer {
    let told = told_by_rule(judged, head).filter(|_| status == StatusCode::FORBIDDEN);
    let mut answer =
        problem(status, told.unwrap_or_else(|| detail(status, judged)), reason(status, judged), request_id);
    if is_readable(status) && judged.verdict.kind != Kind::Preflight {
        write_cors(&mut answer.fields, judged, head);
    } else {
        write_vary(&mut answer.fields, judged);
    }
    finish(answer, head)
}

/// What a denying rule says to the caller. A message made of the origin stays here, since no denial echoes one: it is in the log and
/// in `explain`.
fn told_by_rule<'j>(judged: &'j Judged<'_>, head: &HeadView<'_>) -> Option<&'j str> {
    let message = judged.rule_message().filter(|_| judged.verdict.reason == Reason::RuleDeny)?;
    let origin = std::str::from_utf8(head.headers.first(&ORIGIN)?).ok()?;
    (!message.contains(origin)).then_some(message)
}

/// 400, 405, 421, 431 and our 403 never carry CORS headers: they say nothing of the resource.
fn is_readable(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 400 | 403 | 405 | 408 | 421 | 431)
}

fn detail(status: StatusCode, judged: &Judged<'_>) -> &'static str {
    match status.as_u16() {
        400 => "the request body is not what its head announced",
        403 => denial_detail(judged),
        404 => "no route of this tenant has the path and method",
        408 => "the request body came too slowly",
        413 => "the request body is larger than allowed",
        501 => "the upstream of this route speaks HTTP/2 alone, and takes no WebSockets",
        502 => "the upstream gave no valid answer",
        503 => "the upstream cannot take the request",
        504 => "the upstream did not answer in time",
        _ => "the gateway failed",
    }
}

/// The verdict's reason where the verdict is why; else what failed.
fn reason(status: StatusCode, judged: &Judged<'_>) -> &'static str {
    match status.as_u16() {
        400 => "bad_request",
        403 | 404 => judged.reason().as_str(),
        408 => "body_too_slow",
        413 => "body_too_large",
        501 => "no_websockets",
        502 => "upstream_error",
        503 => "upstream_unavailable",
        504 => "upstream_timeout",
        _ => "internal_error",
    }
}

fn denial_detail(judged: &Judged<'_>) -> &'static str {
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

/// Makes the fields of an upstream's final response the gateway's: CORS and the request's id. A policy that only reports changes
/// nothing.
///
/// # Errors
/// Where the id cannot be a field value; it is made or checked by [`crate::forwarded::request_id`], so it always can.
pub fn complete(
    fields: &mut HeaderMap,
    judged: &Judged<'_>,
    head: &HeadView<'_>,
    request_id: &str,
) -> Result<(), InvalidHeaderValue> {
    if judged.action == Action::Report {
        return Ok(());
    }
    write_cors(fields, judged, head);
    fields.insert(X_REQUEST_ID, HeaderValue::from_str(request_id)?);
    Ok(())
}

/// Writes the CORS fields of a response: removes every `Access-Control-*` of the upstream, adds the verdict's own, and
/// merges `Vary`. A policy that only reports changes nothing.
pub fn write_cors(fields: &mut HeaderMap, judged: &Judged<'_>, head: &HeadView<'_>) {
    strip_cors(fields, judged);
    if judged.action == Action::Report {
        return;
    }
    let Some(policy) = judged.policy() else { return };
    with_quoted(judged, head, |request| {
        for Edit { name, value } in policy.edits(&judged.verdict, request) {
            if let Some(value) = field_value(value) {
                fields.append(name, value);
            }
        }
    });
    write_vary(fields, judged);
}

/// Calls `then` with the part of a request that its answer may quote.
fn with_quoted<R>(judged: &Judged<'_>, head: &HeadView<'_>, then: impl FnOnce(&Request<'_>) -> R) -> R {
    let own = OwnOrigin { host: "", port: None, scheme: None };
    let lines = Named { fields: head.headers, name: ACCESS_CONTROL_REQUEST_HEADERS };
    let origin = head.noted.origin;
    let quoted = Request { origin, requested_headers: &lines, ..Request::new(head.method, own) };
    if judged.verdict.kind != Kind::Preflight {
        return then(&quoted);
    }
    let requested_method = head.noted.requested_method;
    then(&Request { requested_method, ..quoted })
}

/// What is rendered is copied: a clone would count itself in memory that all threads share. Out of a valid policy or a parsed request
/// comes nothing that is no field value.
fn field_value(value: Value<'_>) -> Option<HeaderValue> {
    match value {
        Value::Fixed(value) => Some(value.clone()),
        Value::Narrowed(value) => Some(value),
        Value::Rendered(_) | Value::Request(_) => HeaderValue::from_bytes(value.as_bytes()).ok(),
    }
}

/// Removes every `Access-Control-*` of the upstream from a response: all there is to do for a 1xx, which no page reads.
pub fn strip_cors(fields: &mut HeaderMap, judged: &Judged<'_>) {
    if judged.action != Action::Report {
        strip_cors_trailers(fields);
    }
}

/// Removes the CORS fields from trailers, where nobody may look for them but somebody might.
pub fn strip_cors_trailers(trailers: &mut HeaderMap) {
    rewrite::remove(trailers, |name| is_cors_response_field(name.as_str().as_bytes()));
}

fn write_vary(fields: &mut HeaderMap, judged: &Judged<'_>) {
    let Some(policy) = judged.policy() else { return };
    if judged.action == Action::Report {
        return;
    }
    if !fields.contains_key(VARY) {
        if let Some(value) = policy.vary_value(judged.verdict.kind).and_then(field_value) {
            fields.append(VARY, value);
        }
        return;
    }
    let lines: Vec<&[u8]> = fields.get_all(VARY).iter().map(HeaderValue::as_bytes).collect();
    let missing: Vec<&str> = missing_vary(lines.iter().copied(), policy.vary(judged.verdict.kind)).collect();
    if let Ok(value) = HeaderValue::from_str(&missing.join(", "))
        && !missing.is_empty()
    {
        fields.append(VARY, value);
    }
}

fn problem(status: StatusCode, detail: &str, reason: &str, request_id: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("Error");
    let problem = Problem { title, status: status.as_u16(), detail, reason, request_id };
    let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Made or checked here, so it is a field value.
    if let Ok(id) = HeaderValue::from_str(request_id) {
        fields.insert(X_REQUEST_ID, id);
    }
    Answer { status, fields, body }
}

/// Sets the length, and drops the body where there must be none.
fn finish(mut answer: Answer, head: &HeadView<'_>) -> Answer {
    answer.fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    if head.method == b"HEAD" {
        answer.body = Bytes::new();
    }
    answer
}

/// Appends the whole bytes of an allowed preflight's answer, the one that [`answer`] gives for it.
pub fn write_preflight(judged: &Judged<'_>, head: &HeadView<'_>, persistence: Persistence, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
    let Some(policy) = judged.policy() else { return };
    with_quoted(judged, head, |request| {
        let lines = policy.preflight_lines(&judged.verdict);
        let unwritten = if lines.is_some() { 1 } else { usize::MAX };
        for Edit { name, value } in policy.edits(&judged.verdict, request).take(unwritten) {
            write_field(name.as_str(), value.as_bytes(), out);
        }
        out.extend_from_slice(lines.unwrap_or_default());
    });
    if let Some(vary) = policy.vary_value(judged.verdict.kind) {
        write_field("vary", vary.as_bytes(), out);
    }
    end_head(persistence, out);
}

/// Appends the whole bytes of an answer made here.
pub fn write_answer(answer: &Answer, persistence: Persistence, out: &mut Vec<u8>) {
    let Answer { status, fields, body } = answer;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        write_field(name.as_str(), value.as_bytes(), out);
    }
    end_head(persistence, out);
    out.extend_from_slice(body);
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

/// The answer to a head that is refused before it is judged.
pub fn refusal(refusal: &lane_head::Refusal, request_id: &str) -> Answer {
    let mut answer = problem(refusal.status, refusal.detail, refusal.reason, request_id);
    answer.fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    answer
}

/// The whole bytes of such an answer of the lane. The connection closes after it.
pub fn refusal_bytes(refused: &lane_head::Refusal, request_id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_answer(&refusal(refused, request_id), Persistence::Close, &mut bytes);
    bytes
}
