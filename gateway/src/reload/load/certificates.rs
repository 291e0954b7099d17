//! Loading of the listeners' certificates.
//!
//! A certificate and its key are one pair in two files: both are valid, or the last good pair stays
//! in use. A pair that was never valid is an error of the main file, which names it. The files can
//! change without the configuration, and the configuration without the files. The listeners are the
//! ones of the start, so a certificate is matched to its listener by position and address.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::{BrokenFile, ConfigLoader};
use crate::reload::stamp::FileStamp;
use crate::settings;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::files::read_bytes;
use crossgate_config::model::{CertificateSpec, Listener, ListenerTls, Located, MainFile};
use crossgate_config::warnings::WarningCode;
use crossgate_wire::tls::Http2;
use crossgate_wire::tls::{CertificateFileError, NegotiatedProtocol, ServerCertificate, Terminator};

/// Limit on one file. A chain of a few certificates has some kilobytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Paths of a certificate and its key.
type Files = (PathBuf, PathBuf);

/// Last good versions of all certificates.
#[derive(Debug, Clone, Default)]
pub(super) struct GoodCertificates(BTreeMap<Files, GoodCertificate>);

#[derive(Debug, Clone)]
struct GoodCertificate {
    certificate: Arc<ServerCertificate>,
    stamps: [Option<FileStamp>; 2],
}

/// Result of one load.
#[derive(Default)]
pub(super) struct CertificateLoad {
    pub(super) certificates: GoodCertificates,
    /// Files whose version on disk is not in use.
    pub(super) refused: Vec<BrokenFile>,
    /// TLS terminators of the listeners of this process.
    pub(super) terminators: Vec<Option<Arc<Terminator>>>,
    /// All certificates if every listener uses TLS: clients reach a host only with one of them.
    pub(super) only: Option<Vec<Arc<ServerCertificate>>>,
    /// Set if a certificate is missing on this machine and is allowed to be.
    is_partial: bool,
}

impl GoodCertificates {
    /// Lists the expiry of each certificate with its file, in Unix seconds.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (Box<str>, i64)> {
        self.0.iter().map(|((file, _), good)| (Box::from(file.to_string_lossy()), good.certificate.expires()))
    }
}

impl PartialEq for GoodCertificates {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&GoodCertificate, &GoodCertificate)| Arc::ptr_eq(&a.certificate, &b.certificate);
        self.0.keys().eq(other.0.keys()) && self.0.values().zip(other.0.values()).all(same)
    }
}

impl ConfigLoader {
    /// Reads the certificates that changed and builds the terminators.
    pub(super) fn load_certificates(&mut self, main: &MainFile, found: &mut Diagnostics) -> CertificateLoad {
        let listeners = &main.settings.listeners;
        let before = self.live.as_ref().map(|live| live.certificates.clone()).unwrap_or_default();
        let mut reader = CertificateReader {
            loader: self,
            before: &before,
            now: SystemTime::now(),
            read: CertificateLoad::default(),
            found,
        };
        let tls = listeners.iter().map(|listener| listener.tls.as_ref().map(|tls| reader.load_all(tls)));
        let tls: Vec<Option<Vec<_>>> = tls.collect();
        let mut read = reader.read;
        read.terminators = self.build_terminators(listeners, &tls);
        let tls = if read.is_partial { vec![None] } else { tls };
        read.only = tls.into_iter().collect::<Option<Vec<_>>>().map(|all| all.into_iter().flatten().collect());
        read
    }

    /// Builds the terminators of this process's listeners. A TLS listener that is no longer in the
    /// file keeps its certificates.
    fn build_terminators(
        &self,
        wanted: &[Listener],
        tls: &[Option<Vec<Arc<ServerCertificate>>>],
    ) -> Vec<Option<Arc<Terminator>>> {
        let make = |index: usize, http2: Http2, previous: Option<&Arc<Terminator>>| {
            let (spec, certificates) = (wanted.get(index)?.tls.as_ref()?, tls.get(index)?.as_ref()?);
            let protocol = NegotiatedProtocol { min_version: settings::tls_version(spec.min_version), http2 };
            Some(Arc::new(Terminator::new(certificates, protocol, previous.map(|previous| &**previous))))
        };
        let Some(live) = &self.live else {
            let all = wanted.iter().enumerate();
            return all.map(|(index, listener)| make(index, settings::http2(listener.http2), None)).collect();
        };
        let started = live.started.listeners.iter().enumerate();
        let terminator = |(index, listener): (usize, &Listener)| {
            listener.tls.as_ref()?;
            let previous = live.snapshot.terminator(index);
            let now = find_listener(index, listener, wanted)
                .and_then(|now| make(now, settings::http2(listener.http2), previous));
            now.or_else(|| previous.map(Arc::clone))
        };
        started.map(terminator).collect()
    }
}

