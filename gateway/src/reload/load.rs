//! Loading: turns files into a snapshot and keeps the last good versions.
//!
//! The main file is all or nothing. A file of the tenants directory with a mistake keeps its last
//! good version while the rest goes live. Unchanged files are added first, so of two files that
//! clash the changed one is refused. If even a last good version no longer fits, the main file has
//! changed under it, and the main file is refused. Scripts and certificates, including those of
//! upstreams, keep their last good version in the same way. Threads, triggers and logging of
//! results are in `reload`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rayon::prelude::*;

use self::candidates::{FileCandidate, ServedFile, SnapshotAssembly, VersionChoice};
use self::certificates::GoodCertificates;
use self::restart::{merge_startup_settings, restart_needed};
use self::trust::GoodTrust;
use super::stamp::{FileStamp, FinishedStates};
use super::watch::WatchedPaths;
use crate::access_log;
use crate::admin::AdminTokens;
use crate::registry::GatewayMetrics;
use crate::scripts::{self, DirectoryReading, RefusedFile, ReportedScripts, Scripts};
use crate::snapshot::{RejectedScript, SharedSections, Snapshot, SnapshotParts, SourceFiles};
use crossgate_config as config;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{Located, MainFile};
use crossgate_config::warnings::WarningCode;
use crossgate_config::{DecodedFile, Settings};

mod candidates;
mod certificates;
mod renewal;
mod restart;
mod secrets;
mod tokens;
mod trust;

/// Comparison of the files on disk with those of the last load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileStaleness {
    /// No file differs.
    Fresh,
    /// Some files differ, and their writers have finished.
    Stale,
    /// Some files differ, and the writer of one may not have finished. Wait this long for it.
    BeingWritten(Duration),
}

/// Treatment of tenants files with mistakes at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenTenants {
    /// Do not start.
    Refuse,
    /// Start without them. Their hosts answer 503 until the file is valid.
    Skip,
}

/// Loads one configuration repeatedly.
pub(super) struct ConfigLoader {
    main_path: Arc<Path>,
    /// Text to use instead of reading the main file, such as standard input of `check`.
    main_text: Option<Box<str>>,
    broken_tenants: BrokenTenants,
    secrets: SecretsPresence,
    /// Current tokens of the admin listener.
    tokens: Arc<AdminTokens>,
    metrics: Arc<GatewayMetrics>,
    live: Option<LiveConfig>,
    seen: SeenFiles,
    /// Set if a file was written while the last load read it.
    is_overtaken: bool,
}

/// Inputs and snapshot of the active configuration.
struct LiveConfig {
    main: Arc<MainFile>,
    started: Arc<Settings>,
    files: BTreeMap<Arc<Path>, ServedFile>,
    scripts: Scripts,
    certificates: GoodCertificates,
    trust: GoodTrust,
    broken: Vec<BrokenFile>,
    snapshot: Arc<Snapshot>,
}

/// Every file that the last load used, and its stamp from before it was read.
#[derive(Default)]
struct SeenFiles {
    tenants_dir: Option<TenantsDirectory>,
    /// Token files of the admin listener.
    token_files: Vec<PathBuf>,
    scripts_dir: Option<PathBuf>,
    /// Bodies of fixed responses.
    body_files: Vec<PathBuf>,
    /// Certificates, keys and `ca` files, of listeners and of upstreams.
    certificates: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Option<FileStamp>>,
}

/// The tenants directory of a load.
struct TenantsDirectory {
    path: PathBuf,
    /// Set if the files could be listed. An unreadable directory is different from an empty one.
    is_readable: bool,
}

/// Loaded files other than the main file and the tenants files.
struct SharedFiles {
    scripts: DirectoryReading,
    certificates: certificates::CertificateLoad,
    trust: trust::TrustLoad,
}

/// A tenants file, script, certificate or key whose version on disk is not active.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BrokenFile {
    pub file: PathBuf,
    pub errors: Diagnostics,
}

/// Result of an accepted load.
#[derive(Debug)]
pub(super) struct LoadOutcome {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) warnings: Diagnostics,
    pub(super) broken: Vec<BrokenFile>,
    pub(super) restart_needed: Vec<&'static str>,
    /// Set if the configuration, or the set of broken files, differs from the previous load.
    pub(super) is_different: bool,
}

impl ConfigLoader {
    pub(super) fn new(main: &Path, broken_tenants: BrokenTenants, metrics: Arc<GatewayMetrics>) -> Self {
        ConfigLoader {
            main_path: Arc::from(main),
            main_text: None,
            broken_tenants,
            secrets: SecretsPresence::Required,
            tokens: Arc::default(),
            metrics,
            live: None,
            seen: SeenFiles::default(),
            is_overtaken: false,
        }
    }

