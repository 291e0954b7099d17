//! One finished request as a line of the access log.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crossgate_policy::{Kind, Scheme};
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONNECTION, COOKIE, HOST, ORIGIN,
};
use http::{HeaderName, StatusCode, Version};

use crate::access_log::{AccessLog, Escaped, Filter, Level, Record};
use crate::config::LogLevel;
use crate::config::model;
use crate::fields::Fields;
use crate::forwarded::Peer;
use crate::hop_by_hop::connection_is_harmless;
use crate::judge::{HeadView, Judged, Judgement, SEC_FETCH_SITE};
use crate::lane::head::Refusal;
use crate::metrics::{NO_TENANT, UpstreamError, UpstreamRefusal, VerdictLabel};
use crate::snapshot::Snapshot;
use crate::{forwarded, proxy, trace_context};

/// What the log says where a denial looks like single sign-on.
pub const NAVIGATION_NOTE: &str = "a cross-site navigation was refused; where single sign-on or a payment page returns here, \
     give this route `unmatchedRequests: Forward`";

/// What the log says where nobody was left to answer.
const ABANDONED_NOTE: &str = "the client went away before the answer";

/// A request that is over.
pub struct Finished<'a> {
    /// By which version of HTTP.
    pub version: Version,
    /// What was asked.
    pub head: HeadView<'a>,
    /// By whom.
    pub peer: Peer,
    /// Its id.
    pub request_id: &'a str,
    /// What it was judged by.
    pub snapshot: &'a Snapshot,
    /// What was found.
    pub judgement: &'a Judgement<'a>,
    /// Since its head was complete.
    pub took: Duration,
    /// The answer's; none if there was no answer.
    pub status: Option<StatusCode>,
    /// Whether there is no answer because the client went away.
    pub is_abandoned: bool,
    /// What the upstream did, if it was asked.
    pub upstream: Option<Asked>,
    /// Why it was not asked, though it should have been.
    pub upstream_refusal: Option<UpstreamRefusal>,
}

/// What an upstream did.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Until its response head, if one came.
    pub duration: Option<Duration>,
    /// Why the last attempt failed, if it did.
    pub error: Option<UpstreamError>,
}

/// Whether any request is logged.
pub fn is_on(snapshot: &Snapshot) -> bool {
    match snapshot.settings.access_log.level {
        LogLevel::All | LogLevel::Denied => true,
        LogLevel::Off => false,
    }
}

/// Whether the log wants to hear of a request that was judged so. Saves making up what nobody reads.
pub fn is_wanted(snapshot: &Snapshot, judgement: &Judgement<'_>) -> bool {
    filter(snapshot.settings.access_log).concerns(verdict(judgement))
}

/// Logs a request that is over.
pub fn write(log: &AccessLog, request: &Finished<'_>) {
    let fields = request.head.headers;
    let value = |name: HeaderName| fields.first(&name);
    let told = Told::of(request.judgement);
    let judged = told.judged;
    let asked = judged.and_then(|judged| judged.asked.as_ref());
    let is_preflight = told.kind == Kind::Preflight;
    let requested_headers = is_preflight.then(|| lines(fields, ACCESS_CONTROL_REQUEST_HEADERS)).flatten();
    let connection = || lines(fields, CONNECTION);
    let now = SystemTime::now();
    let connection = (!connection_is_harmless(fields)).then(connection).flatten();
    let meant = request.upstream.map(drop).or(request.upstream_refusal.map(drop));
    let record = Record {
        time: now.checked_sub(request.took).unwrap_or(now),
        request_id: request.request_id,
        trace_id: trace_context::trace_id(request.head.noted.traceparent),
        tenant: told.tenant,
        route: judged.and_then(|judged| Some(&*judged.route?.prefix)),
        policy: judged.and_then(|judged| Some(&*judged.route?.policy_name)),
        kind: told.kind,
        verdict: verdict(request.judgement),
        reason: told.reason,
        entry: judged.and_then(|judged| Some(judged.policy()?.entry_text(judged.verdict.entry?))),
        rule_source: asked.map(|asked| asked.source.as_str()),
        rule_message: judged.and_then(Judged::rule_message).map(|message| Escaped(message.as_bytes())),
        rule_error: asked.and_then(|asked| asked.answer.as_ref().err()).map(|error| error.kind.as_str()),
        origin: value(ORIGIN).map(Escaped),
        origin_fields: count(fields, ORIGIN),
        host: Escaped(value(HOST).unwrap_or_default()),
        method: Escaped(request.head.method),
        target: request.head.target,
        requested_method: is_preflight.then(|| value(ACCESS_CONTROL_REQUEST_METHOD)).flatten().map(Escaped),
        requested_method_fields: if is_preflight { count(fields, ACCESS_CONTROL_REQUEST_METHOD) } else { 0 },
        requested_headers: requested_headers.as_deref().map(Escaped),
        sec_fetch_site: value(SEC_FETCH_SITE).map(Escaped),
        sec_fetch_site_fields: count(fields, SEC_FETCH_SITE),
        connection: connection.as_deref().map(Escaped),
        scheme: request.head.scheme.map(Scheme::as_str),
        protocol: Some(protocol(request.version)),
        has_credentials: value(COOKIE).or(value(AUTHORIZATION)).is_some(),
        status: request.status.map_or(0, |status| status.as_u16()),
        duration: request.took,
        upstream: meant.and_then(|()| Some(&*judged?.route?.upstream.name)),
        upstream_duration: request.upstream.and_then(|asked| asked.duration),
        client: forwarded::client(fields, request.peer),
        generation: request.snapshot.generation,
        note: if request.is_abandoned { Some(ABANDONED_NOTE) } else { note(request) },
    };
    log.write(filter(request.snapshot.settings.access_log), &record);
}

