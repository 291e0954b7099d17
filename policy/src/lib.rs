//! Cross-origin policies: origins, patterns, verdicts and the header fields of responses.
//!
//! A [`PolicySpec`] is the plain input. [`Template::compile`] turns it into a [`Template`] or
//! returns every mistake in it; [`Policy::extend`] adds a tenant's own origins. A [`CorsRequest`]
//! is the CORS view of one HTTP request. The fields that are present determine its [`RequestKind`].
//! [`Policy::decide`] returns the [`Verdict`]: allow or deny, a [`Reason`], and the entry that
//! matched. [`Policy::edits`] and [`Policy::vary`] return the header fields of the response, and
//! [`Policy::explain`] the cause of a denial.
//!
//! Absent on purpose: sockets, files, clocks, threads, logging and global state. A decision is
//! total, pure and bounded, and allocates nothing. A [`Policy`] exists only if it is valid. A
//! denied origin gets no `Access-Control-*` field. The allowed origin is `*` or the request's own
//! bytes. For a refused method or header of an allowed origin, [`Policy::refusal_edits`] returns
//! fields by which the browser names the refused part and blocks the request.

#![warn(missing_docs)]

mod compile;
mod cross_site;
mod group;
mod headers;
pub mod names;
mod near_miss;
mod origin;
mod policy;
mod request;
mod request_headers;
mod rule;
mod site;
mod spec;
mod verdict;

pub use compile::check_rule;
pub use cross_site::CrossSiteOutcome;
pub use group::{GROUPS_MAX, GroupId};
pub use headers::{EditValue, HeaderEdit, missing_vary};
pub use names::is_cors_response_field;
pub use near_miss::{NearMiss, OriginDifference, PolicyExplanation};
pub use origin::{ORIGIN_LEN_MAX, Scheme, is_origin};
pub use policy::{Decision, EntryCounts, Policy, RuleCall, RuleContext, Template};
pub use request::{CorsRequest, CredentialFields, FieldLines, HeadFields, OwnOrigin, RequestField, RequestedUpgrade};
pub use rule::{
    MESSAGE_LEN_MAX, RULE_HEADERS_MAX, RULE_QUERY_MAX, Rule, RuleAnswer, RuleData, RuleError, RuleErrorKind, RuleInput,
    RuleLimits, RuleReads, RuleRun, Script, ScriptLocation, ScriptProblem, callable_names, field_names, split_origin,
};
pub use site::is_other_site;
pub use spec::{
    CompileOutput, CrossSiteNavigations, CrossSiteProtection, CrossSiteReads, CrossSiteTerms, DangerousSwitches,
    Disclosure, GroupSpec, MAX_AGE_SECONDS_DEFAULT, OriginSetSpec, OwnOriginSpec, PolicySpec, SpecLocation,
    SpecProblem,
};
pub use verdict::{EntryId, Outcome, Reason, RequestKind, RuleTerms, Verdict};
