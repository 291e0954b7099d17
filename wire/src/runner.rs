//! Listener sockets, runtime, stop and drain: the replacement for Pingora's `Server::run`.
//!
//! Pingora retries a taken port for 30 s and then panics in a task. It sleeps its whole grace
//! period on SIGTERM even if idle, and gives no access to its sockets. Here all listeners are bound
//! before anything starts, so a taken port is an error at once, and port 0 can report its number.
//! The stop ends as soon as the last connection has. Each accepted connection is served as an
//! [`AcceptedSocket`]. Sockets may come from another process that ends (`upgrade`), and go to one.
//!
//! Absent on purpose: signals, which the command line handles, so that tests run the same code in
//! process.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use pingora::apps::ServerApp;
use pingora::server::ShutdownWatch;
use pingora_runtime::Runtime;
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::background;
use crate::metrics::{AcceptError, ConnectionCounters, PanicCounters, PanicPlace};
use crate::socket::AcceptedSocket;

/// A bound listener that is not served yet.
#[derive(Debug)]
pub struct BoundListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundListener {
    /// Binds `address`; port 0 takes a free port.
    ///
    /// # Errors
    /// Returns the operating system's error, with the address.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        // The standard library sets a much smaller backlog.
        rustix::net::listen(&listener, BACKLOG).map_err(|error| named(error.into()))?;
        let address = listener.local_addr().map_err(named)?;
        Ok(BoundListener { listener, address })
    }

    /// Takes over a socket that another process has bound.
    ///
    /// # Errors
    /// Returns the operating system's error if the descriptor is not a listening socket.
    pub fn inherited(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(BoundListener { listener, address })
    }

    /// Duplicates the socket for another process. It listens until both are closed.
    ///
    /// # Errors
    /// Returns the operating system's error if no descriptor is left.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.listener.try_clone()
    }

    /// The address with its actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket, for another kind of server.
    pub fn into_listener(self) -> TcpListener {
        self.listener
    }
}

/// Running data listeners.
pub struct RunningListeners {
    runtime: Runtime,
    accepting: watch::Sender<AcceptState>,
    stop: watch::Sender<bool>,
    connections: Arc<ConnectionCounters>,
    /// Every task that accepts or serves holds a reference.
    tasks: Arc<()>,
}

/// The connections that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptState {
    All,
    /// Connections in the backlog: their clients are connected already.
    Waiting,
    /// None: another process has the socket and its backlog.
    None,
}

/// The backlog of a listener, unless the system's own limit is lower. A storm of connections
/// arrives faster than any loop accepts.
const BACKLOG: i32 = 65_535;
/// The most accepted connections whose task has not run yet, in addition to one for each listener;
/// twice the workers if that is more. The connection limit is checked when the task starts, so
/// without this bound a storm would take all descriptors before the first refusal.
const PENDING_MAX: usize = 16;
/// The pause after the system ran out of descriptors or memory: an immediate retry would fail
/// again.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// The interval at which a drain checks for open connections.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// The time for a WebSocket at the end of a stop to exchange Close frames.
const TUNNEL_FAREWELL: Duration = Duration::from_millis(500);
/// The time that a stop waits for tasks that are past their last connection.
const RUNTIME_STOP: Duration = Duration::from_millis(200);

impl RunningListeners {
    /// Serves each bound socket with its app, on `threads` workers.
    ///
    /// # Errors
    /// Returns the operating system's error if a socket cannot be registered with the runtime.
    pub fn start<A: ServerApp + Send + Sync + 'static>(
        services: Vec<(BoundListener, A)>,
        connections: Arc<ConnectionCounters>,
        panics: Arc<PanicCounters>,
        threads: usize,
    ) -> io::Result<Self> {
        let runtime = Runtime::new_steal(threads, "crossgate");
        let (accepting, state) = watch::channel(AcceptState::All);
        let (stop, stopped) = watch::channel(false);
        let tasks = Arc::new(());
        let pending = Arc::new(Semaphore::new(PENDING_MAX.max(2 * threads)));
        let handle = runtime.get_handle().clone();
        let _entered = handle.enter();
        for (BoundListener { listener, address }, app) in services {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let accept_loop = AcceptLoop {
                address,
                app: Arc::new(app),
                connections: Arc::clone(&connections),
                panics: Arc::clone(&panics),
                task: Arc::clone(&tasks),
                pending: Arc::clone(&pending),
                stopped: stopped.clone(),
            };
            handle.spawn(accept_loop.run(listener, state.clone()));
        }
        Ok(RunningListeners { runtime, accepting, stop, connections, tasks })
    }

    /// The runtime that serves the connections.
    pub fn runtime(&self) -> &Handle {
        self.runtime.get_handle()
    }

    /// Stops accepting, closes idle connections and waits for busy ones, `grace` at most. Returns
    /// the number of connections that were left.
    pub fn stop(self, grace: Duration) -> u64 {
        self.accepting.send_replace(AcceptState::Waiting);
        self.end(grace)
    }

    /// Stops after another process has taken over the sockets. A client then has `unhurried` to
    /// send one more request on an idle connection. Its response announces the close.
    pub fn hand_over(self, unhurried: Duration, grace: Duration) -> u64 {
        self.accepting.send_replace(AcceptState::None);
        self.wait(unhurried);
        self.end(grace)
    }

    fn end(self, grace: Duration) -> u64 {
        self.stop.send_replace(true);
        self.wait(grace);
        let left = self.connections.active();
        self.connections.end_tunnels();
        self.wait_while(|running| running.connections.has_tunnels(), TUNNEL_FAREWELL);
        self.runtime.shutdown_timeout(RUNTIME_STOP);
        left
    }

    /// Waits until no connection is accepted or served, `time` at most.
    fn wait(&self, time: Duration) {
        self.wait_while(|running| Arc::strong_count(&running.tasks) > 1 || running.connections.active() > 0, time);
    }

    fn wait_while(&self, holds: impl Fn(&Self) -> bool, time: Duration) {
        let until = Instant::now() + time;
        while holds(self) && Instant::now() < until {
            std::thread::sleep(DRAIN_POLL);
        }
    }
}

