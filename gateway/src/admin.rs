//! The admin listener: probes, metrics, status, explanations, a browser page, and reload.
//!
//! A small HTTP/1.1 server with its own address and thread, so that neither a flood on the data
//! listeners nor a drain locks an operator out. Each connection carries one request, read with the
//! lane's bounded head reader. `access` checks permission and `endpoints` makes the response.
//! Absent on purpose: request bodies except that of a login, keep-alive, and CORS headers, since no
//! page of another origin may read this listener.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::background::{self, BackgroundTask};
use crate::explain::RenderedExplanation;
use crate::ledger::OriginsQuery;
use crate::metrics::PanicPlace;
use crate::probe::ExplainedRequest;
use crate::registry::GatewayMetrics;
use crossgate_wire::exchange::HeadLimits;
use crossgate_wire::exchange::timer::StopSignal;
use crossgate_wire::lane::head::{self, NoHead};
use crossgate_wire::lane::linger;
use crossgate_wire::runner::accept_error;

mod access;
mod answer;
mod endpoints;
mod explain_query;
mod login;
mod page;
mod request;
mod session;
mod silent_connections;
mod tokens;

pub use self::access::{AdminAccess, MetricsAccess, NoToken};
pub use self::tokens::AdminTokens;
pub(crate) use self::tokens::{Token, TokenError, TokenPair, read_token};

use self::answer::AdminResponse;
use self::request::AdminRequest;
use self::silent_connections::{SilentConnection, SilentConnections};

/// The limit on concurrent connections. A few operators and scrapers share this port. At the limit,
/// a new connection replaces the oldest one that has not sent its request.
const CONNECTIONS_MAX: usize = 256;

/// The limits on a request head.
const HEAD_LIMITS: HeadLimits = HeadLimits {
    time: Duration::from_secs(1),
    idle: Duration::from_secs(1),
    bytes: 16 << 10,
    field_bytes: 8 << 10,
    fields: 64,
};

/// The time in which a client has to read its response.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// The limits on reading an unexpected body. Closing a socket with unread bytes sends a TCP reset,
/// which can destroy the response before the client reads it.
const LINGER_BYTES: u64 = 64 << 10;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// The pause after a failed accept, such as for lack of file descriptors, since the next one would
/// fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The operations that the admin listener needs from the rest of the process. All but `phase` may
/// block.
pub trait AdminControl: Send + Sync + 'static {
    /// The phase of the process.
    fn phase(&self) -> ProcessPhase;
    /// The content of `/status`.
    fn status(&self) -> serde_json::Value;
    /// Reloads the configuration; returns when the new configuration serves.
    ///
    /// # Errors
    /// All errors of a refused configuration.
    fn reload(&self) -> Result<serde_json::Value, serde_json::Value>;
    /// The ledger's records that match the query; `None` if there is no such tenant.
    fn origins(&self, asked: &OriginsQuery) -> Option<serde_json::Value>;
    /// Explains the response that the data listeners would give.
    fn explain(&self, probe: &ExplainedRequest) -> RenderedExplanation;
    /// Explains the recorded denial with a request id.
    ///
    /// # Errors
    /// The reason why there is no explanation.
    fn explain_denial(&self, request_id: &str) -> Result<RenderedExplanation, String>;
}

/// The phase of the process, for `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPhase {
    /// Accepts requests.
    Serving,
    /// Finishes running requests and accepts no new ones.
    Draining,
    /// Accepts requests, but a background task has stopped; the process should be replaced.
    Impaired(BackgroundTask),
}

/// The state of the admin listener.
pub struct AdminState {
    pub access: AdminAccess,
    /// The content of `/metrics`.
    pub metrics: Arc<GatewayMetrics>,
    /// The rest of the process.
    pub control: Arc<dyn AdminControl>,
}

/// Serves until `shutdown`, which also cancels running responses.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, mut shutdown: ShutdownWatch) {
    let (listener, stop) = (Arc::new(listener), shutdown.clone());
    let panics = Arc::clone(&state.metrics.panics);
    let accept = move || accept(Arc::clone(&listener), Arc::clone(&state), stop.clone());
    tokio::select! {
        () = background::supervise(PanicPlace::Accept, panics, accept) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

async fn accept(listener: Arc<TcpListener>, state: Arc<AdminState>, stop: ShutdownWatch) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let waiting = Arc::new(SilentConnections::default());
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let Some(slot) = free_slot(&slots, &waiting).await else { return };
                let socket = pingora::protocols::l4::stream::Stream::from(socket);
                let silent = waiting.register();
                tokio::spawn(exchange(Box::new(socket), slot, silent, Arc::clone(&state), stop.clone()));
            }
            Err(error) => {
                state.metrics.connections.count_accept_error(accept_error(&error));
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes a connection slot. If none is free, the oldest silent connection is closed.
async fn free_slot(slots: &Arc<Semaphore>, waiting: &SilentConnections) -> Option<OwnedSemaphorePermit> {
    if slots.available_permits() == 0 {
        waiting.shed_oldest();
    }
    Arc::clone(slots).acquire_owned().await.ok()
}

/// Serves one request; holds its slot to the end.
async fn exchange(
    mut io: Stream,
    _slot: OwnedSemaphorePermit,
    mut silent: SilentConnection,
    state: Arc<AdminState>,
    stop: ShutdownWatch,
) {
    let mut ahead = BytesMut::new();
    let mut stop = StopSignal::new(&stop);
    let head = tokio::select! {
        head = head::read(&mut io, &mut ahead, &HEAD_LIMITS, &mut stop) => head,
        () = silent.shed() => return,
    };
    drop(silent);
    let answer = match head {
        Ok(head) => answer(&mut io, &ahead, head.len, &state).await,
        Err(NoHead::Refused(refusal)) => AdminResponse::error(refusal.status, refusal.detail),
        Err(NoHead::Closed | NoHead::Idle | NoHead::Shutdown) => return,
    };
    let written = timeout(WRITE_TIME, io.write_all(&answer.into_bytes())).await;
    if matches!(written, Ok(Ok(()))) {
        linger(io, LINGER_BYTES, LINGER_TIME).await;
    }
}

async fn answer(io: &mut Stream, ahead: &[u8], head_len: usize, state: &Arc<AdminState>) -> AdminResponse {
    let (head, rest) = ahead.split_at_checked(head_len).unwrap_or((ahead, b""));
    let Some(request) = AdminRequest::parse(head) else {
        return AdminResponse::error(
            http::StatusCode::BAD_REQUEST,
            "invalid request: expected a target in origin form, and Authorization, Cookie, Origin, Content-Length and Sec-Fetch-* at most once",
        );
    };
    let body = if endpoints::wants_body(&request, state) {
        match login::read_body(io, rest, &request).await {
            Ok(body) => body,
            Err(answer) => return answer,
        }
    } else {
        Vec::new()
    };
    let answer = endpoints::answer(&request, body, state).await;
    // A response to HEAD has no body (RFC 9110, section 9.3.2).
    if request.method == "HEAD" { answer.without_body() } else { answer }
}

#[cfg(test)]
mod tests;
