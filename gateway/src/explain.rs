//! Explains a request: its verdict, the reasons, and the response.
//!
//! The described request is written as a head. The functions that serve requests then check, judge
//! and answer it, so the explanation matches what happens. It adds what an operator needs: the
//! matching entry or the near misses, the cause, and advice. Absent on purpose: a request to the
//! upstream. Of an upstream's response, only the gateway's additions are shown.

use crossgate_policy::{CrossSiteProtection, EntryId, NearMiss, OwnOrigin, Policy, Reason, RequestField};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::judge::{Judgement, PolicyMatch, RequestAction, judge, with_request};
use crate::metrics::VerdictLabel;
use crate::request_head::RequestHead;
use crate::respond::AnswerContext;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::{proxy, respond};
use crossgate_config::Mode;
use crossgate_message::escape::EscapedBytes;
use crossgate_message::forwarded::{ConnectionPeer, RequestId};
use crossgate_message::host::parse_authority;
use crossgate_wire::exchange::EdgeAnswer;
use crossgate_wire::lane::head;
use crossgate_wire::refusal;

use crate::probe::{ExplainedRequest, SenderTrust};

mod denial;
mod display;
mod locations;
mod notes;
mod rule;

pub use self::denial::DenialExplanation;
pub use self::locations::{UnlistedParts, WrittenLocations};
pub use self::rule::ExplainedRule;

/// A placeholder as long as a real id, since the length of the response depends on it.
const REQUEST_ID: &str = "00000000000000000000000000000000";

/// The number of policy entries that are listed if none comes near the origin.
const ALLOWED_MAX: usize = 10;

/// The explanation of one request. The fields are the JSON keys of `explain`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The configuration generation.
    pub generation: u64,
    /// The id of the tenant that owns the host.
    pub tenant: Option<String>,
    /// The route's path prefix.
    pub route: Option<String>,
    /// The path that the upstream receives, if the route rewrites it.
    pub upstream_path: Option<String>,
    /// The name of the policy.
    pub policy: Option<String>,
    /// `Enforce` or `Report`.
    pub mode: Option<&'static str>,
    /// The protocol whose methods and headers the policy includes.
    pub preset: Option<&'static str>,
    /// `Protect` or `Report`, if the policy checks requests from other sites.
    pub cross_site: Option<&'static str>,
    /// The request kind; `None` if no policy applies.
    pub kind: Option<&'static str>,
    /// The verdict label: `allow` or `deny`, in report mode `would_allow` or `would_deny`.
    pub verdict: VerdictLabel,
    /// The reason, as in logs and metrics.
    pub reason: &'static str,
    /// The exact cause of a denial.
    pub cause: Option<String>,
    /// The configured entry that covers the origin.
    pub entry: Option<String>,
    /// The name of the group whose terms apply, if it is not the policy itself.
    pub group: Option<String>,
    /// The near misses: entries that almost cover the origin.
    #[serde(serialize_with = "near_misses")]
    pub near_misses: Vec<NearMiss>,
    /// The answer of the policy's rule, if one was run.
    pub rule: Option<ExplainedRule>,
    /// The policy's entries, if there is no near miss.
    pub allowed: AllowedEntries,
    /// Advice.
    pub notes: Vec<String>,
    /// The locations of the policy and the entry in the configuration.
    #[serde(flatten)]
    pub locations: WrittenLocations,
    /// The method or headers that a preflight is refused.
    pub refused: Option<UnlistedParts>,
    /// The response.
    pub response: ExplainedResponse,
}

/// The first entries of a policy, and the number of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AllowedEntries {
    /// The first entries, as configured.
    pub entries: Vec<String>,
    /// The number of other entries.
    pub more: usize,
}

/// The response to a request, as far as the gateway makes it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedResponse {
    /// The author of the response.
    pub by: ResponseAuthor,
    /// The status; `None` if the upstream chooses it.
    pub status: Option<u16>,
    /// The fields, without `Date` and `Connection`: all of them for a response of the gateway, the
    /// added ones for a response of the upstream. Bytes outside printable ASCII are escaped.
    pub headers: Vec<(String, String)>,
    /// The prefix of the fields that are removed from the upstream's response.
    pub removes: Option<&'static str>,
}

/// The author of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseAuthor {
    /// The gateway; the upstream receives nothing.
    Gateway,
    /// The upstream.
    Upstream,
}

/// An explanation as JSON and as text.
#[derive(Clone, Debug)]
pub struct RenderedExplanation {
    /// JSON.
    pub json: Value,
    /// Text: rows of a name, padded to ten characters and a space, and a value.
    pub text: String,
}

impl RenderedExplanation {
    /// Renders an explanation in both forms.
    pub fn of(explanation: &(impl Serialize + std::fmt::Display)) -> Self {
        RenderedExplanation { json: json!(explanation), text: explanation.to_string() }
    }
}

