//! One running gateway, from its configuration to its end: what `crossgate run` does, without signals.
//!
//! Everything that can fail comes first and in this order: the configuration, the admin token, the sockets. So a gateway either
//! serves whole or binds nothing. The admin listener is served last, so that whoever it answers finds everything else in place. A
//! stop fails `/readyz` first, waits for the load balancers to see it, then lets the running requests end; one that hands its
//! sockets over does not, since the address stays ready. Tests run the same code in process, on port 0.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::access_log::AccessLog;
use crate::admin::{self, Access, AccessError, AdminState, MetricsAccess};
use crate::config::Settings;
use crate::config::diagnostics::Diagnostics;
use crate::config::model::{Admin, Shutdown};
use crate::descriptors::Shares;
use crate::lane::{Answers, Lane};
use crate::metrics::{Connections, Metrics};
use crate::proxy::Gateway;
use crate::reload::{BrokenTenants, Reloader};
use crate::runner::{Bound, Running};
use crate::upgrade::{Offered, Place, Predecessor, Role, Successor};

mod control;
mod side_thread;

use self::control::ProcessControl;
use self::side_thread::SideThread;

/// What is waited for the access log at the end, and for the admin listener.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For the clients of a process that hands its sockets over to learn, with an answer, that their connection ends. Longer than most
/// pause between two requests, and nobody waits for it.
const UNHURRIED: Duration = Duration::from_secs(5);

/// How often the ledger is entered what workers have noted.
const LEDGER_TURN: Duration = Duration::from_millis(250);

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The main configuration file.
    pub config: PathBuf,
    /// What to do about tenants files with mistakes.
    pub broken_tenants: BrokenTenants,
    /// Whether preflights are answered before the proxy.
    pub answers: Answers,
}

/// Why a gateway did not start. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has mistakes.
    #[error("{0}")]
    Config(Diagnostics),
    /// The admin listener would be open to others.
    #[error("error: {0}")]
    Access(#[from] AccessError),
    /// A socket or a thread was refused.
    #[error("error: {0}; free it, or configure another")]
    System(#[from] io::Error),
    /// There is nobody whose sockets could be taken over.
    #[error("error: {0}")]
    TakeOver(io::Error),
}

/// How a gateway is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Running requests may end, within the configured time.
    Gracefully,
    /// They are cut off.
    AtOnce,
    /// They may end, while another process has the sockets and serves everybody else.
    HandedOver,
}

/// A gateway that serves.
pub struct Process {
    control: Arc<ProcessControl>,
    running: Running,
    log: Arc<AccessLog>,
    side: SideThread,
    /// Its sockets once more, for a successor.
    offered: Vec<Offered>,
}

/// Where a gateway listens.
#[derive(Clone, Debug, Serialize)]
pub struct Listening {
    /// For requests, in the order of the configuration.
    pub data: Vec<SocketAddr>,
    /// For its operators.
    pub admin: Option<SocketAddr>,
}

/// Everything that is bound before anything is served.
struct Sockets {
    data: Vec<Bound>,
    admin: Option<(Bound, Access)>,
}

impl Process {
    /// Starts a gateway that writes its access log to `log_out`.
    ///
    /// # Errors
    /// Why it cannot serve; nothing is bound then.
    pub fn start(options: &Options, log_out: impl Write + Send + 'static) -> Result<Self, StartError> {
        Self::succeed(options, log_out, None)
    }

    /// The same with as many sockets of `predecessor` as the configuration names.
    ///
    /// # Errors
    /// Why it cannot serve; nothing is bound then.
    pub fn succeed(
        options: &Options,
        log_out: impl Write + Send + 'static,
        predecessor: Option<&mut Predecessor>,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let reloader =
            Reloader::start_tending(&options.config, options.broken_tenants, &metrics).map_err(StartError::Config)?;
        let settings = Arc::clone(&reloader.current().latest().settings);
        let sockets = Sockets::bind(&settings, predecessor)?;
        let offered = sockets.offered(&settings)?;
        let log = Arc::new(AccessLog::start(log_out, Arc::clone(&metrics.access_log_dropped))?);
        let side = SideThread::start()?;
        let listening = sockets.listening();
        let control = Arc::new(ProcessControl::new(reloader, Arc::clone(&metrics), listening));
        side.tend_ledger(LEDGER_TURN, Arc::clone(&metrics));
        let descriptors = Shares::now();
        let current = Arc::clone(control.reloader().current());
        let gateway = Gateway::new(
            current,
            Arc::clone(&metrics),
            Arc::clone(&log),
            settings.listeners.clone(),
            control.is_closing(),
            descriptors,
        );
        let running = serve(sockets.data, gateway, &metrics.connections, &settings, options.answers, descriptors)?;
        if let Some((bound, access)) = sockets.admin {
            let state = AdminState { access, metrics, control: Arc::clone(&control) as Arc<_> };
            side.spawn(admin::serve(bound.into_listener(), Arc::new(state), side.stopped()));
        }
        Ok(Process { control, running, log, side, offered })
    }

    /// Where it listens, with real ports.
    pub fn listening(&self) -> &Listening {
        self.control.listening()
    }

