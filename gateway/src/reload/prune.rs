//! After a swap: the origin series of entries that are no longer configured.
//!
//! Runs on the reload thread, for the tenants that have counted any origin. Every template's entries are looked at once, however many
//! tenants extend it. A request that began under the old snapshot and ends later counts where nobody looks any more.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use crossgate_policy::{EntryId, Policy, Template};

use crate::tenant::Tenant;

/// Drops the origin series that no route of these tenants can count in.
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
