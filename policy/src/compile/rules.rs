//! Checks a rule against its policy: with credentials it must not allow unlisted origins, it must
//! not stand next to a lone `*`, and the policy must list the headers and query keys that its
//! script reads and the groups that it answers.

use super::terms;
use crate::rule::{Rule, UnlistedOriginReport};
use crate::spec::{CompileFindings, DangerousSwitches, PolicySpec, SpecLocation, SpecProblem};

pub(super) const NEXT_TO_ANY: &str =
    "`*` allows every origin, so the rule would never run, expected either `*` or a rule";

/// The message that refuses a rule which allows unlisted origins.
pub(super) fn unlisted_origin_refusal(report: UnlistedOriginReport, dangerously: &DangerousSwitches) -> Option<String> {
    let extension = report.admitted_extension.filter(|_| !dangerously.allow_any_extension);
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
    let mut findings = CompileFindings::default();
    check(rule, spec, &mut findings);
    findings.conclude(()).err().unwrap_or_default()
}

/// Checks a rule, and returns the result of probing it, if it was probed.
pub(super) fn check(rule: &Rule, spec: &PolicySpec, findings: &mut CompileFindings) -> Option<UnlistedOriginReport> {
    let report = probe(rule, spec);
    if let Some(message) = report.clone().and_then(|report| unlisted_origin_refusal(report, &spec.dangerously)) {
        findings.error(SpecLocation::Rule, message);
    }
    // With groups, the rule decides on origins before `*` does.
    if spec.groups.is_empty() && spec.allow_origins.iter().any(|origin| origin == "*") {
        findings.error(SpecLocation::Rule, NEXT_TO_ANY);
    }
    check_reads(rule, findings);
    check_groups(rule, spec, findings);
    report
}

/// Probes the rule with unlisted origins, if any of its answers has credentials.
fn probe(rule: &Rule, spec: &PolicySpec) -> Option<UnlistedOriginReport> {
    let index = |name: &str| spec.groups.iter().position(|group| group.name == name);
    // Unknown groups are errors of their own.
    let groups = rule.groups().iter().map(|name| index(name).map_or(0, |index| index + 1));
    let terms: Vec<_> = terms::restrictions(spec).collect();
    let credentials = |number: usize| terms.get(number).is_some_and(|terms| terms.credentials);
    let answered: Vec<bool> = groups.map(credentials).collect();
    let has_credentials =
        |group: Option<u8>| group.map_or(credentials(0), |index| answered.get(usize::from(index)) == Some(&true));
    let is_probed = (credentials(0) || answered.contains(&true)) && !spec.dangerously.allow_any_origin;
    is_probed.then(|| rule.probe_unlisted_origins(&has_credentials))
}

fn check_reads(rule: &Rule, findings: &mut CompileFindings) {
    let script = rule.script();
    for (name, at) in script.headers() {
        if !rule.headers().iter().any(|listed| listed.as_str() == &**name) {
            findings.error(SpecLocation::Rule, unlisted("reads the header", name, script.name(), at.line, "headers"));
        }
    }
    for (key, at) in script.query_keys() {
        if !rule.query().contains(key) {
            findings.error(SpecLocation::Rule, unlisted("reads the query key", key, script.name(), at.line, "query"));
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

fn check_groups(rule: &Rule, spec: &PolicySpec, findings: &mut CompileFindings) {
    let script = rule.script();
    for (name, at) in script.groups() {
        if !rule.groups().contains(name) {
            findings.error(SpecLocation::Rule, unlisted("answers the group", name, script.name(), at.line, "groups"));
        }
    }
    for (index, listed) in rule.groups().iter().enumerate() {
        let place = SpecLocation::RuleGroups(index);
        if !spec.groups.iter().any(|group| group.name == **listed) {
            findings.error(place, super::groups::unknown(listed, spec.groups.iter().map(|group| &*group.name)));
        } else if !script.groups().iter().any(|(name, _)| name == listed) {
            findings.warn(place, format!("the rule never answers `{listed}`, expected it to be left out"));
        }
    }
}

fn unlisted(does: &str, name: &str, script: &str, line: u32, list: &str) -> String {
    format!("the script {script} {does} `{name}` in line {line}, expected it in the rule's `{list}`")
}
