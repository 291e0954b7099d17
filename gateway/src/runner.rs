//! Sockets, runtime, stop and drain: what Pingora's `Server::run` would do.
//!
//! That one retries a taken port for 30 s and then panics in a task, sleeps its whole grace period on
//! SIGTERM however idle it is, and hides its sockets. Here all listeners are bound before anything
//! starts, so a taken port is an error at once and port 0 can be asked for its number; the stop ends
//! as soon as the last connection has. Connections are accepted here too and served as a [`Socket`]. Sockets may also come from
//! another process that ends (`upgrade`), and go to one. The signals themselves belong to the command line: a test runs the
//! same code in process.

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

use crate::metrics::{AcceptError, Connections};
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

    /// A socket that another process has bound.
    ///
    /// # Errors
    /// The operating system's, where it is none.
    pub fn inherited(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }

    /// The same socket again, for another process. It listens until both are closed.
    ///
    /// # Errors
    /// The operating system's, where there is no descriptor left.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.listener.try_clone()
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
    accepting: watch::Sender<Accepting>,
    stop: watch::Sender<bool>,
    connections: Arc<Connections>,
    /// Every task that accepts or serves holds one more.
    tasks: Arc<()>,
}

/// Which connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// All.
    All,
    /// Those that wait already: they took the gateway's word that it listens.
    Waiting,
    /// None: another process has the socket, and all that wait.
    None,
}

/// Connections that wait to be accepted, unless the system's own bound is lower: a storm of them comes faster than any loop accepts.
const BACKLOG: i32 = 65_535;
/// Connections that are accepted and not yet looked at, beside one for each listener; twice the workers, where that is more. Whether there is
/// room for one is seen when its task begins, so without a bound a storm would take all descriptors before the first is turned away.
const UNSEEN_MAX: usize = 16;
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
        let (accepting, told) = watch::channel(Accepting::All);
        let (stop, stopped) = watch::channel(false);
        let tasks = Arc::new(());
        let unseen = Arc::new(Semaphore::new(UNSEEN_MAX.max(2 * threads)));
        let handle = runtime.get_handle().clone();
        let _entered = handle.enter();
        for (Bound { listener, address }, app) in services {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let door = Door {
                address,
                app: Arc::new(app),
                connections: Arc::clone(&connections),
                task: Arc::clone(&tasks),
                unseen: Arc::clone(&unseen),
                stopped: stopped.clone(),
            };
            handle.spawn(door.keep(listener, told.clone()));
        }
        Ok(Running { runtime, accepting, stop, connections, tasks })
    }

    /// Where its connections are served.
    pub fn runtime(&self) -> &Handle {
        self.runtime.get_handle()
    }

    /// Stops accepting, lets idle connections go and waits for busy ones, `grace` at most. Returns
    /// how many connections were left.
    pub fn stop(self, grace: Duration) -> u64 {
        self.accepting.send_replace(Accepting::Waiting);
        self.end(grace)
    }

    /// The same where another process accepts from now on, so that nothing hurries: a client has `unhurried` to send one more
    /// request on an idle connection, and to be told with its answer that it was the last.
    pub fn hand_over(self, unhurried: Duration, grace: Duration) -> u64 {
        self.accepting.send_replace(Accepting::None);
        self.wait(unhurried);
        self.end(grace)
    }

    fn end(self, grace: Duration) -> u64 {
        self.stop.send_replace(true);
        self.wait(grace);
        let left = self.connections.active();
        self.runtime.shutdown_timeout(RUNTIME_STOP);
        left
    }

    /// Waits until nothing is accepted or served any more, `time` at most.
    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        while (Arc::strong_count(&self.tasks) > 1 || self.connections.active() > 0) && Instant::now() < until {
            std::thread::sleep(DRAIN_POLL);
        }
    }
}

/// What accepts on one listener.
struct Door<A> {
    address: SocketAddr,
    app: Arc<A>,
    connections: Arc<Connections>,
    task: Arc<()>,
    /// Every connection that no task has looked at yet holds one.
    unseen: Arc<Semaphore>,
    stopped: ShutdownWatch,
}

impl<A: ServerApp + Send + Sync + 'static> Door<A> {
    /// Accepts connections until it is told not to, each served by a task of its own.
    async fn keep(self, listener: tokio::net::TcpListener, mut told: watch::Receiver<Accepting>) {
        let mut accepting = pin!(told.wait_for(|accepting| *accepting != Accepting::All));
        let told = loop {
            let accepted = tokio::select! {
                biased;
                told = &mut accepting => break told.map_or(Accepting::None, |told| *told),
                accepted = listener.accept() => accepted,
            };
            // After the accept: a listener that waits for one is not to keep others from theirs.
            let leave = self.leave().await;
            if let Err(AcceptError::Descriptors | AcceptError::Memory) = self.take(accepted, leave) {
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        };
        match told {
            Accepting::Waiting => self.take_waiting(listener).await,
            // New ones are refused from here on rather than left waiting, or go to whoever else has the socket.
            Accepting::All | Accepting::None => drop(listener),
        }
        let Door { app, task, .. } = self;
        drop(task);
        app.cleanup().await;
    }

    /// Takes those that wait. As many as may wait, so that a flood of new ones does not keep it.
    async fn take_waiting(&self, listener: tokio::net::TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        for _ in 0..BACKLOG {
            let leave = self.leave().await;
            let accepted = match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                accepted => accepted,
            };
            let ours = |(stream, peer): (std::net::TcpStream, SocketAddr)| {
                stream.set_nonblocking(true)?;
                Ok((tokio::net::TcpStream::from_std(stream)?, peer))
            };
            if let Err(AcceptError::Descriptors | AcceptError::Memory) = self.take(accepted.and_then(ours), leave) {
                return;
            }
        }
    }

    /// Leave to serve one more, given when few are unseen.
    async fn leave(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes the semaphore.
        Arc::clone(&self.unseen).acquire_owned().await.ok()
    }

    /// Serves a connection; what failed is logged and counted.
    fn take(
        &self,
        accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>,
        leave: Option<OwnedSemaphorePermit>,
    ) -> Result<(), AcceptError> {
        let socket = accepted.and_then(|(stream, peer)| Socket::new(stream, peer)).map_err(|error| {
            let kind = accept_error(&error);
            self.connections.count_accept_error(kind);
            let address = self.address;
            match kind {
                AcceptError::Descriptors | AcceptError::Memory => {
                    tracing::error!(%address, %error, "no connection can be accepted");
                }
                // It was gone before it was accepted.
                AcceptError::Other => tracing::debug!(%address, %error, "a connection failed at once"),
            }
            kind
        })?;
        let (app, stopped, task) = (Arc::clone(&self.app), self.stopped.clone(), Arc::clone(&self.task));
        tokio::spawn(async move {
            let mut served = app.process_new(Box::new(socket), &stopped);
            // It has room, is being told that there is none, or is closed.
            let seen = poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx))).await;
            drop(leave);
            if seen.is_pending() {
                served.await;
            }
            drop(task);
        });
        Ok(())
    }
}

/// What it means that a connection could not be accepted.
pub(crate) fn accept_error(error: &io::Error) -> AcceptError {
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
    fn what_runs_out_is_told_from_what_has_gone() {
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
