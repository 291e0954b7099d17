//! The certificates of the listeners, in a load.
//!
//! A certificate and its key are one thing in two files: both are good, or the last good pair is served on. A pair that never was good is a
//! mistake of the main file, which names it. What the files say can change without the configuration, and the other way round;
//! listeners are those of the start, so a certificate finds its listener by place and address.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::{BrokenFile, Loader};
use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::files::read_bytes;
use crate::config::model::{CertificateSpec, Listener, ListenerTls, Main};
use crate::http2::Http2;
use crate::reload::stamp::Stamp;
use crate::tls::{BadFile, Certificate, Spoken, Terminator};

/// A chain of some certificates has a few kilobytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where a certificate and its key are.
type Files = (PathBuf, PathBuf);

/// Certificates as they were last good.
#[derive(Debug, Clone, Default)]
pub(super) struct Certificates(BTreeMap<Files, Good>);

#[derive(Debug, Clone)]
struct Good {
    certificate: Arc<Certificate>,
    stamps: [Option<Stamp>; 2],
}

/// What a load read of them.
#[derive(Default)]
pub(super) struct Read {
    pub(super) certificates: Certificates,
    /// Pairs that are not served as they are on disk.
    pub(super) refused: Vec<BrokenFile>,
    /// Of the listeners that this process has.
    pub(super) terminators: Vec<Option<Arc<Terminator>>>,
    /// All of them, where every listener speaks TLS: no host is reached but by one of these.
    pub(super) only: Option<Vec<Arc<Certificate>>>,
}

impl Certificates {
    /// When each expires, by its file.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (Box<str>, i64)> {
        self.0.iter().map(|((file, _), good)| (Box::from(file.to_string_lossy()), good.certificate.expires()))
    }
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Good, &Good)| Arc::ptr_eq(&a.certificate, &b.certificate);
        self.0.keys().eq(other.0.keys()) && self.0.values().zip(other.0.values()).all(same)
    }
}

impl Loader {
    /// Reads the certificates that changed.
    pub(super) fn certificates(&mut self, main: &Main, found: &mut Diagnostics) -> Read {
        let listeners = &main.settings.listeners;
        let before = self.live.as_ref().map(|live| live.certificates.clone()).unwrap_or_default();
        let mut reader = Reader { loader: self, before: &before, now: SystemTime::now(), read: Read::default(), found };
        let tls = listeners.iter().map(|listener| listener.tls.as_ref().map(|tls| reader.all(tls)));
        let tls: Vec<Option<Vec<_>>> = tls.collect();
        let mut read = reader.read;
        read.terminators = self.terminators(listeners, &tls);
        read.only = tls.into_iter().collect::<Option<Vec<_>>>().map(|all| all.into_iter().flatten().collect());
        read
    }

    /// Those of the listeners that this process has. One that speaks TLS goes on with what it has where the file says nothing of it.
    fn terminators(&self, wanted: &[Listener], tls: &[Option<Vec<Arc<Certificate>>>]) -> Vec<Option<Arc<Terminator>>> {
        let make = |index: usize, http2: Http2, previous: Option<&Arc<Terminator>>| {
            let (spec, certificates) = (wanted.get(index)?.tls.as_ref()?, tls.get(index)?.as_ref()?);
            let spoken = Spoken { min_version: spec.min_version, http2 };
            Some(Arc::new(Terminator::new(certificates, spoken, previous.map(|previous| &**previous))))
        };
        let Some(live) = &self.live else {
            let all = wanted.iter().enumerate();
            return all.map(|(index, listener)| make(index, listener.http2, None)).collect();
        };
        let started = live.started.listeners.iter().enumerate();
        let terminator = |(index, listener): (usize, &Listener)| {
            listener.tls.as_ref()?;
            let previous = live.snapshot.terminator(index);
            let now = place(index, listener, wanted).and_then(|now| make(now, listener.http2, previous));
            now.or_else(|| previous.map(Arc::clone))
        };
        started.map(terminator).collect()
    }
}

/// Where a listener is in the file now: in its old place, or elsewhere with its address.
fn place(index: usize, started: &Listener, wanted: &[Listener]) -> Option<usize> {
    let is_it = |listener: &Listener| listener.address == started.address;
    let in_place = wanted.get(index).is_some_and(is_it).then_some(index);
    in_place.or_else(|| wanted.iter().position(is_it))
}

struct Reader<'a> {
    loader: &'a mut Loader,
    before: &'a Certificates,
    now: SystemTime,
    read: Read,
    found: &'a mut Diagnostics,
}

impl Reader<'_> {
    fn all(&mut self, tls: &ListenerTls) -> Vec<Arc<Certificate>> {
        tls.certificates.iter().filter_map(|spec| self.one(spec)).collect()
    }

    /// A pair, as it is on disk or, for want of a good one there, as it last was.
    fn one(&mut self, spec: &CertificateSpec) -> Option<Arc<Certificate>> {
        let files = (spec.certificate.value.clone(), spec.key.value.clone());
        if let Some(known) = self.read.certificates.0.get(&files) {
            return Some(Arc::clone(&known.certificate));
        }
        // Before they are read, so that a change meanwhile shows.
        let stamps = [&files.0, &files.1].map(|file| self.loader.note_certificate(file));
        let before = self.before.0.get(&files);
        let good = match before.filter(|before| before.is_on_disk(stamps)) {
            Some(unchanged) => unchanged.clone(),
            None => match read_pair(&files) {
                Ok(fresh) => Good { certificate: same_or(fresh, before), stamps },
                Err(bad) => self.refuse(spec, bad, before)?,
            },
        };
        if let Some(doubt) = good.certificate.doubt(self.now) {
            self.found.push(Diagnostic::warning(&self.loader.main_path, spec.certificate.at, doubt));
        }
        let certificate = Arc::clone(&good.certificate);
        self.read.certificates.0.insert(files, good);
        Some(certificate)
    }

    fn refuse(&mut self, spec: &CertificateSpec, bad: BadFile, before: Option<&Good>) -> Option<Good> {
        let (file, what) = match bad {
            BadFile::Certificate(what) => (&spec.certificate, what),
            BadFile::Key(what) => (&spec.key, what),
        };
        let message = format!("{} cannot be used: {what}", file.value.display());
        let error = Diagnostic::error(&self.loader.main_path, file.at, message);
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

impl Good {
    fn is_on_disk(&self, now: [Option<Stamp>; 2]) -> bool {
        let vouches = |(read, now): (&Option<Stamp>, Option<Stamp>)| {
            read.zip(now).is_some_and(|(read, now)| read.vouches_for(&now))
        };
        self.stamps.iter().zip(now).all(vouches)
    }
}

/// A certificate that was written anew and is the same keeps the sessions of its clients.
fn same_or(fresh: Certificate, before: Option<&Good>) -> Arc<Certificate> {
    let same = before.filter(|before| before.certificate.is_same(&fresh));
    same.map_or_else(|| Arc::new(fresh), |before| Arc::clone(&before.certificate))
}

fn read_pair((certificate, key): &Files) -> Result<Certificate, BadFile> {
    let unreadable = |error: std::io::Error| format!("{error}; name a PEM file that the gateway may read");
    let read = |file: &Path| read_bytes(file, PEM_BYTES_MAX).map_err(unreadable);
    let certificate = read(certificate).map_err(BadFile::Certificate)?;
    Certificate::new(&certificate, &read(key).map_err(BadFile::Key)?)
}