/// Explains a head that the lane has refused.
pub fn explain_refusal(snapshot: &Snapshot, refusal: &refusal::HeadRefusal) -> Explanation {
    let proxy_status = snapshot.settings.proxy_status;
    let context = AnswerContext { request_id: REQUEST_ID, proxy_status, ..AnswerContext::default() };
    let response = answer_from_bytes(&respond::refusal_bytes(refusal, context));
    Explanation::of_refusal(snapshot, refusal.reason, refusal.detail, response)
}

/// Explains a request under one configuration.
pub fn explain(snapshot: &Snapshot, probe: &ExplainedRequest) -> Explanation {
    let bytes = probe.head();
    if let Err(refusal) = head::parse(&bytes, &proxy::head_limits(&snapshot.settings.limits)) {
        return explain_refusal(snapshot, &refusal).with_probe_notes(snapshot, probe);
    }
    let headers = header_map(probe);
    let peer = ConnectionPeer { address: None, is_trusted: probe.sender == SenderTrust::TrustedProxy };
    let head = RequestHead::new(&probe.method, &probe.target, (&headers).into(), peer);
    let request_id = request_id(&head, peer);
    let mut examined = None;
    let judgement = judge(snapshot, &head, |rule, input| {
        let (explained_rule, outcome) = rule::run_uncached(rule, input);
        examined = Some(explained_rule);
        outcome
    });
    let answer = proxy::answer_at_edge(snapshot, &judgement, &head, &request_id);
    let explanation = match (&judgement, answer.as_ref().map(ExplainedResponse::by_gateway)) {
        (Judgement::Judged(judged), answer) => {
            let response = answer.unwrap_or_else(|| ExplainedResponse::by_upstream(judged, &head, &request_id));
            Explanation { rule: examined, ..Explanation::of_judged(snapshot, judged, &head, response) }
        }
        (Judgement::Refused(refusal), answer) => {
            let response = answer.unwrap_or_else(|| ExplainedResponse::status_only(refusal.status.as_u16()));
            let explanation = Explanation::of_refusal(snapshot, refusal.reason, refusal.detail, response);
            Explanation { tenant: refusal.tenant.map(str::to_owned), kind: Some(refusal.kind.as_str()), ..explanation }
        }
    };
    explanation.with_probe_notes(snapshot, probe)
}

/// A trusted proxy's id is kept. A generated id has the length of the placeholder.
fn request_id(head: &RequestHead<'_>, peer: ConnectionPeer) -> String {
    match head.known.request_id {
        RequestField::One(_) if peer.is_trusted => RequestId::of(&head.known, peer).to_string(),
        RequestField::One(_) | RequestField::Absent | RequestField::Many => REQUEST_ID.to_owned(),
    }
}

impl Explanation {
    fn of_refusal(snapshot: &Snapshot, reason: &'static str, detail: &str, response: ExplainedResponse) -> Self {
        Explanation {
            generation: snapshot.generation,
            tenant: None,
            route: None,
            upstream_path: None,
            policy: None,
            mode: None,
            preset: None,
            cross_site: None,
            kind: None,
            verdict: VerdictLabel::Deny,
            reason,
            cause: Some(detail.to_owned()),
            entry: None,
            group: None,
            near_misses: Vec::new(),
            rule: None,
            allowed: AllowedEntries::default(),
            notes: Vec::new(),
            locations: WrittenLocations::default(),
            refused: None,
            response,
        }
    }

    fn of_judged(
        snapshot: &Snapshot,
        judged: &PolicyMatch<'_>,
        head: &RequestHead<'_>,
        response: ExplainedResponse,
    ) -> Self {
        let route = judged.route;
        let (cause, near_misses) = explain_policy(judged, head);
        Explanation {
            generation: snapshot.generation,
            tenant: Some(judged.tenant.id.to_string()),
            route: route.map(|route| route.path.to_string()),
            upstream_path: upstream_path(judged),
            policy: route.map(|route| route.policy_name.to_string()),
            mode: route.map(|route| mode_name(route.mode)),
            preset: route.and_then(|route| preset_name(snapshot, route)),
            cross_site: judged.policy().and_then(cross_site_name),
            kind: Some(judged.verdict.kind.as_str()),
            verdict: judged.label(),
            reason: judged.reason().as_str(),
            cause,
            allowed: if near_misses.is_empty() {
                AllowedEntries::of_unmatched(judged)
            } else {
                AllowedEntries::default()
            },
            entry: judged.verdict.entry.and_then(|entry| Some(judged.policy()?.entry_text(entry).to_owned())),
            group: judged.group_name().map(str::to_owned),
            near_misses,
            rule: None,
            notes: notes::of(judged, head)
                .into_iter()
                .chain(notes::left_out(judged, head))
                .chain(locations::passed_over_notes(judged, head))
                .collect(),
            locations: locations::locations(snapshot, judged),
            refused: locations::refused(snapshot, judged, head),
            response,
        }
    }

