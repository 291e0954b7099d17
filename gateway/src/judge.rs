//! Judges a request: from its head to tenant, route, verdict and action.
//!
//! Judgement is a function of one snapshot, one head and the answer of a rule. The proxy's hooks
//! and `explain` both call it, so an explanation matches what happens. A request is judged once;
//! every later hook only reads the [`Judgement`]. The CORS rules are in the policy engine; this
//! module chooses the policy and turns its verdict into an action. Absent on purpose: sockets,
//! clocks, counters.

use std::convert::Infallible;

use crossgate_policy::{
    CorsRequest, CrossSiteOutcome, Decision, Outcome, OwnOrigin, Policy, Reason, RequestField, RequestKind,
    RequestedUpgrade, RuleAnswer, RuleContext, RuleInput, Verdict,
};
use http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use http::{HeaderName, HeaderValue, StatusCode};
use yoke::Yokeable;

use crate::metrics::VerdictLabel;
use crate::request_head::RequestHead;
use crate::route::{Route, RouteAction, RouteRequest};
use crate::snapshot::{HostMatch, Snapshot};
use crate::tenant::Tenant;
use crate::upstream::Upstream;
use crate::verdicts::{RuleOutcome, TenantRule};
use crossgate_config::{Mode, PreflightFailures, UnmatchedRequests};
use crossgate_message::field_edits::FieldEdits;
use crossgate_message::fields::NamedField;
use crossgate_message::hop_by_hop;
use crossgate_message::host::{Authority, parse_authority};
use crossgate_message::target::RequestTarget;

/// The result of judging a request head.
#[derive(Yokeable)]
pub enum Judgement<'s> {
    /// No policy applies.
    Refused(RequestRefusal<'s>),
    /// A tenant's policy applies.
    Judged(PolicyMatch<'s>),
}

/// The reason why no policy applies to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRefusal<'s> {
    /// 400, 421 or 503.
    pub status: StatusCode,
    /// The reason in the response and the access log: `bad_request`, `misdirected`, `unknown_host`
    /// or `broken_tenant`.
    pub reason: &'static str,
    /// The explanation in the response.
    pub detail: &'static str,
    /// The request kind, which does not depend on a policy.
    pub kind: RequestKind,
    /// The tenant that owns the host, if the `Host` field could be read.
    pub tenant: Option<&'s str>,
}

/// The part of a refusal that depends only on the fault.
#[derive(Clone, Copy)]
struct RefusalGround {
    status: StatusCode,
    reason: &'static str,
    detail: &'static str,
}

/// A request to which a tenant's policy applies. Borrows from the snapshot that judged it.
pub struct PolicyMatch<'s> {
    /// The tenant that owns the host.
    pub tenant: &'s Tenant,
    /// The matching route, or else the tenant's own policy as a route.
    pub route: Option<&'s Route>,
    /// The verdict. Without a route, [`Reason::UnknownRoute`].
    pub verdict: Verdict,
    /// The check of a request from another site, which the verdict includes.
    pub cross_site: CrossSiteOutcome,
    /// The answer of the policy's rule, if one was run or cached.
    pub rule_outcome: Option<RuleOutcome>,
    /// The action that the verdict leads to.
    pub action: RequestAction,
    /// The target that the upstream receives, if the client sent another: in canonical form, and
    /// rewritten by the route.
    pub rewritten: Option<String>,
    /// The `Location` of the route's redirect.
    pub location: Option<HeaderValue>,
    /// The headers that the choice of the route depended on.
    pub route_vary: Vec<&'s HeaderName>,
}

/// The action for a judged request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestAction {
    /// Answer an allowed preflight.
    AnswerPreflight,
    /// Answer a preflight that is denied for its method or headers, so that the browser can name
    /// them.
    ExplainPreflight,
    /// Answer a denied request.
    Deny,
    /// Answer 404: no route matches.
    NotFound,
    /// Forward to the upstream, and add the policy's headers to the response; after a denial there
    /// are no headers to add.
    Forward,
    /// Forward and return unchanged: the policy only reports.
    Report,
    /// Answer with the redirect or the fixed response of the route, and the policy's headers.
    AnswerHere,
}

