//! The admin listener: probes, metrics, status, explanations, and the reload on request.
//!
//! A small HTTP/1.1 server of its own, on its own address and thread, so that neither a flood on the data listeners nor
//! a drain keeps an operator out. One request a connection, read with the lane's bounded head reader; then `access`
//! says who may ask, and `endpoints` answers. Absent on purpose: request bodies, keep-alive, and any CORS header: no web
//! page has business here.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::explain::probe::Probe;
use crate::lane::head::{self, HeadLimits, NoHead};
use crate::lane::linger;
use crate::lane::waiting::Stop;
use crate::ledger::Origins;
use crate::metrics::Metrics;
use crate::runner::accept_error;

mod access;
mod answer;
mod endpoints;
mod request;
mod waiting;

pub(crate) use self::access::read_token;
pub use self::access::{Access, AccessError, MetricsAccess};

use self::answer::Answer;
use self::request::Request;
use self::waiting::{Place, Waiting};

/// Connections served at once. A handful of people and scrapers share this port; one more sheds the oldest that has not sent
/// its request.
const CONNECTIONS_MAX: usize = 256;

/// Bounds on a request head.
const HEAD_LIMITS: HeadLimits = HeadLimits {
    time: Duration::from_secs(1),
    idle: Duration::from_secs(1),
    bytes: 16 << 10,
    field_bytes: 8 << 10,
    fields: 64,
};

/// How long a client may take to read its answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// What is read of a body that nobody asked for, and for how long, so that the answer arrives.
const LINGER_BYTES: u64 = 64 << 10;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// A pause after a failed accept, such as for want of file descriptors: the next would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin listener asks of the rest of the process. All of it may block, `phase` aside.
pub trait Control: Send + Sync + 'static {
    /// Whether the process takes requests.
    fn phase(&self) -> Phase;
    /// What `/status` tells.
    fn status(&self) -> serde_json::Value;
    /// Loads the configuration anew; returns when it serves.
    ///
    /// # Errors
    /// Every mistake, if it does not.
    fn reload(&self) -> Result<serde_json::Value, serde_json::Value>;
    /// What the ledger has of the origins that were asked for; `None` if there is no such tenant.
    fn origins(&self, asked: &Origins) -> Option<serde_json::Value>;
    /// What the live path would answer, and why.
    fn explain(&self, probe: &Probe) -> serde_json::Value;
}

/// Where the process stands, for `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes requests.
    Serving,
    /// It finishes those it has.
    Draining,
}

/// What the admin listener works with.
pub struct AdminState {
    /// Who may ask.
    pub access: Access,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// The rest of the process.
    pub control: Arc<dyn Control>,
}

/// Serves until `shutdown`; what is being answered then is cut off.
///
/// # Errors
/// If the socket cannot be handed to the runtime.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, mut shutdown: ShutdownWatch) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::select! {
        () = accept(listener, state, shutdown.clone()) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<AdminState>, stop: ShutdownWatch) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let waiting = Arc::new(Waiting::default());
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let Some(slot) = free_slot(&slots, &waiting).await else { return };
                let socket = pingora::protocols::l4::stream::Stream::from(socket);
                let place = waiting.enter();
                tokio::spawn(exchange(Box::new(socket), slot, place, Arc::clone(&state), stop.clone()));
            }
            Err(error) => {
                state.metrics.connections.count_accept_error(accept_error(&error));
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A slot, for which a silent connection goes if there is no other.
async fn free_slot(slots: &Arc<Semaphore>, waiting: &Waiting) -> Option<OwnedSemaphorePermit> {
    if slots.available_permits() == 0 {
        waiting.shed_oldest();
    }
    Arc::clone(slots).acquire_owned().await.ok()
}

/// One request and its answer, holding its slot to the end.
async fn exchange(
    mut io: Stream,
    _slot: OwnedSemaphorePermit,
    mut place: Place,
    state: Arc<AdminState>,
    stop: ShutdownWatch,
) {
    let mut ahead = BytesMut::new();
    let mut stop = Stop::new(&stop);
    let head = tokio::select! {
        head = head::read(&mut io, &mut ahead, &HEAD_LIMITS, &mut stop) => head,
        () = place.shed() => return,
    };
    drop(place);
    let answer = match head {
        Ok(head) => answer(ahead.get(..head.len).unwrap_or_default(), &state).await,
        Err(NoHead::Refused(refusal)) => Answer::error(refusal.status, refusal.detail),
        Err(NoHead::Closed | NoHead::Idle | NoHead::Shutdown) => return,
    };
    let written = timeout(WRITE_TIME, io.write_all(&answer.into_bytes())).await;
    if matches!(written, Ok(Ok(()))) {
        linger(io, LINGER_BYTES, LINGER_TIME).await;
    }
}

async fn answer(head: &[u8], state: &Arc<AdminState>) -> Answer {
    let Some(request) = Request::parse(head) else {
        return Answer::error(
            http::StatusCode::BAD_REQUEST,
            "a request in origin form is accepted, with Authorization, Origin and Sec-Fetch-Site once at most",
        );
    };
    let answer = endpoints::answer(&request, state).await;
    if request.method == "HEAD" { answer.without_body() } else { answer }
}

#[cfg(test)]
mod tests;
