//! From a request's head to what is done with it: tenant, route, verdict, action.
//!
//! A function of one snapshot, one head and what a rule answers. The proxy's hooks and `explain` both call it, so what is explained is what
//! happens. It decides once; every later hook only reads the [`Judgement`]. The CORS rules themselves are the policy
//! engine's; what is here is whose policy applies and what its verdict means for the request. Absent on purpose: sockets,
//! clocks, counters.

use std::convert::Infallible;

use crossgate_policy::{
    Answer, Credentials, Decision, Field, Kind, Outcome, OwnOrigin, Policy, Reason, Request, RuleInput, Scheme,
    Surroundings, Upgrade, Verdict,
};
use http::StatusCode;
use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, HeaderName};

use crate::config::{Mode, UnmatchedRequests};
use crate::fields::{Fields, Named, Noted};
use crate::forwarded::{self, Peer};
use crate::hop_by_hop;
use crate::host::{Authority, parse_authority};
use crate::metrics::VerdictLabel;
use crate::snapshot::{HostMatch, Snapshot};
use crate::target::Target;
use crate::tenant::{Route, Tenant};
use crate::tls::Shown;
use crate::verdicts::{Asked, RuleSeat};

/// The head of a request, as far as judging needs it.
#[derive(Clone, Copy)]
pub struct HeadView<'a> {
    /// As sent.
    pub method: &'a [u8],
    /// As sent.
    pub target: &'a [u8],
    /// All fields.
    pub headers: Fields<'a>,
    /// Those that are looked at every time.
    pub noted: Noted<'a>,
    /// The scheme the client used, where that is known: from TLS, or a trusted proxy's word.
    pub scheme: Option<Scheme>,
    /// The certificate that the client was shown, over TLS.
    pub shown: Option<&'a Shown>,
}

impl<'a> HeadView<'a> {
    /// Of a request that `peer` has sent.
    pub fn new(method: &'a [u8], target: &'a [u8], headers: Fields<'a>, peer: Peer) -> Self {
        HeadView::noted(method, target, headers, Noted::of(headers), peer)
    }

    /// Of one whose fields have been looked at.
    pub fn noted(method: &'a [u8], target: &'a [u8], headers: Fields<'a>, noted: Noted<'a>, peer: Peer) -> Self {
        HeadView { method, target, headers, noted, scheme: forwarded::scheme(&noted, peer), shown: None }
    }

    /// The same over TLS, from a client that was shown a certificate; nothing changes where it was shown none. A trusted proxy's word
    /// on the scheme goes before.
    #[must_use]
    pub fn over(self, shown: Option<&'a Shown>) -> Self {
        HeadView { scheme: self.scheme.or(shown.map(|_| Scheme::Https)), shown, ..self }
    }
}

/// What became of a request's head.
pub enum Judgement<'s> {
    /// Nobody's policy applies.
    Refused(Refusal<'s>),
    /// Some tenant's does.
    Judged(Judged<'s>),
}

/// Why no policy applies to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'s> {
    /// 400, 421 or 503.
    pub status: StatusCode,
    /// For the answer and the access log: `bad_request`, `misdirected`, `unknown_host` or `broken_tenant`.
    pub reason: &'static str,
    /// For whoever reads the answer.
    pub detail: &'static str,
    /// What the request is to CORS all the same.
    pub kind: Kind,
    /// Whose host it is, where the `Host` field says that much.
    pub tenant: Option<&'s str>,
}

/// The part of a refusal that hangs on nothing but what is wrong.
#[derive(Clone, Copy)]
struct Ground {
    status: StatusCode,
    reason: &'static str,
    detail: &'static str,
}

/// A request for which one tenant's policy speaks. It points into the snapshot that it was judged by.
pub struct Judged<'s> {
    /// Whose host it is.
    pub tenant: &'s Tenant,
    /// The route, or the tenant's own policy where no route matches.
    pub route: Option<&'s Route>,
    /// What the policy says. Without a route, [`Reason::UnknownRoute`].
    pub verdict: Verdict,
    /// What the policy's rule said, where it was asked.
    pub asked: Option<Asked>,
    /// What is done.
    pub action: Action,
    /// The target in canonical form, where it was not sent so.
    pub rewritten: Option<String>,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An allowed preflight is answered here.
    AnswerPreflight,
    /// A denied request is answered here.
    Deny,
    /// No route matches.
    NotFound,
    /// To the upstream; the answer gets the policy's headers, which are none after a denial.
    Forward,
    /// To the upstream and back untouched: the policy only reports.
    Report,
}