    /// The tokens of the admin listener, set by the first load.
    pub(super) fn admin_tokens(&self) -> &Arc<AdminTokens> {
        &self.tokens
    }

    /// Reads changed files and builds the next snapshot. An error leaves the configuration active.
    pub(super) fn load(&mut self) -> Result<LoadOutcome, Diagnostics> {
        let result = self.try_load(None);
        result.map_err(|found| self.with_source_lines(found))
    }

    /// Loads as [`ConfigLoader::load`] does, from finished files only. Returns `None` and changes
    /// nothing if a file was written while it was read.
    pub(super) fn load_finished(&mut self, finished: &FinishedStates) -> Option<Result<LoadOutcome, Diagnostics>> {
        let before = std::mem::take(&mut self.seen);
        self.is_overtaken = false;
        let result = self.try_load(Some(finished));
        if self.is_overtaken || (result.is_err() && !self.is_finished(finished)) {
            self.seen = before;
            return None;
        }
        Some(result.map_err(|found| self.with_source_lines(found)))
    }

    /// Checks that no file has changed since it was read, and that every writer has finished.
    fn is_finished(&self, finished: &FinishedStates) -> bool {
        self.seen.stamps.iter().all(|(path, read)| match (read, FileStamp::of(path)) {
            (None, None) => true,
            (Some(read), Some(now)) => read.is_same(&now) && (finished.contains(&now) || now.pause_left().is_zero()),
            (None, Some(_)) | (Some(_), None) => false,
        })
    }

    fn try_load(&mut self, finished: Option<&FinishedStates>) -> Result<LoadOutcome, Diagnostics> {
        self.seen = SeenFiles::default();
        #[cfg(test)]
        crate::fault::panic_next_to("reload", &self.main_path);
        let main_path = Arc::clone(&self.main_path);
        self.note_stamp(&main_path);
        self.renew_tokens(finished);
        let DecodedFile { value: main, mut found } = match &self.main_text {
            Some(text) => config::decode_main(&main_path, text),
            None => config::read_main(&main_path),
        };
        // One that changed before this is not settled, and so is read again.
        for file in &main.body_files {
            self.note_stamp(file);
        }
        self.seen.body_files.clone_from(&main.body_files);
        let tokens = self.check_tokens(&main.settings, &mut found);
        secrets::warn_open(&main, &main_path, &mut found);
        self.check_access_log(&main.settings, &mut found);
        let mut certificates = self.load_certificates(&main, &mut found);
        let mut trust = self.load_trust(&main, &mut found);
        let refused = certificates.refused.iter_mut().chain(&mut trust.refused);
        refused.for_each(|file| config::files::quote(&mut file.errors));
        let mut candidates = self.list_candidates(&main, &mut found);
        let previous = self.live.as_ref().map(|live| Arc::clone(&live.snapshot));
        let (reading, reported) = self.load_scripts(&main, &mut found);
        let mut rejected = Vec::new();
        let shared = SharedSections::compile(
            &main,
            &main_path,
            SourceFiles { scripts: &reading.scripts, reported: &reported, tls: &trust.tls },
            previous.as_deref(),
            &self.metrics,
            &mut rejected,
            &mut found,
        );
        let only = certificates.only.as_deref();
        let assembly = SnapshotAssembly {
            shared: &shared,
            previous: previous.as_deref(),
            metrics: &self.metrics,
            certificates: only,
        };
        let tolerates_broken_tenants = self.tolerates_broken_tenants();
        let (parts, warnings) =
            assembly.assemble(&main, &main_path, &found, &mut candidates, tolerates_broken_tenants)?;
        if finished.is_some_and(|finished| !self.is_finished(finished)) {
            self.is_overtaken = true;
            return Err(Diagnostics::default());
        }
        let scripts = self.revert_rejected_scripts(&main, reading, rejected);
        let shared_files = SharedFiles { scripts, certificates, trust };
        if self.live.is_none() {
            self.tokens.replace(tokens);
        }
        Ok(self.publish(Arc::new(main), shared, parts, candidates, shared_files, warnings))
    }

    /// Adds the source lines to findings, also for a main file that was given as text.
    fn quote(&self, found: &mut Diagnostics) {
        if let Some(text) = &self.main_text {
            found.quote(&self.main_path, text);
        }
        config::files::quote(found);
    }

    fn with_source_lines(&self, mut found: Diagnostics) -> Diagnostics {
        self.quote(&mut found);
        found
    }

