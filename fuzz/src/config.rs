//! The bytes of a configuration file, read as every kind of file.

use std::io::Write;
use std::path::Path;

use crossgate::{reload, scripts};
use crossgate_config as config;

use crate::diagnostics;

/// The file is loaded, or its diagnostics are in range and safe to print.
///
/// # Panics
/// If a diagnostic is not.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    with_file(bytes, |path| {
        diagnostics::check(&reload::check(path), &text);
        diagnostics::check(&config::read_tenants(path).found, &text);
        diagnostics::check(&config::read_data(path).found, &text);
    });
    if let Err(found) = scripts::decode_cases(Path::new("fuzz.cases.yaml"), &text) {
        diagnostics::check(&found, &text);
    }
}

fn with_file(bytes: &[u8], then: impl FnOnce(&Path)) {
    let mut file = tempfile::NamedTempFile::new().expect("there is room for a file");
    file.write_all(bytes).expect("there is room for its bytes");
    then(file.path());
}
