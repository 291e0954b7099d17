//! A line log that a thread of its own writes to standard output or a file.
//!
//! Each worker renders its lines into a buffer of its own, so that workers share no memory. The
//! writing thread collects the buffers when one is full, and otherwise 100 ms after a line, and
//! writes them in batches of whole lines. Workers never wait: when the output does not keep up and
//! a buffer is at its limit, lines are dropped and counted. The order of lines is kept within a
//! worker. The [`destination`] module opens, reopens and rotates files.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

mod destination;

pub use self::destination::{FileRotation, LogDestination, open};

use self::destination::LogSink;
use crate::restart::restart_on_panic;
use crate::thread_number;

/// The bytes that buffers share, in addition to [`BATCH_BYTES`] of each: about a second of a busy
/// gateway.
pub const SHARED_BYTES_MAX: usize = 8 << 20;
/// A buffer of this size is collected at once. It is also the size of a batch.
const BATCH_BYTES: usize = 64 << 10;
/// The size of a batch for a pipe or a socket, which may have other writers: POSIX keeps writes up
/// to this size whole (`PIPE_BUF` of Linux).
const PIPE_BATCH_BYTES: usize = 4 << 10;
/// The time from a line to its write while no buffer is full.
const COLLECT_INTERVAL: Duration = Duration::from_millis(100);
/// The capacity that an empty buffer keeps.
const IDLE_BYTES: usize = 2 * BATCH_BYTES;

/// The log, as callers hold it.
#[derive(Debug)]
pub struct LineLog {
    shared: Arc<SharedBuffers>,
    writer: Thread,
}

#[derive(Debug)]
struct SharedBuffers {
    buffers: Box<[LineBuffer]>,
    /// The parts of [`BATCH_BYTES`] that buffers have beyond their first.
    extra_parts: AtomicUsize,
    dropped: Arc<AtomicU64>,
    /// A buffer has a line.
    has_lines: AtomicBool,
    /// A buffer is full, or a caller waits: the writer collects without delay.
    is_urgent: AtomicBool,
    is_reopen_requested: AtomicBool,
    /// Callers that wait until all lines so far are written.
    flushes: Mutex<Vec<oneshot::Sender<()>>>,
    is_closed: AtomicBool,
}

/// The lines of one worker, on cache lines of its own: processors fetch two at a time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct LineBuffer(Mutex<BufferedLines>);

#[derive(Debug, Default)]
struct BufferedLines {
    bytes: Vec<u8>,
    /// The length of the whole lines. A panic while a line is rendered leaves more bytes.
    whole: usize,
}

impl LineLog {
    /// Starts a log for so many workers. Its thread writes to the file that `destination` names at
    /// the time, or to `out`. `dropped` counts lines that could not be written. The thread calls
    /// `count_panic` after a panic and continues.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or the thread cannot be started.
    pub fn start(
        out: impl Write + Send + 'static,
        destination: impl Fn() -> LogDestination + Send + 'static,
        workers: usize,
        dropped: Arc<AtomicU64>,
        count_panic: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut sink = LogSink::open(out, Box::new(destination))?;
        let shared = Arc::new(SharedBuffers::new(workers, dropped));
        let theirs = Arc::clone(&shared);
        let write = move || {
            let mut is_failing = false;
            restart_on_panic(count_panic, || write_lines(&theirs, &mut sink, &mut is_failing));
        };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok(LineLog { shared, writer: thread.thread().clone() })
    }

