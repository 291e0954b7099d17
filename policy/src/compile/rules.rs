//! What a rule and the policy around it must agree on.

use crate::origin::risk::Guard;
use crate::rule::Rule;
use crate::spec::{Findings, Place, PolicySpec, Problem};

pub(super) const BESIDE_ANY: &str = "`*` allows every origin, so the rule would never be asked, expected one of them";

/// Whether a rule that lets strangers in, on behalf of this tenant, is one too many.
pub(super) fn stranger_refusal(rule: &Rule, tenant: &str, guard: &Guard) -> Option<String> {
    if !guard.credentials || guard.dangerously.allow_any_origin {
        return None;
    }
    let admitted = rule.strangers(tenant).admitted?;
    Some(format!(
        "the rule lets a stranger in with credentials, such as `{admitted}`, expected it to look at the host, or \
         `dangerouslyAllowAnyOrigin` as well"
    ))
}

/// Everything that keeps a rule from its policy.
pub fn check_rule(rule: &Rule, spec: &PolicySpec) -> Vec<Problem> {
    let guard = Guard { credentials: spec.allow_credentials, dangerously: spec.dangerously };
    let is_any = spec.allow_origins.iter().any(|origin| origin == "*");
    let mut findings = Findings::default();
    check(rule, is_any, &guard, &mut findings);
    findings.conclude(()).err().unwrap_or_default()
}

pub(super) fn check(rule: &Rule, is_any: bool, guard: &Guard, findings: &mut Findings) {
    if let Some(message) = stranger_refusal(rule, "", guard) {
        findings.error(Place::Rule, message);
    }
    if is_any {
        findings.error(Place::Rule, BESIDE_ANY);
    }
    let script = rule.script();
    for (name, at) in script.headers() {
        if !rule.headers().iter().any(|listed| listed.as_str() == &**name) {
            findings.error(Place::Rule, unlisted("header", name, script.name(), at.line, "headers"));
        }
    }
    for (key, at) in script.query_keys() {
        if !rule.query().contains(key) {
            findings.error(Place::Rule, unlisted("query key", key, script.name(), at.line, "query"));
        }
    }
    for (index, listed) in rule.headers().iter().enumerate() {
        if !script.headers().iter().any(|(name, _)| **name == *listed.as_str()) {
            findings.warn(
                Place::RuleHeaders(index),
                format!("the rule never reads `{listed}`, and every answer varies by it, expected it to be left out"),
            );
        }
    }
}

fn unlisted(what: &str, name: &str, script: &str, line: u32, list: &str) -> String {
    format!("the script {script} reads the {what} `{name}` in line {line}, expected it in the rule's `{list}`")
}
