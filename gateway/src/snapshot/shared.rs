//! What tenants share: upstreams, and policies compiled once each.
//!
//! A policy is a template that tenants extend by their own origins; its tables and header values exist once. One that says the same
//! as in the snapshot before is the same object, which is how tenants tell that nothing they depend on has changed. A policy
//! with mistakes is still there, without its lists, so that the origins of its tenants are judged in the same run.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ahash::{AHashMap, AHashSet};
use crossgate_policy as engine;
use engine::{Policy, Template};

use crate::config::diagnostics::{Diagnostic, Diagnostics};
use crate::config::model::{
    At, Disclosure, Located, Main, Mode, OriginSetSpec, PolicySpec, Text, UnmatchedRequests, UpstreamSpec,
};
use crate::config::{Kind, shown, similar};
use crate::metrics::Metrics;
use crate::scripts::Scripts;
use crate::tenant::{Tenant, Upstream};
use crate::upstream::UpstreamTls;
use crate::verdicts::LiveRule;

use super::rules::{Rejected, Rules};

/// A compiled policy, before any tenant's origins.
#[derive(Debug)]
pub struct SharedPolicy {
    /// What it is called.
    pub name: Arc<str>,
    pub(super) template: Arc<Template>,
    pub(super) unmatched_requests: UnmatchedRequests,
    pub(super) mode: Mode,
    /// For tenants that add no origins.
    pub(super) plain: OnceLock<Arc<Policy>>,
    /// Whether it stands for a policy that could not be compiled.
    pub(super) broken: bool,
    /// Its rule, and what has been learnt of it.
    pub(super) rule: Option<Arc<LiveRule>>,
    spec: engine::PolicySpec,
}

/// Upstreams and policies by name.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(super) upstreams: AHashMap<Box<str>, Arc<Upstream>>,
    pub(super) policies: AHashMap<Box<str>, Arc<SharedPolicy>>,
}

/// What the main file names, and other files have.
pub(crate) struct Sources<'a> {
    pub(crate) scripts: &'a Scripts,
    /// By the upstream.
    pub(crate) tls: &'a AHashMap<Box<str>, Arc<UpstreamTls>>,
}

impl Shared {
    /// Compiles what the main file shares out, reusing what `previous` has. An upstream whose `tls` is not there is a mistake that was told.
    pub(crate) fn compile(
        main: &Main,
        file: &Path,
        Sources { scripts, tls }: Sources<'_>,
        previous: Option<&super::Snapshot>,
        metrics: &Metrics,
        rejected: &mut Vec<Rejected>,
        found: &mut Diagnostics,
    ) -> Self {
        let previous = previous.map(|snapshot| &snapshot.shared);
        let sets = main.origin_sets.iter().map(|set| (set.name.value.clone(), set)).collect();
        let copies = main.settings.runtime.threads.count();
        let rules = Rules { scripts, file, copies, verdicts: &metrics.verdicts, rejected };
        let mut compiler = Compiler { file, sets, rules, previous, found };
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
        Shared { upstreams, policies }
    }

    /// Warns about what nobody uses.
    pub(super) fn warn_unused(main: &Main, file: &Path, tenants: &[Arc<Tenant>], found: &mut Diagnostics) {
        let routes = || tenants.iter().flat_map(|tenant| tenant.routes.iter().chain(&tenant.fallback));
        let policies: AHashSet<&str> = routes().map(|route| &*route.policy_name).collect();
        let upstreams: AHashSet<&str> = routes().map(|route| &*route.upstream.name).collect();
        let sets: AHashSet<&str> =
            main.policies.iter().flat_map(|policy| &policy.allow_origin_sets).map(|set| &*set.value).collect();
        let mut warn = |kind: Kind, name: &Text, used: &AHashSet<&str>| {
            if !used.contains(&*name.value) {
                let message =
                    format!("nothing uses the {} {}; remove it, or name it somewhere", kind.one(), shown(&name.value));
                found.push(Diagnostic::warning(file, name.at, message));
            }
        };
        main.upstreams.iter().for_each(|upstream| warn(Kind::Upstream, &upstream.name, &upstreams));
        main.origin_sets.iter().for_each(|set| warn(Kind::OriginSet, &set.name, &sets));
        main.policies.iter().for_each(|policy| warn(Kind::Policy, &policy.name, &policies));
    }
}

/// What a name stands for, or a message that says it stands for nothing, with a guess unless there are many findings already.
pub(super) fn resolve<'a, T>(
    known: &'a AHashMap<Box<str>, T>,
    kind: Kind,
    name: &str,
    found: &Diagnostics,
) -> Result<&'a T, String> {
    known.get(name).ok_or_else(|| {
        let guess = || similar(name, known.keys().map(|known| &**known));
        let hint = match found.wants_guesses().then(guess).flatten() {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("define it under {}, or name one that is there", kind.key()),
        };
        format!("there is no {} {}; {hint}", kind.one(), shown(name))
    })
}

struct Compiler<'a> {
    file: &'a Path,
    sets: AHashMap<Box<str>, &'a OriginSetSpec>,
    rules: Rules<'a>,
    previous: Option<&'a Shared>,
    found: &'a mut Diagnostics,
}

impl<'a> Compiler<'a> {
    fn policy(&mut self, written: &PolicySpec) -> Arc<SharedPolicy> {
        let sets = self.sets_of(written);
        let spec = engine_spec(written, &sets);
        self.warn_report(written);
        let old = self.previous.and_then(|shared| shared.policies.get(&written.name.value));
        let rule = self.rules.rule(written, &spec, old.and_then(|old| old.rule.as_ref()), self.found);
        match old.filter(|old| old.says(&spec, written, rule.as_ref())) {
            Some(same) => Arc::clone(same),
            None => self.compile(written, spec, rule, &sets),
        }
    }

