//! Turns a completed request into a line of the access log.
//!
//! The end of each request calls [`write()`]; refused heads and connections over the limit go to
//! [`write_refused`]. Both check level and sampling first. Absent on purpose: counting, which does
//! not depend on what is logged.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crossgate_policy::{CredentialFields, CrossSiteProtection, Policy, RequestKind, Scheme};
use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, HOST, ORIGIN};
use http::{HeaderName, StatusCode, Version};

use crate::access_log::{AccessLog, AccessLogLevel, LogFilter, LogOutcome, LogRecord};
use crate::judge;
use crate::judge::{Judgement, PolicyMatch};
use crate::metrics::{UpstreamError, UpstreamRefusal, VerdictLabel};
use crate::request_head::RequestHead;
use crate::snapshot::Snapshot;
use crossgate_config::LogLevel;
use crossgate_config::model;
use crossgate_config::model::NO_TENANT;
use crossgate_message::escape::EscapedBytes;
use crossgate_message::fields::HeaderFields;
use crossgate_message::fields::{SEC_FETCH_DEST, SEC_FETCH_MODE, SEC_FETCH_SITE};
use crossgate_message::forwarded::ConnectionPeer;
use crossgate_message::head_flaw::HeadFlaw;
use crossgate_message::hop_by_hop::is_connection_harmless;
use crossgate_message::{forwarded, trace_context};
use crossgate_wire::refusal::HeadRefusal;

/// The note on a denial that looks like single sign-on.
pub const NAVIGATION_NOTE: &str = "a cross-site navigation was refused; where single sign-on or a payment page returns here, \
     give this route `unmatchedRequests: Forward`";

/// The same under `crossSite: Protect`.
pub const CROSS_SITE_NAVIGATION_NOTE: &str = "a form post from another site was refused; where single sign-on or a payment page returns here, \
     give this route `crossSiteNavigations: Allow`";

/// The note on a request whose client left first.
const ABANDONED_NOTE: &str = "the client went away before the answer";

/// A request that has ended, with everything the log line needs.
pub struct CompletedRequest<'a> {
    pub version: Version,
    pub head: RequestHead<'a>,
    /// The other end of the connection.
    pub peer: ConnectionPeer,
    pub request_id: &'a str,
    pub snapshot: &'a Snapshot,
    pub judgement: &'a Judgement<'a>,
    /// The time since the head was complete.
    pub took: Duration,
    /// The response status; `None` if there was no response.
    pub status: Option<StatusCode>,
    /// Whether there is no response because the client closed the connection.
    pub is_abandoned: bool,
    /// The upstream exchange, if the request was sent.
    pub upstream: Option<UpstreamOutcome>,
    /// The fault in the upstream's response head, if that caused the failure.
    pub upstream_flaw: Option<&'a HeadFlaw>,
    /// The reason why the request was not sent to its upstream.
    pub upstream_refusal: Option<UpstreamRefusal>,
}

/// The end of an upstream exchange.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamOutcome {
    /// The time until the response head, if one came.
    pub duration: Option<Duration>,
    /// The failure of the last attempt.
    pub error: Option<UpstreamError>,
}

/// Whether the access log is on.
pub fn is_on(snapshot: &Snapshot) -> bool {
    match snapshot.settings.access_log.level {
        LogLevel::All | LogLevel::Denied => true,
        LogLevel::Off => false,
    }
}

/// Whether the level covers this judgement. Lets callers skip work for lines that would not be
/// written.
pub fn is_wanted(snapshot: &Snapshot, judgement: &Judgement<'_>) -> bool {
    log_filter(&snapshot.settings.access_log).covers(verdict_label(judgement))
}

