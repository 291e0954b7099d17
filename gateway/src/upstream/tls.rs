//! Whom an upstream's servers are trusted by, and what the gateway shows of itself to them: what is
//! in files, read in every load.
//!
//! Pingora makes a TLS client of this for every new connection, and panics on what it cannot read,
//! or refuses the connection. So everything is read here first, by the parsers that it will use:
//! errors are reported at the place that names the file, and what is here can be used. The chain is
//! always verified, and the name: Pingora would skip both for an empty name, so there is always
//! one. Health checks make connections of their own, of the same roots, names and certificates.
//! Absent on purpose: a switch that turns verification off, since a certificate can be its own
//! `ca`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pingora::protocols::tls::CaType;
use pingora::tls::load_native_certs;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pinned::{self, PinningVerifier};
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::files::read_bytes;
use crossgate_config::model::{ClientCertificateSpec, Located, Protocol};

/// Bytes of a file of certificates: those of a whole operating system have a quarter of it. They
/// are gone through at every new connection.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What it takes to speak TLS with the servers of an upstream.
pub struct UpstreamTls {
    server_name: Option<Box<str>>,
    trusted: Arc<CaType>,
    own: Option<Arc<GatewayCertificate>>,
}

/// A client certificate as Pingora takes it, and as rustls does.
pub(crate) struct GatewayCertificate {
    shown: Arc<CertKey>,
    signing: Arc<CertifiedKey>,
}

impl UpstreamTls {
    /// Of what was read for it.
    pub(crate) fn new(
        server_name: Option<Box<str>>,
        trusted: Arc<CaType>,
        own: Option<Arc<GatewayCertificate>>,
    ) -> Self {
        UpstreamTls { server_name, trusted, own }
    }

    /// The name or address that the certificate of a server must have; never empty.
    pub fn server_name(&self, server: IpAddr) -> String {
        self.server_name.as_ref().map_or_else(|| server.to_string(), |name| String::from(&**name))
    }

    /// The certificates of which one must have signed the server's.
    pub fn trusted(&self) -> &Arc<CaType> {
        &self.trusted
    }

    /// Whether a server may be asked that has shown the certificate of this digest (SHA-256),
    /// verified by nothing yet: it is one of those that are trusted, and its name and dates are
    /// right.
    pub(crate) fn is_pinned(&self, sha256: &[u8], server: IpAddr) -> bool {
        let Some(certificate) = pinned::by_digest(raw(self.trusted.iter()), sha256) else { return false };
        let name = ServerName::try_from(self.server_name(server));
        name.is_ok_and(|name| pinned::verify_pinned(&certificate, &name, UnixTime::now()).is_ok())
    }

    /// What a server is shown that asks who the gateway is.
    pub fn own(&self) -> Option<&Arc<CertKey>> {
        self.own.as_ref().map(|own| &own.shown)
    }

    /// The TLS client of connections outside Pingora, equal to its own: the same is offered, and
    /// each server verified again, since a session that is resumed is not.
    pub(crate) fn client(&self, protocol: Protocol) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(raw(self.trusted.iter()).map(CertificateDer::from));
        #[expect(clippy::expect_used, reason = "the provider has suites for every version, which tests build")]
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("suites for these versions");
        let trusted: Box<[_]> = raw(self.trusted.iter()).map(|der| CertificateDer::from(der.to_vec())).collect();
        let builder = match PinningVerifier::new(trusted) {
            Some(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
            None => builder.with_root_certificates(roots),
        };
        let mut config = match &self.own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.signing)))),
            None => builder.with_no_client_auth(),
        };
        let offered: &[&str] = match protocol {
            Protocol::Http1 => &["http/1.1"],
            Protocol::Http2 => &["h2"],
            Protocol::Auto => &["h2", "http/1.1"],
        };
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::disabled();
        config
    }
}

/// Equal when they say the same: what was read is kept across reloads as long as it does.
impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        let UpstreamTls { server_name, trusted, own } = self;
        let same_own = match (own, &other.own) {
            (Some(ours), Some(theirs)) => {
                ours.shown.key() == theirs.shown.key() && ours.signing.cert == theirs.signing.cert
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_own && *server_name == other.server_name && raw(trusted.iter()).eq(raw(other.trusted.iter()))
    }
}

