//! The diagnostics log: the events of the gateway itself, on standard error.
//!
//! Lines go through a bounded queue to one thread, the only one that writes to standard error while
//! the gateway serves. A reader that is gone, full or blocked therefore costs lines, which are
//! counted, and never blocks the reporting thread. At the end of the process the queue is flushed
//! with a time limit. Absent on purpose: any write by the reporting thread, and `eprintln!`, which
//! panics when standard error is closed.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The limit on queued lines. A start or a refused reload reports far fewer.
const QUEUE_LINES_MAX: usize = 1_024;
/// The limit on queued bytes: a thousand configuration errors with their source lines are below 1
/// MiB.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// The lines that this process could not write to standard error.
pub static DROPPED: DropCounts = DropCounts([const { AtomicU64::new(0) }; DropReason::ALL.len()]);

/// The reason why a line was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The queue was full: standard error is blocked or too slow.
    Full,
    /// The write failed: the reader is gone, or the disk is full.
    Failed,
}

impl DropReason {
    pub const ALL: [DropReason; 2] = [DropReason::Full, DropReason::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Full => "full",
            DropReason::Failed => "failed",
        }
    }
}

/// The counts of lines that were not written, by reason.
#[derive(Debug)]
pub struct DropCounts([AtomicU64; DropReason::ALL.len()]);

impl DropCounts {
    /// The counts by reason.
    pub fn read(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.0.iter().map(|count| count.load(Relaxed)))
    }

    fn count(&self, reason: DropReason) {
        if let Some(count) = self.0.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// A handle to the queue of lines.
#[derive(Clone, Debug)]
pub struct DiagnosticsLog(Arc<LineQueue>);

#[derive(Debug)]
struct LineQueue {
    dropped: &'static DropCounts,
    state: Mutex<QueueState>,
    /// Notified when a line arrives, and when the last one is written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
}

impl DiagnosticsLog {
    /// Starts the writing thread, which writes to `out` and counts failed lines in `dropped`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(mut out: impl Write + Send + 'static, dropped: &'static DropCounts) -> io::Result<Self> {
        let queue = Arc::new(LineQueue { dropped, state: Mutex::default(), changed: Condvar::new() });
        let thread_queue = Arc::clone(&queue);
        // A panic loses the line that was being written.
        let work = move || {
            crossgate_telemetry::restart::restart_on_panic(
                || dropped.count(DropReason::Failed),
                || thread_queue.write_to(&mut out),
            )
        };
        std::thread::Builder::new().name("diagnostics".to_owned()).spawn(work)?;
        Ok(DiagnosticsLog(queue))
    }

    /// Queues a line, which ends with a line feed. Never blocks; a line over the limits is dropped
    /// and counted.
    pub fn write(&self, line: Vec<u8>) {
        let mut state = self.0.state.lock();
        if state.lines.len() >= QUEUE_LINES_MAX || state.bytes.saturating_add(line.len()) > QUEUE_BYTES_MAX {
            return self.0.dropped.count(DropReason::Full);
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.0.changed.notify_all();
    }

    /// Waits until every queued line is written, at most `within`. Called at the end of the
    /// process.
    pub fn flush(&self, within: Duration) {
        let until = Instant::now() + within;
        let mut state = self.0.state.lock();
        while !state.lines.is_empty() || state.is_writing {
            if self.0.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}

impl LineQueue {
    /// Writes lines until the process ends.
    fn write_to(&self, out: &mut impl Write) {
        loop {
            let line = self.next();
            if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                self.dropped.count(DropReason::Failed);
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        state.is_writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes = state.bytes.saturating_sub(line.len());
                state.is_writing = true;
                return line;
            }
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
    }
}

/// Collects the text of one event.
#[derive(Debug)]
pub struct LineWriter<'a> {
    log: &'a DiagnosticsLog,
    line: Vec<u8>,
}

impl<'a> MakeWriter<'a> for DiagnosticsLog {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { log: self, line: Vec::new() }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.log.write(std::mem::take(&mut self.line));
        }
    }
}

/// Filters for noisy libraries. Pingora logs each failed exchange with unescaped client text, which
/// the access log contains escaped and capped. rustls warns about client errors, which the metrics
/// count.
const QUIET: &str = "pingora=error,pingora_core=off,pingora_proxy=off,rustls=error";
/// The default filter.
pub const FILTER_DEFAULT: &str = "info,pingora=error,pingora_core=off,pingora_proxy=off,rustls=error";
/// The longest accepted filter.
const FILTER_LEN_MAX: usize = 1_024;

/// The current filter and the function that replaces it. A process has one log, and so one filter.
static FILTER: OnceLock<FilterControl> = OnceLock::new();

struct FilterControl {
    text: Mutex<String>,
    replace: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// The reason why the filter was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The text is not a valid filter.
    #[error("invalid log level `{0}`: expected error, warn, info, debug, trace, off or module=level pairs")]
    Invalid(String),
    /// This process has no log.
    #[error("this process has no diagnostics log: start it with `crossgate run`")]
    NoLog,
}

/// Expands a level to a filter that quiets the libraries; module=level pairs are used unchanged.
///
/// # Errors
/// The text is neither.
pub fn parse_filter(text: &str) -> Result<String, FilterError> {
    let invalid = || FilterError::Invalid(text.chars().take(64).flat_map(char::escape_debug).collect());
    let text = text.trim();
    if text.is_empty() || text.len() > FILTER_LEN_MAX {
        return Err(invalid());
    }
    if let Ok(level) = text.parse::<LevelFilter>() {
        let level = level.to_string().to_lowercase();
        return Ok(if level == "off" { level } else { format!("{level},{QUIET}") });
    }
    // `EnvFilter` would take a bare word as a module name.
    let are_pairs = text.split(',').all(|part| part.contains('=') || part.parse::<LevelFilter>().is_ok());
    if are_pairs && EnvFilter::try_new(text).is_ok() { Ok(text.to_owned()) } else { Err(invalid()) }
}

