//! `crossgate check FILE..`: what is wrong or doubtful about configurations.
//!
//! The same code as at the start, so that what passes here starts there. Findings are diagnostics and go to the error output, or
//! with `--json` as one array to the output; warnings alone are no failure.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::config::diagnostics::Diagnostics;
use crate::reload;

/// How findings are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Checks main files, each with its tenants directory. 0: good, warnings aside; 1: mistakes; 2: no file named.
///
/// # Errors
/// If nothing can be written.
pub fn run(files: &[PathBuf], format: Format, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    if files.is_empty() {
        writeln!(err, "error: there is no file to check; name one or more main files")?;
        return Ok(2);
    }
    let found: Diagnostics = files.iter().flat_map(|file| reload::check(file)).collect();
    match format {
        Format::Text if found.is_empty() => {}
        Format::Text => writeln!(err, "{found}")?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?,
    }
    Ok(u8::from(found.has_errors()))
}
