//! Decodes tenants and their routes.
//!
//! A tenant without a valid id or host is omitted after its mistakes are reported. Its hosts are
//! kept, because with `--skip-broken-tenants` they get a 503 response.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::decode::{Decoder, SectionFields, show_text};
use super::model::{Located, NO_TENANT, OTHER_TENANTS, OwnOriginConfig, RouteActionSpec, RouteSpec, TenantSpec, Text};
use super::node::{YamlNode, YamlValue};
use super::policies::ORIGINS_MAX;
use super::sections;
use crossgate_message::host::HostPattern;
use crossgate_message::target::RequestTarget;

/// Maximum number of tenants in one file.
const TENANTS_MAX: usize = 1_000_000;
/// Maximum number of hosts of one tenant.
const HOSTS_MAX: usize = 10_000;
/// Maximum number of routes of one tenant.
const ROUTES_MAX: usize = 4_096;
/// Maximum number of methods of one route.
const METHODS_MAX: usize = 64;
/// Methods that the gateway answers with 405 before it selects a route. Pages cannot send them
/// (Fetch standard, forbidden methods).
const REFUSED_METHODS: &[&str] = &["TRACE", "CONNECT"];
/// Methods that people write in lower case by mistake. Methods are case-sensitive (RFC 9110,
/// section 9.1).
const KNOWN_METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

#[derive(Debug, Default)]
pub(super) struct DecodedTenants {
    /// The tenants with an id and hosts.
    pub(super) specs: Vec<Arc<TenantSpec>>,
    /// The hosts of all tenants, including the omitted ones.
    pub(super) hosts: Vec<HostPattern>,
}

