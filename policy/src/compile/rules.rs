//! Checks a rule against its policy: with credentials it must not allow unlisted origins, it must
//! not stand next to `*`, and the policy must list the headers and query keys that its script
//! reads.

use crate::origin::risk::EntryRestrictions;
use crate::rule::{Rule, UnlistedOriginReport};
use crate::spec::{CompileFindings, PolicySpec, SpecLocation, SpecProblem};

pub(super) const NEXT_TO_ANY: &str =
    "`*` allows every origin, so the rule would never run, expected either `*` or a rule";

/// Whether a rule that allows unlisted origins must be refused.
pub(super) fn needs_unlisted_origin_probe(restrictions: &EntryRestrictions) -> bool {
    restrictions.credentials && !restrictions.dangerously.allow_any_origin
}

/// The message that refuses a rule which allows unlisted origins.
pub(super) fn unlisted_origin_refusal(
    report: UnlistedOriginReport,
    restrictions: &EntryRestrictions,
) -> Option<String> {
    let extension = report.admitted_extension.filter(|_| !restrictions.dangerously.allow_any_extension);
    let (admitted, key) = match (report.admitted, extension) {
        (Some(origin), _) => (origin, "dangerouslyAllowAnyOrigin"),
        (None, Some(origin)) => (origin, "dangerouslyAllowAnyExtension"),
        (None, None) => return None,
    };
    Some(format!(
        "the rule allows unlisted origins with credentials, such as {admitted}, expected it to compare the whole host, \
         or `{key}` as well"
    ))
}

/// Reports every conflict between a rule and the spec of its policy, without compiling the policy.
pub fn check_rule(rule: &Rule, spec: &PolicySpec) -> Vec<SpecProblem> {
    let restrictions = EntryRestrictions { credentials: spec.allow_credentials, dangerously: spec.dangerously };
    let is_any = spec.allow_origins.iter().any(|origin| origin == "*");
    let mut findings = CompileFindings::default();
    let report = needs_unlisted_origin_probe(&restrictions).then(|| rule.probe_unlisted_origins());
    check(rule, report, is_any, &restrictions, &mut findings);
    findings.conclude(()).err().unwrap_or_default()
}

pub(super) fn check(
    rule: &Rule,
    report: Option<UnlistedOriginReport>,
    is_any: bool,
    restrictions: &EntryRestrictions,
    findings: &mut CompileFindings,
) {
    if let Some(message) = report.and_then(|report| unlisted_origin_refusal(report, restrictions)) {
        findings.error(SpecLocation::Rule, message);
    }
    if is_any {
        findings.error(SpecLocation::Rule, NEXT_TO_ANY);
    }
    let script = rule.script();
    for (name, at) in script.headers() {
        if !rule.headers().iter().any(|listed| listed.as_str() == &**name) {
            findings.error(SpecLocation::Rule, unlisted("header", name, script.name(), at.line, "headers"));
        }
    }
    for (key, at) in script.query_keys() {
        if !rule.query().contains(key) {
            findings.error(SpecLocation::Rule, unlisted("query key", key, script.name(), at.line, "query"));
        }
    }
    for (index, listed) in rule.headers().iter().enumerate() {
        if !script.headers().iter().any(|(name, _)| **name == *listed.as_str()) {
            findings.warn(
                SpecLocation::RuleHeaders(index),
                format!(
                    "the rule never reads `{listed}`, but every response has it in `Vary`, expected it to be left out"
                ),
            );
        }
    }
}

fn unlisted(what: &str, name: &str, script: &str, line: u32, list: &str) -> String {
    format!("the script {script} reads the {what} `{name}` in line {line}, expected it in the rule's `{list}`")
}
