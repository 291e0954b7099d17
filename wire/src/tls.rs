//! TLS on the data listeners: the choice of a certificate, and the handshake.
//!
//! `certificate` parses PEM files, and `names` lists the hosts of a certificate. `handshake` turns
//! a connection into a TLS stream, which `stream` adapts for Pingora. The lane runs the handshake
//! after it has counted a connection and before it reads a head. A [`Terminator`] belongs to a
//! snapshot and never changes, so a handshake sees one set of certificates, and a new set closes no
//! connection.
//!
//! Absent on purpose: files and clocks, which belong to `reload`; client certificates; early data,
//! which can be replayed (RFC 8446, section 8).

use std::fmt;
use std::sync::{Arc, LazyLock};

use ahash::AHashMap;
use pingora::protocols::ALPN;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

mod certificate;
mod handshake;
mod names;
mod stream;

#[cfg(test)]
mod tests;

pub use certificate::{CertificateFileError, ServerCertificate};
pub use handshake::{FailedHandshake, shake_hands};
pub use names::CertificateNames;
pub use stream::{beneath, skip_close_notify};

/// The ALPN protocols, in order of preference. A stream reports the client's choice as
/// `selected_alpn_proto`.
const OFFERED: [(&[u8], ALPN); 2] = [(b"h2", ALPN::H2), (b"http/1.1", ALPN::H1)];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(default_provider()));

/// Whether a listener offers HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// Offered by ALPN, and to clients that begin with the HTTP/2 preface.
    #[default]
    Offered,
    /// HTTP/1.1 only.
    Off,
}

/// The oldest TLS version that a listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The protocols of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedProtocol {
    /// The oldest TLS version.
    pub min_version: TlsVersion,
    /// Whether ALPN offers HTTP/2.
    pub http2: Http2,
}

/// The certificates of one listener.
pub struct Terminator {
    protocol: NegotiatedProtocol,
    /// By exact host, in canonical form.
    exact: AHashMap<Box<str>, Vec<Arc<Served>>>,
    /// By the parent domain of a wildcard: the name without its star and dot.
    below: AHashMap<Box<str>, Vec<Arc<Served>>>,
    served: Vec<Arc<Served>>,
}

/// A certificate with its TLS configuration. Session tickets belong to the certificate: no session
/// outlives it.
struct Served {
    certificate: Arc<ServerCertificate>,
    config: Arc<ServerConfig>,
}

/// The certificate that a client received. Made for each connection, so that workers do not share
/// one reference count.
#[derive(Debug)]
pub struct ServedCertificate {
    certificate: Arc<ServerCertificate>,
}

impl ServedCertificate {
    /// Whether the certificate covers a host in canonical form.
    pub fn covers(&self, host: &str) -> bool {
        self.certificate.names().cover(host)
    }
}

impl Terminator {
    /// Makes a terminator for these certificates, and reuses what `previous` has of them. Without
    /// certificates, every handshake fails.
    pub fn new(
        certificates: &[Arc<ServerCertificate>],
        protocol: NegotiatedProtocol,
        previous: Option<&Terminator>,
    ) -> Self {
        let served: Vec<_> = certificates
            .iter()
            .map(|certificate| {
                let same = previous.and_then(|previous| previous.same(certificate, protocol));
                same.map_or_else(|| Arc::new(Served::new(certificate, protocol)), Arc::clone)
            })
            .collect();
        let (mut exact, mut below) = (AHashMap::new(), AHashMap::new());
        for one in &served {
            let names = one.certificate.names();
            let add = |table: &mut AHashMap<_, Vec<_>>, name: &str| {
                table.entry(Box::from(name)).or_default().push(Arc::clone(one));
            };
            names.exact().for_each(|name| add(&mut exact, name));
            names.below().for_each(|name| add(&mut below, name));
        }
        Terminator { protocol, exact, below, served }
    }

    fn same(&self, certificate: &Arc<ServerCertificate>, protocol: NegotiatedProtocol) -> Option<&Arc<Served>> {
        let is_same = |one: &&Arc<Served>| Arc::ptr_eq(&one.certificate, certificate);
        self.served.iter().find(is_same).filter(|_| self.protocol == protocol)
    }

    /// The certificates, in the order of the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<ServerCertificate>> {
        self.served.iter().map(|served| &served.certificate)
    }

    /// Picks the certificate for the host that a client names (SNI), of a kind that the client can
    /// verify. A client that names no host gets the first certificate.
    fn pick(&self, hello: &ClientHello<'_>) -> Option<&Arc<Served>> {
        // RFC 6066, section 3: SNI carries no IP address, and old clients send no SNI at all.
        let Some(host) = hello.server_name() else { return self.served.first() };
        let fitting = self.exact.get(host).or_else(|| self.below.get(host.split_once('.')?.1))?;
        // An operator may configure an RSA and an ECDSA certificate for one name.
        let is_known = |one: &&Arc<Served>| one.certificate.can_sign(hello.signature_schemes());
        fitting.iter().find(is_known).or(fitting.first())
    }
}

impl Served {
    fn new(certificate: &Arc<ServerCertificate>, protocol: NegotiatedProtocol) -> Self {
        let versions: &[&SupportedProtocolVersion] = match protocol.min_version {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        #[expect(clippy::expect_used, reason = "the provider has suites for every version, which tests build")]
        let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(versions)
            .expect("suites for these versions");
        let key = SingleCertAndKey::from(Arc::clone(certificate.key()));
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(key));
        let is_offered = |(_, alpn): &(&[u8], ALPN)| *alpn == ALPN::H1 || protocol.http2 == Http2::Offered;
        config.alpn_protocols = OFFERED.into_iter().filter(is_offered).map(|(name, _)| name.to_vec()).collect();
        // The state of a session is in the client's ticket; the server stores none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!(%error, "TLS sessions cannot be resumed"),
        }
        Served { certificate: Arc::clone(certificate), config: Arc::new(config) }
    }
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.certificates()).finish()
    }
}