/// Finds the position of a listener in the file: its old position, or another with its address.
fn find_listener(index: usize, started: &Listener, wanted: &[Listener]) -> Option<usize> {
    let has_address = |listener: &Listener| listener.address == started.address;
    let in_place = wanted.get(index).is_some_and(has_address).then_some(index);
    in_place.or_else(|| wanted.iter().position(has_address))
}

struct CertificateReader<'a> {
    loader: &'a mut ConfigLoader,
    before: &'a GoodCertificates,
    now: SystemTime,
    read: CertificateLoad,
    found: &'a mut Diagnostics,
}

impl CertificateReader<'_> {
    fn load_all(&mut self, tls: &ListenerTls) -> Vec<Arc<ServerCertificate>> {
        tls.certificates.iter().filter_map(|spec| self.load_pair(spec)).collect()
    }

    /// Loads a pair from disk, or keeps its last good version if the files are invalid.
    fn load_pair(&mut self, spec: &CertificateSpec) -> Option<Arc<ServerCertificate>> {
        let files = (spec.certificate.value.clone(), spec.key.value.clone());
        if let Some(known) = self.read.certificates.0.get(&files) {
            return Some(Arc::clone(&known.certificate));
        }
        if self.lacks_file(spec) {
            self.read.is_partial = true;
            return None;
        }
        // Stamped before they are read, so that a change during the read is detected.
        let stamps = [&files.0, &files.1].map(|file| self.loader.note_certificate(file));
        let before = self.before.0.get(&files);
        let good = match before.filter(|before| before.is_on_disk(stamps)) {
            Some(unchanged) => unchanged.clone(),
            None => match read_pair(&files) {
                Ok(fresh) => GoodCertificate { certificate: reuse_if_same(fresh, before), stamps },
                Err(bad) => self.refuse(spec, bad, before)?,
            },
        };
        if let Some(doubt) = good.certificate.validity_warning(self.now) {
            self.found.push(Diagnostic::warning(
                WarningCode::CertificateDates,
                &self.loader.main_path,
                spec.certificate.at,
                doubt,
            ));
        }
        let certificate = Arc::clone(&good.certificate);
        self.read.certificates.0.insert(files, good);
        Some(certificate)
    }

    /// Checks for a pair with a missing file that is allowed to be missing. The other file is still
    /// checked.
    fn lacks_file(&mut self, spec: &CertificateSpec) -> bool {
        let loader = &*self.loader;
        let lacks = [&spec.certificate, &spec.key].map(|file| loader.lacks_secret(file, self.found));
        if lacks == [false, true] {
            let checked = read(&spec.certificate.value).and_then(|text| ServerCertificate::check_chain(&text));
            let error = checked.err().map(|what| unusable_file_error(&loader.main_path, &spec.certificate, &what));
            self.found.extend(error);
        }
        lacks.contains(&true)
    }

    fn refuse(
        &mut self,
        spec: &CertificateSpec,
        bad: CertificateFileError,
        before: Option<&GoodCertificate>,
    ) -> Option<GoodCertificate> {
        let (file, what) = match bad {
            CertificateFileError::Certificate(what) => (&spec.certificate, what),
            CertificateFileError::Key(what) => (&spec.key, what),
        };
        let error = unusable_file_error(&self.loader.main_path, file, &what);
        match before {
            Some(before) => {
                let errors = Diagnostics::from_iter([error]);
                self.read.refused.push(BrokenFile { file: file.value.clone(), errors });
                Some(before.clone())
            }
            None => {
                self.found.push(error);
                None
            }
        }
    }
}

impl GoodCertificate {
    fn is_on_disk(&self, now: [Option<FileStamp>; 2]) -> bool {
        let is_unchanged = |(read, now): (&Option<FileStamp>, Option<FileStamp>)| {
            read.zip(now).is_some_and(|(read, now)| read.proves_unchanged(&now))
        };
        self.stamps.iter().zip(now).all(is_unchanged)
    }
}

/// Reuses the previous certificate if the fresh one is identical, so that TLS sessions of clients
/// can be resumed.
fn reuse_if_same(fresh: ServerCertificate, before: Option<&GoodCertificate>) -> Arc<ServerCertificate> {
    let same = before.filter(|before| before.certificate.is_same(&fresh));
    same.map_or_else(|| Arc::new(fresh), |before| Arc::clone(&before.certificate))
}

fn unusable_file_error(main: &Path, file: &Located<PathBuf>, what: &str) -> Diagnostic {
    Diagnostic::error(main, file.at, format!("{} cannot be used: {what}", file.value.display()))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_bytes(file, PEM_BYTES_MAX).map_err(|error| format!("{error}: expected a PEM file that the gateway may read"))
}

fn read_pair((certificate, key): &Files) -> Result<ServerCertificate, CertificateFileError> {
    let certificate = read(certificate).map_err(CertificateFileError::Certificate)?;
    ServerCertificate::new(&certificate, &read(key).map_err(CertificateFileError::Key)?)
}
