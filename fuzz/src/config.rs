//! The bytes of a configuration file, read as each kind of file there is.

use std::io::Write;
use std::path::Path;

use crossgate::{config, reload, scripts};

use crate::told;

/// A configuration is loaded, or what is wrong with it is told.
///
/// # Panics
/// If it is not, or what is told is not fit to be printed.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    with_file(bytes, |path| {
        told::check(&reload::check(path), &text);
        told::check(&config::read_tenants(path).found, &text);
        told::check(&config::read_data(path).found, &text);
    });
    if let Err(found) = scripts::decode_cases(Path::new("fuzz.cases.yaml"), &text) {
        told::check(&found, &text);
    }
}

fn with_file(bytes: &[u8], then: impl FnOnce(&Path)) {
    let mut file = tempfile::NamedTempFile::new().expect("there is room for a file");
    file.write_all(bytes).expect("there is room for its bytes");
    then(file.path());
}
