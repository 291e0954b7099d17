//! `crossgate schema`: the JSON Schema of the configuration.

use std::io::{self, Write};

use crossgate_config::schema;

/// Prints the schema.
///
/// # Errors
/// The output cannot be written.
pub fn run(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(&schema::main_file())?)
}