fn raw<'c>(certificates: impl IntoIterator<Item = &'c WrappedX509>) -> impl Iterator<Item = &'c [u8]> {
    certificates.into_iter().map(|certificate| certificate.borrow_raw_cert().as_slice())
}

/// The certificates that the system trusts.
pub(crate) fn system_roots() -> Result<Arc<CaType>, String> {
    let advice = "name a file of those that this upstream is to be trusted by under ca";
    let all =
        load_native_certs().map_err(|error| format!("the system's certificates cannot be read: {error}; {advice}"))?;
    // Of a system's hundreds of certificates, a parser may reject one.
    let usable: Vec<WrappedX509> = all.iter().filter_map(|certificate| anchor(certificate).ok()).collect();
    if usable.is_empty() {
        return Err(format!("this system trusts no certificates; {advice}"));
    }
    Ok(usable.into())
}

/// Reads a file, or the two that belong together, and notes what is wrong with them.
pub(crate) struct PemReader<'a> {
    /// The configuration that names them.
    file: &'a Path,
    /// The first that is no good.
    pub(crate) bad: Option<PathBuf>,
    /// All that is wrong.
    pub(crate) found: Diagnostics,
}

impl<'a> PemReader<'a> {
    pub(crate) fn new(file: &'a Path) -> Self {
        PemReader { file, bad: None, found: Diagnostics::default() }
    }

    /// The certificates in a file, all of which others can be verified by.
    pub(crate) fn trusted(&mut self, ca: &Located<PathBuf>) -> Option<Arc<CaType>> {
        let mut trusted = Vec::new();
        for (nth, certificate) in (1..).zip(self.certificates(ca)?) {
            match anchor(&certificate) {
                Ok(anchor) => trusted.push(anchor),
                Err(why) => self.error(ca, format!("certificate {nth} in {} is no good: {why}", ca.value.display())),
            }
        }
        self.bad.is_none().then(|| trusted.into())
    }

    /// A client certificate and its key.
    pub(crate) fn own(&mut self, spec: &ClientCertificateSpec) -> Option<Arc<GatewayCertificate>> {
        let ClientCertificateSpec { certificate, key } = spec;
        let (chain, private) = (self.certificates(certificate), self.private_key(key));
        let (chain, private) = (chain?, private?);
        let readable = chain.iter().try_for_each(|one| wrapped(one).map(drop));
        readable
            .map_err(|why| self.error(certificate, format!("{} is no good: {why}", certificate.value.display())))
            .ok()?;
        let signing = CertifiedKey::from_der(chain.clone(), private.clone_key(), &default_provider());
        let signing = signing.map_err(|error| {
            self.error(key, format!("this key does not go with {}: {error}", certificate.value.display()));
        });
        let signing = Arc::new(signing.ok()?);
        let chain = chain.iter().map(|one| one.to_vec()).collect();
        Some(Arc::new(GatewayCertificate {
            shown: Arc::new(CertKey::new(chain, private.secret_der().to_vec())),
            signing,
        }))
    }

    /// Looks at one of the two where the other is not at hand.
    pub(crate) fn part(&mut self, certificate: Option<&Located<PathBuf>>, key: Option<&Located<PathBuf>>) {
        certificate.map(|file| self.certificates(file));
        key.map(|file| self.private_key(file));
    }

    fn error(&mut self, named: &Located<PathBuf>, message: String) {
        self.bad.get_or_insert_with(|| named.value.clone());
        self.found.push(Diagnostic::error(self.file, named.at, message));
    }

    fn bytes(&mut self, named: &Located<PathBuf>) -> Option<Vec<u8>> {
        let read = read_bytes(&named.value, FILE_BYTES_MAX);
        read.map_err(|error| self.error(named, format!("{} cannot be read: {error}", named.value.display()))).ok()
    }

