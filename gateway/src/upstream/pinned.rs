//! Certificates of servers that are listed themselves among those that are trusted.
//!
//! A certificate that `openssl req -x509` makes is an authority's by its extensions, so that it can
//! vouch for others and, by RFC 5280, is no server's. Other servers accept one that a server shows
//! if it is configured itself, and so does this: byte for byte, with its names and dates verified
//! as of any other.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Verifies by the trusted certificates, and accepts those that are among them.
#[derive(Debug)]
pub(super) struct PinningVerifier {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Box<[CertificateDer<'static>]>,
}

impl PinningVerifier {
    /// `None` where no certificate can vouch for others; then a connection fails whatever its
    /// server shows.
    pub(super) fn new(trusted: Box<[CertificateDer<'static>]>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let provider = Arc::new(default_provider());
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        Some(PinningVerifier { chains, trusted })
    }
}

impl ServerCertVerifier for PinningVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(_) if self.trusted.iter().any(|trusted| trusted == end_entity) => {
                verify_pinned(end_entity, server_name, now)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// What is left to verify of a certificate that is trusted by itself: its names and dates.
///
/// # Errors
/// Those of any certificate.
pub(super) fn verify_pinned(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    Ok(ServerCertVerified::assertion())
}

/// The one of `trusted` that has this digest (SHA-256).
pub(super) fn by_digest<'c>(trusted: impl IntoIterator<Item = &'c [u8]>, sha256: &[u8]) -> Option<CertificateDer<'c>> {
    trusted.into_iter().find(|der| digest(&SHA256, der).as_ref() == sha256).map(CertificateDer::from)
}

/// Whether a certificate is a server's own: it names hosts or addresses, and is self-signed.
/// Certificates of authorities name no hosts.
pub(crate) fn is_server_of_its_own(certificate: &X509Certificate<'_>) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    let has_names = names.is_some_and(|names| {
        names.value.general_names.iter().any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
    });
    has_names && certificate.subject() == certificate.issuer()
}
