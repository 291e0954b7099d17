//! Where requests go, and who is asked for the addresses of its servers.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::{Located, Text};

/// Who is asked for the addresses of servers that have names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers. None: what the system's `resolv.conf` and `hosts` say.
    pub servers: Vec<SocketAddr>,
    /// How long one try may take, instead of what the system says.
    pub timeout: Option<Duration>,
}

/// Servers that answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// What tenants call it.
    pub name: Text,
    /// Its servers, in turn.
    pub servers: Vec<ServerSpec>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// How often a request is tried, the first time included.
    pub attempts: u32,
    /// The `Host` it gets instead of the client's.
    pub host: Option<HeaderValue>,
    /// Which HTTP it is asked in.
    pub protocol: Protocol,
    /// How its connections are encrypted; in clear text if there is nothing.
    pub tls: Option<Located<TlsSpec>>,
    /// How its servers are asked whether they are well; not at all if left out.
    pub health_check: Option<HealthCheck>,
    /// How many requests it has at one time; as many as there are if left out.
    pub limits: Option<UpstreamLimits>,
}

/// Which HTTP an upstream is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 alone: over TLS as negotiated, in clear text with prior knowledge.
    Http2,
    /// Over TLS, HTTP/2 where the server takes it, else HTTP/1.1.
    Auto,
}

/// How an upstream's connections are encrypted, its files still unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name that its certificate must have, and that it is asked for by: the servers' own, where all go by one; each server's address if
    /// there is nothing.
    pub server_name: Option<Box<str>>,
    /// The certificates that are trusted instead of the system's.
    pub ca: Option<Located<PathBuf>>,
    /// What the gateway shows of itself.
    pub client_certificate: Option<ClientCertificateSpec>,
}

/// What the gateway shows of itself to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificateSpec {
    /// The file with the certificate, and those between it and one that the upstream trusts.
    pub certificate: Located<PathBuf>,
    /// The file with its key.
    pub key: Located<PathBuf>,
}

impl TlsSpec {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let own = self.client_certificate.iter().flat_map(|own| [&own.certificate, &own.key]);
        self.ca.iter().chain(own).map(|file| &*file.value)
    }
}

/// A server of an upstream, or those that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Where it is.
    pub address: ServerAddress,
    /// How many turns it has while one of weight 1 has one. Of a name's servers each has as many.
    pub weight: u32,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// There.
    Address(SocketAddr),
    /// Wherever the name leads.
    Name {
        /// In lower case. One that ends with a dot is looked up as it is, not in the search domains.
        name: Box<str>,
        /// On every address of it.
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

/// How servers are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, from the slash on.
    pub path: PathAndQuery,
    /// Between two checks of a server.
    pub interval: Duration,
    /// For a connection, its handshakes and the head of an answer.
    pub timeout: Duration,
    /// Good checks in a row that make an unhealthy server healthy.
    pub healthy_after: u32,
    /// Bad checks in a row that make a healthy one unhealthy.
    pub unhealthy_after: u32,
    /// The `Host` that a check names, instead of the upstream's, or of the server's name or address.
    pub host: Option<HeaderValue>,
}

/// How many requests an upstream has at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Under way; over HTTP/1.1 each has a connection.
    pub max_requests: u32,
    /// Waiting to be.
    pub max_pending: u32,
    /// How long one waits.
    pub pending_timeout: Duration,
}

/// How long to wait for an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// The same on upgraded connections and event streams.
    pub upgraded_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(3),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            upgraded_idle: Duration::from_secs(3_600),
        }
    }
}
