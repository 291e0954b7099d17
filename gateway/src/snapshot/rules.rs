//! Compilation of a policy's `rule`.
//!
//! An unchanged script with the same listed fields stays the same object over reloads, so its
//! cached answers stay valid. Otherwise the rule gets a new number, under which nothing is cached
//! yet: no answer outlives its rule.

use std::path::Path;
use std::sync::Arc;

use crossgate_policy::{Rule, Script, check_rule};
use http::HeaderName;

use crate::scripts::{ReportedScripts, Scripts};
use crate::verdicts::{CompiledRule, Verdicts};
use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{PolicyConfig, RuleSpec};
use crossgate_config::{find_similar, show_text};

/// The inputs for compiling rules.
pub(super) struct RuleCompiler<'a> {
    pub(super) scripts: &'a Scripts,
    pub(super) reported: &'a ReportedScripts,
    pub(super) file: &'a Path,
    /// One copy for each worker.
    pub(super) copies: usize,
    pub(super) verdicts: &'a Verdicts,
    pub(super) rejected: &'a mut Vec<RejectedScript>,
}

/// A valid script that a policy cannot use, while the policy can keep the older version.
#[derive(Debug)]
pub(crate) struct RejectedScript {
    pub(crate) script: Box<str>,
    pub(crate) errors: Diagnostics,
}

impl RuleCompiler<'_> {
    /// The rule of a policy, if it has one and the script exists.
    pub(super) fn rule(
        &mut self,
        policy: &PolicyConfig,
        spec: &crossgate_policy::PolicySpec,
        old: Option<&Arc<CompiledRule>>,
        found: &mut Diagnostics,
    ) -> Option<Arc<CompiledRule>> {
        let written = policy.rule.as_ref()?;
        let Some(script) = self.scripts.get(&written.script.value) else {
            // A refused script has its own finding; this one would only follow from it.
            if !self.reported.has(&written.script.value) {
                found.push(self.missing(written));
            }
            return None;
        };
        let headers: Vec<HeaderName> = written.headers.iter().filter_map(|name| name.value.parse().ok()).collect();
        let query: Vec<Box<str>> = written.query.iter().map(|key| key.value.clone()).collect();
        let groups: Vec<Box<str>> = written.groups.iter().map(|name| name.value.clone()).collect();
        match old.filter(|old| is_same(&old.rule, script, &headers, &query, &groups)) {
            Some(same) => Some(Arc::clone(same)),
            None => {
                let rule = Rule::new(self.verdicts.draw_number(), script, &headers, &query, self.copies);
                let rule = rule.with_groups(&groups);
                let has_same_lists =
                    |old: &Rule| old.headers() == headers && old.query() == query && old.groups() == groups;
                match old.filter(|old| has_same_lists(&old.rule)) {
                    Some(old) if self.rejects(written, &rule, spec) => Some(Arc::clone(old)),
                    Some(_) | None => Some(CompiledRule::new(Arc::new(rule))),
                }
            }
        }
    }

    /// Returns whether a new version of a script does not fit its policy. The mistake is then
    /// reported for the script, not for the policy.
    fn rejects(&mut self, written: &RuleSpec, rule: &Rule, spec: &crossgate_policy::PolicySpec) -> bool {
        let errors: Diagnostics = check_rule(rule, spec)
            .into_iter()
            .map(|problem| Diagnostic::error(self.file, written.script.at, problem.message))
            .collect();
        let is_rejected = errors.has_errors();
        if is_rejected {
            self.rejected.push(RejectedScript { script: written.script.value.clone(), errors });
        }
        is_rejected
    }

    fn missing(&self, written: &RuleSpec) -> Diagnostic {
        let name = &written.script;
        let hint = match find_similar(&name.value, self.scripts.names()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "add it there, or name an existing one".to_owned(),
        };
        Diagnostic::error(
            self.file,
            name.at,
            format!("there is no script {} in scriptsDir; {hint}", show_text(&name.value)),
        )
    }
}

fn is_same(rule: &Rule, script: &Arc<Script>, headers: &[HeaderName], query: &[Box<str>], groups: &[Box<str>]) -> bool {
    let has_same_lists = rule.headers() == headers && rule.query() == query && rule.groups() == groups;
    Arc::ptr_eq(rule.script(), script) && has_same_lists
}
