//! Loading of the admin listener's tokens.
//!
//! The token files of the start are read in every load, even if the configuration is refused, so a
//! leaked token can be replaced at any time. Other token files are only checked: they apply after a
//! restart.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::stamp::{FileStamp, FinishedStates};
use super::ConfigLoader;
use crate::admin::{Token, TokenError, TokenPair, read_token};
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{Located, Settings};

impl ConfigLoader {
    /// Reads the token files of the start and activates their tokens, even if the load fails later.
    /// A leaked token can thus be replaced while the configuration has a mistake, or names other
    /// files for the next start.
    pub(super) fn renew_tokens(&mut self, finished: Option<&FinishedStates>) {
        let Some(started) = self.live.as_ref().map(|live| Arc::clone(&live.started)) else { return };
        let current = self.tokens.current();
        let [full, read] = list_token_files(&started);
        let mut read_or_keep = |file: Option<&Located<PathBuf>>, previous: &Option<Token>| {
            let file = file?;
            self.seen.token_files.push(file.value.clone());
            let stamp = self.note_stamp(&file.value);
            let is_finished = finished.is_none_or(|finished| stamp.is_some_and(|stamp| is_written(&stamp, finished)));
            // A missing file may be a systemd credential that only a start can read, so its token
            // stays valid.
            read_token(&file.value).ok().filter(|_| is_finished).or_else(|| previous.clone())
        };
        let pair = TokenPair { full: read_or_keep(full, &current.full), read: read_or_keep(read, &current.read) };
        // Equal tokens would give holders of the read token full access.
        if pair.full != pair.read && self.tokens.replace(pair) {
            tracing::info!("admin tokens replaced from their files");
        }
    }

    /// Refuses token files that a start could not use. The files that this process was started with
    /// have been read already and may be missing.
    pub(super) fn check_tokens(&mut self, settings: &Settings, found: &mut Diagnostics) -> TokenPair {
        let started = self.live.as_ref().map(|live| Arc::clone(&live.started));
        let started = started.as_deref().map(list_token_files).unwrap_or_default();
        let [full, read] = list_token_files(settings).map(|file| {
            let file = file?;
            self.check_token(file, started.contains(&Some(file)), found)
        });
        if let ([_, Some(file)], Some(_)) =
            (list_token_files(settings), full.as_ref().filter(|full| Some(*full) == read.as_ref()))
        {
            self.refuse_token(file, &TokenError::Same(file.value.clone()), found);
        }
        TokenPair { full, read }
    }

    fn check_token(&mut self, file: &Located<PathBuf>, may_be_missing: bool, found: &mut Diagnostics) -> Option<Token> {
        self.seen.token_files.push(file.value.clone());
        self.note_stamp(&file.value);
        if !may_be_missing && self.lacks_secret(file, found) {
            return None;
        }
        match read_token(&file.value) {
            Ok(token) => Some(token),
            Err(error) if may_be_missing && is_missing(&error) => None,
            Err(error) => {
                self.refuse_token(file, &error, found);
                None
            }
        }
    }

    fn refuse_token(&self, file: &Located<PathBuf>, error: &TokenError, found: &mut Diagnostics) {
        found.push(Diagnostic::error(&self.main_path, file.at, error.to_string()));
    }
}

/// Checks that the writer of a file has finished.
fn is_written(stamp: &FileStamp, finished: &FinishedStates) -> bool {
    finished.contains(stamp) || stamp.pause_left().is_zero()
}

fn is_missing(error: &TokenError) -> bool {
    matches!(error, TokenError::Unreadable { source, .. } if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied))
}

/// Lists the files of the full token and of the read token, in this order.
fn list_token_files(settings: &Settings) -> [Option<&Located<PathBuf>>; 2] {
    let admin = settings.admin.as_ref();
    [admin.and_then(|admin| admin.token_file.as_ref()), admin.and_then(|admin| admin.read_token_file.as_ref())]
}
