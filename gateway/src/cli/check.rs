//! `crossgate check FILE..`: prints the errors and warnings of configurations.
//!
//! Runs the code of a start, so a configuration that passes here starts. Findings are diagnostics
//! and go to standard error, or with `--json` as one array to standard output. Warnings alone are
//! no failure unless `--deny-warnings` is given.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{GOOD, OfflineArgs, USAGE, WRONG};
use crate::reload::{self, ConfigInspection};
use crossgate_config as config;
use crossgate_config::diagnostics::Diagnostics;

/// The name that stands for standard input.
pub(super) const STDIN: &str = "-";

/// The arguments of `crossgate check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// The main files to check, or - for standard input
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub files: Vec<PathBuf>,
    /// The main file to check, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub config: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 on warnings too, except those about missing secrets
    #[arg(long)]
    pub deny_warnings: bool,
    /// The option for machines without the secrets.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

impl CheckArgs {
    fn mains(&self) -> impl Iterator<Item = &Path> {
        self.config.iter().chain(&self.files).map(PathBuf::as_path)
    }
}

/// Checks main files, each with its tenants directory. Exit codes: 0 without errors, 1 with errors
/// or denied warnings, 2 if input cannot be read.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &CheckArgs, input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    if args.mains().filter(|main| *main == Path::new(STDIN)).count() > 1 {
        writeln!(err, "error: standard input can be read only once: pass - once")?;
        return Ok(USAGE);
    }
    let mut all = Diagnostics::default();
    for main in args.mains() {
        let text = match text_of(main, input) {
            Ok(text) => text,
            Err(error) => {
                writeln!(err, "error: cannot read standard input: {error}")?;
                return Ok(USAGE);
            }
        };
        let inspection = reload::inspect(main, text, args.offline.secrets());
        if !args.json {
            print(args, main, &inspection, !all.is_empty(), out, err)?;
        }
        all.extend(inspection.found);
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    }
    Ok(if is_good(args, &all) { GOOD } else { WRONG })
}

/// The text of a main file that is standard input.
pub(super) fn text_of(main: &Path, input: &mut dyn Read) -> io::Result<Option<String>> {
    if main == Path::new(STDIN) { config::read_text(input).map(Some) } else { Ok(None) }
}

fn is_good(args: &CheckArgs, found: &Diagnostics) -> bool {
    let is_denied = args.deny_warnings && found.has_denied_warnings();
    !(found.has_errors() || is_denied)
}

fn print(
    args: &CheckArgs,
    main: &Path,
    ConfigInspection { found, snapshot }: &ConfigInspection,
    is_next: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    if !found.is_empty() {
        let gap = if is_next { "\n" } else { "" };
        writeln!(err, "{gap}{found}")?;
    }
    match snapshot {
        Some(snapshot) if is_good(args, found) && args.files.len() > 1 => {
            writeln!(out, "ok: {}: {}", main.display(), snapshot.counts())
        }
        Some(snapshot) if is_good(args, found) => writeln!(out, "ok: {}", snapshot.counts()),
        Some(_) => writeln!(err, "\nerror: refused for its warnings, because of --deny-warnings"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    enum Format {
        Text,
        Json,
    }

    /// Runs a check; returns its exit code, standard output and standard error.
    fn check(text: &str, format: Format) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, text).unwrap();
        let args = CheckArgs {
            files: vec![path],
            config: None,
            json: format == Format::Json,
            deny_warnings: false,
            offline: OfflineArgs { offline: false },
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args, &mut io::empty(), &mut out, &mut err).unwrap();
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
    fn ten_different_mistakes_give_ten_located_errors() {
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
    fn check_json_contains_the_same_findings() {
        let (code, out, err) = check(TEN_MISTAKES, Format::Json);
        assert_eq!((code, err.as_str()), (1, ""));
        let found: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        assert_eq!(found.len(), 10);
        let keys =
            ["severity", "code", "file", "line", "column", "width", "message", "sourceLine", "sourceColumn", "also"];
        assert!(keys.iter().all(|key| found[0].get(key).is_some()), "{}", found[0]);
    }

    #[test]
    fn check_prints_warnings_and_exits_0() {
        let text = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\npolicies: { p: { mode: Report } }\n";
        let (code, _, err) = check(text, Format::Text);
        assert_eq!(code, 0);
        assert!(
            err.contains("warning[report-mode]: a policy in Report mode")
                && err.contains("nothing uses the policy `p`"),
            "{err}"
        );
    }

    #[test]
    fn check_prints_counts_or_an_empty_array_for_a_valid_file() {
        let text = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nupstreams: { a: { servers: [\"127.0.0.1:9\"] } }\n\
                    policies: { p: { allowOrigins: [\"https://a.example\"] } }\n\
                    tenants: [{ id: a, hosts: [a.example], upstream: a, policy: p, allowOrigins: [\"https://b.example\"] }]\n";
        let counted = "ok: 1 tenant, 1 policy, 1 route, 2 origins\n".to_owned();
        assert_eq!(check(text, Format::Text), (0, counted, String::new()));
        assert_eq!(check(text, Format::Json), (0, "[]\n".into(), String::new()));
    }
}