impl<'s> PolicyMatch<'s> {
    /// The policy that applies, if a route was found.
    pub fn policy(&self) -> Option<&'s Policy> {
        self.route.map(|route| &*route.policy)
    }

    /// The upstream that the request is forwarded to, if it is.
    pub fn upstream(&self) -> Option<&'s Upstream> {
        self.route?.upstream().map(|upstream| &**upstream)
    }

    /// The path that the route rewrites for the upstream, without the query.
    pub fn rewritten_path(&self) -> Option<&[u8]> {
        self.route?.rewrite()?.path.as_ref()?;
        self.rewritten.as_deref()?.split('?').next().map(str::as_bytes)
    }

    /// The configured changes of the response.
    pub fn response_edits(&self) -> Option<&'s FieldEdits> {
        match self.route {
            Some(route) => route.response_edits.as_deref(),
            None => self.tenant.spec.response_headers.as_deref(),
        }
    }

    /// The name of the group whose terms apply, if it is not the policy itself.
    pub fn group_name(&self) -> Option<&str> {
        self.policy()?.group_name(self.verdict.group)
    }

    /// The rule author's message to a denied client.
    pub fn rule_message(&self) -> Option<&str> {
        match &self.rule_outcome.as_ref()?.answer {
            Ok(RuleAnswer::Deny(message)) => message.as_deref(),
            Ok(RuleAnswer::Allow { .. } | RuleAnswer::Abstain) | Err(_) => None,
        }
    }

    /// The verdict's label in metrics and logs.
    pub fn label(&self) -> VerdictLabel {
        let only_reports = || self.route.is_some_and(|route| route.mode == Mode::Report);
        match self.action {
            RequestAction::Report => VerdictLabel::reported(self.verdict.outcome),
            RequestAction::AnswerHere if only_reports() => VerdictLabel::reported(self.verdict.outcome),
            RequestAction::Forward | RequestAction::AnswerHere if self.cross_site == CrossSiteOutcome::WouldDeny => {
                VerdictLabel::WouldDeny
            }
            RequestAction::AnswerPreflight
            | RequestAction::ExplainPreflight
            | RequestAction::Deny
            | RequestAction::AnswerHere
            | RequestAction::Forward => VerdictLabel::enforced(self.verdict.outcome),
            RequestAction::NotFound => VerdictLabel::Deny,
        }
    }

    /// The reason's label. A missing route has priority over the policy's reason.
    pub fn reason(&self) -> Reason {
        match self.action {
            RequestAction::NotFound => Reason::UnknownRoute,
            RequestAction::Forward | RequestAction::AnswerHere if self.cross_site == CrossSiteOutcome::WouldDeny => {
                Reason::CrossSite
            }
            RequestAction::AnswerPreflight
            | RequestAction::ExplainPreflight
            | RequestAction::Deny
            | RequestAction::Forward
            | RequestAction::AnswerHere
            | RequestAction::Report => self.verdict.reason,
        }
    }
}

const fn bad_request(detail: &'static str) -> RefusalGround {
    RefusalGround { status: StatusCode::BAD_REQUEST, reason: "bad_request", detail }
}

const CONNECTION: RefusalGround = bad_request(
    "invalid Connection field: expected a list of names, without fields that the gateway or the upstream needs",
);
const HOST: RefusalGround = bad_request("invalid Host field: expected a host name with an optional port");
const TARGET: RefusalGround = bad_request("invalid request target: expected a path with only one meaning");
const AMBIGUOUS_PATH: RefusalGround =
    bad_request("ambiguous path, which may match another route: use slashes, dots and case as in the route");
