//! Reload: notices that files changed, loads them anew, and swaps the snapshot.
//!
//! One thread of its own does all of it, one load at a time; whoever asks meanwhile is answered by the next. It is woken by the
//! file system's events, and looks by itself several times a second, since events get lost (network file systems, replaced
//! directories) and links point elsewhere. Requests read the snapshot through an atomic pointer and never wait. A load that
//! fails changes nothing but the status, the metrics and the log; certificates that are renewed meanwhile go live all the same.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::At;
use crate::metrics::{Metrics, ReloadResult};
use crate::snapshot::CurrentSnapshot;
use crate::upkeep::Upkeep;

mod load;
mod prune;
mod stamp;
mod status;
mod watch;

#[cfg(test)]
mod tests;

pub use load::{BrokenFile, BrokenTenants, check};
pub use status::{Report, Status};

use load::{Loaded, Loader};
use watch::Watch;

/// How often files are looked at without any event.
const POLL: Duration = Duration::from_millis(250);
/// Looking takes at most one part in so many of the time, however many files there are.
const POLL_SHARE: u32 = 20;
/// Writers get this long without an event to finish what they began.
const QUIET: Duration = Duration::from_millis(30);
/// A writer that never rests is not waited for longer than this.
const QUIET_MAX: Duration = Duration::from_millis(200);

/// Keeps the snapshot up to date while it lives.
pub struct Reloader {
    current: Arc<CurrentSnapshot>,
    status: Arc<Mutex<Status>>,
    commands: Sender<Command>,
    upkeep: Option<Arc<Upkeep>>,
}

type Answer = Result<Report, Diagnostics>;

enum Command {
    /// Load now, and tell how it went if anybody wants to know.
    Reload(Option<Sender<Answer>>),
    /// The file system says that something happened.
    Stirred,
    /// End.
    Stop,
}

impl Reloader {
    /// Loads the configuration for the first time, and follows its files from then on.
    ///
    /// # Errors
    /// Every mistake in every file; those of tenants files are in the status instead if they are to be skipped.
    pub fn start(main: &Path, broken_tenants: BrokenTenants, metrics: &Arc<Metrics>) -> Result<Self, Diagnostics> {
        Self::begin(main, broken_tenants, metrics, None)
    }

    /// The same for a gateway that serves: names of upstreams are resolved, and their servers checked.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn start_tending(
        main: &Path,
        broken_tenants: BrokenTenants,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Diagnostics> {
        Self::begin(main, broken_tenants, metrics, Some(Arc::new(Upkeep::new())))
    }

    fn begin(
        main: &Path,
        broken_tenants: BrokenTenants,
        metrics: &Arc<Metrics>,
        upkeep: Option<Arc<Upkeep>>,
    ) -> Result<Self, Diagnostics> {
        let mut loader = Loader::new(main, broken_tenants, Arc::clone(metrics));
        let loaded = loader.load()?;
        let status = Arc::new(Mutex::new(Status::default()));
        let workers = loaded.snapshot.settings.runtime.threads.count();
        let current = Arc::new(CurrentSnapshot::new(&loaded.snapshot, metrics, workers));
        let (commands, inbox) = mpsc::channel();
        let metrics = Arc::clone(metrics);
        let mut keeper = Keeper { loader, current, status, metrics, refused: None, upkeep: upkeep.clone() };
        keeper.note_good(&loaded);
        let (current, status) = (Arc::clone(&keeper.current), Arc::clone(&keeper.status));
        let reloader = Reloader { current, status, commands, upkeep };
        let watch = Watch::new(reloader.commands.clone());
        // Without the thread the gateway still serves; it only never learns of changes.
        let spawned = thread::Builder::new().name("reload".to_owned()).spawn(move || keeper.run(&inbox, watch));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for reloading; changes need a restart");
        }
        Ok(reloader)
    }

    /// The snapshot in force, for those who look at it again with every request.
    pub fn current(&self) -> &Arc<CurrentSnapshot> {
        &self.current
    }

    /// Loads the configuration now; returns when it serves. Blocks.
    ///
    /// # Errors
    /// Every mistake in the main file, or that reloading has ended.
    pub fn reload_now(&self) -> Result<Report, Diagnostics> {
        let (reply, answer) = mpsc::channel();
        let sent = self.commands.send(Command::Reload(Some(reply)));
        let received = sent.ok().and_then(|()| answer.recv().ok());
        received.unwrap_or_else(|| Err(ended()))
    }

    /// Loads the configuration soon, as SIGHUP asks. Does not block.
    pub fn request(&self) {
        // Without a thread there is nothing to ask for, which the log has told.
        let _ = self.commands.send(Command::Reload(None));
    }

    /// Upstreams are tended no more, whatever is loaded from now on.
    pub(crate) fn end_upkeep(&self) {
        self.upkeep.iter().for_each(|upkeep| upkeep.end());
    }

    /// How reloading stands.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
    }
}

/// What is answered when nobody is left to reload.
fn ended() -> Diagnostics {
    let message = "reloading has ended; changes need a restart of the gateway";
    Diagnostics::from_iter([Diagnostic::error(Path::new("."), At::START, message)])
}

/// The thread's side.
struct Keeper {
    loader: Loader,
    current: Arc<CurrentSnapshot>,
    status: Arc<Mutex<Status>>,
    metrics: Arc<Metrics>,
    /// The mistakes of the last load, if it failed: they are told once.
    refused: Option<Diagnostics>,
    upkeep: Option<Arc<Upkeep>>,
}

