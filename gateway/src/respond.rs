//! The one writer of responses: the gateway's own answers, and the CORS fields of every answer.
//!
//! `write_cors` and, for the lane's bytes, [`write_preflight`] are the only functions that write
//! `Access-Control-*` to a response head. Those of the upstream are left out by prefix
//! ([`replaces`]), and what the policy engine renders for the verdict is appended. The gateway's
//! own answers explain themselves in `application/problem+json` (RFC 9457) and in `Proxy-Status`
//! (see [`proxy_status`]). They are never stored, and echo nothing of the request except its id and
//! a refused method or header.

use std::borrow::Cow;

use bytes::Bytes;
use crossgate_policy::{
    CorsRequest, EditValue, HeaderEdit, Outcome, OwnOrigin, Reason, RequestField, RequestKind, is_cors_response_field,
    is_origin, missing_vary,
};
use http::header::{
    ACCEPT, ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    LOCATION, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use smallvec::SmallVec;

use crate::html::EscapedHtml;
use crate::judge::{Judgement, PolicyMatch, RequestAction, is_navigation};
use crate::metrics::CheckResult;
use crate::proxy_status::{self, PROXY_STATUS, UpstreamFault};
use crate::request_head::RequestHead;
use crate::route::RouteAction;
use crate::shared_policy::{EmbeddingFields, TimingField};
use crossgate_config::model::ProxyStatus;
use crossgate_message::field_edits::FieldEdits;
use crossgate_message::field_sink::{FieldSink, write_field};
use crossgate_message::fields::X_REQUEST_ID;
use crossgate_message::fields::{HeaderFields, NamedField};
use crossgate_message::rewrite;
use crossgate_wire::exchange::{ConnectionPersistence, EdgeAnswer, answer_bytes, end_head};

/// The inputs of the gateway's own answer besides the verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerContext<'a> {
    pub request_id: &'a str,
    pub proxy_status: ProxyStatus,
    /// The reason why the upstream's answer cannot be forwarded.
    pub fault: UpstreamFault<'a>,
}

/// <https://www.w3.org/TR/resource-timing/#sec-timing-allow-origin>
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static(TIMING_ALLOW_ORIGIN_NAME);
const TIMING_ALLOW_ORIGIN_NAME: &str = "timing-allow-origin";

/// <https://fetch.spec.whatwg.org/#cross-origin-resource-policy-header>
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static(CROSS_ORIGIN_RESOURCE_POLICY_NAME);
const CROSS_ORIGIN_RESOURCE_POLICY_NAME: &str = "cross-origin-resource-policy";

static STAR: HeaderValue = HeaderValue::from_static("*");

/// The reason of a failed health check.
const DRAINING: &str = "draining";

/// Room for the members that most policies add to `Vary`.
const VARY_LEN_USUAL: usize = 64;

/// The media type of a page, in `Accept`.
const HTML: &[u8] = b"text/html";

/// Initial capacity for the fields of an answer.
const FIELDS_USUAL: usize = 8;

/// The problem details (RFC 9457) of an error or a denial.
#[derive(Serialize)]
struct ProblemDetails<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    #[serde(rename = "requestId")]
    request_id: &'a str,
}

/// The gateway's own answer to a judged head. `None` if the request is forwarded.
pub fn answer(judgement: &Judgement<'_>, head: &RequestHead<'_>, context: AnswerContext<'_>) -> Option<EdgeAnswer> {
    let judged = match judgement {
        Judgement::Refused(refusal) => {
            let status = proxy_status::of_error(refusal.status, refusal.reason, context.fault);
            let problem = problem(refusal.status, refusal.detail, refusal.reason, status, context);
            return Some(finish(problem, head.method));
        }
        Judgement::Judged(judged) => judged,
    };
    match judged.action {
        RequestAction::Forward | RequestAction::Report => None,
        RequestAction::AnswerPreflight => {
            let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
            write_cors(None, judged, head, &mut fields);
            if context.proxy_status == ProxyStatus::Sent {
                fields.insert(PROXY_STATUS, proxy_status::of_preflight(judged, head));
            }
            // Fetch, CORS-preflight fetch: the status must be an ok status (200 to 299).
            Some(EdgeAnswer { status: StatusCode::NO_CONTENT, fields, body: Bytes::new() })
        }
        RequestAction::ExplainPreflight => Some(explained_refusal(judged, head, context)),
        RequestAction::Deny => Some(error(StatusCode::FORBIDDEN, judged, head, context)),
        RequestAction::NotFound => Some(error(StatusCode::NOT_FOUND, judged, head, context)),
        RequestAction::AnswerHere => Some(route_answer(judged, head, context)),
    }
}