    /// Logs a line. `render` appends it with its line end, which is the only line feed in it, and
    /// returns whether it is whole. Never waits for the output.
    pub fn write(&self, render: impl FnOnce(&mut Vec<u8>) -> bool) {
        let Some(buffer) = self.shared.own_buffer() else { return };
        let mut lines = buffer.0.lock();
        let before = lines.whole;
        lines.bytes.truncate(before);
        let is_rendered = render(&mut lines.bytes);
        let more_parts = lines.bytes.len() / BATCH_BYTES - before / BATCH_BYTES;
        if !is_rendered || !self.shared.claim(more_parts) {
            lines.bytes.truncate(before);
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        lines.whole = lines.bytes.len();
        let is_full = before < BATCH_BYTES && lines.whole >= BATCH_BYTES;
        drop(lines);
        if is_full {
            self.shared.is_urgent.store(true, SeqCst);
        }
        // Later lines of a batch need no wake-up: the writer has taken note of the first.
        if is_full || (before == 0 && !self.shared.has_lines.swap(true, SeqCst)) {
            self.writer.unpark();
        }
    }

    /// Requests a reopen of the file, for log rotation by other programs. Never waits.
    pub fn reopen(&self) {
        self.shared.is_reopen_requested.store(true, SeqCst);
        self.wake();
    }

    /// Waits until all lines so far are written, at most `within`. Called at the end of the
    /// process.
    pub async fn flush(&self, within: Duration) {
        let (written, wait) = oneshot::channel();
        self.shared.flushes.lock().push(written);
        self.wake();
        if tokio::time::timeout(within, wait).await.is_err() {
            tracing::warn!("the access log was not flushed in time");
        }
    }

    fn wake(&self) {
        self.shared.is_urgent.store(true, SeqCst);
        self.writer.unpark();
    }
}

impl Drop for LineLog {
    /// Ends the writing thread, after the lines so far.
    fn drop(&mut self) {
        self.shared.is_closed.store(true, SeqCst);
        self.wake();
    }
}

impl SharedBuffers {
    fn new(workers: usize, dropped: Arc<AtomicU64>) -> Self {
        SharedBuffers {
            buffers: std::iter::repeat_with(LineBuffer::default).take(workers.max(1)).collect(),
            extra_parts: AtomicUsize::new(0),
            dropped,
            has_lines: AtomicBool::new(false),
            is_urgent: AtomicBool::new(false),
            is_reopen_requested: AtomicBool::new(false),
            flushes: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    fn own_buffer(&self) -> Option<&LineBuffer> {
        self.buffers.get(thread_number::worker_number() % self.buffers.len())
    }

    /// Takes parts for a buffer beyond its first, if they are free.
    fn claim(&self, parts: usize) -> bool {
        if parts == 0 {
            return true;
        }
        let is_free = self.extra_parts.fetch_add(parts, Relaxed) + parts <= SHARED_BYTES_MAX / BATCH_BYTES;
        if !is_free {
            self.extra_parts.fetch_sub(parts, Relaxed);
        }
        is_free
    }

    /// Waits for a line, and then until a buffer is full or the interval is over.
    fn wait(&self) {
        while !self.has_lines.swap(false, SeqCst) && !self.is_urgent.load(SeqCst) {
            thread::park();
        }
        let due = Instant::now() + COLLECT_INTERVAL;
        while !self.is_urgent.swap(false, SeqCst) {
            match due.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return,
                left => thread::park_timeout(left),
            }
        }
    }
}

/// The writing thread. It ends when the log is dropped.
fn write_lines<W: Write>(shared: &SharedBuffers, out: &mut LogSink<W>, is_failing: &mut bool) {
    let batch = Vec::with_capacity(BATCH_BYTES);
    let mut writer = BatchWriter { out, batch, is_failing, shared };
    let mut taken = Vec::new();
    // After a panic, buffers may have lines of which the writer has taken note already.
    shared.has_lines.store(true, SeqCst);
    loop {
        shared.wait();
        // Read before the buffers: what was written before these requests is written now.
        let is_closed = shared.is_closed.load(SeqCst);
        let flushes = std::mem::take(&mut *shared.flushes.lock());
        if shared.is_reopen_requested.load(SeqCst) {
            writer.prepare(0);
        }
        for buffer in &shared.buffers {
            taken = buffer.take(taken);
            let _parts = ClaimedParts { shared, count: taken.len() / BATCH_BYTES };
            writer.add(&taken);
        }
        writer.write();
        for flush in flushes {
            // The caller may have stopped to wait.
            let _ = flush.send(());
        }
        if is_closed {
            return;
        }
    }
}

/// Parts of a buffer that was taken. They count as in use until its lines are written, also if
/// that panics.
struct ClaimedParts<'a> {
    shared: &'a SharedBuffers,
    count: usize,
}

impl Drop for ClaimedParts<'_> {
    fn drop(&mut self) {
        self.shared.extra_parts.fetch_sub(self.count, Relaxed);
    }
}

impl LineBuffer {
    /// Takes the whole lines, and leaves an empty buffer in the memory of `spare`.
    fn take(&self, mut spare: Vec<u8>) -> Vec<u8> {
        spare.clear();
        // A burst that the output did not keep up with may have made it large.
        spare.shrink_to(IDLE_BYTES);
        let mut lines = self.0.lock();
        let whole = std::mem::take(&mut lines.whole);
        std::mem::swap(&mut lines.bytes, &mut spare);
        drop(lines);
        spare.truncate(whole);
        spare
    }
}

/// Lines for one write.
struct BatchWriter<'a, W> {
    out: &'a mut LogSink<W>,
    batch: Vec<u8>,
    is_failing: &'a mut bool,
    shared: &'a SharedBuffers,
}

impl<W: Write> BatchWriter<'_, W> {
    /// Adds whole lines, and writes whenever a batch is full.
    fn add(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            let batch_bytes = if self.out.is_regular_file() { BATCH_BYTES } else { PIPE_BATCH_BYTES };
            let room = batch_bytes.saturating_sub(self.batch.len());
            let fits = lines.get(..room).map_or(lines.len(), end_of_lines);
            // A line longer than a batch is a batch of its own.
            let len = if fits == 0 && self.batch.is_empty() { first_line(lines) } else { fits };
            let (now, later) = lines.split_at_checked(len).unwrap_or((lines, b""));
            self.batch.extend_from_slice(now);
            if !later.is_empty() {
                self.write();
            }
            lines = later;
        }
    }

    fn prepare(&mut self, len: usize) {
        let is_reopen_requested = self.shared.is_reopen_requested.swap(false, Relaxed);
        self.out.prepare(len as u64, is_reopen_requested);
    }

    /// Writes the lines, or counts them as lost. Lines kept until a full disk has room would fill
    /// the memory.
    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.prepare(self.batch.len());
        let written = match *self.is_failing {
            // The failed write may have ended within a line.
            true => self.out.write_all(b"\n"),
            false => Ok(()),
        };
        let written = written.and_then(|()| self.out.write_all(&self.batch)).and_then(|()| self.out.flush());
        match written {
            Ok(()) if std::mem::take(self.is_failing) => tracing::info!("the access log can be written again"),
            Ok(()) => {}
            Err(error) => {
                let lines = self.batch.iter().filter(|byte| **byte == b'\n').count();
                self.shared.dropped.fetch_add(lines as u64, Relaxed);
                if !std::mem::replace(self.is_failing, true) {
                    tracing::error!(%error, "the access log cannot be written");
                }
            }
        }
        self.batch.clear();
    }
}

/// The length of the whole lines at the beginning of `part`.
fn end_of_lines(part: &[u8]) -> usize {
    part.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)
}

/// The length of the first line.
fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}