    /// Adds notes about the description of the request.
    fn with_probe_notes(mut self, snapshot: &Snapshot, probe: &ExplainedRequest) -> Self {
        self.notes.extend(notes::of_probe(snapshot, probe, &self));
        self
    }
}

impl AllowedEntries {
    /// The policy's entries, for an origin that no entry covers.
    fn of_unmatched(judged: &PolicyMatch<'_>) -> Self {
        let Some(policy) = judged.policy().filter(|_| judged.verdict.reason == Reason::NoMatch) else {
            return AllowedEntries::default();
        };
        let counts = policy.entry_counts();
        let template = (0..).take(counts.template).map(EntryId::Template);
        let all = template.chain((0..).take(counts.own).map(EntryId::Own));
        let entries: Vec<_> = all.take(ALLOWED_MAX).map(|entry| policy.entry_text(entry).to_owned()).collect();
        AllowedEntries { more: counts.template + counts.own - entries.len(), entries }
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "Enforce",
        Mode::Report => "Report",
    }
}

/// The rewritten path of a request that is forwarded.
fn upstream_path(judged: &PolicyMatch<'_>) -> Option<String> {
    let is_forwarded = matches!(judged.action, RequestAction::Forward | RequestAction::Report);
    let path = judged.rewritten_path().filter(|_| is_forwarded)?;
    Some(String::from_utf8_lossy(path).into_owned())
}

fn preset_name(snapshot: &Snapshot, route: &Route) -> Option<&'static str> {
    snapshot.written_policy(&route.policy_name)?.preset.map(|preset| preset.value.as_str())
}

fn cross_site_name(policy: &Policy) -> Option<&'static str> {
    match policy.cross_site().protection {
        CrossSiteProtection::Off => None,
        CrossSiteProtection::Report => Some("Report"),
        CrossSiteProtection::Protect => Some("Protect"),
    }
}

/// The policy's cause and near misses.
fn explain_policy(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> (Option<String>, Vec<NearMiss>) {
    let host = head.headers.first(&http::header::HOST).unwrap_or_default();
    let (Some(policy), Ok(authority)) = (judged.policy(), parse_authority(host)) else {
        return (None, Vec::new());
    };
    let own = OwnOrigin { host: &authority.host, port: authority.port, scheme: head.scheme };
    let explanation = with_request(head, own, |request| policy.explain(judged.verdict, request));
    (explanation.cause, explanation.near_misses)
}

impl ExplainedResponse {
    fn by_gateway(answer: &EdgeAnswer) -> Self {
        let headers = rendered_headers(&answer.fields);
        ExplainedResponse { by: ResponseAuthor::Gateway, status: Some(answer.status.as_u16()), headers, removes: None }
    }

    /// The fields that the gateway would add to an upstream response without fields.
    fn by_upstream(judged: &PolicyMatch<'_>, head: &RequestHead<'_>, request_id: &str) -> Self {
        let mut response =
            ExplainedResponse { by: ResponseAuthor::Upstream, status: None, headers: Vec::new(), removes: None };
        let mut fields = HeaderMap::new();
        if let Some(edits) = judged.response_edits() {
            edits.write(&mut fields);
        }
        if judged.action != RequestAction::Report {
            respond::complete(None, judged, head, request_id, &mut fields);
            response.removes = Some("access-control-");
        }
        response.headers = rendered_headers(&fields);
        response
    }

    fn status_only(status: u16) -> Self {
        ExplainedResponse { by: ResponseAuthor::Gateway, status: Some(status), headers: Vec::new(), removes: None }
    }
}

fn rendered_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| EscapedBytes::<{ usize::MAX }>(value.as_bytes()).to_string();
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    fields.sort();
    fields
}

/// Parses the bytes of the lane's refusal, so that the shown fields are the ones sent.
fn answer_from_bytes(bytes: &[u8]) -> ExplainedResponse {
    const FIELDS_MAX: usize = 16;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let status = parsed.parse(bytes).ok().and(parsed.code).unwrap_or(400);
    let mut headers = HeaderMap::new();
    for field in parsed.headers.iter().filter(|field| !matches!(field.name, "date" | "connection")) {
        append(&mut headers, field.name.as_bytes(), field.value);
    }
    ExplainedResponse { headers: rendered_headers(&headers), ..ExplainedResponse::status_only(status) }
}

/// The fields in the form in which Pingora's parser passes them to the hooks. The lane has
/// validated them before.
fn header_map(probe: &ExplainedRequest) -> HeaderMap {
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
    struct NearestMiss<'a> {
        entry: &'a str,
        how: String,
    }
    serializer
        .collect_seq(misses.iter().map(|miss| NearestMiss { entry: &miss.entry, how: miss.difference.to_string() }))
}

#[cfg(test)]
mod tests;
