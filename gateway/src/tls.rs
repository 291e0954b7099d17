//! TLS on the data listeners: which certificate a client is shown, and the handshake in which it is.
//!
//! `certificate` makes certificates of PEM files, `names` says which hosts one is for, `handshake` makes a stream of bytes out of a
//! connection, and `stream` is that stream as Pingora takes any. The lane shakes hands after it has counted a connection and
//! before it reads a head. A [`Terminator`] belongs to a snapshot and never changes, so a handshake has one set of certificates
//! and a new set drops no connection. Absent on purpose: files and clocks, which are `reload`'s; client certificates; early data, which
//! can be replayed.

use std::fmt;
use std::sync::{Arc, LazyLock};

use ahash::AHashMap;
use pingora::protocols::ALPN;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use crate::config::model::TlsVersion;
use crate::http2::Http2;

mod certificate;
mod handshake;
mod names;
mod stream;

#[cfg(test)]
mod tests;

pub use certificate::{BadFile, Certificate};
pub(crate) use handshake::{Failure, shake_hands};
pub(crate) use names::Names;

/// What is spoken within TLS, best first; what a client took is the stream's `selected_alpn_proto`.
const OFFERED: [(&[u8], ALPN); 2] = [(b"h2", ALPN::H2), (b"http/1.1", ALPN::H1)];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(default_provider()));

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The oldest version of TLS.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 within it.
    pub http2: Http2,
}

/// The certificates of one listener.
pub struct Terminator {
    spoken: Spoken,
    /// By the names they are for, in canonical form.
    exact: AHashMap<Box<str>, Vec<Arc<Served>>>,
    /// By what is right of a wildcard's star and dot.
    below: AHashMap<Box<str>, Vec<Arc<Served>>>,
    served: Vec<Arc<Served>>,
}

/// A certificate, and how it is served. Tickets are the certificate's own: no session outlives it.
struct Served {
    certificate: Arc<Certificate>,
    config: Arc<ServerConfig>,
}

/// The certificate that a client was shown. Made for each connection: counting its holders must not be every worker's business.
#[derive(Debug)]
pub struct Shown {
    certificate: Arc<Certificate>,
}

impl Shown {
    /// Whether the certificate is for a host, which is in canonical form.
    pub fn covers(&self, host: &str) -> bool {
        self.certificate.names().cover(host)
    }
}

impl Terminator {
    /// That serves these certificates, and goes on with what `previous` has of them. With none, no handshake succeeds.
    pub fn new(certificates: &[Arc<Certificate>], spoken: Spoken, previous: Option<&Terminator>) -> Self {
        let served: Vec<_> = certificates
            .iter()
            .map(|certificate| {
                let same = previous.and_then(|previous| previous.same(certificate, spoken));
                same.map_or_else(|| Arc::new(Served::new(certificate, spoken)), Arc::clone)
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
        Terminator { spoken, exact, below, served }
    }

    fn same(&self, certificate: &Arc<Certificate>, spoken: Spoken) -> Option<&Arc<Served>> {
        let is_same = |one: &&Arc<Served>| Arc::ptr_eq(&one.certificate, certificate);
        self.served.iter().find(is_same).filter(|_| self.spoken == spoken)
    }

    /// Its certificates, in the order of the configuration.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.served.iter().map(|served| &served.certificate)
    }

    /// The certificate for a client: one for the host that it names, of a kind that it knows. A client that names none gets the first.
    fn pick(&self, hello: &ClientHello<'_>) -> Option<&Arc<Served>> {
        let Some(host) = hello.server_name() else { return self.served.first() };
        let fitting = self.exact.get(host).or_else(|| self.below.get(host.split_once('.')?.1))?;
        // Somebody may have an RSA and an ECDSA certificate for one name.
        let is_known = |one: &&Arc<Served>| one.certificate.can_sign(hello.signature_schemes());
        fitting.iter().find(is_known).or(fitting.first())
    }
}

impl Served {
    fn new(certificate: &Arc<Certificate>, spoken: Spoken) -> Self {
        let versions: &[&SupportedProtocolVersion] = match spoken.min_version {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        #[expect(clippy::expect_used, reason = "the provider has suites for every version, which tests build")]
        let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(versions)
            .expect("suites for these versions");
        let key = SingleCertAndKey::from(Arc::clone(certificate.key()));
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(key));
        let is_spoken = |(_, protocol): &(&[u8], ALPN)| *protocol == ALPN::H1 || spoken.http2 == Http2::Offered;
        config.alpn_protocols = OFFERED.into_iter().filter(is_spoken).map(|(name, _)| name.to_vec()).collect();
        // What is needed to resume a session is in the client's ticket, and nothing of it here.
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
