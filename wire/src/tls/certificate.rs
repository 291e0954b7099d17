//! A certificate and its private key, parsed from PEM files.
//!
//! Certificates that clients would refuse, or that cannot be served, are rejected here with a hint
//! at what would be accepted. The caller checks the validity period, since it has the clock.
//! Messages contain nothing of a key, and a parsed key cannot be printed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::PROVIDER;
use super::names::CertificateNames;

/// A certificate that can be served, with its key.
pub struct ServerCertificate {
    key: Arc<CertifiedKey>,
    names: CertificateNames,
    /// The start and end of its validity, as Unix timestamps.
    valid: (i64, i64),
}

/// The bad file of a pair, with a message for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFileError {
    /// The file with the certificate.
    Certificate(String),
    /// The file with the key.
    Key(String),
}

const NO_CERTIFICATE: &str =
    "no certificate found; expected a PEM file with the lines `BEGIN CERTIFICATE` and `END CERTIFICATE`";
const NO_KEY: &str =
    "no private key found; expected a PEM file with the lines `BEGIN PRIVATE KEY` and `END PRIVATE KEY`";
const ENCRYPTED_KEY: &str =
    "the private key is encrypted; decrypt it, for example with `openssl pkey`, and restrict who can read the file";
const DAMAGED: &str = "the PEM text is damaged; copy the whole file again";
const UNREADABLE_CERTIFICATE: &str =
    "the first certificate cannot be parsed; expected a server certificate of X.509 version 3";
const NO_NAMES: &str =
    "the certificate names no host; issue one with subjectAltName, since clients ignore the common name";
const UNKNOWN_KEY: &str =
    "unsupported private key; use ECDSA (P-256, P-384, P-521), Ed25519, or RSA of 2048 to 8192 bits";
const OTHER_KEY: &str =
    "the private key belongs to another certificate; use the key that the certificate was issued for";

impl ServerCertificate {
    /// Parses the contents of both files, which may be the same file.
    ///
    /// # Errors
    /// Returns the first problem of either file.
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<Self, CertificateFileError> {
        let chain = chain(certificate).map_err(|what| CertificateFileError::Certificate(what.to_owned()))?;
        let first = chain.first().map(CertificateDer::as_ref).unwrap_or_default();
        let (names, valid) =
            names_and_validity(first).map_err(|what| CertificateFileError::Certificate(what.to_owned()))?;
        let key = private_key(key).map_err(|what| CertificateFileError::Key(what.to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|error| file_error(&error))?;
        Ok(ServerCertificate { key: Arc::new(key), names, valid })
    }

    /// Checks that the contents of a certificate file can be served, without its key.
    ///
    /// # Errors
    /// Returns the problem of the file.
    pub fn check_chain(certificate: &[u8]) -> Result<(), String> {
        let chain = chain(certificate)?;
        let first = chain.first().map(CertificateDer::as_ref).unwrap_or_default();
        names_and_validity(first)?;
        Ok(())
    }

    /// A warning if the certificate is not valid at this time.
    pub fn validity_warning(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let (from, until) = self.valid;
        match now {
            _ if now < from => {
                Some(format!("this certificate is not valid before {}; clients refuse it until then", date(from)))
            }
            _ if now > until => {
                Some(format!("this certificate expired on {}; renew it, since clients refuse it", date(until)))
            }
            _ => None,
        }
    }

    /// The expiry time as a Unix timestamp.
    pub fn expires(&self) -> i64 {
        self.valid.1
    }

    pub fn names(&self) -> &CertificateNames {
        &self.names
    }

    /// Whether both certificates are the same, and so their keys: a certificate fixes its key.
    pub fn is_same(&self, other: &ServerCertificate) -> bool {
        self.key.cert == other.key.cert
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(super) fn can_sign(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }
}

/// The problem of a pair. The library's own text is not used, since it may quote the key.
#[expect(clippy::wildcard_enum_match_arm, reason = "the errors are rustls' own, most of them of no concern here")]
fn file_error(error: &Error) -> CertificateFileError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateFileError::Key(OTHER_KEY.to_owned()),
        Error::InvalidCertificate(_) => CertificateFileError::Certificate(UNREADABLE_CERTIFICATE.to_owned()),
        _ => CertificateFileError::Key(UNKNOWN_KEY.to_owned()),
    }
}

fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(NO_CERTIFICATE),
        Ok(chain) => Ok(chain),
        Err(_) => Err(DAMAGED),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the errors are the reader's own: the rest is about damage")]
fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    let is_encrypted = || contains(text, b"ENCRYPTED");
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        PemError::NoItemsFound if is_encrypted() => ENCRYPTED_KEY,
        PemError::NoItemsFound => NO_KEY,
        _ if is_encrypted() => ENCRYPTED_KEY,
        _ => DAMAGED,
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

/// The hosts and the validity period of a certificate.
fn names_and_validity(der: &[u8]) -> Result<(CertificateNames, (i64, i64)), &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| UNREADABLE_CERTIFICATE)?;
    let alternatives = certificate.subject_alternative_name().map_err(|_| UNREADABLE_CERTIFICATE)?;
    let mut names = CertificateNames::default();
    for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.add(name),
            GeneralName::IPAddress(bytes) => address(bytes).into_iter().for_each(|address| names.add_address(address)),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::URI(_)
            | GeneralName::RegisteredID(_) => {}
        }
    }
    if names.is_empty() {
        return Err(NO_NAMES);
    }
    let valid = certificate.validity();
    Ok((names, (valid.not_before.timestamp(), valid.not_after.timestamp())))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok()
}

fn date(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0)
        .map_or_else(|| seconds.to_string(), |date| date.format("%F %T UTC").to_string())
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("names", &self.names)
            .field("valid", &self.valid)
            .finish_non_exhaustive()
    }
}
