//! Compiles a [`PolicySpec`] to a [`Template`], and a template with a tenant's own origins to a
//! [`Policy`], or returns every mistake.
//!
//! All work that depends only on the configuration is done here: text becomes types, tables are
//! built, header values are rendered. A compilation continues after a mistake, so that one run
//! reports all of them, in the order of the spec.

use std::sync::Arc;

use crate::headers::vary_with_rule;
use crate::origin::hash::HashSeed;
use crate::origin::regexes::OriginRegexes;
use crate::origin::set::CompiledOrigins;
use crate::policy::{GroupedEntry, Policy, Template};
use crate::rule::Rule;
use crate::spec::{
    CompileFindings, CompileOutput, CrossSiteProtection, OwnOriginSpec, PolicySpec, SpecLocation, SpecProblem,
};

mod groups;
mod lists;
mod origins;
mod overlaps;
mod rules;
mod terms;

pub use rules::check_rule;

impl Template {
    /// Compiles a policy. A template without origins is valid, since its tenants can add theirs.
    ///
    /// # Errors
    /// Every mistake, in the order of the spec.
    ///
    /// ```
    /// use crossgate_policy::{PolicySpec, SpecLocation, Template};
    ///
    /// let spec = PolicySpec {
    ///     allow_origins: vec!["https://app.example.test/".into()],
    ///     allow_methods: vec!["TRACE".into()],
    ///     ..PolicySpec::default()
    /// };
    /// let problems = Template::compile(&spec).unwrap_err();
    /// let locations: Vec<_> = problems.iter().map(|problem| problem.location).collect();
    /// assert_eq!(locations, [SpecLocation::AllowOrigins(0), SpecLocation::AllowMethods(0)]);
    /// ```
    pub fn compile(spec: &PolicySpec) -> Result<CompileOutput<Self>, Vec<SpecProblem>> {
        Self::compile_with_rule(spec, None)
    }

    /// Compiles a policy with a rule, which runs where no entry covers the origin.
    ///
    /// # Errors
    /// Every mistake, in the order of the spec. Those of the rule come last.
    pub fn compile_with_rule(
        spec: &PolicySpec,
        rule: Option<Arc<Rule>>,
    ) -> Result<CompileOutput<Self>, Vec<SpecProblem>> {
        let mut findings = CompileFindings::default();
        let seed = HashSeed::random();
        let set = origins::compile_spec(spec, &seed, &mut findings);
        let regexes = origins::compile_regexes(spec, &mut findings);
        let terms = terms::compile(spec, &mut findings);
        let rule_text = rule.as_ref().map(|rule| format!("rule:{}", rule.script().name()).into());
        let report = rule.as_ref().and_then(|rule| rules::check(rule, spec, &mut findings));
        let rule_reads_tenant = report.is_some_and(|report| report.reads_tenant);
        let named = rule.iter().flat_map(|rule| rule.groups());
        let rule_groups = named.filter_map(|name| terms.named(name)).map(|(group, _)| group).collect();
        let vary_with_rule = rule.as_ref().and_then(|rule| vary_with_rule(rule.headers(), spec.cross_site));
        groups::check(spec, rule.as_deref(), &mut findings);
        findings.conclude(Self {
            seed,
            set,
            regexes,
            terms,
            cross_site: spec.cross_site,
            rule,
            rule_text,
            rule_groups,
            vary_with_rule,
            rule_reads_tenant,
        })
    }
}

impl Policy {
    /// Combines a template with a tenant's own origins. The template's own terms and switches apply
    /// to them.
    ///
    /// # Errors
    /// Every mistake in the own origins, with [`SpecLocation::AllowOrigins`]. An error with
    /// [`SpecLocation::Policy`] if neither the template nor the tenant allows any origin.
    pub fn extend(template: Arc<Template>, own_origins: &[String]) -> Result<CompileOutput<Self>, Vec<SpecProblem>> {
        let plain = |origin: &String| OwnOriginSpec { origin: origin.clone(), group: None };
        Self::extend_groups(template, &own_origins.iter().map(plain).collect::<Vec<_>>())
    }

