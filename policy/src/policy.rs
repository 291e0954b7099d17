//! The decision: its branches are in the order of the Fetch standard, each with its section.
//!
//! A [`Template`] contains what tenants share: origins, lists and rendered headers. A [`Policy`] is
//! a template and a tenant's own origins. If no entry covers the origin and the policy has a rule,
//! the result is a [`Decision::Ask`], and [`RuleCall::conclude`] returns the verdict. A decision is
//! total and pure: any bytes lead to a verdict, and equal requests to equal verdicts. It allocates
//! nothing and takes no lock; only regexes fill a cache of their own on each thread. The gateway
//! responds to denials or forwards them without CORS fields.

use std::sync::Arc;

use http::HeaderValue;

use crate::group::GroupId;
use crate::names::NameSet;
use crate::origin::hash::HashSeed;
use crate::origin::parse::{ORIGIN_LEN_MAX, Origin, parse};
use crate::origin::regexes::OriginRegexes;
use crate::origin::set::{self, CompiledOrigins, FoundEntry};
use crate::request::{CorsRequest, CredentialFields, FieldLines, RequestField};
use crate::request_headers::{self, RequestHeadersFault};
use crate::rule::{Rule, RuleAnswer};
use crate::spec::{CrossSiteTerms, DangerousSwitches};
use crate::verdict::{EntryId, Reason, RequestKind, Verdict};

mod call;
mod edits;
pub(crate) mod refusal;
pub(crate) mod terms;

pub use self::call::{RuleCall, RuleContext};
use self::terms::{OriginTerms, TermsTable};

/// The part of a policy that its tenants share. Only [`Template::compile`] and
/// [`Template::compile_with_rule`] create it.
#[derive(Debug, Clone)]
pub struct Template {
    pub(crate) seed: HashSeed,
    pub(crate) set: CompiledOrigins,
    pub(crate) regexes: OriginRegexes,
    pub(crate) terms: TermsTable,
    pub(crate) cross_site: CrossSiteTerms,
    /// The rule that runs where no entry covers the origin.
    pub(crate) rule: Option<Arc<Rule>>,
    /// The rule's text as an entry: `rule:NAME`.
    pub(crate) rule_text: Option<Box<str>>,
    /// The groups that the rule may answer, in the order of [`Rule::groups`].
    pub(crate) rule_groups: Box<[GroupId]>,
    /// `Vary` as one value, for preflights and for other requests, if the rule may read header
    /// fields.
    pub(crate) vary_with_rule: Option<[HeaderValue; 2]>,
    /// Whether the rule read the tenant when it was probed with unlisted origins.
    pub(crate) rule_reads_tenant: bool,
}

/// The policy of one tenant: a template and the tenant's own origins. Only [`Policy::extend`]
/// creates it.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) template: Arc<Template>,
    pub(crate) own: CompiledOrigins,
    /// The entry `*`, if there is one.
    pub(crate) any: Option<GroupedEntry>,
    /// Whether `*` covers every origin, because no other entry has an effect next to it. The origin
    /// is not parsed then.
    pub(crate) is_any_alone: bool,
}

/// A configured entry, and the group whose terms it gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupedEntry {
    pub(crate) entry: EntryId,
    pub(crate) group: GroupId,
}

impl GroupedEntry {
    /// An entry of the template.
    pub(crate) fn shared(found: FoundEntry) -> Self {
        Self { entry: EntryId::Template(found.index), group: found.group }
    }

    /// An entry of the tenant.
    pub(crate) fn own(found: FoundEntry) -> Self {
        Self { entry: EntryId::Own(found.index), group: found.group }
    }

    fn allow(self, kind: RequestKind, reason: Reason) -> Verdict {
        Verdict { group: self.group, ..Verdict::allow(kind, reason, Some(self.entry)) }
    }
}

/// The methods that a preflight may request, besides the safelisted ones.
#[derive(Debug, Clone)]
pub(crate) enum AllowedMethods {
    /// Every method.
    All,
    /// The listed methods.
    Only(NameSet),
}

/// The result of the static entries: a verdict, or a pending call of the rule.
#[derive(Clone, Copy)]
pub enum Decision<'a> {
    /// The verdict, without a rule.
    Static(Verdict),
    /// No entry covers the origin, which is well-formed and not `null`, so the rule must run.
    Ask(RuleCall<'a>),
}

impl Decision<'_> {
    /// Returns the verdict without running the rule, as if the rule had abstained.
    pub fn without_rule(&self) -> Verdict {
        match self {
            Self::Static(verdict) => *verdict,
            Self::Ask(call) => call.conclude(Ok(&RuleAnswer::Abstain)),
        }
    }
}

