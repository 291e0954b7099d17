//! A request that waits for its policy's rule: what the rule is shown, and what its answer makes of the verdict.
//!
//! A rule can only narrow what its policy allows. Whatever it answers, the allowed origin is the request's own, a preflight still has
//! to ask for an allowed method and allowed headers, and plain `http` stays out where the policy has credentials. An error
//! denies. Keeping answers, and deciding whether to run at all, is the gateway's.

use std::fmt;
use std::sync::Arc;

use super::{Answer, Rule, RuleErrorKind, RuleInput};
use crate::origin::Origin;
use crate::policy::Policy;
use crate::request::{Field, HeadFields, Request};
use crate::verdict::{Kind, Reason, Verdict};

/// A question to a rule. Made by [`Policy::decide`].
#[derive(Clone, Copy)]
pub struct RuleCall<'a> {
    policy: &'a Policy,
    rule: &'a Arc<Rule>,
    kind: Kind,
    origin: Origin<'a>,
    request: &'a Request<'a>,
}

/// What a rule sees beyond the CORS view of a request.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The tenant's id.
    pub tenant: &'a str,
    /// The route's path prefix.
    pub route: &'a str,
    /// The path in the form routes are matched with, without the query.
    pub path: &'a str,
    /// What follows the `?`, as sent; empty without one.
    pub query: &'a str,
    /// All request fields.
    pub headers: &'a dyn HeadFields,
}

impl<'a> RuleCall<'a> {
    pub(crate) fn new(
        policy: &'a Policy,
        rule: &'a Arc<Rule>,
        kind: Kind,
        origin: Origin<'a>,
        request: &'a Request<'a>,
    ) -> Self {
        Self { policy, rule, kind, origin, request }
    }

    /// Who is to be asked.
    pub fn rule(&self) -> &'a Arc<Rule> {
        self.rule
    }

    /// What it is shown.
    pub fn input(&self, around: &Surroundings<'a>) -> RuleInput<'a> {
        RuleInput {
            origin: text(self.origin.text),
            scheme: text(self.origin.scheme),
            host: text(self.origin.host),
            port: self.origin.port,
            kind: self.kind,
            tenant: around.tenant,
            route: around.route,
            method: self.method(),
            path: around.path,
            query: around.query,
            requested_headers: self.request.requested_headers,
            headers: around.headers,
        }
    }

    // https://fetch.spec.whatwg.org/#cors-preflight-fetch: a preflight asks on behalf of another request.
    fn method(&self) -> &'a [u8] {
        match (self.kind, self.request.requested_method) {
            (Kind::Preflight, Field::One(method)) => method,
            (Kind::Preflight, Field::Absent | Field::Many) => b"",
            (Kind::NonCors | Kind::SameOrigin | Kind::WebSocket | Kind::Actual, _) => self.request.method,
        }
    }

    /// The verdict after what the rule answered, or after it failed to.
    pub fn conclude(&self, answer: Result<&Answer, RuleErrorKind>) -> Verdict {
        let entry = self.policy.rule_entry();
        let verdict = match answer {
            Ok(Answer::Allow(_)) if self.policy.keeps_out(&self.origin) => {
                Verdict::deny(self.kind, Reason::RuleDeny, entry)
            }
            Ok(Answer::Allow(terms)) => Verdict { terms: *terms, ..Verdict::allow(self.kind, Reason::Rule, entry) },
            Ok(Answer::Deny(_)) => Verdict::deny(self.kind, Reason::RuleDeny, entry),
            Ok(Answer::Abstain) => Verdict::deny(self.kind, Reason::NoMatch, None),
            Err(_) => Verdict::deny(self.kind, Reason::RuleError, entry),
        };
        self.policy.complete(verdict, self.request)
    }
}

/// A well-formed origin is ASCII.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

impl fmt::Debug for RuleCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleCall").field("kind", &self.kind).field("origin", &self.origin).finish_non_exhaustive()
    }
}
