//! `crossgate explain`: explains what happens to a request under a configuration, and why.
//!
//! The configuration is read from its files, as at a start; no gateway has to run. With
//! `--request-id` the running gateway explains a denial that it has recorded.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use super::admin_client::{AdminArgs, AdminClient, AdminRequestError};
use super::check::{STDIN, text_of};
use super::{GOOD, OfflineArgs, USAGE, WRONG};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::explain::{Explanation, explain};
use crate::metrics::VerdictLabel;
use crate::probe::{DescriptionError, ExplainedRequest, RequestDescription, SenderTrust, missing_fields};
use crate::reload::inspect;
use crate::snapshot::Snapshot;

/// The longest line that is read. The gateway logs shorter ones.
const LINE_LEN_MAX: u64 = 64 * 1024;

/// The arguments of `crossgate explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// The main configuration file
    #[arg(value_name = "FILE", conflicts_with = "config", required_unless_present_any = ["config", "admin"])]
    pub file: Option<PathBuf>,
    /// The main configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Explain the recent denial with this X-Request-Id, from the running gateway's records
    #[arg(long, value_name = "ID", conflicts_with_all =
        ["url", "page_url", "host", "origin", "method", "path", "header", "request_headers", "trusted", "log_line", "offline"])]
    pub request_id: Option<String>,
    /// With --request-id: the address of the gateway's admin listener, such as 127.0.0.1:9900,
    /// instead of the one in the file
    #[arg(long, value_name = "ADDR", requires = "request_id")]
    pub admin: Option<String>,
    /// With --request-id: the file with the admin listener's bearer token, instead of the one in
    /// the file
    #[arg(long, value_name = "FILE", requires = "request_id")]
    pub token_file: Option<PathBuf>,
    /// The URL of the request, with the query if it has one: instead of --host and --path
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "path"])]
    pub url: Option<String>,
    /// The URL of the page that sends it: instead of --origin
    #[arg(long, value_name = "URL", conflicts_with = "origin")]
    pub page_url: Option<String>,
    /// The request's Host, with the port if it has one
    #[arg(long, value_name = "HOST", required_unless_present_any = ["log_line", "url", "request_id"])]
    pub host: Option<String>,
    /// The request's Origin
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<String>,
    /// The method of the page's request [default: GET]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// The path, with the query if it has one [default: /]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// A further header; may be repeated
    #[arg(long, value_name = "NAME:VALUE")]
    pub header: Vec<String>,
    /// Trust the request's forwarding headers, as from one of the listener's trustedProxies
    #[arg(long)]
    pub trusted: bool,
    /// Explain the preflight for METHOD and these headers; the list may be empty
    #[arg(long, value_name = "LIST")]
    pub request_headers: Option<String>,
    /// Explain the requests of access log lines instead, read from standard input
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all =
        ["url", "page_url", "host", "origin", "method", "path", "header", "request_headers", "trusted"])]
    pub log_line: Option<String>,
    /// Exit with 1 if the verdict differs; with log lines, if that of any line differs
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub expect: Option<ExpectedVerdict>,
    /// Print the explanation as JSON; with log lines, one object per line
    #[arg(long)]
    pub json: bool,
    /// The option for machines without the secrets.
    #[command(flatten)]
    pub offline: OfflineArgs,
}

/// The verdict that a script expects. In report mode, the verdict that would apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExpectedVerdict {
    /// The request is allowed.
    Allow,
    /// The request is denied.
    Deny,
}

impl ExpectedVerdict {
    fn is_met(self, verdict: VerdictLabel) -> bool {
        verdict.is_denial() == (self == ExpectedVerdict::Deny)
    }

    fn as_str(self) -> &'static str {
        match self {
            ExpectedVerdict::Allow => "allow",
            ExpectedVerdict::Deny => "deny",
        }
    }
}

