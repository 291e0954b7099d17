//! Rules: Rhai scripts that decide on origins which no static entry covers.
//!
//! [`Script::compile`] audits a source and returns every problem. A [`Rule`] is a script with the
//! request fields that its policy lists, compiled once for each worker thread. [`Rule::run`]
//! returns the answer and the parts of the request that the script read. The answer depends only on
//! these parts, so the gateway can cache it under their values ([`Rule::key`]). Absent on purpose:
//! files, clocks (the caller ends a run that takes too long), threads, and any state that outlives
//! a run.

use std::sync::Arc;

use http::HeaderName;

mod advice;
mod audit;
mod callable;
mod data;
mod engine;
mod functions;
mod input;
mod literals;
mod run;
mod unlisted_origins;

pub use callable::{callable_names, field_names};
pub use data::RuleData;
pub use input::{RULE_HEADERS_MAX, RULE_QUERY_MAX, split_origin};
pub(crate) use unlisted_origins::UnlistedOriginReport;

use engine::RuleProgram;
use input::{InputValues, RequestPart};

use crate::group::GROUPS_MAX;
use crate::request::{FieldLines, HeadFields};
use crate::verdict::RequestKind;
use crate::verdict::RuleTerms;

/// A script whose source has passed the audit.
#[derive(Debug)]
pub struct Script {
    name: Arc<str>,
    source: Arc<str>,
    data: Arc<RuleData>,
    limits: RuleLimits,
    named: audit::NamedInputs,
}

/// The limits of a script. They are equal in debug and release builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleLimits {
    /// The most operations of one run.
    pub operations: u64,
    /// The most bytes of one string.
    pub string_len: usize,
    /// The most elements of one array.
    pub array_len: usize,
    /// The most keys of one map.
    pub map_len: usize,
    /// The most nested calls.
    pub call_depth: usize,
    /// The most bytes of the source.
    pub source_len: usize,
}

impl Default for RuleLimits {
    fn default() -> Self {
        Self {
            operations: 5_000,
            string_len: 4 << 10,
            array_len: 256,
            map_len: 64,
            call_depth: 16,
            source_len: 64 << 10,
        }
    }
}

/// A problem in a script and its location. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScriptProblem {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// The number of characters that the problem spans, at least 1.
    pub width: u32,
    /// The mistake and what would be accepted: lower case, no full stop.
    pub message: String,
}

/// A location in a script. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptLocation {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// A script with the header fields and query keys that its policy lists, ready to run on every
/// worker.
#[derive(Debug)]
pub struct Rule {
    id: u64,
    script: Arc<Script>,
    headers: Arc<[HeaderName]>,
    query: Arc<[Box<str>]>,
    /// The groups that the policy lists.
    groups: Box<[Box<str>]>,
    /// The parts of a request that the script names, as bits.
    wanted: u64,
    programs: Box<[Box<RuleProgram>]>,
}

/// The parts of one request that a rule may read.
#[derive(Clone, Copy)]
pub struct RuleInput<'a> {
    /// The origin, well-formed, as sent.
    pub origin: &'a str,
    /// The scheme of the origin.
    pub scheme: &'a str,
    /// The host of the origin; an IPv6 address with its brackets.
    pub host: &'a str,
    /// The port of the origin, if it is not the scheme's default.
    pub port: Option<u16>,
    /// The kind of the request: a preflight, an actual request or a WebSocket.
    pub kind: RequestKind,
    /// The tenant's id.
    pub tenant: &'a str,
    /// The route's path prefix.
    pub route: &'a str,
    /// The method. On a preflight, the requested method.
    pub method: &'a [u8],
    /// The path without the query, in the form that routes are matched with.
    pub path: &'a str,
    /// The query after the `?`, as sent. Empty without a query.
    pub query: &'a str,
    /// The host that the request asks for, in lower case, without a port.
    pub api_host: &'a str,
    /// The lines of `Access-Control-Request-Headers`.
    pub requested_headers: &'a dyn FieldLines,
    /// All request fields. A rule can read those that its policy lists.
    pub headers: &'a dyn HeadFields,
}

/// The set of request parts that a run has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RuleReads(u64);

