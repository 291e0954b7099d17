//! `crossgate run`: runs a gateway until a signal ends it.
//!
//! SIGTERM and SIGQUIT stop gracefully: running requests may finish. A second one, or SIGINT, stops
//! immediately. SIGHUP reloads the configuration, SIGUSR1 reopens the access log's file, and
//! SIGUSR2 starts the binary again, which takes over.

use std::io;
use std::time::Duration;

use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::logging::{self, LogFormat};
use super::{GOOD, MainArgs, USAGE, WRONG};
use crate::descriptors;
use crate::diagnostics_log::{DROPPED, DiagnosticsLog};
use crate::process::{GatewayProcess, ProcessOptions, StartError, StopMode};
use crate::reload::BrokenTenants;
use crate::service_manager;
use crate::upgrade::{self, Predecessor, ServingSuccessor};
use crossgate_telemetry::output::DescriptorWriter;
use crossgate_wire::exchange::RequestEngine;

/// The time limit for writing the last lines of diagnostics.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The arguments of `crossgate run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The main configuration file.
    #[command(flatten)]
    pub main: MainArgs,
    /// Start even if a tenants file is broken: the hosts of its tenants answer 503
    #[arg(long)]
    pub skip_broken_tenants: bool,
    /// The format of diagnostics on standard error
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// The level of diagnostics: error, warn, info, debug, trace or off, or module=level pairs
    /// [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Start a successor that takes over the sockets of this process's parent, then exit; used by
    /// SIGUSR2
    #[arg(long, hide = true)]
    pub take_over: bool,
    /// Take over the sockets of the process at the other end of standard input
    #[arg(long, hide = true)]
    pub succeed: bool,
}

/// Serves until a signal; returns the exit code. Only the thread of the diagnostics log writes to
/// standard error: a successor inherits a standard error that may be blocked.
pub fn run(args: RunArgs) -> u8 {
    let Ok(log) = DiagnosticsLog::start(DescriptorWriter(io::stderr()), &DROPPED) else {
        // No gateway can run if even this thread cannot start.
        return WRONG;
    };
    let log = FlushedLog(log);
    if let Err(error) = logging::init(args.log_format, args.log_level.as_deref(), log.0.clone()) {
        log.0.write(format!("error: {error}\n").into_bytes());
        return USAGE;
    }
    match serve(args) {
        Ok(()) => GOOD,
        Err(error) => {
            log.0.write(format!("{error}\n").into_bytes());
            WRONG
        }
    }
}

/// Flushes queued lines when the process ends, also by a panic.
struct FlushedLog(DiagnosticsLog);

impl Drop for FlushedLog {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

fn serve(args: RunArgs) -> Result<(), StartError> {
    if args.take_over {
        return upgrade::start_successor().map_err(StartError::TakeOver);
    }
    descriptors::raise_limit();
    disable_huge_pages();
    let broken_tenants = if args.skip_broken_tenants { BrokenTenants::Skip } else { BrokenTenants::Refuse };
    let options = ProcessOptions { config: args.main.path(), broken_tenants, engine: RequestEngine::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Installed first, because the default action of an early signal would end the process.
    let mut signals = runtime.block_on(async { ProcessSignals::catch() })?;
    let process = if args.succeed {
        take_over(&options)?
    } else {
        GatewayProcess::start(&options, DescriptorWriter(io::stdout()))?
    };
    announce(&process);
    service_manager::ready(generation(&process));
    runtime.block_on(async {
        let watchdog = tokio::spawn(service_manager::watch(process.runtime().clone()));
        let reopen_log = process.log_reopener();
        let how = SignalTasks::default().run(&mut signals, &process, &reopen_log).await;
        watchdog.abort();
        tracing::info!(?how, "stopping");
        let stopped = stop(process, how);
        tokio::select! {
            _ = stopped => {}
            () = signals.wait_for_immediate_stop(how, &reopen_log) => tracing::warn!("stopped immediately by a second signal"),
        }
    });
    // Do not wait for blocking tasks.
    runtime.shutdown_background();
    Ok(())
}

/// Starts with the predecessor's sockets, then waits until the predecessor has handed them over.
fn take_over(options: &ProcessOptions) -> Result<GatewayProcess, StartError> {
    let mut predecessor = Predecessor::from_stdin().map_err(StartError::TakeOver)?;
    let process = GatewayProcess::succeed(options, DescriptorWriter(io::stdout()), Some(&mut predecessor))?;
    match predecessor.take_over() {
        Ok(()) => Ok(process),
        Err(error) => {
            process.stop(StopMode::Gracefully);
            let message = format!("the previous process ended before the handover: {error}");
            Err(StartError::TakeOver(io::Error::new(error.kind(), message)))
        }
    }
}

/// Disables transparent huge pages, which the allocator otherwise uses: one touched byte then makes
/// a whole buffer resident. Request bodies are read into 64 KiB buffers. A client that trickles
/// uses a few bytes of one, and there may be thousands of such clients.
fn disable_huge_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot disable huge pages");
    }
}

