//! The input of a policy, as plain text and numbers, and the problems that compiling it reports.
//!
//! Nothing here is checked. [`Template::compile`](crate::Template::compile) turns a [`PolicySpec`]
//! into a policy or returns every mistake in it, each with its [`SpecLocation`]. Files, lines and
//! columns are absent on purpose: the reader of the file maps a location back to them.

use crate::group::GroupId;

/// The plain input of a policy. The default value allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySpec {
    /// Origins and origin patterns.
    pub allow_origins: Vec<String>,
    /// Named sets of origins, merged with `allow_origins`.
    pub origin_sets: Vec<OriginSetSpec>,
    /// Regular expressions. Each must match the whole origin.
    pub allow_origin_regexes: Vec<String>,
    /// Methods that a preflight may request, or `*`.
    pub allow_methods: Vec<String>,
    /// Request header names that a preflight may request, or `*`.
    pub allow_headers: Vec<String>,
    /// Response header names that a page may read, or `*`.
    pub expose_headers: Vec<String>,
    /// Whether responses to preflights also have the list of exposed headers. Browsers ignore it
    /// there; some conformance tests ask for it.
    pub expose_on_preflights: bool,
    /// Whether a page may send requests with cookies and other credentials and read the responses.
    pub allow_credentials: bool,
    /// The time that a browser may cache a preflight's response, in seconds: 0 to 86,400.
    pub max_age_seconds: u32,
    /// The part of the method and header lists that an allowed preflight discloses.
    pub disclosure: Disclosure,
    /// The terms for requests from other sites.
    pub cross_site: CrossSiteTerms,
    /// The switches that weaken a protection.
    pub dangerously: DangerousSwitches,
    /// Origins with terms of their own, at most [`GROUPS_MAX`](crate::GROUPS_MAX) groups.
    pub groups: Vec<GroupSpec>,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            origin_sets: Vec::new(),
            allow_origin_regexes: Vec::new(),
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            expose_on_preflights: false,
            allow_credentials: false,
            max_age_seconds: MAX_AGE_SECONDS_DEFAULT,
            disclosure: Disclosure::Full,
            cross_site: CrossSiteTerms::default(),
            dangerously: DangerousSwitches::default(),
            groups: Vec::new(),
        }
    }
}

/// A group: origins that get terms of their own. A term replaces the policy's; `None` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupSpec {
    /// The name, for rules, tenants and reports.
    pub name: String,
    /// Origins and origin patterns.
    pub allow_origins: Vec<String>,
    /// Named sets of origins, merged with `allow_origins`.
    pub origin_sets: Vec<OriginSetSpec>,
    /// Regular expressions. Each must match the whole origin.
    pub allow_origin_regexes: Vec<String>,
    /// As [`PolicySpec::allow_methods`].
    pub allow_methods: Option<Vec<String>>,
    /// As [`PolicySpec::allow_headers`].
    pub allow_headers: Option<Vec<String>>,
    /// As [`PolicySpec::expose_headers`].
    pub expose_headers: Option<Vec<String>>,
    /// As [`PolicySpec::allow_credentials`].
    pub allow_credentials: Option<bool>,
    /// As [`PolicySpec::max_age_seconds`].
    pub max_age_seconds: Option<u32>,
    /// Whether tenants may add origins to the group.
    pub tenants_may_add: bool,
}

/// One of a tenant's own origins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnOriginSpec {
    /// The origin or origin pattern.
    pub origin: String,
    /// The name of the group that it is added to. `None` gives it the policy's own terms.
    pub group: Option<String>,
}

/// The default max-age of a policy, in seconds: the longest time that WebKit caches a preflight.
pub const MAX_AGE_SECONDS_DEFAULT: u32 = 600;

/// A named set of origins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginSetSpec {
    /// The name of the set, for messages.
    pub name: String,
    /// Origins and origin patterns.
    pub origins: Vec<String>,
}

/// The part of the policy's method and header lists that an allowed preflight discloses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disclosure {
    /// The whole lists. They are rendered once, and the browser's preflight cache can reuse them.
    #[default]
    Full,
    /// Only the requested method and headers.
    Minimal,
}

/// Whether a policy refuses requests from other sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrossSiteProtection {
    /// Nothing is checked.
    #[default]
    Off,
    /// Requests are checked, and pass whatever the result is.
    Report,
    /// Requests are checked, and refused.
    Protect,
}

/// Which `GET` and `HEAD` requests from other sites pass, if their origin is absent or not covered.
/// The loosest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum CrossSiteReads {
    /// All.
    #[default]
    Allow,
    /// Navigations of a whole tab or window.
    NavigationsOnly,
    /// None.
    Deny,
}

/// Whether navigations from other sites with methods other than `GET` and `HEAD` pass: form posts,
/// as single sign-on and payments use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrossSiteNavigations {
    /// They are refused.
    #[default]
    Deny,
    /// They pass, without CORS fields on their responses.
    Allow,
}