    /// Checks for a secret that is missing on this machine and is allowed to be; adds a warning.
    fn lacks_secret(&self, file: &Located<PathBuf>, found: &mut Diagnostics) -> bool {
        self.secrets.allows_missing(file, &self.main_path, found)
    }

    /// Checks whether the other tenants files go live when one is broken.
    fn tolerates_broken_tenants(&self) -> bool {
        self.live.is_some() || self.broken_tenants == BrokenTenants::Skip
    }

    fn note_stamp(&mut self, path: &Path) -> Option<FileStamp> {
        let stamp = FileStamp::of(path);
        self.seen.stamps.insert(path.to_path_buf(), stamp);
        stamp
    }

    fn note_certificate(&mut self, path: &Path) -> Option<FileStamp> {
        self.seen.certificates.insert(path.to_path_buf());
        self.note_stamp(path)
    }

    /// Refuses a changed access log path that cannot be opened. A start opens its log itself, and
    /// `check` opens no log.
    fn check_access_log(&self, settings: &Settings, found: &mut Diagnostics) {
        let Some(file) = &settings.access_log.path else { return };
        if fs::metadata(&file.value).is_ok_and(|found| found.is_dir()) {
            let message = format!("{} is a directory: expected a file, such as access.log in it", file.value.display());
            found.push(Diagnostic::error(&self.main_path, file.at, message));
            return;
        }
        let Some(live) = &self.live else { return };
        if live.main.settings.access_log.path.as_ref() == Some(file) {
            return;
        }
        if let Err(error) = access_log::open(&file.value) {
            found.push(Diagnostic::error(&self.main_path, file.at, format!("{error}: expected a writable file")));
        }
    }

    /// Reads the scripts; also returns the scripts whose mistakes are reported as errors. At the
    /// start every mistake is an error. Later a script keeps its last good version, and only a
    /// script without one is an error of the main file that names it.
    fn load_scripts(&mut self, main: &MainFile, found: &mut Diagnostics) -> (DirectoryReading, ReportedScripts) {
        let mut reported = ReportedScripts::default();
        let Some(dir) = &main.scripts_dir else { return (DirectoryReading::default(), reported) };
        self.seen.scripts_dir = Some(dir.value.clone());
        // Stamped before they are read, so that a change during the read is detected.
        for path in scripts::list_watched_files(&dir.value) {
            self.note_stamp(&path);
        }
        let named: Vec<&str> =
            main.policies.iter().filter_map(|policy| Some(&*policy.rule.as_ref()?.script.value)).collect();
        let none = Scripts::default();
        let before = self.live.as_ref().map_or(&none, |live| &live.scripts);
        match scripts::read(&dir.value, &main.settings.limits.rules.script, before, &named) {
            Ok(mut reading) => {
                let is_start = self.live.is_none();
                for refused in reading.take_faults(|name| is_start || named.contains(&name)) {
                    reported.names.extend(refused.file.file_name().and_then(|name| name.to_str()).map(Box::from));
                    found.extend(refused.errors);
                }
                (reading, reported)
            }
            Err(error) => {
                found.push(unreadable_directory(&self.main_path, dir, &error));
                reported.is_directory = true;
                (DirectoryReading { scripts: before.clone(), refused: Vec::new() }, reported)
            }
        }
    }

    /// Replaces scripts that a policy rejected with their previous version, and counts new
    /// failures.
    fn revert_rejected_scripts(
        &self,
        main: &MainFile,
        mut reading: DirectoryReading,
        rejected: Vec<RejectedScript>,
    ) -> DirectoryReading {
        let none = Scripts::default();
        let before = self.live.as_ref().map_or(&none, |live| &live.scripts);
        for RejectedScript { script, errors } in rejected {
            reading.scripts = reading.scripts.keeping(&script, before);
            let dir = main.scripts_dir.as_ref().map(|dir| dir.value.clone()).unwrap_or_default();
            reading.refused.push(RefusedFile { file: dir.join(&*script), errors });
        }
        let before = self.live.as_ref().map_or(&[][..], |live| &live.broken);
        let is_new = |refused: &&RefusedFile| {
            !before.iter().any(|broken| broken.file == refused.file && broken.errors == refused.errors)
        };
        let failures = reading.refused.iter().filter(is_new).count();
        self.metrics.verdicts.load_failures.fetch_add(failures as u64, Relaxed);
        reading
    }

