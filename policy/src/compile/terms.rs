//! Compiles the terms of a policy and of each of its groups: lists, credentials and max-age, with
//! the header values that say so.

use http::HeaderValue;

use super::lists;
use crate::group::{GROUPS_MAX, GroupId};
use crate::headers::{DisclosedList, RenderedHeaders};
use crate::names::NameSet;
use crate::origin::pattern::quoted_message;
use crate::origin::risk::EntryRestrictions;
use crate::policy::AllowedMethods;
use crate::policy::refusal::SAFELISTED;
use crate::policy::terms::{OriginGroup, OriginTerms, TermsTable};
use crate::request_headers::AllowedHeaders;
use crate::spec::{CompileFindings, Disclosure, GroupSpec, PolicySpec, SpecLocation};

/// The longest max-age, in seconds: the longest time that Firefox caches a preflight.
const MAX_AGE_SECONDS_MAX: u32 = 86_400;

/// The longest name of a group, in bytes.
const GROUP_NAME_LEN_MAX: usize = 64;

/// The terms of a policy or of one group, as configured.
struct TermsSpec<'a> {
    methods: TermList<'a>,
    headers: TermList<'a>,
    exposed: TermList<'a>,
    credentials: bool,
    max_age_seconds: u32,
    is_max_age_inherited: bool,
    policy: &'a PolicySpec,
}

/// A list, and whether a group has it from its policy, so that its mistakes are reported there.
#[derive(Clone, Copy)]
struct TermList<'a> {
    names: &'a [String],
    is_inherited: bool,
}

impl<'a> TermList<'a> {
    fn own(names: &'a [String]) -> Self {
        Self { names, is_inherited: false }
    }

    fn of_group(own: Option<&'a Vec<String>>, inherited: &'a [String]) -> Self {
        own.map_or(Self { names: inherited, is_inherited: true }, |names| Self::own(names))
    }

    /// Compiles the list, and keeps findings about an inherited one for itself.
    fn compile<T>(
        self,
        findings: &mut CompileFindings,
        compile: impl FnOnce(&'a [String], &mut CompileFindings) -> T,
    ) -> T {
        if self.is_inherited {
            compile(self.names, &mut CompileFindings::default())
        } else {
            compile(self.names, findings)
        }
    }
}

/// Compiles all terms of a policy.
pub(super) fn compile(spec: &PolicySpec, findings: &mut CompileFindings) -> TermsTable {
    let base = TermsSpec {
        methods: TermList::own(&spec.allow_methods),
        headers: TermList::own(&spec.allow_headers),
        exposed: TermList::own(&spec.expose_headers),
        credentials: spec.allow_credentials,
        max_age_seconds: spec.max_age_seconds,
        is_max_age_inherited: false,
        policy: spec,
    };
    let base = base.compile(findings);
    let groups = spec.groups.iter().take(GROUPS_MAX).enumerate();
    let groups = groups.map(|(index, group)| {
        let findings = findings.within(GroupId::of_index(index));
        check_name(spec, index, group, findings);
        OriginGroup {
            name: group.name.as_str().into(),
            terms: TermsSpec::of_group(spec, group).compile(findings),
            is_open: group.tenants_may_add,
        }
    });
    let groups = groups.collect();
    findings.within(GroupId::BASE);
    if spec.groups.len() > GROUPS_MAX {
        findings.error(SpecLocation::Policy, format!("has too many groups, expected at most {GROUPS_MAX}"));
    }
    TermsTable { base, groups }
}

/// Returns the restrictions for the entries of each group, the policy's own first.
pub(super) fn restrictions(spec: &PolicySpec) -> impl Iterator<Item = EntryRestrictions> {
    let groups = spec.groups.iter().map(|group| group.allow_credentials.unwrap_or(spec.allow_credentials));
    let all = std::iter::once(spec.allow_credentials).chain(groups);
    all.map(|credentials| EntryRestrictions { credentials, dangerously: spec.dangerously })
}

fn check_name(spec: &PolicySpec, index: usize, group: &GroupSpec, findings: &mut CompileFindings) {
    let name = group.name.as_str();
    let is_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > GROUP_NAME_LEN_MAX || !name.bytes().all(is_byte) {
        let why =
            format!("is not the name of a group, expected 1 to {GROUP_NAME_LEN_MAX} letters, digits, `-`, `_` or `.`");
        findings.error(SpecLocation::Group, quoted_message(name, &why));
    }
    if spec.groups.iter().take(index).any(|earlier| earlier.name == name) {
        findings
            .error(SpecLocation::Group, quoted_message(name, "is the name of a group already, expected another one"));
    }
}

impl<'a> TermsSpec<'a> {
    fn of_group(policy: &'a PolicySpec, group: &'a GroupSpec) -> Self {
        Self {
            methods: TermList::of_group(group.allow_methods.as_ref(), &policy.allow_methods),
            headers: TermList::of_group(group.allow_headers.as_ref(), &policy.allow_headers),
            exposed: TermList::of_group(group.expose_headers.as_ref(), &policy.expose_headers),
            credentials: group.allow_credentials.unwrap_or(policy.allow_credentials),
            max_age_seconds: group.max_age_seconds.unwrap_or(policy.max_age_seconds),
            is_max_age_inherited: group.max_age_seconds.is_none(),
            policy,
        }
    }