/// The number of entries in each layer of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryCounts {
    /// Entries of the template.
    pub template: usize,
    /// The tenant's own entries.
    pub own: usize,
}

impl Policy {
    /// Classifies a request and decides on it. The function never fails and allocates nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use crossgate_policy::{
    ///     CorsRequest, OwnOrigin, Policy, PolicySpec, Reason, RequestField, Template,
    /// };
    ///
    /// let spec = PolicySpec {
    ///     allow_origins: vec!["https://*.example.test".into()],
    ///     ..PolicySpec::default()
    /// };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let own_origins = ["https://partner.test".into()];
    /// let policy = Policy::extend(Arc::new(template), &own_origins).unwrap().value;
    ///
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let reason = |origin: &str| {
    ///     let origin = RequestField::One(origin.as_bytes());
    ///     let request = CorsRequest { origin, ..CorsRequest::new(b"GET", own) };
    ///     policy.decide(&request).without_rule().reason
    /// };
    /// assert_eq!(reason("https://app.example.test"), Reason::Wildcard);
    /// assert_eq!(reason("https://partner.test"), Reason::Exact);
    /// assert_eq!(reason("https://example.test"), Reason::NoMatch);
    /// assert_eq!(reason("null"), Reason::NullOrigin);
    /// ```
    pub fn decide<'a>(&'a self, request: &'a CorsRequest<'a>) -> Decision<'a> {
        let kind = request.classify();
        match kind {
            // https://fetch.spec.whatwg.org/#http-requests: without `Origin` a request is not a
            // CORS request, and a request from the API's own origin needs no permission.
            RequestKind::NonCors => Decision::Static(Verdict::allow(kind, Reason::NonCors, None)),
            RequestKind::SameOrigin => Decision::Static(Verdict::allow(kind, Reason::SameOrigin, None)),
            // https://websockets.spec.whatwg.org/#concept-websocket-establish: no CORS check
            // follows in the browser, so the server must check `Origin` (RFC 6455, section 10.2).
            RequestKind::WebSocket => self.decide_websocket(request),
            // https://fetch.spec.whatwg.org/#cors-check: only the origin counts. Methods and
            // headers are checked on the preflight.
            RequestKind::Actual => self.decide_origin(kind, request),
            // https://fetch.spec.whatwg.org/#cors-preflight-fetch: the CORS check comes before the
            // checks of method and headers.
            RequestKind::Preflight => match self.decide_origin(kind, request) {
                Decision::Static(verdict) => Decision::Static(self.complete(verdict, request)),
                Decision::Ask(call) => Decision::Ask(call),
            },
        }
    }

    /// Completes the verdict on a request after its origin was checked: the method and headers of a
    /// preflight are left to check.
    pub(crate) fn complete(&self, verdict: Verdict, request: &CorsRequest<'_>) -> Verdict {
        if !verdict.is_allowed() || verdict.kind != RequestKind::Preflight {
            return verdict;
        }
        // The terms stay: an explained refusal allows credentials exactly where an allowed
        // preflight does.
        let refusal = |reason| {
            let Verdict { entry, terms, group, .. } = verdict;
            Verdict { terms, group, ..Verdict::deny(RequestKind::Preflight, reason, entry) }
        };
        let terms = self.terms(&verdict);
        // https://fetch.spec.whatwg.org/#http-access-control-request-method: the field has exactly
        // one method.
        if !terms.allows_method(request.requested_method) {
            return refusal(Reason::Method);
        }
        // https://fetch.spec.whatwg.org/#http-access-control-request-headers
        if request_headers::check(request.requested_headers, &terms.headers).is_err() {
            return refusal(Reason::Header);
        }
        verdict
    }

    fn decide_websocket<'a>(&'a self, request: &'a CorsRequest<'a>) -> Decision<'a> {
        if self.is_any_alone {
            return Decision::Static(self.decide_uncovered(RequestKind::WebSocket, request, Reason::NoMatch));
        }
        self.decide_origin(RequestKind::WebSocket, request)
    }

    fn decide_origin<'a>(&'a self, kind: RequestKind, request: &'a CorsRequest<'a>) -> Decision<'a> {
        if let Some(any) = self.any.filter(|_| self.is_any_alone) {
            return Decision::Static(any.allow(kind, Reason::Any));
        }
        match request.origin {
            RequestField::One(b"null") => Decision::Static(self.decide_null(kind, request)),
            RequestField::One(value) => self.decide_value(kind, value, request),
            // https://fetch.spec.whatwg.org/#origin-header: the field has exactly one origin.
            RequestField::Many | RequestField::Absent => {
                Decision::Static(self.decide_uncovered(kind, request, Reason::MalformedOrigin))
            }
        }
    }

    fn decide_null(&self, kind: RequestKind, request: &CorsRequest<'_>) -> Verdict {
        // Sandboxed frames of any site, `data:` pages and some redirects send `null`. Besides `*`,
        // only the entry `null` covers it, never a pattern, a regex or a rule.
        let shared = self.template.set.null().map(GroupedEntry::shared);
        match shared.or_else(|| self.own.null().map(GroupedEntry::own)) {
            Some(entry) => entry.allow(kind, Reason::Exact),
            None => self.decide_uncovered(kind, request, Reason::NullOrigin),
        }
    }

    /// Decides on a request whose origin no entry covers, other than perhaps `*`.
    pub(crate) fn decide_uncovered(&self, kind: RequestKind, request: &CorsRequest<'_>, reason: Reason) -> Verdict {
        // A page can read a WebSocket without a CORS check, cookies included. So `*`, which
        // excludes credentials elsewhere, cannot cover a handshake with them (cross-site WebSocket
        // hijacking).
        let is_hijackable = kind == RequestKind::WebSocket && request.credentials != CredentialFields::Absent;
        match self.any {
            Some(any) if !is_hijackable => any.allow(kind, Reason::Any),
            Some(_) | None => Verdict::deny(kind, reason, None),
        }
    }

    fn decide_value<'a>(&'a self, kind: RequestKind, value: &'a [u8], request: &'a CorsRequest<'a>) -> Decision<'a> {
        let malformed = || Decision::Static(self.decide_uncovered(kind, request, Reason::MalformedOrigin));
        // Checked before hashing, so that a hostile value costs nothing.
        if value.len() > ORIGIN_LEN_MAX {
            return malformed();
        }
        // Configured origins are well-formed, so an equal value needs no parsing.
        if let Some(entry) = self.exact(value) {
            return Decision::Static(entry.allow(kind, Reason::Exact));
        }
        let Ok(origin) = parse(value) else { return malformed() };
        if let Some(entry) = self.pattern(&origin) {
            return Decision::Static(entry.allow(kind, Reason::Wildcard));
        }
        match (self.regex(&origin), &self.template.rule) {
            (Some(entry), _) => Decision::Static(entry.allow(kind, Reason::Regex)),
            (None, Some(rule)) => Decision::Ask(RuleCall::new(self, rule, kind, origin, request)),
            (None, None) => Decision::Static(self.decide_uncovered(kind, request, Reason::NoMatch)),
        }
    }

    fn exact(&self, value: &[u8]) -> Option<GroupedEntry> {
        let hash = self.template.seed.whole(value);
        let shared = self.template.set.exact(hash, value).map(GroupedEntry::shared);
        shared.or_else(|| self.own.exact(hash, value).map(GroupedEntry::own))
    }

    fn pattern(&self, origin: &Origin<'_>) -> Option<GroupedEntry> {
        let found = set::find(&self.template.seed, [&self.template.set, &self.own], origin)?;
        Some(match found {
            (0, found) => GroupedEntry::shared(found),
            (_, found) => GroupedEntry::own(found),
        })
    }

    fn regex(&self, origin: &Origin<'_>) -> Option<GroupedEntry> {
        let template = &self.template;
        let FoundEntry { index, group } = template.regexes.find(origin.text)?;
        // The compiler cannot list the origins that a regex matches, so credentials are checked
        // again.
        if template.terms.of(group).restrictions.excludes(origin) {
            return None;
        }
        Some(GroupedEntry { entry: EntryId::Template(u32::try_from(template.set.len()).ok()? + index), group })
    }

    /// Returns the first requested header that the terms of a verdict refuse. The bytes need not be
    /// a token. `None` if all headers are allowed, or if the list as a whole is refused for its
    /// length, its number of names, its empty elements or its white space.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use crossgate_policy::{
    /// #     CorsRequest, OwnOrigin, Policy, PolicySpec, RequestField, Template,
    /// # };
    /// let spec = PolicySpec { allow_headers: vec!["x-api".into()], ..PolicySpec::default() };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let own_origins = ["https://app.test".into()];
    /// let policy = Policy::extend(Arc::new(template), &own_origins).unwrap().value;
    /// let own = OwnOrigin { host: "api.test", port: None, scheme: None };
    /// let origin = RequestField::One(&b"https://app.test"[..]);
    /// let request = CorsRequest { origin, ..CorsRequest::new(b"GET", own) };
    /// let verdict = policy.decide(&request).without_rule();
    /// assert_eq!(
    ///     policy.refused_header(&verdict, &&[&b"x-api, x-new"[..]][..]),
    ///     Some(&b"x-new"[..])
    /// );
    /// assert_eq!(policy.refused_header(&verdict, &&[&b"x-api"[..]][..]), None);
    /// ```
    pub fn refused_header<'a>(&self, verdict: &Verdict, lines: &'a dyn FieldLines) -> Option<&'a [u8]> {
        match request_headers::check(lines, &self.terms(verdict).headers) {
            Err(RequestHeadersFault::Refused(name)) => Some(name),
            Ok(())
            | Err(
                RequestHeadersFault::TooLong
                | RequestHeadersFault::TooManyNames
                | RequestHeadersFault::TooManyEmptyElements
                | RequestHeadersFault::TooMuchWhiteSpace,
            ) => None,
        }
    }

    /// Whether a response of this policy depends on the request's origin.
    pub fn depends_on_origin(&self) -> bool {
        !self.is_any_alone
    }

    /// Whether the policy has the entry `*`.
    pub fn allows_any(&self) -> bool {
        self.any.is_some()
    }

    /// Whether the policy has groups.
    pub fn has_groups(&self) -> bool {
        !self.template.terms.groups.is_empty()
    }

    /// Returns the name of a group. `None` for the policy's own terms.
    pub fn group_name(&self, group: GroupId) -> Option<&str> {
        self.template.terms.group(group).map(|group| &*group.name)
    }

    /// Returns the groups whose terms an entry may give: one, or for the rule all that it lists
    /// and the policy's own. Empty for an entry of another policy.
    pub fn entry_groups(&self, entry: EntryId) -> impl Iterator<Item = GroupId> {
        let (group, listed): (_, &[GroupId]) = match entry {
            EntryId::Own(index) => (self.own.group(index as usize), &[]),
            EntryId::Template(_) if self.rule_entry() == Some(entry) => {
                (Some(GroupId::BASE), &self.template.rule_groups)
            }
            EntryId::Template(index) => (self.template.group(index as usize), &[]),
        };
        group.into_iter().chain(listed.iter().copied())
    }

    /// Returns the number of entries in each layer.
    pub fn entry_counts(&self) -> EntryCounts {
        EntryCounts { template: self.template.len(), own: self.own.len() }
    }

    /// Returns the rule that runs where no entry covers the origin.
    pub fn rule(&self) -> Option<&Arc<Rule>> {
        self.template.rule.as_ref()
    }

    /// Returns the groups that the rule may answer, besides the policy's own terms.
    pub fn rule_groups(&self) -> &[GroupId] {
        &self.template.rule_groups
    }

    /// Returns the rule's entry.
    pub fn rule_entry(&self) -> Option<EntryId> {
        let last = self.template.rule.as_ref().and(self.template.len().checked_sub(1))?;
        u32::try_from(last).ok().map(EntryId::Template)
    }

    /// Returns the text of an entry as it was configured. Empty for an entry of another policy.
    pub fn entry_text(&self, entry: EntryId) -> &str {
        let text = match entry {
            EntryId::Template(index) => self.template.text(index as usize),
            EntryId::Own(index) => self.own.text(index as usize),
        };
        text.unwrap_or_default()
    }

    /// Returns the template of this policy.
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// Returns the terms of a verdict.
    #[inline]
    pub(crate) fn terms(&self, verdict: &Verdict) -> &OriginTerms {
        self.template.terms.of(verdict.group)
    }
}

impl Template {
    fn text(&self, index: usize) -> Option<&str> {
        let regex = || self.regexes.text(index.checked_sub(self.set.len())?);
        self.set.text(index).or_else(regex).or_else(|| self.rule_text.as_deref().filter(|_| index + 1 == self.len()))
    }

    fn group(&self, index: usize) -> Option<GroupId> {
        self.set.group(index).or_else(|| self.regexes.group(index.checked_sub(self.set.len())?))
    }

    /// Returns the switches that weaken a protection.
    pub(crate) fn dangerously(&self) -> &DangerousSwitches {
        &self.terms.base.restrictions.dangerously
    }

    /// Returns the number of entries. The rule is the last one.
    fn len(&self) -> usize {
        self.set.len() + self.regexes.len() + usize::from(self.rule.is_some())
    }
}
