//! Compiled tenants, their routes and policies: what a request uses once its host is known.
//!
//! Everything is fixed when a snapshot is compiled, and shared: an unchanged tenant is the same
//! object in the next snapshot, with its counters. Routes are few, and tried longest first; tenants
//! and origins are many, and hashed. Absent on purpose: state that a request changes, except
//! counters and the state of servers.

use std::sync::{Arc, OnceLock};

use crossgate_policy as engine;
use crossgate_policy::{CrossSiteNavigations, Policy, Template};
use http::HeaderValue;
use smallvec::SmallVec;

use crate::counters::{EntryHandles, TenantCounters};
use crate::ledger::GroupLabel;
use crate::upstream::Upstream;
use crate::verdicts::{CompiledRule, TenantRule};
use crossgate_config::model::{
    CookieWarnings, Mode, PolicyConfig, Position, PreflightFailures, TenantSpec, TimingAllowOrigins, UnmatchedRequests,
};
use crossgate_config::warnings::WarningCode;
use crossgate_message::field_edits::FieldEdits;
use crossgate_message::target;

/// A tenant: the owner of a set of hosts.
#[derive(Debug)]
pub struct Tenant {
    /// The tenant's name in metrics, logs and headers.
    pub id: Arc<str>,
    /// The counters of the tenant's requests. They survive recompiling, and end with the tenant.
    pub counters: Arc<TenantCounters>,
    /// The specification that the tenant was compiled from.
    pub(crate) spec: Arc<TenantSpec>,
    /// The routes: exact paths first, then the longest prefix; of equal paths, the route with
    /// methods first. Most tenants have one.
    pub(crate) routes: SmallVec<[Arc<Route>; 1]>,
    pub(crate) fallback: Option<Arc<Route>>,
    /// Whether every path has a route and all routes have the same terms, as with most tenants.
    pub(crate) has_uniform_terms: bool,
    /// The warnings of compiling the tenant, reported at every load that uses it.
    pub(crate) warnings: Box<[TenantWarning]>,
}

/// A warning about a tenant, with its location in the file.
#[derive(Debug, Clone)]
pub(crate) struct TenantWarning {
    pub(crate) code: WarningCode,
    pub(crate) at: Position,
    pub(crate) message: String,
}

impl Tenant {
    /// Returns whether all paths have routes with the same terms.
    pub(crate) fn are_uniform(routes: &[Arc<Route>]) -> bool {
        let accepts_all = routes.last().filter(|last| last.accepts_every_request());
        accepts_all.is_some_and(|last| routes.iter().all(|route| route.has_terms_of(last)))
    }

    /// The route for a path of
    /// [`path_for_matching`](crossgate_message::target::RequestTarget::path_for_matching).
    /// A preflight is routed by its requested method.
    pub fn route(&self, path: &str, method: &[u8]) -> Option<&Route> {
        self.routes.iter().map(|route| &**route).find(|route| route.covers(path) && route.accepts(method))
    }

    /// Returns whether a server could read a path as one of a route with other terms than those of
    /// [`Tenant::route`] (path confusion). Such a request is refused: it would be judged by one
    /// route and served as another.
    pub fn is_ambiguous(&self, path: &str, methods: &[&[u8]]) -> bool {
        if self.has_uniform_terms {
            return false;
        }
        methods.iter().any(|method| {
            let found = self.route(path, method);
            let is_other = |other: Option<&Route>| match (found, other) {
                (Some(found), Some(other)) => !found.has_terms_of(other),
                (None, None) => false,
                // Without a route the gateway answers itself, so no server reads the path.
                (None, Some(_)) => false,
                (Some(_), None) => true,
            };
            let in_any_case = |path: &str| self.route_in_any_case(path, method);
            // A server may also ignore a slash at the end, which changes the route only if that is
            // for an exact path.
            let without_end_slash = |path: &str| {
                let shorter = path.strip_suffix('/').filter(|shorter| !shorter.is_empty());
                shorter.is_some_and(|shorter| is_other(in_any_case(shorter)))
            };
            let is_other_in_any_case = |path: &str| {
                is_other(self.route(path, method)) || is_other(in_any_case(path)) || without_end_slash(path)
            };
            let is_other_reading = || target::readings(path).any(|reading| is_other_in_any_case(&reading));
            is_other(in_any_case(path)) || without_end_slash(path) || !target::is_readable(path) || is_other_reading()
        })
    }