    /// Combines a template with a tenant's own origins, some of them in groups of the template.
    ///
    /// # Errors
    /// As [`Policy::extend`], and an error with [`SpecLocation::OwnGroup`] for a group that the
    /// template lacks, or that takes no origins of tenants.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use crossgate_policy::{
    ///     GroupSpec, OwnOriginSpec, Policy, PolicySpec, SpecLocation, Template,
    /// };
    ///
    /// let group = |name: &str, tenants_may_add| GroupSpec {
    ///     name: name.into(),
    ///     allow_origins: vec![format!("https://{name}.test")],
    ///     tenants_may_add,
    ///     ..GroupSpec::default()
    /// };
    /// let groups = vec![group("frontend", true), group("partners", false)];
    /// let template = Template::compile(&PolicySpec { groups, ..PolicySpec::default() });
    /// let template = Arc::new(template.unwrap().value);
    /// let own = |group: &str| {
    ///     [OwnOriginSpec { origin: "https://acme.test".into(), group: Some(group.into()) }]
    /// };
    /// assert!(Policy::extend_groups(Arc::clone(&template), &own("frontend")).is_ok());
    /// let problems = Policy::extend_groups(template, &own("partners")).unwrap_err();
    /// assert_eq!(problems[0].location, SpecLocation::OwnGroup(0));
    /// ```
    pub fn extend_groups(
        template: Arc<Template>,
        own_origins: &[OwnOriginSpec],
    ) -> Result<CompileOutput<Self>, Vec<SpecProblem>> {
        let mut findings = CompileFindings::default();
        let own = origins::compile_own(&template, own_origins, &mut findings);
        let is_empty = |set: &CompiledOrigins, regexes: &OriginRegexes| set.len() + regexes.len() == 0;
        if own_origins.is_empty() && is_empty(&template.set, &template.regexes) && template.rule.is_none() {
            findings.error(SpecLocation::Policy, "no origin is allowed, expected at least one in `allowOrigins`");
        }
        groups::check_own_any(&template, own_origins, &mut findings);
        let shared_any = template.set.any().map(GroupedEntry::shared);
        let any = shared_any.or_else(|| own.any().map(GroupedEntry::own));
        let others = template.set.len() + template.regexes.len() + own.len();
        let has_others = others > usize::from(template.set.any().is_some()) + usize::from(own.any().is_some());
        // Without groups, another entry next to `*` only exempts its origin from the protection.
        let has_effect = template.cross_site.protection != CrossSiteProtection::Off && has_others;
        let is_any_alone = any.is_some() && template.terms.groups.is_empty() && !has_effect;
        // Locations are those of the tenant's origins.
        findings.outside_groups().conclude(Self { template, own, any, is_any_alone })
    }

    /// Probes the rule with unlisted origins on behalf of one tenant: a rule that reads the tenant
    /// may allow them for this tenant only. Does nothing if the rule does not read the tenant.
    ///
    /// # Errors
    /// The rule allows an unlisted origin with credentials. The location is [`SpecLocation::Rule`].
    pub fn check_tenant(&self, tenant: &str) -> Result<(), SpecProblem> {
        let template = &self.template;
        let rule = template.rule.as_ref().filter(|_| template.rule_reads_tenant);
        let group = |listed: Option<u8>| template.rule_groups.get(usize::from(listed?)).copied();
        let has_credentials = |listed| template.terms.of(group(listed).unwrap_or_default()).has_credentials();
        let report = rule.map(|rule| rule.probe_unlisted_origins_of_tenant(tenant, &has_credentials));
        match report.and_then(|report| rules::unlisted_origin_refusal(report, template.dangerously())) {
            Some(message) => Err(SpecProblem { group: None, location: SpecLocation::Rule, message }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_distinct_hash_seeds() {
        let hash = || Template::compile(&PolicySpec::default()).unwrap().value.seed.whole(b"https://a.test");
        assert_ne!(hash(), hash());
    }
}
