//! A snapshot: one compiled configuration, which a request uses from its first byte to its last.
//!
//! `shared` compiles the sections that tenants share, `tenants` the tenants; `hosts` finds them by
//! host. `build` assembles a snapshot file by file, and reuses unchanged objects of the one before.
//! A snapshot never changes; a reload makes a new one. Absent on purpose: files, clocks, and any
//! lookup whose cost grows with the number of tenants or origins.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;

use crate::tenant::Tenant;
use crate::upstream::Upstream;
use crossgate_config::Settings;
use crossgate_config::model::{MainFile, PolicyConfig, Position, TenantSpec, Text};
use crossgate_wire::tls::Terminator;

mod build;
mod current;
mod hosts;
mod rules;
mod shared;
mod strictness;
mod tenants;

#[cfg(test)]
mod tests;

pub(crate) use build::{SnapshotBuilder, SnapshotParts};
pub use current::{CurrentSnapshot, PinnedSnapshot};
pub(crate) use rules::RejectedScript;
pub(crate) use shared::{SharedSections, SourceFiles};

use hosts::{HostEntry, HostTable};

/// One compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// The number of the configuration, from 1.
    pub generation: u64,
    /// Settings of the gateway as a whole. Listeners, admin and runtime are those of the start.
    pub settings: Arc<Settings>,
    hosts: HostTable,
    tenants: Vec<Arc<Tenant>>,
    by_id: AHashMap<Arc<str>, usize>,
    terminators: Vec<Option<Arc<Terminator>>>,
    shared: SharedSections,
    source: SourceLocations,
}

/// The sources of a snapshot, to locate values in their files.
#[derive(Debug)]
pub(crate) struct SourceLocations {
    pub(crate) main: Arc<MainFile>,
    pub(crate) file: Arc<Path>,
    /// The file and specification of each tenant, in the order of the tenants.
    pub(crate) tenants: Vec<(Arc<Path>, Arc<TenantSpec>)>,
}

/// Numbers of configured items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub tenants: usize,
    /// Policies, used or not.
    pub policies: usize,
    /// Routes of all tenants, default routes included.
    pub routes: usize,
    /// Configured origins and expressions, of policies and of tenants.
    pub origins: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let Counts { tenants, policies, routes, origins } = *self;
        let all = [
            counted(tenants, "tenant", "tenants"),
            counted(policies, "policy", "policies"),
            counted(routes, "route", "routes"),
            counted(origins, "origin", "origins"),
        ];
        f.write_str(&all.join(", "))
    }
}

/// The match for a host.
#[derive(Debug, Clone, Copy)]
pub enum HostMatch<'a> {
    /// The host belongs to this tenant.
    Tenant(&'a Arc<Tenant>),
    /// The host belongs to a tenant whose configuration has been broken since the start. Requests
    /// get 503.
    Broken,
}

impl Snapshot {
    /// Finds the tenant of a host in canonical form (see
    /// [`parse_authority`](crossgate_message::host::parse_authority)). An exact entry has
    /// precedence over the longest `*.`, and that over `*`.
    pub fn tenant(&self, host: &str) -> Option<HostMatch<'_>> {
        match self.hosts.find(host)? {
            HostEntry::Tenant(index) => self.tenants.get(index as usize).map(HostMatch::Tenant),
            HostEntry::Broken => Some(HostMatch::Broken),
        }
    }

    /// The TLS terminator of a listener; `None` for a listener without TLS.
    pub fn terminator(&self, listener: usize) -> Option<&Arc<Terminator>> {
        self.terminators.get(listener)?.as_ref()
    }

    /// Returns whether both snapshots contain the same upstream objects, including the contents of
    /// their files.
    pub(crate) fn shares_upstreams(&self, other: &Snapshot) -> bool {
        let (ours, theirs) = (&self.shared.upstreams, &other.shared.upstreams);
        let same = |name, ours| theirs.get(name).is_some_and(|theirs| Arc::ptr_eq(ours, theirs));
        ours.len() == theirs.len() && ours.iter().all(|(name, ours)| same(name, ours))
    }

    /// All tenants, in the order of the files.
    pub fn tenants(&self) -> &[Arc<Tenant>] {
        &self.tenants
    }

    /// Counts the configured items.
    pub fn counts(&self) -> Counts {
        let own = |tenant: &Arc<Tenant>| {
            let routes = tenant.spec.routes.iter().map(|route| route.allow_origins.len());
            tenant.spec.allow_origins.len() + routes.sum::<usize>()
        };
        Counts {
            tenants: self.tenants.len(),
            policies: self.shared.policies.len(),
            routes: self.tenants.iter().map(|tenant| tenant.routes.len()).sum(),
            origins: self.shared.policies.values().map(|policy| policy.origin_count()).sum::<usize>()
                + self.tenants.iter().map(own).sum::<usize>(),
        }
    }

    /// All upstreams, in no particular order.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.shared.upstreams.values()
    }

    /// A policy as written in the main file.
    pub(crate) fn written_policy(&self, name: &str) -> Option<&PolicyConfig> {
        self.source.main.policies.iter().find(|policy| *policy.name.value == *name)
    }

    /// The origins of a set as written in the main file.
    pub(crate) fn written_origins(&self, set: &str) -> Option<&[Text]> {
        let set = self.source.main.origin_sets.iter().find(|source| *source.name.value == *set)?;
        Some(&set.origins)
    }

    /// A tenant as written, and its file.
    pub(crate) fn written_tenant(&self, id: &str) -> Option<(&Path, &TenantSpec)> {
        let (file, spec) = self.source.tenants.get(*self.by_id.get(id)?)?;
        Some((file, spec))
    }

    /// A location in the main file, as `file:line`.
    pub(crate) fn location(&self, at: Position) -> String {
        format!("{}:{}", self.source.file.display(), at.line)
    }

    pub fn tenant_by_id(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.by_id.get(id).and_then(|index| self.tenants.get(*index))
    }
}
