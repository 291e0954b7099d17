//! Reload: detects changed files, loads them and replaces the snapshot.
//!
//! One dedicated thread does this, one load at a time. A reload requested during a load is answered
//! by the next load. File system events wake the thread. It also polls several times a second,
//! because events get lost (network file systems, replaced directories) and symbolic links change
//! their targets. A file written in place is read when its writer closes it or pauses for half a
//! second. Requests read the snapshot through an atomic pointer and never wait for a load. A failed
//! load changes only status, metrics and log, except for renewed certificates and admin tokens.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::admin::AdminTokens;
use crate::background::{self, BackgroundTask};
use crate::metrics::{PanicPlace, ReloadResult};
use crate::registry::GatewayMetrics;
use crate::snapshot::CurrentSnapshot;
use crate::upkeep::UpstreamTasks;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::Position;
use crossgate_config::warnings::WarningCode;

mod load;
mod prune;
mod stamp;
mod status;
mod watch;

#[cfg(test)]
mod tests;

pub use load::{BrokenFile, BrokenTenants, ConfigInspection, SecretsPresence, check, inspect};
pub use status::{ReloadReport, ReloadStatus};

use load::{ConfigLoader, FileStaleness, LoadOutcome};
use stamp::{FileStamp, FinishedStates};
use watch::FileWatch;

/// Interval at which files are polled when there are no events.
const POLL: Duration = Duration::from_millis(250);
/// Pause after a load that panicked, because the next load may panic too.
const PANIC_PAUSE: Duration = Duration::from_secs(1);
/// Polling uses at most one part in this many of the time, however many files there are.
const POLL_SHARE: u32 = 20;
/// Time without an event after which a burst of changes counts as finished.
const QUIET: Duration = Duration::from_millis(30);
/// Longest wait for the end of a burst of changes.
const QUIET_MAX: Duration = Duration::from_millis(200);

/// Longest time for which a file that is written without a pause and never closed delays the
/// others.
const WRITER_TIME_MAX: Duration = Duration::from_secs(60);

/// Handle of the reload thread. Dropping it ends the thread.
pub struct Reloader {
    current: Arc<CurrentSnapshot>,
    status: Arc<Mutex<ReloadStatus>>,
    commands: Sender<Command>,
    upstream_tasks: Option<Arc<UpstreamTasks>>,
    admin_tokens: Arc<AdminTokens>,
}

type Answer = Result<ReloadReport, Diagnostics>;

enum Command {
    /// Load now, and send the result if the requester waits for it.
    Reload(Option<Sender<Answer>>),
    /// A file changed. `finished` is its state if its writer closed or renamed it.
    Changed {
        finished: Option<FileStamp>,
    },
    Stop,
}

impl Reloader {
    /// Loads the configuration for the first time and follows its files from then on.
    ///
    /// # Errors
    /// Every mistake in every file. With [`BrokenTenants::Skip`], mistakes in tenants files are in
    /// the status instead.
    pub fn start(
        main: &Path,
        broken_tenants: BrokenTenants,
        metrics: &Arc<GatewayMetrics>,
    ) -> Result<Self, Diagnostics> {
        Self::start_reloading(main, broken_tenants, metrics, None)
    }

    /// Starts as [`Reloader::start`] does, for a serving gateway: also resolves the names of
    /// upstreams and checks the health of their servers.
    ///
    /// # Errors
    /// As for [`Reloader::start`].
    pub(crate) fn start_with_upstream_tasks(
        main: &Path,
        broken_tenants: BrokenTenants,
        metrics: &Arc<GatewayMetrics>,
    ) -> Result<Self, Diagnostics> {
        Self::start_reloading(main, broken_tenants, metrics, Some(Arc::new(UpstreamTasks::new(Arc::clone(metrics)))))
    }

    fn start_reloading(
        main: &Path,
        broken_tenants: BrokenTenants,
        metrics: &Arc<GatewayMetrics>,
        upstream_tasks: Option<Arc<UpstreamTasks>>,
    ) -> Result<Self, Diagnostics> {
        let mut loader = ConfigLoader::new(main, broken_tenants, Arc::clone(metrics));
        let loaded = loader.load()?;
        let admin_tokens = Arc::clone(loader.admin_tokens());
        let status = Arc::new(Mutex::new(ReloadStatus::default()));
        let workers = loaded.snapshot.settings.runtime.threads.count();
        let current = Arc::new(CurrentSnapshot::new(&loaded.snapshot, metrics, workers));
        let (commands, inbox) = mpsc::channel();
        let metrics = Arc::clone(metrics);
        let mut worker = ReloadWorker {
            loader,
            current,
            status,
            metrics: Arc::clone(&metrics),
            refused: None,
            finished: FinishedStates::default(),
            waiting_since: None,
            upstream_tasks: upstream_tasks.clone(),
        };
        worker.record_success(&loaded);
        let (current, status) = (Arc::clone(&worker.current), Arc::clone(&worker.status));
        let reloader = Reloader { current, status, commands, upstream_tasks, admin_tokens };
        let watch = FileWatch::new(reloader.commands.clone(), Arc::clone(&metrics.panics));
        // Without the thread the gateway still serves but detects no changes, so it is not ready.
        let spawned = thread::Builder::new().name("reload".to_owned()).spawn(move || worker.run(&inbox, watch));
        if let Err(error) = spawned {
            metrics.stopped.set(BackgroundTask::Reload, true);
            tracing::error!(%error, "cannot start the reload thread: restart the gateway to apply changes");
        }
        Ok(reloader)
    }

