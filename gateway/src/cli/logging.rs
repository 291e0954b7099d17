//! Sets up diagnostics, which the gateway writes to standard error through [`DiagnosticsLog`].
//!
//! `--log-level`, or else `CROSSGATE_LOG`, filters by level and module (`info`, `crossgate=debug`).
//! Lines are text or JSON, coloured only on a terminal. The access log is separate.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::diagnostics_log::{self, DiagnosticsLog, FILTER_DEFAULT, parse_filter};

/// The environment variable with the filter.
const FILTER_VARIABLE: &str = "CROSSGATE_LOG";

/// The format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Installs `log` as the destination of events and panics.
///
/// # Errors
/// `level`, or else `CROSSGATE_LOG`, is not a valid filter. The message names what is accepted.
pub fn init(format: LogFormat, level: Option<&str>, log: DiagnosticsLog) -> Result<(), String> {
    let text = filter_text(level, std::env::var(FILTER_VARIABLE).ok().as_deref())?;
    let filter = EnvFilter::try_new(&text).map_err(|error| error.to_string())?;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log)
        // Otherwise the formatter itself would write to standard error, which may block.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter);
    let set = match format {
        LogFormat::Text => {
            let subscriber = subscriber.with_filter_reloading();
            let handle = subscriber.reload_handle();
            diagnostics_log::set_filter_control(text, move |filter| handle.reload(filter).is_ok());
            subscriber.try_init()
        }
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_filter_reloading();
            let handle = subscriber.reload_handle();
            diagnostics_log::set_filter_control(text, move |filter| handle.reload(filter).is_ok());
            subscriber.try_init()
        }
    };
    set.map_err(|error| format!("cannot set up the log twice: {error}"))?;
    std::panic::set_hook(Box::new(diagnostics_log::report_panic));
    Ok(())
}

/// Chooses the initial filter. The variable's text is used unchanged.
fn filter_text(level: Option<&str>, variable: Option<&str>) -> Result<String, String> {
    if let Some(level) = level {
        return parse_filter(level).map_err(|error| format!("--log-level: {error}"));
    }
    let text = variable.filter(|text| !text.is_empty()).unwrap_or(FILTER_DEFAULT);
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            Err(format!("invalid {FILTER_VARIABLE}: {error}; expected a level such as info, or module=level pairs"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_variable_accepts_a_level_or_pairs() {
        for text in [None, Some(""), Some("debug"), Some("warn,crossgate=trace")] {
            assert!(filter_text(None, text).is_ok(), "{text:?}");
        }
        assert!(filter_text(None, Some("crossgate=loud")).unwrap_err().contains("expected a level"));
    }

    #[test]
    fn log_level_option_overrides_the_variable() {
        assert!(filter_text(Some("debug"), Some("crossgate=loud")).unwrap().starts_with("debug,"));
        assert!(filter_text(Some("loud"), None).unwrap_err().starts_with("--log-level: "));
    }
}
