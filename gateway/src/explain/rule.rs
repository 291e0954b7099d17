//! The answer of a policy's rule to one request, and how it was computed.
//!
//! The rule always runs here, even if its answer is cached, to show what it read and how long it
//! took. Nothing is counted or cached. An answer depends only on the values read, so a cached
//! answer cannot differ.

use std::fmt;

use crossgate_policy::{RuleAnswer, RuleError, RuleInput, RuleTerms};
use serde::Serialize;

use super::display::write_row;
use crate::verdicts::{AnswerSource, ExaminedRun, RuleOutcome, TenantRule};

/// A rule's answer and its cost.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRule {
    /// The script's name.
    pub script: String,
    /// `allow`, `deny`, `abstain` or `error`.
    pub answer: &'static str,
    /// The group that the rule answers.
    pub group: Option<String>,
    /// The shorter max-age in seconds, if the rule sets one.
    pub max_age_seconds: Option<u32>,
    /// Whether the rule withholds credentials.
    pub without_credentials: bool,
    /// The rule's message to a denied client.
    pub message: Option<String>,
    /// The error of a failed rule.
    pub error: Option<ExplainedError>,
    /// The parts of the request that the rule read: a request with the same values gets the same
    /// answer.
    pub reads: Vec<String>,
    /// The number of operations.
    pub operations: u64,
    /// Whether the cache already contains the answer to this request.
    pub cached: bool,
}

/// The error of a failed rule and its location.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedError {
    /// The kind, as in the metrics.
    pub kind: &'static str,
    /// The error message.
    pub message: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// The text of that line.
    pub source_line: Option<String>,
}

/// Runs a rule and describes the run.
pub(super) fn run_uncached(rule: &TenantRule, input: &RuleInput<'_>) -> (ExplainedRule, RuleOutcome) {
    let ExaminedRun { cached, run } = rule.run_uncounted(input);
    let compiled = rule.rule();
    let group = match &run.answer {
        Ok(RuleAnswer::Allow { group, .. }) => group.and_then(|index| compiled.groups().get(usize::from(index))),
        Ok(RuleAnswer::Deny(_) | RuleAnswer::Abstain) | Err(_) => None,
    };
    let (answer, terms, message) = match &run.answer {
        Ok(RuleAnswer::Allow { terms, .. }) => ("allow", *terms, None),
        Ok(RuleAnswer::Deny(message)) => ("deny", RuleTerms::NONE, message.as_deref().map(str::to_owned)),
        Ok(RuleAnswer::Abstain) => ("abstain", RuleTerms::NONE, None),
        Err(_) => ("error", RuleTerms::NONE, None),
    };
    let error = run.answer.as_ref().err().map(|error| ExplainedError::new(error, compiled.script().source()));
    let explained = ExplainedRule {
        script: compiled.script().name().to_owned(),
        answer,
        group: group.map(ToString::to_string),
        max_age_seconds: terms.max_age_seconds,
        without_credentials: terms.without_credentials,
        message,
        error,
        reads: compiled.names(run.reads),
        operations: run.operations,
        cached,
    };
    (explained, RuleOutcome { answer: run.answer, source: AnswerSource::Run })
}

impl ExplainedError {
    fn new(error: &RuleError, source: &str) -> Self {
        let index = error.line.and_then(|line| usize::try_from(line.checked_sub(1)?).ok());
        let line = index.and_then(|index| source.lines().nth(index));
        ExplainedError {
            kind: error.kind.as_str(),
            message: error.message.clone(),
            line: error.line,
            column: error.column,
            source_line: line.map(str::to_owned),
        }
    }
}

impl fmt::Display for ExplainedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_row(f, "rule", Some(&format!("{} answers {}", self.script, self.answer)))?;
        write_row(f, "to group", self.group.as_deref())?;
        write_row(f, "message", self.message.as_deref())?;
        write_row(f, "max-age", self.max_age_seconds.map(|seconds| format!("{seconds} s at most")).as_deref())?;
        write_row(f, "narrows", self.without_credentials.then_some("without credentials"))?;
        if let Some(error) = &self.error {
            write!(f, "{error}")?;
        }
        let reads = if self.reads.is_empty() { "nothing".to_owned() } else { self.reads.join(", ") };
        write_row(f, "reads", Some(&reads))?;
        let source = if self.cached { "the answer is in the cache" } else { "the answer is not in the cache" };
        write_row(f, "took", Some(&format!("{} operations; {source}", self.operations)))
    }
}

impl fmt::Display for ExplainedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_row(f, "error", Some(&format!("{}: {}", self.kind, self.message)))?;
        let (Some(line), Some(column), Some(text)) = (self.line, self.column, &self.source_line) else { return Ok(()) };
        write_row(f, "", Some(&format!("{line}:{column} | {text}")))
    }
}
