//! Compiles a [`PolicySpec`] to a [`Template`], and a template with a tenant's own origins to a
//! [`Policy`], or returns every mistake.
//!
//! All work that depends only on the configuration is done here: text becomes types, tables are
//! built, header values are rendered. A compilation continues after a mistake, so that one run
//! reports all of them, in the order of the spec.

use std::sync::Arc;

use http::HeaderValue;

use crate::headers::{DisclosedList, RenderedHeaders, vary_with_rule};
use crate::names::NameSet;
use crate::origin::hash::HashSeed;
use crate::origin::regexes::OriginRegexes;
use crate::origin::risk::EntryRestrictions;
use crate::origin::set::CompiledOrigins;
use crate::policy::refusal::SAFELISTED;
use crate::policy::{AllowedMethods, Policy, Template};
use crate::request_headers::AllowedHeaders;
use crate::rule::Rule;
use crate::spec::{CompileFindings, CompileOutput, Disclosure, PolicySpec, SpecLocation, SpecProblem};
use crate::verdict::EntryId;

mod lists;
mod origins;
mod rules;

pub use rules::check_rule;

/// The longest max-age, in seconds: the longest time that Firefox caches a preflight.
const MAX_AGE_SECONDS_MAX: u32 = 86_400;

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
        let restrictions = EntryRestrictions { credentials: spec.allow_credentials, dangerously: spec.dangerously };
        let seed = HashSeed::random();
        let set = origins::compile_spec(spec, &restrictions, &seed, &mut findings);
        let regexes = origins::compile_regexes(spec, &mut findings);
        let methods = lists::methods(&spec.allow_methods, &mut findings);
        let headers = lists::request_headers(spec, &mut findings);
        let exposed = lists::exposed(spec, &mut findings);
        check_max_age(spec.max_age_seconds, &mut findings);
        let rendered = RenderedHeaders {
            methods: disclose_methods(spec, &methods),
            methods_if_refused: disclose_methods_if_refused(spec, &methods),
            headers: disclose_headers(spec, &headers),
            disclosure: spec.disclosure,
            max_age_seconds: spec.max_age_seconds,
            max_age: HeaderValue::from(spec.max_age_seconds),
            exposed,
            expose_on_preflights: spec.expose_on_preflights,
            preflight_lines: None,
            vary_with_rule: rule.as_ref().and_then(|rule| vary_with_rule(rule.headers(), spec.cross_site)),
        }
        .with_preflight_lines(spec.allow_credentials);
        let rule_text = rule.as_ref().map(|rule| format!("rule:{}", rule.script().name()).into());
        let report = rule
            .as_ref()
            .filter(|_| rules::needs_unlisted_origin_probe(&restrictions))
            .map(|rule| rule.probe_unlisted_origins());
        let rule_reads_tenant = report.as_ref().is_some_and(|report| report.reads_tenant);
        if let Some(rule) = &rule {
            rules::check(rule, report, set.any().is_some(), &restrictions, &mut findings);
        }
        findings.conclude(Self {
            seed,
            restrictions,
            set,
            regexes,
            methods,
            headers,
            rendered,
            cross_site: spec.cross_site,
            rule,
            rule_text,
            rule_reads_tenant,
        })
    }
}

impl Policy {
    /// Combines a template with a tenant's own origins. The template's credentials and switches
    /// apply to them.
    ///
    /// # Errors
    /// Every mistake in the own origins, with [`SpecLocation::AllowOrigins`]. An error with
    /// [`SpecLocation::Policy`] if neither the template nor the tenant allows any origin.
    pub fn extend(template: Arc<Template>, own_origins: &[String]) -> Result<CompileOutput<Self>, Vec<SpecProblem>> {
        let mut findings = CompileFindings::default();
        let own = origins::compile_own(&template, own_origins, &mut findings);
        let is_empty = |set: &CompiledOrigins, regexes: &OriginRegexes| set.len() + regexes.len() == 0;
        if own_origins.is_empty() && is_empty(&template.set, &template.regexes) && template.rule.is_none() {
            findings.error(SpecLocation::Policy, "no origin is allowed, expected at least one in `allowOrigins`");
        }
        if let (Some(_), Some(index)) = (&template.rule, own_origins.iter().position(|origin| origin == "*")) {
            findings.error(SpecLocation::AllowOrigins(index), rules::NEXT_TO_ANY);
        }
        let any = template.set.any().map(EntryId::Template).or(own.any().map(EntryId::Own));
        findings.conclude(Self { template, own, any })
    }