/// The redirect or the fixed response of a route.
fn route_answer(judged: &PolicyMatch<'_>, head: &RequestHead<'_>, context: AnswerContext<'_>) -> EdgeAnswer {
    let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
    let (status, body) = match judged.route.map(|route| &route.action) {
        Some(RouteAction::Redirect(redirect)) => {
            if let Some(location) = &judged.location {
                fields.insert(LOCATION, location.clone());
            }
            (redirect.status, Bytes::new())
        }
        Some(RouteAction::Respond(fixed)) => {
            if let Some(content_type) = &fixed.content_type {
                fields.insert(CONTENT_TYPE, content_type.clone());
                fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            (fixed.status, fixed.body.clone())
        }
        Some(RouteAction::Forward(_) | RouteAction::NotFound) | None => (StatusCode::NOT_FOUND, Bytes::new()),
    };
    if let Ok(id) = HeaderValue::from_str(context.request_id) {
        fields.insert(X_REQUEST_ID, id);
    }
    if context.proxy_status == ProxyStatus::Sent {
        fields.insert(PROXY_STATUS, proxy_status::of_own_answer());
    }
    write_cors(None, judged, head, &mut fields);
    write_route_vary(judged, &mut fields);
    write_edits(judged, &mut fields);
    finish(EdgeAnswer { status, fields, body }, head.method)
}

/// A 204 answer to a denied preflight: the browser then reports the refused method or header, and
/// blocks the request.
fn explained_refusal(judged: &PolicyMatch<'_>, head: &RequestHead<'_>, context: AnswerContext<'_>) -> EdgeAnswer {
    let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
    write_cors(None, judged, head, &mut fields);
    mark_refusal(&mut fields, proxy_status::of_preflight(judged, head), context);
    EdgeAnswer { status: StatusCode::NO_CONTENT, fields, body: Bytes::new() }
}

/// An error answer to a request with a known policy. A page of an allowed origin can read it.
pub fn error(
    status: StatusCode,
    judged: &PolicyMatch<'_>,
    head: &RequestHead<'_>,
    context: AnswerContext<'_>,
) -> EdgeAnswer {
    let mut answer = match status {
        StatusCode::FORBIDDEN => denial(judged, head, context),
        _ => {
            let reason = reason(status, judged);
            let proxy_status = proxy_status::of_error(status, reason, context.fault);
            problem(status, detail(status, judged), reason, proxy_status, context)
        }
    };
    if is_readable(status) && judged.verdict.kind != RequestKind::Preflight {
        write_cors(None, judged, head, &mut answer.fields);
    } else {
        write_vary(None, judged, &mut answer.fields);
        write_embedding(judged, None, &mut answer.fields);
    }
    write_route_vary(judged, &mut answer.fields);
    write_edits(judged, &mut answer.fields);
    finish(answer, head.method)
}

/// Writes the fields of the configuration to an answer of the gateway, except for those that the
/// answer has already. `Vary` gets a further line.
fn write_edits(judged: &PolicyMatch<'_>, fields: &mut HeaderMap) {
    if judged.verdict.kind == RequestKind::Preflight {
        return;
    }
    for (name, value) in judged.response_edits().into_iter().flat_map(FieldEdits::written) {
        if *name == VARY || !fields.contains_key(name) {
            fields.append(name, value.clone());
        }
    }
}

/// The problem details of a denial. They name a refused method or header: the client sent it, so
/// this discloses nothing.
fn denial(judged: &PolicyMatch<'_>, head: &RequestHead<'_>, context: AnswerContext<'_>) -> EdgeAnswer {
    let refused = proxy_status::refused_token(judged, head);
    let detail = match (&refused, judged.verdict.reason) {
        (Some(method), Reason::Method) => format!("the policy of this API does not allow the method {method}").into(),
        (Some(header), Reason::Header) => format!("the policy of this API does not allow the header {header}").into(),
        _ => Cow::Borrowed(rule_message(judged, head).unwrap_or_else(|| denial_detail(judged))),
    };
    let proxy_status = proxy_status::of_denial(judged, refused.as_deref());
    if shows_page(judged, head) {
        return page(&detail, proxy_status, context);
    }
    problem(StatusCode::FORBIDDEN, &detail, judged.reason().as_str(), proxy_status, context)
}

/// Whether a user would see the response to a request from another site, and not a program.
fn shows_page(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    let accepts_html = |line: &[u8]| line.windows(HTML.len()).any(|part| part.eq_ignore_ascii_case(HTML));
    judged.verdict.reason == Reason::CrossSite && is_navigation(head) && head.headers.lines(&ACCEPT).any(accepts_html)
}

/// A short page for a denied navigation. It has nothing of the request except its id.
fn page(detail: &str, proxy_status: HeaderValue, context: AnswerContext<'_>) -> EdgeAnswer {
    let id = EscapedHtml(context.request_id);
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>403 Forbidden</title>\n\
         <h1>403 Forbidden</h1>\n<p>{}</p>\n<p>Request {id}</p>\n</html>\n",
        EscapedHtml(detail)
    );
    let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    mark_refusal(&mut fields, proxy_status, context);
    EdgeAnswer { status: StatusCode::FORBIDDEN, fields, body: Bytes::from(body) }
}

