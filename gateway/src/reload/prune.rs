//! Removal of origin series whose entries are no longer configured.
//!
//! Runs on the reload thread after a new snapshot is current, for tenants that have counted an
//! origin. The entries of a template are visited once, however many tenants extend it. A request
//! that began under the old snapshot and ends later counts in a series that is no longer exported.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use crossgate_policy::{EntryId, Policy, Template};

use crate::tenant::Tenant;

/// Removes the origin series in which no route of these tenants can count.
pub(super) fn prune_origins(tenants: &[Arc<Tenant>]) {
    let counted = |tenant: &Arc<Tenant>| Some(tenant.counters.counted_origins()).filter(|texts| !texts.is_empty());
    let counted: Vec<_> = tenants.iter().filter_map(|tenant| Some((tenant, counted(tenant)?))).collect();
    let texts: AHashSet<&str> = counted.iter().flat_map(|(_, texts)| texts.iter().map(|text| &**text)).collect();
    let mut templates: AHashMap<*const Template, AHashSet<&str>> = AHashMap::new();
    for (tenant, _) in &counted {
        for policy in policies(tenant) {
            let configured = || template_entries(policy).filter(|text| texts.contains(text)).collect();
            templates.entry(Arc::as_ptr(policy.template())).or_insert_with(configured);
        }
        let own: AHashSet<&str> = policies(tenant).flat_map(own_entries).collect();
        let shared: Vec<_> =
            policies(tenant).filter_map(|policy| templates.get(&Arc::as_ptr(policy.template()))).collect();
        tenant.counters.retain_origins(|text| own.contains(text) || shared.iter().any(|texts| texts.contains(text)));
    }
}

fn policies(tenant: &Tenant) -> impl Iterator<Item = &Policy> {
    tenant.routes.iter().chain(&tenant.fallback).map(|route| &*route.policy)
}

fn template_entries(policy: &Policy) -> impl Iterator<Item = &str> {
    let entries = (0..).take(policy.entry_counts().template).map(EntryId::Template);
    entries.map(|entry| policy.entry_text(entry))
}

fn own_entries(policy: &Policy) -> impl Iterator<Item = &str> {
    let entries = (0..).take(policy.entry_counts().own).map(EntryId::Own);
    entries.map(|entry| policy.entry_text(entry))
}