/// Logs a completed request, if level and sampling select it.
pub fn write(log: &AccessLog, request: &CompletedRequest<'_>) {
    let settings = &request.snapshot.settings.access_log;
    if !log.should_log(log_filter(settings), verdict_label(request.judgement), request.outcome()) {
        return;
    }
    let fields = request.head.headers;
    let value = |name: HeaderName| fields.first(&name);
    let log_fields = VerdictFields::of(request.judgement);
    let judged = log_fields.judged;
    let rule_outcome = judged.and_then(|judged| judged.rule_outcome.as_ref());
    let is_preflight = log_fields.kind == RequestKind::Preflight;
    let requested_headers = is_preflight.then(|| joined_lines(fields, ACCESS_CONTROL_REQUEST_HEADERS)).flatten();
    let connection = || joined_lines(fields, CONNECTION);
    let checks_site = |policy: &Policy| policy.cross_site().protection != CrossSiteProtection::Off;
    let is_site_checked = judged.and_then(PolicyMatch::policy).is_some_and(checks_site);
    let now = SystemTime::now();
    let connection = (!is_connection_harmless(fields)).then(connection).flatten();
    let note = note(request);
    let intended_upstream = request.upstream.map(drop).or(request.upstream_refusal.map(drop));
    let headers = logged_headers(settings, fields);
    let record = LogRecord {
        time: now.checked_sub(request.took).unwrap_or(now),
        request_id: request.request_id,
        trace_id: trace_context::trace_id(request.head.known.traceparent),
        tenant: log_fields.tenant,
        route: judged.and_then(|judged| Some(&*judged.route?.path)),
        policy: judged.and_then(|judged| Some(&*judged.route?.policy_name)),
        kind: log_fields.kind,
        verdict: verdict_label(request.judgement),
        reason: log_fields.reason,
        entry: judged.and_then(|judged| Some(judged.policy()?.entry_text(judged.verdict.entry?))),
        group: judged.and_then(PolicyMatch::group_name),
        rule_source: rule_outcome.map(|outcome| outcome.source.as_str()),
        rule_message: judged.and_then(PolicyMatch::rule_message).map(|message| EscapedBytes(message.as_bytes())),
        rule_error: rule_outcome.and_then(|outcome| outcome.answer.as_ref().err()).map(|error| error.kind.as_str()),
        origin: value(ORIGIN).map(EscapedBytes),
        origin_fields: count_lines(fields, ORIGIN),
        host: EscapedBytes(value(HOST).unwrap_or_default()),
        method: EscapedBytes(request.head.method),
        target: request.head.target,
        requested_method: is_preflight.then(|| value(ACCESS_CONTROL_REQUEST_METHOD)).flatten().map(EscapedBytes),
        requested_method_fields: if is_preflight { count_lines(fields, ACCESS_CONTROL_REQUEST_METHOD) } else { 0 },
        requested_headers: requested_headers.as_deref().map(EscapedBytes),
        sec_fetch_site: value(SEC_FETCH_SITE).map(EscapedBytes),
        sec_fetch_site_fields: count_lines(fields, SEC_FETCH_SITE),
        sec_fetch_mode: value(SEC_FETCH_MODE).filter(|_| is_site_checked).map(EscapedBytes),
        sec_fetch_mode_fields: if is_site_checked { count_lines(fields, SEC_FETCH_MODE) } else { 0 },
        sec_fetch_dest: value(SEC_FETCH_DEST).filter(|_| is_site_checked).map(EscapedBytes),
        sec_fetch_dest_fields: if is_site_checked { count_lines(fields, SEC_FETCH_DEST) } else { 0 },
        connection: connection.as_deref().map(EscapedBytes),
        scheme: request.head.scheme.map(Scheme::as_str),
        protocol: Some(protocol_name(request.version)),
        has_credentials: request.head.known.credentials != CredentialFields::Absent,
        has_ambient_credentials: is_site_checked && request.head.known.credentials == CredentialFields::Ambient,
        status: request.status.map_or(0, |status| status.as_u16()),
        duration: request.took,
        upstream: intended_upstream.and_then(|()| Some(&*judged?.upstream()?.name)),
        upstream_path: intended_upstream.and_then(|()| judged?.rewritten_path()).map(EscapedBytes),
        upstream_duration: request.upstream.and_then(|upstream| upstream.duration),
        client: forwarded::client(fields, request.peer),
        generation: request.snapshot.generation,
        note: if request.is_abandoned { Some(ABANDONED_NOTE) } else { note.as_deref() },
        headers: &headers,
    };
    log.write(settings.fields, &record);
}

/// Logs a head that was refused before a policy applied, or a connection over the limit.
pub fn write_refused(
    log: &AccessLog,
    snapshot: &Snapshot,
    refusal: &HeadRefusal,
    request_id: &str,
    client: Option<IpAddr>,
    version: Option<Version>,
) {
    let settings = &snapshot.settings.access_log;
    let outcome = if refusal.status.is_server_error() { LogOutcome::Failed } else { LogOutcome::Answered };
    if !log.should_log(log_filter(settings), VerdictLabel::Deny, outcome) {
        return;
    }
    let record = LogRecord {
        time: SystemTime::now(),
        request_id,
        trace_id: None,
        tenant: NO_TENANT,
        route: None,
        policy: None,
        kind: RequestKind::NonCors,
        verdict: VerdictLabel::Deny,
        reason: refusal.reason,
        entry: None,
        group: None,
        rule_source: None,
        rule_message: None,
        rule_error: None,
        origin: None,
        origin_fields: 0,
        host: EscapedBytes(b""),
        method: EscapedBytes(b""),
        target: b"",
        requested_method: None,
        requested_method_fields: 0,
        requested_headers: None,
        sec_fetch_site: None,
        sec_fetch_site_fields: 0,
        sec_fetch_mode: None,
        sec_fetch_mode_fields: 0,
        sec_fetch_dest: None,
        sec_fetch_dest_fields: 0,
        connection: None,
        scheme: None,
        protocol: version.map(protocol_name),
        has_credentials: false,
        has_ambient_credentials: false,
        status: refusal.status.as_u16(),
        duration: Duration::ZERO,
        upstream: None,
        upstream_path: None,
        upstream_duration: None,
        client,
        generation: snapshot.generation,
        note: Some(refusal.detail),
        headers: &[],
    };
    log.write(settings.fields, &record);
}

