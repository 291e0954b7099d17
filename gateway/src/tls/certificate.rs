//! A certificate and its private key, out of the PEM files they are kept in.
//!
//! What a client would not take, or could not be served, is refused here, with what would be accepted. Only the time is left to
//! whoever has a clock. Nothing of a key goes into a message, and what is kept of one cannot be printed.

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
use super::names::Names;

/// A certificate that can be served.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Names,
    /// From when to when it is valid, in seconds since 1970.
    valid: (i64, i64),
}

/// Which of the two files is wrong, and how: for whoever wrote it into the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadFile {
    /// That with the certificate.
    Certificate(String),
    /// That with the key.
    Key(String),
}

const NO_CERTIFICATE: &str =
    "there is no certificate in it; name a PEM file, which has the lines `BEGIN CERTIFICATE` and `END CERTIFICATE`";
const NO_KEY: &str =
    "there is no private key in it; name a PEM file, which has the lines `BEGIN PRIVATE KEY` and `END PRIVATE KEY`";
const ENCRYPTED_KEY: &str =
    "its private key is encrypted; decrypt it, as with `openssl pkey`, and let nobody else read the file";
const DAMAGED: &str = "its PEM text is damaged; copy the whole file anew";
const UNREADABLE_CERTIFICATE: &str =
    "its first certificate cannot be understood; name one made for a server, of X.509 version 3";
const NO_NAMES: &str =
    "its certificate is for no host; clients look for hosts in subjectAltName alone, so have one issued with that";
const UNKNOWN_KEY: &str =
    "its private key is of no supported kind; use ECDSA (P-256, P-384, P-521), Ed25519, or RSA of 2048 to 8192 bits";
const OTHER_KEY: &str =
    "its private key belongs to another certificate; name the key that the certificate was issued for";

impl Certificate {
    /// Of the texts of both files, which may be the same file's.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<Self, BadFile> {
        let chain = chain(certificate).map_err(|what| BadFile::Certificate(what.to_owned()))?;
        let first = chain.first().map(CertificateDer::as_ref).unwrap_or_default();
        let (names, valid) = facts(first).map_err(|what| BadFile::Certificate(what.to_owned()))?;
        let key = private_key(key).map_err(|what| BadFile::Key(what.to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|error| told(&error))?;
        Ok(Certificate { key: Arc::new(key), names, valid })
    }

    /// What is doubtful about it at this time.
    pub fn doubt(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let (from, until) = self.valid;
        match now {
            _ if now < from => {
                Some(format!("this certificate is not valid before {}; clients refuse it until then", date(from)))
            }
            _ if now > until => {
                Some(format!("this certificate has expired on {}; renew it, since clients refuse it", date(until)))
            }
            _ => None,
        }
    }

    /// When it expires, in seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.valid.1
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Whether both are the same. A certificate tells which key is its own.
    pub(crate) fn is_same(&self, other: &Certificate) -> bool {
        self.key.cert == other.key.cert
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(super) fn can_sign(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }
}

/// What is wrong with a pair, without the library's words, which may be about the key.
#[expect(clippy::wildcard_enum_match_arm, reason = "the errors are rustls' own, most of them of no concern here")]
fn told(error: &Error) -> BadFile {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => BadFile::Key(OTHER_KEY.to_owned()),
        Error::InvalidCertificate(_) => BadFile::Certificate(UNREADABLE_CERTIFICATE.to_owned()),
        _ => BadFile::Key(UNKNOWN_KEY.to_owned()),
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

/// The hosts that a certificate is for, and from when to when.
fn facts(der: &[u8]) -> Result<(Names, (i64, i64)), &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| UNREADABLE_CERTIFICATE)?;
    let alternatives = certificate.subject_alternative_name().map_err(|_| UNREADABLE_CERTIFICATE)?;
    let mut names = Names::default();
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

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).field("valid", &self.valid).finish_non_exhaustive()
    }
}
