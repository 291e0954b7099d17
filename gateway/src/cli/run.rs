//! `crossgate run`: a gateway until a signal ends it.
//!
//! SIGTERM lets running requests end; a second one, or SIGINT, does not. SIGHUP reloads the configuration.

use std::io::{self, Write};
use std::path::PathBuf;

use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::logging::{self, LogFormat};
use super::{GOOD, USAGE, WRONG};
use crate::descriptors;
use crate::lane::Answers;
use crate::process::{Options, Process, StartError, Stop};
use crate::reload::BrokenTenants;

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
    descriptors::raise_limit();
    keep_pages_small();
    let broken_tenants = if args.skip_broken_tenants { BrokenTenants::Skip } else { BrokenTenants::Refuse };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Caught before anything else, so that none that comes early ends the process unasked.
    let mut signals = runtime.block_on(async { Signals::catch() })?;
    let process =
        Process::start(&Options { config: args.config, broken_tenants, answers: Answers::default() }, io::stdout())?;
    announce(&process);
    runtime.block_on(async {
        let how = signals.until_stop(&process).await;
        tracing::info!(?how, "stopping");
        let stopped = stop(process, how);
        tokio::select! {
            _ = stopped => {}
            _ = signals.next_stop() => tracing::warn!("stopped at once, by a second signal"),
        }
    });
    Ok(())
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

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn until_stop(&mut self, process: &Process) -> Stop {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Stop::Gracefully,
                _ = self.interrupt.recv() => return Stop::AtOnce,
                _ = self.hangup.recv() => process.reloader().request(),
            }
        }
    }

    async fn next_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