const AUTHORITY: RefusalGround = bad_request("the request target and the Host field name different hosts");
const UNKNOWN_HOST: RefusalGround = RefusalGround {
    status: StatusCode::MISDIRECTED_REQUEST,
    reason: "unknown_host",
    detail: "no tenant has this host",
};
const MISDIRECTED: RefusalGround = RefusalGround {
    status: StatusCode::MISDIRECTED_REQUEST,
    reason: "misdirected",
    detail: "the certificate of this connection does not cover this host: open a new connection with this host in SNI",
};
const BROKEN_TENANT: RefusalGround = RefusalGround {
    status: StatusCode::SERVICE_UNAVAILABLE,
    reason: "broken_tenant",
    detail: "the configuration of this host's tenant is broken",
};

/// Judges a request under one snapshot. `ask` gets a rule's answer: on the live path from the cache
/// or a run, for `explain` from a run without counting.
pub fn judge<'s>(
    snapshot: &'s Snapshot,
    head: &RequestHead<'_>,
    ask: impl FnOnce(&TenantRule, &RuleInput<'_>) -> RuleOutcome,
) -> Judgement<'s> {
    let Ok(judgement) = judge_unless(snapshot, head, |_| Ok::<(), Infallible>(()), ask);
    judgement
}

/// Judges a request unless `check` rejects the route; then nothing is decided and no rule runs.
///
/// # Errors
/// The error of `check`.
pub fn judge_unless<'s, E>(
    snapshot: &'s Snapshot,
    head: &RequestHead<'_>,
    check: impl FnOnce(&Route) -> Result<(), E>,
    ask: impl FnOnce(&TenantRule, &RuleInput<'_>) -> RuleOutcome,
) -> Result<Judgement<'s>, E> {
    match locate(snapshot, head) {
        Ok((tenant, authority, target)) => decide(tenant, &authority, &target, head, check, ask).map(Judgement::Judged),
        Err(ground) => Ok(Judgement::Refused(refuse(snapshot, head, ground))),
    }
}

/// Completes a refusal with kind and tenant. A host that cannot be parsed equals no origin.
fn refuse<'s>(snapshot: &'s Snapshot, head: &RequestHead<'_>, ground: RefusalGround) -> RequestRefusal<'s> {
    let authority = parse_host(head).ok();
    let tenant = match authority.as_ref().and_then(|authority| snapshot.tenant(&authority.host)) {
        Some(HostMatch::Tenant(tenant)) => Some(&*tenant.id),
        Some(HostMatch::Broken) | None => None,
    };
    let no_origin = OwnOrigin { host: "", port: None, scheme: head.scheme };
    let own = authority.as_ref().map_or(no_origin, |authority| own_origin(authority, head));
    let kind = with_request(head, own, |request| request.classify());
    let RefusalGround { status, reason, detail } = ground;
    RequestRefusal { status, reason, detail, kind, tenant }
}