    fn compile(&self, findings: &mut CompileFindings) -> OriginTerms {
        let credentials = self.credentials;
        let methods = self.methods.compile(findings, lists::methods);
        let headers =
            self.headers.compile(findings, |names, findings| lists::request_headers(names, credentials, findings));
        let exposed = self.exposed.compile(findings, lists::exposed);
        self.check_inherited_star(&headers, findings);
        self.check_exposed_star(findings);
        self.check_max_age(findings);
        let rendered = RenderedHeaders {
            methods: self.disclose_methods(&methods),
            methods_if_refused: self.disclose_methods_if_refused(&methods),
            headers: self.disclose_headers(&headers),
            disclosure: self.policy.disclosure,
            max_age_seconds: self.max_age_seconds,
            max_age: HeaderValue::from(self.max_age_seconds),
            exposed,
            expose_on_preflights: self.policy.expose_on_preflights,
            preflight_lines: None,
        };
        let restrictions = EntryRestrictions { credentials, dangerously: self.policy.dangerously };
        OriginTerms { restrictions, methods, headers, rendered: rendered.with_preflight_lines(credentials) }
    }

    /// Warns about a `*` that covers less in this group than in its policy, which has credentials.
    fn check_inherited_star(&self, headers: &AllowedHeaders, findings: &mut CompileFindings) {
        let is_narrower = self.headers.is_inherited && self.policy.allow_credentials;
        if is_narrower && matches!(headers, AllowedHeaders::AllButAuthorization) {
            let why = "`authorization` is not covered by the policy's `*` without credentials, expected `allowHeaders` in \
                       the group if it is allowed";
            findings.warn(SpecLocation::Group, why);
        }
    }

    // https://fetch.spec.whatwg.org/#cors-protocol-and-credentials: with credentials, browsers take
    // `*` for the header named `*`.
    fn check_exposed_star(&self, findings: &mut CompileFindings) {
        let star = self.exposed.names.iter().position(|name| name == "*");
        if let Some(star) = star.filter(|_| self.credentials) {
            let place = if self.exposed.is_inherited { SpecLocation::Group } else { SpecLocation::ExposeHeaders(star) };
            let why = "`*` exposes nothing when credentials are allowed, expected the names themselves";
            findings.error(place, why);
        }
    }

    fn check_max_age(&self, findings: &mut CompileFindings) {
        let seconds = self.max_age_seconds;
        if seconds > MAX_AGE_SECONDS_MAX && !self.is_max_age_inherited {
            let why = format!("{seconds} seconds is too long, expected 0 to {MAX_AGE_SECONDS_MAX}");
            findings.error(SpecLocation::MaxAge, why);
        }
    }

    // https://fetch.spec.whatwg.org/#cors-protocol-and-credentials: with credentials `*` is not a
    // wildcard, so the response names the requested method or headers instead.
    fn disclose_methods(&self, methods: &AllowedMethods) -> DisclosedList {
        match methods {
            AllowedMethods::Only(names) => self.disclose(names),
            AllowedMethods::All if self.credentials => DisclosedList::Echo,
            AllowedMethods::All => self.disclose_text("*".to_owned()),
        }
    }

    /// Renders the list for a refused method. It is never empty and has no `*`, so it cannot cover
    /// the method.
    fn disclose_methods_if_refused(&self, methods: &AllowedMethods) -> HeaderValue {
        match (methods, self.policy.disclosure) {
            (AllowedMethods::Only(names), Disclosure::Full) if !names.is_empty() => {
                HeaderValue::try_from(names.joined()).unwrap_or_else(|_| SAFELISTED.clone())
            }
            (AllowedMethods::Only(_) | AllowedMethods::All, Disclosure::Full | Disclosure::Minimal) => {
                SAFELISTED.clone()
            }
        }
    }

    fn disclose_headers(&self, headers: &AllowedHeaders) -> DisclosedList {
        match headers {
            AllowedHeaders::Only(names) => self.disclose(names),
            AllowedHeaders::All if self.credentials => DisclosedList::Echo,
            // https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name
            AllowedHeaders::All => self.disclose_text("*,authorization".to_owned()),
            AllowedHeaders::AllButAuthorization => self.disclose_text("*".to_owned()),
        }
    }

    fn disclose(&self, names: &NameSet) -> DisclosedList {
        if names.is_empty() { DisclosedList::Nothing } else { self.disclose_text(names.joined()) }
    }

    fn disclose_text(&self, text: String) -> DisclosedList {
        match self.policy.disclosure {
            // Names are tokens, and every token is a valid field value.
            Disclosure::Full => HeaderValue::try_from(text).map_or(DisclosedList::Nothing, DisclosedList::Whole),
            Disclosure::Minimal => DisclosedList::Echo,
        }
    }
}