/// The accept loop of one listener.
struct AcceptLoop<A> {
    address: SocketAddr,
    app: Arc<A>,
    connections: Arc<ConnectionCounters>,
    panics: Arc<PanicCounters>,
    task: Arc<()>,
    /// Every connection whose task has not run yet holds a permit.
    pending: Arc<Semaphore>,
    stopped: ShutdownWatch,
}

impl<A: ServerApp + Send + Sync + 'static> AcceptLoop<A> {
    /// Accepts connections until the state changes. Each is served by its own task.
    async fn run(self, listener: tokio::net::TcpListener, state: watch::Receiver<AcceptState>) {
        let panics = Arc::clone(&self.panics);
        background::supervise(PanicPlace::Accept, panics, || self.accept_all(&listener, state.clone())).await;
        let state = *state.borrow();
        match state {
            AcceptState::Waiting => self.accept_backlog(listener).await,
            // From here on, new connections are refused instead of left waiting, or accepted by the
            // other process.
            AcceptState::All | AcceptState::None => drop(listener),
        }
        let AcceptLoop { app, task, .. } = self;
        drop(task);
        app.cleanup().await;
    }

    /// Accepts all connections until the state changes.
    async fn accept_all(&self, listener: &tokio::net::TcpListener, mut state: watch::Receiver<AcceptState>) {
        let mut accepting = pin!(state.wait_for(|accepting| *accepting != AcceptState::All));
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut accepting => return,
                accepted = listener.accept() => accepted,
            };
            // The permit comes after the accept: a listener that waits for a connection must not
            // hold a permit that others need.
            let permit = self.acquire_permit().await;
            if let Err(AcceptError::Descriptors | AcceptError::Memory) = self.serve(accepted, permit) {
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }

    /// Accepts the backlog. At most its size, so that a flood of new connections cannot prolong the
    /// stop.
    async fn accept_backlog(&self, listener: tokio::net::TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        for _ in 0..BACKLOG {
            let permit = self.acquire_permit().await;
            let accepted = match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                accepted => accepted,
            };
            let into_tokio = |(stream, peer): (std::net::TcpStream, SocketAddr)| {
                stream.set_nonblocking(true)?;
                Ok((tokio::net::TcpStream::from_std(stream)?, peer))
            };
            if let Err(AcceptError::Descriptors | AcceptError::Memory) =
                self.serve(accepted.and_then(into_tokio), permit)
            {
                return;
            }
        }
    }

    /// Waits for a permit to serve one more connection.
    async fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.pending).acquire_owned().await.ok()
    }

    /// Serves a connection, or logs and counts why the accept failed.
    fn serve(
        &self,
        accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), AcceptError> {
        let socket = accepted.and_then(|(stream, peer)| AcceptedSocket::new(stream, peer, &self.connections)).map_err(
            |error| {
                let kind = accept_error(&error);
                self.connections.count_accept_error(kind);
                let address = self.address;
                match kind {
                    AcceptError::Descriptors | AcceptError::Memory => {
                        tracing::error!(%address, %error, "no connection can be accepted");
                    }
                    // The client disconnected before the accept.
                    AcceptError::Other => {
                        tracing::debug!(%address, %error, "an accepted connection was already closed");
                    }
                }
                kind
            },
        )?;
        let (app, stopped, task) = (Arc::clone(&self.app), self.stopped.clone(), Arc::clone(&self.task));
        tokio::spawn(async move {
            let mut served = app.process_new(Box::new(socket), &stopped);
            // By its first pause, the connection has been admitted, gets a 503 response, or is
            // closed.
            let first_poll = poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx))).await;
            drop(permit);
            if first_poll.is_pending() {
                served.await;
            }
            drop(task);
        });
        Ok(())
    }
}

/// Classifies an error of accept(2).
pub fn accept_error(error: &io::Error) -> AcceptError {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => AcceptError::Descriptors,
        Some(Errno::NOBUFS | Errno::NOMEM) => AcceptError::Memory,
        _ => AcceptError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_are_classified_by_errno() {
        for (errno, kind) in [
            (Errno::MFILE, AcceptError::Descriptors),
            (Errno::NFILE, AcceptError::Descriptors),
            (Errno::NOBUFS, AcceptError::Memory),
            (Errno::NOMEM, AcceptError::Memory),
            (Errno::CONNABORTED, AcceptError::Other),
        ] {
            assert_eq!(accept_error(&errno.into()), kind);
        }
        assert_eq!(accept_error(&io::ErrorKind::TimedOut.into()), AcceptError::Other);
    }
}