    /// The current snapshot, for callers that read it again for every request.
    pub fn current(&self) -> &Arc<CurrentSnapshot> {
        &self.current
    }

    /// The tokens of the admin listener. Each load replaces them with the contents of their files.
    pub(crate) fn admin_tokens(&self) -> &Arc<AdminTokens> {
        &self.admin_tokens
    }

    /// Loads the configuration now and returns when the new snapshot is in use. Blocks.
    ///
    /// # Errors
    /// Every mistake in the main file, or an internal error if the reload thread has ended.
    pub fn reload_now(&self) -> Result<ReloadReport, Diagnostics> {
        let (reply, answer) = mpsc::channel();
        if self.commands.send(Command::Reload(Some(reply))).is_err() {
            return Err(internal_error("the reload thread has ended: restart the gateway to apply changes"));
        }
        answer.recv().unwrap_or_else(|_| Err(internal_error(PANICKED)))
    }

    /// Requests a reload, as SIGHUP does. Does not block.
    pub fn request(&self) {
        // Sending fails only without a reload thread, and its end has been logged.
        let _ = self.commands.send(Command::Reload(None));
    }

    /// Ends name lookups and health checks for good: later loads do not start them again.
    pub(crate) fn end_upstream_tasks(&self) {
        self.upstream_tasks.iter().for_each(|upstream_tasks| upstream_tasks.end());
    }

    /// The result of the last load and summary is active now.
    pub fn status(&self) -> ReloadStatus {
        self.status.lock().clone()
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
    }
}

/// Message of a load that panicked.
const PANICKED: &str =
    "internal error while loading the configuration: see the log; the last good configuration stays active";

/// An error of the gateway itself, without a line in a file.
fn internal_error(message: &str) -> Diagnostics {
    Diagnostics::from_iter([Diagnostic::error(Path::new("."), Position::START, message)])
}

/// State of the reload thread.
struct ReloadWorker {
    loader: ConfigLoader,
    current: Arc<CurrentSnapshot>,
    status: Arc<Mutex<ReloadStatus>>,
    metrics: Arc<GatewayMetrics>,
    /// The mistakes of the last load, if it failed. The same mistakes are logged once.
    refused: Option<Diagnostics>,
    finished: FinishedStates,
    /// Start of the wait for a writer to finish its file.
    waiting_since: Option<Instant>,
    upstream_tasks: Option<Arc<UpstreamTasks>>,
}

/// The commands received since the last round.
#[derive(Default)]
struct Batch {
    is_requested: bool,
    replies: Vec<Sender<Answer>>,
    is_changed: bool,
    finished: Vec<FileStamp>,
    stop: bool,
}

impl Batch {
    fn add(&mut self, command: Command) {
        match command {
            Command::Reload(reply) => {
                self.is_requested = true;
                self.replies.extend(reply);
            }
            Command::Changed { finished } => {
                self.is_changed = true;
                self.finished.extend(finished);
            }
            Command::Stop => self.stop = true,
        }
    }
}

impl ReloadWorker {
    fn run(mut self, inbox: &Receiver<Command>, mut watch: FileWatch) {
        let mut pause = POLL;
        let mut is_followed = false;
        loop {
            if !is_followed {
                is_followed = watch.follow(self.loader.watched_paths());
            }
            let batch = collect_batch(inbox, pause);
            if batch.stop {
                return;
            }
            // A change may have moved the target of a symbolic link, so paths are resolved again.
            is_followed &= !batch.is_changed && !batch.is_requested;
            batch.finished.iter().for_each(|stamp| self.finished.add(stamp));
            let panics = Arc::clone(&self.metrics.panics);
            match background::attempt(PanicPlace::Reload, &panics, || self.round(&batch)) {
                Some(next) => pause = next,
                None => {
                    self.record_failure(&internal_error(PANICKED));
                    pause = PANIC_PAUSE;
                }
            }
        }
    }

    /// Handles one batch and returns the pause until the next poll.
    fn round(&mut self, batch: &Batch) -> Duration {
        if batch.is_requested {
            let answer = self.reload_on_request();
            batch.replies.iter().for_each(|reply| drop(reply.send(answer.clone())));
            return POLL;
        }
        let begun = Instant::now();
        self.finished.drop_old();
        let wait = match self.loader.staleness(&self.finished) {
            FileStaleness::Fresh => {
                self.waiting_since = None;
                return POLL.max(begun.elapsed() * POLL_SHARE);
            }
            FileStaleness::BeingWritten(left) => left.min(POLL),
            FileStaleness::Stale => Duration::ZERO,
        };
        let is_late = self.waiting_since.get_or_insert(begun).elapsed() > WRITER_TIME_MAX;
        let loaded = match is_late {
            true => Some(self.loader.load()),
            false if wait.is_zero() => self.loader.load_finished(&self.finished),
            false => None,
        };
        let Some(loaded) = loaded else { return wait.max(QUIET) };
        self.waiting_since = None;
        self.handle_change(loaded);
        POLL
    }

