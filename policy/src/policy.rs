//! The decision: every branch, in the order of the Fetch standard, each with the section it stands on.
//!
//! A [`Template`] is what tenants share, origins, lists and rendered headers; a [`Policy`] is a template and a tenant's own
//! origins. What no entry covers is the rule's, if there is one: that is a [`Decision::Ask`], and [`RuleCall::conclude`] gives
//! the verdict. Deciding is total and pure: any bytes give a verdict, and the same bytes the same one. It allocates nothing
//! and takes no lock; only a policy's regexes warm up a cache of their own on each thread. How denials are answered,
//! or forwarded without headers, is up to the gateway.

use std::sync::Arc;

use crate::headers::Rendered;
use crate::names::{Names, SAFELISTED_METHODS, is_token};
use crate::origin::hash::Seed;
use crate::origin::parse::{ORIGIN_LEN_MAX, Origin, parse};
use crate::origin::regexes::Regexes;
use crate::origin::risk::Guard;
use crate::origin::set::{self, Set};
use crate::request::{Credentials, Field, Request};
use crate::request_headers::{self, AllowedHeaders};
use crate::rule::{Answer, Rule, RuleCall};
use crate::verdict::{EntryId, Kind, Reason, Verdict};

/// What the tenants of one policy share: compiled once, and made only by [`Template::compile`].
#[derive(Debug, Clone)]
pub struct Template {
    pub(crate) seed: Seed,
    pub(crate) guard: Guard,
    pub(crate) set: Set,
    pub(crate) regexes: Regexes,
    pub(crate) methods: AllowedMethods,
    pub(crate) headers: AllowedHeaders,
    pub(crate) rendered: Rendered,
    /// Who is asked where no entry matches.
    pub(crate) rule: Option<Arc<Rule>>,
    /// `rule:NAME`, as an entry's text.
    pub(crate) rule_text: Option<Box<str>>,
    /// Whether the rule looked at the tenant when it was asked about strangers.
    pub(crate) rule_reads_tenant: bool,
}

/// The policy of one tenant: a template, and the tenant's own origins. Made only by [`Policy::extend`].
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) template: Arc<Template>,
    pub(crate) own: Set,
    /// The entry `*`, if there is one: then the origin is not looked at.
    pub(crate) any: Option<EntryId>,
}

/// Which methods a preflight may ask for, besides the safelisted ones.
#[derive(Debug, Clone)]
pub(crate) enum AllowedMethods {
    /// Every method.
    All,
    /// These.
    Only(Names),
}

/// What a policy says by itself: a verdict, or that its rule is to be asked.
#[derive(Clone, Copy)]
pub enum Decision<'a> {
    /// Decided.
    Static(Verdict),
    /// No entry covers the origin, which is well-formed and not `null`.
    Ask(RuleCall<'a>),
}

impl Decision<'_> {
    /// The verdict if nobody asks the rule, which is then as if it had nothing to say.
    pub fn without_asking(&self) -> Verdict {
        match self {
            Self::Static(verdict) => *verdict,
            Self::Ask(call) => call.conclude(Ok(&Answer::Abstain)),
        }
    }
}

/// How many entries a policy has in each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryCounts {
    /// Entries of the template.
    pub template: usize,
    /// The tenant's own entries.
    pub own: usize,
}

