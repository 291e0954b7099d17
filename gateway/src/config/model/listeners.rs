//! Where clients connect.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::Located;
use crate::http2::Http2;

/// A data listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Who may speak for a client in `Forwarded` and `X-Forwarded-*`.
    pub trusted_proxies: Vec<IpNet>,
    /// What it speaks TLS with; `None` for plain text.
    pub tls: Option<ListenerTls>,
    /// Whether connections begin with a PROXY header, and whose.
    pub proxy_protocol: Option<Balancers>,
    /// Whether it speaks HTTP/2.
    pub http2: Http2,
}

/// What a listener speaks TLS with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one. The first is for clients that name no host.
    pub certificates: Vec<CertificateSpec>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// A certificate as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSpec {
    /// The file with it and its issuers.
    pub certificate: Located<PathBuf>,
    /// The file with its private key.
    pub key: Located<PathBuf>,
}

/// A version of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Listener {
    /// Whether a client may speak for others.
    pub fn trusts(&self, client: IpAddr) -> bool {
        is_in(&self.trusted_proxies, client)
    }
}

/// Who passes connections on, each with a PROXY header; nobody else may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancers {
    /// Their addresses.
    pub from: Vec<IpNet>,
}

impl Balancers {
    /// Whether a peer is one of them.
    pub fn include(&self, peer: IpAddr) -> bool {
        is_in(&self.from, peer)
    }
}

/// An IPv4 peer of a dual-stack socket counts as IPv4.
fn is_in(ranges: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}
