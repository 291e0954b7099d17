//! Detects routes that deny what the shorter route above them allows.
//!
//! Such a route depends on the gateway and the upstream reading a path in the same way. The
//! comparison is limited, because this only warns and tenants are many: at most [`ENTRIES_MAX`]
//! entries of each policy, and each pair of policies once for each load.

use std::cell::RefCell;
use std::sync::Arc;

use ahash::AHashMap;
use crossgate_policy::{CorsRequest, EntryId, OwnOrigin, Policy, RequestField};

use crate::tenant::Route;
use crate::tenant::SharedPolicy;
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
            shorter.iter().find(|other| other.prefix != route.prefix && other.covers(&route.prefix))
        };
        let pairs = routes.iter().enumerate().filter_map(|(index, route)| Some((&**route, &**above(index, route)?)));
        pairs.filter(|(route, above)| self.is_stricter(route, above)).collect()
    }

    fn is_stricter(&self, route: &Route, above: &Route) -> bool {
        let rejects = |route: &Route| route.unmatched_requests == UnmatchedRequests::Reject;
        let enforces = |route: &Route| route.mode == Mode::Enforce;
        let withholds = !route.shared.spec.allow_credentials && above.shared.spec.allow_credentials;
        // A route for `*` denies no origin.
        let is_looser = (!rejects(above) && rejects(route)) || (!enforces(above) && enforces(route)) || withholds;
        route.policy.depends_on_origin() && (is_looser || self.is_narrower(route, above))
    }

    fn is_narrower(&self, route: &Route, above: &Route) -> bool {
        if Arc::ptr_eq(&route.policy, &above.policy) {
            return false;
        }
        if !above.policy.depends_on_origin() {
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
            let sets = above.spec.origin_sets.iter().flat_map(|set| &set.origins);
            let mut entries = above.spec.allow_origins.iter().chain(sets).take(ENTRIES_MAX);
            let regexes = &route.spec.allow_origin_regexes;
            let lacks_regex = above.spec.allow_origin_regexes.iter().any(|regex| !regexes.contains(regex));
            let lacks_rule = above.rule.is_some() && route.rule.is_none();
            let policy = Policy::extend(Arc::clone(&route.template), &[]).map(|compiled| compiled.value);
            let lacks = |entry: &String| policy.as_ref().map_or(true, |policy| !has(policy, entry));
            lacks_regex || lacks_rule || entries.any(lacks)
        })
    }
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
