//! Compiled policies, before tenants add their origins.

use std::sync::{Arc, OnceLock};

use crossgate_policy as engine;
use crossgate_policy::{CrossSiteNavigations, Policy, Template};
use http::HeaderValue;

use crate::ledger::GroupLabel;
use crate::verdicts::CompiledRule;
use crossgate_config::model::{
    CookieWarnings, Mode, PolicyConfig, PreflightFailures, TimingAllowOrigins, UnmatchedRequests,
};

/// A compiled policy, without the origins of tenants.
#[derive(Debug)]
pub struct SharedPolicy {
    pub name: Arc<str>,
    pub(crate) template: Arc<Template>,
    pub(crate) unmatched_requests: UnmatchedRequests,
    pub(crate) preflight_failures: PreflightFailures,
    /// `None` if the policy leaves it out.
    pub(crate) cross_site_navigations: Option<CrossSiteNavigations>,
    pub(crate) mode: Mode,
    /// The policy for tenants that add no origins.
    pub(crate) plain: OnceLock<Arc<Policy>>,
    /// Whether the policy could not be compiled, and has no lists.
    pub(crate) broken: bool,
    /// The policy's rule.
    pub(crate) rule: Option<Arc<CompiledRule>>,
    /// The warnings of compiling the policy, reported at every load that uses it.
    pub(crate) warnings: Vec<engine::SpecProblem>,
    pub(crate) spec: engine::PolicySpec,
    /// The label of each group in the ledger.
    pub(crate) group_labels: Box<[GroupLabel]>,
    pub(crate) embedding: EmbeddingFields,
    pub(crate) cookies: CookieWarnings,
}

/// The fields that say which pages may embed a response and read its timing. They replace the
/// upstream's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EmbeddingFields {
    /// `Timing-Allow-Origin`.
    pub(crate) timing: Option<TimingField>,
    /// `Cross-Origin-Resource-Policy`.
    pub(crate) resource_policy: Option<HeaderValue>,
}

/// The value of `Timing-Allow-Origin`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TimingField {
    /// The origin of an allowed request, on its response.
    Same,
    /// One value for all responses.
    Public(HeaderValue),
}

impl EmbeddingFields {
    pub(crate) fn of(source: &PolicyConfig) -> Self {
        let timing = source.timing_allow_origins.as_ref().map(|timing| match timing {
            TimingAllowOrigins::Same => TimingField::Same,
            TimingAllowOrigins::Any => TimingField::Public(HeaderValue::from_static("*")),
            // Origins are visible ASCII.
            TimingAllowOrigins::Listed(origins) => TimingField::Public(
                HeaderValue::from_str(&origins.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("null")),
            ),
        });
        let resource_policy = source.cross_origin_resource_policy.as_ref();
        let resource_policy = resource_policy.map(|policy| HeaderValue::from_static(policy.value.as_str()));
        EmbeddingFields { timing, resource_policy }
    }
}

impl SharedPolicy {
    /// The label of a group in the ledger.
    pub(crate) fn group_label(&self, group: engine::GroupId) -> GroupLabel {
        group.index().and_then(|index| self.group_labels.get(index)).copied().unwrap_or_default()
    }

    /// The number of configured origins and expressions.
    pub(crate) fn origin_count(&self) -> usize {
        let count = |origins: &Vec<String>, sets: &[engine::OriginSetSpec], regexes: &Vec<String>| {
            origins.len() + sets.iter().map(|set| set.origins.len()).sum::<usize>() + regexes.len()
        };
        let spec = &self.spec;
        let groups = spec.groups.iter();
        let groups = groups.map(|group| count(&group.allow_origins, &group.origin_sets, &group.allow_origin_regexes));
        count(&spec.allow_origins, &spec.origin_sets, &spec.allow_origin_regexes) + groups.sum::<usize>()
    }

    /// Returns whether compiling `source` with this rule would give the same policy.
    pub(crate) fn is_same_as(
        &self,
        spec: &engine::PolicySpec,
        source: &PolicyConfig,
        rule: Option<&Arc<CompiledRule>>,
    ) -> bool {
        let rest = self.mode == source.mode.value
            && self.unmatched_requests == source.unmatched_requests
            && self.preflight_failures == source.preflight_failures
            && self.cross_site_navigations == source.cross_site_navigations.map(Into::into)
            && self.embedding == EmbeddingFields::of(source)
            && self.cookies == source.cookies;
        let same_rule = self.rule.as_ref().map(Arc::as_ptr) == rule.map(Arc::as_ptr);
        rest && same_rule && !self.broken && self.spec == *spec
    }
}