    /// The certificates in a file, at least one. A parser's error may quote the PEM, so it is not
    /// reported.
    fn certificates(&mut self, named: &Located<PathBuf>) -> Option<Vec<CertificateDer<'static>>> {
        let text = self.bytes(named)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match all {
            Ok(all) if !all.is_empty() => Some(all),
            Ok(_) | Err(_) => {
                let wanted = "name a PEM file, which has -----BEGIN CERTIFICATE----- in it";
                self.error(named, format!("{} has no readable certificate; {wanted}", named.value.display()));
                None
            }
        }
    }

    fn private_key(&mut self, named: &Located<PathBuf>) -> Option<PrivateKeyDer<'static>> {
        let text = self.bytes(named)?;
        let key = PrivateKeyDer::from_pem_slice(&text).ok();
        // Pingora detects the kind from the bytes alone.
        let key = key.and_then(|key| PrivateKeyDer::try_from(key.secret_der().to_vec()).ok());
        if key.is_none() {
            let wanted = "name a PEM file with an unencrypted one, which has PRIVATE KEY----- in it";
            self.error(named, format!("{} has no readable private key; {wanted}", named.value.display()));
        }
        key
    }
}

impl GatewayCertificate {
    /// The certificate, and those between it and one that servers trust.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &WrappedX509> {
        [self.shown.leaf()].into_iter().chain(self.shown.intermediates())
    }

    /// When it expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> i64 {
        self.shown.leaf().borrow_cert().validity().not_after.timestamp()
    }
}

/// Which of the certificates in a file are a server's own, as a message each.
pub(crate) fn servers_own<'c>(
    certificates: impl IntoIterator<Item = &'c WrappedX509>,
    path: &Path,
) -> impl Iterator<Item = String> {
    let of_server = |(_, certificate): &(usize, &WrappedX509)| pinned::is_server_of_its_own(certificate.borrow_cert());
    (1..).zip(certificates).filter(of_server).map(move |(nth, _)| {
        format!(
            "certificate {nth} in {} is a server's own and is accepted from that server alone, byte for byte; \
             replace it here before the server shows another",
            path.display()
        )
    })
}

/// Which of the certificates in a file have had their time, as a message each.
pub(crate) fn expired<'c>(
    certificates: impl IntoIterator<Item = &'c WrappedX509>,
    path: &Path,
) -> impl Iterator<Item = String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    (1..).zip(certificates).filter_map(move |(nth, certificate)| {
        let end = certificate.borrow_cert().validity().not_after;
        let is_over = u64::try_from(end.timestamp()).is_ok_and(|end| end < now);
        is_over.then(|| format!("certificate {nth} in {} expired on {end}; replace it", path.display()))
    })
}

/// A certificate that others can be verified by.
fn anchor(certificate: &CertificateDer<'_>) -> Result<WrappedX509, String> {
    RootCertStore::empty().add(certificate.clone()).map_err(|error| error.to_string())?;
    wrapped(certificate)
}

/// A certificate as Pingora keeps it, whose way of making one panics.
fn wrapped(certificate: &CertificateDer<'_>) -> Result<WrappedX509, String> {
    X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    Ok(WrappedX509::new(certificate.to_vec(), parse_x509))
}

