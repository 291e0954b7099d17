//! Assembles a snapshot, one file after the other.
//!
//! A file is added completely or not at all: with one mistake, or one host or id of an earlier
//! file, none of it is added. The caller therefore decides conflicts by the order of the files, and
//! can offer another version of a file instead.

use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;

use super::hosts::{HostEntry, HostTable};
use super::shared::SharedSections;
use super::strictness::StrictnessChecks;
use super::tenants::{self, TenantCompiler};
use super::{Snapshot, SourceLocations};
use crate::registry::GatewayMetrics;
use crate::tenant::{Tenant, TenantWarning};
use crossgate_config::Settings;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{MainFile, Position, TenantSpec};
use crossgate_config::show_text;
use crossgate_config::warnings::WarningCode;
use crossgate_message::health_path::HealthPath;
use crossgate_message::host::HostPattern;
use crossgate_wire::tls::{CertificateNames, ServerCertificate, Terminator};

/// The maximum number of uncovered hosts that are reported. One is usually enough to find the
/// cause.
const UNCOVERED_REPORTED_MAX: usize = 20;

/// A snapshot under construction.
pub(crate) struct SnapshotBuilder<'a> {
    shared: &'a SharedSections,
    previous: Option<&'a Snapshot>,
    metrics: &'a GatewayMetrics,
    hosts: HostTable,
    tenants: Vec<Arc<Tenant>>,
    by_id: AHashMap<Arc<str>, usize>,
    strictness: StrictnessChecks,
    /// The source of each tenant, for the second location of a conflict.
    sources: Vec<(Arc<Path>, Arc<TenantSpec>)>,
}

impl<'a> SnapshotBuilder<'a> {
    pub(crate) fn new(shared: &'a SharedSections, previous: Option<&'a Snapshot>, metrics: &'a GatewayMetrics) -> Self {
        // With some room, so that one more tenant does not double a full table.
        let like_before = previous.map_or(0, |snapshot| snapshot.tenants.len() + snapshot.tenants.len() / 16);
        SnapshotBuilder {
            shared,
            previous,
            metrics,
            hosts: HostTable::with_capacity(like_before),
            tenants: Vec::with_capacity(like_before),
            by_id: AHashMap::with_capacity(like_before),
            strictness: StrictnessChecks::default(),
            sources: Vec::with_capacity(like_before),
        }
    }

