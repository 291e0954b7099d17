//! The access log: one JSON line for each request, on standard output or in a file.
//!
//! A request's task renders its line into the buffer of its worker, and one thread writes the
//! buffers. They are bounded: when the reader of the log falls behind, lines are dropped and
//! counted, and requests continue. [`LogRecord`] is the schema. Text that a client can choose is
//! escaped to printable ASCII and capped. Query strings are absent on purpose, since they may
//! contain secrets. [`LineLog`] does the writing.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossgate_config::model::{LogAlways, LogFieldSet};
use crossgate_telemetry::line_log::LineLog;
pub use crossgate_telemetry::line_log::{FileRotation, LogDestination, open};

mod record;

pub use self::record::LogRecord;

use crate::metrics::{PanicCounters, PanicPlace, VerdictLabel};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogLevel {
    /// Every request.
    #[default]
    All,
    /// Only denied requests, and in report mode those that would be denied.
    Denied,
    /// No requests.
    Off,
}

/// Selects the requests to log, by verdict and by sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogFilter {
    /// The verdicts that are candidates for the log.
    pub level: AccessLogLevel,
    /// The fraction of the candidates to log, from 0 to 1, evenly spaced. Denials are sampled too
    /// unless `always` includes them, so that a flood of denials cannot fill a disk.
    pub sample: f64,
    /// The candidates that are logged regardless of `sample`.
    pub always: LogAlways,
}

/// The end of a request, as far as the filter depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutcome {
    /// A response below 500, or the client closed the connection first.
    Answered,
    /// A 5xx response, no response, or a failed upstream.
    Failed,
}

impl Default for LogFilter {
    fn default() -> Self {
        LogFilter { level: AccessLogLevel::All, sample: 1.0, always: LogAlways::default() }
    }
}

/// The access log of a process.
#[derive(Debug)]
pub struct AccessLog {
    lines: LineLog,
    candidates: AtomicU64,
}

impl AccessLog {
    /// Starts the writing thread for so many workers. It writes to the file that `destination`
    /// currently names, or else to `out`, and counts lines that could not be written in `dropped`.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub fn start(
        out: impl Write + Send + 'static,
        destination: impl Fn() -> LogDestination + Send + 'static,
        workers: usize,
        dropped: Arc<AtomicU64>,
        panics: Arc<PanicCounters>,
    ) -> std::io::Result<Self> {
        let lines = LineLog::start(out, destination, workers, dropped, move || panics.count(PanicPlace::AccessLog))?;
        Ok(AccessLog { lines, candidates: AtomicU64::new(0) })
    }

    /// Reports whether to log a request. Call it once for each request, since it advances the
    /// sample counter.
    pub fn should_log(&self, filter: LogFilter, verdict: VerdictLabel, outcome: LogOutcome) -> bool {
        let is_kept =
            (filter.always.deny && verdict.is_denial()) || (filter.always.error && outcome == LogOutcome::Failed);
        filter.covers(verdict) && (is_kept || self.is_sampled(filter.sample))
    }

    /// Renders one line with these fields into the worker's buffer. Never waits.
    pub fn write(&self, fields: LogFieldSet, record: &LogRecord<'_>) {
        self.lines.write(|bytes| record.write_line(fields, bytes));
    }

    /// Reopens the file, after log rotation has moved it. Never waits.
    pub fn reopen(&self) {
        self.lines.reopen();
    }

    /// Waits until all queued lines are written, but at most `within`. Called at the end of the
    /// process.
    pub async fn flush(&self, within: Duration) {
        self.lines.flush(within).await;
    }

    /// Reports whether the next candidate is one at which the sum of shares passes a whole number.
    fn is_sampled(&self, share: f64) -> bool {
        // The usual case needs no shared counter.
        if share >= 1.0 {
            return true;
        }
        let before = self.candidates.fetch_add(1, Relaxed) as f64 * share;
        (before + share).floor() > before.floor()
    }
}

impl LogFilter {
    /// Reports whether a verdict is a candidate for the log.
    pub fn covers(self, verdict: VerdictLabel) -> bool {
        match self.level {
            AccessLogLevel::All => true,
            AccessLogLevel::Denied => verdict.is_denial(),
            AccessLogLevel::Off => false,
        }
    }
}

#[cfg(test)]
mod tests;