type Located<'s, 'a> = (&'s Tenant, Authority<'a>, RequestTarget<'a>);

fn locate<'s, 'a>(snapshot: &'s Snapshot, head: &RequestHead<'a>) -> Result<Located<'s, 'a>, RefusalGround> {
    // Hop-by-hop attack: the next hop removes every field that `Connection` lists (RFC 9110,
    // section 7.6.1), so listing `Origin` would remove it.
    if head.known.connection != RequestField::Absent && !hop_by_hop::is_connection_harmless(head.headers) {
        return Err(CONNECTION);
    }
    let authority = parse_host(head)?;
    let target = RequestTarget::parse(head.target, head.method).map_err(|_| TARGET)?;
    // RFC 9112, section 3.2.2: a target in absolute form replaces `Host`; two different hosts could
    // be routed differently by the next hop.
    if target.authority().is_some_and(|named| RequestField::One(named.as_bytes()) != head.known.host) {
        return Err(AUTHORITY);
    }
    // RFC 9110, section 7.4: the client validated one tenant's certificate on this connection, and
    // must not reach another tenant's host on it.
    if head.certificate.is_some_and(|certificate| !certificate.covers(&authority.host)) {
        return Err(MISDIRECTED);
    }
    match snapshot.tenant(&authority.host) {
        Some(HostMatch::Tenant(tenant)) if is_ambiguous(tenant, &target, head) => Err(AMBIGUOUS_PATH),
        Some(HostMatch::Tenant(tenant)) => Ok((tenant, authority, target)),
        Some(HostMatch::Broken) => Err(BROKEN_TENANT),
        None => Err(UNKNOWN_HOST),
    }
}

/// A preflight is about another request, so that request's method is checked too.
fn is_ambiguous(tenant: &Tenant, target: &RequestTarget<'_>, head: &RequestHead<'_>) -> bool {
    let path = target.path_for_matching();
    let query = target.query();
    let own = RouteRequest { method: head.method, fields: Some(head.headers), query };
    match head.known.requested_method {
        RequestField::One(requested) if head.method == b"OPTIONS" => {
            tenant.is_ambiguous(path, &[own, RouteRequest { method: requested, fields: None, query }])
        }
        RequestField::Absent | RequestField::One(_) | RequestField::Many => tenant.is_ambiguous(path, &[own]),
    }
}

fn parse_host<'a>(head: &RequestHead<'a>) -> Result<Authority<'a>, RefusalGround> {
    // Exactly one `Host` line is valid (RFC 9112, section 3.2).
    let RequestField::One(host) = head.known.host else { return Err(HOST) };
    parse_authority(host).map_err(|_| HOST)
}

fn own_origin<'a>(authority: &'a Authority<'_>, head: &RequestHead<'_>) -> OwnOrigin<'a> {
    OwnOrigin { host: &authority.host, port: authority.port, scheme: head.scheme }
}

fn decide<'s, E>(
    tenant: &'s Tenant,
    authority: &Authority<'_>,
    target: &RequestTarget<'_>,
    head: &RequestHead<'_>,
    check: impl FnOnce(&Route) -> Result<(), E>,
    ask: impl FnOnce(&TenantRule, &RuleInput<'_>) -> RuleOutcome,
) -> Result<PolicyMatch<'s>, E> {
    with_request(head, own_origin(authority, head), |request| {
        let kind = request.classify();
        tenant.counters.prefetch(kind);
        #[cfg(test)]
        crate::fault::panic_at("judging", head.target);
        let wanted = route_request(kind, head, target.query());
        let matched = tenant.route(target.path_for_matching(), &wanted);
        let route_vary = header_names(tenant, target, &wanted, matched);
        let has_route = matched.is_some();
        let route = matched.or_else(|| tenant.fallback());
        if let Some(route) = route {
            route.handles.prefetch();
            check(route)?;
        }
        let (mut verdict, rule_outcome) = match route {
            Some(route) => decide_with_rule(route, request, |route| rule_context(tenant, route, target, head), ask),
            None => (Verdict::unknown_route(kind), None),
        };
        let check = |route: &Route| route.policy.check_cross_site(request, &verdict, route.cross_site_navigations);
        let cross_site = route.map_or(CrossSiteOutcome::Passes, check);
        cross_site.apply(&mut verdict);
        let location = match route.map(|route| &route.action) {
            Some(RouteAction::Redirect(redirect)) => redirect.location(target, authority, head.scheme),
            Some(RouteAction::Forward(_) | RouteAction::Respond(_) | RouteAction::NotFound) | None => None,
        };
        let has_answer = has_route && (route.is_none_or(|route| !route.redirects()) || location.is_some());
        let action = choose_action(&verdict, request, route, has_answer);
        let rewritten = sent_target(route, target, head);
        Ok(PolicyMatch { tenant, route, verdict, cross_site, rule_outcome, action, rewritten, location, route_vary })
    })
}