/// Prints explanations to `out` and errors to `err`; returns the exit code. A denial is a success
/// unless another verdict is expected.
pub fn run(args: ExplainArgs, input: &mut dyn BufRead, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if let Some(id) = &args.request_id {
        return print_recorded(&args, id, out, err).unwrap_or_else(|error| report_error(err, &error, WRONG));
    }
    // clap does not enforce `requires` on an option that another option conflicts with.
    if args.admin.is_some() || args.token_file.is_some() {
        return report_error(err, &"--admin and --token-file require --request-id", USAGE);
    }
    let main = args.config.clone().or_else(|| args.file.clone()).unwrap_or_default();
    let explainer = ExplanationPrinter { expect: args.expect, json: args.json };
    let secrets = args.offline.secrets();
    let probe = match args.log_line.is_some() {
        true if main == Path::new(STDIN) => {
            return report_error(
                err,
                &"standard input contains the log lines: pass the configuration as a file",
                USAGE,
            );
        }
        true => None,
        false => match describe_request(args) {
            Ok(probe) => Some(probe),
            Err(error) => return report_error(err, &error, USAGE),
        },
    };
    let text = match text_of(&main, &mut *input) {
        Ok(text) => text,
        Err(error) => return report_error(err, &format!("cannot read standard input: {error}"), USAGE),
    };
    let inspection = inspect(&main, text, secrets);
    let Some(snapshot) = inspection.snapshot else {
        let _written = writeln!(err, "{}", inspection.found);
        return WRONG;
    };
    let left_out = missing_fields(snapshot.settings.access_log.fields);
    if probe.is_none() && !left_out.is_empty() {
        let left_out = left_out.join(", ");
        let _written = writeln!(
            err,
            "warning: accessLog.fields leaves out {left_out}: requests are explained as if they had none of these"
        );
    }
    let result = match probe {
        Some(probe) => explainer.explain_request(&snapshot, &probe, out, err),
        None => explainer.explain_lines(&snapshot, input, out, err),
    };
    result.unwrap_or_else(|error| report_error(err, &error, WRONG))
}

/// Prints the running gateway's explanation of a recorded denial.
fn print_recorded(args: &ExplainArgs, id: &str, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let explanation = match fetch_explanation(args, id, "json") {
        Ok(body) => body,
        Err(failure) => {
            writeln!(err, "{failure}")?;
            return Ok(failure.code());
        }
    };
    let result: ExplainResult = match serde_json::from_slice(&explanation) {
        Ok(result) => result,
        Err(error) => {
            return Ok(report_error(err, &format!("invalid response, expected an explanation: {error}"), WRONG));
        }
    };
    match if args.json { Ok(explanation) } else { fetch_explanation(args, id, "text") } {
        Ok(body) => out.write_all(&body)?,
        Err(failure) => {
            writeln!(err, "{failure}")?;
            return Ok(failure.code());
        }
    }
    let is_denial = VerdictLabel::ALL.iter().any(|label| label.as_str() == result.verdict && label.is_denial());
    match args.expect.filter(|expect| is_denial != (*expect == ExpectedVerdict::Deny)) {
        None => Ok(GOOD),
        Some(expect) => {
            let ExplainResult { verdict, reason } = result;
            writeln!(err, "error: expected {}, got {verdict} ({reason})", expect.as_str())?;
            Ok(WRONG)
        }
    }
}

/// The parts of an explanation that decide the exit code.
#[derive(Deserialize)]
struct ExplainResult {
    verdict: String,
    reason: String,
}

fn fetch_explanation(args: &ExplainArgs, id: &str, format: &str) -> Result<Vec<u8>, AdminRequestError> {
    let ExplainArgs { file, config, admin, token_file, json, .. } = args.clone();
    let client = AdminClient::new(&AdminArgs { file, config, admin, token_file, json })?;
    let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
    let answer = client.send("GET", &format!("/explain?request-id={id}&format={format}"))?;
    match answer.status {
        200 => Ok(answer.body),
        status => {
            Err(AdminRequestError::Unreachable(format!("the gateway responded with {status}, expected an explanation")))
        }
    }
}

fn describe_request(args: ExplainArgs) -> Result<ExplainedRequest, DescriptionError> {
    let ExplainArgs { url, page_url, host, origin, method, path, header, trusted, request_headers, .. } = args;
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    let description = RequestDescription {
        url: bytes(url),
        page_url: bytes(page_url),
        host: bytes(host),
        origin: bytes(origin),
        method: bytes(method),
        path: bytes(path),
        request_headers: bytes(request_headers),
        header: header.into_iter().map(String::into_bytes).collect(),
        sender: if trusted { SenderTrust::TrustedProxy } else { SenderTrust::Untrusted },
    };
    description.into_request()
}

/// Prints explanations and compares verdicts with the expected one.
struct ExplanationPrinter {
    expect: Option<ExpectedVerdict>,
    json: bool,
}

