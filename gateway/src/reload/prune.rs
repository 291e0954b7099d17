//! Removal of origin series whose entries are no longer configured.
//!
//! Runs on the reload thread after a new snapshot is current, for tenants that have counted an
//! origin. The entries of a template are visited once, however many tenants extend it. A request
//! that began under the old snapshot and ends later counts in a series that is no longer exported.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use crossgate_policy::{EntryId, Policy, Template};

use crate::tenant::Tenant;

/// An entry and its group, as in a series.
type SeriesKey<'a> = (&'a str, &'a str);

/// Removes the origin series in which no route of these tenants can count.
pub(super) fn prune_origins(tenants: &[Arc<Tenant>]) {
    let counted = |tenant: &Arc<Tenant>| Some(tenant.counters.counted_origins()).filter(|keys| !keys.is_empty());
    let counted: Vec<_> = tenants.iter().filter_map(|tenant| Some((tenant, counted(tenant)?))).collect();
    let texts: AHashSet<&str> = counted.iter().flat_map(|(_, keys)| keys.iter().map(|(text, _)| &**text)).collect();
    let mut templates: AHashMap<*const Template, AHashSet<SeriesKey<'_>>> = AHashMap::new();
    for (tenant, _) in &counted {
        for policy in policies(tenant) {
            let entries = (0..).take(policy.entry_counts().template).map(EntryId::Template);
            let configured = || entries.flat_map(|entry| keys(policy, entry, &texts)).collect();
            templates.entry(Arc::as_ptr(policy.template())).or_insert_with(configured);
        }
        let own_entries = |policy: &Policy| (0..).take(policy.entry_counts().own).map(EntryId::Own);
        let own: AHashSet<SeriesKey<'_>> = policies(tenant)
            .flat_map(|policy| own_entries(policy).flat_map(|entry| keys(policy, entry, &texts)))
            .collect();
        let shared: Vec<_> =
            policies(tenant).filter_map(|policy| templates.get(&Arc::as_ptr(policy.template()))).collect();
        tenant.counters.retain_origins(|text, group| {
            let key = (text, group);
            own.contains(&key) || shared.iter().any(|keys| keys.contains(&key))
        });
    }
}

/// The keys of the series in which an entry can count, if its text is among those counted.
fn keys<'p>(
    policy: &'p Policy,
    entry: EntryId,
    texts: &AHashSet<&str>,
) -> impl Iterator<Item = SeriesKey<'p>> + use<'p> {
    let text = Some(policy.entry_text(entry)).filter(|text| texts.contains(text));
    let groups = text.map(|text| policy.entry_groups(entry).map(move |group| (text, group)));
    groups.into_iter().flatten().map(|(text, group)| (text, policy.group_name(group).unwrap_or_default()))
}

fn policies(tenant: &Tenant) -> impl Iterator<Item = &Policy> {
    tenant.routes.iter().chain(&tenant.fallback).map(|route| &*route.policy)
}
