//! Connects to the servers of one upstream over HTTP/1.1.
//!
//! The direct exchange asks here for every attempt, and so does Pingora for an upgrade
//! ([`L4Connect`]); whether the connection was kept from an earlier request is known here alone.
//! Errors are those that Pingora's own connector makes, which
//! [`failure`](super::failure) reads.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::VirtualSocketStream;
use pingora::{Error, ErrorType, OrErr, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::direct::DirectConnection;
use super::idle::IdleConnections;
use super::io::Io;
use super::tls::UpstreamTls;
use crossgate_config::model::Protocol;
use crossgate_wire::exchange::RequestProgress;
use crossgate_wire::exchange::direct::ConnectionReuse;

/// The server has chosen HTTP/2, which Pingora's own connector speaks.
pub const CHOSE_HTTP2: ErrorType = ErrorType::new("ChoseHttp2");

/// Connects to the servers of one upstream.
#[derive(Debug)]
pub struct Connector {
    tls: Option<ClientTls>,
    keep_alive: Duration,
    idle: Arc<IdleConnections>,
}

struct ClientTls {
    upstream: Arc<UpstreamTls>,
    /// Offers HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
    /// Offers HTTP/2 too.
    both: Option<Arc<ClientConfig>>,
}

/// What an attempt asks of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// None that has served another request: one that was kept has just failed.
    pub is_new: bool,
    /// HTTP/1.1 alone, for an upgrade.
    pub is_http1: bool,
}

impl Connector {
    pub(crate) fn new(protocol: Protocol, tls: Option<&Arc<UpstreamTls>>, keep_alive: Duration) -> Self {
        let tls = tls.map(|upstream| ClientTls {
            upstream: Arc::clone(upstream),
            http1: Arc::new(upstream.client(Protocol::Http1)),
            both: (protocol == Protocol::Auto).then(|| Arc::new(upstream.client(Protocol::Auto))),
        });
        Connector { tls, keep_alive, idle: Arc::new(IdleConnections::new()) }
    }

    /// A connection for a direct exchange, at the present time.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        server: SocketAddr,
        wanted: Wanted,
        time: Duration,
        now: Instant,
    ) -> Result<DirectConnection> {
        let kept = if wanted.is_new { None } else { self.idle.take(server, now) };
        if let Some(io) = kept {
            return Ok(DirectConnection::new(io, server, Arc::clone(self), true));
        }
        // Boxed, so that an exchange with a kept connection has no room for a handshake.
        let opened = match timeout(time, Box::pin(self.open(server, wanted))).await {
            Ok(opened) => opened.map_err(|error| error.into_up())?,
            Err(_) => return Err(Error::explain(ErrorType::ConnectTimedout, "the connect timeout").into_up()),
        };
        Ok(DirectConnection::new(opened, server, Arc::clone(self), false))
    }

    /// Keeps a connection whose request is over.
    pub(super) fn keep(&self, server: SocketAddr, io: Io, reuse: ConnectionReuse, now: Instant) {
        self.idle.put(server, io, self.keep_alive, reuse, now);
    }

    async fn open(&self, server: SocketAddr, wanted: Wanted) -> Result<Io> {
        let tcp = TcpStream::connect(server).await.map_err(|error| unconnected(error, server))?;
        tcp.set_nodelay(true).or_err(ErrorType::ConnectError, "TCP_NODELAY")?;
        match &self.tls {
            None => Ok(Io::Plain(tcp)),
            Some(tls) => tls.shake_hands(tcp, server, wanted).await,
        }
    }
}

impl ClientTls {
    async fn shake_hands(&self, tcp: TcpStream, server: SocketAddr, wanted: Wanted) -> Result<Io> {
        let name = ServerName::try_from(self.upstream.server_name(server.ip()));
        let name = name.or_err(ErrorType::InvalidCert, "the server's name")?;
        let config = self.both.as_ref().filter(|_| !wanted.is_http1).unwrap_or(&self.http1);
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
        let stream = stream.or_err(ErrorType::TLSHandshakeFailure, "tls connect error")?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Err(Error::new(CHOSE_HTTP2)),
            Some(_) | None => Ok(Io::Tls(Box::new(stream))),
        }
    }
}

/// An attempt, for Pingora to connect.
pub(crate) struct Attempt {
    pub(crate) connector: Arc<Connector>,
    pub(crate) wanted: Wanted,
    pub(crate) progress: Arc<RequestProgress>,
}

#[async_trait]
impl L4Connect for Attempt {
    async fn connect(&self, address: &PeerAddress) -> Result<Stream> {
        let Attempt { connector, wanted, progress } = self;
        let server = address.as_inet().ok_or_else(|| Error::explain(ErrorType::ConnectError, "not an IP address"))?;
        let kept = if wanted.is_new { None } else { connector.idle.take(*server, Instant::now()) };
        let io = match kept {
            Some(io) => {
                progress.set_reused();
                io
            }
            None => connector.open(*server, *wanted).await?,
        };
        let (idle, keep_alive) = (Arc::clone(&connector.idle), connector.keep_alive);
        let connection = Connection::new(io, *server, idle, keep_alive, Arc::clone(progress));
        Ok(VirtualSocketStream::new(Box::new(connection)).into())
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds are the standard library's, most of them of no concern here"
)]
fn unconnected(error: io::Error, server: SocketAddr) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, format!("connecting to {server}"), error)
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("offers_http2", &self.both.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
