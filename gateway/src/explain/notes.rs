//! What somebody who asks about a request should consider, beyond its verdict.

use crossgate_policy::{Kind, Outcome, Reason};

use crate::access_log::Escaped;
use crate::config::{Mode, UnmatchedRequests};
use crate::judge::{Action, HeadView, Judged, is_navigation};
use crate::log_request::NAVIGATION_NOTE;
use crate::proxy::is_denied_navigation;

use super::Explanation;
use super::probe::{Logged, Probe, Sender};

const FORM_POST: &str = "if a form on another site posts here, as in single sign-on or after a payment, the route needs \
     `unmatchedRequests: Forward`: such requests are navigations, which CORS does not protect";
const PREFLIGHT_FIRST: &str = "a browser asks for this method with a preflight first; explain that one too (--request-headers, \
     or request-headers= in a query)";
const FORWARDED_BARE: &str = "denied, and yet forwarded, since the route has `unmatchedRequests: Forward`: the upstream acts \
     on it, and the page may not read the answer";
const REPORT_ONLY: &str = "mode: Report protects nothing: the request is forwarded and the upstream's own CORS headers pass \
     untouched";
const SOCKET_WITH_CREDENTIALS: &str = "browsers send cookies with WebSockets of any page: where the policy allows any origin, \
     one with Cookie or Authorization is refused; list the origins instead";
const NO_ROUTE: &str = "no route of the tenant matches the path and method";

/// Longer than any verdict or reason.
const LOGGED_LEN_MAX: usize = 32;
const NOT_BELIEVED: &str = "forwarding fields are ignored, as a stranger's are; if one of the listener's trustedProxies sends the \
     request, say so (--trusted, or trusted=true in a query)";
const CUT: &str =
    "the log cut a text of this request, so what is explained may be another request; ask with the whole one";

/// What there is to say of the description of a request.
pub(super) fn of_probe(probe: &Probe, told: &Explanation) -> Vec<String> {
    let logged = probe.logged.as_ref();
    let told_not_believed = claims_client(probe).then(|| NOT_BELIEVED.to_owned());
    let cut = logged.filter(|logged| logged.is_cut).map(|_| CUT.to_owned());
    told_not_believed.into_iter().chain(cut).chain(logged.and_then(|logged| changed(logged, told))).collect()
}

fn claims_client(probe: &Probe) -> bool {
    let is_claim = |name: &str| name == "forwarded" || name.starts_with("x-forwarded-");
    probe.sender == Sender::Stranger && probe.fields.iter().any(|(name, _)| is_claim(name))
}

/// The log knows better what happened; this configuration, what would happen now.
fn changed(logged: &Logged, told: &Explanation) -> Option<String> {
    let now = (told.verdict.as_str(), told.reason);
    let then = (logged.verdict.as_deref().unwrap_or(now.0), logged.reason.as_deref().unwrap_or(now.1));
    (then != now).then(|| {
        format!(
            "the log has {}, {}, and this configuration gives {}, {}: it has changed since, or the verdict hung on \
             something that is not logged, such as the query or a text that was cut",
            Escaped::<LOGGED_LEN_MAX>(then.0.as_bytes()),
            Escaped::<LOGGED_LEN_MAX>(then.1.as_bytes()),
            now.0,
            now.1,
        )
    })
}

/// What there is to consider.
pub(super) fn of(judged: &Judged<'_>, head: &HeadView<'_>) -> Vec<String> {
    let considered = [
        (judged.action == Action::NotFound, NO_ROUTE),
        (is_report(judged), REPORT_ONLY),
        (is_denied_navigation(judged, head.headers), NAVIGATION_NOTE),
        (is_maybe_form_post(judged, head), FORM_POST),
        (is_forwarded_bare(judged), FORWARDED_BARE),
        (is_refused_for_credentials(judged, head), SOCKET_WITH_CREDENTIALS),
        (needs_preflight(judged, head), PREFLIGHT_FIRST),
    ];
    considered.into_iter().filter(|(applies, _)| *applies).map(|(_, note)| note.to_owned()).collect()
}

fn is_report(judged: &Judged<'_>) -> bool {
    judged.route.as_ref().is_some_and(|route| route.mode == Mode::Report)
}

fn is_maybe_form_post(judged: &Judged<'_>, head: &HeadView<'_>) -> bool {
    let is_denied = judged.action == Action::Deny && judged.verdict.kind == Kind::Actual;
    is_denied && head.method == b"POST" && !is_navigation(head.headers)
}

fn is_forwarded_bare(judged: &Judged<'_>) -> bool {
    let forwards = judged.route.as_ref().is_some_and(|route| route.unmatched_requests == UnmatchedRequests::Forward);
    forwards && judged.action == Action::Forward && judged.verdict.outcome == Outcome::Deny
}

fn is_refused_for_credentials(judged: &Judged<'_>, head: &HeadView<'_>) -> bool {
    let is_any = judged.policy().is_some_and(|policy| !policy.depends_on_origin());
    let is_refused = judged.verdict.kind == Kind::WebSocket && judged.verdict.reason == Reason::NoMatch;
    is_any && is_refused && head.noted.has_credentials
}

/// <https://fetch.spec.whatwg.org/#cors-safelisted-method>
fn needs_preflight(judged: &Judged<'_>, head: &HeadView<'_>) -> bool {
    judged.verdict.kind == Kind::Actual && !matches!(head.method, b"GET" | b"HEAD" | b"POST")
}
