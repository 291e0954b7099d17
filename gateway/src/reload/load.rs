//! Loading: files to a snapshot, keeping what was good.
//!
//! The main file is all or nothing. A file of the tenants directory with a mistake keeps its last good version while the rest goes
//! live; one that clashes with another loses, since those that did not change come first. When even a last good version no longer
//! fits, the main file has changed under it, and the main file is what is refused. Threads, triggers and logs are `reload`'s. Of
//! scripts and certificates, those of upstreams too, the last good version is kept in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;

use self::certificates::Certificates;
use self::trust::Trust;
use super::stamp::Stamp;
use crate::admin;
use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::{Listener, Located, Main};
use crate::config::{self, Decoded, Settings, TenantsFile};
use crate::host::HostPattern;
use crate::metrics::Metrics;
use crate::scripts::{self, Reading, Refused, Scripts};
use crate::snapshot::{Builder, Parts, Rejected, Shared, Snapshot, Sources};
use crate::tls::Certificate;

mod certificates;
mod renewal;
mod trust;

/// What to do at the start about tenants files with mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenTenants {
    /// Do not start.
    Refuse,
    /// Start without them; their hosts answer 503 until the file is good.
    Skip,
}

/// Loads one configuration, again and again.
pub(super) struct Loader {
    main_path: Arc<Path>,
    broken_tenants: BrokenTenants,
    metrics: Arc<Metrics>,
    live: Option<Live>,
    seen: Seen,
}

/// What serves.
struct Live {
    main: Arc<Main>,
    started: Arc<Settings>,
    files: BTreeMap<Arc<Path>, Serving>,
    scripts: Scripts,
    certificates: Certificates,
    trust: Trust,
    broken: Vec<BrokenFile>,
    snapshot: Arc<Snapshot>,
}

/// What of a tenants file serves.
#[derive(Clone)]
struct Serving {
    /// Its last good version.
    good: Option<Good>,
    /// Hosts that answer 503, of a file that has been bad since the start.
    broken_hosts: Arc<[HostPattern]>,
}

#[derive(Clone)]
struct Good {
    file: Arc<TenantsFile>,
    stamp: Option<Stamp>,
}

impl Good {
    fn is_on_disk(&self, now: Option<Stamp>) -> bool {
        self.stamp.zip(now).is_some_and(|(read, now)| read.vouches_for(&now))
    }
}

/// Every file that was looked at for the last load, and what the file system said of it before.
#[derive(Default)]
struct Seen {
    tenants_dir: Option<Dir>,
    /// The admin listener's, if it could not be used.
    token_file: Option<PathBuf>,
    scripts_dir: Option<PathBuf>,
    /// Certificates and keys.
    certificates: BTreeSet<PathBuf>,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// The tenants directory of a load.
struct Dir {
    path: PathBuf,
    /// Whether its files could be listed. One that cannot be is no empty one.
    is_readable: bool,
}

/// What is beside the files with tenants.
struct Beside {
    scripts: Reading,
    certificates: certificates::Read,
    trust: trust::Read,
}

/// A tenants file, a script, a certificate or a key that is not live as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BrokenFile {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub errors: Diagnostics,
}

/// What a load led to.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) warnings: Diagnostics,
    pub(super) broken: Vec<BrokenFile>,
    pub(super) restart_needed: Vec<&'static str>,
    /// Whether this is another configuration, or other files are broken, than before.
    pub(super) is_news: bool,
}

/// A tenants file in a load: its version on disk, and the good one if that is another.
struct Candidate {
    path: Arc<Path>,
    stamp: Option<Stamp>,
    fresh: Arc<TenantsFile>,
    found: Diagnostics,
    before: Option<Serving>,
    choice: Choice,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The last good version, which is also what is on disk.
    Unchanged,
    /// What is on disk.
    Fresh,
    /// The last good version, if there is one, for want of a good one on disk.
    Fallback,
}

impl Loader {
    pub(super) fn new(main: &Path, broken_tenants: BrokenTenants, metrics: Arc<Metrics>) -> Self {
        Loader { main_path: Arc::from(main), broken_tenants, metrics, live: None, seen: Seen::default() }
    }

    /// Reads what changed, and makes the next snapshot of it. An error changes nothing.
    pub(super) fn load(&mut self) -> Result<Loaded, Diagnostics> {
        let result = self.try_load();
        result.map_err(|mut found| {
            config::files::quote(&mut found);
            found
        })
    }

