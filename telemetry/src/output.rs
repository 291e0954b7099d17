//! An unbuffered writer for a descriptor that one thread owns.
//!
//! Unlike `std::io::stdout` and `stderr` it has no lock and no buffer, and it hides no error. A
//! thread that blocks in a write blocks no other thread, and the caller sees that a descriptor is
//! closed.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

/// Writes directly to a descriptor. Blocks while it is full, also if another process made it
/// non-blocking.
#[derive(Debug)]
pub struct DescriptorWriter<F>(pub F);

impl<F: AsFd> Write for DescriptorWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                // `O_NONBLOCK` belongs to the open file: a program that shares the pipe can set it.
                Err(rustix::io::Errno::AGAIN) => wait_writable(&self.0)?,
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_writable(descriptor: &impl AsFd) -> io::Result<()> {
    poll(&mut [PollFd::new(descriptor, PollFlags::OUT)], None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn write_waits_for_room_in_a_non_blocking_pipe() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let len = 1 << 20;
        let writing = std::thread::spawn(move || DescriptorWriter(writer).write_all(&vec![b'x'; len]));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(read.len(), len);
    }

    #[test]
    fn write_to_an_unwritable_descriptor_fails() {
        let read_only = File::open("/dev/null").unwrap();
        assert_eq!(DescriptorWriter(read_only).write_all(b"x").unwrap_err().raw_os_error(), Some(9));
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(DescriptorWriter(full).write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
