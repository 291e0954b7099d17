//! Lists of origins, policies and tenants, their texts as written.

use std::sync::Arc;

use super::{Located, Text};
use crate::host::HostPattern;

/// A named list of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSetSpec {
    /// What policies call it.
    pub name: Text,
    /// Its origins, as written.
    pub origins: Vec<Text>,
}

/// A policy as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySpec {
    /// What tenants call it.
    pub name: Text,
    /// Origin patterns.
    pub allow_origins: Vec<Text>,
    /// Names of origin sets.
    pub allow_origin_sets: Vec<Text>,
    /// Regular expressions for whole origins.
    pub allow_origin_regexes: Vec<Text>,
    /// Methods a preflight may ask for.
    pub allow_methods: Vec<Text>,
    /// Request headers a preflight may ask for.
    pub allow_headers: Vec<Text>,
    /// Response headers a page may read.
    pub expose_headers: Vec<Text>,
    /// Whether cookies and the like are allowed.
    pub allow_credentials: Located<bool>,
    /// How long browsers may remember a preflight, in seconds.
    pub max_age: Located<u32>,
    /// How much of the lists a preflight answer tells.
    pub disclosure: Disclosure,
    /// What happens to requests of origins that are not allowed.
    pub unmatched_requests: UnmatchedRequests,
    /// Whether it protects or only watches.
    pub mode: Located<Mode>,
    /// Who is asked where no entry matches.
    pub rule: Option<RuleSpec>,
    /// What weakens it.
    pub dangerously: Dangerously,
}

/// A policy's rule as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// The script's file in the scripts directory.
    pub script: Text,
    /// Header fields it may read, in lower case.
    pub headers: Vec<Text>,
    /// Query keys it may read.
    pub query: Vec<Text>,
}

/// How much of its lists a policy tells in preflight answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disclosure {
    /// The whole lists.
    Full,
    /// What was asked for.
    Minimal,
}

/// What happens to an actual request of an origin that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmatchedRequests {
    /// 403 at the edge.
    Reject,
    /// The upstream answers, without CORS headers: for single sign-on and payment returns.
    Forward,
}

/// Whether a policy protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It judges and counts, and changes nothing.
    Report,
}

/// Overrides that weaken a policy, all off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dangerously {
    /// `null` may be listed.
    pub allow_null: bool,
    /// http origins may be listed with credentials.
    pub allow_insecure_origins: bool,
    /// Wildcards over public suffixes may be listed with credentials.
    pub allow_public_suffixes: bool,
    /// Expressions that let in any origin may be listed with credentials.
    pub allow_any_origin: bool,
}

/// A tenant as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSpec {
    /// Its name in metrics, logs and headers.
    pub id: Located<Arc<str>>,
    /// Its hosts.
    pub hosts: Vec<Located<HostPattern>>,
    /// Where its requests go, unless a route says otherwise.
    pub upstream: Option<Text>,
    /// Its policy, unless a route says otherwise.
    pub policy: Option<Text>,
    /// Origins added to that policy.
    pub allow_origins: Vec<Text>,
    /// Paths that are treated differently.
    pub routes: Vec<RouteSpec>,
}

/// A route as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Whole segments from the left: `/a` stands for `/a` and `/a/b`. Without a slash at the end, `/` aside.
    pub prefix: Text,
    /// The methods it is for; all if empty.
    pub methods: Vec<Text>,
    /// Its policy instead of the tenant's.
    pub policy: Option<Text>,
    /// Its upstream instead of the tenant's.
    pub upstream: Option<Text>,
    /// Origins added to its policy.
    pub allow_origins: Vec<Text>,
    /// What happens to requests of other origins, instead of what the policy says.
    pub unmatched_requests: Option<UnmatchedRequests>,
}
