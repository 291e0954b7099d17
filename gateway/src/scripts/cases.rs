//! Runs the cases of a script.
//!
//! A case without a kind runs as a preflight and as an actual request, and both must give the
//! expected answer: an origin needs both to work. A preflight runs without the fields that the page
//! would set, because browsers leave them out of it (Fetch, CORS-preflight fetch).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crossgate_policy::{RequestKind, Rule, RuleAnswer, RuleInput, RuleRun, RuleTerms, Script, split_origin};
use http::{HeaderMap, HeaderName, HeaderValue};

use crossgate_config::diagnostics::Diagnostic;
use crossgate_config::model::Position;
use crossgate_config::{CaseSpec, CasesFile, ExpectedAnswer};

/// A case with an unexpected answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseFailure {
    pub name: String,
    /// The kind of request that the case ran as.
    pub kind: RequestKind,
    pub expected: String,
    /// The actual answer.
    pub got: String,
    /// The inputs that the rule read.
    pub reads: Vec<String>,
    /// The number of operations.
    pub operations: u64,
    /// The location of the expectation.
    pub at: Position,
}

/// Runs all cases. Returns those that failed.
pub fn run(script: &Arc<Script>, cases: &CasesFile) -> Vec<CaseFailure> {
    let headers: Vec<HeaderName> = script.headers().iter().filter_map(|(name, _)| name.parse().ok()).collect();
    let query: Vec<Box<str>> = script.query_keys().iter().map(|(key, _)| key.clone()).collect();
    let groups: Vec<Box<str>> = script.groups().iter().map(|(name, _)| name.clone()).collect();
    let rule = Rule::new(0, script, &headers, &query, 1).with_groups(&groups);
    let runs = cases.cases.iter().flat_map(|case| case.kinds.iter().map(move |kind| (case, *kind)));
    runs.filter_map(|(case, kind)| check(&rule, case, kind)).collect()
}

fn check(rule: &Rule, case: &CaseSpec, kind: RequestKind) -> Option<CaseFailure> {
    let failure = |got: String, reads, operations| CaseFailure {
        name: case.name.value.to_string(),
        kind,
        expected: CaseAnswer(&case.expected).to_string(),
        got,
        reads,
        operations,
        at: case.expected_at,
    };
    let run = match run_as(rule, case, kind) {
        Ok(run) => run,
        Err(flaw) => return Some(failure(format!("the origin {flaw}"), Vec::new(), 0)),
    };
    let is_met = match (&case.expected, &run.answer) {
        (ExpectedAnswer::Allow { group: expected_group, terms: expected }, Ok(RuleAnswer::Allow { group, terms })) => {
            expected == terms && expected_group.as_deref() == group_name(rule, *group)
        }
        (ExpectedAnswer::Deny(None), Ok(RuleAnswer::Deny(_))) | (ExpectedAnswer::Abstain, Ok(RuleAnswer::Abstain)) => {
            true
        }
        (ExpectedAnswer::Deny(Some(expected)), Ok(RuleAnswer::Deny(Some(message)))) => **expected == **message,
        (ExpectedAnswer::Error(kind), Err(error)) => *kind == error.kind,
        (
            ExpectedAnswer::Allow { .. } | ExpectedAnswer::Deny(_) | ExpectedAnswer::Abstain | ExpectedAnswer::Error(_),
            _,
        ) => false,
    };
    (!is_met).then(|| failure(format_answer(rule, &run), rule.names(run.reads), run.operations))
}

fn run_as(rule: &Rule, case: &CaseSpec, kind: RequestKind) -> Result<RuleRun, String> {
    let (scheme, host, port) = split_origin(&case.origin.value)?;
    let page = case.headers.iter().filter(|_| kind != RequestKind::Preflight);
    let fields = case.proxy_headers.iter().chain(page);
    let headers: HeaderMap =
        fields.filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str(value).ok()?))).collect();
    let requested: Vec<&[u8]> = case.requested_headers.iter().map(String::as_bytes).collect();
    let requested = if kind == RequestKind::Preflight { requested } else { Vec::new() };
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
        api_host: &case.api_host,
        requested_headers: &requested,
        headers: &headers,
    };
    Ok(rule.run(&input, 0, || false))
}

fn group_name(rule: &Rule, index: Option<u8>) -> Option<&str> {
    rule.groups().get(usize::from(index?)).map(|name| &**name)
}

/// Formats an answer in the form of an expectation.
fn format_answer(rule: &Rule, run: &RuleRun) -> String {
    match &run.answer {
        Ok(RuleAnswer::Allow { group, terms }) => {
            let group = group_name(rule, *group).map(str::to_owned);
            CaseAnswer(&ExpectedAnswer::Allow { group, terms: *terms }).to_string()
        }
        Ok(RuleAnswer::Deny(message)) => {
            CaseAnswer(&ExpectedAnswer::Deny(message.as_deref().map(str::to_owned))).to_string()
        }
        Ok(RuleAnswer::Abstain) => CaseAnswer(&ExpectedAnswer::Abstain).to_string(),
        Err(error) => {
            let place = error.line.zip(error.column).map(|(line, column)| format!(" at {line}:{column}"));
            format!("error {}{}: {}", error.kind.as_str(), place.unwrap_or_default(), error.message)
        }
    }
}

struct CaseAnswer<'a>(&'a ExpectedAnswer);

impl fmt::Display for CaseAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ExpectedAnswer::Allow { group, terms: RuleTerms { max_age_seconds, without_credentials } } => {
                f.write_str("allow")?;
                if let Some(group) = group {
                    write!(f, " in group {group}")?;
                }
                if let Some(seconds) = max_age_seconds {
                    write!(f, " with maxAge {seconds}")?;
                }
                if *without_credentials { f.write_str(" without credentials") } else { Ok(()) }
            }
            ExpectedAnswer::Deny(None) => f.write_str("deny"),
            ExpectedAnswer::Deny(Some(message)) => write!(f, "deny: {message}"),
            ExpectedAnswer::Abstain => f.write_str("abstain"),
            ExpectedAnswer::Error(kind) => write!(f, "error {}", kind.as_str()),
        }
    }
}

impl CaseFailure {
    /// Converts the failure to an error in the cases file, at the expectation. Either the script or
    /// the expectation can be wrong.
    pub fn diagnostic(&self, file: &Path) -> Diagnostic {
        let CaseFailure { name, kind, expected, got, .. } = self;
        let message = format!("the case `{name}`, run as {}, expected {expected} and got {got}", kind.as_str());
        Diagnostic::error(file, self.at, message)
    }
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}, as {} (line {})", self.name, self.kind.as_str(), self.at.line)?;
        writeln!(f, "    - expected  {}", self.expected)?;
        writeln!(f, "    + got       {}", self.got)?;
        let reads = if self.reads.is_empty() { "nothing".to_owned() } else { self.reads.join(", ") };
        writeln!(f, "      read {reads} in {} operations", self.operations)
    }
}
