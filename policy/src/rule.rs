//! Rules: Rhai scripts that are asked about origins which no static entry covers.
//!
//! [`Script::compile`] audits a source and says everything that is wrong with it; a [`Rule`] is a script with the request fields its
//! policy lists, compiled once for every worker thread. [`Rule::run`] answers, and tells which parts of the request it read:
//! an answer depends on those and on nothing else, so it may be kept under their values ([`Rule::key`]). Absent on purpose: files,
//! clocks (the caller says when time is up), threads, and any state that outlives a run.

use std::sync::Arc;

use http::HeaderName;

mod audit;
mod call;
mod callable;
mod data;
mod engine;
mod functions;
mod input;
mod run;
mod strangers;

pub use call::{RuleCall, Surroundings};
pub use callable::{callable_names, field_names};
pub use data::RuleData;
pub use input::{RULE_HEADERS_MAX, RULE_QUERY_MAX, split_origin};
pub use strangers::Strangers;

use engine::Program;
use input::{Part, Values};

use crate::request::{FieldLines, HeadFields};
use crate::verdict::Kind;

/// A source that has passed the audit.
#[derive(Debug)]
pub struct Script {
    name: Arc<str>,
    source: Arc<str>,
    data: Arc<RuleData>,
    limits: RuleLimits,
    named: audit::Named,
}

/// What a script may use up. The same in every build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleLimits {
    /// Operations of one run.
    pub operations: u64,
    /// Bytes of one string.
    pub string_len: usize,
    /// Elements of one array.
    pub array_len: usize,
    /// Keys of one map.
    pub map_len: usize,
    /// Calls within calls.
    pub call_depth: usize,
    /// Bytes of the source.
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

/// Something wrong in a script, and where. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScriptProblem {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// How many characters it is about, at least 1.
    pub width: u32,
    /// What is wrong and what would be accepted: lower case, no full stop.
    pub message: String,
}

/// A place in a script, counted as in [`ScriptProblem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptPlace {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// A script with the header fields and query keys that its policy lists, ready to run on every worker.
#[derive(Debug)]
pub struct Rule {
    id: u64,
    script: Arc<Script>,
    headers: Arc<[HeaderName]>,
    query: Arc<[Box<str>]>,
    /// The parts of a request that its script names.
    wanted: u64,
    programs: Box<[Box<Program>]>,
}

/// What a rule may see of one request.
#[derive(Clone, Copy)]
pub struct RuleInput<'a> {
    /// The origin, well-formed, as sent.
    pub origin: &'a str,
    /// Its scheme.
    pub scheme: &'a str,
    /// Its host; an IPv6 address with its brackets.
    pub host: &'a str,
    /// Its port, if it is not the scheme's default.
    pub port: Option<u16>,
    /// What the request is to CORS: a preflight, an actual request or a WebSocket.
    pub kind: Kind,
    /// The tenant's id.
    pub tenant: &'a str,
    /// The route's path prefix.
    pub route: &'a str,
    /// The method that is, or on a preflight would be, used.
    pub method: &'a [u8],
    /// The path in the form routes are matched with, without the query.
    pub path: &'a str,
    /// What follows the `?`, as sent.
    pub query: &'a str,
    /// Every line of `Access-Control-Request-Headers`.
    pub requested_headers: &'a dyn FieldLines,
    /// All request fields; a rule sees those that its policy lists.
    pub headers: &'a dyn HeadFields,
}

/// Which parts of a request a run has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reads(u64);

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The origin is allowed, on these terms.
    Allow(Terms),
    /// It is denied, with the author's message if there is one: at most [`MESSAGE_LEN_MAX`] bytes of printable text.
    Deny(Option<Arc<str>>),
    /// The rule has nothing to say, which denies.
    Abstain,
}

/// By what an allowing rule narrows its policy. The default narrows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Terms {
    /// The longest max-age, in seconds, if the rule names one.
    pub max_age_seconds: Option<u32>,
    /// Whether credentials are withheld from this origin.
    pub without_credentials: bool,
}

impl Terms {
    /// Those that narrow nothing.
    pub const NONE: Self = Self { max_age_seconds: None, without_credentials: false };
}

/// The longest message of a denial, in bytes.
pub const MESSAGE_LEN_MAX: usize = 256;

/// Why a rule gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// The kind, for metrics.
    pub kind: RuleErrorKind,
    /// The line in the script, if it is known.
    pub line: Option<u32>,
    /// The column.
    pub column: Option<u32>,
    /// What happened: lower case, no full stop. May quote the request; capped and escaped.
    pub message: String,
}

/// The kinds of rule errors: a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleErrorKind {
    /// Too many operations.
    Operations,
    /// Too much time.
    Time,
    /// A string, array or map grew too large.
    Size,
    /// Calls or expressions are too deep, or there are too many variables.
    Depth,
    /// Anything else that fails when run: a missing variable, a wrong type, `throw`.
    Runtime,
    /// The result is none of `allow()`, `deny(..)` and unit.
    Result,
    /// A header or query key is read that the policy does not list.
    Unlisted,
    /// A host function panicked.
    Panic,
    /// Not run: the breaker is open.
    Breaker,
    /// Not run: the tenant's time for rules is used up.
    Budget,
}