    fn try_load(&mut self) -> Result<Loaded, Diagnostics> {
        self.seen = Seen::default();
        let main_path = Arc::clone(&self.main_path);
        self.note_stamp(&main_path);
        let Decoded { value: main, mut found } = config::read_main(&main_path);
        self.check_token(&main.settings, &mut found);
        let mut certificates = self.certificates(&main, &mut found);
        let mut trust = self.trust(&main, &mut found);
        let refused = certificates.refused.iter_mut().chain(&mut trust.refused);
        refused.for_each(|file| config::files::quote(&mut file.errors));
        let mut candidates = self.candidates(&main, &mut found);
        let previous = self.live.as_ref().map(|live| Arc::clone(&live.snapshot));
        let reading = self.scripts(&main, &mut found);
        let mut rejected = Vec::new();
        let shared = Shared::compile(
            &main,
            &main_path,
            Sources { scripts: &reading.scripts, tls: &trust.tls },
            previous.as_deref(),
            &self.metrics,
            &mut rejected,
            &mut found,
        );
        let only = certificates.only.as_deref();
        let assembly =
            Assembly { shared: &shared, previous: previous.as_deref(), metrics: &self.metrics, certificates: only };
        let (parts, warnings) = assembly.assemble(&main, &main_path, &found, &mut candidates, self.keeps_going())?;
        let beside = Beside { scripts: self.accept(&main, reading, rejected), certificates, trust };
        Ok(self.publish(Arc::new(main), shared, parts, candidates, beside, warnings))
    }

    /// Whether a bad tenants file leaves the others to go live.
    fn keeps_going(&self) -> bool {
        self.live.is_some() || self.broken_tenants == BrokenTenants::Skip
    }

    fn note_stamp(&mut self, path: &Path) -> Option<Stamp> {
        let stamp = Stamp::of(path);
        self.seen.stamps.insert(path.to_path_buf(), stamp);
        stamp
    }

    fn note_certificate(&mut self, path: &Path) -> Option<Stamp> {
        self.seen.certificates.insert(path.to_path_buf());
        self.note_stamp(path)
    }

    /// Refuses a token file that a start could not use. The one this process was started with has been read, and may be gone.
    fn check_token(&mut self, settings: &Settings, found: &mut Diagnostics) {
        let started = self.live.as_ref().and_then(|live| token_file(&live.started));
        let Some(file) = token_file(settings).filter(|file| Some(*file) != started) else { return };
        if let Err(error) = admin::read_token(&file.value) {
            found.push(Diagnostic::error(&self.main_path, file.at, error.to_string()));
            self.seen.token_file = Some(file.value.clone());
            self.note_stamp(&file.value);
        }
    }

    /// The scripts. What is wrong with one at the start is a mistake like any other; later its last good version stays.
    fn scripts(&mut self, main: &Main, found: &mut Diagnostics) -> Reading {
        let Some(dir) = &main.scripts_dir else { return Reading::default() };
        self.seen.scripts_dir = Some(dir.value.clone());
        // Before they are read, so that a change meanwhile shows.
        for path in scripts::watched(&dir.value) {
            self.note_stamp(&path);
        }
        let named: Vec<&str> =
            main.policies.iter().filter_map(|policy| Some(&*policy.rule.as_ref()?.script.value)).collect();
        let none = Scripts::default();
        let before = self.live.as_ref().map_or(&none, |live| &live.scripts);
        match scripts::read(&dir.value, &main.settings.limits.rules.script, before, &named) {
            Ok(reading) if self.live.is_some() => reading,
            Ok(mut reading) => {
                reading.refused.drain(..).for_each(|refused| found.extend(refused.errors));
                reading
            }
            Err(error) => {
                found.push(unreadable_dir(&self.main_path, dir, &error));
                Reading { scripts: before.clone(), refused: Vec::new() }
            }
        }
    }

    /// What serves of the scripts: of those that a policy could not take, the older version, as if they had not changed.
    fn accept(&self, main: &Main, mut reading: Reading, rejected: Vec<Rejected>) -> Reading {
        let none = Scripts::default();
        let before = self.live.as_ref().map_or(&none, |live| &live.scripts);
        for Rejected { script, errors } in rejected {
            reading.scripts = reading.scripts.keeping(&script, before);
            let dir = main.scripts_dir.as_ref().map(|dir| dir.value.clone()).unwrap_or_default();
            reading.refused.push(Refused { file: dir.join(&*script), errors });
        }
        let before = self.live.as_ref().map_or(&[][..], |live| &live.broken);
        let is_new = |refused: &&Refused| {
            !before.iter().any(|broken| broken.file == refused.file && broken.errors == refused.errors)
        };
        let failures = reading.refused.iter().filter(is_new).count();
        self.metrics.verdicts.load_failures.fetch_add(failures as u64, Relaxed);
        reading
    }

