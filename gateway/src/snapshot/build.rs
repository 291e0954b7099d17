//! Puts a snapshot together, one file after the other.
//!
//! A file goes in whole or not at all: one mistake in it, or one host or id that an earlier file has, and nothing of it is taken.
//! So the caller decides by the order of the files who loses a clash, and can offer another version of a file instead.

use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;

use super::Snapshot;
use super::hosts::{HostTable, Slot};
use super::shared::Shared;
use super::tenants::{self, Compiler};
use crate::config::Settings;
use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::{At, Main, TenantSpec};
use crate::config::shown;
use crate::host::HostPattern;
use crate::metrics::Metrics;
use crate::tenant::Tenant;
use crate::tls::{Certificate, Names, Terminator};

/// Hosts that no certificate covers are told up to this number. One is mostly enough to see why.
const UNCOVERED_TOLD_MAX: usize = 20;

/// A snapshot in the making.
pub(crate) struct Builder<'a> {
    shared: &'a Shared,
    previous: Option<&'a Snapshot>,
    metrics: &'a Metrics,
    hosts: HostTable,
    tenants: Vec<Arc<Tenant>>,
    by_id: AHashMap<Arc<str>, usize>,
    /// Beside every tenant what it was taken from, for the other place of a clash.
    origins: Vec<(Arc<Path>, Arc<TenantSpec>)>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(shared: &'a Shared, previous: Option<&'a Snapshot>, metrics: &'a Metrics) -> Self {
        // With some room, so that one tenant more does not double a table that is full.
        let like_before = previous.map_or(0, |snapshot| snapshot.tenants.len() + snapshot.tenants.len() / 16);
        Builder {
            shared,
            previous,
            metrics,
            hosts: HostTable::with_capacity(like_before),
            tenants: Vec::with_capacity(like_before),
            by_id: AHashMap::with_capacity(like_before),
            origins: Vec::with_capacity(like_before),
        }
    }

    /// Takes the tenants of one file, or none of them if the findings have an error: those it comes with, from reading it, or
    /// those added here.
    pub(crate) fn add(&mut self, file: &Arc<Path>, specs: &[Arc<TenantSpec>], mut found: Diagnostics) -> Diagnostics {
        let partial = found.has_errors();
        let mut compiled = Vec::with_capacity(specs.len());
        let mut within = Within::default();
        for spec in specs {
            self.check_free(file, spec, &mut found);
            within.check(file, spec, &mut found);
            compiled.extend(self.compile(file, spec, partial, &mut found));
        }
        if !found.has_errors() {
            compiled.into_iter().zip(specs).for_each(|(tenant, spec)| self.place(file, tenant, spec));
        }
        found
    }

    fn compile(
        &self,
        file: &Path,
        spec: &Arc<TenantSpec>,
        partial: bool,
        found: &mut Diagnostics,
    ) -> Option<Arc<Tenant>> {
        let previous = self.previous.and_then(|snapshot| snapshot.tenant_by_id(&spec.id.value));
        match previous.filter(|tenant| tenants::is_current(tenant, spec, self.shared)) {
            Some(same) => Some(Arc::clone(same)),
            None => {
                let tenant = Arc::clone(&spec.id.value);
                let (shared, metrics, seats) = (self.shared, self.metrics, Vec::new());
                Compiler { shared, metrics, file, tenant, partial, seats, found }.tenant(spec)
            }
        }
    }

    /// Reports what an earlier file has taken already.
    fn check_free(&self, file: &Path, spec: &TenantSpec, found: &mut Diagnostics) {
        if let Some((other, first)) = self.by_id.get(&spec.id.value).and_then(|index| self.origins.get(*index)) {
            found.push(same_id(file, spec).also(other, first.id.at));
        }
        for host in &spec.hosts {
            let Some(Slot::Tenant(index)) = self.hosts.get(&host.value) else { continue };
            let Some((other, first)) = self.origins.get(index as usize) else { continue };
            let at = first.hosts.iter().find(|taken| taken.value == host.value).map_or(first.id.at, |taken| taken.at);
            found.push(same_host(file, &host.value, host.at).also(other, at));
        }
    }

    fn place(&mut self, file: &Arc<Path>, tenant: Arc<Tenant>, spec: &Arc<TenantSpec>) {
        let index = self.tenants.len();
        let slot = u32::try_from(index).map_or(Slot::Broken, Slot::Tenant);
        spec.hosts.iter().for_each(|host| self.hosts.claim(&host.value, slot));
        self.by_id.insert(Arc::clone(&tenant.id), index);
        self.tenants.push(tenant);
        self.origins.push((Arc::clone(file), Arc::clone(spec)));
    }

    /// Warns about what nobody uses.
    pub(crate) fn warn_unused(&self, main: &Main, file: &Path, found: &mut Diagnostics) {
        Shared::warn_unused(main, file, &self.tenants, found);
    }

    /// Warns about hosts that none of these certificates is for, where there is no other way to a tenant.
    pub(crate) fn warn_uncovered(&self, certificates: &[Arc<Certificate>], found: &mut Diagnostics) {
        let names = Names::of_all(certificates.iter().map(|certificate| certificate.names()));
        let hosts = self.origins.iter().flat_map(|(file, spec)| spec.hosts.iter().map(move |host| (file, host)));
        for (file, host) in hosts.filter(|(_, host)| !names.cover_pattern(&host.value)).take(UNCOVERED_TOLD_MAX) {
            let name = shown(&host.value.to_string());
            let message = format!("no certificate is for {name}, and all listeners speak TLS; add one with this name");
            found.push(Diagnostic::warning(file, host.at, message));
        }
    }

    /// Lets the hosts of broken tenants answer 503, those that nobody else has.
    pub(crate) fn claim_broken(&mut self, hosts: &[HostPattern]) {
        hosts.iter().for_each(|host| self.hosts.claim(host, Slot::Broken));
    }

    /// What the tenants make up. The builder keeps nothing.
    pub(crate) fn finish(self) -> Parts {
        Parts { hosts: self.hosts, tenants: self.tenants, by_id: self.by_id }
    }
}

