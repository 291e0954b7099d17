//! Detects routes that deny what the shorter route above them allows.
//!
//! Such a route depends on the gateway and the upstream reading a path in the same way. The
//! comparison is limited, because this only warns and tenants are many: at most [`ENTRIES_MAX`]
//! entries of each policy, and each pair of policies once for each load.

use std::cell::RefCell;
use std::sync::Arc;

use ahash::AHashMap;
use crossgate_policy::{
    CorsRequest, CrossSiteNavigations, CrossSiteProtection, EntryId, OwnOrigin, Policy, PolicySpec, RequestField,
};

use crate::route::Route;
use crate::shared_policy::SharedPolicy;
use crossgate_config::{Mode, UnmatchedRequests};

/// The maximum number of entries of a policy that are compared.
const ENTRIES_MAX: usize = 64;

/// Results for pairs of policies in one load.
#[derive(Default)]
pub(super) struct StrictnessChecks {
    /// Results by the addresses of two shared policies, which live as long as the load.
    narrower: RefCell<AHashMap<(usize, usize), bool>>,
}

impl StrictnessChecks {
    /// The stricter routes of a tenant, each with the route above it. Routes are sorted, longest
    /// first.
    pub(super) fn stricter<'r>(&self, routes: &'r [Arc<Route>]) -> Vec<(&'r Route, &'r Route)> {
        let above = |index: usize, route: &Route| {
            let shorter = routes.get(index + 1..).unwrap_or_default();
            shorter.iter().find(|other| !other.has_path_of(route) && other.covers(&route.path))
        };
        let pairs = routes.iter().enumerate().filter_map(|(index, route)| Some((&**route, &**above(index, route)?)));
        pairs.filter(|(route, above)| self.is_stricter(route, above)).collect()
    }

    fn is_stricter(&self, route: &Route, above: &Route) -> bool {
        let rejects = |route: &Route| route.unmatched_requests == UnmatchedRequests::Reject;
        let enforces = |route: &Route| route.mode == Mode::Enforce;
        let withholds = !grants_credentials(route) && grants_credentials(above);
        // A route for `*` denies no origin.
        let is_looser = (!rejects(above) && rejects(route)) || (!enforces(above) && enforces(route)) || withholds;
        let denies_origins = !route.policy.allows_any() && (is_looser || self.is_narrower(route, above));
        denies_origins || protects_more(route, above)
    }

    fn is_narrower(&self, route: &Route, above: &Route) -> bool {
        if Arc::ptr_eq(&route.policy, &above.policy) {
            return false;
        }
        if above.policy.allows_any() {
            return true;
        }
        let own = (0..).take(above.policy.entry_counts().own.min(ENTRIES_MAX)).map(EntryId::Own);
        let lacks_own = own.map(|entry| above.policy.entry_text(entry)).any(|entry| !has(&route.policy, entry));
        lacks_own || self.has_narrower_policy(&route.shared, &above.shared)
    }

    /// Returns whether `route` lacks an entry of `above` in its shared policy. A route that adds
    /// the entry itself gets the warning too.
    fn has_narrower_policy(&self, route: &Arc<SharedPolicy>, above: &Arc<SharedPolicy>) -> bool {
        if Arc::ptr_eq(route, above) {
            return false;
        }
        let pair = (Arc::as_ptr(route).addr(), Arc::as_ptr(above).addr());
        *self.narrower.borrow_mut().entry(pair).or_insert_with(|| {
            let mut entries = entries(&above.spec).take(ENTRIES_MAX);
            let has_regex = |regex: &String| regexes(&route.spec).any(|known| known == regex);
            let lacks_regex = regexes(&above.spec).any(|regex| !has_regex(regex));
            let lacks_rule = above.rule.is_some() && route.rule.is_none();
            let policy = Policy::extend(Arc::clone(&route.template), &[]).map(|compiled| compiled.value);
            let lacks = |entry: &String| policy.as_ref().map_or(true, |policy| !has(policy, entry));
            lacks_regex || lacks_rule || entries.any(lacks)
        })
    }
}

/// Returns whether any origin gets credentials.
fn grants_credentials(route: &Route) -> bool {
    let spec = &route.shared.spec;
    spec.allow_credentials || spec.groups.iter().any(|group| group.allow_credentials == Some(true))
}

/// Returns whether a route refuses requests of other sites that the route above lets pass.
fn protects_more(route: &Route, above: &Route) -> bool {
    let protects = |route: &Route| {
        route.mode == Mode::Enforce && route.policy.cross_site().protection == CrossSiteProtection::Protect
    };
    let navigates = |route: &Route| route.cross_site_navigations == CrossSiteNavigations::Allow;
    let reads = |route: &Route| route.policy.cross_site().reads;
    let is_stricter = !protects(above) || reads(route) > reads(above) || (navigates(above) && !navigates(route));
    protects(route) && is_stricter
}

/// The origins and patterns of a policy and its groups.
fn entries(spec: &PolicySpec) -> impl Iterator<Item = &String> {
    let base = (&spec.allow_origins, &spec.origin_sets);
    let groups = spec.groups.iter().map(|group| (&group.allow_origins, &group.origin_sets));
    let lists = std::iter::once(base).chain(groups);
    lists.flat_map(|(origins, sets)| origins.iter().chain(sets.iter().flat_map(|set| &set.origins)))
}

fn regexes(spec: &PolicySpec) -> impl Iterator<Item = &String> {
    spec.allow_origin_regexes.iter().chain(spec.groups.iter().flat_map(|group| &group.allow_origin_regexes))
}

/// Returns whether a policy contains or covers an entry. Patterns are not origins, so they match
/// only as written.
fn has(policy: &Policy, entry: &str) -> bool {
    let own = OwnOrigin { host: "", port: None, scheme: None };
    let request = CorsRequest { origin: RequestField::One(entry.as_bytes()), ..CorsRequest::new(b"GET", own) };
    policy.decide(&request).without_rule().is_allowed() || has_pattern(policy, entry)
}

fn has_pattern(policy: &Policy, entry: &str) -> bool {
    let counts = policy.entry_counts();
    let template = (0..).take(counts.template.min(ENTRIES_MAX)).map(EntryId::Template);
    let own = (0..).take(counts.own.min(ENTRIES_MAX)).map(EntryId::Own);
    entry.contains('*') && template.chain(own).any(|known| policy.entry_text(known) == entry)
}
