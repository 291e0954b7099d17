//! The result of a decision: the kind of the request, allow or deny, the reason, and the entry that
//! matched.
//!
//! All three vocabularies are closed. Their names appear in logs, metrics and `explain`. A verdict
//! is a plain value without data of the request, so it can be stored, counted and compared.

use crate::group::GroupId;

/// The kind of a request in the CORS protocol. The fields that are present determine it, before the
/// policy checks the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// `OPTIONS` with an origin and a requested method. The gateway responds and never forwards it.
    Preflight,
    /// A request without `Origin`.
    NonCors,
    /// A request from a page of the API's own origin.
    SameOrigin,
    /// A cross-origin WebSocket handshake.
    WebSocket,
    /// Any other cross-origin request.
    Actual,
}

impl RequestKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Preflight, Self::NonCors, Self::SameOrigin, Self::WebSocket, Self::Actual];

    /// Returns the name of the kind in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::NonCors => "non_cors",
            Self::SameOrigin => "same_origin",
            Self::WebSocket => "websocket",
            Self::Actual => "actual",
        }
    }
}

/// Whether the request passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request passes.
    Allow,
    /// The request is refused.
    Deny,
}

impl Outcome {
    /// Both outcomes.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Deny];

    /// Returns the name of the outcome in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The reason of a verdict. The first eight allow, the others deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An entry equals the origin.
    Exact,
    /// A pattern with a star covers the origin.
    Wildcard,
    /// A regular expression matches the origin.
    Regex,
    /// A rule allowed the origin.
    Rule,
    /// The policy allows every origin.
    Any,
    /// The request comes from the API's own origin.
    SameOrigin,
    /// The request has no origin.
    NonCors,
    /// A navigation from another site, which the route lets pass without CORS fields.
    Navigation,
    /// No entry covers the origin.
    NoMatch,
    /// The origin is `null`.
    NullOrigin,
    /// The `Origin` field is malformed or repeated.
    MalformedOrigin,
    /// The preflight requests a method that is not allowed, or more than one.
    Method,
    /// The preflight requests a header that is not allowed, or its list is malformed or too long.
    Header,
    /// A rule refused the origin.
    RuleDeny,
    /// A rule failed or exceeded a limit.
    RuleError,
    /// The request comes from another site, and the policy protects from it.
    CrossSite,
    /// No tenant has the request's host.
    UnknownHost,
    /// The tenant has no route for the request.
    UnknownRoute,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 18] = [
        Self::Exact,
        Self::Wildcard,
        Self::Regex,
        Self::Rule,
        Self::Any,
        Self::SameOrigin,
        Self::NonCors,
        Self::Navigation,
        Self::NoMatch,
        Self::NullOrigin,
        Self::MalformedOrigin,
        Self::Method,
        Self::Header,
        Self::RuleDeny,
        Self::RuleError,
        Self::CrossSite,
        Self::UnknownHost,
        Self::UnknownRoute,
    ];

    /// Returns the name of the reason in logs, metrics and refusals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
            Self::Regex => "regex",
            Self::Rule => "rule",
            Self::Any => "any",
            Self::SameOrigin => "same_origin",
            Self::NonCors => "non_cors",
            Self::Navigation => "navigation",
            Self::NoMatch => "no_match",
            Self::NullOrigin => "null_origin",
            Self::MalformedOrigin => "malformed_origin",
            Self::Method => "method",
            Self::Header => "header",
            Self::RuleDeny => "rule_deny",
            Self::RuleError => "rule_error",
            Self::CrossSite => "cross_site",
            Self::UnknownHost => "unknown_host",
            Self::UnknownRoute => "unknown_route",
        }
    }
}

/// A configured entry of one policy: its layer and its index there. Indices are dense, from 0.
/// [`Policy::entry_counts`](crate::Policy::entry_counts) returns their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryId {
    /// An entry of the template, which its tenants share.
    Template(u32),
    /// One of the tenant's own entries.
    Own(u32),
}

impl EntryId {
    /// Returns the index within the template, for an entry of the template.
    pub const fn template_index(self) -> Option<usize> {
        match self {
            Self::Template(index) => Some(index as usize),
            Self::Own(_) => None,
        }
    }

    /// Returns the index within the tenant's own entries, for one of them.
    pub const fn own_index(self) -> Option<usize> {
        match self {
            Self::Template(_) => None,
            Self::Own(index) => Some(index as usize),
        }
    }
}

/// The terms on which a rule allows an origin. They can only narrow the policy; the default narrows
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RuleTerms {
    /// The rule's upper bound for max-age, in seconds, if it sets one.
    pub max_age_seconds: Option<u32>,
    /// Whether this origin is denied credentials.
    pub without_credentials: bool,
}

impl RuleTerms {
    /// The terms that narrow nothing.
    pub const NONE: Self = Self { max_age_seconds: None, without_credentials: false };
}

/// The result of the decision about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The kind of the request.
    pub kind: RequestKind,
    /// Whether the request passes.
    pub outcome: Outcome,
    /// The reason of the outcome.
    pub reason: Reason,
    /// The entry that covers the origin. It is also present if a preflight is refused for its
    /// method or headers.
    pub entry: Option<EntryId>,
    /// The terms of the rule that allowed the origin.
    pub terms: RuleTerms,
    /// The group of the origin, whose terms apply. [`GroupId::BASE`] without an origin that an
    /// entry covers.
    pub group: GroupId,
}

impl Verdict {
    /// Whether the request passes.
    pub const fn is_allowed(&self) -> bool {
        matches!(self.outcome, Outcome::Allow)
    }

    pub(crate) const fn allow(kind: RequestKind, reason: Reason, entry: Option<EntryId>) -> Self {
        Self::new(kind, Outcome::Allow, reason, entry)
    }

    pub(crate) const fn deny(kind: RequestKind, reason: Reason, entry: Option<EntryId>) -> Self {
        Self::new(kind, Outcome::Deny, reason, entry)
    }

    /// Returns the verdict on a request for which the tenant has no route, and so no policy.
    pub const fn unknown_route(kind: RequestKind) -> Self {
        Self::deny(kind, Reason::UnknownRoute, None)
    }

    const fn new(kind: RequestKind, outcome: Outcome, reason: Reason, entry: Option<EntryId>) -> Self {
        Self { kind, outcome, reason, entry, terms: RuleTerms::NONE, group: GroupId::BASE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn kind_and_reason_names_are_distinct() {
        let kinds: BTreeSet<_> = RequestKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!((kinds.len(), reasons.len()), (RequestKind::ALL.len(), Reason::ALL.len()));
    }
}