    /// Adds the tenants of one file, unless `found` has an error, from reading the file or from
    /// here.
    pub(crate) fn add(&mut self, file: &Arc<Path>, specs: &[Arc<TenantSpec>], mut found: Diagnostics) -> Diagnostics {
        let partial = found.has_errors();
        let mut compiled = Vec::with_capacity(specs.len());
        let mut within = FileScope::default();
        for spec in specs {
            self.check_free(file, spec, &mut found);
            self.check_health_paths(file, spec, &mut found);
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
        let tenant = match previous.filter(|tenant| tenants::is_current(tenant, spec, self.shared)) {
            Some(same) => Arc::clone(same),
            None => {
                let tenant = Arc::clone(&spec.id.value);
                let (shared, metrics, strictness) = (self.shared, self.metrics, &self.strictness);
                let (tenant_rules, warnings) = (Vec::new(), Vec::new());
                TenantCompiler {
                    shared,
                    metrics,
                    file,
                    tenant,
                    partial,
                    tenant_rules,
                    strictness,
                    warnings,
                    extensions: Vec::new(),
                    found,
                }
                .tenant(spec)?
            }
        };
        let to_diagnostic =
            |warning: &TenantWarning| Diagnostic::warning(warning.code, file, warning.at, &*warning.message);
        found.extend(tenant.warnings.iter().map(to_diagnostic));
        Some(tenant)
    }

    /// Reports ids and hosts that an earlier file uses already.
    fn check_free(&self, file: &Path, spec: &TenantSpec, found: &mut Diagnostics) {
        if let Some((other, first)) = self.by_id.get(&spec.id.value).and_then(|index| self.sources.get(*index)) {
            found.push(same_id(file, spec).also(other, first.id.at));
        }
        for host in &spec.hosts {
            let Some(HostEntry::Tenant(index)) = self.hosts.get(&host.value) else { continue };
            let Some((other, first)) = self.sources.get(index as usize) else { continue };
            let at = first.hosts.iter().find(|taken| taken.value == host.value).map_or(first.id.at, |taken| taken.at);
            found.push(same_host(file, &host.value, host.at).also(other, at));
        }
    }

    /// Reports routes that cover the path of a listener's health checks. A default route may cover
    /// it.
    fn check_health_paths(&self, file: &Path, spec: &TenantSpec, found: &mut Diagnostics) {
        for route in &spec.routes {
            let is_served = |path: &HealthPath| match route.is_exact {
                true => path.as_str() == &*route.path.value,
                false => path.is_covered_by(&route.path.value),
            };
            let covered = self.shared.health_paths.iter().find(|(path, _)| is_served(path));
            if let Some((path, place)) = covered {
                let (path, prefix) = (path.as_str(), show_text(&route.path.value));
                let message = format!(
                    "the route {prefix} covers {path}, which a listener answers as its healthPath; choose another healthPath or prefix"
                );
                let found_here = Diagnostic::error(file, route.path.at, message);
                found.push(Diagnostic { also: Some(place.clone()), ..found_here });
            }
        }
    }

    fn place(&mut self, file: &Arc<Path>, tenant: Arc<Tenant>, spec: &Arc<TenantSpec>) {
        let index = self.tenants.len();
        let slot = u32::try_from(index).map_or(HostEntry::Broken, HostEntry::Tenant);
        spec.hosts.iter().for_each(|host| self.hosts.claim(&host.value, slot));
        self.by_id.insert(Arc::clone(&tenant.id), index);
        self.tenants.push(tenant);
        self.sources.push((Arc::clone(file), Arc::clone(spec)));
    }

    /// Warns if every request is for an unknown host.
    pub(crate) fn warn_no_tenants(&self, main: &MainFile, file: &Path, found: &mut Diagnostics) {
        if self.tenants.is_empty() {
            let at = main.tenants_dir.as_ref().map_or(Position::START, |dir| dir.at);
            let message =
                "there is no tenant, so every request gets 421; add one under tenants, or in a file of tenantsDir";
            found.push(Diagnostic::warning(WarningCode::NoTenants, file, at, message));
        }
    }

    /// Warns about unused definitions.
    pub(crate) fn warn_unused(&self, main: &MainFile, file: &Path, found: &mut Diagnostics) {
        SharedSections::warn_unused(main, file, &self.tenants, found);
    }

    /// Warns about hosts that no certificate covers, if all listeners use TLS.
    pub(crate) fn warn_uncovered(&self, certificates: &[Arc<ServerCertificate>], found: &mut Diagnostics) {
        let names = CertificateNames::of_all(certificates.iter().map(|certificate| certificate.names()));
        let hosts = self.sources.iter().flat_map(|(file, spec)| spec.hosts.iter().map(move |host| (file, host)));
        for (file, host) in hosts.filter(|(_, host)| !names.cover_pattern(&host.value)).take(UNCOVERED_REPORTED_MAX) {
            let name = show_text(&host.value.to_string());
            let message =
                format!("no certificate covers {name}, and all listeners use TLS; add a certificate with this name");
            found.push(Diagnostic::warning(WarningCode::UncoveredHost, file, host.at, message));
        }
    }

    /// Makes the hosts of broken tenants answer 503, unless another tenant has them.
    pub(crate) fn claim_broken(&mut self, hosts: &[HostPattern]) {
        hosts.iter().for_each(|host| self.hosts.claim(host, HostEntry::Broken));
    }

    /// Finishes the tenants' part.
    pub(crate) fn finish(self) -> SnapshotParts {
        SnapshotParts { hosts: self.hosts, tenants: self.tenants, by_id: self.by_id, sources: self.sources }
    }
}

/// The tenants' part of a snapshot.
pub(crate) struct SnapshotParts {
    hosts: HostTable,
    tenants: Vec<Arc<Tenant>>,
    by_id: AHashMap<Arc<str>, usize>,
    sources: Vec<(Arc<Path>, Arc<TenantSpec>)>,
}

impl SnapshotParts {
    pub(crate) fn into_snapshot(
        self,
        shared: SharedSections,
        settings: Arc<Settings>,
        terminators: Vec<Option<Arc<Terminator>>>,
        generation: u64,
        (main, file): (Arc<MainFile>, Arc<Path>),
    ) -> Snapshot {
        let SnapshotParts { hosts, tenants, by_id, sources } = self;
        let source = SourceLocations { main, file, tenants: sources };
        Snapshot { generation, settings, hosts, tenants, by_id, terminators, shared, source }
    }
}

/// The ids and hosts of one file so far.
#[derive(Default)]
struct FileScope<'s> {
    ids: AHashMap<&'s str, Position>,
    hosts: AHashMap<&'s HostPattern, Position>,
}

impl<'s> FileScope<'s> {
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
    let message = format!("there are two tenants with the id {}; give each its own", show_text(&spec.id.value));
    Diagnostic::error(file, spec.id.at, message)
}

fn same_host(file: &Path, host: &HostPattern, at: Position) -> Diagnostic {
    let message = format!("the host {} is used twice: it can belong to only one tenant", show_text(&host.to_string()));
    Diagnostic::error(file, at, message)
}
