//! What upstreams are spoken to with, in a load: whom their servers are trusted by, and what the gateway shows of itself.
//!
//! As with the certificates of listeners, a file that was good and is no more is served on as it was, and a client certificate and its key are one
//! thing in two files. What never was good is a mistake of the main file, which names it. The system's certificates are in no file that is named:
//! those that were read serve on, and a warning says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::AHashMap;
use pingora::protocols::tls::CaType;

use super::{BrokenFile, Loader};
use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::{At, ClientCertificateSpec, Located, Main, TlsSpec};
use crate::upstream::{Own, Reading, UpstreamTls, expired, system_roots};

/// What was read, each as it was last good.
#[derive(Clone, Default)]
pub(super) struct Trust {
    system: Option<Arc<CaType>>,
    trusted: BTreeMap<PathBuf, Arc<CaType>>,
    own: BTreeMap<(PathBuf, PathBuf), Arc<Own>>,
}

impl Trust {
    /// When each certificate that the gateway shows expires, by its file.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (Box<str>, i64)> {
        self.own.iter().map(|((file, _), own)| (Box::from(file.to_string_lossy()), own.expires()))
    }
}

/// What a load read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) trust: Trust,
    /// Files that are not served as they are on disk.
    pub(super) refused: Vec<BrokenFile>,
    /// What each upstream that speaks TLS is spoken to with.
    pub(super) tls: AHashMap<Box<str>, Arc<UpstreamTls>>,
}

impl Loader {
    /// Reads what the upstreams name. Of each that speaks TLS there is what it takes to, or a mistake is reported.
    pub(super) fn trust(&mut self, main: &Main, found: &mut Diagnostics) -> Read {
        let file = Arc::clone(&self.main_path);
        let spoken = main.upstreams.iter().filter_map(|upstream| Some((&upstream.name.value, upstream.tls.as_ref()?)));
        // Before they are read, so that a change meanwhile shows.
        spoken.clone().flat_map(|(_, tls)| tls.value.files()).for_each(|file| {
            self.note_certificate(file);
        });
        let none = Trust::default();
        let before = self.live.as_ref().map_or(&none, |live| &live.trust);
        let mut reader = Reader { file: &file, before, read: Read::default(), found };
        for (name, spec) in spoken {
            let tls = reader.tls(spec);
            reader.read.tls.extend(tls.map(|tls| (name.clone(), Arc::new(tls))));
        }
        reader.read
    }
}

struct Reader<'a> {
    file: &'a Path,
    before: &'a Trust,
    read: Read,
    found: &'a mut Diagnostics,
}

impl Reader<'_> {
    fn tls(&mut self, Located { value, at }: &Located<TlsSpec>) -> Option<UpstreamTls> {
        let TlsSpec { server_name, ca, client_certificate } = value;
        let trusted = match ca {
            Some(ca) => self.trusted(ca),
            None => self.system(*at),
        };
        let own = match client_certificate {
            Some(spec) => Some(self.own(spec)?),
            None => None,
        };
        Some(UpstreamTls::new(server_name.clone(), trusted?, own))
    }

    fn trusted(&mut self, ca: &Located<PathBuf>) -> Option<Arc<CaType>> {
        let known = self.read.trust.trusted.get(&ca.value).cloned();
        let trusted = match known {
            Some(known) => known,
            None => {
                let mut reading = Reading::new(self.file);
                let fresh = reading.trusted(ca);
                let trusted = self.served(fresh, reading, self.before.trusted.get(&ca.value))?;
                self.read.trust.trusted.insert(ca.value.clone(), Arc::clone(&trusted));
                trusted
            }
        };
        self.warn(ca.at, expired(trusted.iter(), &ca.value));
        Some(trusted)
    }

    fn own(&mut self, spec: &ClientCertificateSpec) -> Option<Arc<Own>> {
        let files = (spec.certificate.value.clone(), spec.key.value.clone());
        let known = self.read.trust.own.get(&files).cloned();
        let own = match known {
            Some(known) => known,
            None => {
                let mut reading = Reading::new(self.file);
                let fresh = reading.own(spec);
                let own = self.served(fresh, reading, self.before.own.get(&files))?;
                self.read.trust.own.insert(files, Arc::clone(&own));
                own
            }
        };
        self.warn(spec.certificate.at, expired(own.chain(), &spec.certificate.value));
        Some(own)
    }

    /// Read for the first upstream that asks, and once.
    fn system(&mut self, at: At) -> Option<Arc<CaType>> {
        if self.read.trust.system.is_none() {
            let (read, before) = (system_roots(), self.before.system.clone());
            self.read.trust.system = match (read, before) {
                (Ok(roots), _) => Some(roots),
                (Err(message), Some(before)) => {
                    self.warn(at, [format!("{message}; those that were read before serve on")]);
                    Some(before)
                }
                (Err(message), None) => {
                    self.found.push(Diagnostic::error(self.file, at, message));
                    None
                }
            };
        }
        self.read.trust.system.clone()
    }

    /// What was read or, for want of that, what was good before.
    fn served<T>(&mut self, fresh: Option<Arc<T>>, reading: Reading<'_>, before: Option<&Arc<T>>) -> Option<Arc<T>>
    where
        T: ?Sized,
    {
        let Reading { bad, found: errors, .. } = reading;
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

    fn warn(&mut self, at: At, messages: impl IntoIterator<Item = String>) {
        self.found.extend(messages.into_iter().map(|message| Diagnostic::warning(self.file, at, message)));
    }
}
