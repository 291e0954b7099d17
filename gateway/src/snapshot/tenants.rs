//! Compiles one tenant: names to what they stand for, origins to policies, paths to routes.
//!
//! The tenant's own origins extend the tenant's policy: its default route and every route that names no policy. A route with a
//! policy of its own gets only its own origins, so that opening one path does not open it to all of the tenant's partners. A
//! tenant with an upstream and a policy has a default route for every path; one without answers 404 where no route matches.

use std::path::Path;
use std::sync::Arc;

use crossgate_policy::{Place, Policy};

use super::shared::{Shared, SharedPolicy, resolve};
use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::{At, RouteSpec, TenantSpec, Text};
use crate::config::{Kind, shown};
use crate::metrics::{EntryHandles, Metrics};
use crate::tenant::{Route, Tenant, Upstream};
use crate::verdicts::{LiveRule, RuleSeat};

/// Compiles the tenants of one file.
pub(super) struct Compiler<'a> {
    pub(super) shared: &'a Shared,
    pub(super) metrics: &'a Metrics,
    pub(super) file: &'a Path,
    /// Whose.
    pub(super) tenant: Arc<str>,
    /// Whether reading the file left things out, so that what is missing here may be there.
    pub(super) partial: bool,
    /// The rules that the tenant's policies ask, each once, since its failures count together.
    pub(super) seats: Vec<Arc<RuleSeat>>,
    pub(super) found: &'a mut Diagnostics,
}

/// A shared policy with origins added, and what for.
#[derive(Clone)]
struct Extended {
    shared: Arc<SharedPolicy>,
    policy: Arc<Policy>,
    rule: Option<Arc<RuleSeat>>,
}

/// Whether a tenant would be compiled to the same again.
pub(super) fn is_current(tenant: &Tenant, spec: &Arc<TenantSpec>, shared: &Shared) -> bool {
    let current = |route: &Arc<Route>| {
        let policy = shared.policies.get(&*route.policy_name);
        let upstream = shared.upstreams.get(&*route.upstream.name);
        policy.is_some_and(|policy| Arc::ptr_eq(policy, &route.shared))
            && upstream.is_some_and(|upstream| Arc::ptr_eq(upstream, &route.upstream))
    };
    let same = Arc::ptr_eq(&tenant.spec, spec) || tenant.spec == *spec;
    same && tenant.routes.iter().chain(&tenant.fallback).all(current)
}

