//! `crossgate schema`: the JSON Schema of the configuration.

use std::io::{self, Write};

use crate::config::schema;

/// Prints it.
///
/// # Errors
/// If it cannot be written.
pub fn run(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(&schema::main_file())?)
}
