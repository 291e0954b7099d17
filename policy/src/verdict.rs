//! What was decided about one request: its kind, allow or deny, the reason, and the configured entry behind it.
//!
//! All three vocabularies are closed; their texts are the ones of logs, metrics and `explain`. A verdict is a plain
//! value: it holds nothing of the request, so it may be kept, counted and compared.

use crate::rule::Terms;

/// What a request is to CORS. Told by which fields are present, before the origin is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `OPTIONS` with an origin and a requested method: answered by the gateway, never forwarded.
    Preflight,
    /// No origin at all.
    NonCors,
    /// From a page of the same origin as the API itself.
    SameOrigin,
    /// A cross-origin WebSocket handshake.
    WebSocket,
    /// Any other cross-origin request.
    Actual,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Preflight, Self::NonCors, Self::SameOrigin, Self::WebSocket, Self::Actual];

    /// The kind's name in logs and metrics.
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

/// Allowed or not.
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

    /// The outcome's name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Why. The first seven allow, the others deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The origin is configured as it stands.
    Exact,
    /// A pattern with a star covers the origin.
    Wildcard,
    /// A regular expression matches the origin.
    Regex,
    /// A rule let the origin in.
    Rule,
    /// Any origin is allowed.
    Any,
    /// The request comes from the API's own origin.
    SameOrigin,
    /// The request has no origin.
    NonCors,
    /// No entry covers the origin.
    NoMatch,
    /// The origin is `null`.
    NullOrigin,
    /// The origin field is not one well-formed origin.
    MalformedOrigin,
    /// The preflight asks for a method that is not allowed, or not for exactly one.
    Method,
    /// The preflight asks for a header that is not allowed, or asks in a malformed way.
    Header,
    /// A rule refused the origin.
    RuleDeny,
    /// A rule failed.
    RuleError,
    /// No tenant has the request's host.
    UnknownHost,
    /// The tenant has no route for the request.
    UnknownRoute,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 16] = [
        Self::Exact,
        Self::Wildcard,
        Self::Regex,
        Self::Rule,
        Self::Any,
        Self::SameOrigin,
        Self::NonCors,
        Self::NoMatch,
        Self::NullOrigin,
        Self::MalformedOrigin,
        Self::Method,
        Self::Header,
        Self::RuleDeny,
        Self::RuleError,
        Self::UnknownHost,
        Self::UnknownRoute,
    ];

    /// The reason's name in logs, metrics and refusals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
            Self::Regex => "regex",
            Self::Rule => "rule",
            Self::Any => "any",
            Self::SameOrigin => "same_origin",
            Self::NonCors => "non_cors",
            Self::NoMatch => "no_match",
            Self::NullOrigin => "null_origin",
            Self::MalformedOrigin => "malformed_origin",
            Self::Method => "method",
            Self::Header => "header",
            Self::RuleDeny => "rule_deny",
            Self::RuleError => "rule_error",
            Self::UnknownHost => "unknown_host",
            Self::UnknownRoute => "unknown_route",
        }
    }
}

/// A configured entry of one policy: the layer it is in and its index there. Indices are dense and begin at 0; how many
/// there are says [`Policy::entry_counts`](crate::Policy::entry_counts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryId {
    /// An entry of the template, shared by every tenant of it.
    Template(u32),
    /// An entry of the tenant's own.
    Own(u32),
}

impl EntryId {
    /// The index within the template, if it is an entry of the template.
    pub const fn template_index(self) -> Option<usize> {
        match self {
            Self::Template(index) => Some(index as usize),
            Self::Own(_) => None,
        }
    }

    /// The index within the tenant's own entries, if it is one of them.
    pub const fn own_index(self) -> Option<usize> {
        match self {
            Self::Template(_) => None,
            Self::Own(index) => Some(index as usize),
        }
    }
}

/// What was decided about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// What the request is.
    pub kind: Kind,
    /// Allowed or not.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The entry that covers the origin, also where a preflight is then refused for its method or headers.
    pub entry: Option<EntryId>,
    /// By what a rule narrows the policy for this origin.
    pub terms: Terms,
}

impl Verdict {
    /// Whether the request passes.
    pub const fn is_allowed(&self) -> bool {
        matches!(self.outcome, Outcome::Allow)
    }

    pub(crate) const fn allow(kind: Kind, reason: Reason, entry: Option<EntryId>) -> Self {
        Self::new(kind, Outcome::Allow, reason, entry)
    }

    pub(crate) const fn deny(kind: Kind, reason: Reason, entry: Option<EntryId>) -> Self {
        Self::new(kind, Outcome::Deny, reason, entry)
    }

    /// That of a request for which the tenant has no route, and so no policy.
    pub const fn unknown_route(kind: Kind) -> Self {
        Self::deny(kind, Reason::UnknownRoute, None)
    }

    const fn new(kind: Kind, outcome: Outcome, reason: Reason, entry: Option<EntryId>) -> Self {
        Self { kind, outcome, reason, entry, terms: Terms::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct() {
        let kinds: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!((kinds.len(), reasons.len()), (Kind::ALL.len(), Reason::ALL.len()));
    }
}