impl Decoder<'_> {
    pub(super) fn tenants(&mut self, node: Option<&YamlNode>) -> DecodedTenants {
        let items =
            node.map_or(&[][..], |node| self.section_list(node, "a list of tenants", TENANTS_MAX, &sections::TENANT));
        let mut tenants = DecodedTenants::default();
        for item in items {
            let spec = self.tenant(item, &mut tenants.hosts);
            tenants.specs.extend(spec.map(Arc::new));
        }
        tenants
    }

    fn tenant(&mut self, node: &YamlNode, claimed: &mut Vec<HostPattern>) -> Option<TenantSpec> {
        let fields = self.fields(node, &sections::TENANT)?;
        let hosts = self.required(&fields, "hosts").map(|node| self.hosts(node));
        claimed.extend(hosts.iter().flatten().map(|host| host.value.clone()));
        let id = self.required(&fields, "id").and_then(|node| self.tenant_id(node));
        let upstream = fields.find("upstream").and_then(|node| self.name(node, "the name of an upstream"));
        let policy = fields.find("policy").and_then(|node| self.name(node, "the name of a policy"));
        let allow_origins = self.own_origins(fields.find("allowOrigins"));
        let routes = self.routes(fields.find("routes"));
        self.check_circles(hosts.as_deref().unwrap_or_default(), &routes);
        let request_headers = self.request_headers(&fields);
        let response_headers = self.response_headers(&fields);
        Some(TenantSpec {
            id: id?,
            hosts: hosts?,
            upstream,
            policy,
            allow_origins,
            routes,
            request_headers,
            response_headers,
        })
    }

    /// Origins, and lists of origins with the group that they are added to.
    fn own_origins(&mut self, node: Option<&YamlNode>) -> Vec<OwnOriginConfig> {
        let items = node.map_or(&[][..], |node| self.list(node, "a list of origins", ORIGINS_MAX));
        let mut own = Vec::new();
        for item in items {
            if let YamlValue::Map(_) = item.value {
                own.extend(self.group_origins(item));
            } else {
                let origin = self.located_text(item, "an origin");
                own.extend(origin.map(|origin| OwnOriginConfig { origin, group: None }));
            }
        }
        own
    }

    fn group_origins(&mut self, node: &YamlNode) -> Vec<OwnOriginConfig> {
        let Some(fields) = self.fields(node, &sections::GROUP_ORIGINS) else { return Vec::new() };
        let group = self.required(&fields, "group").and_then(|node| self.name(node, "the name of a group"));
        let origins = self.required(&fields, "origins").map(|node| self.texts(Some(node), "origin", ORIGINS_MAX));
        let (Some(group), Some(origins)) = (group.map(Arc::new), origins) else { return Vec::new() };
        origins.into_iter().map(|origin| OwnOriginConfig { origin, group: Some(Arc::clone(&group)) }).collect()
    }

    fn tenant_id(&mut self, node: &YamlNode) -> Option<Located<Arc<str>>> {
        let id = self.name(node, "an id")?;
        let reserved = match &*id.value {
            NO_TENANT => "reserved id `none`; metrics use it for requests without a tenant, so write another id",
            OTHER_TENANTS => {
                "reserved id `other`; metrics use it for tenants without their own series, so write another id"
            }
            _ => return Some(Located { value: id.value.into(), at: id.at }),
        };
        self.error(id.at, reserved);
        None
    }

    fn hosts(&mut self, node: &YamlNode) -> Vec<Located<HostPattern>> {
        let before = self.found.len();
        let items = self.list(node, "a list of hosts", HOSTS_MAX);
        let hosts: Vec<_> = items.iter().filter_map(|item| self.host(item)).collect();
        if hosts.is_empty() && self.found.len() == before {
            self.error(node.at, "empty list of hosts; write one such as api.acme.example or \"*.acme.example\"");
        }
        hosts
    }

    fn host(&mut self, node: &YamlNode) -> Option<Located<HostPattern>> {
        let value = self.parse_host(node, "a host", HostPattern::parse)?;
        Some(Located { value, at: node.at })
    }

    fn routes(&mut self, node: Option<&YamlNode>) -> Vec<RouteSpec> {
        let items =
            node.map_or(&[][..], |node| self.section_list(node, "a list of routes", ROUTES_MAX, &sections::ROUTE));
        let routes: Vec<_> = items.iter().filter_map(|item| self.route(item)).collect();
        let mut seen: HashMap<(&str, bool), Vec<&RouteSpec>> = HashMap::new();
        for route in &routes {
            let same_path = seen.entry((&route.path.value, route.is_exact)).or_default();
            if let Some(first) = same_path.iter().find(|earlier| overlap(earlier, route)) {
                let kind = if route.is_exact { "exact path" } else { "prefix" };
                let has_conditions = route.conditions.counts() != (0, 0);
                let and = if has_conditions { "methods and conditions" } else { "methods" };
                let what = format!("two routes have the {kind} {} and the same {and}", show_text(&route.path.value));
                self.clash(route.path.at, format!("{what}; change one of them"), first.path.at);
            }
            same_path.push(route);
        }
        routes
    }

    /// Reports redirects that lead back to themselves, also by other redirects of the tenant.
    fn check_circles(&mut self, hosts: &[Located<HostPattern>], routes: &[RouteSpec]) {
        let takes_get = |route: &&RouteSpec| {
            let has_method = route.methods.is_empty() || route.methods.iter().any(|method| *method.value == *"GET");
            has_method && route.conditions.counts() == (0, 0)
        };
        let found = |path: &str| {
            let covering = routes.iter().filter(takes_get).filter(|route| route.covers(path));
            covering.min_by_key(|route| (!route.is_exact, Reverse(route.path.value.len())))
        };
        for route in routes {
            let mut seen = vec![route];
            let mut path = route.path.value.to_string();
            while let Some(next) = seen.last().and_then(|route| next_path(route, hosts, &path)) {
                let Some(route) = found(&next) else { break };
                if seen.iter().any(|seen| std::ptr::eq(*seen, route)) {
                    let from = seen.first().unwrap_or(&route);
                    let message = format!("this redirect leads to {} and so back to itself", show_text(&next));
                    self.error(from.path.at, format!("{message}; redirect to a path with another route"));
                    break;
                }
                seen.push(route);
                path = next;
            }
        }
    }

    fn route(&mut self, node: &YamlNode) -> Option<RouteSpec> {
        let fields = self.fields(node, &sections::ROUTE)?;
        let path = self.route_path(&fields);
        let methods = self.methods(&fields);
        let conditions = Arc::new(self.route_conditions(&fields));
        let policy = fields.find("policy").and_then(|node| self.name(node, "the name of a policy"));
        let action = self.route_action(&fields, path.as_ref().map(|(path, _)| &*path.value));
        let allow_origins = self.own_origins(fields.find("allowOrigins"));
        let unmatched_requests = self.unmatched_requests(&fields);
        let preflight_failures = self.preflight_failures(&fields);
        let cross_site_navigations = self.cross_site_navigations(&fields);
        let request_headers = self.request_headers(&fields);
        let response_headers = self.response_headers(&fields);
        let (path, is_exact) = path?;
        Some(RouteSpec {
            path,
            is_exact,
            methods,
            conditions,
            policy,
            action: action?,
            allow_origins,
            unmatched_requests,
            preflight_failures,
            cross_site_navigations,
            request_headers,
            response_headers,
        })
    }

    /// The path of a route, and whether it is exact.
    fn route_path(&mut self, fields: &SectionFields<'_>) -> Option<(Text, bool)> {
        match (fields.find("pathPrefix"), fields.find("pathExact")) {
            (Some(_), Some(exact)) => {
                self.error(exact.at, "a route has either `pathPrefix` or `pathExact`; remove one of them");
                None
            }
            (Some(prefix), None) => Some((self.prefix(prefix)?, false)),
            (None, Some(exact)) => Some((self.exact_path(exact)?, true)),
            (None, None) => {
                self.error(fields.at(), "missing key `pathPrefix` in a route; write it, or `pathExact`");
                None
            }
        }
    }

    /// A normalized path, as written.
    fn exact_path(&mut self, node: &YamlNode) -> Option<Text> {
        let value = self.parse_text(node, "a path", |text| {
            let target = RequestTarget::parse(text.as_bytes(), b"GET").map_err(|error| error.to_string())?;
            match target.path_for_matching() {
                _ if target.authority().is_some() => Err("write only the path, such as /healthz".to_owned()),
                path if path == text => Ok(Box::from(path)),
                path => Err(format!("paths are matched in normalized form; write {path}")),
            }
        })?;
        Some(Located { value, at: node.at })
    }

    /// A normalized path. A trailing slash is removed, since a prefix matches whole segments.
    fn prefix(&mut self, node: &YamlNode) -> Option<Text> {
        let value = self.parse_text(node, "a path prefix", |text| {
            if let Some((before, _)) = text.split_once(['*', '{', '}']) {
                let above =
                    before.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
                return Err(format!("a prefix has no patterns and covers all paths below it; write {above}"));
            }
            // A prefix in another form than the normalized path of requests would never match.
            let target = RequestTarget::parse(text.as_bytes(), b"GET").map_err(|error| error.to_string())?;
            match target.path_for_matching() {
                _ if target.authority().is_some() => Err("write only the path, such as /public".to_owned()),
                path if path == text => Ok(Box::from(trim_end(path))),
                path => Err(format!("paths are matched in normalized form; write {path}")),
            }
        })?;
        Some(Located { value, at: node.at })
    }

    fn methods(&mut self, fields: &SectionFields<'_>) -> Vec<Text> {
        let mut methods: Vec<Text> = Vec::new();
        for method in self.texts(fields.find("methods"), "method", METHODS_MAX) {
            let upper = method.value.to_ascii_uppercase();
            if REFUSED_METHODS.contains(&&*upper) {
                let what = format!("the gateway answers {} with 405 on every route", show_text(&method.value));
                self.error(method.at, format!("{what}; remove it"));
            } else if KNOWN_METHODS.contains(&&*upper) && *upper != *method.value {
                self.error(
                    method.at,
                    format!("invalid method {}: methods are case-sensitive, write {upper}", show_text(&method.value)),
                );
            } else if http::Method::from_bytes(method.value.as_bytes()).is_err() {
                self.error(
                    method.at,
                    format!("invalid method {}: write one such as GET or PUT", show_text(&method.value)),
                );
            } else {
                methods.push(method);
            }
        }
        self.check_methods_key(fields);
        methods.dedup();
        methods
    }

    /// Refuses an empty list: it reads as "no method", but without methods a route is for all of
    /// them.
    fn check_methods_key(&mut self, fields: &SectionFields<'_>) {
        let Some(node) = fields.find("methods") else {
            return;
        };
        if let YamlValue::List(items) = &node.value
            && items.is_empty()
        {
            self.error(
                node.at,
                "empty list of methods; write some such as [GET, PUT], or remove the key for all methods",
            );
        }
    }
}

/// The path that a redirect within the tenant leads to.
fn next_path(route: &RouteSpec, hosts: &[Located<HostPattern>], path: &str) -> Option<String> {
    let RouteActionSpec::Redirect(redirect) = &route.action else { return None };
    let is_own = |host: &str| hosts.iter().any(|own| matches!(&own.value, HostPattern::Exact(own) if **own == *host));
    let is_same_host = redirect.host.as_deref().is_none_or(is_own);
    if redirect.scheme.is_some() || redirect.port.is_some() || !is_same_host {
        return None;
    }
    match &redirect.path {
        Some(change) => change.changed(path),
        None => Some(path.to_owned()),
    }
}

fn trim_end(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(shorter) => shorter,
    }
}

/// Whether some request matches both routes, which have one path, equally well.
fn overlap(a: &RouteSpec, b: &RouteSpec) -> bool {
    let shared = a.methods.iter().any(|method| b.methods.contains(method));
    a.conditions == b.conditions && (shared || a.methods.is_empty() && b.methods.is_empty())
}
