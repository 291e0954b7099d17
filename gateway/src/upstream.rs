//! The way to an upstream and back: the peer to ask, and the answer to a failed exchange.
//!
//! Pingora's own choices are not enough: it waits without limit, would try sixteen times, and calls
//! a head that never comes and a client that went away by the same error. The waits after the
//! connection are bounded by the client's connection, see [`crossgate_wire::lane::conn`], which
//! every byte of the exchange passes; what it found is read in `failure`. What encrypts a
//! connection is in `tls`. Over HTTP/2 many clients share a connection, so none may hold more of it
//! than its share.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{ALPN, HttpPeer, PeerOptions};
use pingora::{Error, ErrorSource, ErrorType};

use crate::counters::{ServingUpstream, UpstreamCounters};
use crate::queue::UpstreamQueue;
use crate::servers::{PickedServer, RetryBudget, ServerPool, ServerState};
use crate::throttle::LogThrottle;
use crossgate_config::model::{Protocol, Timeouts, UpstreamSpec};
use crossgate_telemetry::CounterCells;
use crossgate_wire::exchange::RequestProgress;
use crossgate_wire::exchange::state::{ExchangeEnd, ExchangeState};

mod connection;
mod connector;
mod direct;
mod failure;
mod follower;
mod head_flaw;
mod idle;
mod io;
mod pinned;
mod tls;

use connector::Attempt;
pub use connector::{CHOSE_HTTP2, Connector, Wanted};
pub use direct::DirectConnection;
pub use failure::{Failure, NO_HTTP2};
pub use tls::UpstreamTls;
pub(crate) use tls::{GatewayCertificate, PemReader, expired, servers_own, system_roots};

/// Requests at one time on one connection over HTTP/2. Servers allow a hundred or more (RFC 9113,
/// section 6.5.2). One that allows fewer refuses those that come before it has said so, and they
/// are tried again; then there are more connections.
const STREAMS_MAX: u16 = 100;
/// What one answer over HTTP/2 may have under way or waiting for its client. The connection has as
/// much for each, so that clients that read nothing do not delay the answers of others.
const STREAM_WINDOW: u32 = 256 << 10;
/// A connection over HTTP/2 that nothing comes back on is asked whether it lives, and given up when
/// even the other kernel is silent, since all requests go that way. Pings of HTTP/2 would tell the
/// same, and common gRPC servers take them for abuse.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(20),
    interval: Duration::from_secs(5),
    count: 3,
    user_timeout: Duration::from_secs(30),
};

/// Servers that answer the same requests.
pub struct Upstream {
    /// What it is called.
    pub name: Arc<str>,
    /// Where it is.
    pub servers: Arc<ServerPool>,
    /// What bounds its requests, if anything does.
    pub queue: Option<Arc<UpstreamQueue>>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// How often a request is tried, the first time included.
    pub attempts: u32,
    /// The `Host` it gets instead of the client's.
    pub host: Option<HeaderValue>,
    /// Which HTTP it is asked in.
    pub protocol: Protocol,
    /// Whom it is trusted by; `None` in clear text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Connects to its servers over HTTP/1.1.
    pub connector: Arc<Connector>,
    /// What is counted of its answers.
    pub counters: Arc<UpstreamCounters>,
    /// Limits the log events about its TLS.
    pub complaints: LogThrottle,
    pub(crate) spec: UpstreamSpec,
    /// Its number among all there ever were.
    number: u32,
    /// How often its connections were retired.
    retired: AtomicU32,
    turn: CounterCells,
    retries: RetryBudget,
}

impl Upstream {
    /// The upstream of that name. What `previous` has and would be made the same again is kept.
    pub(crate) fn new(
        spec: &UpstreamSpec,
        tls: Option<Arc<UpstreamTls>>,
        counters: Arc<UpstreamCounters>,
        previous: Option<&Upstream>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let same_servers = previous.filter(|previous| previous.servers.has_servers_of(spec));
        let new_servers =
            || Arc::new(ServerPool::new(spec, Arc::clone(&counters), previous.map(|previous| &*previous.servers)));
        let same_queue = previous.filter(|previous| previous.spec.limits == spec.limits);
        let queue = match same_queue {
            Some(previous) => previous.queue.clone(),
            None => spec.limits.map(|limits| Arc::new(UpstreamQueue::new(limits))),
        };
        let servers = same_servers.map_or_else(new_servers, |previous| Arc::clone(&previous.servers));
        if previous.is_some_and(|previous| previous.tls != tls || previous.protocol != spec.protocol) {
            servers.forget_handshakes();
        }
        Upstream {
            name: Arc::from(&*spec.name.value),
            servers,
            queue,
            timeouts: spec.timeouts,
            attempts: spec.attempts,
            host: spec.host.clone(),
            protocol: spec.protocol,
            connector: Arc::new(Connector::new(spec.protocol, tls.as_ref(), spec.timeouts.keep_alive)),
            tls,
            counters,
            complaints: LogThrottle::default(),
            spec: spec.clone(),
            number: COUNT.fetch_add(1, Relaxed),
            retired: AtomicU32::new(0),
            turn: CounterCells::new(1),
            retries: RetryBudget::default(),
        }
    }

    /// From now on a scrape shows this upstream under its name.
    pub fn report_as_serving(self: &Arc<Self>) {
        let upstream: Arc<dyn ServingUpstream> = Arc::clone(self) as _;
        self.counters.set_serving(Arc::downgrade(&upstream));
    }

    /// A request's turn, drawn once: its later attempts go on from there, to other servers.
    pub fn draw_turn(&self) -> usize {
        usize::try_from(self.turn.count(0)).unwrap_or_default()
    }