    /// Lists the files of the tenants directory and reads those that changed.
    fn list_candidates(&mut self, main: &MainFile, found: &mut Diagnostics) -> Vec<FileCandidate> {
        let Some(dir) = &main.tenants_dir else { return Vec::new() };
        let files = config::list_tenants_dir(&dir.value);
        self.seen.tenants_dir = Some(TenantsDirectory { path: dir.value.clone(), is_readable: files.is_ok() });
        let files = files.unwrap_or_else(|error| {
            found.push(unreadable_directory(&self.main_path, dir, &error));
            Vec::new()
        });
        let stamped: Vec<_> = files.into_iter().map(|path| self.stamp_file(path.into())).collect();
        // Read in parallel: a start reads all files, and parsing YAML is most of its work.
        stamped.into_par_iter().map(|(path, stamp, before)| FileCandidate::read(path, stamp, before)).collect()
    }

    fn stamp_file(&mut self, path: Arc<Path>) -> (Arc<Path>, Option<FileStamp>, Option<ServedFile>) {
        let stamp = self.note_stamp(&path);
        let before = self.live.as_ref().and_then(|live| live.files.get(&path)).cloned();
        (path, stamp, before)
    }

    fn publish(
        &mut self,
        main: Arc<MainFile>,
        shared: SharedSections,
        parts: SnapshotParts,
        candidates: Vec<FileCandidate>,
        SharedFiles { scripts, certificates, trust }: SharedFiles,
        mut warnings: Diagnostics,
    ) -> LoadOutcome {
        let started = self.live.as_ref().map_or_else(|| Arc::clone(&main.settings), |live| Arc::clone(&live.started));
        let restart_needed = restart_needed(&started, &main.settings);
        let generation = self.live.as_ref().map_or(1, |live| live.snapshot.generation + 1);
        let settings = merge_startup_settings(&started, &main.settings);
        let snapshot = Arc::new(parts.into_snapshot(
            shared,
            settings,
            certificates.terminators,
            generation,
            (Arc::clone(&main), Arc::clone(&self.main_path)),
        ));
        let mut broken: Vec<BrokenFile> = candidates.iter().filter_map(FileCandidate::broken).collect();
        broken.extend(
            scripts.refused.into_iter().map(|refused| BrokenFile { file: refused.file, errors: refused.errors }),
        );
        broken.iter_mut().for_each(|file| config::files::quote(&mut file.errors));
        broken.extend(certificates.refused);
        broken.extend(trust.refused);
        self.quote(&mut warnings);
        let at_start = self.live.is_none();
        let files = candidates.into_iter().map(|candidate| candidate.into_serving(at_start)).collect();
        let rules = main.settings.limits.rules;
        self.metrics.verdicts.set_limits(rules.cache, rules.times);
        self.metrics.set_ledger_limits(main.settings.ledger);
        let (scripts, certificates, trust) = (scripts.scripts, certificates.certificates, trust.trust);
        self.metrics.tls.note_expiries(certificates.expiries().chain(trust.expiries()).collect());
        let (refused, serving) = (broken.clone(), Arc::clone(&snapshot));
        let mut live =
            LiveConfig { main, started, files, scripts, certificates, trust, broken: refused, snapshot: serving };
        // Without a difference the caller need not activate the new snapshot, so the active one
        // stays recorded here.
        let same = self.live.as_ref().filter(|old| old.is_equivalent(&live)).map(|old| Arc::clone(&old.snapshot));
        let is_different = same.is_none();
        live.snapshot = same.unwrap_or(live.snapshot);
        self.live = Some(live);
        LoadOutcome { snapshot, warnings, broken, restart_needed, is_different }
    }

    /// Makes the snapshot of the last load the live one, even if nothing changed.
    pub(super) fn adopt(&mut self, loaded: &LoadOutcome) {
        if let Some(live) = &mut self.live {
            live.snapshot = Arc::clone(&loaded.snapshot);
        }
    }

    /// Checks whether files may differ from the last load, and whether their writers have finished.
    /// `finished` contains the states in which files were closed. Reads no file.
    pub(super) fn staleness(&self, finished: &FinishedStates) -> FileStaleness {
        let mut paths = BTreeSet::from([self.main_path.to_path_buf()]);
        paths.extend(self.seen.token_files.iter().chain(&self.seen.body_files).cloned());
        paths.extend(self.seen.certificates.iter().cloned());
        if let Some(dir) = &self.seen.scripts_dir {
            paths.extend(scripts::list_watched_files(dir));
        }
        if let Some(dir) = &self.seen.tenants_dir {
            let files = config::list_tenants_dir(&dir.path);
            if files.is_ok() != dir.is_readable {
                return FileStaleness::Stale;
            }
            paths.extend(files.unwrap_or_default());
        }
        let mut is_stale = paths.len() != self.seen.stamps.len();
        let mut wait = Duration::ZERO;
        for path in &paths {
            match (self.seen.stamps.get(path), FileStamp::of(path)) {
                (Some(Some(seen)), Some(now)) if seen.proves_unchanged(&now) => {}
                (Some(None), None) => {}
                (_, Some(now)) if !finished.contains(&now) => {
                    is_stale = true;
                    wait = wait.max(now.pause_left());
                }
                (None, _) | (Some(None), Some(_)) | (Some(Some(_)), _) => is_stale = true,
            }
        }
        match is_stale {
            false => FileStaleness::Fresh,
            true if wait.is_zero() => FileStaleness::Stale,
            true => FileStaleness::BeingWritten(wait),
        }
    }

