//! Compiles one tenant: names to objects, origins to policies, paths to routes.
//!
//! The tenant's own origins extend the tenant's policy, for its default route and every route
//! without a `policy`. A route with its own policy gets only its own origins, so that opening one
//! path does not open it to all partners of the tenant. A tenant with an upstream and a policy has
//! a default route for every path; another tenant answers 404 where no route matches.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;
use crossgate_policy::{CrossSiteNavigations, CrossSiteProtection, OwnOriginSpec, Policy, SpecLocation, SpecProblem};

use super::shared::{SharedSections, code_of, resolve};
use super::strictness::StrictnessChecks;
use crate::counters::EntryHandles;
use crate::registry::GatewayMetrics;
use crate::route::{Forward, Route, RouteAction};
use crate::shared_policy::SharedPolicy;
use crate::tenant::{RouteIndexes, Tenant, TenantWarning};
use crate::upstream::Upstream;
use crate::verdicts::{CompiledRule, TenantRule};
use crossgate_config::FORWARD_UNDER_PROTECTION;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{
    OwnOriginConfig, Position, RouteActionSpec, RouteSpec, TenantSpec, Text, UnmatchedRequests,
};
use crossgate_config::warnings::WarningCode;
use crossgate_config::{ReferenceKind, show_text};
use crossgate_message::field_edits::FieldEdits;
use crossgate_message::host::HostPattern;

/// Compiles the tenants of one file.
pub(super) struct TenantCompiler<'a> {
    pub(super) shared: &'a SharedSections,
    pub(super) metrics: &'a GatewayMetrics,
    pub(super) file: &'a Path,
    /// The tenant's id.
    pub(super) tenant: Arc<str>,
    /// Whether reading the file skipped parts, so that missing names here may exist there.
    pub(super) partial: bool,
    /// The rules of the tenant's policies, each once, so that its failures are counted together.
    pub(super) tenant_rules: Vec<Arc<TenantRule>>,
    pub(super) strictness: &'a StrictnessChecks,
    pub(super) warnings: Vec<TenantWarning>,
    /// The tenant's policies with added origins, each once, so that equal routes share one object.
    pub(super) extensions: Vec<(Arc<SharedPolicy>, Vec<OwnOriginSpec>, Arc<Policy>)>,
    pub(super) found: &'a mut Diagnostics,
}

/// A shared policy, and the policy with the added origins.
#[derive(Clone)]
struct ExtendedPolicy {
    shared: Arc<SharedPolicy>,
    policy: Arc<Policy>,
    rule: Option<Arc<TenantRule>>,
}

/// Returns whether compiling the tenant again would give the same result.
pub(super) fn is_current(tenant: &Tenant, spec: &Arc<TenantSpec>, shared: &SharedSections) -> bool {
    let current = |route: &Arc<Route>| {
        let policy = shared.policies.get(&*route.policy_name);
        let is_upstream_current = |upstream: &Arc<Upstream>| {
            shared.upstreams.get(&*upstream.name).is_some_and(|current| Arc::ptr_eq(current, upstream))
        };
        policy.is_some_and(|policy| Arc::ptr_eq(policy, &route.shared))
            && route.upstream().is_none_or(is_upstream_current)
    };
    let same = Arc::ptr_eq(&tenant.spec, spec) || tenant.spec == *spec && has_same_locations(tenant, spec);
    same && tenant.routes.iter().chain(&tenant.fallback).all(current)
}

/// Returns whether the warnings about a tenant still have the same locations, which are part of the
/// warnings.
fn has_same_locations(tenant: &Tenant, spec: &TenantSpec) -> bool {
    tenant.warnings.is_empty() || locations(&tenant.spec).eq(locations(spec))
}