impl ExplanationPrinter {
    fn explain_request(
        &self,
        snapshot: &Snapshot,
        probe: &ExplainedRequest,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<u8> {
        let explanation = explain(snapshot, probe);
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &explanation)?;
            writeln!(out)?;
        } else {
            write!(out, "{explanation}")?;
        }
        self.compare_verdict(&explanation, "", err)
    }

    /// Explains every line, even after errors in others. Returns the worst exit code.
    fn explain_lines(
        &self,
        snapshot: &Snapshot,
        input: &mut dyn BufRead,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<u8> {
        let (mut worst, mut explained) = (GOOD, 0_usize);
        for number in 1_u64.. {
            let Some(line) = next_line(input)? else { break };
            let probe = match line.as_deref().map(str::trim) {
                Some("") => continue,
                Some(line) => ExplainedRequest::from_log_line(line),
                None => Err(DescriptionError::LogLine(format!("more than {LINE_LEN_MAX} bytes, or not UTF-8"))),
            };
            let code = match probe {
                Ok(probe) => {
                    explained += 1;
                    self.explain_line(snapshot, number, &probe, out, err)?
                }
                // The log of any gateway on the internet contains such lines. They have no verdict,
                // but none of these requests was allowed.
                Err(error @ DescriptionError::RefusedHead(_)) if self.expect == Some(ExpectedVerdict::Allow) => {
                    report_error(err, &format!("line {number}: expected allow, but {error}"), WRONG)
                }
                Err(error @ DescriptionError::RefusedHead(_)) => {
                    writeln!(err, "note: line {number} is skipped: {error}")?;
                    GOOD
                }
                Err(error) => report_error(err, &format!("line {number}: {error}"), USAGE),
            };
            worst = worst.max(code);
        }
        if explained == 0 && worst == GOOD {
            return Ok(report_error(err, &"standard input contains no access log line with a verdict", USAGE));
        }
        Ok(worst)
    }

    fn explain_line(
        &self,
        snapshot: &Snapshot,
        number: u64,
        probe: &ExplainedRequest,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<u8> {
        let explanation = explain(snapshot, probe);
        if self.json {
            serde_json::to_writer(&mut *out, &explanation)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{:<10} {number}\n{explanation}", "line")?;
        }
        self.compare_verdict(&explanation, &format!("line {number}: "), err)
    }

    fn compare_verdict(&self, explanation: &Explanation, place: &str, err: &mut dyn Write) -> io::Result<u8> {
        match self.expect.filter(|expect| !expect.is_met(explanation.verdict)) {
            None => Ok(GOOD),
            Some(expect) => {
                let (verdict, reason) = (explanation.verdict.as_str(), explanation.reason);
                writeln!(err, "error: {place}expected {}, got {verdict} ({reason})", expect.as_str())?;
                Ok(WRONG)
            }
        }
    }
}

/// Reads the next line of a log. `Some(None)` is a skipped line: too long, or not UTF-8.
fn next_line(input: &mut dyn BufRead) -> io::Result<Option<Option<String>>> {
    let mut bytes = Vec::new();
    if io::Read::take(&mut *input, LINE_LEN_MAX).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let mut is_whole = bytes.ends_with(b"\n") || (bytes.len() as u64) < LINE_LEN_MAX;
    if is_whole {
        return Ok(Some(String::from_utf8(bytes).ok()));
    }
    while !is_whole {
        let mut rest = Vec::new();
        let read = io::Read::take(&mut *input, LINE_LEN_MAX).read_until(b'\n', &mut rest)?;
        is_whole = read == 0 || rest.ends_with(b"\n");
    }
    Ok(Some(None))
}

/// Prints an error, ignoring a closed standard error: no other output could report that.
fn report_error(err: &mut dyn Write, error: &dyn std::fmt::Display, code: u8) -> u8 {
    let _written = writeln!(err, "error: {error}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: acme, hosts: [api.example], upstream: a, policy: spa }]
"#;

    #[derive(Parser)]
    struct Explain {
        #[command(flatten)]
        args: ExplainArgs,
    }

    /// Runs the command with these arguments after `--config`; returns exit code and both outputs.
    fn run_explain(config: &str, arguments: &[&str], input: &str) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, config).unwrap();
        let all = ["explain", "--config", path.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = match Explain::try_parse_from(all) {
            Ok(Explain { args }) => run(args, &mut input.as_bytes(), &mut out, &mut err),
            Err(error) => u8::try_from(error.exit_code()).unwrap(),
        };
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn explanation_goes_to_standard_output() {
        let origin = "https://app.example:1";
        let (code, out, err) = run_explain(CONFIG, &["--host", "api.example", "--origin", origin], "");
        assert_eq!((code, err.as_str()), (GOOD, ""));
        assert!(out.contains("https://app.example: port differs"), "{out}");
        let (code, out, _) = run_explain(CONFIG, &["--host", "api.example", "--origin", origin, "--json"], "");
        let parsed: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, parsed.pointer("/response/status")), (GOOD, Some(&403.into())));
    }

    #[test]
    fn explain_reads_a_log_line_from_standard_input() {
        let line = r#"{"host":"api.example","method":"GET","path":"/","origin":"https://app.example"}"#;
        let (code, out, _) = run_explain(CONFIG, &["--log-line", "-"], line);
        assert_eq!(code, GOOD);
        assert!(out.contains("entry      https://app.example"), "{out}");
    }

    #[test]
    fn c5_each_log_line_is_explained_separately() {
        let line = |origin: &str| format!(r#"{{"host":"api.example","method":"GET","path":"/","origin":"{origin}"}}"#);
        let (good, evil) = (line("https://app.example"), line("https://evil.example"));
        let (code, out, err) = run_explain(CONFIG, &["--log-line", "-"], &format!("{good}\n\n{evil}\n{good}"));
        assert_eq!((code, err.as_str()), (GOOD, ""));
        let lines: Vec<&str> = out.lines().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(lines, ["line       1", "line       3", "line       4"]);

        let long = "x".repeat(usize::try_from(LINE_LEN_MAX).unwrap() * 2);
        let input = format!("{good}\nnonsense\n{long}\n{evil}\n");
        let (code, out, err) = run_explain(CONFIG, &["--log-line", "-", "--json"], &input);
        let verdicts: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let verdicts: Vec<&str> = verdicts.iter().map(|explanation| explanation["verdict"].as_str().unwrap()).collect();
        assert_eq!((code, verdicts), (USAGE, vec!["allow", "deny"]));
        assert!(err.contains("error: line 2: not a line of the access log"), "{err}");
        assert!(err.contains("error: line 3: ") && !err.contains("xxx"), "{err}");

        assert_eq!(
            run_explain(CONFIG, &["--log-line", "-", "--expect", "allow"], &format!("{good}\n{good}\n")).0,
            GOOD
        );
        let (code, _, err) =
            run_explain(CONFIG, &["--log-line", "-", "--expect", "allow"], &format!("{good}\n{evil}\n"));
        assert_eq!((code, err.as_str()), (WRONG, "error: line 2: expected allow, got deny (no_match)\n"));
        assert_eq!(run_explain(CONFIG, &["--log-line", "-"], "\n \n").0, USAGE);

        let refused = r#"{"request_id":"1","tenant":"none","reason":"framing","status":400,"note":"ambiguous"}"#;
        let (code, out, err) = run_explain(CONFIG, &["--log-line", "-"], &format!("{refused}\n{good}\n"));
        assert_eq!((code, out.lines().next()), (GOOD, Some("line       2")));
        assert!(err.starts_with("note: line 1 is skipped: the gateway refused the request head"), "{err}");
        for (expected, code) in [(&["--expect", "allow"][..], WRONG), (&["--expect", "deny"], USAGE), (&[], USAGE)] {
            assert_eq!(
                run_explain(CONFIG, &[&["--log-line", "-"], expected].concat(), refused).0,
                code,
                "{expected:?}"
            );
        }
    }

    #[test]
    fn c5_expected_verdict_sets_the_exit_code() {
        let report = CONFIG.replace("policies: { spa: {", "policies: { spa: { mode: Report,");
        for (config, origin, expected, code) in [
            (CONFIG, "https://app.example", "allow", GOOD),
            (CONFIG, "https://app.example", "deny", WRONG),
            (CONFIG, "https://evil.example", "deny", GOOD),
            (CONFIG, "https://evil.example", "allow", WRONG),
            (&report, "https://evil.example", "deny", GOOD),
            (&report, "https://app.example", "deny", WRONG),
        ] {
            let (found, out, _) =
                run_explain(config, &["--host", "api.example", "--origin", origin, "--expect", expected], "");
            assert_eq!(found, code, "{origin} {expected}: {out}");
        }
        assert_eq!(run_explain(CONFIG, &["--host", "api.example", "--expect", "maybe"], "").0, USAGE);
    }

    #[test]
    fn c5_explain_accepts_whole_urls_and_configuration_on_stdin() {
        let urls = ["--url", "https://api.example/orders?x=1", "--page-url", "https://app.example/cart#top"];
        let (code, out, err) = run_explain(CONFIG, &[&urls[..], &["--expect", "allow"]].concat(), "");
        assert_eq!((code, err.as_str()), (GOOD, ""), "{out}");
        for more in [["--host", "api.example"], ["--path", "/"], ["--origin", "https://app.example"]] {
            assert_eq!(run_explain(CONFIG, &[&urls[..], &more].concat(), "").0, USAGE, "{more:?}");
        }
        let all = ["explain", "-", "--host", "api.example"];
        let Explain { args } = Explain::try_parse_from(all).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(args, &mut CONFIG.as_bytes(), &mut out, &mut err), GOOD);
        let Explain { args } = Explain::try_parse_from(["explain", "-", "--log-line", "-"]).unwrap();
        assert_eq!(run(args, &mut CONFIG.as_bytes(), &mut out, &mut err), USAGE);
    }

    #[test]
    fn c6_nearly_valid_arguments_exit_2_with_the_correction() {
        for (arguments, message) in [
            (&["--host", "https://api.example"][..], "expected the host alone, api.example"),
            (&["--host", "api.example", "--origin", "https://app.example:8443/"], "expected https://app.example:8443,"),
            (&["--host", "api.example", "--path", "orders"], "expected /orders"),
            (&["--host", "api.example", "--request-headers", "x-a: 1"], "expected names without values, such as x-a"),
            (&["--url", "api.example/orders"], "expected a URL of the API such as https://"),
            (
                &["--url", "https://api.example", "--page-url", "app.example"],
                "expected a URL of the page such as https://",
            ),
        ] {
            let (code, out, err) = run_explain(CONFIG, arguments, "");
            assert_eq!((code, out.as_str()), (USAGE, ""), "{arguments:?}");
            assert!(err.contains(message), "{arguments:?}: {err}");
        }
        // `--header` takes a value unchecked, so a malformed origin can be explained.
        let (code, out, _) =
            run_explain(CONFIG, &["--host", "api.example", "--header", "origin: https://app.example/"], "");
        assert_eq!(code, GOOD);
        assert!(out.contains("malformed_origin"), "{out}");
    }

    #[test]
    fn d2_explain_warns_of_fields_missing_from_the_log() {
        let config = CONFIG.replace("tenants:", "accessLog: { fields: [host, method, path, kind, cut] }\ntenants:");
        let line = r#"{"host":"api.example","method":"GET","path":"/","kind":"actual"}"#;
        let (code, out, err) = run_explain(&config, &["--log-line", "-"], line);
        assert_eq!(code, GOOD, "{out}");
        assert!(err.starts_with("warning: accessLog.fields leaves out origin, origin_fields, "), "{err}");
        let (_, _, err) = run_explain(CONFIG, &["--log-line", "-"], line);
        assert_eq!(err, "");
        let (code, _, err) = run_explain(&config, &["--log-line", "-"], r#"{"method":"GET","verdict":"deny"}"#);
        assert_eq!(code, USAGE);
        assert!(err.contains("the line has no host, path"), "{err}");
    }

    #[test]
    fn explain_exit_code_distinguishes_usage_from_configuration() {
        for (config, arguments, input, expected) in [
            (CONFIG, &[][..], "", USAGE),
            (CONFIG, &["--host", "a", "--header", "x"][..], "", USAGE),
            (CONFIG, &["--log-line", "-", "--host", "a"][..], "", USAGE),
            (CONFIG, &["--log-line", "-"][..], "GET / HTTP/1.1", USAGE),
            ("version: 2\n", &["--host", "a"][..], "", WRONG),
        ] {
            let (code, out, _) = run_explain(config, arguments, input);
            assert_eq!((code, out.as_str()), (expected, ""), "{arguments:?} {input}");
        }
    }
}
