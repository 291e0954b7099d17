//! The decision: its branches are in the order of the Fetch standard, each with its section.
//!
//! A [`Template`] contains what tenants share: origins, lists and rendered headers. A [`Policy`] is
//! a template and a tenant's own origins. If no entry covers the origin and the policy has a rule,
//! the result is a [`Decision::Ask`], and [`RuleCall::conclude`] returns the verdict. A decision is
//! total and pure: any bytes lead to a verdict, and equal requests to equal verdicts. It allocates
//! nothing and takes no lock; only regexes fill a cache of their own on each thread. The gateway
//! responds to denials or forwards them without CORS fields.

use std::sync::Arc;

use crate::headers::RenderedHeaders;
use crate::names::{NameSet, SAFELISTED_METHODS, is_token};
use crate::origin::hash::HashSeed;
use crate::origin::parse::{ORIGIN_LEN_MAX, Origin, parse};
use crate::origin::regexes::OriginRegexes;
use crate::origin::risk::EntryRestrictions;
use crate::origin::set::{self, CompiledOrigins};
use crate::request::{CorsRequest, CredentialFields, FieldLines, RequestField};
use crate::request_headers::{self, AllowedHeaders, RequestHeadersFault};
use crate::rule::{Rule, RuleAnswer};
use crate::spec::CrossSiteTerms;
use crate::verdict::{EntryId, Reason, RequestKind, Verdict};

mod call;
mod edits;
pub(crate) mod refusal;

pub use self::call::{RuleCall, RuleContext};

/// The part of a policy that its tenants share. Only [`Template::compile`] and
/// [`Template::compile_with_rule`] create it.
#[derive(Debug, Clone)]
pub struct Template {
    pub(crate) seed: HashSeed,
    pub(crate) restrictions: EntryRestrictions,
    pub(crate) set: CompiledOrigins,
    pub(crate) regexes: OriginRegexes,
    pub(crate) methods: AllowedMethods,
    pub(crate) headers: AllowedHeaders,
    pub(crate) rendered: RenderedHeaders,
    pub(crate) cross_site: CrossSiteTerms,
    /// The rule that runs where no entry covers the origin.
    pub(crate) rule: Option<Arc<Rule>>,
    /// The rule's text as an entry: `rule:NAME`.
    pub(crate) rule_text: Option<Box<str>>,
    /// Whether the rule read the tenant when it was probed with unlisted origins.
    pub(crate) rule_reads_tenant: bool,
}

