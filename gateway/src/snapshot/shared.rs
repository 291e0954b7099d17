//! The sections that tenants share: upstreams, and policies compiled once each.
//!
//! A policy is a template that tenants extend by their own origins; its tables and header values
//! exist once. An unchanged policy is the same object as in the snapshot before, so tenants can
//! compare pointers to see that nothing they use has changed. A policy with mistakes is kept
//! without its lists, so that the origins of its tenants are checked in the same run.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ahash::{AHashMap, AHashSet};
use crossgate_policy as engine;
use engine::Template;

use crate::ledger::GroupLabel;
use crate::registry::GatewayMetrics;
use crate::scripts::{ReportedScripts, Scripts};
use crate::shared_policy::{EmbeddingFields, SharedPolicy};
use crate::tenant::Tenant;
use crate::upstream::Upstream;
use crate::upstream::UpstreamTls;
use crate::verdicts::CompiledRule;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics, Location};
use crossgate_config::model::{
    DisclosureSetting, GroupConfig, Located, MainFile, Mode, OriginSetConfig, PolicyConfig, Position, Text,
    UpstreamSpec,
};
use crossgate_config::warnings::WarningCode;
use crossgate_config::{ReferenceKind, find_similar, show_text};
use crossgate_message::health_path::HealthPath;

use super::rules::{RejectedScript, RuleCompiler};

/// Upstreams and policies by name.
#[derive(Debug, Default)]
pub(crate) struct SharedSections {
    pub(super) upstreams: AHashMap<Box<str>, Arc<Upstream>>,
    pub(super) policies: AHashMap<Box<str>, Arc<SharedPolicy>>,
    /// The location of each policy, kept apart so that a policy that moves within its file stays
    /// the same object.
    defined: AHashMap<Box<str>, Location>,
    /// The paths of health checks that listeners answer themselves.
    pub(super) health_paths: Vec<(HealthPath, Location)>,
}

/// Contents of other files that the main file names.
pub(crate) struct SourceFiles<'a> {
    pub(crate) scripts: &'a Scripts,
    /// Scripts with errors among the findings already.
    pub(crate) reported: &'a ReportedScripts,
    /// TLS settings by upstream.
    pub(crate) tls: &'a AHashMap<Box<str>, Arc<UpstreamTls>>,
}

impl SharedSections {
    /// Compiles the shared sections of the main file, and reuses unchanged ones of `previous`. An
    /// upstream without its `tls` here has an error that was reported already.
    pub(crate) fn compile(
        main: &MainFile,
        file: &Path,
        SourceFiles { scripts, reported, tls }: SourceFiles<'_>,
        previous: Option<&super::Snapshot>,
        metrics: &GatewayMetrics,
        rejected: &mut Vec<RejectedScript>,
        found: &mut Diagnostics,
    ) -> Self {
        let previous = previous.map(|snapshot| &snapshot.shared);
        let sets = main.origin_sets.iter().map(|set| (set.name.value.clone(), set)).collect();
        let copies = main.settings.runtime.threads.count();
        let rules = RuleCompiler { scripts, reported, file, copies, verdicts: &metrics.verdicts, rejected };
        let mut compiler = SharedCompiler { file, sets, rules, previous, found };
        let policies = main.policies.iter().map(|spec| (spec.name.value.clone(), compiler.policy(spec)));
        let policies = policies.collect();
        let upstream = |spec: &UpstreamSpec| {
            let tls = tls.get(&spec.name.value).cloned();
            let old = previous.and_then(|shared| shared.upstreams.get(&spec.name.value));
            let same = old.filter(|old| old.spec == *spec && old.tls == tls);
            let new = || Upstream::new(spec, tls, metrics.upstream(&spec.name.value), old.map(|old| &**old));
            same.map_or_else(|| Arc::new(new()), Arc::clone)
        };
        let upstreams = main.upstreams.iter().map(|spec| (spec.name.value.clone(), upstream(spec))).collect();
        let defined = main.policies.iter().map(|spec| (spec.name.value.clone(), Location::new(file, spec.name.at)));
        let health_paths = main.settings.listeners.iter().filter_map(|listener| listener.health_path.as_ref());
        let health_paths = health_paths.map(|path| (path.value.clone(), Location::new(file, path.at))).collect();
        SharedSections { upstreams, policies, defined: defined.collect(), health_paths }
    }

