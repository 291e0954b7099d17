//! Routes: which requests of a tenant they are for, under which policy, and what becomes of the
//! requests that pass.

use std::sync::Arc;

use crossgate_policy::{CrossSiteNavigations, Policy};

use crate::counters::EntryHandles;
use crate::shared_policy::SharedPolicy;
use crate::upstream::Upstream;
use crate::verdicts::TenantRule;
use crossgate_config::model::{Mode, PreflightFailures, Rewrite, UnmatchedRequests, covers};
use crossgate_message::field_edits::FieldEdits;
use crossgate_message::fields::HeaderFields;
use crossgate_message::path_change::PathChange;
use crossgate_message::redirect::{FixedResponse, Redirect};
use crossgate_message::route_match::RouteConditions;

/// The policy for the requests below one path, and what becomes of those that pass.
#[derive(Debug)]
pub struct Route {
    /// The path: a prefix of whole segments, `/` for all paths, or one exact path.
    pub path: Arc<str>,
    /// Whether the route is for exactly that path.
    pub(crate) is_exact: bool,
    pub policy_name: Arc<str>,
    /// The policy, extended by the tenant's origins. Equal routes of a tenant share it.
    pub policy: Arc<Policy>,
    pub action: RouteAction,
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
    pub(crate) conditions: Arc<RouteConditions>,
    pub(crate) shared: Arc<SharedPolicy>,
    /// The configured changes of requests to the upstream.
    pub(crate) request_edits: Option<Arc<FieldEdits>>,
    /// The configured changes of responses.
    pub(crate) response_edits: Option<Arc<FieldEdits>>,
}

impl Route {
    pub(crate) fn accepts_every_request(&self) -> bool {
        &*self.path == "/" && !self.is_exact && self.methods.is_empty() && self.conditions.counts() == (0, 0)
    }

    /// Returns whether the route is for a path: the exact one, or one below the prefix: `/public`
    /// covers `/public` and `/public/x`, never `/publicity`.
    pub(crate) fn covers(&self, path: &str) -> bool {
        covers(&self.path, self.is_exact, path)
    }

    pub(crate) fn covers_in_any_case(&self, path: &str) -> bool {
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
    pub(crate) fn has_terms_of(&self, other: &Route) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy)
            && self.action == other.action
            && self.unmatched_requests == other.unmatched_requests
            && self.cross_site_navigations == other.cross_site_navigations
            && self.mode == other.mode
            && self.request_edits == other.request_edits
            && self.response_edits == other.response_edits
    }

    pub(crate) fn accepts(&self, method: &[u8]) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|known| known.as_bytes() == method)
    }

    /// Whether the route takes a request for a path that it covers.
    pub(crate) fn takes(&self, request: &RouteRequest<'_>) -> bool {
        self.accepts(request.method) && self.conditions.unfulfilled(request.fields, request.query).is_none()
    }

    /// Whether both routes judge requests in the same way.
    pub(crate) fn judges_as(&self, other: &Route) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy)
            && self.unmatched_requests == other.unmatched_requests
            && self.preflight_failures == other.preflight_failures
            && self.cross_site_navigations == other.cross_site_navigations
            && self.mode == other.mode
    }

    /// The upstream that requests are forwarded to, if they are.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.action {
            RouteAction::Forward(forward) => Some(&forward.upstream),
            RouteAction::Redirect(_) | RouteAction::Respond(_) | RouteAction::NotFound => None,
        }
    }

    /// Whether the gateway itself answers the requests that pass.
    pub(crate) fn answers_itself(&self) -> bool {
        match self.action {
            RouteAction::Redirect(_) | RouteAction::Respond(_) => true,
            RouteAction::Forward(_) | RouteAction::NotFound => false,
        }
    }

    pub(crate) fn redirects(&self) -> bool {
        matches!(self.action, RouteAction::Redirect(_))
    }

    /// The differences between what the client asks for and what the upstream receives.
    pub(crate) fn rewrite(&self) -> Option<&Rewrite> {
        match &self.action {
            RouteAction::Forward(forward) => forward.rewrite.as_deref(),
            RouteAction::Redirect(_) | RouteAction::Respond(_) | RouteAction::NotFound => None,
        }
    }

    /// The change of the path, for the upstream or in a redirect.
    pub(crate) fn path_change(&self) -> Option<&PathChange> {
        match &self.action {
            RouteAction::Forward(forward) => forward.rewrite.as_ref()?.path.as_ref(),
            RouteAction::Redirect(redirect) => redirect.path.as_ref(),
            RouteAction::Respond(_) | RouteAction::NotFound => None,
        }
    }

    /// The methods of the route; all if empty.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(|method| &**method)
    }
}

/// What selects a route among those that cover a path.
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    /// Of a preflight, the method that it asks for.
    pub method: &'a [u8],
    /// `None` for a preflight, which carries none of the fields of its request.
    pub fields: Option<HeaderFields<'a>>,
    pub query: &'a str,
}

/// What becomes of the requests that pass.
#[derive(Debug, Clone)]
pub enum RouteAction {
    Forward(Forward),
    Redirect(Arc<Redirect>),
    Respond(Arc<FixedResponse>),
    /// 404. Such a route only lends its policy to paths without a route.
    NotFound,
}

/// How requests are forwarded.
#[derive(Debug, Clone)]
pub struct Forward {
    pub upstream: Arc<Upstream>,
    pub rewrite: Option<Arc<Rewrite>>,
}

impl PartialEq for RouteAction {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (RouteAction::Forward(one), RouteAction::Forward(other)) => {
                Arc::ptr_eq(&one.upstream, &other.upstream) && one.rewrite == other.rewrite
            }
            (RouteAction::Redirect(one), RouteAction::Redirect(other)) => one == other,
            (RouteAction::Respond(one), RouteAction::Respond(other)) => one == other,
            (RouteAction::NotFound, RouteAction::NotFound) => true,
            _ => false,
        }
    }
}
