//! One running gateway, from its configuration to its end: `crossgate run` without its signals.
//!
//! Everything that can fail comes first, in this order: configuration, admin token, sockets. A
//! gateway therefore serves completely or binds nothing. The admin listener starts last, so that
//! everything else runs when it answers. A stop fails `/readyz` first, waits until load balancers
//! have seen it, then drains the running requests. A hand-over of sockets keeps `/readyz`, since
//! the address stays ready. Tests run the same code in process, on port 0.

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
use crate::admin::{self, AdminAccess, AdminState, AdminTokens, MetricsAccess, NoToken};
use crate::descriptors::DescriptorShares;
use crate::proxy::Gateway;
use crate::registry::GatewayMetrics;
use crate::reload::{BrokenTenants, Reloader};
use crate::settings;
use crate::upgrade::{OfferedSocket, Predecessor, SocketKey, SocketRole, Successor};
use crossgate_config::Settings;
use crossgate_config::diagnostics::Diagnostics;
use crossgate_config::model::{Admin, Shutdown};
use crossgate_wire::exchange::RequestEngine;
use crossgate_wire::lane::Lane;
use crossgate_wire::runner::{BoundListener, RunningListeners};

mod control;
mod side_thread;

use self::control::ProcessControl;
use self::side_thread::SideThread;

/// The maximum wait at the end for the access log, and then for the admin listener.
const FINAL_WAIT: Duration = Duration::from_secs(2);
/// The time in which clients of a process that handed its sockets over get `connection: close` with
/// an answer. It is longer than most pauses between two requests, and delays nothing: the new
/// process serves already.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The interval at which the counts of workers are entered in the ledger.
const LEDGER_TURN: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct ProcessOptions {
    pub config: PathBuf,
    /// The treatment of tenants files with mistakes.
    pub broken_tenants: BrokenTenants,
    /// Which code serves requests.
    pub engine: RequestEngine,
}

/// The reason why a gateway did not start. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(Diagnostics),
    /// The admin listener would be open without a token.
    #[error("error: {0}")]
    Access(#[from] NoToken),
    /// The operating system refused a socket or a thread.
    #[error("error: {0}")]
    System(#[from] io::Error),
    /// No predecessor offers its sockets.
    #[error("error: {0}")]
    TakeOver(io::Error),
}

/// The way in which a gateway is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Drains running requests within the configured time.
    Gracefully,
    /// Cuts running requests off.
    AtOnce,
    /// Drains running requests while another process serves the sockets.
    HandedOver,
}

/// A gateway that serves.
pub struct GatewayProcess {
    control: Arc<ProcessControl>,
    running: RunningListeners,
    log: Arc<AccessLog>,
    side: SideThread,
    /// Duplicates of the sockets, for a successor.
    offered: Vec<OfferedSocket>,
}

/// The addresses of a gateway's listeners.
#[derive(Clone, Debug, Serialize)]
pub struct ListenAddresses {
    /// The listeners for requests, in the order of the configuration.
    pub data: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// All sockets, bound before anything is served.
struct BoundSockets {
    data: Vec<BoundListener>,
    admin: Option<(BoundListener, AdminAccess)>,
}

impl GatewayProcess {
    /// Starts a gateway that writes its access log to `log_out`.
    ///
    /// # Errors
    /// The reason why it cannot serve; nothing is bound then.
    pub fn start(options: &ProcessOptions, log_out: impl Write + Send + 'static) -> Result<Self, StartError> {
        Self::succeed(options, log_out, None)
    }