    /// Probes the rule with unlisted origins on behalf of one tenant: a rule that reads the tenant
    /// may allow them for this tenant only. Does nothing if the rule does not read the tenant.
    ///
    /// # Errors
    /// The rule allows an unlisted origin with credentials. The location is [`SpecLocation::Rule`].
    pub fn check_tenant(&self, tenant: &str) -> Result<(), SpecProblem> {
        let rule = self.template.rule.as_ref().filter(|_| self.template.rule_reads_tenant);
        let report = rule.map(|rule| rule.probe_unlisted_origins_of_tenant(tenant));
        match report.and_then(|report| rules::unlisted_origin_refusal(report, &self.template.restrictions)) {
            Some(message) => Err(SpecProblem { location: SpecLocation::Rule, message }),
            None => Ok(()),
        }
    }
}

fn check_max_age(seconds: u32, findings: &mut CompileFindings) {
    if seconds > MAX_AGE_SECONDS_MAX {
        findings
            .error(SpecLocation::MaxAge, format!("{seconds} seconds is too long, expected 0 to {MAX_AGE_SECONDS_MAX}"));
    }
}

// https://fetch.spec.whatwg.org/#cors-protocol-and-credentials: with credentials `*` is not a
// wildcard, so the response names the requested method or headers instead.
fn disclose_methods(spec: &PolicySpec, methods: &AllowedMethods) -> DisclosedList {
    match methods {
        AllowedMethods::Only(names) => disclose(spec, names, names.joined()),
        AllowedMethods::All if spec.allow_credentials => DisclosedList::Echo,
        AllowedMethods::All => disclose_text(spec, "*".to_owned()),
    }
}

/// Renders the list for a refused method. It is never empty and has no `*`, so it cannot cover the
/// method.
fn disclose_methods_if_refused(spec: &PolicySpec, methods: &AllowedMethods) -> HeaderValue {
    match (methods, spec.disclosure) {
        (AllowedMethods::Only(names), Disclosure::Full) if !names.is_empty() => {
            HeaderValue::try_from(names.joined()).unwrap_or_else(|_| SAFELISTED.clone())
        }
        (AllowedMethods::Only(_) | AllowedMethods::All, Disclosure::Full | Disclosure::Minimal) => SAFELISTED.clone(),
    }
}

fn disclose_headers(spec: &PolicySpec, headers: &AllowedHeaders) -> DisclosedList {
    match headers {
        AllowedHeaders::Only(names) => disclose(spec, names, names.joined()),
        AllowedHeaders::All if spec.allow_credentials => DisclosedList::Echo,
        // https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name
        AllowedHeaders::All => disclose_text(spec, "*,authorization".to_owned()),
        AllowedHeaders::AllButAuthorization => disclose_text(spec, "*".to_owned()),
    }
}

fn disclose(spec: &PolicySpec, names: &NameSet, text: String) -> DisclosedList {
    if names.is_empty() { DisclosedList::Nothing } else { disclose_text(spec, text) }
}

fn disclose_text(spec: &PolicySpec, text: String) -> DisclosedList {
    match spec.disclosure {
        // Names are tokens, and every token is a valid field value.
        Disclosure::Full => HeaderValue::try_from(text).map_or(DisclosedList::Nothing, DisclosedList::Whole),
        Disclosure::Minimal => DisclosedList::Echo,
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