    /// The error for a tenant that adds no origins to a policy without any.
    pub(super) fn allows_nothing(&self, file: &Path, policy: &Text) -> Diagnostic {
        let message = format!(
            "no origin is allowed: the policy {} has none, and none is added here; add allowOrigins to one of them",
            show_text(&policy.value)
        );
        Diagnostic { also: self.defined.get(&policy.value).cloned(), ..Diagnostic::error(file, policy.at, message) }
    }

    /// Warns about unused definitions.
    pub(super) fn warn_unused(main: &MainFile, file: &Path, tenants: &[Arc<Tenant>], found: &mut Diagnostics) {
        let routes = || tenants.iter().flat_map(|tenant| tenant.routes.iter().chain(&tenant.fallback));
        let policies: AHashSet<&str> = routes().map(|route| &*route.policy_name).collect();
        let upstreams: AHashSet<&str> = routes().filter_map(|route| Some(&*route.upstream()?.name)).collect();
        let sets: AHashSet<&str> = main.policies.iter().flat_map(named_sets).flatten().map(|set| &*set.value).collect();
        let mut warn = |kind: ReferenceKind, name: &Text, used: &AHashSet<&str>| {
            if !used.contains(&*name.value) {
                let message =
                    format!("nothing uses the {} {}; remove it, or refer to it", kind.one(), show_text(&name.value));
                found.push(Diagnostic::warning(WarningCode::Unused, file, name.at, message));
            }
        };
        main.upstreams.iter().for_each(|upstream| warn(ReferenceKind::Upstream, &upstream.name, &upstreams));
        main.origin_sets.iter().for_each(|set| warn(ReferenceKind::OriginSet, &set.name, &sets));
        main.policies.iter().for_each(|policy| warn(ReferenceKind::Policy, &policy.name, &policies));
    }
}

/// Resolves a name. The error message contains a suggestion, unless there are many findings
/// already.
pub(super) fn resolve<'a, T>(
    known: &'a AHashMap<Box<str>, T>,
    kind: ReferenceKind,
    name: &str,
    found: &Diagnostics,
) -> Result<&'a T, String> {
    known.get(name).ok_or_else(|| {
        let guess = || find_similar(name, known.keys().map(|known| &**known));
        let hint = match found.wants_guesses().then(guess).flatten() {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("define it under {}, or name an existing one", kind.key()),
        };
        format!("there is no {} {}; {hint}", kind.one(), show_text(name))
    })
}

/// The lists of origin sets that a policy and its groups name, the policy's own first.
fn named_sets(policy: &PolicyConfig) -> impl Iterator<Item = &Vec<Text>> {
    std::iter::once(&policy.allow_origin_sets).chain(policy.groups.iter().map(|group| &group.allow_origin_sets))
}

/// The origin sets of a policy and its groups, the policy's own first.
type SetsOfGroups<'a> = [Vec<&'a OriginSetConfig>];

struct SharedCompiler<'a> {
    file: &'a Path,
    sets: AHashMap<Box<str>, &'a OriginSetConfig>,
    rules: RuleCompiler<'a>,
    previous: Option<&'a SharedSections>,
    found: &'a mut Diagnostics,
}

impl<'a> SharedCompiler<'a> {
    fn policy(&mut self, written: &PolicyConfig) -> Arc<SharedPolicy> {
        let sets = self.sets_of(written);
        let spec = engine_spec(written, &sets);
        self.warn_report(written);
        let old = self.previous.and_then(|shared| shared.policies.get(&written.name.value));
        let rule = self.rules.rule(written, &spec, old.and_then(|old| old.rule.as_ref()), self.found);
        match old.filter(|old| old.is_same_as(&spec, written, rule.as_ref())) {
            Some(same) => {
                self.warn(written, &sets, &same.warnings);
                Arc::clone(same)
            }
            None => self.compile(written, spec, rule, &sets),
        }
    }

