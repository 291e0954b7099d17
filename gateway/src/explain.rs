//! Why a request gets the answer it gets, and the answer.
//!
//! A probe's head is written out, checked by the lane, judged and answered by the very functions that serve requests, so what
//! is explained is what happens. Around the verdict stands what a person at two in the morning wants to know: the entry that
//! matched or those that nearly did, what exactly is wrong, and what to consider. Absent on purpose: the upstream, which is
//! never asked; of an answer that it would give, only what the gateway adds is told.

use crossgate_policy::{EntryId, Field, NearMiss, OwnOrigin, Reason};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Serialize, Serializer};

use crate::access_log::Escaped;
use crate::config::Mode;
use crate::forwarded::{self, Peer};
use crate::host::parse_authority;
use crate::judge::{Action, HeadView, Judged, Judgement, judge, with_request};
use crate::lane::head;
use crate::metrics::VerdictLabel;
use crate::respond::Answer;
use crate::snapshot::Snapshot;
use crate::{proxy, respond};

use self::probe::{Probe, Sender};

mod display;
mod notes;
pub mod probe;
mod rule;

pub use self::rule::RuleTold;

/// As long as a real one, since the answer's length hangs on it.
const REQUEST_ID: &str = "00000000000000000000000000000000";

/// How many entries of a policy are listed where none comes near the origin.
const ALLOWED_MAX: usize = 10;

/// Everything there is to say about one request.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The number of the configuration it holds for.
    pub generation: u64,
    /// Whose host it is.
    pub tenant: Option<String>,
    /// The route's path prefix.
    pub route: Option<String>,
    /// The name of the policy.
    pub policy: Option<String>,
    /// `Enforce` or `Report`.
    pub mode: Option<&'static str>,
    /// What the request is to CORS; unknown if nobody's policy applies.
    pub kind: Option<&'static str>,
    /// `allow` or `deny`, or what it would be.
    pub verdict: VerdictLabel,
    /// Why, as logs and metrics have it.
    pub reason: &'static str,
    /// What exactly is wrong.
    pub cause: Option<String>,
    /// The configured entry that covers the origin.
    pub entry: Option<String>,
    /// The entries that nearly cover it.
    #[serde(serialize_with = "near_misses")]
    pub near_misses: Vec<NearMiss>,
    /// What the policy's rule says, where it is asked.
    pub rule: Option<RuleTold>,
    /// Where nothing comes near: what the policy has.
    pub allowed: Allowed,
    /// What to consider.
    pub notes: Vec<String>,
    /// The answer.
    pub response: Response,
}

/// Some entries of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// The first ones, as configured.
    pub entries: Vec<String>,
    /// How many others there are.
    pub more: usize,
}

/// The answer to a request, as far as the gateway makes it.
#[derive(Clone, Debug, Serialize)]
pub struct Response {
    /// Who gives it.
    pub by: Author,
    /// The upstream's own if it answers.
    pub status: Option<u16>,
    /// The whole set if the gateway answers, but for `Date` and `Connection`; else what it adds. Bytes outside printable
    /// ASCII are escaped.
    pub headers: Vec<(String, String)>,
    /// The prefix of the fields that are taken out of the upstream's answer.
    pub removes: Option<&'static str>,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Author {
    /// The gateway itself; the upstream is not asked.
    Gateway,
    /// The upstream.
    Upstream,
}

/// Explains a request under one configuration.
pub fn explain(snapshot: &Snapshot, probe: &Probe) -> Explanation {
    let bytes = probe.head();
    if let Err(refusal) = head::parse(&bytes, &proxy::head_limits(&snapshot.settings.limits)) {
        let response = answer_from_bytes(&respond::refusal_bytes(&refusal, REQUEST_ID));
        return Explanation::of_refusal(snapshot, refusal.reason, refusal.detail, response).noting(probe);
    }
    let headers = header_map(probe);
    let peer = Peer { address: None, is_trusted: probe.sender == Sender::TrustedProxy };
    let head = HeadView::new(&probe.method, &probe.target, (&headers).into(), peer);
    let request_id = request_id(&head, peer);
    let mut examined = None;
    let judgement = judge(snapshot, &head, |seat, input| {
        let (told, asked) = rule::examine(seat, input);
        examined = Some(told);
        asked
    });
    let answer = proxy::answer_at_edge(snapshot, &judgement, &head, &request_id);
    let explanation = match (&judgement, answer.as_ref().map(Response::by_gateway)) {
        (Judgement::Judged(judged), answer) => {
            let response = answer.unwrap_or_else(|| Response::by_upstream(judged, &head, &request_id));
            Explanation { rule: examined, ..Explanation::of_judged(snapshot, judged, &head, response) }
        }
        (Judgement::Refused(refusal), answer) => {
            let response = answer.unwrap_or_else(|| Response::bare(refusal.status.as_u16()));
            let told = Explanation::of_refusal(snapshot, refusal.reason, refusal.detail, response);
            Explanation { tenant: refusal.tenant.map(str::to_owned), kind: Some(refusal.kind.as_str()), ..told }
        }
    };
    explanation.noting(probe)
}

/// A trusted proxy's id is kept; any other is as long as this one.
fn request_id(head: &HeadView<'_>, peer: Peer) -> String {
    match head.noted.request_id {
        Field::One(_) if peer.is_trusted => forwarded::request_id(&head.noted, peer),
        Field::One(_) | Field::Absent | Field::Many => REQUEST_ID.to_owned(),
    }
}

