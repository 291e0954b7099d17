//! One running gateway, from its configuration to its end: what `crossgate run` does, without signals.
//!
//! Everything that can fail comes first and in this order: the configuration, the admin token, the sockets. So a gateway either
//! serves whole or binds nothing. A stop fails `/readyz` first, waits for the load balancers to see it, then lets the running
//! requests end. Tests run the same code in process, on port 0.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use serde::Serialize;

use crate::access_log::AccessLog;
use crate::admin::{self, Access, AccessError, AdminState, MetricsAccess};
use crate::config::Settings;
use crate::config::diagnostics::Diagnostics;
use crate::config::model::Admin;
use crate::descriptors::Shares;
use crate::lane::{Answers, Lane};
use crate::metrics::{Connections, Metrics};
use crate::proxy::Gateway;
use crate::reload::{BrokenTenants, Reloader};
use crate::runner::{Bound, Running};

mod control;
mod side_thread;

use self::control::ProcessControl;
use self::side_thread::SideThread;

/// What is waited for the access log at the end, and for the admin listener.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
}

/// How a gateway is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Running requests may end, within the configured time.
    Gracefully,
    /// They are cut off.
    AtOnce,
}

/// A gateway that serves.
pub struct Process {
    control: Arc<ProcessControl>,
    running: Running,
    log: Arc<AccessLog>,
    side: SideThread,
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
        let metrics = Metrics::new();
        let reloader =
            Reloader::start(&options.config, options.broken_tenants, &metrics).map_err(StartError::Config)?;
        let settings = Arc::clone(&reloader.current().latest().settings);
        let sockets = Sockets::bind(&settings)?;
        let log = Arc::new(AccessLog::start(log_out, Arc::clone(&metrics.access_log_dropped))?);
        let side = SideThread::start()?;
        let listening = sockets.listening();
        let control = Arc::new(ProcessControl::new(reloader, Arc::clone(&metrics), listening));
        if let Some((bound, access)) = sockets.admin {
            let state = AdminState { access, metrics: Arc::clone(&metrics), control: Arc::clone(&control) as Arc<_> };
            side.spawn(admin::serve(bound.into_listener(), Arc::new(state), side.stopped()));
        }
        let descriptors = Shares::now();
        let current = Arc::clone(control.reloader().current());
        let gateway = Gateway::new(
            current,
            Arc::clone(&metrics),
            Arc::clone(&log),
            settings.listeners.clone(),
            control.draining(),
            descriptors,
        );
        let threads = settings.runtime.threads.count();
        let running = serve(sockets.data, gateway, &metrics.connections, threads, options.answers, descriptors)?;
        Ok(Process { control, running, log, side })
    }

    /// Where it listens, with real ports.
    pub fn listening(&self) -> &Listening {
        self.control.listening()
    }

    /// What loads its configuration anew.
    pub fn reloader(&self) -> &Reloader {
        self.control.reloader()
    }

    /// Stops. Returns how many connections were cut off.
    pub fn stop(self, how: Stop) -> u64 {
        let shutdown = self.reloader().current().latest().settings.shutdown;
        self.control.drain();
        let grace = match how {
            Stop::Gracefully => {
                std::thread::sleep(shutdown.drain_delay);
                shutdown.grace
            }
            Stop::AtOnce => Duration::ZERO,
        };
        let began = Instant::now();
        let left = self.running.stop(grace);
        tracing::info!(left, took_ms = began.elapsed().as_millis(), "stopped");
        self.side.block_on(self.log.flush(LAST_WORDS));
        self.side.stop(LAST_WORDS);
        left
    }
}

impl Sockets {
    fn bind(settings: &Settings) -> Result<Self, StartError> {
        let access = settings.admin.as_ref().map(access).transpose()?;
        let data = settings.listeners.iter().map(|listener| Bound::new(listener.address));
        let data = data.collect::<io::Result<_>>()?;
        let admin = settings.admin.as_ref().map(|admin| Bound::new(admin.address)).transpose()?;
        Ok(Sockets { data, admin: admin.zip(access) })
    }

    fn listening(&self) -> Listening {
        let data = self.data.iter().map(Bound::address).collect();
        Listening { data, admin: self.admin.as_ref().map(|(bound, _)| bound.address()) }
    }
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
    threads: usize,
    answers: Answers,
    descriptors: Shares,
) -> io::Result<Running> {
    let backstage = Arc::new(gateway.clone());
    let conf = ServerConf { threads, upstream_keepalive_pool_size: descriptors.idle_upstream, ..ServerConf::default() };
    let mut proxy = HttpProxy::new(gateway, Arc::new(conf));
    proxy.handle_init_modules();
    let proxy = Arc::new(proxy);
    let lane =
        |listener| Lane::new(Arc::clone(&proxy), Arc::clone(&backstage), Arc::clone(connections), listener, answers);
    let services = data.into_iter().enumerate().map(|(listener, bound)| (bound, lane(listener)));
    Running::start(services.collect(), Arc::clone(connections), threads)
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;