    /// Lists every path whose change can change the result of a load.
    pub(super) fn watched_paths(&self) -> WatchedPaths {
        let mut watched_paths = WatchedPaths::default();
        watched_paths.add_file(&self.main_path);
        let files = self.seen.token_files.iter().chain(&self.seen.certificates).chain(&self.seen.body_files);
        files.for_each(|file| watched_paths.add_file(file));
        if let Some(dir) = &self.seen.scripts_dir {
            watched_paths.add_directory(dir);
            watched_paths.add_directory(&scripts::data_dir(dir));
        }
        self.seen.tenants_dir.iter().for_each(|dir| watched_paths.add_directory(&dir.path));
        watched_paths
    }
}

impl LiveConfig {
    /// Checks that both serve the same configuration and report the same broken files.
    fn is_equivalent(&self, other: &LiveConfig) -> bool {
        let same_file = |(a, b): (&ServedFile, &ServedFile)| match (&a.good, &b.good) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.file, &b.file) || a.file.tenants == b.file.tenants,
            (None, None) => a.broken_hosts == b.broken_hosts,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same_paths = self.files.keys().eq(other.files.keys());
        let same_files = same_paths && self.files.values().zip(other.files.values()).all(same_file);
        let same_scripts = self.scripts.is_same(&other.scripts);
        let same_certificates = self.certificates == other.certificates;
        let same_upstreams = self.snapshot.shares_upstreams(&other.snapshot);
        let same_shared = same_scripts && same_certificates && same_upstreams;
        same_files && same_shared && self.main == other.main && self.broken == other.broken
    }
}

fn unreadable_directory(file: &Path, dir: &Located<PathBuf>, error: &std::io::Error) -> Diagnostic {
    let message = format!("cannot read the directory {}: {error}", dir.value.display());
    Diagnostic::error(file, dir.at, message)
}

/// Requirement for keys, certificates, `ca` files and token files to exist on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretsPresence {
    /// For a machine on which the gateway runs.
    Required,
    /// For CI: a missing file is a warning. Existing files are still checked.
    Optional,
}

impl SecretsPresence {
    /// Checks for a file of `main` that is missing and is allowed to be, and adds a warning. A file
    /// without read permission counts as missing.
    fn allows_missing(self, file: &Located<PathBuf>, main: &Path, found: &mut Diagnostics) -> bool {
        let is_missing = |error: &io::Error| {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory)
        };
        let opened = match self {
            SecretsPresence::Required => return false,
            // Opening a named pipe would block.
            SecretsPresence::Optional => fs::metadata(&file.value).and_then(|meta| match meta.is_file() {
                true => File::open(&file.value).map(drop),
                false => Ok(()),
            }),
        };
        let Some(error) = opened.err().filter(is_missing) else { return false };
        let message = format!(
            "{} was not checked because it cannot be read here: {error}; the gateway needs it to start",
            file.value.display()
        );
        found.push(Diagnostic::warning(WarningCode::MissingSecret, main, file.at, message));
        true
    }
}

/// Result of loading a configuration without serving it.
#[derive(Debug)]
pub struct ConfigInspection {
    /// All errors and warnings.
    pub found: Diagnostics,
    /// The snapshot that would serve, if there are no errors.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// Loads a configuration once, without serving it or following its files. Reads the main file
/// unless `text` is given.
pub fn inspect(main: &Path, text: Option<String>, secrets: SecretsPresence) -> ConfigInspection {
    let mut loader = ConfigLoader::new(main, BrokenTenants::Refuse, GatewayMetrics::new());
    loader.secrets = secrets;
    loader.main_text = text.map(String::into_boxed_str);
    match loader.load() {
        Ok(loaded) => ConfigInspection { found: loaded.warnings, snapshot: Some(loaded.snapshot) },
        Err(found) => ConfigInspection { found, snapshot: None },
    }
}

/// Lists all errors and warnings of a configuration, as a start would find them.
pub fn check(main: &Path) -> Diagnostics {
    inspect(main, None, SecretsPresence::Required).found
}