/// What selects the route of a request. A preflight is about another request, so that request's
/// method selects it.
pub(crate) fn route_request<'a>(kind: RequestKind, head: &RequestHead<'a>, query: &'a str) -> RouteRequest<'a> {
    match (kind, head.known.requested_method) {
        (RequestKind::Preflight, RequestField::One(method)) => RouteRequest { method, fields: None, query },
        _ => RouteRequest { method: head.method, fields: Some(head.headers), query },
    }
}

/// The names of the headers that routes before the matched one, and that one, expect.
fn header_names<'s>(
    tenant: &'s Tenant,
    target: &RequestTarget<'_>,
    wanted: &RouteRequest<'_>,
    matched: Option<&Route>,
) -> Vec<&'s HeaderName> {
    let mut names = Vec::new();
    if !tenant.has_header_conditions || wanted.fields.is_none() {
        return names;
    }
    tenant.find(target.path_for_matching(), |route| {
        if route.accepts(wanted.method) {
            names.extend(route.conditions.header_names());
        }
        matched.is_some_and(|matched| std::ptr::eq(matched, route))
    });
    names.sort_unstable_by_key(|name| name.as_str());
    names.dedup();
    names
}

/// The target for the upstream, if it differs from the client's. A path that the rewrite has no
/// result for is refused before.
fn sent_target(route: Option<&Route>, target: &RequestTarget<'_>, head: &RequestHead<'_>) -> Option<String> {
    let change = route.and_then(Route::rewrite).and_then(|rewrite| rewrite.path.as_ref());
    if let Some(changed) = change.and_then(|change| change.apply(target)) {
        return Some(changed);
    }
    let sent = target.upstream();
    (sent.as_bytes() != head.target).then(|| sent.to_owned())
}

/// The policy's verdict, and the rule's answer if it was needed.
fn decide_with_rule<'a>(
    route: &'a Route,
    request: &'a CorsRequest<'a>,
    rule_context: impl FnOnce(&'a Route) -> RuleContext<'a>,
    ask: impl FnOnce(&TenantRule, &RuleInput<'_>) -> RuleOutcome,
) -> (Verdict, Option<RuleOutcome>) {
    let decision = route.policy.decide(request);
    let (Decision::Ask(call), Some(rule)) = (&decision, &route.rule) else {
        return (decision.without_rule(), None);
    };
    let rule_outcome = ask(rule, &call.input(&rule_context(route)));
    (call.conclude(rule_outcome.answer.as_ref().map_err(|error| error.kind)), Some(rule_outcome))
}

fn rule_context<'a>(
    tenant: &'a Tenant,
    route: &'a Route,
    target: &'a RequestTarget<'_>,
    head: &'a RequestHead<'a>,
) -> RuleContext<'a> {
    RuleContext {
        tenant: &tenant.id,
        route: &route.path,
        path: target.path_for_matching(),
        query: target.query(),
        headers: &head.headers,
    }
}

fn choose_action(
    verdict: &Verdict,
    request: &CorsRequest<'_>,
    route: Option<&Route>,
    has_route: bool,
) -> RequestAction {
    let Some(route) = route else { return RequestAction::NotFound };
    if route.answers_itself() && has_route {
        return choose_own_answer(verdict, request, route);
    }
    match (route.mode, verdict.kind, verdict.outcome) {
        (Mode::Report, _, _) if has_route => RequestAction::Report,
        (Mode::Report, _, _) => RequestAction::NotFound,
        (Mode::Enforce, RequestKind::Preflight, Outcome::Deny) if is_explained(route, verdict, request) => {
            RequestAction::ExplainPreflight
        }
        // Cross-site WebSocket hijacking: browsers let any page open a WebSocket and read it, so a
        // denied handshake is not forwarded even with `unmatchedRequests: Forward`.
        (Mode::Enforce, RequestKind::Preflight | RequestKind::WebSocket, Outcome::Deny) => RequestAction::Deny,
        (Mode::Enforce, _, Outcome::Deny) if verdict.reason == Reason::CrossSite => RequestAction::Deny,
        (Mode::Enforce, _, Outcome::Deny) if route.unmatched_requests == UnmatchedRequests::Reject => {
            RequestAction::Deny
        }
        (Mode::Enforce, _, _) if !has_route => RequestAction::NotFound,
        (Mode::Enforce, RequestKind::Preflight, Outcome::Allow) => RequestAction::AnswerPreflight,
        (Mode::Enforce, _, _) => RequestAction::Forward,
    }
}