    /// The route that a server with case-insensitive paths would use.
    fn route_in_any_case(&self, path: &str, method: &[u8]) -> Option<&Route> {
        let mut routes = self.routes.iter().map(|route| &**route);
        routes.find(|route| route.covers_in_any_case(path) && route.accepts(method))
    }

    /// The tenant's own policy, which decides the CORS fields of answers to paths without a route.
    /// Such requests are never forwarded.
    pub fn fallback(&self) -> Option<&Route> {
        self.fallback.as_deref()
    }

    /// All routes, in the order in which they are tried.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

/// The policy and the upstream for the requests below one path.
#[derive(Debug)]
pub struct Route {
    /// The path: a prefix of whole segments, `/` for all paths, or one exact path.
    pub path: Arc<str>,
    /// Whether the route is for exactly that path.
    pub(crate) is_exact: bool,
    pub policy_name: Arc<str>,
    /// The policy, extended by the tenant's origins. Equal routes of a tenant share it.
    pub policy: Arc<Policy>,
    pub upstream: Arc<Upstream>,
    /// The treatment of actual requests whose origin is not allowed.
    pub unmatched_requests: UnmatchedRequests,
    /// The answer to a preflight with a refused method or header of an allowed origin.
    pub preflight_failures: PreflightFailures,
    /// Whether form posts from other sites pass, if the policy protects from such requests.
    pub cross_site_navigations: CrossSiteNavigations,
    /// Whether the policy is enforced.
    pub mode: Mode,
    /// The counters of the policy's entries.
    pub handles: EntryHandles,
    /// The policy's rule, with its cached answers for this tenant.
    pub rule: Option<Arc<TenantRule>>,
    pub(crate) methods: Box<[Box<str>]>,
    pub(crate) shared: Arc<SharedPolicy>,
    /// The configured changes of requests to the upstream.
    pub(crate) request_edits: Option<Arc<FieldEdits>>,
    /// The configured changes of responses.
    pub(crate) response_edits: Option<Arc<FieldEdits>>,
}

impl Route {
    fn accepts_every_request(&self) -> bool {
        &*self.path == "/" && !self.is_exact && self.methods.is_empty()
    }

    /// Returns whether the route is for a path: the exact one, or one below the prefix: `/public`
    /// covers `/public` and `/public/x`, never `/publicity`.
    pub(crate) fn covers(&self, path: &str) -> bool {
        if self.is_exact {
            return *self.path == *path;
        }
        if &*self.path == "/" {
            return true;
        }
        let rest = path.strip_prefix(&*self.path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn covers_in_any_case(&self, path: &str) -> bool {
        if self.is_exact {
            return self.path.eq_ignore_ascii_case(path);
        }
        if &*self.path == "/" {
            return true;
        }
        let parts = path.split_at_checked(self.path.len());
        parts.is_some_and(|(start, rest)| {
            start.eq_ignore_ascii_case(&self.path) && (rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Returns whether both routes are for the same paths.
    pub(crate) fn has_path_of(&self, other: &Route) -> bool {
        self.path == other.path && self.is_exact == other.is_exact
    }

    /// Returns whether the prefixes differ only in case, and both routes accept the same requests
    /// on different terms.
    pub(crate) fn is_case_twin_of(&self, other: &Route) -> bool {
        let shares_method = self.methods.is_empty() || other.methods.is_empty() || {
            self.methods.iter().any(|method| other.accepts(method.as_bytes()))
        };
        let differs_in_case = self.path != other.path && self.path.eq_ignore_ascii_case(&other.path);
        differs_in_case && shares_method && !self.has_terms_of(other)
    }

    /// Returns whether both routes treat a request in the same way.
    fn has_terms_of(&self, other: &Route) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy)
            && Arc::ptr_eq(&self.upstream, &other.upstream)
            && self.unmatched_requests == other.unmatched_requests
            && self.cross_site_navigations == other.cross_site_navigations
            && self.mode == other.mode
            && self.request_edits == other.request_edits
            && self.response_edits == other.response_edits
    }

    pub(crate) fn accepts(&self, method: &[u8]) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|known| known.as_bytes() == method)
    }

    /// The methods of the route; all if empty.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(|method| &**method)
    }
}

/// A compiled policy, without the origins of tenants.
#[derive(Debug)]
pub struct SharedPolicy {
    pub name: Arc<str>,
    pub(crate) template: Arc<Template>,
    pub(crate) unmatched_requests: UnmatchedRequests,
    pub(crate) preflight_failures: PreflightFailures,
    /// `None` if the policy leaves it out.
    pub(crate) cross_site_navigations: Option<CrossSiteNavigations>,
    pub(crate) mode: Mode,
    /// The policy for tenants that add no origins.
    pub(crate) plain: OnceLock<Arc<Policy>>,
    /// Whether the policy could not be compiled, and has no lists.
    pub(crate) broken: bool,
    /// The policy's rule.
    pub(crate) rule: Option<Arc<CompiledRule>>,
    /// The warnings of compiling the policy, reported at every load that uses it.
    pub(crate) warnings: Vec<engine::SpecProblem>,
    pub(crate) spec: engine::PolicySpec,
    /// The label of each group in the ledger.
    pub(crate) group_labels: Box<[GroupLabel]>,
    pub(crate) embedding: EmbeddingFields,
    pub(crate) cookies: CookieWarnings,
}

/// The fields that say which pages may embed a response and read its timing. They replace the
/// upstream's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EmbeddingFields {
    /// `Timing-Allow-Origin`.
    pub(crate) timing: Option<TimingField>,
    /// `Cross-Origin-Resource-Policy`.
    pub(crate) resource_policy: Option<HeaderValue>,
}

/// The value of `Timing-Allow-Origin`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TimingField {
    /// The origin of an allowed request, on its response.
    Same,
    /// One value for all responses.
    Public(HeaderValue),
}

