//! A snapshot: one compiled configuration, as every request from its first byte to its last sees it.
//!
//! `shared` compiles what tenants have in common, `tenants` the tenants, `hosts` finds them by host, and `build` puts a snapshot
//! together file by file, reusing from the one before whatever says the same. A snapshot never changes; a reload makes a new
//! one. Absent on purpose: files, clocks, and any lookup whose cost grows with the number of tenants or origins.

use std::sync::Arc;

use ahash::AHashMap;

use crate::config::Settings;
use crate::tenant::{Tenant, Upstream};
use crate::tls::Terminator;

mod build;
mod current;
mod hosts;
mod rules;
mod shared;
mod tenants;

#[cfg(test)]
mod tests;

pub(crate) use build::{Builder, Parts};
pub use current::{CurrentSnapshot, Pinned};
pub(crate) use rules::Rejected;
pub use shared::SharedPolicy;
pub(crate) use shared::{Shared, Sources};

use hosts::{HostTable, Slot};

/// One compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Its number, counted from 1.
    pub generation: u64,
    /// What concerns the gateway as a whole. Listeners, admin and runtime are those it was started with.
    pub settings: Arc<Settings>,
    hosts: HostTable,
    tenants: Vec<Arc<Tenant>>,
    by_id: AHashMap<Arc<str>, usize>,
    terminators: Vec<Option<Arc<Terminator>>>,
    shared: Shared,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy)]
pub enum HostMatch<'a> {
    /// It is this tenant's.
    Tenant(&'a Arc<Tenant>),
    /// It is claimed by a tenant whose configuration has been broken since the start: 503.
    Broken,
}

impl Snapshot {
    /// Whose a host is, which is in canonical form: see [`parse_authority`](crate::host::parse_authority). An exact entry
    /// beats the longest `*.`, which beats `*`.
    pub fn tenant(&self, host: &str) -> Option<HostMatch<'_>> {
        match self.hosts.find(host)? {
            Slot::Tenant(index) => self.tenants.get(index as usize).map(HostMatch::Tenant),
            Slot::Broken => Some(HostMatch::Broken),
        }
    }

    /// What a listener speaks TLS with, if it does: for its whole life, or never.
    pub fn terminator(&self, listener: usize) -> Option<&Arc<Terminator>> {
        self.terminators.get(listener)?.as_ref()
    }

    /// Whether both have the very same upstreams, down to what their files say.
    pub(crate) fn shares_upstreams(&self, other: &Snapshot) -> bool {
        let (ours, theirs) = (&self.shared.upstreams, &other.shared.upstreams);
        let same = |name, ours| theirs.get(name).is_some_and(|theirs| Arc::ptr_eq(ours, theirs));
        ours.len() == theirs.len() && ours.iter().all(|(name, ours)| same(name, ours))
    }

    /// Every tenant, in the order of the files.
    pub fn tenants(&self) -> &[Arc<Tenant>] {
        &self.tenants
    }

    /// Every upstream, in no order.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.shared.upstreams.values()
    }

    /// The tenant of that id.
    pub fn tenant_by_id(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.by_id.get(id).and_then(|index| self.tenants.get(*index))
    }
}