    /// The files of the tenants directory, read if they changed.
    fn candidates(&mut self, main: &Main, found: &mut Diagnostics) -> Vec<Candidate> {
        let Some(dir) = &main.tenants_dir else { return Vec::new() };
        let files = config::list_tenants_dir(&dir.value);
        self.seen.tenants_dir = Some(Dir { path: dir.value.clone(), is_readable: files.is_ok() });
        let files = files.unwrap_or_else(|error| {
            found.push(unreadable_dir(&self.main_path, dir, &error));
            Vec::new()
        });
        let looked_at: Vec<_> = files.into_iter().map(|path| self.look_at(path.into())).collect();
        // A start reads them all, and reading YAML is most of what it does.
        looked_at.into_par_iter().map(|(path, stamp, before)| Candidate::read(path, stamp, before)).collect()
    }

    fn look_at(&mut self, path: Arc<Path>) -> (Arc<Path>, Option<Stamp>, Option<Serving>) {
        let stamp = self.note_stamp(&path);
        let before = self.live.as_ref().and_then(|live| live.files.get(&path)).cloned();
        (path, stamp, before)
    }
    fn publish(
        &mut self,
        main: Arc<Main>,
        shared: Shared,
        parts: Parts,
        candidates: Vec<Candidate>,
        Beside { scripts, certificates, trust }: Beside,
        mut warnings: Diagnostics,
    ) -> Loaded {
        let started = self.live.as_ref().map_or_else(|| Arc::clone(&main.settings), |live| Arc::clone(&live.started));
        let restart_needed = restart_needed(&started, &main.settings);
        let generation = self.live.as_ref().map_or(1, |live| live.snapshot.generation + 1);
        let settings = effective(&started, &main.settings);
        let snapshot = Arc::new(parts.into_snapshot(shared, settings, certificates.terminators, generation));
        let mut broken: Vec<BrokenFile> = candidates.iter().filter_map(Candidate::broken).collect();
        broken.extend(
            scripts.refused.into_iter().map(|refused| BrokenFile { file: refused.file, errors: refused.errors }),
        );
        broken.iter_mut().for_each(|file| config::files::quote(&mut file.errors));
        broken.extend(certificates.refused);
        broken.extend(trust.refused);
        config::files::quote(&mut warnings);
        let at_start = self.live.is_none();
        let files = candidates.into_iter().map(|candidate| candidate.into_serving(at_start)).collect();
        let rules = main.settings.limits.rules;
        self.metrics.verdicts.set_limits(rules.cache, rules.times);
        self.metrics.set_ledger_limits(main.settings.ledger);
        let (scripts, certificates, trust) = (scripts.scripts, certificates.certificates, trust.trust);
        self.metrics.tls.note_expiries(certificates.expiries().chain(trust.expiries()).collect());
        let (refused, serving) = (broken.clone(), Arc::clone(&snapshot));
        let mut live = Live { main, started, files, scripts, certificates, trust, broken: refused, snapshot: serving };
        let same = self.live.take().filter(|old| old.says(&live));
        let is_news = same.is_none();
        live.snapshot = same.map_or(live.snapshot, |old| old.snapshot);
        self.live = Some(live);
        Loaded { snapshot, warnings, broken, restart_needed, is_news }
    }

    /// Puts the snapshot of the last load in force though it is no news.
    pub(super) fn adopt(&mut self, loaded: &Loaded) {
        if let Some(live) = &mut self.live {
            live.snapshot = Arc::clone(&loaded.snapshot);
        }
    }