/// The answer of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleAnswer {
    /// The rule allows the origin.
    Allow {
        /// The group that the origin belongs to, as an index of [`Rule::groups`]. `None` gives it
        /// the policy's own terms.
        group: Option<u8>,
        /// How the rule narrows the terms.
        terms: RuleTerms,
    },
    /// The rule denies the origin, with the rule author's message if there is one: at most
    /// [`MESSAGE_LEN_MAX`] bytes of printable text.
    Deny(Option<Arc<str>>),
    /// The rule returns nothing, which denies the origin.
    Abstain,
}

impl RuleAnswer {
    /// The answer `allow()`.
    pub const ALLOW: Self = Self::Allow { group: None, terms: RuleTerms::NONE };
}

/// The longest message of a denial, in bytes.
pub const MESSAGE_LEN_MAX: usize = 256;

/// The error of a rule that returned no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// The kind of the error, for metrics.
    pub kind: RuleErrorKind,
    /// The line in the script, if it is known.
    pub line: Option<u32>,
    /// The column in the line, if it is known.
    pub column: Option<u32>,
    /// The cause: lower case, no full stop. It may quote the request, truncated and without control
    /// characters.
    pub message: String,
}

/// The kinds of rule errors: a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleErrorKind {
    /// The run exceeded the limit of operations.
    Operations,
    /// The caller ended the run because it took too long.
    Time,
    /// A string, array or map exceeded its limit.
    Size,
    /// The nesting of calls or the number of variables exceeded its limit.
    Depth,
    /// Any other error at run time, such as a wrong type or an overflow.
    Runtime,
    /// The result is not `allow()`, `deny(..)` or unit.
    Result,
    /// The script read a header or query key, or answered a group, that the policy does not list.
    Unlisted,
    /// A function of the host panicked.
    Panic,
    /// The rule did not run because its breaker was open.
    Breaker,
    /// The rule did not run because the tenant's time budget for rules was used up.
    Budget,
}

/// The outcome of one run.
#[derive(Debug, Clone)]
pub struct RuleRun {
    /// The answer, or the error.
    pub answer: Result<RuleAnswer, RuleError>,
    /// The parts of the request that the run has read, also if it failed.
    pub reads: RuleReads,
    /// The number of operations of the run.
    pub operations: u64,
}

impl RuleErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Operations,
        Self::Time,
        Self::Size,
        Self::Depth,
        Self::Runtime,
        Self::Result,
        Self::Unlisted,
        Self::Panic,
        Self::Breaker,
        Self::Budget,
    ];

    /// Returns the name of the kind in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Time => "time",
            Self::Size => "size",
            Self::Depth => "depth",
            Self::Runtime => "runtime",
            Self::Result => "result",
            Self::Unlisted => "unlisted",
            Self::Panic => "panic",
            Self::Breaker => "breaker",
            Self::Budget => "budget",
        }
    }
}

impl Script {
    /// Audits a source. `name` is the name of the file, without `.rhai`.
    ///
    /// # Errors
    /// Every problem, in the order of the source. After a syntax error only that one.
    pub fn compile(
        name: &str,
        source: &str,
        data: &Arc<RuleData>,
        limits: &RuleLimits,
    ) -> Result<Self, Vec<ScriptProblem>> {
        let named = audit::audit(source, data, limits)?;
        Ok(Self { name: Arc::from(name), source: Arc::from(source), data: Arc::clone(data), limits: *limits, named })
    }

    /// Returns the name of the script.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the source of the script.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the header fields that the script reads, in lower case, each with its first
    /// location.
    pub fn headers(&self) -> &[(Box<str>, ScriptLocation)] {
        &self.named.headers
    }

    /// Returns the query keys that the script reads, each with its first location.
    pub fn query_keys(&self) -> &[(Box<str>, ScriptLocation)] {
        &self.named.query_keys
    }

    /// Returns the groups that the script answers, each with its first location.
    pub fn groups(&self) -> &[(Box<str>, ScriptLocation)] {
        &self.named.groups
    }

    /// Whether the script uses a set or a table.
    pub fn uses_data(&self) -> bool {
        self.named.uses_data
    }
}

