//! Decodes tenants and their routes.
//!
//! A tenant that cannot be told apart from others (no id, no host) is left out after its mistakes are reported, but the hosts it
//! claims are kept, since with `--skip-broken-tenants` they answer 503.

use std::sync::Arc;

use super::decode::{Decoder, Fields, shown};
use super::model::{Located, RouteSpec, TenantSpec, Text};
use super::policies::ORIGINS_MAX;
use super::sections;
use super::tree::Node;
use crate::host::HostPattern;
use crate::target::Target;

/// Tenants in one file.
const TENANTS_MAX: usize = 1_000_000;
/// Hosts of one tenant.
const HOSTS_MAX: usize = 10_000;
/// Routes of one tenant. They are tried one after the other.
const ROUTES_MAX: usize = 256;
/// Methods of one route.
const METHODS_MAX: usize = 64;
/// The label of requests that belong to no tenant.
const RESERVED_ID: &str = "none";
/// Methods that no route ever sees.
const REFUSED_METHODS: &[&str] = &["TRACE", "CONNECT"];
/// Methods that are sometimes written in lower case, which names another one that hardly any client sends.
const KNOWN_METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// Tenants as far as they could be read.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    /// Those that can be compiled.
    pub(super) specs: Vec<Arc<TenantSpec>>,
    /// The hosts of all of them, the broken ones too.
    pub(super) hosts: Vec<HostPattern>,
}

impl Decoder<'_> {
    pub(super) fn tenants(&mut self, node: Option<&Node>) -> Tenants {
        let items = node.map_or(&[][..], |node| self.list(node, "a list of tenants", TENANTS_MAX));
        let mut tenants = Tenants::default();
        for item in items {
            let spec = self.tenant(item, &mut tenants.hosts);
            tenants.specs.extend(spec.map(Arc::new));
        }
        tenants
    }

    fn tenant(&mut self, node: &Node, claimed: &mut Vec<HostPattern>) -> Option<TenantSpec> {
        let fields = self.fields(node, &sections::TENANT)?;
        let hosts = self.required(&fields, "hosts").map(|node| self.hosts(node));
        claimed.extend(hosts.iter().flatten().map(|host| host.value.clone()));
        let id = self.required(&fields, "id").and_then(|node| self.tenant_id(node));
        let upstream = fields.find("upstream").and_then(|node| self.name(node, "an upstream"));
        let policy = fields.find("policy").and_then(|node| self.name(node, "a policy"));
        let allow_origins = self.texts(fields.find("allowOrigins"), "origin", ORIGINS_MAX);
        let routes = self.routes(fields.find("routes"));
        Some(TenantSpec { id: id?, hosts: hosts?, upstream, policy, allow_origins, routes })
    }

    fn tenant_id(&mut self, node: &Node) -> Option<Located<Arc<str>>> {
        let id = self.name(node, "an id")?;
        if &*id.value == RESERVED_ID {
            self.error(id.at, "`none` stands for requests of no tenant in metrics; choose another id");
            return None;
        }
        Some(Located { value: id.value.into(), at: id.at })
    }

    fn hosts(&mut self, node: &Node) -> Vec<Located<HostPattern>> {
        let before = self.found.len();
        let items = self.list(node, "a list of hosts", HOSTS_MAX);
        let hosts: Vec<_> = items.iter().filter_map(|item| self.host(item)).collect();
        if hosts.is_empty() && self.found.len() == before {
            self.error(node.at, "there is no host; write one such as api.acme.example or \"*.acme.example\"");
        }
        hosts
    }

    fn host(&mut self, node: &Node) -> Option<Located<HostPattern>> {
        let value = self.parsed(node, "a host", HostPattern::parse)?;
        Some(Located { value, at: node.at })
    }

    fn routes(&mut self, node: Option<&Node>) -> Vec<RouteSpec> {
        let items = node.map_or(&[][..], |node| self.list(node, "a list of routes", ROUTES_MAX));
        let routes: Vec<_> = items.iter().filter_map(|item| self.route(item)).collect();
        for (index, route) in routes.iter().enumerate() {
            let earlier = routes.iter().take(index).find(|earlier| overlap(earlier, route));
            if let Some(first) = earlier {
                let what = format!("two routes are for {} and the same methods", shown(&route.prefix.value));
                self.clash(route.prefix.at, format!("{what}; give each its own prefix or methods"), first.prefix.at);
            }
        }
        routes
    }

    fn route(&mut self, node: &Node) -> Option<RouteSpec> {
        let fields = self.fields(node, &sections::ROUTE)?;
        let prefix = self.required(&fields, "pathPrefix").and_then(|node| self.prefix(node));
        let methods = self.methods(&fields);
        let policy = fields.find("policy").and_then(|node| self.name(node, "a policy"));
        let upstream = fields.find("upstream").and_then(|node| self.name(node, "an upstream"));
        let allow_origins = self.texts(fields.find("allowOrigins"), "origin", ORIGINS_MAX);
        let unmatched_requests = self.unmatched_requests(&fields);
        Some(RouteSpec { prefix: prefix?, methods, policy, upstream, allow_origins, unmatched_requests })
    }

    /// A path as requests are matched on it. A slash at the end says nothing, since whole segments are matched.
    fn prefix(&mut self, node: &Node) -> Option<Text> {
        let value = self.parsed(node, "a path prefix", |text| {
            if let Some((before, _)) = text.split_once(['*', '{', '}']) {
                let above =
                    before.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
                return Err(format!("a prefix covers what is below it, without patterns; write {above}"));
            }
            let target = Target::parse(text.as_bytes(), b"GET").map_err(|error| error.to_string())?;
            match target.path_for_matching() {
                _ if target.authority().is_some() => Err("write the path alone, such as /public".to_owned()),
                path if path == text => Ok(Box::from(trim_end(path))),
                path => Err(format!("requests are matched in another form; write {path}")),
            }
        })?;
        Some(Located { value, at: node.at })
    }

    fn methods(&mut self, fields: &Fields<'_>) -> Vec<Text> {
        let mut methods: Vec<Text> = Vec::new();
        for method in self.texts(fields.find("methods"), "method", METHODS_MAX) {
            let upper = method.value.to_ascii_uppercase();
            if REFUSED_METHODS.contains(&&*upper) {
                let what = format!("{} is answered with 405 here, whatever the route", shown(&method.value));
                self.error(method.at, format!("{what}; leave it out"));
            } else if KNOWN_METHODS.contains(&&*upper) && *upper != *method.value {
                self.error(
                    method.at,
                    format!("{} is no method, which are case-sensitive; write {upper}", shown(&method.value)),
                );
            } else if http::Method::from_bytes(method.value.as_bytes()).is_err() {
                self.error(method.at, format!("{} is no method; write one such as GET or PUT", shown(&method.value)));
            } else {
                methods.push(method);
            }
        }
        self.check_methods_key(fields);
        methods.dedup();
        methods
    }

    /// An empty list would mean every method, which is the opposite of what it says.
    fn check_methods_key(&mut self, fields: &Fields<'_>) {
        let Some(node) = fields.find("methods") else {
            return;
        };
        if let super::tree::Value::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "there is no method; write some such as [GET, PUT], or leave the key out for all");
        }
    }
}

fn trim_end(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(shorter) => shorter,
    }
}

/// Whether a request could belong to both routes with nothing to choose between them.
fn overlap(a: &RouteSpec, b: &RouteSpec) -> bool {
    let shared = a.methods.iter().any(|method| b.methods.contains(method));
    a.prefix == b.prefix && (shared || a.methods.is_empty() && b.methods.is_empty())
}
