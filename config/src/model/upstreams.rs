//! Upstreams, their servers, and the resolver.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Located, Text};

/// Maximum number of servers of one upstream, after names are resolved.
pub const SERVERS_MAX: usize = 1_024;

/// How the names of servers are resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers. An empty list stands for `/etc/resolv.conf` and `/etc/hosts`.
    pub servers: Vec<SocketAddr>,
    /// The time for one try.
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    pub name: Text,
    pub servers: Vec<ServerSpec>,
    pub timeouts: Timeouts,
    /// Maximum number of tries of a request, including the first one.
    pub attempts: u32,
    /// Replaces the `Host` of the client.
    pub host: Option<HeaderValue>,
    pub protocol: Protocol,
    /// `None` for clear text.
    pub tls: Option<Located<TlsSpec>>,
    pub health_check: Option<HealthCheck>,
    /// `None` for unlimited requests.
    pub limits: Option<UpstreamLimits>,
}

/// The version of HTTP for requests to an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: negotiated over TLS, with prior knowledge in clear text. WebSockets get a 501
    /// response.
    Http2,
    /// HTTP/2 over TLS if the server accepts it, else HTTP/1.1. WebSockets use HTTP/1.1. It needs
    /// tls.
    Auto,
}

/// The TLS of connections to an upstream. The files are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name in the certificate, also sent as SNI. By default the common name of the servers.
    /// `None` stands for the address of each server.
    pub server_name: Option<Box<str>>,
    /// Trusted certificates that replace those of the system.
    pub ca: Option<Located<PathBuf>>,
    pub client_certificate: Option<ClientCertificateSpec>,
}

/// The certificate of the gateway for servers that request one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificateSpec {
    /// The certificate and the intermediate certificates.
    pub certificate: Located<PathBuf>,
    pub key: Located<PathBuf>,
}

impl TlsSpec {
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let own = self.client_certificate.iter().flat_map(|own| [&own.certificate, &own.key]);
        self.ca.iter().chain(own).map(|file| &*file.value)
    }
}

/// A server, or all servers that a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    pub address: ServerAddress,
    /// The share of turns, relative to servers of weight 1. Each address of a name has this weight.
    pub weight: u32,
    /// Whether the server gets requests only while no other one is available.
    pub is_backup: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    Address(SocketAddr),
    Name {
        /// In lower case. A name with a trailing dot is resolved without search domains.
        name: Box<str>,
        port: u16,
    },
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Address(address) => write!(f, "{address}"),
            ServerAddress::Name { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// A health check of each server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub request: CheckRequest,
    /// The time between two checks of a server.
    pub interval: Duration,
    /// The time for connection, handshakes and response.
    pub timeout: Duration,
    /// Consecutive passed checks that make an unhealthy server healthy.
    pub healthy_after: u32,
    /// Consecutive failed checks that make a healthy server unhealthy.
    pub unhealthy_after: u32,
    /// The `Host` of a check. It replaces that of the upstream, or the name or address of the
    /// server.
    pub host: Option<HeaderValue>,
}

/// The request of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckRequest {
    /// A GET of this path and query.
    Get(PathAndQuery),
    /// A call of the gRPC health checking protocol.
    Grpc {
        /// The service to check. The empty name stands for the server as a whole.
        service: Box<str>,
    },
}

/// Limits on concurrent requests to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Requests in progress. Over HTTP/1.1, each has its own connection.
    pub max_requests: u32,
    /// Requests in the queue.
    pub max_pending: u32,
    /// The time that a request may wait in the queue.
    pub pending_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// The time until the head of a response.
    pub head: Duration,
    /// The time between two pieces of a body.
    pub idle: Duration,
    /// The time between two pieces on upgraded connections and event streams.
    pub upgraded_idle: Duration,
    /// How long an idle connection is kept for the next request.
    pub keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(3),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            upgraded_idle: Duration::from_secs(3_600),
            // Most servers close idle connections after 60 s or more.
            keep_alive: Duration::from_secs(55),
        }
    }
}