impl Rule {
    /// Combines a script with the fields that its policy lists, in `copies` separately compiled
    /// copies, at least one. The caller chooses a new `id` for each rule. Entries after the first
    /// [`RULE_HEADERS_MAX`] headers and [`RULE_QUERY_MAX`] query keys are ignored.
    pub fn new(id: u64, script: &Arc<Script>, headers: &[HeaderName], query: &[Box<str>], copies: usize) -> Self {
        let headers: Arc<[_]> = headers.iter().take(RULE_HEADERS_MAX).cloned().collect();
        let query: Arc<[_]> = query.iter().take(RULE_QUERY_MAX).cloned().collect();
        let listed_headers = (0..headers.len()).map(|index| RequestPart::Header(index).bit());
        let listed_query = (0..query.len()).map(|index| RequestPart::Query(index).bit());
        let wanted = listed_headers.chain(listed_query).fold(script.named.fields, |all, bit| all | bit);
        // The audit has compiled the source, so this does not fail.
        let compile = || RuleProgram::parse(&script.source, &script.data, &script.limits).ok().map(Box::new);
        let programs = (0..copies.max(1)).filter_map(|_| compile()).collect();
        Self { id, script: Arc::clone(script), headers, query, groups: Box::default(), wanted, programs }
    }

    /// Lets the script answer these groups. Those after the first [`GROUPS_MAX`] are ignored.
    pub fn with_groups(self, groups: &[Box<str>]) -> Self {
        Self { groups: groups.iter().take(GROUPS_MAX).cloned().collect(), ..self }
    }

    /// Returns the id that the caller chose.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the script.
    pub fn script(&self) -> &Arc<Script> {
        &self.script
    }

    /// Returns the header fields that the policy lists.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// Returns the query keys that the policy lists.
    pub fn query(&self) -> &[Box<str>] {
        &self.query
    }

    /// Returns the groups that the policy lists.
    pub fn groups(&self) -> &[Box<str>] {
        &self.groups
    }

    /// Runs the rule, on the copy of worker `slot` (modulo the number of copies). `is_over` is
    /// called at intervals and ends the run when it returns `true`.
    pub fn run(&self, input: &RuleInput<'_>, slot: usize, is_over: fn() -> bool) -> RuleRun {
        let index = slot.checked_rem(self.programs.len()).unwrap_or_default();
        let Some(program) = self.programs.get(index) else {
            return RuleRun { answer: Ok(RuleAnswer::Abstain), reads: RuleReads::default(), operations: 0 };
        };
        run::run(program, InputValues::new(self, input, self.wanted), &self.groups, is_over)
    }

    /// Appends the values of `reads` in `input` to `key`, each with its length, so that different
    /// values have different keys.
    pub fn key(&self, input: &RuleInput<'_>, reads: RuleReads, key: &mut Vec<u8>) {
        RequestPart::among(reads.0).for_each(|part| input::write_key(part, self, input, key));
    }

    /// Returns the names of the parts that were read, such as `host`, `header x-plan` or
    /// `query key`.
    pub fn names(&self, reads: RuleReads) -> Vec<String> {
        RequestPart::among(reads.0).map(|part| input::name(part, self)).collect()
    }
}

impl RuleReads {
    /// Returns the set as bits, for keys.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Creates a set from [`RuleReads::bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether the run has read the tenant's id.
    pub fn has_tenant(self) -> bool {
        self.0 & RequestPart::Tenant.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A run increments the reference counts of the strings in its script. If two copies shared a
    // string, two cores would write to the same count in every run. The bench of rules shows the
    // cost.
    #[test]
    fn rule_copies_share_no_strings() {
        let source = "const NAME = \"a text\"; fn decide(req) { if req.host == NAME { allow() } else { deny(NAME) } }";
        let data = Arc::new(RuleData::new([], []));
        let script = Script::compile("test", source, &data, &RuleLimits::default()).unwrap();
        let rule = Rule::new(1, &Arc::new(script), &[], &[], 3);
        let string = |program: &RuleProgram| {
            let (name, _, value) = program.ast.iter_literal_variables(true, false).next().unwrap();
            assert_eq!(name, "NAME");
            value.into_immutable_string().unwrap().as_ptr()
        };
        let strings: Vec<_> = rule.programs.iter().map(|program| string(program)).collect();
        assert_eq!(strings.len(), 3);
        assert!(strings[0] != strings[1] && strings[1] != strings[2] && strings[0] != strings[2], "{strings:?}");
        assert_eq!(string(&rule.programs[0]), strings[0], "the program has one copy of its string");
    }
}
