//! Advice about a request, in addition to its verdict.
//!
//! Some notes are about the description of the request, such as a truncated log line; the others
//! are about the judgement. Each note has one condition and one text.

use crossgate_policy::{CredentialFields, CrossSiteOutcome, Outcome, Policy, Reason, RequestKind};

use crate::cookies;
use crate::judge::{
    PolicyMatch, RequestAction, is_denied_cross_site_navigation, is_denied_navigation, is_navigation, route_request,
};
use crate::log_request::{CROSS_SITE_NAVIGATION_NOTE, NAVIGATION_NOTE};
use crate::request_head::RequestHead;
use crate::snapshot::Snapshot;
use crossgate_config::{Mode, UnmatchedRequests, show_text};
use crossgate_message::escape::EscapedBytes;
use crossgate_message::target::RequestTarget;

use super::Explanation;
use crate::probe::{ExplainedRequest, LoggedOutcome, SenderTrust};

const FORM_POST: &str = "if a form on another site posts here, as in single sign-on or after a payment, the route needs \
     `unmatchedRequests: Forward`: such requests are navigations, which CORS does not protect";
const PREFLIGHT_FIRST: &str = "a browser sends a preflight first for this method; explain that one too (--request-headers, or \
     request-headers= in a query)";
const FORWARDED_WITHOUT_CORS: &str = "denied but forwarded, because the route has `unmatchedRequests: Forward`: the upstream processes \
     the request, and the browser hides the response from the page";
const REPORT_ONLY: &str = "mode: Report protects nothing: the request is forwarded and the upstream's own CORS headers pass \
     unchanged";
const SOCKET_WITH_CREDENTIALS: &str = "browsers send cookies with WebSocket handshakes of any page: a policy that allows any \
     origin refuses handshakes with Cookie or Authorization; list the origins instead";
const EXPLAINED_PREFLIGHT: &str = "denied, and answered with 204 so that the browser's console names the refused method or header; the browser \
     blocks the request (`preflightFailures: Explain`)";
const CROSS_SITE_REPORT: &str =
    "`crossSite: Protect` would refuse this request: it comes from another site, and no entry covers its origin";
const CROSS_SITE_NAVIGATION: &str = "a form of another site has sent this request, and `crossSiteNavigations: Allow` forwards it: the upstream must \
     recognize what it has asked for itself, by a state or a token";
const COOKIES: &str = "the page is on another site than the API: browsers send it a cookie back only if that has \
     `SameSite=None; Secure`, and Safari never does";
/// The most notes on routes that were left out.
const LEFT_OUT_MAX: usize = 8;

const NO_ROUTE: &str = "no route of the tenant matches the path and method";

const HEALTH_CHECK: &str = "this path is the `healthPath` of a listener, which answers GET and HEAD of it for any host; this explanation \
     applies to the other listeners";

/// The cap on a recorded verdict or reason; real ones are shorter.
const LOGGED_LEN_MAX: usize = 32;
const UNTRUSTED_FIELDS: &str = "forwarding fields are ignored, because the sender is not trusted; for a request from one of the \
     listener's trustedProxies add --trusted, or trusted=true in a query";
const TRUNCATED: &str =
    "the record of this request contains truncated text, so the explanation may not match; explain the whole request";

/// Notes on the description of a request.
pub(super) fn of_probe(snapshot: &Snapshot, probe: &ExplainedRequest, explanation: &Explanation) -> Vec<String> {
    let logged = probe.logged.as_ref();
    let ignored_fields = claims_client(probe).then(|| UNTRUSTED_FIELDS.to_owned());
    let cut = logged.filter(|logged| logged.is_cut).map(|_| TRUNCATED.to_owned());
    let health_check = is_health_check(snapshot, probe).then(|| HEALTH_CHECK.to_owned());
    health_check
        .into_iter()
        .chain(ignored_fields)
        .chain(cut)
        .chain(logged.and_then(|logged| verdict_change(logged, explanation)))
        .collect()
}

fn is_health_check(snapshot: &Snapshot, probe: &ExplainedRequest) -> bool {
    let mut paths = snapshot.settings.listeners.iter().filter_map(|listener| listener.health_path.as_ref());
    paths.any(|path| path.value.is_health_check(&probe.method, &probe.target))
}

fn claims_client(probe: &ExplainedRequest) -> bool {
    let is_claim = |name: &str| name == "forwarded" || name.starts_with("x-forwarded-");
    probe.sender == SenderTrust::Untrusted && probe.fields.iter().any(|(name, _)| is_claim(name))
}