impl CompletedRequest<'_> {
    fn outcome(&self) -> LogOutcome {
        let is_unanswered = self.status.is_none() && !self.is_abandoned;
        let is_failed = self.status.is_some_and(|status| status.is_server_error());
        let is_upstream_failed = self.upstream.is_some_and(|upstream| upstream.error.is_some());
        if is_unanswered || is_failed || is_upstream_failed { LogOutcome::Failed } else { LogOutcome::Answered }
    }
}

/// The request's header fields that `accessLog.headers` lists.
fn logged_headers<'a>(
    settings: &model::AccessLogSettings,
    fields: HeaderFields<'a>,
) -> Vec<(HeaderName, Cow<'a, [u8]>)> {
    settings.headers.iter().filter_map(|name| Some((name.clone(), joined_lines(fields, name.clone())?))).collect()
}

fn log_filter(configured: &model::AccessLogSettings) -> LogFilter {
    let level = match configured.level {
        LogLevel::All => AccessLogLevel::All,
        LogLevel::Denied => AccessLogLevel::Denied,
        LogLevel::Off => AccessLogLevel::Off,
    };
    LogFilter { level, sample: configured.sample, always: configured.always }
}

fn verdict_label(judgement: &Judgement<'_>) -> VerdictLabel {
    match judgement {
        Judgement::Judged(judged) => judged.label(),
        Judgement::Refused(_) => VerdictLabel::Deny,
    }
}

/// The log fields that depend on the kind of judgement.
struct VerdictFields<'a> {
    judged: Option<&'a PolicyMatch<'a>>,
    tenant: &'a str,
    kind: RequestKind,
    reason: &'static str,
}

impl<'a> VerdictFields<'a> {
    fn of(judgement: &'a Judgement<'a>) -> Self {
        match judgement {
            Judgement::Judged(judged) => VerdictFields {
                judged: Some(judged),
                tenant: &judged.tenant.id,
                kind: judged.verdict.kind,
                reason: judged.reason().as_str(),
            },
            Judgement::Refused(refusal) => VerdictFields {
                judged: None,
                tenant: refusal.tenant.unwrap_or(NO_TENANT),
                kind: refusal.kind,
                reason: refusal.reason,
            },
        }
    }
}

/// The protocol name, in the form of an HTTP/1 request line.
fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn count_lines(fields: HeaderFields<'_>, name: HeaderName) -> usize {
    fields.lines(&name).count()
}

/// Joins all lines of a field with commas, which RFC 9110, section 5.3, defines as equivalent.
fn joined_lines(fields: HeaderFields<'_>, name: HeaderName) -> Option<Cow<'_, [u8]>> {
    let mut lines = fields.lines(&name);
    let first = lines.next()?;
    let join = |all: Cow<'_, [u8]>, line: &[u8]| Cow::Owned([&all, &b","[..], line].concat());
    Some(lines.fold(Cow::Borrowed(first), join))
}

fn note(request: &CompletedRequest<'_>) -> Option<Cow<'static, str>> {
    match request.judgement {
        Judgement::Refused(refusal) => Some(refusal.detail.into()),
        Judgement::Judged(judged) if judge::is_denied_navigation(judged, &request.head) => Some(NAVIGATION_NOTE.into()),
        Judgement::Judged(judged) if judge::is_denied_cross_site_navigation(judged, &request.head) => {
            Some(CROSS_SITE_NAVIGATION_NOTE.into())
        }
        Judgement::Judged(_) => match request.upstream_refusal {
            Some(refusal) => Some(refusal.as_str().into()),
            None => {
                let error = request.upstream?.error?.as_str();
                let flaw = request.upstream_flaw;
                Some(flaw.map_or_else(|| error.into(), |flaw| format!("{error}: {flaw}").into()))
            }
        },
    }
}
