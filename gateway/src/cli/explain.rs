//! `crossgate explain`: what happens to a request under a configuration, and why.
//!
//! The configuration is read from its files as a start would read it; no gateway need run.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use super::{GOOD, USAGE, WRONG};
use crate::explain::explain;
use crate::explain::probe::{Description, Probe, ProbeError, Sender};
use crate::metrics::Metrics;
use crate::reload::{BrokenTenants, Reloader};

/// The longest line that is read: longer than any that the gateway logs.
const LINE_LEN_MAX: u64 = 64 * 1024;

/// The arguments of `crossgate explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// The main configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The request's Host, with the port if it has one
    #[arg(long, value_name = "HOST", required_unless_present = "log_line")]
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
    /// The request comes from one of the listener's trustedProxies: its forwarding headers count
    #[arg(long)]
    pub trusted: bool,
    /// Explain the preflight that asks for METHOD and these headers; the list may be empty
    #[arg(long, value_name = "LIST")]
    pub request_headers: Option<String>,
    /// Explain the request of an access log line instead, read from standard input
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all =
        ["host", "origin", "method", "path", "header", "request_headers", "trusted"])]
    pub log_line: Option<String>,
    /// Print the explanation as JSON
    #[arg(long)]
    pub json: bool,
}

/// Explains to `out`; mistakes go to `err`. Gives the exit code: a denial is a good answer.
pub fn run(args: ExplainArgs, input: &mut dyn BufRead, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let (config, json) = (args.config.clone(), args.json);
    let probe = match probe(args, input) {
        Ok(probe) => probe,
        Err(error) => return fail(err, &error, USAGE),
    };
    let reloader = match Reloader::start(&config, BrokenTenants::Refuse, &Metrics::new()) {
        Ok(reloader) => reloader,
        Err(found) => {
            let _told = write!(err, "{found}");
            return WRONG;
        }
    };
    let explanation = explain(&reloader.current().latest(), &probe);
    let written = if json {
        serde_json::to_writer_pretty(&mut *out, &explanation).map_err(Into::into).and_then(|()| writeln!(out))
    } else {
        write!(out, "{explanation}")
    };
    written.map_or_else(|error| fail(err, &error, WRONG), |()| GOOD)
}

fn probe(args: ExplainArgs, input: &mut dyn BufRead) -> Result<Probe, ProbeError> {
    if args.log_line.is_some() {
        let mut line = String::new();
        let read = std::io::Read::take(input, LINE_LEN_MAX).read_line(&mut line);
        return read
            .map_err(|error| ProbeError::LogLine(error.to_string()))
            .and_then(|_| Probe::from_log_line(line.trim_end()));
    }
    let ExplainArgs { config: _, host, origin, method, path, header, trusted, request_headers, log_line: _, json: _ } =
        args;
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    let description = Description {
        host: bytes(host),
        origin: bytes(origin),
        method: bytes(method),
        path: bytes(path),
        request_headers: bytes(request_headers),
        header: header.into_iter().map(String::into_bytes).collect(),
        sender: if trusted { Sender::TrustedProxy } else { Sender::Stranger },
    };
    description.into_probe()
}

/// With standard error gone there is nobody left to tell.
fn fail(err: &mut dyn Write, error: &dyn std::fmt::Display, code: u8) -> u8 {
    let _told = writeln!(err, "error: {error}");
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

    /// The exit code and both outputs, for these arguments after `--config`.
    fn ask(config: &str, arguments: &[&str], input: &str) -> (u8, String, String) {
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
    fn an_answer_goes_to_the_output() {
        let origin = "https://app.example:1";
        let (code, out, err) = ask(CONFIG, &["--host", "api.example", "--origin", origin], "");
        assert_eq!((code, err.as_str()), (GOOD, ""));
        assert!(out.contains("https://app.example: port differs"), "{out}");
        let (code, out, _) = ask(CONFIG, &["--host", "api.example", "--origin", origin, "--json"], "");
        let told: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, told.pointer("/response/status")), (GOOD, Some(&403.into())));
    }

    #[test]
    fn a_log_line_is_taken_from_the_input() {
        let line = r#"{"host":"api.example","method":"GET","path":"/","origin":"https://app.example"}"#;
        let (code, out, _) = ask(CONFIG, &["--log-line", "-"], line);
        assert_eq!(code, GOOD);
        assert!(out.contains("entry      https://app.example"), "{out}");
    }

    #[test]
    fn the_exit_code_tells_whose_mistake_it_is() {
        for (config, arguments, input, expected) in [
            (CONFIG, &[][..], "", USAGE),
            (CONFIG, &["--host", "a", "--header", "x"][..], "", USAGE),
            (CONFIG, &["--log-line", "-", "--host", "a"][..], "", USAGE),
            (CONFIG, &["--log-line", "-"][..], "GET / HTTP/1.1", USAGE),
            ("version: 2\n", &["--host", "a"][..], "", WRONG),
        ] {
            let (code, out, _) = ask(config, arguments, input);
            assert_eq!((code, out.as_str()), (expected, ""), "{arguments:?} {input}");
        }
    }
}