/// What one run led to.
#[derive(Debug, Clone)]
pub struct RuleRun {
    /// The answer, or why there is none.
    pub answer: Result<Answer, RuleError>,
    /// What it read, also when it failed.
    pub reads: Reads,
    /// How many operations it took.
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

    /// The kind's name in logs and metrics.
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
    /// Audits a source. `name` is the file's, without `.rhai`.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the source; of what is no Rhai at all, the first.
    pub fn compile(
        name: &str,
        source: &str,
        data: &Arc<RuleData>,
        limits: &RuleLimits,
    ) -> Result<Self, Vec<ScriptProblem>> {
        let named = audit::audit(source, data, limits)?;
        Ok(Self { name: Arc::from(name), source: Arc::from(source), data: Arc::clone(data), limits: *limits, named })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The header fields that it names, lower case, each with the place where it first does.
    pub fn headers(&self) -> &[(Box<str>, ScriptPlace)] {
        &self.named.headers
    }

    /// The query keys that it names, each with the place where it first does.
    pub fn query_keys(&self) -> &[(Box<str>, ScriptPlace)] {
        &self.named.query_keys
    }

    /// Whether it asks any set or table.
    pub fn uses_data(&self) -> bool {
        self.named.uses_data
    }
}

impl Rule {
    /// A script with what its policy lists, in `copies` separately compiled copies, at least one. `id` is the caller's, and a new one
    /// each time. Of the lists no more than [`RULE_HEADERS_MAX`] and [`RULE_QUERY_MAX`] are heeded.
    pub fn new(id: u64, script: &Arc<Script>, headers: &[HeaderName], query: &[Box<str>], copies: usize) -> Self {
        let headers: Arc<[_]> = headers.iter().take(RULE_HEADERS_MAX).cloned().collect();
        let query: Arc<[_]> = query.iter().take(RULE_QUERY_MAX).cloned().collect();
        let listed_headers = (0..headers.len()).map(|index| Part::Header(index).bit());
        let listed_query = (0..query.len()).map(|index| Part::Query(index).bit());
        let wanted = listed_headers.chain(listed_query).fold(script.named.fields, |all, bit| all | bit);
        // It has been compiled once, for the audit, so it compiles.
        let compile = || Program::parse(&script.source, &script.data, &script.limits).ok().map(Box::new);
        let programs = (0..copies.max(1)).filter_map(|_| compile()).collect();
        Self { id, script: Arc::clone(script), headers, query, wanted, programs }
    }

    /// The caller's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The script.
    pub fn script(&self) -> &Arc<Script> {
        &self.script
    }

    /// The listed header fields.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// The listed query keys.
    pub fn query(&self) -> &[Box<str>] {
        &self.query
    }

    /// Asks the rule, on the copy of worker `slot` (taken modulo the number of copies). `is_over` is asked now and then, and ends
    /// the run when it says so.
    pub fn run(&self, input: &RuleInput<'_>, slot: usize, is_over: fn() -> bool) -> RuleRun {
        let index = slot.checked_rem(self.programs.len()).unwrap_or_default();
        let Some(program) = self.programs.get(index) else {
            return RuleRun { answer: Ok(Answer::Abstain), reads: Reads::default(), operations: 0 };
        };
        run::run(program, Values::new(self, input, self.wanted), is_over)
    }

    /// Appends the values of `reads` in `input` to `key`, each with its length, so that no two differ and look alike.
    pub fn key(&self, input: &RuleInput<'_>, reads: Reads, key: &mut Vec<u8>) {
        Part::among(reads.0).for_each(|part| input::write_key(part, self, input, key));
    }

    /// What was read, as a person would write it: `host`, `header x-plan`, `query key`.
    pub fn names(&self, reads: Reads) -> Vec<String> {
        Part::among(reads.0).map(|part| input::name(part, self)).collect()
    }
}

impl Reads {
    /// As bits, for keys.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From [`Reads::bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether the tenant's id was read.
    pub fn has_tenant(self) -> bool {
        self.0 & Part::Tenant.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A run counts itself among the holders of the texts that it takes from its script. Were one text shared by two copies, two cores
    // would write to its count with every run. What that costs is seen in the bench of rules.
    #[test]
    fn every_copy_has_texts_of_its_own() {
        let source = "const NAME = \"a text\"; fn decide(req) { if req.host == NAME { allow() } else { deny(NAME) } }";
        let data = Arc::new(RuleData::new([], []));
        let script = Script::compile("test", source, &data, &RuleLimits::default()).unwrap();
        let rule = Rule::new(1, &Arc::new(script), &[], &[], 3);
        let text = |program: &Program| {
            let (name, _, value) = program.ast.iter_literal_variables(true, false).next().unwrap();
            assert_eq!(name, "NAME");
            value.into_immutable_string().unwrap().as_ptr()
        };
        let texts: Vec<_> = rule.programs.iter().map(|program| text(program)).collect();
        assert_eq!(texts.len(), 3);
        assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
        assert_eq!(text(&rule.programs[0]), texts[0], "the text is shared with its own program at least");
    }
}
