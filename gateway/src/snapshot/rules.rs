//! From a policy's `rule` to a rule that can be asked.
//!
//! A script that says the same, with the same fields listed, stays the same object over reloads, and so do the answers kept of it.
//! Otherwise the rule is a new one with a new number, under which nothing is kept yet: no answer outlives its rule.

use std::path::Path;
use std::sync::Arc;

use crossgate_policy::{Rule, Script, check_rule};
use http::HeaderName;

use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::{PolicySpec, RuleSpec};
use crate::config::{shown, similar};
use crate::scripts::Scripts;
use crate::verdicts::{LiveRule, Verdicts};

/// What it takes to compile rules.
pub(super) struct Rules<'a> {
    pub(super) scripts: &'a Scripts,
    pub(super) file: &'a Path,
    /// One for every worker.
    pub(super) copies: usize,
    pub(super) verdicts: &'a Verdicts,
    pub(super) rejected: &'a mut Vec<Rejected>,
}

/// A script that is good by itself and that a policy cannot take, while it can go on with the older version.
#[derive(Debug)]
pub(crate) struct Rejected {
    /// The script's file.
    pub(crate) script: Box<str>,
    /// Why.
    pub(crate) errors: Diagnostics,
}

impl Rules<'_> {
    /// The rule of a policy, if it has one and its script is there.
    pub(super) fn rule(
        &mut self,
        policy: &PolicySpec,
        spec: &crossgate_policy::PolicySpec,
        old: Option<&Arc<LiveRule>>,
        found: &mut Diagnostics,
    ) -> Option<Arc<LiveRule>> {
        let written = policy.rule.as_ref()?;
        let Some(script) = self.scripts.get(&written.script.value) else {
            found.push(self.missing(written));
            return None;
        };
        let headers: Vec<HeaderName> = written.headers.iter().filter_map(|name| name.value.parse().ok()).collect();
        let query: Vec<Box<str>> = written.query.iter().map(|key| key.value.clone()).collect();
        match old.filter(|old| is_same(&old.rule, script, &headers, &query)) {
            Some(same) => Some(Arc::clone(same)),
            None => {
                let rule = Rule::new(self.verdicts.draw_number(), script, &headers, &query, self.copies);
                match old.filter(|old| old.rule.headers() == headers && old.rule.query() == query) {
                    Some(old) if self.rejects(written, &rule, spec) => Some(Arc::clone(old)),
                    Some(_) | None => Some(LiveRule::new(Arc::new(rule))),
                }
            }
        }
    }

    /// Whether a new version of a script does not fit into its policy: that is the script's mistake, not the policy's.
    fn rejects(&mut self, written: &RuleSpec, rule: &Rule, spec: &crossgate_policy::PolicySpec) -> bool {
        let errors: Diagnostics = check_rule(rule, spec)
            .into_iter()
            .map(|problem| Diagnostic::error(self.file, written.script.at, problem.message))
            .collect();
        let is_rejected = errors.has_errors();
        if is_rejected {
            self.rejected.push(Rejected { script: written.script.value.clone(), errors });
        }
        is_rejected
    }

    fn missing(&self, written: &RuleSpec) -> Diagnostic {
        let name = &written.script;
        let hint = match similar(&name.value, self.scripts.names()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "write it there, or name one that is there".to_owned(),
        };
        Diagnostic::error(
            self.file,
            name.at,
            format!("there is no good script {} in scriptsDir; {hint}", shown(&name.value)),
        )
    }
}

fn is_same(rule: &Rule, script: &Arc<Script>, headers: &[HeaderName], query: &[Box<str>]) -> bool {
    Arc::ptr_eq(rule.script(), script) && rule.headers() == headers && rule.query() == query
}
