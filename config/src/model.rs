//! The decoded configuration as plain values.
//!
//! Names are not resolved; the gateway compiles these values into a snapshot. Values that a later
//! step may report have their position. Equality ignores positions, which the reuse of unchanged
//! parts across reloads relies on. Policies keep their texts as written, because the policy engine
//! checks origins, methods and header names.

mod listeners;
mod log_fields;
mod policies;
mod settings;
mod tenants;
mod upstreams;

use std::path::PathBuf;
use std::sync::Arc;

pub use self::listeners::{CertificateSpec, Http2Support, Listener, ListenerTls, TlsVersion, TrustedBalancers};
pub use self::log_fields::{LogField, LogFieldSet};
pub use self::policies::{
    CookieWarnings, CrossSiteNavigationsSetting, CrossSiteReadsSetting, CrossSiteSetting, DisclosureSetting,
    GroupConfig, Mode, NO_TENANT, OTHER_TENANTS, OriginSetConfig, OwnOriginConfig, PolicyConfig, PolicyOverrides,
    PreflightFailures, Preset, PresetLists, ResourcePolicy, RuleSpec, TimingAllowOrigins, UnmatchedRequests,
};
pub use self::settings::{
    AccessLogSettings, Admin, AlwaysLogged, BodyMax, CacheLimits, LedgerLimits, Limits, LogAlways, LogLevel,
    LogRotation, ProxyStatus, RuleBounds, RuleTimes, Runtime, Shutdown, Threads,
};
pub use self::tenants::{ForwardSpec, LocationFields, Rewrite, RouteActionSpec, RouteSpec, TenantSpec, covers};
pub use self::upstreams::{
    CheckRequest, ClientCertificateSpec, HealthCheck, Protocol, Resolver, SERVERS_MAX, ServerAddress, ServerSpec,
    Timeouts, TlsSpec, UpstreamLimits, UpstreamSpec,
};
pub use super::node::Position;

/// A value with its position. Equality compares only the values.
#[derive(Debug, Clone, Copy)]
pub struct Located<T> {
    pub value: T,
    pub at: Position,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

/// A text with its position.
pub type Text = Located<Box<str>>;

/// The main file, without the tenants of `tenantsDir`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MainFile {
    pub settings: Arc<Settings>,
    pub upstreams: Vec<UpstreamSpec>,
    pub origin_sets: Vec<OriginSetConfig>,
    pub policies: Vec<PolicyConfig>,
    pub tenants: Vec<Arc<TenantSpec>>,
    /// The files with bodies of fixed responses.
    pub body_files: Vec<PathBuf>,
    pub tenants_dir: Option<Located<PathBuf>>,
    pub scripts_dir: Option<Located<PathBuf>>,
}

/// The settings of the gateway as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    pub admin: Option<Admin>,
    pub runtime: Runtime,
    pub limits: Limits,
    pub shutdown: Shutdown,
    pub access_log: AccessLogSettings,
    pub resolver: Resolver,
    /// Whether responses of the gateway have a `Proxy-Status` field.
    pub proxy_status: ProxyStatus,
    pub ledger: LedgerLimits,
}