impl Policy {
    /// Classifies a request and decides about it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use crossgate_policy::{Field, OwnOrigin, Policy, PolicySpec, Reason, Request, Template};
    ///
    /// let spec = PolicySpec { allow_origins: vec!["https://*.example.test".into()], ..PolicySpec::default() };
    /// let template = Template::compile(&spec).unwrap().value;
    /// let policy = Policy::extend(Arc::new(template), &["https://partner.test".into()]).unwrap().value;
    ///
    /// let own = OwnOrigin { host: "api.example.test", port: None, scheme: None };
    /// let reason = |origin: &str| {
    ///     let origin = Field::One(origin.as_bytes());
    ///     policy.decide(&Request { origin, ..Request::new(b"GET", own) }).without_asking().reason
    /// };
    /// assert_eq!(reason("https://app.example.test"), Reason::Wildcard);
    /// assert_eq!(reason("https://partner.test"), Reason::Exact);
    /// assert_eq!(reason("https://example.test"), Reason::NoMatch);
    /// assert_eq!(reason("null"), Reason::NullOrigin);
    /// ```
    pub fn decide<'a>(&'a self, request: &'a Request<'a>) -> Decision<'a> {
        let kind = request.classify();
        match kind {
            // https://fetch.spec.whatwg.org/#http-requests: nothing to decide without an origin, or at home.
            Kind::NonCors => Decision::Static(Verdict::allow(kind, Reason::NonCors, None)),
            Kind::SameOrigin => Decision::Static(Verdict::allow(kind, Reason::SameOrigin, None)),
            // https://websockets.spec.whatwg.org/#concept-websocket-establish
            Kind::WebSocket => self.decide_websocket(request),
            // https://fetch.spec.whatwg.org/#cors-check: methods and headers are the preflight's business.
            Kind::Actual => self.decide_origin(kind, request),
            // https://fetch.spec.whatwg.org/#cors-preflight-fetch has the CORS check too, before all else.
            Kind::Preflight => match self.decide_origin(kind, request) {
                Decision::Static(verdict) => Decision::Static(self.complete(verdict, request)),
                Decision::Ask(call) => Decision::Ask(call),
            },
        }
    }

    /// The verdict on a request whose origin has been judged: a preflight asks for more than that.
    pub(crate) fn complete(&self, verdict: Verdict, request: &Request<'_>) -> Verdict {
        if !verdict.is_allowed() || verdict.kind != Kind::Preflight {
            return verdict;
        }
        // https://fetch.spec.whatwg.org/#http-access-control-request-method has one method, neither none nor two.
        if !self.allows_method(request.requested_method) {
            return Verdict::deny(Kind::Preflight, Reason::Method, verdict.entry);
        }
        // https://fetch.spec.whatwg.org/#http-access-control-request-headers
        if request_headers::check(request.requested_headers, &self.template.headers).is_err() {
            return Verdict::deny(Kind::Preflight, Reason::Header, verdict.entry);
        }
        verdict
    }

    fn decide_websocket<'a>(&'a self, request: &'a Request<'a>) -> Decision<'a> {
        // The browser lets a page read a WebSocket whatever we answer, so `*` cannot mean "without credentials" here.
        if self.is_any() && request.credentials == Credentials::Present {
            return Decision::Static(Verdict::deny(Kind::WebSocket, Reason::NoMatch, None));
        }
        self.decide_origin(Kind::WebSocket, request)
    }

    fn decide_origin<'a>(&'a self, kind: Kind, request: &'a Request<'a>) -> Decision<'a> {
        if let Some(any) = self.any {
            return Decision::Static(Verdict::allow(kind, Reason::Any, Some(any)));
        }
        match request.origin {
            Field::One(b"null") => Decision::Static(self.decide_null(kind)),
            Field::One(value) => self.decide_value(kind, value, request),
            // https://fetch.spec.whatwg.org/#origin-header holds one origin.
            Field::Many | Field::Absent => Decision::Static(Verdict::deny(kind, Reason::MalformedOrigin, None)),
        }
    }

    fn decide_null(&self, kind: Kind) -> Verdict {
        let entry = self.template.set.null().map(EntryId::Template).or(self.own.null().map(EntryId::Own));
        match entry {
            Some(_) => Verdict::allow(kind, Reason::Exact, entry),
            None => Verdict::deny(kind, Reason::NullOrigin, None),
        }
    }

    fn decide_value<'a>(&'a self, kind: Kind, value: &'a [u8], request: &'a Request<'a>) -> Decision<'a> {
        if value.len() > ORIGIN_LEN_MAX {
            return Decision::Static(Verdict::deny(kind, Reason::MalformedOrigin, None));
        }
        // Whatever equals a configured origin is well-formed, as that one is.
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
        // What a regex lets in is not known at compile, so this is asked again.
        let is_kept_out = template.guard.keeps_out(origin);
        let entry = EntryId::Template(u32::try_from(template.set.len()).ok()? + index);
        (!is_kept_out).then_some((Reason::Regex, entry))
    }

    // https://fetch.spec.whatwg.org/#cors-safelisted-method: a page that watches its upload sends a preflight even for
    // `POST`, so those pass without being listed.
    pub(crate) fn allows_method(&self, field: Field<'_>) -> bool {
        let Field::One(method) = field else { return false };
        match &self.template.methods {
            _ if SAFELISTED_METHODS.iter().any(|safe| safe.as_bytes() == method) => true,
            AllowedMethods::All => is_token(method),
            AllowedMethods::Only(methods) => methods.contains(method),
        }
    }

    /// Whether any answer of this policy depends on the request's origin.
    pub fn depends_on_origin(&self) -> bool {
        !self.is_any()
    }

    /// How many entries each layer has.
    pub fn entry_counts(&self) -> EntryCounts {
        EntryCounts { template: self.template.len(), own: self.own.len() }
    }

    /// The rule that is asked where no entry matches.
    pub fn rule(&self) -> Option<&Arc<Rule>> {
        self.template.rule.as_ref()
    }

    pub(crate) fn rule_entry(&self) -> Option<EntryId> {
        let last = self.template.rule.as_ref().and(self.template.len().checked_sub(1))?;
        u32::try_from(last).ok().map(EntryId::Template)
    }

    /// An entry as it was configured; empty for an entry of another policy.
    pub fn entry_text(&self, entry: EntryId) -> &str {
        let text = match entry {
            EntryId::Template(index) => self.template.text(index as usize),
            EntryId::Own(index) => self.own.text(index as usize),
        };
        text.unwrap_or_default()
    }

    /// The template this policy was made from.
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    pub(crate) fn is_any(&self) -> bool {
        self.any.is_some()
    }

    pub(crate) fn has_credentials(&self) -> bool {
        self.template.guard.credentials
    }

    pub(crate) fn keeps_out(&self, origin: &Origin<'_>) -> bool {
        self.template.guard.keeps_out(origin)
    }

    pub(crate) fn rendered(&self) -> &Rendered {
        &self.template.rendered
    }
}

impl Template {
    fn text(&self, index: usize) -> Option<&str> {
        let regex = || self.regexes.text(index.checked_sub(self.set.len())?);
        self.set.text(index).or_else(regex).or_else(|| self.rule_text.as_deref().filter(|_| index + 1 == self.len()))
    }

    /// How many entries there are; the rule is the last one.
    fn len(&self) -> usize {
        self.set.len() + self.regexes.len() + usize::from(self.rule.is_some())
    }
}
