//! Compiled tenants: what a request uses once its host is known.
//!
//! Everything is fixed when a snapshot is compiled, and shared: an unchanged tenant is the same
//! object in the next snapshot, with its counters. Routes are few, and tried longest first; tenants
//! and origins are many, and hashed. Absent on purpose: state that a request changes, except
//! counters and the state of servers.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::counters::TenantCounters;
use crate::route::{Route, RouteRequest};
use crate::route_index::RouteIndex;
use crossgate_config::model::{Position, TenantSpec};
use crossgate_config::warnings::WarningCode;
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
    /// methods first, and then that with more conditions. Most tenants have one.
    pub(crate) routes: SmallVec<[Arc<Route>; 1]>,
    pub(crate) fallback: Option<Arc<Route>>,
    /// Whether every path has a route and all routes have the same terms, as with most tenants.
    pub(crate) has_uniform_terms: bool,
    /// The routes by path, if they are many.
    pub(crate) indexes: Option<Box<RouteIndexes>>,
    /// Whether a route depends on headers.
    pub(crate) has_header_conditions: bool,
    /// The warnings of compiling the tenant, reported at every load that uses it.
    pub(crate) warnings: Box<[TenantWarning]>,
}

/// Routes by their paths.
#[derive(Debug)]
pub(crate) struct RouteIndexes {
    as_written: RouteIndex,
    in_lower_case: RouteIndex,
}

/// The number of routes from which on an index is faster than a search of all.
const INDEXED_AT: usize = 8;

impl RouteIndexes {
    /// The indexes of routes in the order in which they are tried, if they are many.
    pub(crate) fn of(routes: &[Arc<Route>]) -> Option<Box<Self>> {
        let in_lower_case = || routes.iter().map(|route| (route.path.to_ascii_lowercase(), route.is_exact));
        (routes.len() >= INDEXED_AT).then(|| {
            Box::new(RouteIndexes {
                as_written: RouteIndex::new(routes.iter().map(|route| (&route.path, route.is_exact))),
                in_lower_case: RouteIndex::new(in_lower_case()),
            })
        })
    }
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
    pub fn route(&self, path: &str, request: &RouteRequest<'_>) -> Option<&Route> {
        self.find(path, |route| route.takes(request))
    }

    /// The first route that covers a path and that `is_it` accepts.
    pub(crate) fn find<'t>(&'t self, path: &str, mut is_it: impl FnMut(&'t Route) -> bool) -> Option<&'t Route> {
        match &self.indexes {
            Some(indexes) => {
                let covering = indexes.as_written.covering(path).filter_map(|number| self.routes.get(number));
                covering.map(|route| &**route).find(|route| is_it(route))
            }
            None => self.routes.iter().map(|route| &**route).find(|route| route.covers(path) && is_it(route)),
        }
    }

    /// Returns whether a server could read a path as one of a route with other terms than those of
    /// [`Tenant::route`] (path confusion). Such a request is refused: it would be judged by one
    /// route and served as another.
    pub fn is_ambiguous(&self, path: &str, requests: &[RouteRequest<'_>]) -> bool {
        if self.has_uniform_terms {
            return false;
        }
        requests.iter().any(|request| {
            let found = self.route(path, request);
            let is_other = |other: Option<&Route>| match (found, other) {
                (Some(found), Some(other)) => !found.has_terms_of(other),
                (None, None) => false,
                // Without a route the gateway answers itself, so no server reads the path.
                (None, Some(_)) => false,
                (Some(_), None) => true,
            };
            let in_any_case = |path: &str| self.route_in_any_case(path, request);
            // A server may also ignore a slash at the end, which changes the route only if that is
            // for an exact path.
            let without_end_slash = |path: &str| {
                let shorter = path.strip_suffix('/').filter(|shorter| !shorter.is_empty());
                shorter.is_some_and(|shorter| is_other(in_any_case(shorter)))
            };
            let is_other_in_any_case = |path: &str| {
                is_other(self.route(path, request)) || is_other(in_any_case(path)) || without_end_slash(path)
            };
            // A rewrite that takes away the beginning may leave a path that names another host.
            let is_lost = || found.and_then(Route::path_change).is_some_and(|change| change.changed(path).is_none());
            let is_other_reading = || target::readings(path).any(|reading| is_other_in_any_case(&reading));
            is_other(in_any_case(path))
                || without_end_slash(path)
                || is_lost()
                || !target::is_readable(path)
                || is_other_reading()
        })
    }

    /// The route that a server with case-insensitive paths would use.
    fn route_in_any_case(&self, path: &str, request: &RouteRequest<'_>) -> Option<&Route> {
        let Some(indexes) = &self.indexes else {
            let mut routes = self.routes.iter().map(|route| &**route);
            return routes.find(|route| route.covers_in_any_case(path) && route.takes(request));
        };
        let path = match path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(path.to_ascii_lowercase()),
            false => Cow::Borrowed(path),
        };
        let mut covering = indexes.in_lower_case.covering(&path).filter_map(|number| self.routes.get(number));
        covering.find(|route| route.takes(request)).map(|route| &**route)
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