/// Logs a head that was refused before anybody's policy could apply to it, or a connection too many.
pub fn write_refused(
    log: &AccessLog,
    snapshot: &Snapshot,
    refusal: &Refusal,
    request_id: &str,
    client: Option<IpAddr>,
    version: Option<Version>,
) {
    let record = Record {
        time: SystemTime::now(),
        request_id,
        trace_id: None,
        tenant: NO_TENANT,
        route: None,
        policy: None,
        kind: Kind::NonCors,
        verdict: VerdictLabel::Deny,
        reason: refusal.reason,
        entry: None,
        rule_source: None,
        rule_message: None,
        rule_error: None,
        origin: None,
        origin_fields: 0,
        host: Escaped(b""),
        method: Escaped(b""),
        target: b"",
        requested_method: None,
        requested_method_fields: 0,
        requested_headers: None,
        sec_fetch_site: None,
        sec_fetch_site_fields: 0,
        connection: None,
        scheme: None,
        protocol: version.map(protocol),
        has_credentials: false,
        status: refusal.status.as_u16(),
        duration: Duration::ZERO,
        upstream: None,
        upstream_duration: None,
        client,
        generation: snapshot.generation,
        note: Some(refusal.detail),
    };
    log.write(filter(snapshot.settings.access_log), &record);
}

fn filter(configured: model::AccessLog) -> Filter {
    let level = match configured.level {
        LogLevel::All => Level::All,
        LogLevel::Denied => Level::Denied,
        LogLevel::Off => Level::Off,
    };
    Filter { level, sample: configured.sample }
}

fn verdict(judgement: &Judgement<'_>) -> VerdictLabel {
    match judgement {
        Judgement::Judged(judged) => judged.label(),
        Judgement::Refused(_) => VerdictLabel::Deny,
    }
}

/// What a judgement is in the log.
struct Told<'a> {
    judged: Option<&'a Judged<'a>>,
    tenant: &'a str,
    kind: Kind,
    reason: &'static str,
}

impl<'a> Told<'a> {
    fn of(judgement: &'a Judgement<'a>) -> Self {
        match judgement {
            Judgement::Judged(judged) => Told {
                judged: Some(judged),
                tenant: &judged.tenant.id,
                kind: judged.verdict.kind,
                reason: judged.reason().as_str(),
            },
            Judgement::Refused(refusal) => Told {
                judged: None,
                tenant: refusal.tenant.unwrap_or(NO_TENANT),
                kind: refusal.kind,
                reason: refusal.reason,
            },
        }
    }
}

/// As a request line of HTTP/1 has it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
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

fn note(request: &Finished<'_>) -> Option<&'static str> {
    match request.judgement {
        Judgement::Refused(refusal) => Some(refusal.detail),
        Judgement::Judged(judged) if proxy::is_denied_navigation(judged, request.head.headers) => Some(NAVIGATION_NOTE),
        Judgement::Judged(_) => match request.upstream_refusal {
            Some(refusal) => Some(refusal.as_str()),
            None => request.upstream?.error.map(UpstreamError::as_str),
        },
    }
}