impl<'s> Judged<'s> {
    /// The policy that speaks, if any does.
    pub fn policy(&self) -> Option<&'s Policy> {
        self.route.map(|route| &*route.policy)
    }

    /// What the author of a rule has to say to whoever is denied.
    pub fn rule_message(&self) -> Option<&str> {
        match &self.asked.as_ref()?.answer {
            Ok(Answer::Deny(message)) => message.as_deref(),
            Ok(Answer::Allow(_) | Answer::Abstain) | Err(_) => None,
        }
    }

    /// The verdict's label in metrics and logs.
    pub fn label(&self) -> VerdictLabel {
        match self.action {
            Action::Report => VerdictLabel::reported(self.verdict.outcome),
            Action::AnswerPreflight | Action::Deny | Action::Forward => VerdictLabel::enforced(self.verdict.outcome),
            Action::NotFound => VerdictLabel::Deny,
        }
    }

    /// The reason's label: a missing route outweighs what the policy says.
    pub fn reason(&self) -> Reason {
        match self.action {
            Action::NotFound => Reason::UnknownRoute,
            Action::AnswerPreflight | Action::Deny | Action::Forward | Action::Report => self.verdict.reason,
        }
    }
}

const fn bad_request(detail: &'static str) -> Ground {
    Ground { status: StatusCode::BAD_REQUEST, reason: "bad_request", detail }
}

const CONNECTION: Ground = bad_request(
    "the Connection field names a field that must reach the gateway or the upstream, or is not a list of names",
);
const HOST: Ground = bad_request("the Host field is not a host name with an optional port");
const TARGET: Ground = bad_request("the request target is not a path in a form that has one meaning");
const AUTHORITY: Ground = bad_request("the request target names another host than the Host field");
const UNKNOWN_HOST: Ground =
    Ground { status: StatusCode::MISDIRECTED_REQUEST, reason: "unknown_host", detail: "no tenant has this host" };
const MISDIRECTED: Ground = Ground {
    status: StatusCode::MISDIRECTED_REQUEST,
    reason: "misdirected",
    detail: "the certificate of this connection is not for this host; open another connection, which names the host",
};
const BROKEN_TENANT: Ground = Ground {
    status: StatusCode::SERVICE_UNAVAILABLE,
    reason: "broken_tenant",
    detail: "the configuration of this host's tenant is broken",
};

/// Judges a request under one snapshot. `ask` puts a question to a rule: from its cache or by running it, as on the live path, or
/// with more to tell and nothing counted, for `explain`.
pub fn judge<'s>(
    snapshot: &'s Snapshot,
    head: &HeadView<'_>,
    ask: impl FnOnce(&RuleSeat, &RuleInput<'_>) -> Asked,
) -> Judgement<'s> {
    let Ok(judgement) = judge_unless(snapshot, head, |_| Ok::<(), Infallible>(()), ask);
    judgement
}

/// The same, unless `check` objects to the route: nothing is decided then, and no rule asked.
///
/// # Errors
/// The objection.
pub fn judge_unless<'s, E>(
    snapshot: &'s Snapshot,
    head: &HeadView<'_>,
    check: impl FnOnce(&Route) -> Result<(), E>,
    ask: impl FnOnce(&RuleSeat, &RuleInput<'_>) -> Asked,
) -> Result<Judgement<'s>, E> {
    match locate(snapshot, head) {
        Ok((tenant, authority, target)) => decide(tenant, &authority, &target, head, check, ask).map(Judgement::Judged),
        Err(ground) => Ok(Judgement::Refused(refuse(snapshot, head, ground))),
    }
}

/// The refusal in the words of metrics and logs. A host that cannot be read is nobody's own origin.
fn refuse<'s>(snapshot: &'s Snapshot, head: &HeadView<'_>, ground: Ground) -> Refusal<'s> {
    let authority = authority(head).ok();
    let tenant = match authority.as_ref().and_then(|authority| snapshot.tenant(&authority.host)) {
        Some(HostMatch::Tenant(tenant)) => Some(&*tenant.id),
        Some(HostMatch::Broken) | None => None,
    };
    let nobody = OwnOrigin { host: "", port: None, scheme: head.scheme };
    let own = authority.as_ref().map_or(nobody, |authority| own_origin(authority, head));
    let kind = with_request(head, own, |request| request.classify());
    let Ground { status, reason, detail } = ground;
    Refusal { status, reason, detail, kind, tenant }
}

type Located<'s, 'a> = (&'s Tenant, Authority<'a>, Target<'a>);

fn locate<'s, 'a>(snapshot: &'s Snapshot, head: &HeadView<'a>) -> Result<Located<'s, 'a>, Ground> {
    // RFC 9110, section 7.6.1, turned into an attack: naming `Origin` here makes the next hop drop it.
    if head.noted.connection != Field::Absent && !hop_by_hop::connection_is_harmless(head.headers) {
        return Err(CONNECTION);
    }
    let authority = authority(head)?;
    let target = Target::parse(head.target, head.method).map_err(|_| TARGET)?;
    if target.authority().is_some_and(|named| Field::One(named.as_bytes()) != head.noted.host) {
        return Err(AUTHORITY);
    }
    // RFC 9110, section 7.4: who was shown one tenant's certificate has not asked for another's on this connection.
    if head.shown.is_some_and(|shown| !shown.covers(&authority.host)) {
        return Err(MISDIRECTED);
    }
    match snapshot.tenant(&authority.host) {
        Some(HostMatch::Tenant(tenant)) => Ok((tenant, authority, target)),
        Some(HostMatch::Broken) => Err(BROKEN_TENANT),
        None => Err(UNKNOWN_HOST),
    }
}

fn authority<'a>(head: &HeadView<'a>) -> Result<Authority<'a>, Ground> {
    // RFC 9112, section 3.2: exactly one.
    let Field::One(host) = head.noted.host else { return Err(HOST) };
    parse_authority(host).map_err(|_| HOST)
}

