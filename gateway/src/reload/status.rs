//! How reloading stands, for `/status`, `POST /reload` and tests.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::load::{BrokenFile, Loaded};
use crate::config::diagnostics::Diagnostics;
use crate::metrics::ReloadResult;

/// How reloading stands.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The generation that serves.
    pub generation: u64,
    /// How the last load went.
    pub last_result: LastResult,
    /// When that was.
    #[serde(serialize_with = "unix_seconds")]
    pub last_time: SystemTime,
    /// When what serves was loaded.
    #[serde(serialize_with = "unix_seconds")]
    pub last_good_time: SystemTime,
    /// Loads in which something was refused.
    pub failures_total: u64,
    /// Why the last load was refused, if it was.
    pub errors: Diagnostics,
    /// Tenants files that are not live as they are on disk.
    pub broken_files: Vec<BrokenFile>,
    /// Keys whose change needs a restart.
    pub restart_needed: Vec<&'static str>,
}

/// How a load went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LastResult {
    /// Everything on disk is live.
    Success,
    /// Some tenants file keeps its last good version.
    Partial,
    /// Nothing changed but certificates.
    Failure,
}

/// What a reload that somebody asked for led to.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The generation that serves now.
    pub generation: u64,
    /// What is doubtful about what was compiled anew.
    pub warnings: Diagnostics,
    /// Tenants files that are not live as they are on disk.
    pub broken_files: Vec<BrokenFile>,
    /// Keys whose change needs a restart.
    pub restart_needed: Vec<&'static str>,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            generation: 0,
            last_result: LastResult::Failure,
            last_time: UNIX_EPOCH,
            last_good_time: UNIX_EPOCH,
            failures_total: 0,
            errors: Diagnostics::default(),
            broken_files: Vec::new(),
            restart_needed: Vec::new(),
        }
    }
}

impl Status {
    pub(super) fn note_good(&mut self, loaded: &Loaded, result: ReloadResult, now: SystemTime) {
        self.generation = loaded.snapshot.generation;
        self.last_result = match result {
            ReloadResult::Success => LastResult::Success,
            ReloadResult::Partial => LastResult::Partial,
            ReloadResult::Failure => LastResult::Failure,
        };
        self.failures_total += u64::from(!loaded.broken.is_empty());
        (self.last_time, self.last_good_time) = (now, now);
        self.errors = Diagnostics::default();
        self.broken_files.clone_from(&loaded.broken);
        self.restart_needed.clone_from(&loaded.restart_needed);
    }

    /// Certificates were renewed, and all else is as it was.
    pub(super) fn note_renewed(&mut self, loaded: &Loaded) {
        self.generation = loaded.snapshot.generation;
        self.broken_files.clone_from(&loaded.broken);
    }

    pub(super) fn note_bad(&mut self, found: &Diagnostics, now: SystemTime) {
        self.last_result = LastResult::Failure;
        self.last_time = now;
        self.failures_total += 1;
        self.errors = found.clone();
    }

    pub(super) fn report(&self) -> Report {
        let (broken_files, restart_needed) = (self.broken_files.clone(), self.restart_needed.clone());
        Report { generation: self.generation, broken_files, restart_needed, ..Report::default() }
    }
}

fn unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}
