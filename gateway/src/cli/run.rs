//! `crossgate run`: a gateway until a signal ends it.
//!
//! SIGTERM lets running requests end; a second one, or SIGINT, does not. SIGHUP reloads the configuration. SIGUSR2 starts the
//! binary anew, which takes over.

use std::io::{self, Write};
use std::path::PathBuf;

use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::logging::{self, LogFormat};
use super::{GOOD, USAGE, WRONG};
use crate::descriptors;
use crate::lane::Answers;
use crate::process::{Options, Process, StartError, Stop};
use crate::reload::BrokenTenants;
use crate::service_manager;
use crate::upgrade::{self, Predecessor, Serving};

/// The arguments of `crossgate run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The main configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Start even if a tenants file is broken: the hosts of its tenants answer 503
    #[arg(long)]
    pub skip_broken_tenants: bool,
    /// The form of diagnostics on standard error
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Start the process that takes the sockets of the one that started this one, as SIGUSR2 makes it, and end
    #[arg(long, hide = true)]
    pub take_over: bool,
    /// Take the sockets of the process at the other end of standard input
    #[arg(long, hide = true)]
    pub succeed: bool,
}

/// Serves until a signal; gives the exit code.
pub fn run(args: RunArgs, err: &mut dyn Write) -> u8 {
    if let Err(error) = logging::init(args.log_format) {
        // With standard error gone there is nobody left to tell.
        let _told = writeln!(err, "error: {error}");
        return USAGE;
    }
    match serve(args) {
        Ok(()) => GOOD,
        Err(error) => {
            let _told = writeln!(err, "{error}");
            WRONG
        }
    }
}

fn serve(args: RunArgs) -> Result<(), StartError> {
    if args.take_over {
        return upgrade::start_successor().map_err(StartError::TakeOver);
    }
    descriptors::raise_limit();
    keep_pages_small();
    let broken_tenants = if args.skip_broken_tenants { BrokenTenants::Skip } else { BrokenTenants::Refuse };
    let options = Options { config: args.config, broken_tenants, answers: Answers::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Caught before anything else, so that none that comes early ends the process unasked.
    let mut signals = runtime.block_on(async { Signals::catch() })?;
    let process = if args.succeed { take_over(&options)? } else { Process::start(&options, io::stdout())? };
    announce(&process);
    service_manager::ready(generation(&process));
    runtime.block_on(async {
        let watchdog = tokio::spawn(service_manager::watch(process.runtime().clone()));
        let how = Errands::default().run(&mut signals, &process).await;
        watchdog.abort();
        tracing::info!(?how, "stopping");
        let stopped = stop(process, how);
        tokio::select! {
            _ = stopped => {}
            () = signals.out_of_patience(how) => tracing::warn!("stopped at once, by a second signal"),
        }
    });
    // What blocks is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// A gateway with the sockets of the process that started this one, which leaves them to it.
fn take_over(options: &Options) -> Result<Process, StartError> {
    let mut predecessor = Predecessor::from_stdin().map_err(StartError::TakeOver)?;
    let process = Process::succeed(options, io::stdout(), Some(&mut predecessor))?;
    match predecessor.relieve() {
        Ok(()) => Ok(process),
        Err(error) => {
            process.stop(Stop::Gracefully);
            let message = format!("the process that was to be relieved has ended, and so does this one: {error}");
            Err(StartError::TakeOver(io::Error::new(error.kind(), message)))
        }
    }
}

/// The allocator asks for huge pages where the system grants them; then all of a buffer is resident once a byte of it is. A request body
/// is read into 64 KiB, of which a client that trickles uses a few bytes, and there may be thousands of those.
fn keep_pages_small() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay as they are");
    }
}

/// Tests and people read these lines: with port 0, nothing else tells the real one.
fn announce(process: &Process) {
    let listening = process.listening();
    for address in &listening.data {
        tracing::info!(role = %"data", %address, "listening");
    }
    if let Some(address) = &listening.admin {
        tracing::info!(role = %"admin", %address, "listening");
    }
}

/// Stops on a thread of its own, since that waits.
fn stop(process: Process, how: Stop) -> oneshot::Receiver<()> {
    let (done, stopped) = oneshot::channel();
    std::thread::spawn(move || {
        process.stop(how);
        done.send(()).ok();
    });
    stopped
}

fn generation(process: &Process) -> u64 {
    process.reloader().current().latest().generation
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Ends with the signal that makes a stop end at once.
    async fn out_of_patience(&mut self, how: Stop) {
        match how {
            Stop::Gracefully | Stop::AtOnce => tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            },
            // The service is told to stop, and its old process does so already.
            Stop::HandedOver => drop(self.interrupt.recv().await),
        }
    }
}

/// What was begun on a signal and takes its time.
#[derive(Default)]
struct Errands {
    /// A reload that the service manager waits for.
    reload: Option<JoinHandle<()>>,
    upgrade: Option<Upgrade>,
}

/// A successor that does not serve yet.
struct Upgrade {
    waiting: JoinHandle<io::Result<Serving>>,
    cancel: Box<dyn FnOnce()>,
}

impl Errands {
    /// Does what signals ask for, until one asks for the end.
    async fn run(mut self, signals: &mut Signals, process: &Process) -> Stop {
        let how = loop {
            tokio::select! {
                _ = signals.terminate.recv() => break Stop::Gracefully,
                _ = signals.interrupt.recv() => break Stop::AtOnce,
                _ = signals.hangup.recv() => self.reload(process),
                _ = signals.upgrade.recv() => self.upgrade(process),
                _ = ended(self.reload.as_mut()) => {
                    self.reload = None;
                    service_manager::ready(generation(process));
                }
                serving = ended(self.upgrade.as_mut().map(|upgrade| &mut upgrade.waiting)) => {
                    self.upgrade = None;
                    match serving.flatten().and_then(hand_over) {
                        Ok(()) => return Stop::HandedOver,
                        Err(error) => tracing::error!(%error, "the new process does not serve; this one serves on"),
                    }
                }
            }
        };
        service_manager::stopping();
        if let Some(Upgrade { cancel, .. }) = self.upgrade {
            cancel();
        }
        how
    }

    fn reload(&mut self, process: &Process) {
        // A second request while the first is being served is for the thread that reloads: it takes many for one.
        if !service_manager::is_there() || self.reload.is_some() {
            return process.reloader().request();
        }
        service_manager::reloading();
        self.reload = Some(tokio::task::spawn_blocking(process.reload_blocking()));
    }

    fn upgrade(&mut self, process: &Process) {
        if self.upgrade.is_some() {
            return tracing::warn!("a new process is being started already");
        }
        let begun = process.start_successor().and_then(|successor| {
            let cancel = Box::new(successor.cancel()?);
            Ok(Upgrade { waiting: tokio::task::spawn_blocking(|| successor.wait()), cancel })
        });
        match begun {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(error) => tracing::error!(%error, "no new process can be started; this one serves on"),
        }
    }
}

/// The service manager hears of the new process before it hears from it: it takes no word from one that it does not know.
fn hand_over(serving: Serving) -> io::Result<()> {
    let pid = serving.pid;
    let relieved = serving.relieve()?;
    service_manager::succeeded_by(pid);
    drop(relieved);
    tracing::info!(pid, "the sockets are handed over");
    Ok(())
}

/// Ends with what was begun; never, if nothing was.
async fn ended<T>(begun: Option<&mut JoinHandle<T>>) -> io::Result<T> {
    match begun {
        Some(begun) => begun.await.map_err(io::Error::other),
        None => std::future::pending().await,
    }
}