    fn compile(
        &mut self,
        written: &PolicyConfig,
        spec: engine::PolicySpec,
        rule: Option<Arc<CompiledRule>>,
        sets: &SetsOfGroups<'_>,
    ) -> Arc<SharedPolicy> {
        let engine_rule = rule.as_ref().map(|compiled_rule| Arc::clone(&compiled_rule.rule));
        // A missing rule is an error of its own, reported already.
        let lacks_rule = written.rule.is_some() && rule.is_none();
        let (template, warnings, broken) = match Template::compile_with_rule(&spec, engine_rule) {
            Ok(compiled) => {
                self.warn(written, sets, &compiled.warnings);
                (compiled.value, compiled.warnings, lacks_rule)
            }
            Err(problems) => {
                self.report(written, sets, problems);
                (bare(&spec), Vec::new(), true)
            }
        };
        let group_labels = spec.groups.iter().map(|group| GroupLabel::of(&group.name)).collect();
        Arc::new(SharedPolicy {
            group_labels,
            embedding: EmbeddingFields::of(written),
            cookies: written.cookies,
            name: Arc::from(&*written.name.value),
            template: Arc::new(template),
            unmatched_requests: written.unmatched_requests,
            preflight_failures: written.preflight_failures,
            cross_site_navigations: written.cross_site_navigations.map(Into::into),
            mode: written.mode.value,
            plain: OnceLock::new(),
            broken,
            rule,
            warnings,
            spec,
        })
    }

    fn report(&mut self, written: &PolicyConfig, sets: &SetsOfGroups<'_>, problems: Vec<engine::SpecProblem>) {
        for problem in problems {
            self.found.push(Diagnostic::error(self.file, place(written, sets, &problem), problem.message));
        }
    }

    fn warn(&mut self, written: &PolicyConfig, sets: &SetsOfGroups<'_>, warnings: &[engine::SpecProblem]) {
        for warning in warnings {
            let (code, at) = (code_of(warning.location), place(written, sets, warning));
            self.found.push(Diagnostic::warning(code, self.file, at, &*warning.message));
        }
    }

    /// The existing sets that a policy and its groups name.
    fn sets_of(&mut self, written: &PolicyConfig) -> Vec<Vec<&'a OriginSetConfig>> {
        named_sets(written).map(|names| self.sets_named(names)).collect()
    }

    fn sets_named(&mut self, names: &[Text]) -> Vec<&'a OriginSetConfig> {
        let mut sets = Vec::new();
        for name in names {
            match resolve(&self.sets, ReferenceKind::OriginSet, &name.value, self.found) {
                Ok(set) => sets.push(*set),
                Err(message) => self.found.push(Diagnostic::error(self.file, name.at, message)),
            }
        }
        sets
    }

    fn warn_report(&mut self, written: &PolicyConfig) {
        if written.mode.value == Mode::Report {
            let message = "a policy in Report mode protects nothing: it only counts and logs; set Enforce when the counts are as expected";
            self.found.push(Diagnostic::warning(WarningCode::ReportMode, self.file, written.mode.at, message));
        }
    }
}

/// A template with the switches of a policy and without its lists, which cannot contain a mistake.
fn bare(spec: &engine::PolicySpec) -> Template {
    let bare = engine::PolicySpec {
        allow_credentials: spec.allow_credentials,
        dangerously: spec.dangerously,
        ..engine::PolicySpec::default()
    };
    #[expect(
        clippy::expect_used,
        reason = "an empty policy has nothing to be wrong, which a test compiles in every form"
    )]
    Template::compile(&bare).expect("an empty policy compiles").value
}