impl Explanation {
    fn of_refusal(snapshot: &Snapshot, reason: &'static str, detail: &str, response: Response) -> Self {
        Explanation {
            generation: snapshot.generation,
            tenant: None,
            route: None,
            policy: None,
            mode: None,
            kind: None,
            verdict: VerdictLabel::Deny,
            reason,
            cause: Some(detail.to_owned()),
            entry: None,
            near_misses: Vec::new(),
            rule: None,
            allowed: Allowed::default(),
            notes: Vec::new(),
            response,
        }
    }

    fn of_judged(snapshot: &Snapshot, judged: &Judged<'_>, head: &HeadView<'_>, response: Response) -> Self {
        let route = judged.route;
        let (cause, near_misses) = looked_around(judged, head);
        Explanation {
            generation: snapshot.generation,
            tenant: Some(judged.tenant.id.to_string()),
            route: route.map(|route| route.prefix.to_string()),
            policy: route.map(|route| route.policy_name.to_string()),
            mode: route.map(|route| mode(route.mode)),
            kind: Some(judged.verdict.kind.as_str()),
            verdict: judged.label(),
            reason: judged.reason().as_str(),
            cause,
            allowed: if near_misses.is_empty() { Allowed::beside(judged) } else { Allowed::default() },
            entry: judged.verdict.entry.and_then(|entry| Some(judged.policy()?.entry_text(entry).to_owned())),
            near_misses,
            rule: None,
            notes: notes::of(judged, head),
            response,
        }
    }

    /// Adds what is to be said of the description itself.
    fn noting(mut self, probe: &Probe) -> Self {
        self.notes.extend(notes::of_probe(probe, &self));
        self
    }
}

impl Allowed {
    /// What the policy has instead of the origin that no entry covers.
    fn beside(judged: &Judged<'_>) -> Self {
        let Some(policy) = judged.policy().filter(|_| judged.verdict.reason == Reason::NoMatch) else {
            return Allowed::default();
        };
        let counts = policy.entry_counts();
        let template = (0..).take(counts.template).map(EntryId::Template);
        let all = template.chain((0..).take(counts.own).map(EntryId::Own));
        let entries: Vec<_> = all.take(ALLOWED_MAX).map(|entry| policy.entry_text(entry).to_owned()).collect();
        Allowed { more: counts.template + counts.own - entries.len(), entries }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "Enforce",
        Mode::Report => "Report",
    }
}

/// What the policy says beyond its verdict.
fn looked_around(judged: &Judged<'_>, head: &HeadView<'_>) -> (Option<String>, Vec<NearMiss>) {
    let host = head.headers.first(&http::header::HOST).unwrap_or_default();
    let (Some(policy), Ok(authority)) = (judged.policy(), parse_authority(host)) else {
        return (None, Vec::new());
    };
    let own = OwnOrigin { host: &authority.host, port: authority.port, scheme: head.scheme };
    let told = with_request(head, own, |request| policy.explain(judged.verdict, request));
    (told.cause, told.near_misses)
}

impl Response {
    fn by_gateway(answer: &Answer) -> Self {
        let headers = listed(&answer.fields);
        Response { by: Author::Gateway, status: Some(answer.status.as_u16()), headers, removes: None }
    }

    /// What the gateway would do to an answer of the upstream that has no fields of its own.
    fn by_upstream(judged: &Judged<'_>, head: &HeadView<'_>, request_id: &str) -> Self {
        let mut response = Response { by: Author::Upstream, status: None, headers: Vec::new(), removes: None };
        if judged.action == Action::Report {
            return response;
        }
        let mut fields = HeaderMap::new();
        if respond::complete(&mut fields, judged, head, request_id).is_ok() {
            response.headers = listed(&fields);
        }
        Response { removes: Some("access-control-"), ..response }
    }

    fn bare(status: u16) -> Self {
        Response { by: Author::Gateway, status: Some(status), headers: Vec::new(), removes: None }
    }
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| Escaped::<{ usize::MAX }>(value.as_bytes()).to_string();
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    fields.sort();
    fields
}

/// The lane writes its refusals as bytes; these are read back, so that not one field is told from memory.
fn answer_from_bytes(bytes: &[u8]) -> Response {
    const FIELDS_MAX: usize = 16;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let status = parsed.parse(bytes).ok().and(parsed.code).unwrap_or(400);
    let mut headers = HeaderMap::new();
    for field in parsed.headers.iter().filter(|field| !matches!(field.name, "date" | "connection")) {
        append(&mut headers, field.name.as_bytes(), field.value);
    }
    Response { headers: listed(&headers), ..Response::bare(status) }
}

/// The fields as Pingora's parser gives them to the hooks; the lane has seen already that they are fields.
fn header_map(probe: &Probe) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &probe.fields {
        append(&mut headers, name.as_bytes(), value.trim_ascii());
    }
    headers
}

fn append(headers: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

fn near_misses<S: Serializer>(misses: &[NearMiss], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Miss<'a> {
        entry: &'a str,
        how: String,
    }
    serializer.collect_seq(misses.iter().map(|miss| Miss { entry: &miss.entry, how: miss.how.to_string() }))
}

#[cfg(test)]
mod tests;
