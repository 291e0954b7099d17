//! `crossgate reload`: makes a running gateway reload its configuration, and prints the result.
//!
//! Unlike SIGHUP, the command waits for the result, so scripts and service managers see a refused
//! file.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Deserialize;

use super::admin_client::{AdminAnswer, AdminArgs, AdminClient, AdminRequestError};
use super::{GOOD, WRONG};
use crossgate_config::diagnostics::Diagnostic;

/// The gateway's response to a reload.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReloadOutcome {
    generation: u64,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    broken_files: Vec<BrokenFileSection>,
    restart_needed: Vec<String>,
}

/// A refused file.
#[derive(Debug, Deserialize)]
pub(super) struct BrokenFileSection {
    pub(super) file: PathBuf,
    pub(super) errors: Vec<Diagnostic>,
}

/// Reloads. Exit codes: 0 if everything on disk serves, 1 if something is refused or no gateway
/// responds, 2 for wrong usage.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &AdminArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match AdminClient::new(args).and_then(|client| client.send("POST", "/reload")) {
        Ok(answer) => print_answer(args, &answer, out, err),
        Err(failure) => report_failure(&failure, err),
    }
}

pub(super) fn report_failure(failure: &AdminRequestError, err: &mut dyn Write) -> io::Result<u8> {
    writeln!(err, "{failure}")?;
    Ok(failure.code())
}

fn print_answer(args: &AdminArgs, answer: &AdminAnswer, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let outcome: ReloadOutcome = match serde_json::from_slice(&answer.body) {
        Ok(outcome) if matches!(answer.status, 200 | 422) => outcome,
        Ok(_) | Err(_) => {
            writeln!(err, "error: the gateway responded with {}, expected the result of a reload", answer.status)?;
            return Ok(WRONG);
        }
    };
    let is_refused = answer.status != 200;
    if args.json {
        out.write_all(&answer.body)?;
    } else {
        print_diagnostics(&outcome.errors, err)?;
        print_diagnostics(&outcome.warnings, err)?;
        print_broken_files(&outcome.broken_files, err)?;
        for key in &outcome.restart_needed {
            writeln!(err, "note: the change of `{key}` needs a restart, or SIGUSR2")?;
        }
        if is_refused {
            writeln!(err, "error: the configuration is refused; generation {} still serves", outcome.generation)?;
        } else {
            writeln!(out, "generation {} serves", outcome.generation)?;
        }
    }
    Ok(if is_refused || !outcome.broken_files.is_empty() { WRONG } else { GOOD })
}

pub(super) fn print_broken_files(files: &[BrokenFileSection], err: &mut dyn Write) -> io::Result<()> {
    for BrokenFileSection { file, errors } in files {
        print_diagnostics(errors, err)?;
        writeln!(err, "error: {} is refused; its last good version still serves, if there is one", file.display())?;
    }
    Ok(())
}

pub(super) fn print_diagnostics(found: &[Diagnostic], err: &mut dyn Write) -> io::Result<()> {
    found.iter().try_for_each(|one| writeln!(err, "{one}\n"))
}
