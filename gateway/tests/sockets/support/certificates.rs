//! Certificates for one test, and TLS server configurations with them.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A certificate authority.
#[derive(Debug)]
pub(crate) struct Authority(pub(super) CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM text.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    /// The DER of the public key (SubjectPublicKeyInfo), which Chromium's flag needs.
    pub(crate) spki: Vec<u8>,
}

/// The validity period of a certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Validity {
    Now,
    Expired,
    NotYet,
    /// Until the beginning of that year.
    Until(i32),
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_valid(names, Validity::Now)
    }

    pub(crate) fn issue_valid(&self, names: &[&str], valid: Validity) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued::new(&params(names, valid).signed_by(&key, &self.0).unwrap(), &key)
    }
}

impl Issued {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            spki: key.subject_public_key_info(),
        }
    }

    /// A self-signed certificate.
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params(names, Validity::Now).self_signed(&key).unwrap(), &key)
    }

    /// A self-signed CA certificate, as `openssl req -x509` creates.
    pub(crate) fn self_signed_authority(names: &[&str], valid: Validity) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names, valid);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = Vec::new();
        Self::new(&params.self_signed(&key).unwrap(), &key)
    }

    /// A server with this certificate and these ALPN protocols. An empty list disables ALPN.
    pub(crate) fn server(&self, protocols: &[&str]) -> ServerConfig {
        self.server_config(None, protocols)
    }

    /// A server that also requires a client certificate of the authority `clients`.
    pub(crate) fn server_for(&self, clients: &Authority, protocols: &[&str]) -> ServerConfig {
        self.server_config(Some(clients), protocols)
    }

    fn server_config(&self, clients: Option<&Authority>, protocols: &[&str]) -> ServerConfig {
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

fn params(names: &[&str], valid: Validity) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    // OpenSSL takes a certificate with equal subject and issuer for self-signed.
    params.distinguished_name.push(DnType::CommonName, "of a test");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (not_before, not_after) = match valid {
        Validity::Now => ((2001, 1, 1), (4001, 1, 1)),
        Validity::Expired => ((2001, 1, 1), (2002, 1, 1)),
        Validity::NotYet => ((4001, 1, 1), (4002, 1, 1)),
        Validity::Until(year) => ((2001, 1, 1), (year, 1, 1)),
    };
    params.not_before = date_time_ymd(not_before.0, not_before.1, not_before.2);
    params.not_after = date_time_ymd(not_after.0, not_after.1, not_after.2);
    params
}
