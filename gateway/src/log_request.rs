//! One finished request as a line of the access log.

use std::borrow::Cow;

use crossgate_policy::{Kind, Scheme};
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONNECTION, COOKIE, HOST, ORIGIN,
};
use http::{HeaderName, StatusCode};
use pingora::proxy::Session;

use crate::access_log::{AccessLog, Escaped, Filter, Level, Record};
use crate::config::LogLevel;
use crate::config::model;
use crate::context::{Context, Judging};
use crate::fields::Fields;
use crate::hop_by_hop::connection_is_harmless;
use crate::judge::{Judged, Judgement, SEC_FETCH_SITE};
use crate::metrics::{NO_TENANT, VerdictLabel};
use crate::{forwarded, proxy};

/// What the log says where a denial looks like single sign-on.
pub const NAVIGATION_NOTE: &str = "a cross-site navigation was refused; where single sign-on or a payment page returns here, \
     give this route `unmatchedRequests: Forward`";

/// What the log says where nobody was left to answer.
const ABANDONED_NOTE: &str = "the client went away before the answer";

/// Logs a request that is over.
pub fn write(log: &AccessLog, session: &Session, context: &Context, request: &Judging) {
    let header = session.req_header();
    let fields = Fields::from(&header.headers);
    let value = |name: HeaderName| fields.first(&name);
    let told = Told::of(&request.judgement);
    let judged = told.judged;
    let asked = judged.and_then(|judged| judged.asked.as_ref());
    let is_preflight = told.kind == Kind::Preflight;
    let requested_headers = is_preflight.then(|| lines(fields, ACCESS_CONTROL_REQUEST_HEADERS)).flatten();
    let connection = || lines(fields, CONNECTION);
    let connection = (!connection_is_harmless(fields)).then(connection).flatten();
    let status = session.response_written().map(|written| written.status).filter(is_answer);
    let is_abandoned = status.is_none() && request.watch.expired().is_none();
    let record = Record {
        time: context.time,
        request_id: &request.request_id,
        tenant: told.tenant,
        route: judged.and_then(|judged| Some(&*judged.route.as_ref()?.prefix)),
        policy: judged.and_then(|judged| Some(&*judged.route.as_ref()?.policy_name)),
        kind: told.kind,
        verdict: judged.map_or(VerdictLabel::Deny, Judged::label),
        reason: told.reason,
        entry: judged.and_then(|judged| Some(judged.policy()?.entry_text(judged.verdict.entry?))),
        rule_source: asked.map(|asked| asked.source.as_str()),
        rule_message: judged.and_then(Judged::rule_message).map(|message| Escaped(message.as_bytes())),
        rule_error: asked.and_then(|asked| asked.answer.as_ref().err()).map(|error| error.kind.as_str()),
        origin: value(ORIGIN).map(Escaped),
        origin_fields: count(fields, ORIGIN),
        host: Escaped(value(HOST).unwrap_or_default()),
        method: Escaped(header.method.as_str().as_bytes()),
        target: header.raw_path(),
        requested_method: is_preflight.then(|| value(ACCESS_CONTROL_REQUEST_METHOD)).flatten().map(Escaped),
        requested_method_fields: if is_preflight { count(fields, ACCESS_CONTROL_REQUEST_METHOD) } else { 0 },
        requested_headers: requested_headers.as_deref().map(Escaped),
        sec_fetch_site: value(SEC_FETCH_SITE).map(Escaped),
        sec_fetch_site_fields: count(fields, SEC_FETCH_SITE),
        connection: connection.as_deref().map(Escaped),
        scheme: forwarded::scheme(fields, request.peer).map(Scheme::as_str),
        has_credentials: value(COOKIE).or(value(AUTHORIZATION)).is_some(),
        status: status.map_or(0, |status| status.as_u16()),
        duration: context.began.elapsed(),
        upstream: upstream_name(context, judged),
        upstream_duration: context.upstream_duration,
        client: forwarded::client(fields, request.peer),
        generation: request.snapshot.generation,
        note: if is_abandoned { Some(ABANDONED_NOTE) } else { note(context, request, header) },
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

/// Whether a status ends the wait for the answer, as the other informational ones do not.
fn is_answer(status: &StatusCode) -> bool {
    !status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS
}

/// What a judgement is in the log.
struct Told<'a> {
    judged: Option<&'a Judged>,
    tenant: &'a str,
    kind: Kind,
    reason: &'static str,
}

impl<'a> Told<'a> {
    fn of(judgement: &'a Judgement) -> Self {
        match judgement {
            Judgement::Judged(judged) => Told {
                judged: Some(judged),
                tenant: &judged.tenant.id,
                kind: judged.verdict.kind,
                reason: judged.reason().as_str(),
            },
            Judgement::Refused(refusal) => Told {
                judged: None,
                tenant: refusal.tenant.as_deref().unwrap_or(NO_TENANT),
                kind: refusal.kind,
                reason: refusal.reason,
            },
        }
    }
}

fn count(fields: Fields<'_>, name: HeaderName) -> usize {
    fields.lines(&name).count()
}

/// All lines of a field as one, which is what several lines of a list mean (RFC 9110, section 5.3).
fn lines(fields: Fields<'_>, name: HeaderName) -> Option<Cow<'_, [u8]>> {
    let mut lines = fields.lines(&name);
    let first = lines.next()?;
    let join = |all: Cow<'_, [u8]>, line: &[u8]| Cow::Owned([&all, &b","[..], line].concat());
    Some(lines.fold(Cow::Borrowed(first), join))
}

fn upstream_name<'a>(context: &Context, judged: Option<&'a Judged>) -> Option<&'a str> {
    let route = judged?.route.as_ref()?;
    (context.attempts > 0).then_some(&*route.upstream.name)
}

fn note(context: &Context, request: &Judging, header: &pingora::http::RequestHeader) -> Option<&'static str> {
    match &request.judgement {
        Judgement::Refused(refusal) => Some(refusal.detail),
        Judgement::Judged(judged) if proxy::is_denied_navigation(judged, (&header.headers).into()) => {
            Some(NAVIGATION_NOTE)
        }
        Judgement::Judged(_) => context.upstream_error.map(crate::metrics::UpstreamError::as_str),
    }
}