impl Compiler<'_> {
    /// The tenant, unless something is wrong with it.
    pub(super) fn tenant(&mut self, spec: &Arc<TenantSpec>) -> Option<Arc<Tenant>> {
        let upstream = self.upstream(spec.upstream.as_ref());
        let own: Vec<&Text> = spec.allow_origins.iter().collect();
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
        routes.sort_by_key(|route| (std::cmp::Reverse(route.prefix.len()), route.methods.is_empty()));
        good.then(|| Arc::new(self.assemble(spec, routes, fallback)))
    }

    fn assemble(&self, spec: &Arc<TenantSpec>, routes: Vec<Arc<Route>>, fallback: Option<Arc<Route>>) -> Tenant {
        Tenant {
            id: Arc::clone(&spec.id.value),
            counters: self.metrics.tenant(&spec.id.value),
            spec: Arc::clone(spec),
            routes: routes.into_iter().collect(),
            fallback,
        }
    }

    fn error(&mut self, at: At, message: impl Into<String>) {
        self.found.push(Diagnostic::error(self.file, at, message));
    }

    /// The upstream of a name: nothing if there is no name, `Some(None)` if it stands for nothing.
    fn upstream(&mut self, name: Option<&Text>) -> Option<Option<Arc<Upstream>>> {
        let name = name?;
        match resolve(&self.shared.upstreams, Kind::Upstream, &name.value, self.found) {
            Ok(upstream) => Some(Some(Arc::clone(upstream))),
            Err(message) => {
                self.error(name.at, message);
                Some(None)
            }
        }
    }

    /// The policy of a name with these origins added; nothing if one of them is no good.
    fn extended(&mut self, name: &Text, own: &[&Text]) -> Option<Extended> {
        let shared = match resolve(&self.shared.policies, Kind::Policy, &name.value, self.found) {
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
        let rule = shared.rule.as_ref().map(|rule| self.seat(rule));
        Some(Extended { shared, policy, rule })
    }

    fn seat(&mut self, rule: &Arc<LiveRule>) -> Arc<RuleSeat> {
        if let Some(seat) = self.seats.iter().find(|seat| Arc::ptr_eq(seat.rule(), &rule.rule)) {
            return Arc::clone(seat);
        }
        let seat = Arc::new(RuleSeat::new(&self.metrics.verdicts, rule, &self.tenant));
        self.seats.push(Arc::clone(&seat));
        seat
    }

    fn extend(&mut self, shared: &Arc<SharedPolicy>, name: &Text, own: &[&Text]) -> Option<Arc<Policy>> {
        let origins: Vec<String> = own.iter().map(|origin| origin.value.to_string()).collect();
        let place = |place| match place {
            Place::AllowOrigins(index) => own.get(index).map_or(name.at, |origin| origin.at),
            Place::Policy
            | Place::OriginSet { .. }
            | Place::AllowOriginRegexes(_)
            | Place::AllowMethods(_)
            | Place::AllowHeaders(_)
            | Place::ExposeHeaders(_)
            | Place::AllowCredentials
            | Place::MaxAge
            | Place::Rule
            | Place::RuleHeaders(_) => name.at,
        };
        match Policy::extend(Arc::clone(&shared.template), &origins) {
            Ok(compiled) => {
                for warning in compiled.warnings {
                    self.found.push(Diagnostic::warning(self.file, place(warning.place), warning.message));
                }
                let policy = Arc::new(compiled.value);
                Some(if own.is_empty() { Arc::clone(shared.plain.get_or_init(|| policy)) } else { policy })
            }
            Err(problems) => {
                // That nothing is allowed follows from mistakes reported elsewhere, if there are any.
                let follows = |place| place == Place::Policy && (shared.broken || self.partial);
                for problem in problems.into_iter().filter(|problem| !follows(problem.place)) {
                    self.found.push(Diagnostic::error(self.file, place(problem.place), problem.message));
                }
                None
            }
        }
    }

    fn check_origins_have_policy(&mut self, spec: &TenantSpec) {
        if let (None, Some(first), false) = (&spec.policy, spec.allow_origins.first(), self.partial) {
            self.error(
                first.at,
                "these origins are added to the tenant's policy, which it does not have; name one under policy",
            );
        }
    }

    fn route(
        &mut self,
        tenant: &TenantSpec,
        spec: &RouteSpec,
        defaults: &(Option<Arc<Upstream>>, Option<Extended>),
    ) -> Option<Route> {
        let upstream = match &spec.upstream {
            Some(name) => self.upstream(Some(name)).flatten(),
            None => defaults.0.clone(),
        };
        let policy = self.route_policy(tenant, spec, defaults.1.as_ref());
        for (kind, missing) in [
            ("upstream", spec.upstream.is_none() && tenant.upstream.is_none()),
            ("policy", spec.policy.is_none() && tenant.policy.is_none()),
        ] {
            if missing && !self.partial {
                self.error(spec.prefix.at, format!("this route has no {kind}; name one here or at the tenant"));
            }
        }
        let mut route = make_route(&spec.prefix.value, &policy?, upstream?);
        route.methods = spec.methods.iter().map(|method| method.value.clone()).collect();
        route.unmatched_requests = spec.unmatched_requests.unwrap_or(route.unmatched_requests);
        Some(route)
    }

    fn route_policy(&mut self, tenant: &TenantSpec, spec: &RouteSpec, default: Option<&Extended>) -> Option<Extended> {
        match (&spec.policy, &tenant.policy) {
            (Some(name), _) => self.extended(name, &spec.allow_origins.iter().collect::<Vec<_>>()),
            (None, Some(name)) if !spec.allow_origins.is_empty() => {
                let own: Vec<_> = tenant.allow_origins.iter().chain(&spec.allow_origins).collect();
                self.extended(name, &own)
            }
            (None, _) => default.cloned(),
        }
    }

    /// Whose policy answers where no route does. With an upstream it is a route for every path.
    fn fallback(
        &mut self,
        spec: &TenantSpec,
        defaults: &(Option<Arc<Upstream>>, Option<Extended>),
        routes: &mut Vec<Arc<Route>>,
    ) -> Option<Arc<Route>> {
        let (upstream, policy) = (defaults.0.as_ref(), defaults.1.as_ref()?);
        let somewhere = upstream.cloned().or_else(|| routes.first().map(|route| Arc::clone(&route.upstream)))?;
        let route = Arc::new(make_route("/", policy, somewhere));
        if spec.upstream.is_some() {
            routes.push(Arc::clone(&route));
        }
        Some(route)
    }

    fn check_has_route(&mut self, spec: &TenantSpec, routes: &[Arc<Route>]) -> bool {
        let missing = match (&spec.upstream, &spec.policy) {
            (None, None) => "upstream and policy",
            (None, Some(_)) => "upstream",
            (Some(_), None) => "policy",
            (Some(_), Some(_)) => return true,
        };
        if spec.routes.is_empty() && !self.partial {
            let id = shown(&spec.id.value);
            self.error(
                spec.id.at,
                format!("the tenant {id} has nowhere to send requests; give it {missing}, or routes"),
            );
        }
        !routes.is_empty()
    }
}

fn make_route(prefix: &str, policy: &Extended, upstream: Arc<Upstream>) -> Route {
    Route {
        prefix: Arc::from(prefix),
        policy_name: Arc::clone(&policy.shared.name),
        policy: Arc::clone(&policy.policy),
        rule: policy.rule.clone(),
        upstream,
        unmatched_requests: policy.shared.unmatched_requests,
        mode: policy.shared.mode,
        handles: EntryHandles::new(),
        methods: Box::default(),
        shared: Arc::clone(&policy.shared),
    }
}
