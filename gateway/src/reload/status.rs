//! Status of reloading, for `/status`, `POST /reload` and tests.
//!
//! The reload thread writes it under a lock that no request takes. The field names are the JSON
//! keys of both endpoints.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::load::{BrokenFile, LoadOutcome};
use crate::metrics::ReloadResult;
use crossgate_config::diagnostics::Diagnostics;

/// Active generation and result of the last load.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadStatus {
    /// The active generation.
    pub generation: u64,
    pub last_result: LastResult,
    /// Time of the last load.
    #[serde(serialize_with = "unix_seconds")]
    pub last_time: SystemTime,
    /// Time of the last load that was accepted.
    #[serde(serialize_with = "unix_seconds")]
    pub last_good_time: SystemTime,
    /// Loads in which something was refused.
    pub failures_total: u64,
    /// Errors of the last load, if it was refused.
    pub errors: Diagnostics,
    /// Warnings about the active configuration.
    pub warnings: Diagnostics,
    /// Files whose version on disk is not active.
    pub broken_files: Vec<BrokenFile>,
    /// Keys whose change needs a restart.
    pub restart_needed: Vec<&'static str>,
}

/// Result of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LastResult {
    /// Everything on disk is active.
    Success,
    /// Some file keeps its last good version.
    Partial,
    /// Nothing changed except certificates and admin tokens.
    Failure,
}

/// Result of a requested reload.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadReport {
    /// The active generation.
    pub generation: u64,
    /// Warnings about the active configuration.
    pub warnings: Diagnostics,
    /// Files whose version on disk is not active.
    pub broken_files: Vec<BrokenFile>,
    /// Keys whose change needs a restart.
    pub restart_needed: Vec<&'static str>,
}

impl Default for ReloadStatus {
    fn default() -> Self {
        ReloadStatus {
            generation: 0,
            last_result: LastResult::Failure,
            last_time: UNIX_EPOCH,
            last_good_time: UNIX_EPOCH,
            failures_total: 0,
            errors: Diagnostics::default(),
            warnings: Diagnostics::default(),
            broken_files: Vec::new(),
            restart_needed: Vec::new(),
        }
    }
}

impl ReloadStatus {
    pub(super) fn record_success(&mut self, loaded: &LoadOutcome, result: ReloadResult, now: SystemTime) {
        self.generation = loaded.snapshot.generation;
        self.last_result = match result {
            ReloadResult::Success => LastResult::Success,
            ReloadResult::Partial => LastResult::Partial,
            ReloadResult::Failure => LastResult::Failure,
        };
        self.failures_total += u64::from(!loaded.broken.is_empty());
        (self.last_time, self.last_good_time) = (now, now);
        self.errors = Diagnostics::default();
        self.warnings.clone_from(&loaded.warnings);
        self.broken_files.clone_from(&loaded.broken);
        self.restart_needed.clone_from(&loaded.restart_needed);
    }

    /// Records a snapshot that differs from the previous one only in its certificates.
    pub(super) fn record_renewed(&mut self, loaded: &LoadOutcome) {
        self.generation = loaded.snapshot.generation;
        self.broken_files.clone_from(&loaded.broken);
    }

    /// Records a load without changes. Only warnings may differ: a private key that became readable
    /// by other users, or a line number that moved.
    pub(super) fn record_unchanged(&mut self, loaded: &LoadOutcome) {
        self.warnings.clone_from(&loaded.warnings);
    }

    pub(super) fn record_failure(&mut self, found: &Diagnostics, now: SystemTime) {
        self.last_result = LastResult::Failure;
        self.last_time = now;
        self.failures_total += 1;
        self.errors = found.clone();
    }

    pub(super) fn to_report(&self) -> ReloadReport {
        ReloadReport {
            generation: self.generation,
            warnings: self.warnings.clone(),
            broken_files: self.broken_files.clone(),
            restart_needed: self.restart_needed.clone(),
        }
    }
}

fn unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}