/// The code of an engine warning, by the list that contains the entry.
pub(super) fn code_of(place: engine::SpecLocation) -> WarningCode {
    match place {
        engine::SpecLocation::AllowOrigins(_)
        | engine::SpecLocation::OwnGroup(_)
        | engine::SpecLocation::OriginSets(_)
        | engine::SpecLocation::OriginSet { .. } => WarningCode::DoubtfulOrigin,
        engine::SpecLocation::AllowOriginRegexes(_) => WarningCode::DoubtfulRegex,
        engine::SpecLocation::AllowMethods(_) => WarningCode::DoubtfulMethod,
        engine::SpecLocation::AllowHeaders(_) | engine::SpecLocation::ExposeHeaders(_) => WarningCode::DoubtfulHeader,
        engine::SpecLocation::Policy
        | engine::SpecLocation::Group
        | engine::SpecLocation::AllowCredentials
        | engine::SpecLocation::MaxAge => WarningCode::DoubtfulPolicy,
        engine::SpecLocation::Rule | engine::SpecLocation::RuleHeaders(_) | engine::SpecLocation::RuleGroups(_) => {
            WarningCode::DoubtfulRule
        }
    }
}

/// The part of a policy to which locations refer: its own lists, or those of a group.
struct WrittenTerms<'a> {
    name: &'a Text,
    origins: &'a [Text],
    sets: &'a [Text],
    regexes: &'a [Text],
    methods: &'a [Text],
    headers: &'a [Text],
    exposed: &'a [Text],
    credentials: Option<Position>,
    max_age: Option<Position>,
}

impl<'a> WrittenTerms<'a> {
    fn of_policy(policy: &'a PolicyConfig) -> Self {
        WrittenTerms {
            name: &policy.name,
            origins: &policy.allow_origins,
            sets: &policy.allow_origin_sets,
            regexes: &policy.allow_origin_regexes,
            methods: &policy.allow_methods,
            headers: &policy.allow_headers,
            exposed: &policy.expose_headers,
            credentials: Some(policy.allow_credentials.at),
            max_age: Some(policy.max_age.at),
        }
    }

    fn of_group(group: &'a GroupConfig) -> Self {
        WrittenTerms {
            name: &group.name,
            origins: &group.allow_origins,
            sets: &group.allow_origin_sets,
            regexes: &group.allow_origin_regexes,
            methods: group.allow_methods.as_deref().unwrap_or_default(),
            headers: group.allow_headers.as_deref().unwrap_or_default(),
            exposed: group.expose_headers.as_deref().unwrap_or_default(),
            credentials: group.allow_credentials.as_ref().map(|flag| flag.at),
            max_age: group.max_age.as_ref().map(|age| age.at),
        }
    }
}

/// Converts a location in the engine's specification to one in the file.
fn place(written: &PolicyConfig, sets: &SetsOfGroups<'_>, problem: &engine::SpecProblem) -> Position {
    let nth = |texts: &[Text], index: usize| texts.get(index).map(|text| text.at);
    let group = problem.group.and_then(|index| written.groups.get(index));
    let terms = group.map_or_else(|| WrittenTerms::of_policy(written), WrittenTerms::of_group);
    let sets = sets.get(problem.group.map_or(0, |index| index + 1)).map(Vec::as_slice).unwrap_or_default();
    let at = match problem.location {
        engine::SpecLocation::Policy | engine::SpecLocation::Group | engine::SpecLocation::OwnGroup(_) => None,
        engine::SpecLocation::AllowOrigins(index) => nth(terms.origins, index),
        // Names of missing sets are left out of the specification.
        engine::SpecLocation::OriginSets(set) => sets
            .get(set)
            .and_then(|set| terms.sets.iter().find(|name| name.value == set.name.value))
            .map(|name| name.at),
        engine::SpecLocation::OriginSet { set, index } => sets.get(set).and_then(|set| nth(&set.origins, index)),
        engine::SpecLocation::AllowOriginRegexes(index) => nth(terms.regexes, index),
        engine::SpecLocation::AllowMethods(index) => nth(terms.methods, index),
        engine::SpecLocation::AllowHeaders(index) => nth(terms.headers, index),
        engine::SpecLocation::ExposeHeaders(index) => nth(terms.exposed, index),
        engine::SpecLocation::AllowCredentials => terms.credentials,
        engine::SpecLocation::MaxAge => terms.max_age,
        engine::SpecLocation::Rule => written.rule.as_ref().map(|rule| rule.script.at),
        engine::SpecLocation::RuleHeaders(index) => written.rule.as_ref().and_then(|rule| nth(&rule.headers, index)),
        engine::SpecLocation::RuleGroups(index) => written.rule.as_ref().and_then(|rule| nth(&rule.groups, index)),
    };
    at.unwrap_or(terms.name.at)
}

