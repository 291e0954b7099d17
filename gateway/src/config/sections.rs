//! The keys of every section, in the order in which they are documented.
//!
//! A key that is not here is unknown, so this is what the decoder accepts. `schema` describes the same keys to editors, and a
//! test holds the two together.

/// A kind of mapping: what to call it in messages, and its keys.
#[derive(Debug)]
pub(super) struct Section {
    /// With its article, as in "a tenant has no key `x`".
    pub(super) what: &'static str,
    /// Every key it may have.
    pub(super) keys: &'static [&'static str],
}

/// What has a name that other places refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Upstream,
    OriginSet,
    Policy,
}

impl Kind {
    /// One of them, in messages.
    pub(crate) fn one(self) -> &'static str {
        match self {
            Kind::Upstream => "upstream",
            Kind::OriginSet => "origin set",
            Kind::Policy => "policy",
        }
    }

    /// Several of them, in messages.
    pub(crate) fn many(self) -> &'static str {
        match self {
            Kind::Upstream => "upstreams",
            Kind::OriginSet => "origin sets",
            Kind::Policy => "policies",
        }
    }

    /// The key under which they are defined.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Kind::Upstream => "upstreams",
            Kind::OriginSet => "originSets",
            Kind::Policy => "policies",
        }
    }
}

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident = $definition:literal, $what:literal, [$($key:literal),+ $(,)?];)+) => {
        $($(#[$doc])* pub(super) const $name: Section = Section { what: $what, keys: &[$($key),+] };)+

        /// Every section beside the name of its definition in the schema.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &Section)] = &[$(($definition, &$name)),+];
    };
}

sections! {
    MAIN = "Config", "a configuration", [
        "version", "listeners", "admin", "runtime", "limits", "shutdown", "accessLog", "upstreams", "originSets", "policies",
        "tenants", "tenantsDir", "scriptsDir", "resolver", "ledger",
    ];
    TENANTS_FILE = "TenantsFile", "a tenants file", ["version", "tenants"];
    LISTENER = "Listener", "a listener", ["address", "trustedProxies", "tls", "proxyProtocol", "http2"];
    LISTENER_TLS = "ListenerTls", "the TLS of a listener", ["certificates", "minVersion"];
    CERTIFICATE = "Certificate", "a certificate", ["certificate", "key"];
    PROXY_PROTOCOL = "ProxyProtocol", "the PROXY protocol", ["from"];
    ADMIN = "Admin", "the admin listener", ["address", "tokenFile", "openMetrics", "hosts"];
    RUNTIME = "Runtime", "the runtime", ["threads"];
    LIMITS = "Limits", "the limits", [
        "maxConnections", "maxConnectionsPerClient", "tlsHandshake", "head", "headFields", "headFieldBytes", "headBytes",
        "keepAliveIdle", "keepAliveRequests", "maxRequestBody", "minBodyRate", "minBodyRateAfter", "writeStall", "drainBytes",
        "drainTime", "http2Streams", "http2Idle", "rules",
    ];
    RULE_LIMITS = "RuleLimits", "the limits of rules", [
        "operations", "stringBytes", "arrayLength", "mapLength", "callDepth", "sourceBytes", "time", "timePerSecond",
        "cacheEntries", "cacheEntriesPerTenant",
    ];
    SHUTDOWN = "Shutdown", "the shutdown", ["drainDelay", "grace"];
    ACCESS_LOG = "AccessLog", "the access log", ["level", "sample"];
    UPSTREAM = "Upstream", "an upstream", [
        "servers", "timeouts", "attempts", "host", "protocol", "tls", "healthCheck", "limits",
    ];
    UPSTREAM_TLS = "UpstreamTls", "the TLS of an upstream", ["serverName", "ca", "clientCertificate"];
    CLIENT_CERTIFICATE = "ClientCertificate", "a client certificate", ["certificate", "key"];
    SERVER = "Server", "a server", ["address", "weight"];
    HEALTH_CHECK = "HealthCheck", "a health check", [
        "path", "interval", "timeout", "healthyAfter", "unhealthyAfter", "host",
    ];
    UPSTREAM_LIMITS = "UpstreamLimits", "the limits of an upstream", ["maxRequests", "maxPending", "pendingTimeout"];
    RESOLVER = "Resolver", "the resolver", ["servers", "timeout"];
    LEDGER = "Ledger", "the ledger", ["enabled", "origins", "originsPerTenant"];
    TIMEOUTS = "Timeouts", "the timeouts", ["connect", "head", "idle", "upgradedIdle"];
    POLICY = "Policy", "a policy", [
        "allowOrigins", "allowOriginSets", "allowOriginRegexes", "allowMethods", "allowHeaders", "exposeHeaders",
        "allowCredentials", "maxAge", "disclosure", "unmatchedRequests", "mode", "rule", "dangerouslyAllowNull",
        "dangerouslyAllowInsecureOrigins", "dangerouslyAllowPublicSuffixes", "dangerouslyAllowAnyOrigin",
    ];
    RULE = "Rule", "a rule", ["script", "headers", "query"];
    TENANT = "Tenant", "a tenant", ["id", "hosts", "upstream", "policy", "allowOrigins", "routes"];
    ROUTE = "Route", "a route", ["pathPrefix", "methods", "policy", "upstream", "allowOrigins", "unmatchedRequests"];
}