/// Logs the listening addresses. With port 0, only these lines contain the real port.
fn announce(process: &GatewayProcess) {
    let listening = process.listening();
    for address in &listening.data {
        tracing::info!(role = %"data", %address, "listening");
    }
    if let Some(address) = &listening.admin {
        tracing::info!(role = %"admin", %address, "listening");
    }
}

/// Stops the process on a separate thread, since stopping blocks.
fn stop(process: GatewayProcess, how: StopMode) -> oneshot::Receiver<()> {
    let (done, stopped) = oneshot::channel();
    std::thread::spawn(move || {
        process.stop(how);
        done.send(()).ok();
    });
    stopped
}

fn generation(process: &GatewayProcess) -> u64 {
    process.reloader().current().latest().generation
}

struct ProcessSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl ProcessSignals {
    fn catch() -> io::Result<Self> {
        Ok(ProcessSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Returns on a signal that forces an immediate stop. Reopens the log on request, since a drain
    /// still writes it.
    async fn wait_for_immediate_stop(&mut self, how: StopMode, reopen_log: &impl Fn()) {
        // When a service manager stops the service, the old process gets the signal too, but is
        // already stopping.
        let is_handed_over = how == StopMode::HandedOver;
        loop {
            tokio::select! {
                _ = self.terminate.recv(), if !is_handed_over => return,
                _ = self.quit.recv(), if !is_handed_over => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => reopen_log(),
            }
        }
    }
}

/// Tasks that a signal started and that take time.
#[derive(Default)]
struct SignalTasks {
    /// The reload that the service manager waits for.
    reload: Option<JoinHandle<()>>,
    upgrade: Option<PendingUpgrade>,
}

/// A successor that does not serve yet.
struct PendingUpgrade {
    waiting: JoinHandle<io::Result<ServingSuccessor>>,
    cancel: Box<dyn FnOnce()>,
}

impl SignalTasks {
    /// Handles signals until one ends the process.
    async fn run(mut self, signals: &mut ProcessSignals, process: &GatewayProcess, reopen_log: &impl Fn()) -> StopMode {
        let how = loop {
            tokio::select! {
                _ = signals.terminate.recv() => break StopMode::Gracefully,
                _ = signals.quit.recv() => break StopMode::Gracefully,
                _ = signals.interrupt.recv() => break StopMode::AtOnce,
                _ = signals.hangup.recv() => self.reload(process),
                _ = signals.reopen.recv() => reopen_log(),
                _ = signals.upgrade.recv() => self.upgrade(process),
                _ = join_or_pend(self.reload.as_mut()) => {
                    self.reload = None;
                    service_manager::ready(generation(process));
                }
                serving = join_or_pend(self.upgrade.as_mut().map(|upgrade| &mut upgrade.waiting)) => {
                    self.upgrade = None;
                    match serving.flatten().and_then(hand_over) {
                        Ok(()) => return StopMode::HandedOver,
                        Err(error) => tracing::error!(%error, "the new process failed to serve; this one continues"),
                    }
                }
            }
        };
        service_manager::stopping();
        if let Some(PendingUpgrade { cancel, .. }) = self.upgrade {
            cancel();
        }
        how
    }

    fn reload(&mut self, process: &GatewayProcess) {
        // The reload thread merges further requests while one is running.
        if !service_manager::is_active() || self.reload.is_some() {
            return process.reloader().request();
        }
        service_manager::reloading();
        self.reload = Some(tokio::task::spawn_blocking(process.reload_blocking()));
    }

    fn upgrade(&mut self, process: &GatewayProcess) {
        if self.upgrade.is_some() {
            return tracing::warn!("a new process is already starting");
        }
        let started = process.start_successor().and_then(|successor| {
            let cancel = Box::new(successor.cancel()?);
            Ok(PendingUpgrade { waiting: tokio::task::spawn_blocking(|| successor.wait()), cancel })
        });
        match started {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(error) => tracing::error!(%error, "cannot start a new process; this one continues"),
        }
    }
}

/// Hands over the sockets. The service manager learns of the new process before that process
/// notifies it, since systemd ignores notifications from unknown processes.
fn hand_over(serving: ServingSuccessor) -> io::Result<()> {
    let pid = serving.pid;
    let handover_line = serving.hand_over()?;
    service_manager::succeeded_by(pid);
    drop(handover_line);
    tracing::info!(pid, "sockets handed over");
    Ok(())
}

/// Waits for a task; stays pending forever without one.
async fn join_or_pend<T>(started: Option<&mut JoinHandle<T>>) -> io::Result<T> {
    match started {
        Some(started) => started.await.map_err(io::Error::other),
        None => std::future::pending().await,
    }
}