/// The action on a route without an upstream. A policy that only reports denies nothing, but its
/// headers are sent: there is no upstream that would send others.
fn choose_own_answer(verdict: &Verdict, request: &CorsRequest<'_>, route: &Route) -> RequestAction {
    match (verdict.kind, verdict.outcome) {
        (RequestKind::Preflight, Outcome::Allow) => RequestAction::AnswerPreflight,
        (RequestKind::Preflight, Outcome::Deny) if is_explained(route, verdict, request) => {
            RequestAction::ExplainPreflight
        }
        (RequestKind::Preflight, Outcome::Deny) => RequestAction::Deny,
        (_, Outcome::Deny) if route.mode == Mode::Report => RequestAction::AnswerHere,
        (RequestKind::WebSocket, Outcome::Deny) => RequestAction::Deny,
        (_, Outcome::Deny) if verdict.reason == Reason::CrossSite => RequestAction::Deny,
        (_, Outcome::Deny) if route.unmatched_requests == UnmatchedRequests::Reject => RequestAction::Deny,
        (_, Outcome::Allow | Outcome::Deny) => RequestAction::AnswerHere,
    }
}

fn is_explained(route: &Route, verdict: &Verdict, request: &CorsRequest<'_>) -> bool {
    match route.preflight_failures {
        PreflightFailures::Explain => route.policy.is_explainable(verdict, request),
        PreflightFailures::Reject => false,
    }
}

/// Calls `then` with the CORS view of a head.
pub fn with_request<R>(head: &RequestHead<'_>, own: OwnOrigin<'_>, then: impl FnOnce(&CorsRequest<'_>) -> R) -> R {
    let lines = NamedField { fields: head.headers, name: ACCESS_CONTROL_REQUEST_HEADERS };
    let noted = &head.known;
    let is_websocket = noted.upgrade != RequestField::Absent && hop_by_hop::requests_websocket(head.headers);
    then(&CorsRequest {
        method: head.method,
        origin: noted.origin,
        requested_method: noted.requested_method,
        requested_headers: &lines,
        sec_fetch_site: noted.sec_fetch_site,
        sec_fetch_mode: noted.sec_fetch_mode,
        sec_fetch_dest: noted.sec_fetch_dest,
        own,
        upgrade: if is_websocket { RequestedUpgrade::WebSocket } else { RequestedUpgrade::None },
        credentials: noted.credentials,
    })
}

/// Whether `Sec-Fetch-Mode` marks a navigation: a user follows a link or submits a form.
pub fn is_navigation(head: &RequestHead<'_>) -> bool {
    head.known.sec_fetch_mode == RequestField::One(b"navigate")
}

/// Whether a navigation was denied, which `unmatchedRequests: Forward` would permit.
pub fn is_denied_navigation(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    let is_cors = judged.verdict.kind == RequestKind::Actual && judged.verdict.reason != Reason::CrossSite;
    is_cors && is_navigation(head) && is_enforced_denial(judged)
}

/// Whether a navigation with a method such as `POST` was denied as it comes from another site,
/// which `crossSiteNavigations: Allow` would permit.
pub fn is_denied_cross_site_navigation(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> bool {
    let is_write = !matches!(head.method, b"GET" | b"HEAD");
    is_write && judged.verdict.reason == Reason::CrossSite && is_navigation(head) && is_enforced_denial(judged)
}

fn is_enforced_denial(judged: &PolicyMatch<'_>) -> bool {
    let enforces = judged.route.is_some_and(|route| route.mode == Mode::Enforce);
    enforces && judged.action == RequestAction::Deny
}