    /// What loads its configuration anew.
    pub fn reloader(&self) -> &Reloader {
        self.control.reloader()
    }

    /// Loads the configuration anew, and returns when it serves or is refused: for a thread that may block.
    pub fn reload_blocking(&self) -> impl FnOnce() + Send + use<> {
        let control = Arc::clone(&self.control);
        // How it went is in the log and the metrics.
        move || drop(control.reloader().reload_now())
    }

    /// What runs the connections.
    pub fn runtime(&self) -> &Handle {
        self.running.runtime()
    }

    /// Starts the process that is to serve instead of this one.
    ///
    /// # Errors
    /// The operating system's, where it cannot be started.
    pub fn start_successor(&self) -> io::Result<Successor> {
        Successor::start(&self.offered)
    }

    /// Stops. Returns how many connections were cut off.
    pub fn stop(self, how: Stop) -> u64 {
        let Shutdown { drain_delay, grace } = self.reloader().current().latest().settings.shutdown;
        let mut began = Instant::now();
        let left = match how {
            Stop::Gracefully => {
                self.control.drain();
                std::thread::sleep(drain_delay);
                self.control.reloader().end_upkeep();
                began = Instant::now();
                drop(self.offered);
                self.running.stop(grace)
            }
            Stop::AtOnce => {
                self.control.drain();
                self.control.reloader().end_upkeep();
                self.running.stop(Duration::ZERO)
            }
            Stop::HandedOver => {
                // Probes are the other's to answer from here on: this one would say that it is not ready.
                self.side.end_tasks();
                self.control.close();
                self.control.reloader().end_upkeep();
                drop(self.offered);
                let unhurried = UNHURRIED.min(grace);
                self.running.hand_over(unhurried, grace.saturating_sub(unhurried))
            }
        };
        tracing::info!(left, took_ms = began.elapsed().as_millis(), "stopped");
        self.side.block_on(self.log.flush(LAST_WORDS));
        self.side.stop(LAST_WORDS);
        left
    }
}

impl Sockets {
    fn bind(settings: &Settings, mut predecessor: Option<&mut Predecessor>) -> Result<Self, StartError> {
        let access = settings.admin.as_ref().map(access).transpose()?;
        let mut bind = |place: Place| match predecessor.as_mut().and_then(|predecessor| predecessor.take(place)) {
            Some(socket) => Bound::inherited(socket),
            None => Bound::new(place.address),
        };
        let data = data_places(settings).map(&mut bind).collect::<io::Result<_>>()?;
        let admin = admin_place(settings).map(bind).transpose()?;
        Ok(Sockets { data, admin: admin.zip(access) })
    }

    /// All of them once more, by their places.
    fn offered(&self, settings: &Settings) -> io::Result<Vec<Offered>> {
        let admin = self.admin.as_ref().map(|(bound, _)| bound);
        let bound = self.data.iter().chain(admin);
        let places = data_places(settings).chain(admin_place(settings));
        places.zip(bound).map(|(place, bound)| Ok(Offered { place, socket: bound.duplicate()? })).collect()
    }

    fn listening(&self) -> Listening {
        let data = self.data.iter().map(Bound::address).collect();
        Listening { data, admin: self.admin.as_ref().map(|(bound, _)| bound.address()) }
    }
}

fn data_places(settings: &Settings) -> impl Iterator<Item = Place> + '_ {
    settings.listeners.iter().map(|listener| Place { role: Role::Data, address: listener.address })
}

fn admin_place(settings: &Settings) -> Option<Place> {
    settings.admin.as_ref().map(|admin| Place { role: Role::Admin, address: admin.address })
}

fn access(admin: &Admin) -> Result<Access, AccessError> {
    let metrics = if admin.open_metrics { MetricsAccess::Open } else { MetricsAccess::Token };
    let token_file = admin.token_file.as_ref().map(|file| file.value.as_path());
    Access::new(admin.address, token_file, metrics, admin.hosts.clone())
}

/// One proxy for all listeners: they share its connections to the upstreams.
fn serve(
    data: Vec<Bound>,
    gateway: Gateway,
    connections: &Arc<Connections>,
    settings: &Settings,
    answers: Answers,
    descriptors: Shares,
) -> io::Result<Running> {
    let threads = settings.runtime.threads.count();
    let backstage = Arc::new(gateway.clone());
    let conf = ServerConf {
        threads,
        upstream_keepalive_pool_size: descriptors.idle_upstream,
        // Every upstream brings what it is trusted by. Without this Pingora would read the system's certificates, and panic on a bad one.
        ca_file: Some("/dev/null".to_owned()),
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(gateway, Arc::new(conf));
    proxy.handle_init_modules();
    let proxy = Arc::new(proxy);
    let lane = |listener, http2| {
        Lane::new(Arc::clone(&proxy), Arc::clone(&backstage), Arc::clone(connections), listener, answers, http2)
    };
    let bound = data.into_iter().zip(&settings.listeners).enumerate();
    let services = bound.map(|(listener, (bound, configured))| (bound, lane(listener, configured.http2)));
    Running::start(services.collect(), Arc::clone(connections), threads)
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;
