//! [`PolicySpec`] to [`Template`], and a template with a tenant's own origins to [`Policy`]; or every mistake.
//!
//! All work that depends only on configuration is done here: text becomes types, tables are built, header values are
//! rendered. A compilation reads on after a mistake, so that one run tells them all, in the order of the spec.

use std::sync::Arc;

use http::HeaderValue;

use crate::headers::{Disclosed, Rendered, vary_with_rule};
use crate::names::Names;
use crate::origin::hash::Seed;
use crate::origin::regexes::Regexes;
use crate::origin::risk::Guard;
use crate::origin::set::Set;
use crate::policy::{AllowedMethods, Policy, Template};
use crate::request_headers::AllowedHeaders;
use crate::rule::Rule;
use crate::spec::{Compiled, Disclosure, Findings, Place, PolicySpec, Problem};
use crate::verdict::EntryId;

mod lists;
mod origins;
mod rules;

pub use rules::check_rule;

/// The longest time a browser may be told to keep a preflight's answer, in seconds: the most that Firefox keeps.
const MAX_AGE_SECONDS_MAX: u32 = 86_400;

impl Template {
    /// Compiles a policy. A template may have no origins: its tenants have.
    ///
    /// # Errors
    /// Every mistake, in the order of the spec.
    ///
    /// ```
    /// use crossgate_policy::{Place, PolicySpec, Template};
    ///
    /// let spec = PolicySpec {
    ///     allow_origins: vec!["https://app.example.test/".into()],
    ///     allow_methods: vec!["TRACE".into()],
    ///     ..PolicySpec::default()
    /// };
    /// let problems = Template::compile(&spec).unwrap_err();
    /// let places: Vec<_> = problems.iter().map(|problem| problem.place).collect();
    /// assert_eq!(places, [Place::AllowOrigins(0), Place::AllowMethods(0)]);
    /// ```
    pub fn compile(spec: &PolicySpec) -> Result<Compiled<Self>, Vec<Problem>> {
        Self::compile_with_rule(spec, None)
    }

    /// Compiles a policy that asks a rule where no entry matches.
    ///
    /// # Errors
    /// Every mistake, those of the rule last.
    pub fn compile_with_rule(spec: &PolicySpec, rule: Option<Arc<Rule>>) -> Result<Compiled<Self>, Vec<Problem>> {
        let mut findings = Findings::default();
        let guard = Guard { credentials: spec.allow_credentials, dangerously: spec.dangerously };
        let seed = Seed::random();
        let set = origins::compile_spec(spec, &guard, &seed, &mut findings);
        let regexes = origins::compile_regexes(spec, &mut findings);
        let methods = lists::methods(&spec.allow_methods, &mut findings);
        let headers = lists::request_headers(spec, &mut findings);
        let exposed = lists::exposed(spec, &mut findings);
        check_max_age(spec.max_age_seconds, &mut findings);
        let rendered = Rendered {
            methods: disclose_methods(spec, &methods),
            headers: disclose_headers(spec, &headers),
            max_age_seconds: spec.max_age_seconds,
            max_age: HeaderValue::from(spec.max_age_seconds),
            exposed,
            preflight_lines: None,
            vary_with_rule: rule.as_ref().and_then(|rule| vary_with_rule(rule.headers())),
        }
        .with_preflight_lines(spec.allow_credentials);
        let rule_text = rule.as_ref().map(|rule| format!("rule:{}", rule.script().name()).into());
        if let Some(rule) = &rule {
            rules::check(rule, set.any().is_some(), &guard, &mut findings);
        }
        let rule_reads_tenant = rule.as_ref().is_some_and(|rule| rule.strangers("").reads_tenant);
        findings.conclude(Self {
            seed,
            guard,
            set,
            regexes,
            methods,
            headers,
            rendered,
            rule,
            rule_text,
            rule_reads_tenant,
        })
    }
}

impl Policy {
    /// Makes a tenant's policy of a template and the tenant's own origins, to which the template's switches apply.
    ///
    /// # Errors
    /// Every mistake in the own origins, placed as [`Place::AllowOrigins`]; or, as [`Place::Policy`], that neither they
    /// nor the template allow anything.
    pub fn extend(template: Arc<Template>, own_origins: &[String]) -> Result<Compiled<Self>, Vec<Problem>> {
        let mut findings = Findings::default();
        let own = origins::compile_own(&template, own_origins, &mut findings);
        let is_empty = |set: &Set, regexes: &Regexes| set.len() + regexes.len() == 0;
        if own_origins.is_empty() && is_empty(&template.set, &template.regexes) && template.rule.is_none() {
            findings.error(Place::Policy, "no origin is allowed, expected at least one in `allowOrigins`");
        }
        if let (Some(_), Some(index)) = (&template.rule, own_origins.iter().position(|origin| origin == "*")) {
            findings.error(Place::AllowOrigins(index), rules::BESIDE_ANY);
        }
        let any = template.set.any().map(EntryId::Template).or(own.any().map(EntryId::Own));
        findings.conclude(Self { template, own, any })
    }

    /// Asks the rule about strangers on behalf of one tenant: a rule that looks at the tenant may let them in for that one alone.
    ///
    /// # Errors
    /// That it does so with credentials, placed as [`Place::Rule`].
    pub fn check_tenant(&self, tenant: &str) -> Result<(), Problem> {
        let rule = self.template.rule.as_ref().filter(|_| self.template.rule_reads_tenant);
        match rule.and_then(|rule| rules::stranger_refusal(rule, tenant, &self.template.guard)) {
            Some(message) => Err(Problem { place: Place::Rule, message }),
            None => Ok(()),
        }
    }
}

fn check_max_age(seconds: u32, findings: &mut Findings) {
    if seconds > MAX_AGE_SECONDS_MAX {
        findings.error(Place::MaxAge, format!("{seconds} seconds is too long, expected 0 to {MAX_AGE_SECONDS_MAX}"));
    }
}

// https://fetch.spec.whatwg.org/#cors-protocol-and-credentials: with credentials `*` is no wildcard, so what was asked
// for is named instead.
fn disclose_methods(spec: &PolicySpec, methods: &AllowedMethods) -> Disclosed {
    match methods {
        AllowedMethods::Only(names) => disclose(spec, names, names.joined()),
        AllowedMethods::All if spec.allow_credentials => Disclosed::Echo,
        AllowedMethods::All => disclose_text(spec, "*".to_owned()),
    }
}

fn disclose_headers(spec: &PolicySpec, headers: &AllowedHeaders) -> Disclosed {
    match headers {
        AllowedHeaders::Only(names) => disclose(spec, names, names.joined()),
        AllowedHeaders::All if spec.allow_credentials => Disclosed::Echo,
        // https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name
        AllowedHeaders::All => disclose_text(spec, "*,authorization".to_owned()),
        AllowedHeaders::AllButAuthorization => disclose_text(spec, "*".to_owned()),
    }
}

fn disclose(spec: &PolicySpec, names: &Names, text: String) -> Disclosed {
    if names.is_empty() { Disclosed::Nothing } else { disclose_text(spec, text) }
}

fn disclose_text(spec: &PolicySpec, text: String) -> Disclosed {
    match spec.disclosure {
        // Names are tokens, of which every one is a field value.
        Disclosure::Full => HeaderValue::try_from(text).map_or(Disclosed::Nothing, Disclosed::Whole),
        Disclosure::Minimal => Disclosed::Echo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_hashes_by_a_seed_of_its_own() {
        let hash = || Template::compile(&PolicySpec::default()).unwrap().value.seed.whole(b"https://a.test");
        assert_ne!(hash(), hash());
    }
}