/// Sets the current filter and the function that replaces it.
pub(crate) fn set_filter_control(text: String, replace: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    // The subscriber already refuses a second log in one process.
    let _ = FILTER.set(FilterControl { text: Mutex::new(text), replace: Box::new(replace) });
}

/// The current filter.
///
/// # Errors
/// This process has no log.
pub fn filter() -> Result<String, FilterError> {
    FILTER.get().map(|control| control.text.lock().clone()).ok_or(FilterError::NoLog)
}

/// Replaces the filter until the process ends.
///
/// # Errors
/// The text is not a valid filter, or this process has no log.
pub fn set_filter(text: &str) -> Result<String, FilterError> {
    let filter = parse_filter(text)?;
    let control = FILTER.get().ok_or(FilterError::NoLog)?;
    let mut current = control.text.lock();
    let parsed = EnvFilter::try_new(&filter).map_err(|_| FilterError::Invalid(filter.clone()))?;
    if !(control.replace)(parsed) {
        return Err(FilterError::NoLog);
    }
    // Pingora logs through the `log` crate, which has its own level.
    log::set_max_level(log_level(LevelFilter::current()));
    current.clone_from(&filter);
    Ok(filter)
}

fn log_level(level: LevelFilter) -> log::LevelFilter {
    level.to_string().parse().unwrap_or(log::LevelFilter::Info)
}

/// Reports a panic as an event. The standard library's own hook writes to standard error directly,
/// and panics if that fails.
pub fn report_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    // Escaped, so that a message with line feeds stays on one line.
    let message: String = text.unwrap_or("a payload that is not text").escape_debug().collect();
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let location = info.location().map_or_else(|| "an unknown location".to_owned(), ToString::to_string);
    // Captured only if RUST_BACKTRACE is set.
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        let backtrace = backtrace.to_string();
        return tracing::error!(backtrace, "thread `{name}` panicked at {location}: {message}");
    }
    tracing::error!("thread `{name}` panicked at {location}: {message}");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An output that forwards written bytes and blocks each write until the test allows it.
    struct Gated {
        gate: Receiver<io::Result<()>>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.gate.recv().map_err(io::Error::other)??;
            self.taken.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (DiagnosticsLog, Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let ((open, gate), (taken, output)) = (channel(), channel());
        let dropped = Box::leak(Box::new(DropCounts([const { AtomicU64::new(0) }; 2])));
        (DiagnosticsLog::start(Gated { gate, taken }, dropped).unwrap(), open, output)
    }

    impl DiagnosticsLog {
        fn dropped(&self, reason: DropReason) -> u64 {
            self.0.dropped.read().find(|(one, _)| *one == reason).unwrap().1
        }
    }

    #[test]
    fn blocked_standard_error_drops_lines_without_blocking() {
        let (log, open, output) = gated();
        // The writing thread holds one more line.
        let lines = QUEUE_LINES_MAX + 10;
        for number in 0..lines {
            log.write(format!("{number}\n").into_bytes());
        }
        let lost = log.dropped(DropReason::Full);
        assert!((9..=10).contains(&lost), "{lost}");
        let begun = Instant::now();
        log.flush(Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(5));
        for _ in 0..lines {
            open.send(Ok(())).unwrap();
        }
        log.flush(Duration::from_secs(20));
        let taken: Vec<_> = output.try_iter().collect();
        assert_eq!(taken.len() as u64, lines as u64 - lost);
        assert_eq!(taken[0], b"0\n");
    }

    #[test]
    fn diagnostics_queue_is_limited_in_bytes() {
        let (log, _open, _output) = gated();
        for _ in 0..10 {
            log.write(vec![b'x'; QUEUE_BYTES_MAX / 4]);
        }
        assert!(log.dropped(DropReason::Full) >= 5);
    }

    #[test]
    fn failed_diagnostics_line_is_counted_and_the_next_is_written() {
        let (log, open, output) = gated();
        open.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        open.send(Ok(())).unwrap();
        log.write(b"lost\n".to_vec());
        log.write(b"kept\n".to_vec());
        log.flush(Duration::from_secs(20));
        assert_eq!(log.dropped(DropReason::Failed), 1);
        assert_eq!(output.try_iter().collect::<Vec<_>>(), [b"kept\n"]);
    }

    #[test]
    fn log_level_quiets_libraries_and_pairs_are_unchanged() {
        assert_eq!(parse_filter("info").unwrap(), FILTER_DEFAULT);
        assert_eq!(parse_filter(" DEBUG ").unwrap(), format!("debug,{QUIET}"));
        assert_eq!(parse_filter("off").unwrap(), "off");
        assert_eq!(parse_filter("warn,crossgate=trace").unwrap(), "warn,crossgate=trace");
        for bad in ["", "loud", "crossgate=loud", "info,crossgate", "=", &"a=info,".repeat(1_000)] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
        assert_eq!(set_filter("info"), Err(FilterError::NoLog));
        assert_eq!(log_level(LevelFilter::TRACE), log::LevelFilter::Trace);
    }

    #[test]
    fn diagnostics_event_is_one_line() {
        let (log, open, output) = gated();
        open.send(Ok(())).unwrap();
        let mut writer = log.make_writer();
        writer.write_all(b"one ").unwrap();
        writer.write_all(b"event\n").unwrap();
        drop(writer);
        log.flush(Duration::from_secs(20));
        assert_eq!(output.try_iter().collect::<Vec<_>>(), [b"one event\n"]);
    }
}
