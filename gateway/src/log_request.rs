//! One finished request as a line of the access log.

use crossgate_policy::{Kind, Outcome, Reason, Verdict};
use http::HeaderName;
use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, HOST};
use pingora::proxy::Session;

use crate::access_log::{AccessLog, Escaped, Filter, Level, Record};
use crate::config::LogLevel;
use crate::config::model;
use crate::context::{Context, Judging, first_origin};
use crate::judge::{Judged, Judgement};
use crate::metrics::{NO_TENANT, VerdictLabel};
use crate::{forwarded, proxy};

/// What the log says where a denial looks like single sign-on.
pub const NAVIGATION_NOTE: &str = "a cross-site navigation was refused; where single sign-on or a payment page returns here, \
     give this route `unmatchedRequests: Forward`";

/// Logs a request that is over.
pub fn write(log: &AccessLog, session: &Session, context: &Context, request: &Judging) {
    let header = session.req_header();
    let value = |name: HeaderName| header.headers.get(name).map(http::HeaderValue::as_bytes);
    let judged = match &request.judgement {
        Judgement::Judged(judged) => Some(judged),
        Judgement::Refused(_) => None,
    };
    let verdict = judged.map_or(REFUSED, |judged| judged.verdict);
    let is_preflight = verdict.kind == Kind::Preflight;
    let record = Record {
        time: context.time,
        request_id: &request.request_id,
        tenant: judged.map_or(NO_TENANT, |judged| &judged.tenant.id),
        route: judged.and_then(|judged| Some(&*judged.route.as_ref()?.prefix)),
        policy: judged.and_then(|judged| Some(&*judged.route.as_ref()?.policy_name)),
        kind: verdict.kind,
        verdict: judged.map_or(VerdictLabel::Deny, Judged::label),
        reason: judged.map_or(Reason::UnknownHost, Judged::reason),
        entry: judged.and_then(|judged| Some(judged.policy()?.entry_text(verdict.entry?))),
        origin: first_origin(&header.headers).map(Escaped),
        host: Escaped(value(HOST).unwrap_or_default()),
        method: Escaped(header.method.as_str().as_bytes()),
        target: header.raw_path(),
        requested_method: is_preflight.then(|| value(ACCESS_CONTROL_REQUEST_METHOD)).flatten().map(Escaped),
        requested_headers: is_preflight.then(|| value(ACCESS_CONTROL_REQUEST_HEADERS)).flatten().map(Escaped),
        sec_fetch_site: value(HeaderName::from_static("sec-fetch-site")).map(Escaped),
        has_credentials: value(COOKIE).or(value(AUTHORIZATION)).is_some(),
        status: session.response_written().map_or(0, |written| written.status.as_u16()),
        duration: context.began.elapsed(),
        upstream: upstream_name(context, judged),
        upstream_duration: context.upstream_duration,
        client: forwarded::client(&header.headers, request.peer),
        generation: request.snapshot.generation,
        note: note(context, request, header),
    };
    log.write(filter(request.snapshot.settings.access_log), &record);
}

fn filter(configured: model::AccessLog) -> Filter {
    let level = match configured.level {
        LogLevel::All => Level::All,
        LogLevel::Denied => Level::Denied,
        LogLevel::Off => Level::Off,
    };
    Filter { level, sample: configured.sample }
}

/// A request to nobody's host, as the log and the metrics have it.
const REFUSED: Verdict =
    Verdict { kind: Kind::NonCors, outcome: Outcome::Deny, reason: Reason::UnknownHost, entry: None };

fn upstream_name<'a>(context: &Context, judged: Option<&'a Judged>) -> Option<&'a str> {
    let route = judged?.route.as_ref()?;
    (context.attempts > 0).then_some(&*route.upstream.name)
}

fn note(context: &Context, request: &Judging, header: &pingora::http::RequestHeader) -> Option<&'static str> {
    match &request.judgement {
        Judgement::Refused(refusal) => Some(refusal.detail),
        Judgement::Judged(judged) if proxy::is_denied_navigation(judged, &header.headers) => Some(NAVIGATION_NOTE),
        Judgement::Judged(_) => context.upstream_error.map(crate::metrics::UpstreamError::as_str),
    }
}
