//! The decoded configuration as plain values, each with its place where a later mistake may have to point at it.
//!
//! These are what the files say, names still unresolved; `snapshot` compiles them. Two of them are equal when they say the
//! same, wherever it stands: reuse across reloads hangs on that. Defaults are those of the documented limits. Policies keep
//! their texts as written, because origins, methods and header names are the policy engine's to judge.

mod listeners;
mod policies;
mod settings;
mod upstreams;

use std::path::PathBuf;
use std::sync::Arc;

pub use self::listeners::{Balancers, CertificateSpec, Listener, ListenerTls, TlsVersion};
pub use self::policies::{
    Dangerously, Disclosure, Mode, OriginSetSpec, PolicySpec, RouteSpec, RuleSpec, TenantSpec, UnmatchedRequests,
};
pub use self::settings::{AccessLog, Admin, BodyMax, Limits, LogLevel, RuleBounds, Runtime, Shutdown, Threads};
pub use self::upstreams::{
    ClientCertificateSpec, HealthCheck, Protocol, Resolver, ServerAddress, ServerSpec, Timeouts, TlsSpec,
    UpstreamLimits, UpstreamSpec,
};
pub use super::tree::At;

/// A value and where it was written. Equal to another when the values are.
#[derive(Debug, Clone, Copy)]
pub struct Located<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub at: At,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

/// A piece of text and where it was written.
pub type Text = Located<Box<str>>;

/// The main file, tenants of `tenantsDir` aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Main {
    /// What concerns the gateway as a whole.
    pub settings: Arc<Settings>,
    /// Where requests go.
    pub upstreams: Vec<UpstreamSpec>,
    /// Named lists of origins.
    pub origin_sets: Vec<OriginSetSpec>,
    /// Named policies.
    pub policies: Vec<PolicySpec>,
    /// The tenants written in this file.
    pub tenants: Vec<Arc<TenantSpec>>,
    /// Where more tenants are.
    pub tenants_dir: Option<Located<PathBuf>>,
    /// Where the scripts of rules are.
    pub scripts_dir: Option<Located<PathBuf>>,
}

/// What concerns the gateway as a whole, and no tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// The second listener, if wanted.
    pub admin: Option<Admin>,
    /// Threads.
    pub runtime: Runtime,
    /// Bounds on what clients may send and how long they may take.
    pub limits: Limits,
    /// How to stop.
    pub shutdown: Shutdown,
    /// What is logged of requests.
    pub access_log: AccessLog,
    /// Who is asked for the addresses of servers that have names.
    pub resolver: Resolver,
    /// How many origins are recorded.
    pub ledger: crate::ledger::LedgerLimits,
}