/// Notes a difference between the recorded verdict and that of this configuration.
fn verdict_change(logged: &LoggedOutcome, explanation: &Explanation) -> Option<String> {
    let now = (explanation.verdict.as_str(), explanation.reason);
    let then = (logged.verdict.as_deref().unwrap_or(now.0), logged.reason.as_deref().unwrap_or(now.1));
    (then != now).then(|| {
        format!(
            "the request got {}, {}, but this configuration gives {}, {}: the configuration has changed, or the verdict \
             depended on something that is not recorded, such as the query or truncated text",
            EscapedBytes::<LOGGED_LEN_MAX>(then.0.as_bytes()),
            EscapedBytes::<LOGGED_LEN_MAX>(then.1.as_bytes()),
            now.0,
            now.1,
        )
    })
}

/// Notes on a judged request.
pub(super) fn of(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> Vec<String> {
    let candidates = [
        (judged.action == RequestAction::NotFound, NO_ROUTE),
        (is_report(judged), REPORT_ONLY),
        (judged.action == RequestAction::ExplainPreflight, EXPLAINED_PREFLIGHT),
        (is_denied_navigation(judged, head), NAVIGATION_NOTE),
        (is_denied_cross_site_navigation(judged, head), CROSS_SITE_NAVIGATION_NOTE),
        (judged.cross_site == CrossSiteOutcome::WouldDeny, CROSS_SITE_REPORT),
        (judged.verdict.reason == Reason::Navigation, CROSS_SITE_NAVIGATION),
        (is_maybe_form_post(judged, head), FORM_POST),
        (is_forwarded_without_cors(judged), FORWARDED_WITHOUT_CORS),
        (is_refused_for_credentials(judged, head), SOCKET_WITH_CREDENTIALS),
        (needs_preflight(judged, head), PREFLIGHT_FIRST),
        (cookies::concerns(judged, head), COOKIES),
    ];
    candidates.into_iter().filter(|(applies, _)| *applies).map(|(_, note)| note.to_owned()).collect()
}

/// Notes on routes that come before the matched one and cover the path, but not the request.
pub(super) fn left_out(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> Vec<String> {
    let Ok(target) = RequestTarget::parse(head.target, head.method) else { return Vec::new() };
    let wanted = route_request(judged.verdict.kind, head, target.query());
    let mut notes = Vec::new();
    judged.tenant.find(target.path_for_matching(), |route| {
        let lacks = match route.accepts(wanted.method) {
            false => Some(format!("it is for {}", route.methods().collect::<Vec<_>>().join(", "))),
            true => {
                let unfulfilled = route.conditions.unfulfilled(wanted.fields, wanted.query);
                unfulfilled.map(|condition| format!("the request does not fulfil its condition on {condition}"))
            }
        };
        if let Some(lacks) = lacks.filter(|_| notes.len() < LEFT_OUT_MAX) {
            notes.push(format!("the route {} was left out: {lacks}", show_text(&route.path)));
        }
        route.takes(&wanted)
    });
    notes
}

fn is_report(judged: &PolicyMatch<'_>) -> bool {
    judged.route.is_some_and(|route| route.mode == Mode::Report && !route.answers_itself())
}

fn is_maybe_form_post(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    // An HTML form posts without a preflight. A browser without fetch metadata does not mark it as
    // a navigation.
    let is_denied = judged.action == RequestAction::Deny && judged.verdict.kind == RequestKind::Actual;
    let is_cors = judged.verdict.reason != Reason::CrossSite;
    is_denied && is_cors && head.method == b"POST" && !is_navigation(head)
}

fn is_forwarded_without_cors(judged: &PolicyMatch<'_>) -> bool {
    let forwards = judged.route.as_ref().is_some_and(|route| route.unmatched_requests == UnmatchedRequests::Forward);
    forwards && judged.action == RequestAction::Forward && judged.verdict.outcome == Outcome::Deny
}

fn is_refused_for_credentials(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    let is_any = judged.policy().is_some_and(Policy::allows_any);
    let is_refused = judged.verdict.kind == RequestKind::WebSocket && judged.verdict.reason == Reason::NoMatch;
    is_any && is_refused && head.known.credentials != CredentialFields::Absent
}

/// Methods that are not safelisted need a preflight
/// (<https://fetch.spec.whatwg.org/#cors-safelisted-method>).
fn needs_preflight(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    judged.verdict.kind == RequestKind::Actual && !matches!(head.method, b"GET" | b"HEAD" | b"POST")
}