    /// Whether a file may differ from what the last load saw. Reads none.
    pub(super) fn is_stale(&self) -> bool {
        let mut paths = BTreeSet::from([self.main_path.to_path_buf()]);
        paths.extend(self.seen.token_file.clone());
        paths.extend(self.seen.certificates.iter().cloned());
        if let Some(dir) = &self.seen.scripts_dir {
            paths.extend(scripts::watched(dir));
        }
        if let Some(dir) = &self.seen.tenants_dir {
            let files = config::list_tenants_dir(&dir.path);
            if files.is_ok() != dir.is_readable {
                return true;
            }
            paths.extend(files.unwrap_or_default());
        }
        let same = |path: &PathBuf| match (self.seen.stamps.get(path), Stamp::of(path)) {
            (Some(Some(seen)), Some(now)) => seen.vouches_for(&now),
            (Some(None), None) => true,
            (None, _) | (Some(None), Some(_)) | (Some(Some(_)), None) => false,
        };
        paths.len() != self.seen.stamps.len() || !paths.iter().all(same)
    }

    /// The directories in which changes would show.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        let parent = |path: &Path| match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            Some(_) | None => PathBuf::from("."),
        };
        let target = self.main_path.canonicalize().ok();
        let mut directories: Vec<_> = target.iter().map(|target| parent(target)).collect();
        directories.push(parent(&self.main_path));
        if let Some(dir) = &self.seen.scripts_dir {
            directories.extend([dir.clone(), scripts::data_dir(dir)].into_iter().filter(|dir| dir.is_dir()));
        }
        directories.extend(self.seen.tenants_dir.as_ref().map(|dir| dir.path.clone()));
        directories.extend(self.seen.certificates.iter().map(|file| parent(file)));
        directories
    }
}

impl Live {
    /// Whether both serve the same and have the same to complain about.
    fn says(&self, other: &Live) -> bool {
        let same_file = |(a, b): (&Serving, &Serving)| match (&a.good, &b.good) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.file, &b.file) || a.file.tenants == b.file.tenants,
            (None, None) => a.broken_hosts == b.broken_hosts,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same_paths = self.files.keys().eq(other.files.keys());
        let same_files = same_paths && self.files.values().zip(other.files.values()).all(same_file);
        let same_scripts = self.scripts.is_same(&other.scripts);
        let same_certificates = self.certificates == other.certificates;
        let same_upstreams = self.snapshot.shares_upstreams(&other.snapshot);
        let same_beside = same_scripts && same_certificates && same_upstreams;
        same_files && same_beside && self.main == other.main && self.broken == other.broken
    }
}

impl Candidate {
    /// Reads a file, unless it is the good version's own.
    fn read(path: Arc<Path>, stamp: Option<Stamp>, before: Option<Serving>) -> Self {
        let good = before.as_ref().and_then(|serving| serving.good.clone());
        if let Some(good) = good.as_ref().filter(|good| good.is_on_disk(stamp)) {
            return Candidate::unchanged(path, stamp, &good.file, before);
        }
        let Decoded { value, found } = config::read_tenants(&path);
        match good.filter(|good| found.is_empty() && good.file.tenants == value.tenants) {
            Some(good) => Candidate::unchanged(path, stamp, &good.file, before),
            None => Candidate { path, stamp, fresh: Arc::new(value), found, before, choice: Choice::Fresh },
        }
    }

    fn unchanged(path: Arc<Path>, stamp: Option<Stamp>, file: &Arc<TenantsFile>, before: Option<Serving>) -> Self {
        let fresh = Arc::clone(file);
        Candidate { path, stamp, fresh, found: Diagnostics::default(), before, choice: Choice::Unchanged }
    }

    fn good(&self) -> Option<&Good> {
        self.before.as_ref().and_then(|before| before.good.as_ref())
    }

    /// The version to offer next.
    fn offered(&self) -> Option<&Arc<TenantsFile>> {
        match self.choice {
            Choice::Unchanged | Choice::Fresh => Some(&self.fresh),
            Choice::Fallback => self.good().map(|good| &good.file),
        }
    }

    fn broken(&self) -> Option<BrokenFile> {
        let errors = self.found.clone();
        (self.choice == Choice::Fallback).then(|| BrokenFile { file: self.path.to_path_buf(), errors })
    }

    /// Hosts that answer 503: of a file that has never been good, since the start.
    fn broken_hosts(&self, at_start: bool) -> Arc<[HostPattern]> {
        match &self.before {
            _ if self.choice != Choice::Fallback || self.good().is_some() => Arc::default(),
            None if at_start => self.fresh.hosts.as_slice().into(),
            None => Arc::default(),
            Some(before) => Arc::clone(&before.broken_hosts),
        }
    }

