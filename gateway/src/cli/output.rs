//! Standard output and standard error of a command.
//!
//! The reader may close the pipe early (`crossgate schema | head -1`). Rust programs ignore
//! SIGPIPE, so the next write fails with EPIPE instead.

use std::io::{self, ErrorKind, Write};

/// A writer that discards output after its reader has closed the pipe: a broken pipe is no failure
/// of the command.
pub(super) struct CommandOutput<W> {
    inner: W,
    has_reader: bool,
}

impl<W: Write> CommandOutput<W> {
    pub(super) fn new(inner: W) -> Self {
        CommandOutput { inner, has_reader: true }
    }

    fn tolerate<T>(&mut self, written: io::Result<T>, whole: T) -> io::Result<T> {
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.has_reader = false;
                Ok(whole)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for CommandOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.has_reader {
            return Ok(bytes.len());
        }
        let written = self.inner.write(bytes);
        self.tolerate(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.has_reader {
            return Ok(());
        }
        let flushed = self.inner.flush();
        self.tolerate(flushed, ())
    }
}