fn locations<'s>(spec: &'s TenantSpec) -> impl Iterator<Item = Position> + use<'s> {
    let own = |origins: &'s [OwnOriginConfig]| origins.iter().map(|own| &own.origin);
    let routes = spec.routes.iter().flat_map(move |route| [&route.path].into_iter().chain(own(&route.allow_origins)));
    let names = spec.policy.iter().chain(own(&spec.allow_origins)).chain(routes);
    [spec.id.at].into_iter().chain(spec.hosts.iter().map(|host| host.at)).chain(names.map(|text| text.at))
}

impl TenantCompiler<'_> {
    /// Compiles the tenant, unless it has a mistake.
    pub(super) fn tenant(&mut self, spec: &Arc<TenantSpec>) -> Option<Arc<Tenant>> {
        let upstream = self.upstream(spec.upstream.as_ref());
        let own: Vec<&OwnOriginConfig> = spec.allow_origins.iter().collect();
        let policy = spec.policy.as_ref().map(|name| self.extended(name, &own));
        self.check_origins_have_policy(spec);
        let mut routes = Vec::new();
        let mut good = !matches!(upstream, Some(None)) && !matches!(policy, Some(None));
        let defaults = (upstream.flatten(), policy.flatten());
        for route in &spec.routes {
            let compiled = self.route(spec, route, &defaults);
            good &= compiled.is_some();
            routes.extend(compiled.map(Arc::new));
        }
        let fallback = self.fallback(spec, &defaults, &mut routes);
        good &= self.check_has_route(spec, &routes);
        routes.sort_by_key(order_of);
        good &= self.check_conditions(spec, &routes);
        if good {
            self.warn(spec, &routes);
        }
        good.then(|| Arc::new(self.assemble(spec, routes, fallback)))
    }

    fn warn(&mut self, spec: &TenantSpec, routes: &[Arc<Route>]) {
        if let Some(host) = spec.hosts.iter().find(|host| host.value == HostPattern::Any) {
            let message = "every host belongs to this tenant, so a web page whose own name resolves to this address (DNS rebinding) \
                           is same-origin; list the hosts";
            self.warnings.push(TenantWarning {
                code: WarningCode::CatchAllHost,
                at: host.at,
                message: message.to_owned(),
            });
        }
        self.warn_case_twins(spec, routes);
        self.warn_route_order(spec, routes);
        for (route, looser) in self.strictness.stricter(routes) {
            let Some(source) = source_of(spec, route) else {
                continue;
            };
            let (narrow, wide) = (show_text(&route.path), show_text(&looser.path));
            let message = format!(
                "{narrow} denies what {wide} allows, so an upstream that reads paths differently may serve it under the policy of {wide}; \
                 let the upstream deny it too, or give it its own host"
            );
            self.warnings.push(TenantWarning { code: WarningCode::StricterRoute, at: source.path.at, message });
        }
    }

    /// Warns about routes whose prefixes differ only in case, with different terms. A server may
    /// match a path to either route, so such requests are refused.
    fn warn_case_twins(&mut self, spec: &TenantSpec, routes: &[Arc<Route>]) {
        let mut seen: AHashMap<String, Vec<&Arc<Route>>> = AHashMap::new();
        for route in routes {
            let same = seen.entry(route.path.to_ascii_lowercase()).or_default();
            if let Some(twin) = same.iter().find(|twin| twin.is_case_twin_of(route)) {
                let source = source_of(spec, route);
                let message = format!(
                    "{} and {} differ only in case, so requests that a server could match to either are refused; give both the \
                     same upstream, policy, allowOrigins and unmatchedRequests, or remove one",
                    show_text(&route.path),
                    show_text(&twin.path)
                );
                let at = source.map_or(spec.id.at, |source| source.path.at);
                self.warnings.push(TenantWarning { code: WarningCode::CaseTwins, at, message });
            }
            same.push(route);
        }
    }

    /// Reports routes with conditions on headers that other routes stand in for under another
    /// policy. A preflight carries none of the headers, so it cannot tell them apart.
    fn check_conditions(&mut self, spec: &TenantSpec, routes: &[Arc<Route>]) -> bool {
        let mut good = true;
        for (at, route) in routes.iter().enumerate().filter(|(_, route)| route.conditions.counts().0 > 0) {
            let later = routes.get(at + 1..).unwrap_or_default().iter();
            let mut stand_ins = later.filter(|other| other.covers(&route.path) && share_method(route, other));
            let is_last = |other: &Route| {
                let takes_all =
                    other.methods.is_empty() || route.methods().all(|method| other.accepts(method.as_bytes()));
                let has_methods = other.methods.is_empty() || !route.methods.is_empty();
                other.conditions.counts() == (0, 0) && takes_all && has_methods
            };
            let mut is_over = false;
            let other = stand_ins.find(|other| {
                let is_other = !is_over && !route.judges_as(other);
                is_over |= is_last(other);
                is_other
            });
            if let (Some(other), Some(source)) = (other, source_of(spec, route)) {
                let shown = show_text(&other.path);
                self.error(
                    source.path.at,
                    format!(
                        "requests without these headers take the route {shown}, which judges them in another way, and a preflight \
                         has no such headers; give both routes the same policy, allowOrigins, unmatchedRequests, \
                         preflightFailures and crossSiteNavigations"
                    ),
                );
                good = false;
            }
        }
        good
    }

    /// Warns about routes between which only the order of the file decides.
    fn warn_route_order(&mut self, spec: &TenantSpec, routes: &[Arc<Route>]) {
        for (at, route) in routes.iter().enumerate().filter(|(_, route)| route.conditions.counts() != (0, 0)) {
            let rivals = routes.get(at + 1..).unwrap_or_default().iter().take_while(|other| other.has_path_of(route));
            let is_rival = |other: &&Arc<Route>| {
                let is_equal = order_of(other) == order_of(route);
                is_equal && share_method(route, other) && !route.conditions.excludes(&other.conditions)
            };
            let source = source_of(spec, route);
            if let (Some(_), Some(source)) = ({ rivals }.find(is_rival), source) {
                let shown = show_text(&route.path);
                self.warnings.push(TenantWarning {
                    code: WarningCode::RouteOrder,
                    at: source.path.at,
                    message: format!(
                        "a request can fulfil the conditions of two routes for {shown}, and the first in the file takes it; \
                         add a condition to one of them"
                    ),
                });
            }
        }
    }

    fn assemble(&self, spec: &Arc<TenantSpec>, routes: Vec<Arc<Route>>, fallback: Option<Arc<Route>>) -> Tenant {
        Tenant {
            id: Arc::clone(&spec.id.value),
            counters: self.metrics.tenant(&spec.id.value),
            spec: Arc::clone(spec),
            has_uniform_terms: Tenant::are_uniform(&routes),
            indexes: RouteIndexes::of(&routes),
            has_header_conditions: routes.iter().any(|route| route.conditions.counts().0 > 0),
            routes: routes.into_iter().collect(),
            fallback,
            warnings: self.warnings.as_slice().into(),
        }
    }

    fn error(&mut self, at: Position, message: impl Into<String>) {
        self.found.push(Diagnostic::error(self.file, at, message));
    }

    /// Resolves an upstream: `None` without a name, `Some(None)` for an unknown one.
    fn upstream(&mut self, name: Option<&Text>) -> Option<Option<Arc<Upstream>>> {
        let name = name?;
        match resolve(&self.shared.upstreams, ReferenceKind::Upstream, &name.value, self.found) {
            Ok(upstream) => Some(Some(Arc::clone(upstream))),
            Err(message) => {
                self.error(name.at, message);
                Some(None)
            }
        }
    }

    /// The policy with this name, extended by these origins; `None` if one of them is invalid.
    fn extended(&mut self, name: &Text, own: &[&OwnOriginConfig]) -> Option<ExtendedPolicy> {
        let shared = match resolve(&self.shared.policies, ReferenceKind::Policy, &name.value, self.found) {
            Ok(shared) => Arc::clone(shared),
            Err(message) => {
                self.error(name.at, message);
                return None;
            }
        };
        let policy = match shared.plain.get().filter(|_| own.is_empty()) {
            Some(plain) => Arc::clone(plain),
            None => self.extend(&shared, name, own)?,
        };
        if let Err(problem) = policy.check_tenant(&self.tenant) {
            self.error(name.at, problem.message);
            return None;
        }
        let rule = shared.rule.as_ref().map(|rule| self.tenant_rule(rule));
        Some(ExtendedPolicy { shared, policy, rule })
    }

    fn tenant_rule(&mut self, rule: &Arc<CompiledRule>) -> Arc<TenantRule> {
        if let Some(tenant_rule) =
            self.tenant_rules.iter().find(|tenant_rule| Arc::ptr_eq(tenant_rule.rule(), &rule.rule))
        {
            return Arc::clone(tenant_rule);
        }
        let tenant_rule = Arc::new(TenantRule::new(&self.metrics.verdicts, rule, &self.tenant));
        self.tenant_rules.push(Arc::clone(&tenant_rule));
        tenant_rule
    }

    fn extend(&mut self, shared: &Arc<SharedPolicy>, name: &Text, own: &[&OwnOriginConfig]) -> Option<Arc<Policy>> {
        let spec = |own: &&OwnOriginConfig| OwnOriginSpec {
            origin: own.origin.value.to_string(),
            group: own.group.as_ref().map(|group| group.value.to_string()),
        };
        let origins: Vec<OwnOriginSpec> = own.iter().map(spec).collect();
        let same = self.extensions.iter().find(|(known, added, _)| Arc::ptr_eq(known, shared) && *added == origins);
        if let Some((_, _, policy)) = same {
            return Some(Arc::clone(policy));
        }
        let place = |place| match place {
            SpecLocation::AllowOrigins(index) => own.get(index).map_or(name.at, |own| own.origin.at),
            SpecLocation::OwnGroup(index) => {
                own.get(index).and_then(|own| own.group.as_ref()).map_or(name.at, |group| group.at)
            }
            SpecLocation::Policy
            | SpecLocation::OriginSets(_)
            | SpecLocation::OriginSet { .. }
            | SpecLocation::AllowOriginRegexes(_)
            | SpecLocation::AllowMethods(_)
            | SpecLocation::AllowHeaders(_)
            | SpecLocation::ExposeHeaders(_)
            | SpecLocation::AllowCredentials
            | SpecLocation::MaxAge
            | SpecLocation::Rule
            | SpecLocation::RuleHeaders(_)
            | SpecLocation::RuleGroups(_)
            | SpecLocation::Group => name.at,
        };
        match Policy::extend_groups(Arc::clone(&shared.template), &origins) {
            Ok(compiled) => {
                let tenant_warning = |warning: SpecProblem| TenantWarning {
                    code: code_of(warning.location),
                    at: place(warning.location),
                    message: warning.message,
                };
                self.warnings.extend(compiled.warnings.into_iter().map(tenant_warning));
                let policy = Arc::new(compiled.value);
                if own.is_empty() {
                    return Some(Arc::clone(shared.plain.get_or_init(|| policy)));
                }
                self.extensions.push((Arc::clone(shared), origins, Arc::clone(&policy)));
                Some(policy)
            }
            Err(problems) => {
                // "no origin is allowed" can follow from mistakes that are reported elsewhere. A
                // broken policy has no groups.
                let follows = |place| {
                    let is_empty = place == SpecLocation::Policy && (shared.broken || self.partial);
                    is_empty || (shared.broken && matches!(place, SpecLocation::OwnGroup(_)))
                };
                for problem in problems.into_iter().filter(|problem| !follows(problem.location)) {
                    let found = if problem.location == SpecLocation::Policy {
                        self.shared.allows_nothing(self.file, name)
                    } else {
                        Diagnostic::error(self.file, place(problem.location), problem.message)
                    };
                    self.found.push(found);
                }
                None
            }
        }
    }

    fn check_origins_have_policy(&mut self, spec: &TenantSpec) {
        if let (None, Some(first), false) = (&spec.policy, spec.allow_origins.first(), self.partial) {
            self.error(
                first.origin.at,
                "these origins extend the tenant's policy, but the tenant has no policy; set policy",
            );
        }
    }

    fn route(
        &mut self,
        tenant: &TenantSpec,
        spec: &RouteSpec,
        defaults: &(Option<Arc<Upstream>>, Option<ExtendedPolicy>),
    ) -> Option<Route> {
        let action = self.action(tenant, spec, defaults.0.as_ref());
        let policy = self.route_policy(tenant, spec, defaults.1.as_ref());
        if spec.policy.is_none() && tenant.policy.is_none() && !self.partial {
            self.error(spec.path.at, "this route has no policy; set one here or at the tenant");
        }
        let mut route = make_route(tenant, &spec.path.value, &policy?, action?);
        route.request_edits = overridden(&route.request_edits, &spec.request_headers);
        route.response_edits = overridden(&route.response_edits, &spec.response_headers);
        route.is_exact = spec.is_exact;
        route.methods = spec.methods.iter().map(|method| method.value.clone()).collect();
        route.conditions = Arc::clone(&spec.conditions);
        route.unmatched_requests = spec.unmatched_requests.unwrap_or(route.unmatched_requests);
        route.preflight_failures = spec.preflight_failures.unwrap_or(route.preflight_failures);
        let navigations = spec.cross_site_navigations.map(CrossSiteNavigations::from);
        if navigations.or(route.shared.cross_site_navigations).is_none() {
            self.check_forwards(spec, &route);
        }
        route.cross_site_navigations = navigations.unwrap_or(route.cross_site_navigations);
        Some(route)
    }

    /// What becomes of the requests of a route that pass.
    fn action(
        &mut self,
        tenant: &TenantSpec,
        spec: &RouteSpec,
        default: Option<&Arc<Upstream>>,
    ) -> Option<RouteAction> {
        let forward = match &spec.action {
            RouteActionSpec::Forward(forward) => forward,
            RouteActionSpec::Redirect(redirect) => return Some(RouteAction::Redirect(Arc::clone(redirect))),
            RouteActionSpec::Respond(fixed) => return Some(RouteAction::Respond(Arc::clone(fixed))),
        };
        let upstream = match &forward.upstream {
            Some(name) => self.upstream(Some(name)).flatten(),
            None => default.cloned(),
        };
        if forward.upstream.is_none() && tenant.upstream.is_none() && !self.partial {
            self.error(
                spec.path.at,
                "this route has no upstream; set one here or at the tenant, or write `redirect` or `respond`",
            );
        }
        Some(RouteAction::Forward(Forward { upstream: upstream?, rewrite: forward.rewrite.clone() }))
    }

    /// Reports a route that forwards what its policy denies, but that has lost the requests for
    /// which this is meant: form posts from other sites.
    fn check_forwards(&mut self, spec: &RouteSpec, route: &Route) {
        let protects = route.policy.cross_site().protection == CrossSiteProtection::Protect;
        // Where the policy itself forwards, that is reported there.
        if protects && spec.unmatched_requests == Some(UnmatchedRequests::Forward) {
            self.error(spec.path.at, FORWARD_UNDER_PROTECTION);
        }
    }

    fn route_policy(
        &mut self,
        tenant: &TenantSpec,
        spec: &RouteSpec,
        default: Option<&ExtendedPolicy>,
    ) -> Option<ExtendedPolicy> {
        match (&spec.policy, &tenant.policy) {
            (Some(name), _) => self.extended(name, &spec.allow_origins.iter().collect::<Vec<_>>()),
            (None, Some(name)) if !spec.allow_origins.is_empty() => {
                let own: Vec<_> = tenant.allow_origins.iter().chain(&spec.allow_origins).collect();
                self.extended(name, &own)
            }
            (None, _) => default.cloned(),
        }
    }

    /// The route whose policy answers where no other route matches. With an upstream, it is a route
    /// for every path.
    fn fallback(
        &mut self,
        spec: &TenantSpec,
        defaults: &(Option<Arc<Upstream>>, Option<ExtendedPolicy>),
        routes: &mut Vec<Arc<Route>>,
    ) -> Option<Arc<Route>> {
        let (upstream, policy) = (defaults.0.as_ref(), defaults.1.as_ref()?);
        let action = match upstream {
            Some(upstream) => RouteAction::Forward(Forward { upstream: Arc::clone(upstream), rewrite: None }),
            None => RouteAction::NotFound,
        };
        let route = Arc::new(make_route(spec, "/", policy, action));
        if spec.upstream.is_some() {
            routes.push(Arc::clone(&route));
        }
        Some(route)
    }

    fn check_has_route(&mut self, spec: &TenantSpec, routes: &[Arc<Route>]) -> bool {
        let (missing, named) = match (&spec.upstream, &spec.policy) {
            (None, None) => ("upstream and no policy", "both"),
            (None, Some(_)) => ("upstream", "one"),
            (Some(_), None) => ("policy", "one"),
            (Some(_), Some(_)) => return true,
        };
        if spec.routes.is_empty() && !self.partial {
            let id = show_text(&spec.id.value);
            self.error(spec.id.at, format!("the tenant {id} has no {missing}; set {named} here, or in routes"));
        }
        !routes.is_empty()
    }
}

