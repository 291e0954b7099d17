//! Sockets, runtime, stop and drain: what Pingora's `Server::run` would do.
//!
//! That one retries a taken port for 30 s and then panics in a task, sleeps its whole grace period on
//! SIGTERM however idle it is, and hides its sockets. Here all listeners are bound before anything
//! starts, so a taken port is an error at once and port 0 can be asked for its number; the stop ends
//! as soon as the last connection has. The signals themselves belong to the command line: a test
//! runs the same code in process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use pingora_runtime::Runtime;
use tokio::sync::watch;

use crate::metrics::Connections;

/// A listener that is bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The operating system's, with the address named.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Bound { listener, address })
    }

    /// The address with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket, for a server of another kind.
    pub fn into_listener(self) -> TcpListener {
        self.listener
    }
}

/// Running data listeners.
pub struct Running {
    runtime: Runtime,
    stop: watch::Sender<bool>,
    connections: Arc<Connections>,
}

/// Small writes are collected up to this; a whole answer without a body fits. Reads are not buffered, since whoever reads brings a
/// buffer of its own.
const WRITE_BUFFER_LEN: usize = 1460;
/// How often a drain looks whether the last connection has ended.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// What a stop waits for tasks that are past their last connection.
const RUNTIME_STOP: Duration = Duration::from_millis(200);

impl Running {
    /// Serves each bound socket with its app, on `threads` workers.
    pub fn start<A: ServerApp + Send + Sync + 'static>(
        services: Vec<(Bound, A)>,
        connections: Arc<Connections>,
        threads: usize,
    ) -> Self {
        let runtime = Runtime::new_steal(threads, "crossgate");
        let (stop, stopped) = watch::channel(false);
        for (bound, app) in services {
            let name = bound.address.to_string();
            let mut service = Service::new(name.clone(), app);
            service.add_listener(ListenerConfig::tcp(&name).l4_buffer(L4BufferSettings::new(0, WRITE_BUFFER_LEN)));
            let fds = listen_fds(name, bound.listener);
            let stopped = stopped.clone();
            runtime.get_handle().spawn(async move {
                service.start_service(Some(fds), stopped, 1).await;
            });
        }
        Running { runtime, stop, connections }
    }

    /// Stops accepting, lets idle connections go and waits for busy ones, `grace` at most. Returns
    /// how many connections were left.
    pub fn stop(self, grace: Duration) -> u64 {
        self.stop.send_replace(true);
        let until = Instant::now() + grace;
        while self.connections.active() > 0 && Instant::now() < until {
            std::thread::sleep(DRAIN_POLL);
        }
        let left = self.connections.active();
        self.runtime.shutdown_timeout(RUNTIME_STOP);
        left
    }
}

/// Pingora takes the socket over by its number and listens on it anew with its own backlog.
fn listen_fds(name: String, listener: TcpListener) -> ListenFds {
    let mut fds = Fds::new();
    debug_assert!(listener.as_raw_fd() >= 0);
    fds.add(name, listener.into_raw_fd());
    Arc::new(Mutex::new(fds))
}