/// The policy of one tenant: a template and the tenant's own origins. Only [`Policy::extend`]
/// creates it.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) template: Arc<Template>,
    pub(crate) own: CompiledOrigins,
    /// The entry `*`, if there is one. The origin is not parsed then.
    pub(crate) any: Option<EntryId>,
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
        // The rule's terms stay: an explained refusal allows credentials exactly where an allowed
        // preflight does.
        let refusal =
            |reason| Verdict { terms: verdict.terms, ..Verdict::deny(RequestKind::Preflight, reason, verdict.entry) };
        // https://fetch.spec.whatwg.org/#http-access-control-request-method: the field has exactly
        // one method.
        if !self.allows_method(request.requested_method) {
            return refusal(Reason::Method);
        }
        // https://fetch.spec.whatwg.org/#http-access-control-request-headers
        if request_headers::check(request.requested_headers, &self.template.headers).is_err() {
            return refusal(Reason::Header);
        }
        verdict
    }

    fn decide_websocket<'a>(&'a self, request: &'a CorsRequest<'a>) -> Decision<'a> {
        // A page can read a WebSocket without a CORS check, cookies included. So `*`, which
        // excludes credentials elsewhere, cannot cover a handshake with them (cross-site WebSocket
        // hijacking).
        if self.is_any() && request.credentials != CredentialFields::Absent {
            return Decision::Static(Verdict::deny(RequestKind::WebSocket, Reason::NoMatch, None));
        }
        self.decide_origin(RequestKind::WebSocket, request)
    }

    fn decide_origin<'a>(&'a self, kind: RequestKind, request: &'a CorsRequest<'a>) -> Decision<'a> {
        if let Some(any) = self.any {
            return Decision::Static(Verdict::allow(kind, Reason::Any, Some(any)));
        }
        match request.origin {
            RequestField::One(b"null") => Decision::Static(self.decide_null(kind)),
            RequestField::One(value) => self.decide_value(kind, value, request),
            // https://fetch.spec.whatwg.org/#origin-header: the field has exactly one origin.
            RequestField::Many | RequestField::Absent => {
                Decision::Static(Verdict::deny(kind, Reason::MalformedOrigin, None))
            }
        }
    }

    fn decide_null(&self, kind: RequestKind) -> Verdict {
        // Sandboxed frames of any site, `data:` pages and some redirects send `null`. Besides `*`,
        // only the entry `null` covers it, never a pattern, a regex or a rule.
        let entry = self.template.set.null().map(EntryId::Template).or(self.own.null().map(EntryId::Own));
        match entry {
            Some(_) => Verdict::allow(kind, Reason::Exact, entry),
            None => Verdict::deny(kind, Reason::NullOrigin, None),
        }
    }

    fn decide_value<'a>(&'a self, kind: RequestKind, value: &'a [u8], request: &'a CorsRequest<'a>) -> Decision<'a> {
        // Checked before hashing, so that a hostile value costs nothing.
        if value.len() > ORIGIN_LEN_MAX {
            return Decision::Static(Verdict::deny(kind, Reason::MalformedOrigin, None));
        }
        // Configured origins are well-formed, so an equal value needs no parsing.
        if let Some(entry) = self.exact(value) {
            return Decision::Static(Verdict::allow(kind, Reason::Exact, Some(entry)));
        }
        let Ok(origin) = parse(value) else {
            return Decision::Static(Verdict::deny(kind, Reason::MalformedOrigin, None));
        };
        match (self.pattern(&origin).or_else(|| self.regex(&origin)), &self.template.rule) {
            (Some((reason, entry)), _) => Decision::Static(Verdict::allow(kind, reason, Some(entry))),
            (None, Some(rule)) => Decision::Ask(RuleCall::new(self, rule, kind, origin, request)),
            (None, None) => Decision::Static(Verdict::deny(kind, Reason::NoMatch, None)),
        }
    }

    pub(crate) fn exact(&self, value: &[u8]) -> Option<EntryId> {
        let hash = self.template.seed.whole(value);
        let shared = self.template.set.exact(hash, value).map(EntryId::Template);
        shared.or_else(|| self.own.exact(hash, value).map(EntryId::Own))
    }

    fn pattern(&self, origin: &Origin<'_>) -> Option<(Reason, EntryId)> {
        let found = set::find(&self.template.seed, [&self.template.set, &self.own], origin)?;
        let entry = match found {
            (0, index) => EntryId::Template(index),
            (_, index) => EntryId::Own(index),
        };
        Some((Reason::Wildcard, entry))
    }

    fn regex(&self, origin: &Origin<'_>) -> Option<(Reason, EntryId)> {
        let template = &self.template;
        let index = template.regexes.find(origin.text)?;
        // The compiler cannot list the origins that a regex matches, so credentials are checked
        // again.
        let is_excluded = template.restrictions.excludes(origin);
        let entry = EntryId::Template(u32::try_from(template.set.len()).ok()? + index);
        (!is_excluded).then_some((Reason::Regex, entry))
    }

    // https://fetch.spec.whatwg.org/#cors-safelisted-method: a page that watches its upload sends a
    // preflight even for `POST`, so safelisted methods pass without being listed.
    pub(crate) fn allows_method(&self, field: RequestField<'_>) -> bool {
        let RequestField::One(method) = field else { return false };
        match &self.template.methods {
            _ if SAFELISTED_METHODS.iter().any(|safe| safe.as_bytes() == method) => true,
            AllowedMethods::All => is_token(method),
            AllowedMethods::Only(methods) => methods.contains(method),
        }
    }

    /// Returns the first requested header that this policy refuses. The bytes need not be a token.
    /// `None` if all headers are allowed, or if the list as a whole is refused for its length, its
    /// number of names, its empty elements or its white space.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use crossgate_policy::{Policy, PolicySpec, Template};
    /// let spec = PolicySpec { allow_headers: vec!["x-api".into()], ..PolicySpec::default() };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let own_origins = ["https://app.test".into()];
    /// let policy = Policy::extend(Arc::new(template), &own_origins).unwrap().value;
    /// assert_eq!(policy.refused_header(&&[&b"x-api, x-new"[..]][..]), Some(&b"x-new"[..]));
    /// assert_eq!(policy.refused_header(&&[&b"x-api"[..]][..]), None);
    /// ```
    pub fn refused_header<'a>(&self, lines: &'a dyn FieldLines) -> Option<&'a [u8]> {
        match request_headers::check(lines, &self.template.headers) {
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
        !self.is_any()
    }

    /// Returns the number of entries in each layer.
    pub fn entry_counts(&self) -> EntryCounts {
        EntryCounts { template: self.template.len(), own: self.own.len() }
    }

    /// Returns the rule that runs where no entry covers the origin.
    pub fn rule(&self) -> Option<&Arc<Rule>> {
        self.template.rule.as_ref()
    }

    pub(crate) fn rule_entry(&self) -> Option<EntryId> {
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

    pub(crate) fn is_any(&self) -> bool {
        self.any.is_some()
    }

    pub(crate) fn has_credentials(&self) -> bool {
        self.template.restrictions.credentials
    }

    pub(crate) fn excludes(&self, origin: &Origin<'_>) -> bool {
        self.template.restrictions.excludes(origin)
    }

    pub(crate) fn rendered(&self) -> &RenderedHeaders {
        &self.template.rendered
    }
}

impl Template {
    fn text(&self, index: usize) -> Option<&str> {
        let regex = || self.regexes.text(index.checked_sub(self.set.len())?);
        self.set.text(index).or_else(regex).or_else(|| self.rule_text.as_deref().filter(|_| index + 1 == self.len()))
    }

    /// Returns the number of entries. The rule is the last one.
    fn len(&self) -> usize {
        self.set.len() + self.regexes.len() + usize::from(self.rule.is_some())
    }
}
