//! Cross-origin policies: origins, patterns, verdicts and the headers they give.
//!
//! The model on one page. A [`PolicySpec`] is what somebody wrote. [`Template::compile`] turns it into a [`Template`], or into
//! every mistake in it; [`Policy::extend`] adds a tenant's own origins. A [`Request`] is the CORS view of one HTTP request:
//! its [`Kind`] is told by which fields are present, and [`Policy::decide`] gives the [`Verdict`], allow or deny with its
//! [`Reason`] and the configured entry behind it. [`Policy::edits`] and [`Policy::vary`] give the header fields of the answer,
//! and [`Policy::explain`] what a person wants to know of a denial.
//!
//! Absent on purpose: sockets, files, clocks, threads, logging and global state. Deciding is total, pure, bounded, and
//! allocates nothing; a [`Policy`] exists only if it is valid. No denial has an `Access-Control-*` field, and the allowed
//! origin is `*` or the request's own bytes.

mod compile;
mod headers;
pub mod names;
mod near_miss;
mod origin;
mod policy;
mod request;
mod request_headers;
mod rule;
mod spec;
mod verdict;

pub use compile::check_rule;
pub use headers::{Edit, Value, missing_vary};
pub use names::is_cors_response_field;
pub use near_miss::{Explanation, How, NearMiss};
pub use origin::{ORIGIN_LEN_MAX, is_origin};
pub use policy::{Decision, EntryCounts, Policy, Template};
pub use request::{Credentials, Field, FieldLines, HeadFields, OwnOrigin, Request, Scheme, Upgrade};
pub use rule::{
    Answer, MESSAGE_LEN_MAX, RULE_HEADERS_MAX, RULE_QUERY_MAX, Reads, Rule, RuleCall, RuleData, RuleError,
    RuleErrorKind, RuleInput, RuleLimits, RuleRun, Script, ScriptPlace, ScriptProblem, Strangers, Surroundings, Terms,
    callable_names, field_names, split_origin,
};
pub use spec::{Compiled, Dangerously, Disclosure, MAX_AGE_SECONDS_DEFAULT, OriginSetSpec, Place, PolicySpec, Problem};
pub use verdict::{EntryId, Kind, Outcome, Reason, Verdict};