fn own_origin<'a>(authority: &'a Authority<'_>, head: &HeadView<'_>) -> OwnOrigin<'a> {
    OwnOrigin { host: &authority.host, port: authority.port, scheme: head.scheme }
}

fn decide<'s, E>(
    tenant: &'s Tenant,
    authority: &Authority<'_>,
    target: &Target<'_>,
    head: &HeadView<'_>,
    check: impl FnOnce(&Route) -> Result<(), E>,
    ask: impl FnOnce(&RuleSeat, &RuleInput<'_>) -> Asked,
) -> Result<Judged<'s>, E> {
    with_request(head, own_origin(authority, head), |request| {
        let kind = request.classify();
        tenant.counters.foresee(kind);
        #[cfg(test)]
        crate::fault::strike("judging", head.target);
        // A preflight asks for another request, and is answered for that one.
        let method = match (kind, request.requested_method) {
            (Kind::Preflight, Field::One(method)) => method,
            _ => head.method,
        };
        let matched = tenant.route(target.path_for_matching(), method);
        let found = matched.is_some();
        let route = matched.or_else(|| tenant.fallback());
        if let Some(route) = route {
            route.handles.foresee();
            check(route)?;
        }
        let (verdict, asked) = match route {
            Some(route) => consult(route, request, |route| around(tenant, route, target, head), ask),
            None => (Verdict::unknown_route(kind), None),
        };
        let action = act(&verdict, route, found);
        let sent = target.upstream();
        let rewritten = (sent.as_bytes() != head.target).then(|| sent.to_owned());
        Ok(Judged { tenant, route, verdict, asked, action, rewritten })
    })
}

/// What the policy says, and what its rule said where it had to be asked.
fn consult<'a>(
    route: &'a Route,
    request: &'a Request<'a>,
    around: impl FnOnce(&'a Route) -> Surroundings<'a>,
    ask: impl FnOnce(&RuleSeat, &RuleInput<'_>) -> Asked,
) -> (Verdict, Option<Asked>) {
    let decision = route.policy.decide(request);
    let (Decision::Ask(call), Some(seat)) = (&decision, &route.rule) else {
        return (decision.without_asking(), None);
    };
    let asked = ask(seat, &call.input(&around(route)));
    (call.conclude(asked.answer.as_ref().map_err(|error| error.kind)), Some(asked))
}

fn around<'a>(
    tenant: &'a Tenant,
    route: &'a Route,
    target: &'a Target<'_>,
    head: &'a HeadView<'a>,
) -> Surroundings<'a> {
    Surroundings {
        tenant: &tenant.id,
        route: &route.prefix,
        path: target.path_for_matching(),
        query: target.query(),
        headers: &head.headers,
    }
}

fn act(verdict: &Verdict, route: Option<&Route>, found: bool) -> Action {
    let Some(route) = route else { return Action::NotFound };
    match (route.mode, verdict.kind, verdict.outcome) {
        (Mode::Report, _, _) if found => Action::Report,
        (Mode::Report, _, _) => Action::NotFound,
        (Mode::Enforce, Kind::Preflight | Kind::WebSocket, Outcome::Deny) => Action::Deny,
        (Mode::Enforce, _, Outcome::Deny) if route.unmatched_requests == UnmatchedRequests::Reject => Action::Deny,
        (Mode::Enforce, _, _) if !found => Action::NotFound,
        (Mode::Enforce, Kind::Preflight, Outcome::Allow) => Action::AnswerPreflight,
        (Mode::Enforce, _, _) => Action::Forward,
    }
}

/// Calls `then` with the CORS view of a head.
pub fn with_request<R>(head: &HeadView<'_>, own: OwnOrigin<'_>, then: impl FnOnce(&Request<'_>) -> R) -> R {
    let lines = Named { fields: head.headers, name: ACCESS_CONTROL_REQUEST_HEADERS };
    let noted = &head.noted;
    let is_websocket = noted.upgrade != Field::Absent && hop_by_hop::asks_for_websocket(head.headers);
    let credentials = if noted.has_credentials { Credentials::Present } else { Credentials::Absent };
    then(&Request {
        method: head.method,
        origin: noted.origin,
        requested_method: noted.requested_method,
        requested_headers: &lines,
        sec_fetch_site: noted.sec_fetch_site,
        own,
        upgrade: if is_websocket { Upgrade::WebSocket } else { Upgrade::None },
        credentials,
    })
}

pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Whether a browser says that somebody follows a link or submits a form, rather than a script asking.
pub fn is_navigation(headers: Fields<'_>) -> bool {
    Field::from_lines(headers.lines(&SEC_FETCH_MODE)) == Field::One(b"navigate")
}
