//! Renewal of certificates while the configuration is refused.
//!
//! The active configuration stays, with its certificate files as they are on disk now. A mistake in
//! the main file may stay for a week, and a certificate may expire in that time. Nothing else is
//! read: changed tenants files and scripts may belong to the refused main file.

use std::path::Path;
use std::sync::Arc;

use super::{
    BrokenFile, ConfigLoader, FileCandidate, LiveConfig, LoadOutcome, ServedFile, SharedFiles, SnapshotAssembly,
    VersionChoice,
};
use crate::scripts::{DirectoryReading, RefusedFile, ReportedScripts};
use crate::snapshot::{SharedSections, SourceFiles};
use crossgate_config::diagnostics::Diagnostics;

impl ConfigLoader {
    /// Builds a snapshot of the active configuration with the current certificates. Returns `None`
    /// if they did not change. Their files are followed from now on.
    pub(in crate::reload) fn renew_certificates(&mut self) -> Option<LoadOutcome> {
        let main = Arc::clone(&self.live.as_ref()?.main);
        let main_path = Arc::clone(&self.main_path);
        let mut found = Diagnostics::default();
        // Locations refer to the main file as it was, so no source lines can be quoted.
        let certificates = self.load_certificates(&main, &mut found);
        let trust = self.load_trust(&main, &mut found);
        let live = self.live.as_ref()?;
        let scripts = self.keep_scripts(live);
        let mut candidates =
            live.files.iter().map(|(path, serving)| live.keep_candidate(path, serving)).collect::<Vec<_>>();
        let previous = Some(&*live.snapshot);
        let reported = ReportedScripts::default();
        let sources = SourceFiles { scripts: &scripts.scripts, reported: &reported, tls: &trust.tls };
        let shared =
            SharedSections::compile(&main, &main_path, sources, previous, &self.metrics, &mut Vec::new(), &mut found);
        let only = certificates.only.as_deref();
        let assembly = SnapshotAssembly { shared: &shared, previous, metrics: &self.metrics, certificates: only };
        let assembled = assembly.assemble(&main, &main_path, &found, &mut candidates, true);
        let (parts, warnings) = assembled
            .inspect_err(|found| {
                tracing::error!(errors = found.len(), "cannot renew certificates: {}", found.one_line())
            })
            .ok()?;
        let loaded =
            self.publish(main, shared, parts, candidates, SharedFiles { scripts, certificates, trust }, warnings);
        loaded.is_different.then_some(loaded)
    }

    /// The active scripts, and the refused ones.
    fn keep_scripts(&self, live: &LiveConfig) -> DirectoryReading {
        let is_script = |broken: &&BrokenFile| {
            !live.files.contains_key(&*broken.file) && !self.seen.certificates.contains(&broken.file)
        };
        let refused = live.broken.iter().filter(is_script).cloned();
        let refused = refused.map(|BrokenFile { file, errors }| RefusedFile { file, errors }).collect();
        DirectoryReading { scripts: live.scripts.clone(), refused }
    }
}

impl LiveConfig {
    /// Makes a candidate of the active version of a tenants file.
    fn keep_candidate(&self, path: &Arc<Path>, serving: &ServedFile) -> FileCandidate {
        let broken = self.broken.iter().find(|broken| *broken.file == **path);
        let good = serving.good.clone();
        FileCandidate {
            path: Arc::clone(path),
            stamp: good.as_ref().and_then(|good| good.stamp),
            fresh: good.map(|good| good.file).unwrap_or_default(),
            found: broken.map(|broken| broken.errors.clone()).unwrap_or_default(),
            before: Some(serving.clone()),
            choice: if broken.is_some() { VersionChoice::Fallback } else { VersionChoice::Unchanged },
        }
    }
}
