//! Reads configuration files: bounded, and with every failure as a located message.
//!
//! A file is looked at before it is read, so that a huge one, a directory or a device costs nothing. Text is not kept: when a later
//! step needs the line of a mistake, the file is read again.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::scalars::ShownSize;
use super::tree::At;

/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files in the tenants directory.
const TENANT_FILES_MAX: usize = 10_000;

/// The text of a file, or why there is none.
pub(super) fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    let failed = |error: io::Error| Box::new(Diagnostic::error(path, At::START, failure(&error)));
    let bytes = read_bytes(path, FILE_BYTES_MAX).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| Box::new(not_utf8(path, &error)))
}

/// All of a regular file of at most so many bytes. Never waits for anybody.
pub(crate) fn read_bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Opening a device may do something already.
    check(&fs::metadata(path)?, max)?;
    let file = open(path)?;
    check(&file.metadata()?, max)?;
    let mut bytes = Vec::new();
    // It may have grown since it was looked at.
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(too_large(max)) } else { Ok(bytes) }
}

/// A pipe may have taken the place of the file that was looked at, and would be waited for until somebody writes to it.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn check(meta: &Metadata, max: u64) -> io::Result<()> {
    match meta.len() {
        _ if !meta.is_file() => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file; name one")),
        len if len > max => Err(too_large(max)),
        _ => Ok(()),
    }
}

fn too_large(max: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {}, which are accepted", ShownSize(max)))
}

fn failure(error: &io::Error) -> String {
    let hint = if error.kind() == ErrorKind::FileTooLarge {
        "; put tenants into more files of tenantsDir"
    } else if error.kind() == ErrorKind::InvalidInput {
        " with YAML in it"
    } else {
        ""
    };
    format!("this file cannot be read: {error}{hint}")
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
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
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

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_is_neither_waited_for_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yaml");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let opened = open(&pipe).unwrap();
        assert!(check(&opened.metadata().unwrap(), 1).is_err());
        assert!(read(&pipe).unwrap_err().message.contains("not a regular file; name one with YAML in it"));
    }

    #[test]
    fn a_file_is_read_up_to_its_maximum() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "1234").unwrap();
        assert_eq!(read_bytes(file.path(), 4).unwrap(), b"1234");
        assert_eq!(read_bytes(file.path(), 3).unwrap_err().to_string(), "it has more than 3B, which are accepted");
        file.as_file().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(
            read(file.path())
                .unwrap_err()
                .message
                .contains("more than 64MiB, which are accepted; put tenants into more files")
        );
    }
}
