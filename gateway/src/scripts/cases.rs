//! Runs the cases of a script.
//!
//! A case is run as a preflight and as an actual request unless it says as what, and both must answer as expected: an origin whose
//! preflight passes and whose request does not helps nobody. On a preflight the fields that the page would set are absent, as a
//! browser leaves them out.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crossgate_policy::{Answer, Kind, Rule, RuleInput, RuleRun, Script, Terms, split_origin};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::diagnostics::Diagnostic;
use crate::config::model::At;
use crate::config::{CaseSpec, CasesFile, Expected};

/// A case that did not answer as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The case.
    pub name: String,
    /// As what it was run.
    pub kind: Kind,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
    /// What the rule read.
    pub reads: Vec<String>,
    /// How many operations it took.
    pub operations: u64,
    /// Where the expectation is written.
    pub at: At,
}

/// Runs all cases; gives those that failed.
pub fn run(script: &Arc<Script>, cases: &CasesFile) -> Vec<Failure> {
    let headers: Vec<HeaderName> = script.headers().iter().filter_map(|(name, _)| name.parse().ok()).collect();
    let query: Vec<Box<str>> = script.query_keys().iter().map(|(key, _)| key.clone()).collect();
    let rule = Rule::new(0, script, &headers, &query, 1);
    let runs = cases.cases.iter().flat_map(|case| case.kinds.iter().map(move |kind| (case, *kind)));
    runs.filter_map(|(case, kind)| check(&rule, case, kind)).collect()
}

fn check(rule: &Rule, case: &CaseSpec, kind: Kind) -> Option<Failure> {
    let told = |got: String, reads, operations| Failure {
        name: case.name.value.to_string(),
        kind,
        expected: Told(&case.expected).to_string(),
        got,
        reads,
        operations,
        at: case.expected_at,
    };
    let run = match run_as(rule, case, kind) {
        Ok(run) => run,
        Err(flaw) => return Some(told(format!("the origin {flaw}"), Vec::new(), 0)),
    };
    let is_met = match (&case.expected, &run.answer) {
        (Expected::Allow(expected), Ok(Answer::Allow(terms))) => expected == terms,
        (Expected::Deny(None), Ok(Answer::Deny(_))) | (Expected::Abstain, Ok(Answer::Abstain)) => true,
        (Expected::Deny(Some(expected)), Ok(Answer::Deny(Some(message)))) => **expected == **message,
        (Expected::Error(kind), Err(error)) => *kind == error.kind,
        (Expected::Allow(_) | Expected::Deny(_) | Expected::Abstain | Expected::Error(_), _) => false,
    };
    (!is_met).then(|| told(got(&run), rule.names(run.reads), run.operations))
}

fn run_as(rule: &Rule, case: &CaseSpec, kind: Kind) -> Result<RuleRun, String> {
    let (scheme, host, port) = split_origin(&case.origin.value)?;
    let page = case.headers.iter().filter(|_| kind != Kind::Preflight);
    let fields = case.proxy_headers.iter().chain(page);
    let headers: HeaderMap =
        fields.filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str(value).ok()?))).collect();
    let requested: Vec<&[u8]> = case.requested_headers.iter().map(String::as_bytes).collect();
    let requested = if kind == Kind::Preflight { requested } else { Vec::new() };
    let input = RuleInput {
        origin: &case.origin.value,
        scheme,
        host,
        port,
        kind,
        tenant: &case.tenant,
        route: &case.route,
        method: case.method.as_bytes(),
        path: &case.path,
        query: &case.query,
        requested_headers: &requested,
        headers: &headers,
    };
    Ok(rule.run(&input, 0, || false))
}

/// An answer in the words of an expectation.
fn got(run: &RuleRun) -> String {
    match &run.answer {
        Ok(Answer::Allow(terms)) => Told(&Expected::Allow(*terms)).to_string(),
        Ok(Answer::Deny(message)) => Told(&Expected::Deny(message.as_deref().map(str::to_owned))).to_string(),
        Ok(Answer::Abstain) => Told(&Expected::Abstain).to_string(),
        Err(error) => {
            let place = error.line.zip(error.column).map(|(line, column)| format!(" at {line}:{column}"));
            format!("error {}{}: {}", error.kind.as_str(), place.unwrap_or_default(), error.message)
        }
    }
}

struct Told<'a>(&'a Expected);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expected::Allow(Terms { max_age_seconds, without_credentials }) => {
                f.write_str("allow")?;
                if let Some(seconds) = max_age_seconds {
                    write!(f, " with maxAge {seconds}")?;
                }
                if *without_credentials { f.write_str(" without credentials") } else { Ok(()) }
            }
            Expected::Deny(None) => f.write_str("deny"),
            Expected::Deny(Some(message)) => write!(f, "deny: {message}"),
            Expected::Abstain => f.write_str("abstain"),
            Expected::Error(kind) => write!(f, "error {}", kind.as_str()),
        }
    }
}

impl Failure {
    /// As a mistake of the cases file: whether the script or the expectation is wrong is for the author to say.
    pub fn diagnostic(&self, file: &Path) -> Diagnostic {
        let Failure { name, kind, expected, got, .. } = self;
        let message = format!("the case `{name}`, run as {}, expected {expected} and got {got}", kind.as_str());
        Diagnostic::error(file, self.at, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}, as {} (line {})", self.name, self.kind.as_str(), self.at.line)?;
        writeln!(f, "    - expected  {}", self.expected)?;
        writeln!(f, "    + got       {}", self.got)?;
        let reads = if self.reads.is_empty() { "nothing".to_owned() } else { self.reads.join(", ") };
        writeln!(f, "      it read {reads}, and took {} operations", self.operations)
    }
}