    /// The server for an attempt of the request that drew `turn`: another than the one that failed
    /// `last`. There is one, unless all servers have names, and none of them has led anywhere yet.
    pub fn server(&self, turn: usize, attempt: u32, last: Option<PickedServer>) -> Option<PickedServer> {
        self.servers.pick(turn.wrapping_add(attempt as usize), last)
    }

    /// The key of its idle connections: no other upstream uses them, and none outlives the trust
    /// that it was made under.
    pub fn pool(&self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.retired.load(Relaxed))
    }

    /// Lets no further request use the connections that there are: over HTTP/2, one that is silent
    /// may never speak again.
    pub fn retire_connections(&self) {
        self.retired.fetch_add(1, Relaxed);
    }

    /// Whether one more request may be tried again.
    pub fn may_retry(&self) -> bool {
        self.retries.take(self.turn.read(0))
    }
}

impl ServingUpstream for Upstream {
    fn servers_by_state(&self) -> Vec<(&'static str, usize)> {
        let states = self.servers.server_states();
        let count = |wanted| states.iter().filter(|(_, state)| *state == wanted).count();
        ServerState::ALL.map(|standing| (standing.as_str(), count(standing))).to_vec()
    }

    fn ejected_servers(&self) -> usize {
        self.servers.server_states().iter().filter(|(_, state)| *state == ServerState::Ejected).count()
    }

    fn is_checked(&self) -> bool {
        self.servers.check().is_some()
    }

    fn lost_names(&self) -> Option<usize> {
        self.servers.names().next().is_some().then(|| self.servers.lost_names().len())
    }

    fn requests(&self) -> Option<(usize, u32)> {
        self.queue.as_ref().map(|queue| (queue.active(), queue.waiting()))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.name).field(&self.servers).finish()
    }
}

/// How a server is asked over HTTP/1.1, on connections of our own.
pub fn http1_peer(
    upstream: &Upstream,
    address: SocketAddr,
    wanted: Wanted,
    progress: Arc<RequestProgress>,
) -> Box<HttpPeer> {
    // TLS, where there is any, is the connector's.
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.connection_timeout = Some(upstream.timeouts.connect);
    peer.options.total_connection_timeout = Some(upstream.timeouts.connect);
    let connector = Arc::clone(&upstream.connector);
    peer.options.custom_l4 = Some(Arc::new(Attempt { connector, wanted, progress }));
    Box::new(peer)
}

/// How a server is asked over HTTP/2, on Pingora's connections. One that `is_pinned` has shown a
/// certificate that is no server's unless it is trusted by itself.
pub fn http2_peer(upstream: &Upstream, address: SocketAddr, is_pinned: bool) -> Box<HttpPeer> {
    let server_name = upstream.tls.as_ref().map(|tls| tls.server_name(address.ip()));
    let mut peer = HttpPeer::new(address, server_name.is_some(), server_name.unwrap_or_default());
    peer.group_key = upstream.pool();
    peer.options.connection_timeout = Some(upstream.timeouts.connect);
    peer.options.total_connection_timeout = Some(upstream.timeouts.connect);
    // A backstop: a server that takes none of a request body is given up before, by
    // `lane::unattended`.
    peer.options.write_timeout = Some(upstream.timeouts.head * 2);
    peer.options.idle_timeout = Some(upstream.timeouts.keep_alive);
    if let Some(tls) = &upstream.tls {
        peer.options.ca = Some(tls.trusted().clone());
        // Its certificate is compared before the request is sent: see `UpstreamTls::is_pinned`.
        peer.options.verify_cert = !is_pinned;
        peer.client_cert_key = tls.own().cloned();
    }
    let alpn = if upstream.protocol == Protocol::Auto { ALPN::H2H1 } else { ALPN::H2 };
    allow_http2(&mut peer.options, alpn);
    Box::new(peer)
}

fn allow_http2(options: &mut PeerOptions, alpn: ALPN) {
    options.alpn = alpn;
    options.max_h2_streams = usize::from(STREAMS_MAX);
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(STREAM_WINDOW * u32::from(STREAMS_MAX));
    options.tcp_keepalive = Some(KEEPALIVE);
}

/// Whether an answer says that the server, or the one behind it, cannot.
pub fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Whether an exchange failed because the client's connection did.
pub fn is_client_gone(error: &Error) -> bool {
    let is_connection = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::ConnectError
    );
    is_connection && *error.esource() == ErrorSource::Downstream
}

/// The status of the answer to a failed exchange; `None` if the client has disconnected.
#[expect(clippy::wildcard_enum_match_arm, reason = "the error types are Pingora's, most of them of no concern here")]
pub fn status(error: &Error, watch: &ExchangeState) -> Option<StatusCode> {
    if let ErrorType::HTTPStatus(code) = error.etype() {
        return StatusCode::from_u16(*code).ok();
    }
    match watch.end() {
        Some(ExchangeEnd::Head) => return Some(StatusCode::GATEWAY_TIMEOUT),
        Some(ExchangeEnd::Unopened) => return Some(StatusCode::SERVICE_UNAVAILABLE),
        Some(ExchangeEnd::Body) => return Some(StatusCode::REQUEST_TIMEOUT),
        Some(ExchangeEnd::Malformed) => return Some(StatusCode::BAD_REQUEST),
        Some(ExchangeEnd::Idle | ExchangeEnd::Write | ExchangeEnd::GoingAway) => return None,
        None => {}
    }
    match error.esource() {
        ErrorSource::Upstream => Some(match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            _ => StatusCode::BAD_GATEWAY,
        }),
        ErrorSource::Downstream if is_client_gone(error) => None,
        ErrorSource::Downstream => Some(StatusCode::BAD_REQUEST),
        ErrorSource::Internal | ErrorSource::Unset => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