    /// Reloads on request. A success makes a new generation even without changes, so that the
    /// operator sees that the request took effect.
    fn reload_on_request(&mut self) -> Answer {
        match self.loader.load() {
            Ok(loaded) => {
                self.loader.adopt(&loaded);
                Ok(self.record_success(&loaded))
            }
            Err(found) => {
                self.record_failure(&found);
                self.renew_certificates();
                Err(found)
            }
        }
    }

    /// Handles the load of changed files. Their content may be the same as before.
    fn handle_change(&mut self, loaded: Result<LoadOutcome, Diagnostics>) {
        match loaded {
            Ok(loaded) if loaded.is_different || self.refused.is_some() => {
                self.loader.adopt(&loaded);
                self.record_success(&loaded);
            }
            Ok(same) => self.status.lock().record_unchanged(&same),
            Err(found) => {
                if self.refused.as_ref() != Some(&found) {
                    self.record_failure(&found);
                }
                self.renew_certificates();
            }
        }
    }

    /// Puts renewed certificates into use while the configuration is refused.
    fn renew_certificates(&mut self) {
        let Some(loaded) = self.loader.renew_certificates() else { return };
        self.loader.adopt(&loaded);
        let generation = loaded.snapshot.generation;
        self.activate(&loaded, |status| status.record_renewed(&loaded));
        self.metrics.reloads.record_renewal(generation, loaded.broken.len());
        tracing::info!(generation, "renewed certificates are active; the configuration is still refused");
        log_broken(&loaded);
    }

    /// Makes a snapshot current. The status lock is held, so a reader of the status that has seen
    /// the snapshot also finds its status.
    fn activate<R>(&self, loaded: &LoadOutcome, note: impl FnOnce(&mut ReloadStatus) -> R) -> R {
        self.upstream_tasks.iter().for_each(|upstream_tasks| upstream_tasks.follow_snapshot(&loaded.snapshot));
        let mut status = self.status.lock();
        self.current.store(&loaded.snapshot);
        note(&mut status)
    }

    fn record_success(&mut self, loaded: &LoadOutcome) -> ReloadReport {
        self.refused = None;
        let result = if loaded.broken.is_empty() { ReloadResult::Success } else { ReloadResult::Partial };
        let now = SystemTime::now();
        let generation = loaded.snapshot.generation;
        let report = self.activate(loaded, |status| {
            status.record_success(loaded, result, now);
            status.to_report()
        });
        self.metrics.reloads.record(result, generation, loaded.broken.len(), now);
        prune::prune_origins(loaded.snapshot.tenants());
        log_success(loaded);
        ReloadReport { generation, ..report }
    }

    fn record_failure(&mut self, found: &Diagnostics) {
        self.refused = Some(found.clone());
        let now = SystemTime::now();
        let mut status = self.status.lock();
        status.record_failure(found, now);
        self.metrics.reloads.record(ReloadResult::Failure, status.generation, status.broken_files.len(), now);
        let (generation, errors) = (status.generation, found.errors().count());
        let summary = found.one_line();
        tracing::warn!(generation, errors, "configuration refused, generation {generation} stays active: {summary}");
    }
}

/// Collects commands for up to `pause`. After a change it waits until the files stop changing.
fn collect_batch(inbox: &Receiver<Command>, pause: Duration) -> Batch {
    let mut batch = Batch::default();
    let begun = Instant::now();
    let mut wait = pause;
    loop {
        match inbox.recv_timeout(wait) {
            Ok(command) => batch.add(command),
            Err(RecvTimeoutError::Timeout) => return batch,
            Err(RecvTimeoutError::Disconnected) => return Batch { stop: true, ..batch },
        }
        let rest = QUIET_MAX.saturating_sub(begun.elapsed());
        wait = if batch.is_changed && !batch.is_requested && !batch.stop { QUIET.min(rest) } else { Duration::ZERO };
    }
}

fn log_broken(loaded: &LoadOutcome) {
    let generation = loaded.snapshot.generation;
    for BrokenFile { file, errors } in &loaded.broken {
        let (file, summary) = (file.display(), errors.one_line());
        let count = errors.errors().count();
        tracing::warn!(generation, %file, errors = count, "file refused, its last good version stays active: {summary}");
    }
}

fn log_success(loaded: &LoadOutcome) {
    let generation = loaded.snapshot.generation;
    let tenants = loaded.snapshot.tenants().len();
    tracing::info!(generation, tenants, "configuration loaded");
    log_broken(loaded);
    for key in &loaded.restart_needed {
        tracing::warn!(generation, key, "a change of this key needs a restart");
    }
    for warning in loaded.warnings.iter() {
        let code = warning.code.map(WarningCode::as_str);
        tracing::warn!(generation, code, place = %warning.place, "{}", warning.message);
    }
}