    fn into_serving(self, at_start: bool) -> (Arc<Path>, Serving) {
        let broken_hosts = self.broken_hosts(at_start);
        let good = match self.choice {
            Choice::Unchanged | Choice::Fresh => Some(Good { file: self.fresh, stamp: self.stamp }),
            Choice::Fallback => self.before.and_then(|before| before.good),
        };
        (self.path, Serving { good, broken_hosts })
    }
}

/// What it takes to put tenants together.
struct Assembly<'a> {
    shared: &'a Shared,
    previous: Option<&'a Snapshot>,
    metrics: &'a Metrics,
    /// All certificates, where no host is reached without one.
    certificates: Option<&'a [Arc<Certificate>]>,
}

impl Assembly<'_> {
    /// All files in one snapshot, and the warnings. A file that turns out bad makes place for its last good version, with which the
    /// others may clash, so it begins again then; each time one file fewer is offered fresh.
    fn assemble(
        &self,
        main: &Main,
        main_path: &Arc<Path>,
        found: &Diagnostics,
        candidates: &mut [Candidate],
        keeps_going: bool,
    ) -> Result<(Parts, Diagnostics), Diagnostics> {
        candidates.sort_by_key(|candidate| candidate.choice != Choice::Unchanged);
        loop {
            let mut builder = Builder::new(self.shared, self.previous, self.metrics);
            let mut all = builder.add(main_path, &main.tenants, found.clone());
            let retry = offer(&mut builder, candidates, keeps_going, &mut all);
            if all.has_errors() {
                return Err(all);
            }
            if !retry {
                builder.warn_unused(main, main_path, &mut all);
                self.certificates.into_iter().for_each(|certificates| builder.warn_uncovered(certificates, &mut all));
                self.claim_broken(&mut builder, candidates);
                return Ok((builder.finish(), all));
            }
        }
    }

    fn claim_broken(&self, builder: &mut Builder<'_>, candidates: &[Candidate]) {
        for candidate in candidates {
            builder.claim_broken(&candidate.broken_hosts(self.previous.is_none()));
        }
    }
}

/// Offers every file in turn. Whether one has to make place for its last good version.
fn offer(builder: &mut Builder<'_>, candidates: &mut [Candidate], keeps_going: bool, all: &mut Diagnostics) -> bool {
    let mut retry = false;
    for candidate in candidates {
        let Some(file) = candidate.offered().map(Arc::clone) else { continue };
        let fresh = candidate.choice == Choice::Fresh;
        let found = if fresh { candidate.found.clone() } else { Diagnostics::default() };
        let found = builder.add(&candidate.path, &file.tenants, found);
        if found.has_errors() && fresh && keeps_going {
            candidate.choice = Choice::Fallback;
            candidate.found = found;
            retry |= candidate.good().is_some();
        } else {
            all.extend(found);
        }
    }
    retry
}

fn token_file(settings: &Settings) -> Option<&Located<PathBuf>> {
    settings.admin.as_ref().and_then(|admin| admin.token_file.as_ref())
}

fn unreadable_dir(file: &Path, dir: &Located<PathBuf>, error: &std::io::Error) -> Diagnostic {
    let message = format!("the directory {} cannot be read: {error}", dir.value.display());
    Diagnostic::error(file, dir.at, message)
}

/// The parts of the settings that only a restart changes.
fn restart_needed(started: &Settings, wanted: &Settings) -> Vec<&'static str> {
    let changed = [
        ("listeners", !started.listeners.iter().map(socket).eq(wanted.listeners.iter().map(socket))),
        ("admin", started.admin != wanted.admin),
        ("runtime", started.runtime != wanted.runtime),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// What of a listener is for its whole life: not its certificates.
fn socket(Listener { address, trusted_proxies, tls, proxy_protocol, http2 }: &Listener) -> impl PartialEq + '_ {
    (address, trusted_proxies, tls.is_some(), proxy_protocol, http2)
}

fn effective(started: &Arc<Settings>, wanted: &Arc<Settings>) -> Arc<Settings> {
    if restart_needed(started, wanted).is_empty() {
        return Arc::clone(wanted);
    }
    Arc::new(Settings {
        listeners: started.listeners.clone(),
        admin: started.admin.clone(),
        runtime: started.runtime,
        ..Settings::clone(wanted)
    })
}

/// Everything that is wrong or doubtful about a configuration, as a start would find it.
pub fn check(main: &Path) -> Diagnostics {
    let mut loader = Loader::new(main, BrokenTenants::Refuse, Metrics::new());
    loader.load().map_or_else(|found| found, |loaded| loaded.warnings)
}
