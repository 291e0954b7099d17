//! Certificates while the configuration is refused: what serves goes on, with those that it names as they are on disk now.
//!
//! A mistake in the main file may stand there for a week, and a certificate does not wait that long. Nothing else is read: tenants files and
//! scripts that changed meanwhile may belong to the main file that is refused.

use std::path::Path;
use std::sync::Arc;

use super::{Assembly, Beside, BrokenFile, Candidate, Choice, Live, Loaded, Loader, Serving};
use crate::config::diagnostics::Diagnostics;
use crate::scripts::{Reading, Refused};
use crate::snapshot::{Shared, Sources};

impl Loader {
    /// What serves with the certificates of now, if that is news. A change of theirs is noticed from now on.
    pub(in crate::reload) fn renew(&mut self) -> Option<Loaded> {
        let main = Arc::clone(&self.live.as_ref()?.main);
        let main_path = Arc::clone(&self.main_path);
        let mut found = Diagnostics::default();
        // Their places are those of the file as it was, of which no line can be shown.
        let certificates = self.certificates(&main, &mut found);
        let trust = self.trust(&main, &mut found);
        let live = self.live.as_ref()?;
        let scripts = self.kept_scripts(live);
        let mut candidates = live.files.iter().map(|(path, serving)| live.kept(path, serving)).collect::<Vec<_>>();
        let previous = Some(&*live.snapshot);
        let sources = Sources { scripts: &scripts.scripts, tls: &trust.tls };
        let shared = Shared::compile(&main, &main_path, sources, previous, &self.metrics, &mut Vec::new(), &mut found);
        let only = certificates.only.as_deref();
        let assembly = Assembly { shared: &shared, previous, metrics: &self.metrics, certificates: only };
        let assembled = assembly.assemble(&main, &main_path, &found, &mut candidates, true);
        let (parts, warnings) =
            assembled.inspect_err(|found| tracing::error!(errors = %found, "certificates are not renewed")).ok()?;
        let loaded = self.publish(main, shared, parts, candidates, Beside { scripts, certificates, trust }, warnings);
        loaded.is_news.then_some(loaded)
    }

    /// The scripts that serve, and those that were refused.
    fn kept_scripts(&self, live: &Live) -> Reading {
        let is_script = |broken: &&BrokenFile| {
            !live.files.contains_key(&*broken.file) && !self.seen.certificates.contains(&broken.file)
        };
        let refused = live.broken.iter().filter(is_script).cloned();
        let refused = refused.map(|BrokenFile { file, errors }| Refused { file, errors }).collect();
        Reading { scripts: live.scripts.clone(), refused }
    }
}

impl Live {
    /// A tenants file as it serves.
    fn kept(&self, path: &Arc<Path>, serving: &Serving) -> Candidate {
        let broken = self.broken.iter().find(|broken| *broken.file == **path);
        let good = serving.good.clone();
        Candidate {
            path: Arc::clone(path),
            stamp: good.as_ref().and_then(|good| good.stamp),
            fresh: good.map(|good| good.file).unwrap_or_default(),
            found: broken.map(|broken| broken.errors.clone()).unwrap_or_default(),
            before: Some(serving.clone()),
            choice: if broken.is_some() { Choice::Fallback } else { Choice::Unchanged },
        }
    }
}
