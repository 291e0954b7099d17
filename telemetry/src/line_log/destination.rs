//! The destination of the access log: standard output, or a file that is reopened and rotated.
//!
//! Only the log's writing thread uses it. A file is reopened when the configuration names another
//! one, on SIGUSR1, and within a second after it was moved. So two processes write to the same file
//! during an upgrade. Rotation renames `log` to `log.1`, `log.1` to `log.2` and so on. Failures are
//! reported, and lines still go to the open file.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::output::DescriptorWriter;

/// The mode of new files. The group, which log agents are in, can read them. Others cannot, since
/// lines contain addresses and headers of clients.
const MODE: u32 = 0o640;
/// How often the path is compared with the open file, and opening a path is retried after a
/// failure.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The configured destination of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogDestination {
    /// The file, `None` for standard output.
    pub path: Option<PathBuf>,
    /// When the file is rotated, `None` for never.
    pub rotation: Option<FileRotation>,
}

/// The size limit of a file, and how many rotated files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRotation {
    /// The maximum size of a file, in bytes.
    pub size: u64,
    /// The number of rotated files that are kept.
    pub count: u32,
}

/// Opens a log file for appending, and creates it if it does not exist.
///
/// # Errors
/// Returns the operating system's error, with the path. A FIFO without a reader is an error too.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    // Opening a FIFO would block until it has a reader.
    options.append(true).create(true).mode(MODE).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("the access log {} cannot be opened: {error}", path.display()))
    };
    options.open(path).map_err(named)
}

pub(super) struct LogSink<W> {
    out: W,
    /// Reads the destination from the current configuration.
    wanted: Box<dyn Fn() -> LogDestination + Send>,
    file: Option<LogFile>,
    next_check: Instant,
    /// The error that keeps the wanted file from being open. Each error is reported once.
    failure: Option<String>,
}

struct LogFile {
    path: PathBuf,
    output: DescriptorWriter<File>,
    identity: Option<FileIdentity>,
    len: u64,
}

/// The identity of a regular file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| FileIdentity { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        Ok(LogFile {
            path: path.to_path_buf(),
            output: DescriptorWriter(file),
            identity: FileIdentity::of(&metadata),
            len: metadata.len(),
        })
    }

    /// Whether the path names another file now, or none.
    fn is_moved(&self) -> bool {
        let Some(identity) = self.identity else { return false };
        fs::metadata(&self.path).ok().as_ref().and_then(FileIdentity::of) != Some(identity)
    }
}

impl<W: Write> LogSink<W> {
    /// Opens the destination that `wanted` names.
    pub(super) fn open(out: W, wanted: Box<dyn Fn() -> LogDestination + Send>) -> io::Result<Self> {
        let file = wanted().path.as_deref().map(LogFile::open).transpose()?;
        Ok(LogSink { out, wanted, file, next_check: Instant::now() + CHECK_INTERVAL, failure: None })
    }

    /// Whether lines go to a regular file, which keeps appended writes of any size whole.
    pub(super) fn is_regular_file(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.identity.is_some())
    }

    /// Updates the destination before `len` bytes are written: reopens and rotates it as needed.
    pub(super) fn prepare(&mut self, len: u64, is_reopen_requested: bool) {
        let wanted = (self.wanted)();
        let is_other = self.file.as_ref().map(|file| file.path.as_path()) != wanted.path.as_deref();
        let is_check_due = Instant::now() >= self.next_check;
        if is_check_due {
            self.next_check = Instant::now() + CHECK_INTERVAL;
        }
        match &self.file {
            // A path that cannot be opened is not retried with every line.
            _ if is_other => {
                if self.failure.is_none() || is_check_due || is_reopen_requested {
                    self.reopen(wanted.path.as_deref());
                }
            }
            Some(file) if is_reopen_requested || (is_check_due && file.is_moved()) => {
                self.reopen(wanted.path.as_deref());
            }
            Some(_) | None => {}
        }
        if let (Some(file), Some(rotation)) = (&self.file, wanted.rotation)
            && file.identity.is_some()
            && file.len > 0
            && file.len.saturating_add(len) > rotation.size
            && (self.failure.is_none() || is_check_due)
        {
            let path = file.path.clone();
            // Another process may have rotated the file a moment ago.
            let rotated = if file.is_moved() { Ok(()) } else { rotate(&path, rotation.count) };
            match rotated {
                Ok(()) => self.reopen(Some(&path)),
                Err(error) => self.fail(&io::Error::new(
                    error.kind(),
                    format!("the access log {} cannot be rotated: {error}", path.display()),
                )),
            }
        }
    }

    fn reopen(&mut self, path: Option<&Path>) {
        match path.map(LogFile::open).transpose() {
            Ok(file) => {
                self.file = file;
                self.failure = None;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let error = error.to_string();
        if self.failure.as_ref() != Some(&error) {
            tracing::error!("{error}; lines still go to the previous destination");
        }
        self.failure = Some(error);
    }
}

impl<W: Write> Write for LogSink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return self.out.write(bytes) };
        let written = file.output.write(bytes)?;
        file.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.file.is_none() { self.out.flush() } else { Ok(()) }
    }
}

