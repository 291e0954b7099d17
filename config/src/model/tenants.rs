//! Tenants and their routes.

use std::sync::Arc;

use super::policies::{CrossSiteNavigationsSetting, OwnOriginConfig, PreflightFailures, UnmatchedRequests};
use super::{Located, Text};
use crossgate_message::field_edits::FieldEdits;
use crossgate_message::host::HostPattern;
use crossgate_message::path_change::PathChange;
use crossgate_message::redirect::{FixedResponse, Redirect};
use crossgate_message::route_match::RouteConditions;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSpec {
    /// The name in metrics, logs and headers.
    pub id: Located<Arc<str>>,
    pub hosts: Vec<Located<HostPattern>>,
    /// The upstream for routes without one.
    pub upstream: Option<Text>,
    /// The policy for routes without one.
    pub policy: Option<Text>,
    /// Origins that are added to the policy.
    pub allow_origins: Vec<OwnOriginConfig>,
    pub routes: Vec<RouteSpec>,
    /// Changes of the requests that upstreams get.
    pub request_headers: Option<Arc<FieldEdits>>,
    /// Changes of responses.
    pub response_headers: Option<Arc<FieldEdits>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// The path of the route. As a prefix it consists of whole segments from the left: `/a` covers
    /// `/a` and `/a/b`, and only `/` ends with a slash.
    pub path: Text,
    /// Whether the route is for exactly this path.
    pub is_exact: bool,
    /// The methods of the route. An empty list stands for all.
    pub methods: Vec<Text>,
    pub conditions: Arc<RouteConditions>,
    pub policy: Option<Text>,
    pub action: RouteActionSpec,
    pub allow_origins: Vec<OwnOriginConfig>,
    pub unmatched_requests: Option<UnmatchedRequests>,
    pub preflight_failures: Option<PreflightFailures>,
    pub cross_site_navigations: Option<CrossSiteNavigationsSetting>,
    /// Changes of requests. They override those of the tenant by field.
    pub request_headers: Option<Arc<FieldEdits>>,
    /// Changes of responses, in the same way.
    pub response_headers: Option<Arc<FieldEdits>>,
}

/// What becomes of the requests of a route that pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteActionSpec {
    Forward(ForwardSpec),
    Redirect(Arc<Redirect>),
    Respond(Arc<FixedResponse>),
}

/// How requests are forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardSpec {
    /// `None` for the upstream of the tenant.
    pub upstream: Option<Text>,
    pub rewrite: Option<Arc<Rewrite>>,
}

/// The differences between what the client asks for and what the upstream receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    pub path: Option<PathChange>,
    pub location: LocationFields,
}

/// What happens to a `Location` of the upstream that leads to the upstream itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[schemars(rename = "LocationFields")]
pub enum LocationFields {
    /// It gets the client's host, and the part of the path that the rewrite took away.
    #[default]
    Map,
    /// It stays as it is.
    Keep,
}

impl RouteSpec {
    /// Whether the route is for a path of
    /// [`path_for_matching`](crossgate_message::target::RequestTarget::path_for_matching).
    pub fn covers(&self, path: &str) -> bool {
        covers(&self.path.value, self.is_exact, path)
    }
}

/// Whether a path is the exact one, or one below the prefix: `/public` covers `/public` and
/// `/public/x`, never `/publicity`.
pub fn covers(route: &str, is_exact: bool, path: &str) -> bool {
    if is_exact {
        return *route == *path;
    }
    if route == "/" {
        return true;
    }
    path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