    fn compile(
        &mut self,
        written: &PolicySpec,
        spec: engine::PolicySpec,
        rule: Option<Arc<LiveRule>>,
        sets: &[&OriginSetSpec],
    ) -> Arc<SharedPolicy> {
        let asked = rule.as_ref().map(|live| Arc::clone(&live.rule));
        // A rule that could not be found is a mistake of its own, told already.
        let lacks_rule = written.rule.is_some() && rule.is_none();
        let (template, broken) = match Template::compile_with_rule(&spec, asked) {
            Ok(compiled) => {
                self.report(written, sets, compiled.warnings, Diagnostic::warning);
                (compiled.value, lacks_rule)
            }
            Err(problems) => {
                self.report(written, sets, problems, Diagnostic::error);
                (bare(&spec), true)
            }
        };
        Arc::new(SharedPolicy {
            name: Arc::from(&*written.name.value),
            template: Arc::new(template),
            unmatched_requests: written.unmatched_requests,
            mode: written.mode.value,
            plain: OnceLock::new(),
            broken,
            rule,
            spec,
        })
    }

    fn report(
        &mut self,
        written: &PolicySpec,
        sets: &[&OriginSetSpec],
        problems: Vec<engine::Problem>,
        diagnostic: fn(&Path, At, String) -> Diagnostic,
    ) {
        for problem in problems {
            self.found.push(diagnostic(self.file, place(written, sets, problem.place), problem.message));
        }
    }

    /// The sets a policy names, those that exist.
    fn sets_of(&mut self, written: &PolicySpec) -> Vec<&'a OriginSetSpec> {
        let mut sets = Vec::new();
        for name in &written.allow_origin_sets {
            match resolve(&self.sets, Kind::OriginSet, &name.value, self.found) {
                Ok(set) => sets.push(*set),
                Err(message) => self.found.push(Diagnostic::error(self.file, name.at, message)),
            }
        }
        sets
    }

    fn warn_report(&mut self, written: &PolicySpec) {
        if written.mode.value == Mode::Report {
            let message = "a policy in Report mode protects nothing: it only counts and logs; write Enforce once that looks right";
            self.found.push(Diagnostic::warning(self.file, written.mode.at, message));
        }
    }
}

impl SharedPolicy {
    fn says(&self, spec: &engine::PolicySpec, written: &PolicySpec, rule: Option<&Arc<LiveRule>>) -> bool {
        let rest = self.mode == written.mode.value && self.unmatched_requests == written.unmatched_requests;
        let same_rule = self.rule.as_ref().map(Arc::as_ptr) == rule.map(Arc::as_ptr);
        rest && same_rule && !self.broken && self.spec == *spec
    }
}

/// A template with the switches of a policy and none of its lists, which nothing can be wrong with.
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

/// Where in the file a place in the engine's spec is.
fn place(written: &PolicySpec, sets: &[&OriginSetSpec], place: engine::Place) -> At {
    let nth = |texts: &[Text], index: usize| texts.get(index).map(|text| text.at);
    let at = match place {
        engine::Place::Policy => None,
        engine::Place::AllowOrigins(index) => nth(&written.allow_origins, index),
        engine::Place::OriginSet { set, index } => sets.get(set).and_then(|set| nth(&set.origins, index)),
        engine::Place::AllowOriginRegexes(index) => nth(&written.allow_origin_regexes, index),
        engine::Place::AllowMethods(index) => nth(&written.allow_methods, index),
        engine::Place::AllowHeaders(index) => nth(&written.allow_headers, index),
        engine::Place::ExposeHeaders(index) => nth(&written.expose_headers, index),
        engine::Place::AllowCredentials => Some(written.allow_credentials.at),
        engine::Place::MaxAge => Some(written.max_age.at),
        engine::Place::Rule => written.rule.as_ref().map(|rule| rule.script.at),
        engine::Place::RuleHeaders(index) => written.rule.as_ref().and_then(|rule| nth(&rule.headers, index)),
    };
    at.unwrap_or(written.name.at)
}

fn engine_spec(written: &PolicySpec, sets: &[&OriginSetSpec]) -> engine::PolicySpec {
    let set =
        |set: &&OriginSetSpec| engine::OriginSetSpec { name: set.name.value.to_string(), origins: texts(&set.origins) };
    engine::PolicySpec {
        allow_origins: texts(&written.allow_origins),
        origin_sets: sets.iter().map(set).collect(),
        allow_origin_regexes: texts(&written.allow_origin_regexes),
        allow_methods: texts(&written.allow_methods),
        allow_headers: texts(&written.allow_headers),
        expose_headers: texts(&written.expose_headers),
        allow_credentials: written.allow_credentials.value,
        max_age_seconds: written.max_age.value,
        disclosure: match written.disclosure {
            Disclosure::Full => engine::Disclosure::Full,
            Disclosure::Minimal => engine::Disclosure::Minimal,
        },
        dangerously: engine::Dangerously {
            allow_null: written.dangerously.allow_null,
            allow_insecure_origins: written.dangerously.allow_insecure_origins,
            allow_public_suffixes: written.dangerously.allow_public_suffixes,
            allow_any_origin: written.dangerously.allow_any_origin,
        },
    }
}

/// The texts without their places.
pub(super) fn texts(located: &[Located<Box<str>>]) -> Vec<String> {
    located.iter().map(|text| text.value.to_string()).collect()
}