    /// Starts a gateway with the sockets of `predecessor` that the configuration names.
    ///
    /// # Errors
    /// The reason why it cannot serve; nothing is bound then.
    pub fn succeed(
        options: &ProcessOptions,
        log_out: impl Write + Send + 'static,
        predecessor: Option<&mut Predecessor>,
    ) -> Result<Self, StartError> {
        let metrics = GatewayMetrics::new();
        let reloader = Reloader::start_with_upstream_tasks(&options.config, options.broken_tenants, &metrics)
            .map_err(StartError::Config)?;
        let settings = Arc::clone(&reloader.current().latest().settings);
        let sockets = BoundSockets::bind(&settings, reloader.admin_tokens(), predecessor)?;
        let offered = sockets.offered(&settings)?;
        let current = Arc::clone(reloader.current());
        let destination = move || settings::log_destination(&current.latest().settings.access_log);
        let (dropped, panics) = (Arc::clone(&metrics.access_log_dropped), Arc::clone(&metrics.panics));
        let workers = settings.runtime.threads.count();
        let log = Arc::new(AccessLog::start(log_out, destination, workers, dropped, panics)?);
        let side = SideThread::start()?;
        let listening = sockets.listening();
        let control = Arc::new(ProcessControl::new(reloader, Arc::clone(&metrics), listening));
        side.tend_ledger(LEDGER_TURN, Arc::clone(&metrics));
        let descriptors = DescriptorShares::from_current_limit();
        let current = Arc::clone(control.reloader().current());
        let gateway = Gateway::new(
            current,
            Arc::clone(&metrics),
            Arc::clone(&log),
            settings.listeners.clone(),
            control.is_closing(),
            descriptors,
        )
        .with_admin_address(control.listening().admin);
        let running = serve(sockets.data, gateway, &metrics, &settings, options.engine, descriptors)?;
        if let Some((bound, access)) = sockets.admin {
            let state = AdminState { access, metrics, control: Arc::clone(&control) as Arc<_> };
            side.spawn(admin::serve(side.listener(bound.into_listener())?, Arc::new(state), side.stopped()));
        }
        Ok(GatewayProcess { control, running, log, side, offered })
    }

    /// The addresses of the listeners, with the actual ports.
    pub fn listening(&self) -> &ListenAddresses {
        self.control.listening()
    }

    pub fn reloader(&self) -> &Reloader {
        self.control.reloader()
    }

    /// Returns a function that reloads the configuration and blocks until the reload has succeeded
    /// or failed.
    pub fn reload_blocking(&self) -> impl FnOnce() + Send + use<> {
        let control = Arc::clone(&self.control);
        // The log and the metrics contain the result.
        move || drop(control.reloader().reload_now())
    }

    /// Returns a function that reopens the access log's file. It works while the process stops,
    /// too.
    pub fn log_reopener(&self) -> impl Fn() + use<> {
        let log = Arc::clone(&self.log);
        move || log.reopen()
    }

    /// The runtime of client connections.
    pub fn runtime(&self) -> &Handle {
        self.running.runtime()
    }

    /// Starts the process that replaces this one.
    ///
    /// # Errors
    /// The operating system's error, if the process cannot be started.
    pub fn start_successor(&self) -> io::Result<Successor> {
        Successor::start(&self.offered)
    }

