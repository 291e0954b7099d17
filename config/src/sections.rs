//! The sections of the configuration: what messages call them, their short forms and their keys.
//!
//! The structs in `schema` declare the keys. A key that its struct does not declare is unknown.

use serde::de::DeserializeOwned;

use super::keys;
use super::schema::listeners::{CertificateKeys, ListenerKeys, ListenerTlsKeys, ProxyProtocolKeys};
use super::schema::policies::{
    GroupKeys, GroupOriginsKeys, HeaderEditsKeys, PolicyKeys, PresenceKeys, RedirectKeys, RespondKeys, RewriteKeys,
    RouteKeys, RuleKeys, TenantKeys,
};
use super::schema::settings::{
    AccessLogKeys, AdminKeys, LedgerKeys, LimitsKeys, RotateKeys, RuleLimitsKeys, RuntimeKeys, ShutdownKeys,
};
use super::schema::upstreams::{
    ClientCertificateKeys, GrpcServiceKeys, HealthCheckKeys, ResolverKeys, ServerKeys, TimeoutsKeys, UpstreamKeys,
    UpstreamLimitsKeys, UpstreamTlsKeys,
};
use super::schema::{MainKeys, TenantsFileKeys};

/// A mapping with known keys.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name with an article, for messages.
    pub(super) what: &'static str,
    /// The mapping to write where a text was found. `#` stands for the text.
    pub(super) form: Option<&'static str>,
    keys: fn() -> &'static [&'static str],
}

impl Section {
    const fn of<T: DeserializeOwned>(what: &'static str, form: Option<&'static str>) -> Self {
        Section { what, form, keys: keys::names::<T> }
    }

    /// A section that is not part of the configuration and so has no schema.
    pub(super) const fn with_keys(what: &'static str, keys: fn() -> &'static [&'static str]) -> Self {
        Section { what, form: None, keys }
    }

    /// Every key, in the order of the documentation.
    pub(super) fn keys(&self) -> &'static [&'static str] {
        (self.keys)()
    }
}

/// A kind of object that other parts of the configuration refer to by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    Upstream,
    OriginSet,
    Policy,
}

impl ReferenceKind {
    /// The singular for messages.
    pub fn one(self) -> &'static str {
        match self {
            ReferenceKind::Upstream => "upstream",
            ReferenceKind::OriginSet => "origin set",
            ReferenceKind::Policy => "policy",
        }
    }

    /// The plural for messages.
    pub fn many(self) -> &'static str {
        match self {
            ReferenceKind::Upstream => "upstreams",
            ReferenceKind::OriginSet => "origin sets",
            ReferenceKind::Policy => "policies",
        }
    }

    /// The key that defines these objects.
    pub fn key(self) -> &'static str {
        match self {
            ReferenceKind::Upstream => "upstreams",
            ReferenceKind::OriginSet => "originSets",
            ReferenceKind::Policy => "policies",
        }
    }
}

macro_rules! sections {
    ($($name:ident = $type:ty, $what:literal $(, $form:literal)?;)+) => {
        $(pub(super) const $name: Section = Section::of::<$type>($what, sections!(@form $($form)?));)+

        const ALL: &[&Section] = &[$(&$name),+];
    };
    (@form) => { None };
    (@form $form:literal) => { Some($form) };
}

/// Whether any section has a key of this name.
pub(super) fn is_key(name: &str) -> bool {
    ALL.iter().any(|section| section.keys().contains(&name))
}

sections! {
    MAIN = MainKeys, "a configuration";
    TENANTS_FILE = TenantsFileKeys, "a tenants file";
    LISTENER = ListenerKeys, "a listener", "{ address: # }";
    LISTENER_TLS = ListenerTlsKeys, "the TLS of a listener";
    CERTIFICATE = CertificateKeys, "a certificate";
    PROXY_PROTOCOL = ProxyProtocolKeys, "the PROXY protocol", "{ from: [#] }";
    ADMIN = AdminKeys, "the admin listener", "{ address: # }";
    RUNTIME = RuntimeKeys, "the runtime", "{ threads: # }";
    LIMITS = LimitsKeys, "the limits";
    RULE_LIMITS = RuleLimitsKeys, "the limits of rules";
    SHUTDOWN = ShutdownKeys, "the shutdown";
    ACCESS_LOG = AccessLogKeys, "the access log", "{ level: # }";
    ROTATE = RotateKeys, "the rotation of the access log";
    UPSTREAM = UpstreamKeys, "an upstream", "{ servers: [#] }";
    UPSTREAM_TLS = UpstreamTlsKeys, "the TLS of an upstream";
    CLIENT_CERTIFICATE = ClientCertificateKeys, "a client certificate";
    SERVER = ServerKeys, "a server";
    HEALTH_CHECK = HealthCheckKeys, "a health check", "{ path: # }";
    GRPC_SERVICE = GrpcServiceKeys, "a gRPC health check", "{ service: # }";
    UPSTREAM_LIMITS = UpstreamLimitsKeys, "the limits of an upstream";
    RESOLVER = ResolverKeys, "the resolver";
    LEDGER = LedgerKeys, "the ledger";
    TIMEOUTS = TimeoutsKeys, "the timeouts";
    POLICY = PolicyKeys, "a policy";
    RULE = RuleKeys, "a rule", "{ script: # }";
    GROUP = GroupKeys, "a group";
    GROUP_ORIGINS = GroupOriginsKeys, "an addition to a group";
    TENANT = TenantKeys, "a tenant", "{ id: .., hosts: [#], upstream: .., policy: .. }";
    HEADER_EDITS = HeaderEditsKeys, "changes of headers", "{ remove: [#] }";
    PRESENCE = PresenceKeys, "a condition";
    REWRITE = RewriteKeys, "a rewrite", "{ pathPrefix: # }";
    REDIRECT = RedirectKeys, "a redirect", "{ status: 307, path: # }";
    RESPOND = RespondKeys, "a fixed response", "{ status: 200, body: # }";
    ROUTE = RouteKeys, "a route", "{ pathPrefix: # }";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_keys() {
        for section in ALL {
            assert!(!section.keys().is_empty(), "{}", section.what);
        }
    }
}
