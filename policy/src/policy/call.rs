//! A request that waits for its policy's rule: the rule's input, and the verdict after its answer.
//!
//! A rule can only narrow its policy. The allowed origin is always the request's own. A preflight
//! must still request an allowed method and allowed headers. With credentials, plain `http` stays
//! refused. An error denies. The gateway caches answers and decides whether the rule runs at all.

use std::fmt;
use std::sync::Arc;

use super::Policy;
use crate::group::GroupId;
use crate::origin::Origin;
use crate::request::{CorsRequest, HeadFields, RequestField};
use crate::rule::{Rule, RuleAnswer, RuleErrorKind, RuleInput};
use crate::verdict::{Reason, RequestKind, Verdict};

/// A pending call of a rule. Only [`Policy::decide`] creates it.
#[derive(Clone, Copy)]
pub struct RuleCall<'a> {
    policy: &'a Policy,
    rule: &'a Arc<Rule>,
    kind: RequestKind,
    origin: Origin<'a>,
    request: &'a CorsRequest<'a>,
}

/// The parts of a request that a rule can read besides the CORS view.
#[derive(Clone, Copy)]
pub struct RuleContext<'a> {
    /// The tenant's id.
    pub tenant: &'a str,
    /// The route's path prefix.
    pub route: &'a str,
    /// The path without the query, in the form that routes are matched with.
    pub path: &'a str,
    /// The query after the `?`, as sent. Empty without a query.
    pub query: &'a str,
    /// All request fields.
    pub headers: &'a dyn HeadFields,
}

impl<'a> RuleCall<'a> {
    pub(crate) fn new(
        policy: &'a Policy,
        rule: &'a Arc<Rule>,
        kind: RequestKind,
        origin: Origin<'a>,
        request: &'a CorsRequest<'a>,
    ) -> Self {
        Self { policy, rule, kind, origin, request }
    }

    /// Returns the rule to run.
    pub fn rule(&self) -> &'a Arc<Rule> {
        self.rule
    }

    /// Returns the input of the rule.
    pub fn input(&self, context: &RuleContext<'a>) -> RuleInput<'a> {
        RuleInput {
            origin: text(self.origin.text),
            scheme: text(self.origin.scheme),
            host: text(self.origin.host),
            port: self.origin.port,
            kind: self.kind,
            tenant: context.tenant,
            route: context.route,
            method: self.method(),
            path: context.path,
            query: context.query,
            api_host: self.request.own.host,
            requested_headers: self.request.requested_headers,
            headers: context.headers,
        }
    }

    // https://fetch.spec.whatwg.org/#cors-preflight-fetch: a preflight is about the request that
    // follows, so the rule reads that request's method.
    fn method(&self) -> &'a [u8] {
        match (self.kind, self.request.requested_method) {
            (RequestKind::Preflight, RequestField::One(method)) => method,
            (RequestKind::Preflight, RequestField::Absent | RequestField::Many) => b"",
            (RequestKind::NonCors | RequestKind::SameOrigin | RequestKind::WebSocket | RequestKind::Actual, _) => {
                self.request.method
            }
        }
    }

    /// Returns the group of an answer, an index into the groups that the rule lists.
    fn group(&self, listed: Option<u8>) -> GroupId {
        let group = listed.and_then(|index| self.policy.template.rule_groups.get(usize::from(index)));
        group.copied().unwrap_or_default()
    }

    /// Returns the verdict after the rule's answer or error.
    pub fn conclude(&self, answer: Result<&RuleAnswer, RuleErrorKind>) -> Verdict {
        let entry = self.policy.rule_entry();
        let verdict = match answer {
            Ok(RuleAnswer::Allow { group, terms }) => {
                let group = self.group(*group);
                let verdict = match self.policy.template.terms.of(group).restrictions.excludes(&self.origin) {
                    // An allowing rule cannot override the policy's refusal of an origin.
                    true => Verdict::deny(self.kind, Reason::RuleDeny, entry),
                    false => Verdict { terms: *terms, ..Verdict::allow(self.kind, Reason::Rule, entry) },
                };
                Verdict { group, ..verdict }
            }
            Ok(RuleAnswer::Deny(_)) => Verdict::deny(self.kind, Reason::RuleDeny, entry),
            Ok(RuleAnswer::Abstain) => self.policy.decide_uncovered(self.kind, self.request, Reason::NoMatch),
            Err(_) => Verdict::deny(self.kind, Reason::RuleError, entry),
        };
        self.policy.complete(verdict, self.request)
    }
}

/// Converts a part of a well-formed origin, which is ASCII.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

impl fmt::Debug for RuleCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleCall").field("kind", &self.kind).field("origin", &self.origin).finish_non_exhaustive()
    }
}