/// A snapshot but for what it shares, its settings and its number.
pub(crate) struct Parts {
    hosts: HostTable,
    tenants: Vec<Arc<Tenant>>,
    by_id: AHashMap<Arc<str>, usize>,
}

impl Parts {
    pub(crate) fn into_snapshot(
        self,
        shared: Shared,
        settings: Arc<Settings>,
        terminators: Vec<Option<Arc<Terminator>>>,
        generation: u64,
    ) -> Snapshot {
        let Parts { hosts, tenants, by_id } = self;
        Snapshot { generation, settings, hosts, tenants, by_id, terminators, shared }
    }
}

/// Ids and hosts seen so far in one file.
#[derive(Default)]
struct Within<'s> {
    ids: AHashMap<&'s str, At>,
    hosts: AHashMap<&'s HostPattern, At>,
}

impl<'s> Within<'s> {
    fn check(&mut self, file: &Path, spec: &'s TenantSpec, found: &mut Diagnostics) {
        if let Some(first) = self.ids.insert(&spec.id.value, spec.id.at) {
            found.push(same_id(file, spec).also(file, first));
        }
        for host in &spec.hosts {
            if let Some(first) = self.hosts.insert(&host.value, host.at) {
                found.push(same_host(file, &host.value, host.at).also(file, first));
            }
        }
    }
}

fn same_id(file: &Path, spec: &TenantSpec) -> Diagnostic {
    let message = format!("there are two tenants with the id {}; give each its own", shown(&spec.id.value));
    Diagnostic::error(file, spec.id.at, message)
}

fn same_host(file: &Path, host: &HostPattern, at: At) -> Diagnostic {
    let message = format!("the host {} is there twice; it can belong to one tenant only", shown(&host.to_string()));
    Diagnostic::error(file, at, message)
}
