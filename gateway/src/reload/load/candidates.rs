//! The tenants files of a load, and which version of each goes into the snapshot.

use std::path::Path;
use std::sync::Arc;

use super::super::stamp::FileStamp;
use super::BrokenFile;
use crate::registry::GatewayMetrics;
use crate::snapshot::{SharedSections, Snapshot, SnapshotBuilder, SnapshotParts};
use crossgate_config as config;
use crossgate_config::diagnostics::Diagnostics;
use crossgate_config::model::MainFile;
use crossgate_config::{DecodedFile, TenantsFile};
use crossgate_message::host::HostPattern;
use crossgate_wire::tls::ServerCertificate;

/// Active version of a tenants file.
#[derive(Clone)]
pub(super) struct ServedFile {
    /// The last good version.
    pub(super) good: Option<GoodFile>,
    /// Hosts that answer 503, of a file that has been broken since the start.
    pub(super) broken_hosts: Arc<[HostPattern]>,
}

#[derive(Clone)]
pub(super) struct GoodFile {
    pub(super) file: Arc<TenantsFile>,
    pub(super) stamp: Option<FileStamp>,
}

impl GoodFile {
    fn is_on_disk(&self, now: Option<FileStamp>) -> bool {
        self.stamp.zip(now).is_some_and(|(read, now)| read.proves_unchanged(&now))
    }
}

/// A tenants file in a load: the version on disk and the version served before.
pub(super) struct FileCandidate {
    pub(super) path: Arc<Path>,
    pub(super) stamp: Option<FileStamp>,
    pub(super) fresh: Arc<TenantsFile>,
    pub(super) found: Diagnostics,
    pub(super) before: Option<ServedFile>,
    pub(super) choice: VersionChoice,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionChoice {
    /// The last good version, which is the version on disk.
    Unchanged,
    /// The version on disk.
    Fresh,
    /// The last good version, if there is one, because the version on disk is refused.
    Fallback,
}

impl FileCandidate {
    /// Reads a file, unless its stamp proves that it still is the last good version.
    pub(super) fn read(path: Arc<Path>, stamp: Option<FileStamp>, before: Option<ServedFile>) -> Self {
        let good = before.as_ref().and_then(|serving| serving.good.clone());
        if let Some(good) = good.as_ref().filter(|good| good.is_on_disk(stamp)) {
            return FileCandidate::unchanged(path, stamp, &good.file, before);
        }
        let DecodedFile { value, found } = config::read_tenants(&path);
        match good.filter(|good| found.is_empty() && good.file.tenants == value.tenants) {
            Some(good) => FileCandidate::unchanged(path, stamp, &good.file, before),
            None => FileCandidate { path, stamp, fresh: Arc::new(value), found, before, choice: VersionChoice::Fresh },
        }
    }

    fn unchanged(
        path: Arc<Path>,
        stamp: Option<FileStamp>,
        file: &Arc<TenantsFile>,
        before: Option<ServedFile>,
    ) -> Self {
        let fresh = Arc::clone(file);
        FileCandidate { path, stamp, fresh, found: Diagnostics::default(), before, choice: VersionChoice::Unchanged }
    }

    fn good(&self) -> Option<&GoodFile> {
        self.before.as_ref().and_then(|before| before.good.as_ref())
    }

    /// The version to add to the snapshot.
    fn offered(&self) -> Option<&Arc<TenantsFile>> {
        match self.choice {
            VersionChoice::Unchanged | VersionChoice::Fresh => Some(&self.fresh),
            VersionChoice::Fallback => self.good().map(|good| &good.file),
        }
    }

    pub(super) fn broken(&self) -> Option<BrokenFile> {
        let errors = self.found.clone();
        (self.choice == VersionChoice::Fallback).then(|| BrokenFile { file: self.path.to_path_buf(), errors })
    }

    /// Hosts that answer 503: those of a file that has never been valid since the start.
    fn broken_hosts(&self, at_start: bool) -> Arc<[HostPattern]> {
        match &self.before {
            _ if self.choice != VersionChoice::Fallback || self.good().is_some() => Arc::default(),
            None if at_start => self.fresh.hosts.as_slice().into(),
            None => Arc::default(),
            Some(before) => Arc::clone(&before.broken_hosts),
        }
    }

    pub(super) fn into_serving(self, at_start: bool) -> (Arc<Path>, ServedFile) {
        let broken_hosts = self.broken_hosts(at_start);
        let good = match self.choice {
            VersionChoice::Unchanged | VersionChoice::Fresh => Some(GoodFile { file: self.fresh, stamp: self.stamp }),
            VersionChoice::Fallback => self.before.and_then(|before| before.good),
        };
        (self.path, ServedFile { good, broken_hosts })
    }
}

/// Inputs for the assembly of all tenants into a snapshot.
pub(super) struct SnapshotAssembly<'a> {
    pub(super) shared: &'a SharedSections,
    pub(super) previous: Option<&'a Snapshot>,
    pub(super) metrics: &'a GatewayMetrics,
    /// All certificates, if every listener uses TLS.
    pub(super) certificates: Option<&'a [Arc<ServerCertificate>]>,
}

impl SnapshotAssembly<'_> {
    /// Puts all files into one snapshot; also returns the warnings. A file that is refused is
    /// replaced with its last good version. Other files may clash with that version, so the
    /// assembly starts again. Each round uses fewer fresh files, so the loop ends.
    pub(super) fn assemble(
        &self,
        main: &MainFile,
        main_path: &Arc<Path>,
        found: &Diagnostics,
        candidates: &mut [FileCandidate],
        tolerates_broken_tenants: bool,
    ) -> Result<(SnapshotParts, Diagnostics), Diagnostics> {
        candidates.sort_by_key(|candidate| candidate.choice != VersionChoice::Unchanged);
        loop {
            let mut builder = SnapshotBuilder::new(self.shared, self.previous, self.metrics);
            let mut all = builder.add(main_path, &main.tenants, found.clone());
            let retry = offer(&mut builder, candidates, tolerates_broken_tenants, &mut all);
            if all.has_errors() {
                return Err(all);
            }
            if !retry {
                builder.warn_unused(main, main_path, &mut all);
                if candidates.iter().all(|candidate| candidate.choice != VersionChoice::Fallback) {
                    builder.warn_no_tenants(main, main_path, &mut all);
                }
                self.certificates.into_iter().for_each(|certificates| builder.warn_uncovered(certificates, &mut all));
                self.claim_broken(&mut builder, candidates);
                return Ok((builder.finish(), all));
            }
        }
    }

    fn claim_broken(&self, builder: &mut SnapshotBuilder<'_>, candidates: &[FileCandidate]) {
        for candidate in candidates {
            builder.claim_broken(&candidate.broken_hosts(self.previous.is_none()));
        }
    }
}

/// Adds every file in turn. Returns true if a file must be replaced with its last good version.
fn offer(
    builder: &mut SnapshotBuilder<'_>,
    candidates: &mut [FileCandidate],
    tolerates_broken_tenants: bool,
    all: &mut Diagnostics,
) -> bool {
    let mut retry = false;
    for candidate in candidates {
        let Some(file) = candidate.offered().map(Arc::clone) else { continue };
        let fresh = candidate.choice == VersionChoice::Fresh;
        let found = if fresh { candidate.found.clone() } else { Diagnostics::default() };
        let found = builder.add(&candidate.path, &file.tenants, found);
        if found.has_errors() && fresh && tolerates_broken_tenants {
            candidate.choice = VersionChoice::Fallback;
            candidate.found = found;
            retry |= candidate.good().is_some();
        } else {
            all.extend(found);
        }
    }
    retry
}
