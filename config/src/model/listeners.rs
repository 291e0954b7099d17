//! Listeners for clients.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Located;
use crossgate_message::health_path::HealthPath;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Port 0 takes a free port.
    pub address: SocketAddr,
    /// Proxies whose `Forwarded` and `X-Forwarded-*` fields are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// `None` for clear text.
    pub tls: Option<ListenerTls>,
    /// The balancers whose connections begin with a PROXY header.
    pub proxy_protocol: Option<TrustedBalancers>,
    pub http2: Http2Support,
    /// The path for health checks of balancers.
    pub health_path: Option<Located<HealthPath>>,
}

/// The certificates and versions of a listener with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one. The first serves clients without SNI.
    pub certificates: Vec<CertificateSpec>,
    /// The oldest accepted version.
    pub min_version: TlsVersion,
}

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSpec {
    /// The certificate and its issuers.
    pub certificate: Located<PathBuf>,
    /// The private key.
    pub key: Located<PathBuf>,
}

/// The oldest accepted version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 and later.
    #[default]
    Tls12,
    /// TLS 1.3 and later.
    Tls13,
}

/// Whether clients may use HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Http2Support {
    /// With prior knowledge, or by negotiation in a TLS handshake.
    #[default]
    Offered,
    /// Only HTTP/1.1.
    Off,
}

impl Listener {
    /// Whether the forwarding fields of a client are trusted.
    pub fn trusts(&self, client: IpAddr) -> bool {
        is_in(&self.trusted_proxies, client)
    }
}

/// The balancers that pass connections on with a PROXY header. Connections from other addresses are
/// closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedBalancers {
    pub from: Vec<IpNet>,
}

impl TrustedBalancers {
    pub fn include(&self, peer: IpAddr) -> bool {
        is_in(&self.from, peer)
    }
}

fn is_in(ranges: &[IpNet], address: IpAddr) -> bool {
    // A dual-stack socket reports IPv4 peers as IPv4-mapped IPv6 addresses.
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}
