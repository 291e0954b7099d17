//! Loading of TLS files for upstreams: trusted certificates and client certificates.
//!
//! As with the certificates of listeners, a file that becomes invalid keeps its last good version,
//! and a client certificate and its key are one pair in two files. A file that was never valid is
//! an error of the main file, which names it. The system's certificates are in no configured file.
//! If they become unreadable, the ones read before stay in use and a warning reports it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::AHashMap;
use pingora::protocols::tls::CaType;

use super::{BrokenFile, ConfigLoader, SecretsPresence};
use crate::upstream::{GatewayCertificate, PemReader, UpstreamTls, expired, servers_own, system_roots};
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{ClientCertificateSpec, Located, MainFile, Position, TlsSpec};
use crossgate_config::warnings::WarningCode;

/// Last good versions of everything that was read.
#[derive(Clone, Default)]
pub(super) struct GoodTrust {
    system: Option<Arc<CaType>>,
    trusted: BTreeMap<PathBuf, Arc<CaType>>,
    own: BTreeMap<(PathBuf, PathBuf), Arc<GatewayCertificate>>,
}

impl GoodTrust {
    /// Lists the expiry of each client certificate with its file, in Unix seconds.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (Box<str>, i64)> {
        self.own.iter().map(|((file, _), own)| (Box::from(file.to_string_lossy()), own.expires()))
    }
}

/// Result of one load.
#[derive(Default)]
pub(super) struct TrustLoad {
    pub(super) trust: GoodTrust,
    /// Files whose version on disk is not in use.
    pub(super) refused: Vec<BrokenFile>,
    /// TLS settings of each upstream that uses TLS.
    pub(super) tls: AHashMap<Box<str>, Arc<UpstreamTls>>,
}

impl ConfigLoader {
    /// Reads the files of the upstreams. Each upstream with TLS gets its settings or an error.
    pub(super) fn load_trust(&mut self, main: &MainFile, found: &mut Diagnostics) -> TrustLoad {
        let file = Arc::clone(&self.main_path);
        let secrets = self.secrets;
        let tls_upstreams =
            main.upstreams.iter().filter_map(|upstream| Some((&upstream.name.value, upstream.tls.as_ref()?)));
        // Stamped before they are read, so that a change during the read is detected.
        tls_upstreams.clone().flat_map(|(_, tls)| tls.value.files()).for_each(|file| {
            self.note_certificate(file);
        });
        let none = GoodTrust::default();
        let before = self.live.as_ref().map_or(&none, |live| &live.trust);
        let mut reader = TrustReader { file: &file, secrets, before, read: TrustLoad::default(), found };
        for (name, spec) in tls_upstreams {
            let tls = reader.tls(spec);
            reader.read.tls.extend(tls.map(|tls| (name.clone(), Arc::new(tls))));
        }
        reader.read
    }
}

struct TrustReader<'a> {
    file: &'a Path,
    secrets: SecretsPresence,
    before: &'a GoodTrust,
    read: TrustLoad,
    found: &'a mut Diagnostics,
}

impl TrustReader<'_> {
    fn tls(&mut self, Located { value, at }: &Located<TlsSpec>) -> Option<UpstreamTls> {
        let TlsSpec { server_name, ca, client_certificate } = value;
        let trusted = match ca {
            Some(ca) => self.trusted(ca),
            None => self.load_system_roots(*at),
        };
        let own = client_certificate.as_ref().map(|spec| self.own(spec));
        if own.as_ref().is_some_and(Option::is_none) {
            return None;
        }
        Some(UpstreamTls::new(server_name.clone(), trusted?, own.flatten()))
    }

    fn trusted(&mut self, ca: &Located<PathBuf>) -> Option<Arc<CaType>> {
        if self.secrets.allows_missing(ca, self.file, self.found) {
            return None;
        }
        let known = self.read.trust.trusted.get(&ca.value).cloned();
        let trusted = match known {
            Some(known) => known,
            None => {
                let mut reading = PemReader::new(self.file);
                let fresh = reading.trusted(ca);
                let trusted = self.choose_version(fresh, reading, self.before.trusted.get(&ca.value))?;
                self.read.trust.trusted.insert(ca.value.clone(), Arc::clone(&trusted));
                trusted
            }
        };
        self.warn(WarningCode::CertificateDates, ca.at, expired(trusted.iter(), &ca.value));
        self.warn(WarningCode::PinnedCertificate, ca.at, servers_own(trusted.iter(), &ca.value));
        Some(trusted)
    }

    fn own(&mut self, spec: &ClientCertificateSpec) -> Option<Arc<GatewayCertificate>> {
        if self.lacks_client_certificate(spec) {
            return None;
        }
        let files = (spec.certificate.value.clone(), spec.key.value.clone());
        let known = self.read.trust.own.get(&files).cloned();
        let own = match known {
            Some(known) => known,
            None => {
                let mut reading = PemReader::new(self.file);
                let fresh = reading.own(spec);
                let own = self.choose_version(fresh, reading, self.before.own.get(&files))?;
                self.read.trust.own.insert(files, Arc::clone(&own));
                own
            }
        };
        self.warn(WarningCode::CertificateDates, spec.certificate.at, expired(own.chain(), &spec.certificate.value));
        Some(own)
    }

    /// Checks for a pair with a missing file that is allowed to be missing. The other file is still
    /// checked.
    fn lacks_client_certificate(&mut self, ClientCertificateSpec { certificate, key }: &ClientCertificateSpec) -> bool {
        let present =
            [certificate, key].map(|file| (!self.secrets.allows_missing(file, self.file, self.found)).then_some(file));
        let [certificate, key] = present;
        let is_complete = certificate.is_some() && key.is_some();
        if !is_complete {
            let mut reading = PemReader::new(self.file);
            reading.part(certificate, key);
            self.found.extend(reading.found);
        }
        !is_complete
    }

    /// Reads the system's certificates, once, for the first upstream that needs them.
    fn load_system_roots(&mut self, at: Position) -> Option<Arc<CaType>> {
        if self.read.trust.system.is_none() {
            let (read, before) = (system_roots(), self.before.system.clone());
            self.read.trust.system = match (read, before) {
                (Ok(roots), _) => Some(roots),
                (Err(message), Some(before)) => {
                    let message = format!("{message}; the certificates read before stay in use");
                    self.warn(WarningCode::SystemRoots, at, [message]);
                    Some(before)
                }
                (Err(message), None) if self.secrets == SecretsPresence::Optional => {
                    self.warn(WarningCode::MissingSecret, at, [message]);
                    None
                }
                (Err(message), None) => {
                    self.found.push(Diagnostic::error(self.file, at, message));
                    None
                }
            };
        }
        self.read.trust.system.clone()
    }

    /// Returns the fresh version, or the last good one if the file is refused now.
    fn choose_version<T>(
        &mut self,
        fresh: Option<Arc<T>>,
        reading: PemReader<'_>,
        before: Option<&Arc<T>>,
    ) -> Option<Arc<T>>
    where
        T: ?Sized,
    {
        let PemReader { bad, found: errors, .. } = reading;
        match (fresh, before) {
            (Some(fresh), _) => Some(fresh),
            (None, Some(before)) => {
                self.read.refused.push(BrokenFile { file: bad.unwrap_or_default(), errors });
                Some(Arc::clone(before))
            }
            (None, None) => {
                self.found.extend(errors);
                None
            }
        }
    }

    fn warn(&mut self, code: WarningCode, at: Position, messages: impl IntoIterator<Item = String>) {
        self.found.extend(messages.into_iter().map(|message| Diagnostic::warning(code, self.file, at, message)));
    }
}
