//! What a policy's rule says of one request, and how it came to that.
//!
//! The rule is run here, whatever the cache has, so that what it read and how long it took can be told; nothing is counted and nothing
//! is remembered. An answer depends on nothing but what was read, so the cache cannot have another one.

use std::fmt;

use crossgate_policy::{Answer, RuleError, RuleInput, Terms};
use serde::Serialize;

use super::display::row;
use crate::verdicts::{Asked, Examined, RuleSeat, Source};

/// A rule's answer, and what it took.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleTold {
    /// The script's name.
    pub script: String,
    /// `allow`, `deny`, `abstain` or `error`.
    pub answer: &'static str,
    /// The shorter max-age, in seconds, if the rule names one.
    pub max_age_seconds: Option<u32>,
    /// Whether it withholds credentials.
    pub without_credentials: bool,
    /// What it says to whoever is denied.
    pub message: Option<String>,
    /// Why it gave no answer.
    pub error: Option<ErrorTold>,
    /// What of the request it read: another request with the same values of these gets the same answer.
    pub reads: Vec<String>,
    /// How many operations it took.
    pub operations: u64,
    /// Whether a request like this one would have been answered from the cache.
    pub cached: bool,
}

/// Where and why a rule failed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorTold {
    /// The kind, as the metrics have it.
    pub kind: &'static str,
    /// What happened.
    pub message: String,
    /// The line in the script.
    pub line: Option<u32>,
    /// The column.
    pub column: Option<u32>,
    /// That line.
    pub source_line: Option<String>,
}

/// Runs a rule to tell about it.
pub(super) fn examine(seat: &RuleSeat, input: &RuleInput<'_>) -> (RuleTold, Asked) {
    let Examined { cached, run } = seat.examine(input);
    let rule = seat.rule();
    let (answer, terms, message) = match &run.answer {
        Ok(Answer::Allow(terms)) => ("allow", *terms, None),
        Ok(Answer::Deny(message)) => ("deny", Terms::NONE, message.as_deref().map(str::to_owned)),
        Ok(Answer::Abstain) => ("abstain", Terms::NONE, None),
        Err(_) => ("error", Terms::NONE, None),
    };
    let error = run.answer.as_ref().err().map(|error| ErrorTold::new(error, rule.script().source()));
    let told = RuleTold {
        script: rule.script().name().to_owned(),
        answer,
        max_age_seconds: terms.max_age_seconds,
        without_credentials: terms.without_credentials,
        message,
        error,
        reads: rule.names(run.reads),
        operations: run.operations,
        cached,
    };
    (told, Asked { answer: run.answer, source: Source::Run })
}

impl ErrorTold {
    fn new(error: &RuleError, source: &str) -> Self {
        let index = error.line.and_then(|line| usize::try_from(line.checked_sub(1)?).ok());
        let line = index.and_then(|index| source.lines().nth(index));
        ErrorTold {
            kind: error.kind.as_str(),
            message: error.message.clone(),
            line: error.line,
            column: error.column,
            source_line: line.map(str::to_owned),
        }
    }
}

impl fmt::Display for RuleTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "rule", Some(&format!("{} answers {}", self.script, self.answer)))?;
        row(f, "says", self.message.as_deref())?;
        row(f, "max-age", self.max_age_seconds.map(|seconds| format!("{seconds} s at most")).as_deref())?;
        row(f, "narrows", self.without_credentials.then_some("without credentials"))?;
        if let Some(error) = &self.error {
            write!(f, "{error}")?;
        }
        let reads = if self.reads.is_empty() { "nothing".to_owned() } else { self.reads.join(", ") };
        row(f, "reads", Some(&reads))?;
        let source = if self.cached { "the answer is in the cache" } else { "the answer is not in the cache" };
        row(f, "took", Some(&format!("{} operations; {source}", self.operations)))
    }
}

impl fmt::Display for ErrorTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "error", Some(&format!("{}: {}", self.kind, self.message)))?;
        let (Some(line), Some(column), Some(text)) = (self.line, self.column, &self.source_line) else { return Ok(()) };
        row(f, "", Some(&format!("{line}:{column} | {text}")))
    }
}