/// What there was to do since the last round.
#[derive(Default)]
struct Batch {
    asked: bool,
    waiting: Vec<Sender<Answer>>,
    stirred: bool,
    stop: bool,
}

impl Batch {
    fn take(&mut self, command: Command) {
        match command {
            Command::Reload(reply) => {
                self.asked = true;
                self.waiting.extend(reply);
            }
            Command::Stirred => self.stirred = true,
            Command::Stop => self.stop = true,
        }
    }
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Command>, mut watch: Watch) {
        let mut pause = POLL;
        loop {
            watch.follow(self.loader.directories());
            let batch = next_batch(inbox, pause);
            if batch.stop {
                return;
            }
            if batch.asked {
                let answer = self.reload_asked();
                batch.waiting.iter().for_each(|reply| drop(reply.send(answer.clone())));
                continue;
            }
            let begun = Instant::now();
            if self.loader.is_stale() {
                self.reload_changed();
            } else {
                pause = POLL.max(begun.elapsed() * POLL_SHARE);
            }
        }
    }

    /// Somebody asked: there is a new generation even if nothing changed, so that the asker sees that it was heard.
    fn reload_asked(&mut self) -> Answer {
        match self.loader.load() {
            Ok(loaded) => {
                self.loader.adopt(&loaded);
                Ok(self.note_good(&loaded))
            }
            Err(found) => {
                self.note_bad(&found);
                self.renew();
                Err(found)
            }
        }
    }

    /// Some file changed, perhaps not in what it says.
    fn reload_changed(&mut self) {
        match self.loader.load() {
            Ok(loaded) if loaded.is_news || self.refused.is_some() => {
                self.loader.adopt(&loaded);
                self.note_good(&loaded);
            }
            Ok(_) => {}
            Err(found) => {
                if self.refused.as_ref() != Some(&found) {
                    self.note_bad(&found);
                }
                self.renew();
            }
        }
    }

    /// The configuration is refused: what serves goes on, with its certificates as they are now.
    fn renew(&mut self) {
        let Some(loaded) = self.loader.renew() else { return };
        self.loader.adopt(&loaded);
        let generation = loaded.snapshot.generation;
        self.serve(&loaded, |status| status.note_renewed(&loaded));
        self.metrics.reloads.note_renewed(generation, loaded.broken.len());
        tracing::info!(generation, "renewed certificates serve; the configuration is still refused");
        log_broken(&loaded);
    }

    /// Puts a snapshot in force. Whoever sees it sees its status too.
    fn serve<R>(&self, loaded: &Loaded, note: impl FnOnce(&mut Status) -> R) -> R {
        self.upkeep.iter().for_each(|upkeep| upkeep.tend(&loaded.snapshot));
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(&loaded.snapshot);
        note(&mut status)
    }

    fn note_good(&mut self, loaded: &Loaded) -> Report {
        self.refused = None;
        let result = if loaded.broken.is_empty() { ReloadResult::Success } else { ReloadResult::Partial };
        let now = SystemTime::now();
        let generation = loaded.snapshot.generation;
        let report = self.serve(loaded, |status| {
            status.note_good(loaded, result, now);
            status.report()
        });
        self.metrics.reloads.note(result, generation, loaded.broken.len(), now);
        prune::prune_origins(loaded.snapshot.tenants());
        log_good(loaded);
        Report { generation, warnings: loaded.warnings.clone(), ..report }
    }

    fn note_bad(&mut self, found: &Diagnostics) {
        self.refused = Some(found.clone());
        let now = SystemTime::now();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.note_bad(found, now);
        self.metrics.reloads.note(ReloadResult::Failure, status.generation, status.broken_files.len(), now);
        let errors = found.to_string();
        tracing::warn!(
            generation = status.generation,
            errors,
            "the configuration is refused; the last good one serves on"
        );
    }
}

/// Everything that there is to do, or nothing for `pause`. Events are collected until the files come to rest.
fn next_batch(inbox: &Receiver<Command>, pause: Duration) -> Batch {
    let mut batch = Batch::default();
    let begun = Instant::now();
    let mut wait = pause;
    loop {
        match inbox.recv_timeout(wait) {
            Ok(command) => batch.take(command),
            Err(RecvTimeoutError::Timeout) => return batch,
            Err(RecvTimeoutError::Disconnected) => return Batch { stop: true, ..batch },
        }
        let rest = QUIET_MAX.saturating_sub(begun.elapsed());
        wait = if batch.stirred && !batch.asked && !batch.stop { QUIET.min(rest) } else { Duration::ZERO };
    }
}

fn log_broken(loaded: &Loaded) {
    let generation = loaded.snapshot.generation;
    for BrokenFile { file, errors } in &loaded.broken {
        let (file, errors) = (file.display(), errors.to_string());
        tracing::warn!(generation, %file, errors, "this file is refused; its last good version serves on");
    }
}

fn log_good(loaded: &Loaded) {
    let generation = loaded.snapshot.generation;
    let tenants = loaded.snapshot.tenants().len();
    tracing::info!(generation, tenants, "the configuration serves");
    log_broken(loaded);
    for key in &loaded.restart_needed {
        tracing::warn!(generation, key, "this change needs a restart");
    }
    for warning in loaded.warnings.iter() {
        tracing::warn!(generation, place = %warning.place, "{}", warning.message);
    }
}