/// The message of a denying rule. A message that contains the origin is withheld, since no denial
/// echoes an origin; the log and `explain` contain it.
fn rule_message<'j>(judged: &'j PolicyMatch<'_>, head: &RequestHead<'_>) -> Option<&'j str> {
    let message = judged.rule_message().filter(|_| judged.verdict.reason == Reason::RuleDeny)?;
    let origin = std::str::from_utf8(head.headers.first(&ORIGIN)?).ok()?;
    (!message.contains(origin)).then_some(message)
}

/// Returns whether a page may read the response. The other statuses carry no CORS fields, because
/// they are not responses of the resource.
fn is_readable(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 400 | 403 | 405 | 408 | 421 | 431)
}

fn detail(status: StatusCode, judged: &PolicyMatch<'_>) -> &'static str {
    match status.as_u16() {
        400 => "the request body does not match its framing",
        403 => denial_detail(judged),
        404 => "no route of this tenant has the path and method",
        408 => "the request body arrived too slowly",
        413 => "the request body is larger than allowed",
        501 => "the upstream of this route uses HTTP/2 only and accepts no WebSockets",
        502 => "the upstream sent no valid response",
        503 => "the upstream cannot take the request",
        504 => "the upstream did not answer in time",
        _ => "the gateway failed",
    }
}

/// The verdict's reason if the verdict caused the status, otherwise the failure.
fn reason(status: StatusCode, judged: &PolicyMatch<'_>) -> &'static str {
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

fn denial_detail(judged: &PolicyMatch<'_>) -> &'static str {
    use crossgate_policy::Reason as R;
    let any = judged.policy().is_some_and(|policy| policy.allows_any());
    match judged.verdict.reason {
        R::NoMatch if any => "`*` does not cover a WebSocket that carries cookies or Authorization",
        R::NoMatch => "the policy of this API does not allow the origin",
        R::NullOrigin => "the policy of this API does not allow the origin null",
        R::MalformedOrigin => "the Origin field is not one serialised origin",
        R::Method => "the policy of this API does not allow the requested method",
        R::Header => "the policy of this API does not allow a requested header",
        R::RuleDeny => "the rule of this API denies the origin",
        R::RuleError => "the rule of this API failed",
        R::CrossSite => "the policy of this API refuses requests from other sites",
        R::UnknownHost | R::UnknownRoute => "no policy applies to the request",
        R::Exact | R::Wildcard | R::Regex | R::Rule | R::Any | R::SameOrigin | R::NonCors | R::Navigation => {
            "the policy of this API does not allow the request"
        }
    }
}

/// Completes an upstream's final response: appends CORS fields and the request's id. `vary` has the
/// received fields if `Vary` is among them. The caller leaves out what [`replaces`] and
/// [`replaces_id`] name.
pub fn complete(
    vary: Option<HeaderFields<'_>>,
    judged: &PolicyMatch<'_>,
    head: &RequestHead<'_>,
    request_id: &str,
    sink: &mut impl FieldSink,
) {
    write_cors(vary, judged, head, sink);
    sink.own(&X_REQUEST_ID, EditValue::Request(request_id.as_bytes()));
}

/// Whether a field of an upstream's response gives way to the gateway's: every `Access-Control-*`,
/// of 1xx too, and the embedding fields that the policy sets. In report mode nothing changes. The
/// name may be in any case.
pub fn replaces(name: &[u8], judged: &PolicyMatch<'_>) -> bool {
    judged.action != RequestAction::Report && (is_cors_response_field(name) || replaces_embedding(name, judged))
}

// Called for every field, nearly all of which have another length.
fn replaces_embedding(name: &[u8], judged: &PolicyMatch<'_>) -> bool {
    const TIMING_LEN: usize = TIMING_ALLOW_ORIGIN_NAME.len();
    const RESOURCE_POLICY_LEN: usize = CROSS_ORIGIN_RESOURCE_POLICY_NAME.len();
    let is_set = |field: fn(&EmbeddingFields) -> bool| judged.route.is_some_and(|route| field(&route.shared.embedding));
    match name.len() {
        TIMING_LEN => {
            name.eq_ignore_ascii_case(TIMING_ALLOW_ORIGIN_NAME.as_bytes()) && is_set(|fields| fields.timing.is_some())
        }
        RESOURCE_POLICY_LEN => {
            let is_name = name.eq_ignore_ascii_case(CROSS_ORIGIN_RESOURCE_POLICY_NAME.as_bytes());
            is_name && is_set(|fields| fields.resource_policy.is_some())
        }
        _ => false,
    }
}

/// Whether a field of an upstream's final response gives way to the request's id.
pub fn replaces_id(name: &[u8], judged: &PolicyMatch<'_>) -> bool {
    judged.action != RequestAction::Report && name.eq_ignore_ascii_case(X_REQUEST_ID.as_str().as_bytes())
}

/// Writes the CORS fields of a response: those of the verdict, and what `Vary` of the received
/// fields lacks. In report mode nothing changes.
fn write_cors(
    vary: Option<HeaderFields<'_>>,
    judged: &PolicyMatch<'_>,
    head: &RequestHead<'_>,
    sink: &mut impl FieldSink,
) {
    if judged.action == RequestAction::Report {
        return;
    }
    let Some(policy) = judged.policy() else { return };
    with_quoted(judged, head, |request| {
        if judged.action == RequestAction::ExplainPreflight {
            append(policy.refusal_edits(&judged.verdict, request), sink);
        } else {
            append(policy.edits(&judged.verdict, request), sink);
        }
    });
    write_vary(vary, judged, sink);
    write_embedding(judged, Some(head), sink);
}

/// Writes the embedding fields of the policy, on every response other than to preflights, which are
/// no responses of the resource. `head` is the request of a response that a page may read.
fn write_embedding(judged: &PolicyMatch<'_>, head: Option<&RequestHead<'_>>, sink: &mut impl FieldSink) {
    let is_response = judged.action != RequestAction::Report && judged.verdict.kind != RequestKind::Preflight;
    let Some(route) = judged.route.filter(|_| is_response) else { return };
    let EmbeddingFields { timing, resource_policy } = &route.shared.embedding;
    match timing {
        None => {}
        Some(TimingField::Public(origins)) => sink.own(&TIMING_ALLOW_ORIGIN, EditValue::Rendered(origins)),
        Some(TimingField::Same) => match head.and_then(|head| timed_origin(judged, head)) {
            // Without `Vary: Origin` a cache may give the response to any page, all of which may
            // read it.
            Some(_) if !route.policy.depends_on_origin() => sink.own(&TIMING_ALLOW_ORIGIN, EditValue::Fixed(&STAR)),
            Some(origin) => sink.own(&TIMING_ALLOW_ORIGIN, EditValue::Request(origin)),
            None => {}
        },
    }
    if let Some(value) = resource_policy {
        sink.own(&CROSS_ORIGIN_RESOURCE_POLICY, EditValue::Rendered(value));
    }
}

/// The origin that may read the timing of the response to its request.
fn timed_origin<'h>(judged: &PolicyMatch<'_>, head: &RequestHead<'h>) -> Option<&'h [u8]> {
    // `*` may cover `null` and malformed origins, which no field must repeat.
    let is_readable = judged.verdict.is_allowed() && judged.verdict.reason != Reason::Navigation;
    match head.known.origin {
        RequestField::One(origin) if is_readable && is_origin(origin) => Some(origin),
        RequestField::One(_) | RequestField::Absent | RequestField::Many => None,
    }
}

fn append<'a>(edits: impl Iterator<Item = HeaderEdit<'a>>, sink: &mut impl FieldSink) {
    edits.for_each(|HeaderEdit { name, value }| sink.own(&name, value));
}

/// Calls `then` with the part of the request that an answer may quote.
fn with_quoted<R>(judged: &PolicyMatch<'_>, head: &RequestHead<'_>, then: impl FnOnce(&CorsRequest<'_>) -> R) -> R {
    let own = OwnOrigin { host: "", port: None, scheme: None };
    let lines = NamedField { fields: head.headers, name: ACCESS_CONTROL_REQUEST_HEADERS };
    let origin = head.known.origin;
    let quoted = CorsRequest { origin, requested_headers: &lines, ..CorsRequest::new(head.method, own) };
    if judged.verdict.kind != RequestKind::Preflight {
        return then(&quoted);
    }
    let requested_method = head.known.requested_method;
    then(&CorsRequest { requested_method, ..quoted })
}

/// Removes CORS fields from trailers. Fetch ignores them there, but other clients might not.
pub fn strip_cors_trailers(trailers: &mut HeaderMap) {
    rewrite::remove(trailers, |name| is_cors_response_field(name.as_str()));
}

/// Writes the headers that the choice of the route depended on, as a further line of `Vary`.
pub fn write_route_vary(judged: &PolicyMatch<'_>, sink: &mut impl FieldSink) {
    if judged.route_vary.is_empty() {
        return;
    }
    let names: Vec<&str> = judged.route_vary.iter().map(|name| name.as_str()).collect();
    sink.own(&VARY, EditValue::Request(names.join(", ").as_bytes()));
}

fn write_vary(received: Option<HeaderFields<'_>>, judged: &PolicyMatch<'_>, sink: &mut impl FieldSink) {
    let Some(policy) = judged.policy() else { return };
    if judged.action == RequestAction::Report {
        return;
    }
    let Some(received) = received else {
        if let Some(value) = policy.vary_value(judged.verdict.kind) {
            sink.own(&VARY, value);
        }
        return;
    };
    // The upstream's own `Vary` stays: members are added, never removed (RFC 9110, section 12.5.5).
    let lines: SmallVec<[&[u8]; 4]> = received.lines(&VARY).collect();
    let mut missing = SmallVec::<[u8; VARY_LEN_USUAL]>::new();
    for member in missing_vary(lines.iter().copied(), policy.vary(judged.verdict.kind)) {
        if !missing.is_empty() {
            missing.extend_from_slice(b", ");
        }
        missing.extend_from_slice(member.as_bytes());
    }
    if !missing.is_empty() {
        sink.own(&VARY, EditValue::Request(&missing));
    }
}

fn problem(
    status: StatusCode,
    detail: &str,
    reason: &str,
    proxy_status: HeaderValue,
    context: AnswerContext<'_>,
) -> EdgeAnswer {
    let request_id = context.request_id;
    let title = status.canonical_reason().unwrap_or("Error");
    let problem = ProblemDetails { title, status: status.as_u16(), detail, reason, request_id };
    let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    // Browsers must not guess another type from the body (MIME sniffing).
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    mark_refusal(&mut fields, proxy_status, context);
    EdgeAnswer { status, fields, body }
}

/// Adds the fields of every refusal, for all statuses. New fields that describe refusals belong
/// here.
fn mark_refusal(fields: &mut HeaderMap, proxy_status: HeaderValue, context: AnswerContext<'_>) {
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The id was made or checked here, so it is a valid field value.
    if let Ok(id) = HeaderValue::from_str(context.request_id) {
        fields.insert(X_REQUEST_ID, id);
    }
    if context.proxy_status == ProxyStatus::Sent {
        fields.insert(PROXY_STATUS, proxy_status);
    }
}

/// Sets `Content-Length`, and drops the body of an answer to HEAD.
fn finish(mut answer: EdgeAnswer, method: &[u8]) -> EdgeAnswer {
    // RFC 9110, section 8.6: none with 204.
    if answer.status != StatusCode::NO_CONTENT {
        answer.fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    }
    // RFC 9110, section 9.3.2: HEAD has the fields of GET, and no body.
    if method == b"HEAD" {
        answer.body = Bytes::new();
    }
    answer
}

/// Appends the bytes of a preflight's 204 answer. They equal the answer of [`answer`].
pub fn write_preflight(
    judged: &PolicyMatch<'_>,
    head: &RequestHead<'_>,
    persistence: ConnectionPersistence,
    proxy_status: ProxyStatus,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
    let Some(policy) = judged.policy() else { return };
    with_quoted(judged, head, |request| {
        let lines = policy.preflight_lines(&judged.verdict);
        let edits_max = if lines.is_some() { 1 } else { usize::MAX };
        for HeaderEdit { name, value } in policy.edits(&judged.verdict, request).take(edits_max) {
            write_field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
        out.extend_from_slice(lines.unwrap_or_default());
    });
    if let Some(vary) = policy.vary_value(judged.verdict.kind) {
        write_field(b"vary", vary.as_bytes(), out);
    }
    match (proxy_status, judged.verdict.outcome) {
        (ProxyStatus::Sent, Outcome::Allow) => out.extend_from_slice(proxy_status::ALLOWED_LINE),
        (ProxyStatus::Sent, Outcome::Deny) => {
            let value = proxy_status::of_preflight(judged, head);
            write_field(PROXY_STATUS.as_str().as_bytes(), value.as_bytes(), out);
        }
        (ProxyStatus::Off, _) => {}
    }
    end_head(persistence, out);
}

/// The answer to a health check of a data listener, by GET or HEAD.
pub fn health_check(result: CheckResult, method: &[u8], context: AnswerContext<'_>) -> EdgeAnswer {
    let answer = match result {
        CheckResult::Passed => {
            let mut fields = HeaderMap::with_capacity(FIELDS_USUAL);
            fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if context.proxy_status == ProxyStatus::Sent {
                fields.insert(PROXY_STATUS, proxy_status::of_own_answer());
            }
            EdgeAnswer { status: StatusCode::OK, fields, body: Bytes::from_static(b"ok\n") }
        }
        CheckResult::Failed => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let proxy_status = proxy_status::of_error(status, DRAINING, context.fault);
            problem(
                status,
                "the gateway is draining; send requests to another instance",
                DRAINING,
                proxy_status,
                context,
            )
        }
    };
    finish(answer, method)
}

/// The answer to a head that is refused before it is judged.
pub fn refusal(refusal: &crossgate_wire::refusal::HeadRefusal, context: AnswerContext<'_>) -> EdgeAnswer {
    let proxy_status = proxy_status::of_error(refusal.status, refusal.reason, context.fault);
    let mut answer = problem(refusal.status, refusal.detail, refusal.reason, proxy_status, context);
    answer.fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    answer
}

/// The bytes of [`refusal`], for the lane. The connection closes after them.
pub fn refusal_bytes(refused: &crossgate_wire::refusal::HeadRefusal, context: AnswerContext<'_>) -> Vec<u8> {
    answer_bytes(&refusal(refused, context))
}