impl EmbeddingFields {
    pub(crate) fn of(source: &PolicyConfig) -> Self {
        let timing = source.timing_allow_origins.as_ref().map(|timing| match timing {
            TimingAllowOrigins::Same => TimingField::Same,
            TimingAllowOrigins::Any => TimingField::Public(HeaderValue::from_static("*")),
            // Origins are visible ASCII.
            TimingAllowOrigins::Listed(origins) => TimingField::Public(
                HeaderValue::from_str(&origins.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("null")),
            ),
        });
        let resource_policy = source.cross_origin_resource_policy.as_ref();
        let resource_policy = resource_policy.map(|policy| HeaderValue::from_static(policy.value.as_str()));
        EmbeddingFields { timing, resource_policy }
    }
}

impl SharedPolicy {
    /// The label of a group in the ledger.
    pub(crate) fn group_label(&self, group: engine::GroupId) -> GroupLabel {
        group.index().and_then(|index| self.group_labels.get(index)).copied().unwrap_or_default()
    }

    /// The number of configured origins and expressions.
    pub(crate) fn origin_count(&self) -> usize {
        let count = |origins: &Vec<String>, sets: &[engine::OriginSetSpec], regexes: &Vec<String>| {
            origins.len() + sets.iter().map(|set| set.origins.len()).sum::<usize>() + regexes.len()
        };
        let spec = &self.spec;
        let groups = spec.groups.iter();
        let groups = groups.map(|group| count(&group.allow_origins, &group.origin_sets, &group.allow_origin_regexes));
        count(&spec.allow_origins, &spec.origin_sets, &spec.allow_origin_regexes) + groups.sum::<usize>()
    }

    /// Returns whether compiling `source` with this rule would give the same policy.
    pub(crate) fn is_same_as(
        &self,
        spec: &engine::PolicySpec,
        source: &PolicyConfig,
        rule: Option<&Arc<CompiledRule>>,
    ) -> bool {
        let rest = self.mode == source.mode.value
            && self.unmatched_requests == source.unmatched_requests
            && self.preflight_failures == source.preflight_failures
            && self.cross_site_navigations == source.cross_site_navigations.map(Into::into)
            && self.embedding == EmbeddingFields::of(source)
            && self.cookies == source.cookies;
        let same_rule = self.rule.as_ref().map(Arc::as_ptr) == rule.map(Arc::as_ptr);
        rest && same_rule && !self.broken && self.spec == *spec
    }
}
