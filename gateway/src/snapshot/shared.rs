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

use crate::registry::GatewayMetrics;
use crate::scripts::{ReportedScripts, Scripts};
use crate::tenant::SharedPolicy;
use crate::tenant::Tenant;
use crate::upstream::Upstream;
use crate::upstream::UpstreamTls;
use crate::verdicts::CompiledRule;
use crossgate_config::diagnostics::{Diagnostic, Diagnostics, Location};
use crossgate_config::model::{
    DisclosureSetting, Located, MainFile, Mode, OriginSetConfig, PolicyConfig, Position, Text, UpstreamSpec,
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
        let upstreams: AHashSet<&str> = routes().map(|route| &*route.upstream.name).collect();
        let sets: AHashSet<&str> =
            main.policies.iter().flat_map(|policy| &policy.allow_origin_sets).map(|set| &*set.value).collect();
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
        sets: &[&OriginSetConfig],
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
        Arc::new(SharedPolicy {
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

    fn report(&mut self, written: &PolicyConfig, sets: &[&OriginSetConfig], problems: Vec<engine::SpecProblem>) {
        for problem in problems {
            self.found.push(Diagnostic::error(self.file, place(written, sets, problem.location), problem.message));
        }
    }

    fn warn(&mut self, written: &PolicyConfig, sets: &[&OriginSetConfig], warnings: &[engine::SpecProblem]) {
        for warning in warnings {
            let (code, at) = (code_of(warning.location), place(written, sets, warning.location));
            self.found.push(Diagnostic::warning(code, self.file, at, &*warning.message));
        }
    }

    /// The existing sets that a policy names.
    fn sets_of(&mut self, written: &PolicyConfig) -> Vec<&'a OriginSetConfig> {
        let mut sets = Vec::new();
        for name in &written.allow_origin_sets {
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
        engine::SpecLocation::AllowOrigins(_) | engine::SpecLocation::OriginSet { .. } => WarningCode::DoubtfulOrigin,
        engine::SpecLocation::AllowOriginRegexes(_) => WarningCode::DoubtfulRegex,
        engine::SpecLocation::AllowMethods(_) => WarningCode::DoubtfulMethod,
        engine::SpecLocation::AllowHeaders(_) | engine::SpecLocation::ExposeHeaders(_) => WarningCode::DoubtfulHeader,
        engine::SpecLocation::Policy | engine::SpecLocation::AllowCredentials | engine::SpecLocation::MaxAge => {
            WarningCode::DoubtfulPolicy
        }
        engine::SpecLocation::Rule | engine::SpecLocation::RuleHeaders(_) => WarningCode::DoubtfulRule,
    }
}

/// Converts a location in the engine's specification to one in the file.
fn place(written: &PolicyConfig, sets: &[&OriginSetConfig], place: engine::SpecLocation) -> Position {
    let nth = |texts: &[Text], index: usize| texts.get(index).map(|text| text.at);
    let at = match place {
        engine::SpecLocation::Policy => None,
        engine::SpecLocation::AllowOrigins(index) => nth(&written.allow_origins, index),
        engine::SpecLocation::OriginSet { set, index } => sets.get(set).and_then(|set| nth(&set.origins, index)),
        engine::SpecLocation::AllowOriginRegexes(index) => nth(&written.allow_origin_regexes, index),
        engine::SpecLocation::AllowMethods(index) => nth(&written.allow_methods, index),
        engine::SpecLocation::AllowHeaders(index) => nth(&written.allow_headers, index),
        engine::SpecLocation::ExposeHeaders(index) => nth(&written.expose_headers, index),
        engine::SpecLocation::AllowCredentials => Some(written.allow_credentials.at),
        engine::SpecLocation::MaxAge => Some(written.max_age.at),
        engine::SpecLocation::Rule => written.rule.as_ref().map(|rule| rule.script.at),
        engine::SpecLocation::RuleHeaders(index) => written.rule.as_ref().and_then(|rule| nth(&rule.headers, index)),
    };
    at.unwrap_or(written.name.at)
}

fn engine_spec(written: &PolicyConfig, sets: &[&OriginSetConfig]) -> engine::PolicySpec {
    let set = |set: &&OriginSetConfig| engine::OriginSetSpec {
        name: set.name.value.to_string(),
        origins: texts(&set.origins),
    };
    let preset = written.preset.map(|preset| preset.value.lists());
    engine::PolicySpec {
        allow_origins: texts(&written.allow_origins),
        origin_sets: sets.iter().map(set).collect(),
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
        },
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
