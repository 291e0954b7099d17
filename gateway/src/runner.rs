//! Sockets, runtime, stop and drain: what Pingora's `Server::run` would do.
//!
//! That one retries a taken port for 30 s and then panics in a task, sleeps its whole grace period on
//! SIGTERM however idle it is, and hides its sockets. Here all listeners are bound before anything
//! starts, so a taken port is an error at once and port 0 can be asked for its number; the stop ends
//! as soon as the last connection has. Connections are accepted here too and served as a [`Socket`]. The
//! signals themselves belong to the command line: a test runs the same code in process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::apps::ServerApp;
use pingora::server::ShutdownWatch;
use pingora_runtime::Runtime;
use rustix::io::Errno;
use tokio::sync::watch;

use crate::metrics::Connections;
use crate::socket::Socket;

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
        // The library asks for room for far fewer.
        rustix::net::listen(&listener, BACKLOG).map_err(|error| named(error.into()))?;
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

/// Connections that wait to be accepted, unless the system's own bound is lower: a storm of them comes faster than any loop accepts.
const BACKLOG: i32 = 65_535;
/// The wait after the system was out of descriptors or memory: asked at once it would say the same.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// How often a drain looks whether the last connection has ended.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// What a stop waits for tasks that are past their last connection.
const RUNTIME_STOP: Duration = Duration::from_millis(200);

impl Running {
    /// Serves each bound socket with its app, on `threads` workers.
    ///
    /// # Errors
    /// The operating system's, where it cannot tell about new connections.
    pub fn start<A: ServerApp + Send + Sync + 'static>(
        services: Vec<(Bound, A)>,
        connections: Arc<Connections>,
        threads: usize,
    ) -> io::Result<Self> {
        let runtime = Runtime::new_steal(threads, "crossgate");
        let (stop, stopped) = watch::channel(false);
        let handle = runtime.get_handle().clone();
        let _entered = handle.enter();
        for (Bound { listener, address }, app) in services {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            handle.spawn(serve(listener, address, Arc::new(app), stopped.clone()));
        }
        Ok(Running { runtime, stop, connections })
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

/// Accepts connections until the stop, each served by a task of its own.
async fn serve<A: ServerApp + Send + Sync + 'static>(
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    app: Arc<A>,
    stopped: ShutdownWatch,
) {
    let mut told = stopped.clone();
    let stop = told.wait_for(|stop| *stop);
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, peer)| Socket::new(stream, peer)) {
            Ok(socket) => {
                let (app, stopped) = (Arc::clone(&app), stopped.clone());
                tokio::spawn(async move { app.process_new(Box::new(socket), &stopped).await });
            }
            Err(error) if is_exhausted(&error) => {
                tracing::error!(%address, %error, "no connection can be accepted");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
            // It was gone before it was accepted.
            Err(error) => tracing::debug!(%address, %error, "a connection failed at once"),
        }
    }
    // New ones are refused from here on rather than left waiting.
    drop(listener);
    app.cleanup().await;
}

/// Whether the system has nothing left for another connection.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}
