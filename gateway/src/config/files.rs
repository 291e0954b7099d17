//! Reads configuration files: bounded, and with every failure as a located message.
//!
//! A file is looked at before it is read, so that a huge one, a directory or a device costs nothing. Text is not kept: when a later
//! step needs the line of a mistake, the file is read again.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostic, Diagnostics};
use super::scalars::ShownSize;
use super::tree::At;

/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files in the tenants directory.
const TENANT_FILES_MAX: usize = 10_000;

/// The text of a file, or why there is none.
pub(super) fn read(path: &Path) -> Result<String, Diagnostic> {
    let failed = |error: io::Error| Diagnostic::error(path, At::START, format!("this file cannot be read: {error}"));
    let meta = fs::metadata(path).map_err(failed)?;
    if let Some(refusal) = refuse(&meta) {
        return Err(Diagnostic::error(path, At::START, refusal));
    }
    let mut bytes = Vec::new();
    // It may have grown since it was looked at.
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Diagnostic::error(path, At::START, too_large(bytes.len() as u64)));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))
}

fn refuse(meta: &Metadata) -> Option<String> {
    match meta.len() {
        _ if !meta.is_file() => Some("this is not a regular file; name one with YAML in it".to_owned()),
        len if len > FILE_BYTES_MAX => Some(too_large(len)),
        _ => None,
    }
}

fn too_large(len: u64) -> String {
    format!(
        "this file has at least {len} bytes; {} are accepted, put tenants into more files of tenantsDir",
        ShownSize(FILE_BYTES_MAX)
    )
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let before = String::from_utf8_lossy(valid);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    let line = count(before.matches('\n').count());
    let column = count(before.rsplit('\n').next().unwrap_or_default().chars().count());
    Diagnostic::error(path, At { line, column, width: 1 }, "this byte is no UTF-8; save the file as UTF-8")
}

/// The YAML files of a directory, by name. Hidden ones (`..data` of Kubernetes, editors' copies) are none.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_tenants_file(&path) {
            files.push(path);
        }
        if files.len() > TENANT_FILES_MAX {
            return Err(io::Error::other(format!(
                "it has more than {TENANT_FILES_MAX} YAML files; put more tenants into each"
            )));
        }
    }
    files.sort();
    Ok(files)
}

fn is_tenants_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    yaml && !hidden
}

/// Puts findings in order, and fills in the lines of those that have none, from the files as they are now.
pub(crate) fn quote(found: &mut Diagnostics) {
    found.sort();
    for file in found.unquoted_files() {
        if let Ok(text) = read(&file) {
            found.quote(&file, &text);
        }
    }
}
