//! Counters and log lines: counter cells, histograms, closed label sets, the text of a scrape, and
//! a line log.
//!
//! The gateway and `wire` count and log with these types, on the request path without locks. Absent
//! on purpose: metric names, label values, and the content of lines.

#[doc(hidden)]
pub use serde;

mod cells;
mod exposition;
mod histogram;
mod labels;
pub mod line_log;
mod live;
pub mod output;
pub mod restart;
pub mod thread_number;

pub use self::cells::CounterCells;
pub use self::exposition::{Exposition, FamilyWriter, unix_seconds};
pub use self::histogram::{Histogram, HistogramSnapshot, SampledTimer};
pub use self::labels::{all_counts, nonzero_counts};
pub use self::live::LiveCounters;