/// The specification of a route.
fn source_of<'s>(spec: &'s TenantSpec, route: &Route) -> Option<&'s RouteSpec> {
    let is_it = |source: &&RouteSpec| {
        let is_path = *source.path.value == *route.path && source.is_exact == route.is_exact;
        is_path && source.conditions == route.conditions && source.methods.iter().map(|m| &*m.value).eq(route.methods())
    };
    spec.routes.iter().find(is_it)
}

/// The order in which routes are tried. Those that are equal stay in the order of the file.
fn order_of(route: &Arc<Route>) -> impl Ord + use<> {
    let (headers, query) = route.conditions.counts();
    let length = Reverse(route.path.len());
    (!route.is_exact, length, Arc::clone(&route.path), route.methods.is_empty(), Reverse((headers, query)))
}

fn share_method(one: &Route, other: &Route) -> bool {
    one.methods.is_empty() || other.methods.is_empty() || one.methods().any(|method| other.accepts(method.as_bytes()))
}

/// The changes of a tenant, overridden by those of a route.
fn overridden(tenant: &Option<Arc<FieldEdits>>, route: &Option<Arc<FieldEdits>>) -> Option<Arc<FieldEdits>> {
    match (tenant, route) {
        (Some(tenant), Some(route)) => Some(Arc::new(tenant.overridden_by(route))),
        (one, None) | (None, one) => one.clone(),
    }
}

fn make_route(tenant: &TenantSpec, path: &str, policy: &ExtendedPolicy, action: RouteAction) -> Route {
    Route {
        path: Arc::from(path),
        is_exact: false,
        policy_name: Arc::clone(&policy.shared.name),
        policy: Arc::clone(&policy.policy),
        rule: policy.rule.clone(),
        action,
        unmatched_requests: policy.shared.unmatched_requests,
        preflight_failures: policy.shared.preflight_failures,
        cross_site_navigations: policy.shared.cross_site_navigations.unwrap_or_default(),
        mode: policy.shared.mode,
        handles: EntryHandles::new(),
        methods: Box::default(),
        conditions: Arc::default(),
        shared: Arc::clone(&policy.shared),
        request_edits: tenant.request_headers.clone(),
        response_edits: tenant.response_headers.clone(),
    }
}