#[cfg(test)]
impl UpstreamTls {
    /// Trusts no certificate.
    pub(crate) fn trusting_no_certificate(server_name: Option<&str>) -> Self {
        UpstreamTls { server_name: server_name.map(Box::from), trusted: Vec::new().into(), own: None }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crossgate_config::model::Position;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        /// `good.pem` and `good.key` go together; `other.key` is another's, `old.pem` has had its
        /// time.
        fn new() -> Self {
            let files = Files { dir: tempfile::tempdir().unwrap() };
            let params = CertificateParams::new(vec!["api.internal.test".to_owned()]).unwrap();
            let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
            let good = params.self_signed(&key).unwrap().pem();
            let mut old = params.clone();
            (old.not_before, old.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
            files.write("good.pem", &good);
            files.write("good.key", &key.serialize_pem());
            files.write("other.key", &other.serialize_pem());
            files.write("old.pem", &old.self_signed(&key).unwrap().pem());
            files.write("twice.pem", &[&*good, &good].concat());
            files.write("text.pem", "the certificate is in the safe");
            files.write("cut.pem", good.split_at(good.len() / 2).0);
            let body = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
            files.write("odd.pem", &body("c2VjcmV0"));
            files.write("odd.key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
            files
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }

        fn read(&self, ca: &str, own: Option<(&str, &str)>) -> (Option<UpstreamTls>, Vec<String>) {
            let located = |name: &str| Located { value: self.dir.path().join(name), at: Position::START };
            let (mut reading, ca) = (PemReader::new(Path::new("gateway.yaml")), located(ca));
            let trusted = reading.trusted(&ca);
            let own = own.map(|(certificate, key)| {
                reading.own(&ClientCertificateSpec { certificate: located(certificate), key: located(key) })
            });
            let mut told: Vec<String> = reading.found.iter().map(|one| one.message.clone()).collect();
            assert_eq!(reading.bad.is_some(), !told.is_empty());
            told.extend(expired(trusted.iter().flat_map(|trusted| trusted.iter()), &ca.value));
            let prefix = format!("{}/", self.dir.path().display());
            let tls = match own {
                None => trusted.map(|trusted| UpstreamTls::new(None, trusted, None)),
                Some(own) => trusted.zip(own).map(|(trusted, own)| UpstreamTls::new(None, trusted, Some(own))),
            };
            (tls, told.iter().map(|one| one.replace(&prefix, "")).collect())
        }
    }

    #[track_caller]
    fn check(files: &Files, ca: &str, own: Option<(&str, &str)>, wanted: &[&str]) {
        let (read, told) = files.read(ca, own);
        assert_eq!(told.len(), wanted.len(), "{told:?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.starts_with(wanted), "{told:?} does not begin with {wanted:?}");
            assert!(!told.contains("secret") && !told.contains("c2VjcmV0") && !told.contains("safe"), "{told:?}");
        }
        assert_eq!(read.is_some(), wanted.iter().all(|told| told.contains("expired")));
    }

    #[test]
    fn unusable_files_are_reported_and_not_kept() {
        let files = Files::new();
        let none = "has no readable certificate; name a PEM file, which has -----BEGIN CERTIFICATE-----";
        check(&files, "good.pem", None, &[]);
        check(&files, "twice.pem", Some(("good.pem", "good.key")), &[]);
        check(&files, "missing.pem", None, &["missing.pem cannot be read: No such file"]);
        check(&files, ".", None, &[". cannot be read: not a regular file"]);
        for unreadable in ["text.pem", "cut.pem", "good.key"] {
            check(&files, unreadable, None, &[&format!("{unreadable} {none}")]);
        }
        check(&files, "odd.pem", None, &["certificate 1 in odd.pem is no good: "]);
        check(&files, "good.pem", Some(("good.pem", "other.key")), &["this key does not go with good.pem: "]);
        check(&files, "good.pem", Some(("odd.pem", "good.key")), &["odd.pem is no good: "]);
        for unreadable in ["good.pem", "odd.key", "text.pem"] {
            let wanted = format!("{unreadable} has no readable private key; name a PEM file with an unencrypted one");
            check(&files, "good.pem", Some(("good.pem", unreadable)), &[&wanted]);
        }
        check(&files, "old.pem", None, &["certificate 1 in old.pem expired on "]);
        let both = [&*format!("text.pem {none}"), "missing.key cannot be read"];
        check(&files, "text.pem", Some(("good.pem", "missing.key")), &both);
    }

    #[test]
    fn two_are_equal_when_their_files_say_the_same() {
        let files = Files::new();
        let read = |ca, own| files.read(ca, own).0.unwrap();
        let own = Some(("good.pem", "good.key"));
        assert!(read("good.pem", own) == read("good.pem", own));
        assert!(read("good.pem", own) != read("good.pem", None));
        assert!(read("good.pem", None) != read("twice.pem", None));
        assert!(read("good.pem", None) != read("old.pem", None));
    }

    #[test]
    fn there_is_always_a_name() {
        let files = Files::new();
        let name = |server: &str| files.read("good.pem", None).0.unwrap().server_name(server.parse().unwrap());
        assert_eq!([name("10.0.0.1"), name("2001:db8::1")], ["10.0.0.1", "2001:db8::1"]);
    }
}