/// The terms of a policy for requests from other sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrossSiteTerms {
    /// Whether requests are checked and refused.
    pub protection: CrossSiteProtection,
    /// Which reads pass.
    pub reads: CrossSiteReads,
}

impl CrossSiteTerms {
    /// Whether a read may be refused, so that its response depends on Fetch Metadata.
    pub(crate) fn refuses_reads(self) -> bool {
        self.protection == CrossSiteProtection::Protect && self.reads != CrossSiteReads::Allow
    }
}

/// Switches that each turn off one refusal when a policy is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DangerousSwitches {
    /// Accept the entry `null`. Together with credentials it is refused in any case.
    pub allow_null: bool,
    /// Accept plain `http` origins other than loopback together with credentials.
    pub allow_insecure_origins: bool,
    /// Accept a star directly under a public suffix together with credentials.
    pub allow_public_suffixes: bool,
    /// Accept `file://` and `app://.`, the origins of local files, together with credentials.
    pub allow_local_file_origins: bool,
    /// Accept a star for all extensions of a scheme together with credentials.
    pub allow_any_extension: bool,
    /// Accept a regular expression or a rule that allows unlisted origins together with
    /// credentials.
    pub allow_any_origin: bool,
    /// Accept `*` next to entries with credentials, without protection from requests of other
    /// sites.
    pub allow_cross_site: bool,
}

/// The part of a [`PolicySpec`] that a [`SpecProblem`] refers to. Numbers are indices into the
/// spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecLocation {
    /// The policy as a whole.
    Policy,
    /// An element of `allow_origins`, or of a tenant's own origins.
    AllowOrigins(usize),
    /// The group that an element of a tenant's own origins names.
    OwnGroup(usize),
    /// One of the `origin_sets`, as a whole.
    OriginSets(usize),
    /// An element of one of the `origin_sets`.
    OriginSet {
        /// The index of the set.
        set: usize,
        /// The index of the element in the set.
        index: usize,
    },
    /// An element of `allow_origin_regexes`.
    AllowOriginRegexes(usize),
    /// An element of `allow_methods`.
    AllowMethods(usize),
    /// An element of `allow_headers`.
    AllowHeaders(usize),
    /// An element of `expose_headers`.
    ExposeHeaders(usize),
    /// `allow_credentials`.
    AllowCredentials,
    /// `max_age_seconds`.
    MaxAge,
    /// The rule, or its script.
    Rule,
    /// A header field that the policy lists for its rule.
    RuleHeaders(usize),
    /// A group that the policy lists for its rule.
    RuleGroups(usize),
    /// A group as a whole, or its name.
    Group,
}

/// One mistake or one warning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecProblem {
    /// The group of the policy to which the location refers, as an index into its groups. `None`
    /// outside of groups.
    pub group: Option<usize>,
    /// The part of the spec that is wrong or doubtful.
    pub location: SpecLocation,
    /// The mistake and what would be accepted: lower case, no full stop.
    pub message: String,
}

/// A compiled value and the warnings about it.
#[derive(Debug, Clone)]
pub struct CompileOutput<T> {
    /// The compiled value.
    pub value: T,
    /// Problems that do not prevent the compilation.
    pub warnings: Vec<SpecProblem>,
}

/// Collects the errors and warnings of a compilation, in the order in which they are found.
#[derive(Default)]
pub(crate) struct CompileFindings {
    /// The group to which the next findings refer.
    group: Option<usize>,
    errors: Vec<SpecProblem>,
    warnings: Vec<SpecProblem>,
}

impl CompileFindings {
    /// Sets the group to which the locations of the next findings refer.
    pub(crate) fn within(&mut self, group: GroupId) -> &mut Self {
        self.group = group.index();
        self
    }

    pub(crate) fn error(&mut self, place: SpecLocation, message: impl Into<String>) {
        self.errors.push(SpecProblem { group: self.group, location: place, message: message.into() });
    }

    pub(crate) fn warn(&mut self, place: SpecLocation, message: impl Into<String>) {
        self.warnings.push(SpecProblem { group: self.group, location: place, message: message.into() });
    }

    /// Lets all findings refer to the policy as a whole, or to a tenant's origins, and to no group.
    pub(crate) fn outside_groups(mut self) -> Self {
        self.errors.iter_mut().chain(&mut self.warnings).for_each(|problem| problem.group = None);
        self
    }

    /// Returns the value with its warnings, or every error.
    pub(crate) fn conclude<T>(self, value: T) -> Result<CompileOutput<T>, Vec<SpecProblem>> {
        if self.errors.is_empty() { Ok(CompileOutput { value, warnings: self.warnings }) } else { Err(self.errors) }
    }
}
