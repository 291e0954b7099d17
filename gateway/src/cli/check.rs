//! `crossgate check FILE..`: what is wrong or doubtful about configurations.
//!
//! The same code as at the start, so that what passes here starts there. Findings are diagnostics and go to the error output, or
//! with `--json` as one array to the output; warnings alone are no failure.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::config::diagnostics::Diagnostics;
use crate::reload;

/// How findings are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Checks main files, each with its tenants directory. 0: good, warnings aside; 1: mistakes; 2: no file named.
///
/// # Errors
/// If nothing can be written.
pub fn run(files: &[PathBuf], format: Format, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    if files.is_empty() {
        writeln!(err, "error: there is no file to check; name one or more main files")?;
        return Ok(2);
    }
    let found: Diagnostics = files.iter().flat_map(|file| reload::check(file)).collect();
    match format {
        Format::Text if found.is_empty() => {}
        Format::Text => writeln!(err, "{found}")?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?,
    }
    Ok(u8::from(found.has_errors()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a check answers: its exit code, its output and its error output.
    fn check(text: &str, format: Format) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&[path], format, &mut out, &mut err).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&format!("{}/", dir.path().display()), "");
        (code, text(out), text(err))
    }

    const TEN_MISTAKES: &str = r#"version: 1
listeners: [{ address: "localhost:8080" }]
limits: { head: soon }
upstreams: { orders: { servers: ["127.0.0.1:9001"], server: [] } }
policies:
  spa: { allowOrigins: ["https://App.example"], mode: Strict }
tenants:
  - { id: a, hosts: ["a.example:443"], upstream: order, policy: spa }
  - { id: a, hosts: [b.example], upstream: orders, policy: spb }
  - { hosts: [c.example], upstream: orders, policy: spa }
"#;

    #[test]
    fn ten_different_mistakes_give_ten_located_messages() {
        let (code, out, err) = check(TEN_MISTAKES, Format::Text);
        assert_eq!((code, out.as_str()), (1, ""));
        let places: Vec<_> = err.lines().filter_map(|line| line.strip_prefix("  --> ")).collect();
        let expected = ["2:24", "3:17", "4:53", "6:25", "6:55", "8:22", "8:50", "9:11", "9:60", "10:5"];
        assert_eq!(places, expected.map(|place| format!("gateway.yaml:{place}")), "{err}");
        let block = "error: an upstream has no key `server`; did you mean `servers`?\n  --> gateway.yaml:4:53\n  |\n\
                     4 | upstreams: { orders: { servers: [\"127.0.0.1:9001\"], server: [] } }\n  |     \
                     \u{20}                                               ^^^^^^\n";
        assert!(err.contains(block), "{err}");
        assert!(err.contains("  also: gateway.yaml:8:11"), "{err}");
    }

    #[test]
    fn machines_get_the_same_findings() {
        let (code, out, err) = check(TEN_MISTAKES, Format::Json);
        assert_eq!((code, err.as_str()), (1, ""));
        let found: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        assert_eq!(found.len(), 10);
        let keys = ["severity", "file", "line", "column", "width", "message", "sourceLine", "sourceColumn", "also"];
        assert!(keys.iter().all(|key| found[0].get(key).is_some()), "{}", found[0]);
    }

    #[test]
    fn warnings_are_told_and_are_no_failure() {
        let text = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\npolicies: { p: { mode: Report } }\n";
        let (code, _, err) = check(text, Format::Text);
        assert_eq!(code, 0);
        assert!(
            err.contains("warning: a policy in Report mode") && err.contains("nothing uses the policy `p`"),
            "{err}"
        );
        assert_eq!(
            check("version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\n", Format::Json),
            (0, "[]\n".into(), String::new())
        );
    }

    #[test]
    fn no_file_is_wrong_usage() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&[], Format::Text, &mut out, &mut err).unwrap(), 2);
        assert!(out.is_empty() && !err.is_empty());
    }
}