fn engine_spec(written: &PolicyConfig, sets: &SetsOfGroups<'_>) -> engine::PolicySpec {
    let preset = written.preset.map(|preset| preset.value.lists());
    let sets_of = |number: usize| set_specs(sets.get(number).map(Vec::as_slice).unwrap_or_default());
    engine::PolicySpec {
        allow_origins: texts(&written.allow_origins),
        origin_sets: sets_of(0),
        allow_origin_regexes: texts(&written.allow_origin_regexes),
        allow_methods: with_preset(&written.allow_methods, preset.map(|preset| preset.methods)),
        allow_headers: with_preset(&written.allow_headers, preset.map(|preset| preset.request_headers)),
        expose_headers: with_preset(&written.expose_headers, preset.map(|preset| preset.exposed_headers)),
        expose_on_preflights: written.expose_on_preflights,
        allow_credentials: written.allow_credentials.value,
        max_age_seconds: written.max_age.value,
        disclosure: match written.disclosure {
            DisclosureSetting::Full => engine::Disclosure::Full,
            DisclosureSetting::Minimal => engine::Disclosure::Minimal,
        },
        cross_site: engine::CrossSiteTerms {
            protection: written.cross_site.into(),
            reads: written.cross_site_reads.into(),
        },
        dangerously: engine::DangerousSwitches {
            allow_null: written.dangerously.allow_null,
            allow_insecure_origins: written.dangerously.allow_insecure_origins,
            allow_public_suffixes: written.dangerously.allow_public_suffixes,
            allow_local_file_origins: written.dangerously.allow_local_file_origins,
            allow_any_extension: written.dangerously.allow_any_extension,
            allow_any_origin: written.dangerously.allow_any_origin,
            allow_cross_site: written.dangerously.allow_cross_site,
        },
        groups: written.groups.iter().zip(1..).map(|(group, number)| group_spec(group, sets_of(number))).collect(),
    }
}

fn set_specs(sets: &[&OriginSetConfig]) -> Vec<engine::OriginSetSpec> {
    let spec = |set: &&OriginSetConfig| engine::OriginSetSpec {
        name: set.name.value.to_string(),
        origins: texts(&set.origins),
    };
    sets.iter().map(spec).collect()
}

fn group_spec(group: &GroupConfig, origin_sets: Vec<engine::OriginSetSpec>) -> engine::GroupSpec {
    engine::GroupSpec {
        name: group.name.value.to_string(),
        allow_origins: texts(&group.allow_origins),
        origin_sets,
        allow_origin_regexes: texts(&group.allow_origin_regexes),
        allow_methods: group.allow_methods.as_deref().map(texts),
        allow_headers: group.allow_headers.as_deref().map(texts),
        expose_headers: group.expose_headers.as_deref().map(texts),
        allow_credentials: group.allow_credentials.as_ref().map(|flag| flag.value),
        max_age_seconds: group.max_age.as_ref().map(|age| age.value),
        tenants_may_add: group.tenants_may_add,
    }
}

/// A written list, and the names of a preset that it lacks.
fn with_preset(written: &[Located<Box<str>>], preset: Option<&[&str]>) -> Vec<String> {
    let is_written = |name: &&&str| written.iter().any(|text| text.value.eq_ignore_ascii_case(name));
    let added = preset.into_iter().flatten().filter(|name| !is_written(name));
    written.iter().map(|text| text.value.to_string()).chain(added.map(|name| (*name).to_owned())).collect()
}

/// The texts without their locations.
pub(super) fn texts(located: &[Located<Box<str>>]) -> Vec<String> {
    located.iter().map(|text| text.value.to_string()).collect()
}