    /// Stops the gateway. Returns the number of connections that were cut off.
    pub fn stop(self, how: StopMode) -> u64 {
        let Shutdown { drain_delay, grace } = self.reloader().current().latest().settings.shutdown;
        let mut began = Instant::now();
        let left = match how {
            StopMode::Gracefully => {
                self.control.drain();
                std::thread::sleep(drain_delay);
                self.control.reloader().end_upstream_tasks();
                began = Instant::now();
                drop(self.offered);
                self.running.stop(grace)
            }
            StopMode::AtOnce => {
                self.control.drain();
                self.control.reloader().end_upstream_tasks();
                self.running.stop(Duration::ZERO)
            }
            StopMode::HandedOver => {
                // The new process answers readiness probes from now on: this one would answer that
                // it is not ready.
                self.side.end_tasks();
                self.control.close();
                self.control.reloader().end_upstream_tasks();
                drop(self.offered);
                let close_wait = CLOSE_WAIT.min(grace);
                self.running.hand_over(close_wait, grace.saturating_sub(close_wait))
            }
        };
        tracing::info!(left, took_ms = began.elapsed().as_millis(), "stopped");
        self.side.block_on(self.log.flush(FINAL_WAIT));
        self.side.stop(FINAL_WAIT);
        left
    }
}

impl BoundSockets {
    fn bind(
        settings: &Settings,
        tokens: &Arc<AdminTokens>,
        mut predecessor: Option<&mut Predecessor>,
    ) -> Result<Self, StartError> {
        let access = settings.admin.as_ref().map(|admin| access(admin, tokens)).transpose()?;
        let mut bind = |key: SocketKey| match predecessor.as_mut().and_then(|predecessor| predecessor.take(key)) {
            Some(socket) => BoundListener::inherited(socket),
            None => BoundListener::new(key.address),
        };
        let data = data_keys(settings).map(&mut bind).collect::<io::Result<_>>()?;
        let admin = admin_key(settings).map(bind).transpose()?;
        Ok(BoundSockets { data, admin: admin.zip(access) })
    }

    /// Duplicates of all sockets, with their keys.
    fn offered(&self, settings: &Settings) -> io::Result<Vec<OfferedSocket>> {
        let admin = self.admin.as_ref().map(|(bound, _)| bound);
        let bound = self.data.iter().chain(admin);
        let keys = data_keys(settings).chain(admin_key(settings));
        keys.zip(bound).map(|(key, bound)| Ok(OfferedSocket { key, socket: bound.duplicate()? })).collect()
    }

    fn listening(&self) -> ListenAddresses {
        let data = self.data.iter().map(BoundListener::address).collect();
        ListenAddresses { data, admin: self.admin.as_ref().map(|(bound, _)| bound.address()) }
    }
}

fn data_keys(settings: &Settings) -> impl Iterator<Item = SocketKey> + '_ {
    settings.listeners.iter().map(|listener| SocketKey { role: SocketRole::Data, address: listener.address })
}

fn admin_key(settings: &Settings) -> Option<SocketKey> {
    settings.admin.as_ref().map(|admin| SocketKey { role: SocketRole::Admin, address: admin.address })
}

fn access(admin: &Admin, tokens: &Arc<AdminTokens>) -> Result<AdminAccess, NoToken> {
    let metrics = if admin.open_metrics { MetricsAccess::Open } else { MetricsAccess::Token };
    AdminAccess::new(admin.address, Arc::clone(tokens), metrics, admin.hosts.clone())
}

/// Serves all listeners with one proxy, so that they share its upstream connections.
fn serve(
    data: Vec<BoundListener>,
    gateway: Gateway,
    metrics: &GatewayMetrics,
    settings: &Settings,
    engine: RequestEngine,
    descriptors: DescriptorShares,
) -> io::Result<RunningListeners> {
    let (threads, connections) = (settings.runtime.threads.count(), &metrics.connections);
    let lane_host = Arc::new(gateway.clone());
    let conf = ServerConf {
        threads,
        upstream_keepalive_pool_size: descriptors.idle_upstream,
        // Every upstream has its own trust anchors. Without this file, Pingora would load the
        // system's certificates and panic on an invalid one.
        ca_file: Some("/dev/null".to_owned()),
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(gateway, Arc::new(conf));
    proxy.handle_init_modules();
    let proxy = Arc::new(proxy);
    let lane = |listener, http2| {
        Lane::new(Arc::clone(&proxy), Arc::clone(&lane_host), Arc::clone(connections), listener, engine, http2)
    };
    let bound = data.into_iter().zip(&settings.listeners).enumerate();
    let services =
        bound.map(|(listener, (bound, configured))| (bound, lane(listener, settings::http2(configured.http2))));
    RunningListeners::start(services.collect(), Arc::clone(connections), Arc::clone(&metrics.panics), threads)
}

#[cfg(test)]
mod tests;
