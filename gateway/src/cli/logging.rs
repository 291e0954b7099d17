//! Diagnostics: what the gateway says about itself, on standard error.
//!
//! `CROSSGATE_LOG` filters by level and module (`info`, `crossgate=debug`); text or JSON, coloured only on a terminal.
//! The access log is another thing, on standard output.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The variable that filters.
const FILTER_VARIABLE: &str = "CROSSGATE_LOG";

/// Pingora logs each failed exchange, with the client's words in it; the access log has these, escaped and capped. rustls warns
/// of what clients do wrong, which is counted.
const FILTER_DEFAULT: &str = "info,pingora=error,pingora_core=off,pingora_proxy=off,rustls=error";

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends what is logged from now on to standard error.
///
/// # Errors
/// If `CROSSGATE_LOG` is no filter, with what would be one.
pub fn init(format: LogFormat) -> Result<(), String> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(std::env::var(FILTER_VARIABLE).ok().as_deref())?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| format!("the log cannot be set up twice: {error}"))
}

fn filter(directives: Option<&str>) -> Result<EnvFilter, String> {
    let directives = directives.filter(|text| !text.is_empty()).unwrap_or(FILTER_DEFAULT);
    EnvFilter::try_new(directives).map_err(|error| {
        format!("{FILTER_VARIABLE} is no filter: {error}; accepted is a level such as info, or module=level pairs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_pairs() {
        for text in [None, Some(""), Some("debug"), Some("warn,crossgate=trace")] {
            assert!(filter(text).is_ok(), "{text:?}");
        }
        assert!(filter(Some("crossgate=loud")).unwrap_err().contains("accepted is a level"));
    }
}