/// Renames the file to `.1` and each rotated file to the next number. The last one is overwritten.
fn rotate(path: &Path, count: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..count).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        wanted: Arc<Mutex<LogDestination>>,
        sink: LogSink<Vec<u8>>,
    }

    impl Fixture {
        fn start(name: Option<&str>, rotation: Option<FileRotation>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = name.map(|name| directory.path().join(name));
            let wanted = Arc::new(Mutex::new(LogDestination { path, rotation }));
            let shared = Arc::clone(&wanted);
            let sink = LogSink::open(Vec::new(), Box::new(move || shared.lock().unwrap().clone())).unwrap();
            Fixture { directory, wanted, sink }
        }

        fn write(&mut self, text: &str) {
            self.sink.prepare(text.len() as u64, false);
            self.sink.write_all(text.as_bytes()).unwrap();
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.directory.path().join(name)).ok()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.directory.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn log_file_rotates_at_its_size_and_keeps_the_configured_count() {
        let mut fixture = Fixture::start(Some("log"), Some(FileRotation { size: 10, count: 2 }));
        for line in ["one\n", "two\n", "three\n", "four\n", "five\n", "a line that is longer\n", "six\n"] {
            fixture.write(line);
        }
        assert_eq!(fixture.names(), ["log", "log.1", "log.2"]);
        let read = |name| fixture.read(name).unwrap();
        assert_eq!(
            [read("log"), read("log.1"), read("log.2")],
            ["six\n", "a line that is longer\n", "four\nfive\n"].map(str::to_owned)
        );
    }

    #[test]
    fn existing_log_file_is_appended_and_its_size_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "12345678\n").unwrap();
        let destination =
            LogDestination { path: Some(path.clone()), rotation: Some(FileRotation { size: 12, count: 1 }) };
        let mut sink = LogSink::open(Vec::new(), Box::new(move || destination.clone())).unwrap();
        sink.prepare(3, false);
        sink.write_all(b"ab\n").unwrap();
        sink.prepare(3, false);
        sink.write_all(b"cd\n").unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("log.1")).unwrap(), "12345678\nab\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "cd\n");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0, "others cannot read it");
    }

    #[test]
    fn moved_log_file_is_reopened_on_request_and_by_polling() {
        let mut fixture = Fixture::start(Some("log"), None);
        fixture.write("one\n");
        let rename = |fixture: &Fixture, to: &str| {
            fs::rename(fixture.directory.path().join("log"), fixture.directory.path().join(to)).unwrap();
        };
        rename(&fixture, "moved");
        fixture.write("two\n");
        fixture.sink.prepare(0, true);
        fixture.write("three\n");
        assert_eq!(fixture.read("moved").unwrap(), "one\ntwo\n");
        assert_eq!(fixture.read("log").unwrap(), "three\n");
        rename(&fixture, "again");
        fixture.sink.next_check = Instant::now();
        fixture.write("four\n");
        assert_eq!(fixture.read("log").unwrap(), "four\n");
    }

    #[test]
    fn unusable_log_path_keeps_the_previous_destination() {
        let mut fixture = Fixture::start(None, None);
        fixture.write("out\n");
        let set = |fixture: &Fixture, name: &str| {
            fixture.wanted.lock().unwrap().path = Some(fixture.directory.path().join(name));
        };
        set(&fixture, "missing/log");
        fixture.write("still out\n");
        assert_eq!(fixture.sink.out, b"out\nstill out\n");
        set(&fixture, "log");
        // A failure is not retried with every line.
        fixture.sink.next_check = Instant::now();
        fixture.write("file\n");
        assert_eq!(fixture.read("log").unwrap(), "file\n");
        fixture.wanted.lock().unwrap().path = None;
        fixture.write("out again\n");
        assert_eq!(fixture.sink.out, b"out\nstill out\nout again\n");
    }

    #[test]
    fn log_fifo_without_a_reader_fails_without_blocking() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("cannot be opened"));
    }
}
