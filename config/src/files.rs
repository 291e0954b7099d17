//! Reads configuration files of limited size, and reports failures as diagnostics.
//!
//! The metadata of a file is checked before it is read, so that a huge file, a directory or a
//! device costs nothing. Text is not kept. When a later step needs the line of a mistake, the file
//! is read again.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::node::Position;
use super::scalars::ShownSize;

/// Maximum size of a file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Maximum number of files in the tenants directory.
const TENANT_FILES_MAX: usize = 10_000;

pub(super) fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    let failed = |error: io::Error| Box::new(Diagnostic::error(path, Position::START, read_failure_message(&error)));
    let bytes = read_bytes(path, FILE_BYTES_MAX).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| Box::new(not_utf8(path, &error)))
}

pub(super) fn read_text(input: &mut dyn Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(too_large(FILE_BYTES_MAX)) } else { Ok(text) }
}

/// The content of a regular file of at most `max` bytes. It never blocks on a pipe.
pub fn read_bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // The open of a device can have side effects, so its type is checked first.
    check(&fs::metadata(path)?, max)?;
    let file = open(path)?;
    check(&file.metadata()?, max)?;
    let mut bytes = Vec::new();
    // The file may have grown since the check.
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(too_large(max)) } else { Ok(bytes) }
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe may have replaced the file since the check. Without NONBLOCK, its open would wait for
    // a writer.
    File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn check(meta: &Metadata, max: u64) -> io::Result<()> {
    match meta.len() {
        _ if !meta.is_file() => Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file")),
        len if len > max => Err(too_large(max)),
        _ => Ok(()),
    }
}

fn too_large(max: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("larger than {}, the maximum", ShownSize(max)))
}

fn read_failure_message(error: &io::Error) -> String {
    let hint = if error.kind() == ErrorKind::FileTooLarge {
        "; put tenants into more files of tenantsDir"
    } else if error.kind() == ErrorKind::InvalidInput {
        "; write the path of a YAML file"
    } else {
        ""
    };
    format!("cannot read this file: {error}{hint}")
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let before = String::from_utf8_lossy(valid);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    let line = count(before.matches('\n').count());
    let column = count(before.rsplit('\n').next().unwrap_or_default().chars().count());
    Diagnostic::error(path, Position { line, column, width: 1 }, "invalid UTF-8; save the file as UTF-8")
}

/// The YAML files of a directory, sorted by name. Hidden files are skipped: `..data` of Kubernetes
/// and the temporary files of editors.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_tenants_file(&path) {
            files.push(path);
        }
        if files.len() > TENANT_FILES_MAX {
            return Err(io::Error::other(format!(
                "more than {TENANT_FILES_MAX} YAML files; put more tenants into each file"
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

/// Sorts findings, and adds missing source lines from the current files.
pub fn quote(found: &mut Diagnostics) {
    found.sort();
    for file in found.unquoted_files() {
        if let Ok(text) = read(&file) {
            found.quote(&file, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yaml");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let opened = open(&pipe).unwrap();
        assert!(check(&opened.metadata().unwrap(), 1).is_err());
        assert!(read(&pipe).unwrap_err().message.contains("not a regular file; write the path of a YAML file"));
    }

    #[test]
    fn a_file_over_the_maximum_size_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "1234").unwrap();
        assert_eq!(read_bytes(file.path(), 4).unwrap(), b"1234");
        assert_eq!(read_bytes(file.path(), 3).unwrap_err().to_string(), "larger than 3B, the maximum");
        file.as_file().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(
            read(file.path())
                .unwrap_err()
                .message
                .contains("larger than 64MiB, the maximum; put tenants into more files")
        );
    }
}
