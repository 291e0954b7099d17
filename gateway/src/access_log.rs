//! The access log: one JSON line a request on standard output.
//!
//! A request's task renders its line and hands it to one writing thread through a bounded queue; when whoever reads
//! the log does not keep up, lines are dropped and counted, and requests go on. [`Record`] is the schema. What a client
//! can choose is escaped to printable ASCII and capped, and query strings are left out. Absent on purpose: files and
//! rotation, which belong to whoever runs the process.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

mod escape;
mod record;

pub use self::escape::{Escaped, unescape};
pub use self::record::Record;

use crate::metrics::VerdictLabel;

/// Lines that may wait for the writer: a second's worth of a busy gateway, and 16 MiB at the very most.
const QUEUE_LINES_MAX: usize = 8_192;

/// Bytes collected before they are written, while lines keep coming.
const BUFFER_BYTES: usize = 64 * 1024;

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Every request.
    #[default]
    All,
    /// Those that were denied, or would have been in report mode.
    Denied,
    /// None.
    Off,
}

/// Which requests are logged, and how many of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// Which are logged at all.
    pub level: Level,
    /// The share of these that is, from 0 to 1, evenly spaced. Denials are sampled too: a flood of them must not fill a
    /// disk.
    pub sample: f64,
}

impl Default for Filter {
    fn default() -> Self {
        Filter { level: Level::All, sample: 1.0 }
    }
}

/// Where requests are logged.
#[derive(Debug)]
pub struct AccessLog {
    queue: mpsc::Sender<Message>,
    candidates: AtomicU64,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Answered when every line before it is written.
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// A log that writes to `out` on a thread of its own, and counts in `dropped` the lines it could not write.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(out: impl Write + Send + 'static, dropped: Arc<AtomicU64>) -> std::io::Result<Self> {
        let (queue, lines) = mpsc::channel(QUEUE_LINES_MAX);
        let lost = Arc::clone(&dropped);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || write_lines(lines, out, &lost))?;
        Ok(AccessLog { queue, candidates: AtomicU64::new(0), dropped })
    }

    /// Logs a request if the filter lets it through. Never waits.
    pub fn write(&self, filter: Filter, record: &Record<'_>) {
        if !filter.concerns(record.verdict) || !self.is_sampled(filter.sample) {
            return;
        }
        let sent = record.to_line().is_some_and(|line| self.queue.try_send(Message::Line(line)).is_ok());
        if !sent {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was logged so far is written, at most `within`. For the end of the process.
    pub async fn flush(&self, within: Duration) {
        let (written, wait) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(written)).await.is_ok() {
                wait.await.ok();
            }
        };
        if tokio::time::timeout(within, flushed).await.is_err() {
            tracing::warn!("the access log was not written to its end in time");
        }
    }

    /// Whether the next candidate is the one at which the sum of shares passes a whole number.
    fn is_sampled(&self, share: f64) -> bool {
        // The usual case, in which nothing need be counted.
        if share >= 1.0 {
            return true;
        }
        let before = self.candidates.fetch_add(1, Relaxed) as f64 * share;
        (before + share).floor() > before.floor()
    }
}

impl Filter {
    /// Whether requests of that verdict are logged at all.
    pub fn concerns(self, verdict: VerdictLabel) -> bool {
        match self.level {
            Level::All => true,
            Level::Denied => verdict.is_denial(),
            Level::Off => false,
        }
    }
}

/// The writing thread: ends when the log is dropped.
fn write_lines(mut queue: mpsc::Receiver<Message>, out: impl Write, lost: &AtomicU64) {
    let mut batch = Batch { out, bytes: Vec::with_capacity(BUFFER_BYTES), lines: 0, is_failing: false, lost };
    while let Some(message) = queue.blocking_recv() {
        batch.take(message);
        while let Ok(message) = queue.try_recv() {
            batch.take(message);
        }
        batch.write();
    }
}

/// Lines that are written together.
struct Batch<'a, W> {
    out: W,
    bytes: Vec<u8>,
    lines: u64,
    is_failing: bool,
    lost: &'a AtomicU64,
}

impl<W: Write> Batch<'_, W> {
    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                if self.bytes.len() + line.len() > BUFFER_BYTES {
                    self.write();
                }
                self.bytes.extend_from_slice(&line);
                self.lines += 1;
            }
            Message::Flush(written) => {
                self.write();
                written.send(()).ok();
            }
        }
    }

    /// Writes them, or counts them as lost: kept until a full disk has room, they would fill the memory instead.
    fn write(&mut self) {
        if self.lines == 0 {
            return;
        }
        let written = self.out.write_all(&self.bytes).and_then(|()| self.out.flush());
        self.bytes.clear();
        let lines = std::mem::take(&mut self.lines);
        match written {
            Ok(()) if std::mem::take(&mut self.is_failing) => tracing::info!("the access log is written again"),
            Ok(()) => {}
            Err(error) => {
                self.lost.fetch_add(lines, Relaxed);
                // The end of a line may be missing there.
                self.bytes.push(b'\n');
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "the access log cannot be written");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
