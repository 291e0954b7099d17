//! What a policy is made from: plain text and numbers, as somebody wrote them, and what compiling them may find wrong.
//!
//! Nothing here is checked. [`Template::compile`](crate::Template::compile) turns a [`PolicySpec`] into a policy or
//! into every mistake in it, each with its [`Place`]. Files, lines and columns are absent on purpose: whoever read the
//! file maps a place back to them.

/// The plain input of a policy. A default one allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySpec {
    /// Origins and origin patterns.
    pub allow_origins: Vec<String>,
    /// Named sets of origins, merged with `allow_origins`.
    pub origin_sets: Vec<OriginSetSpec>,
    /// Regular expressions that must match a whole origin.
    pub allow_origin_regexes: Vec<String>,
    /// Methods a preflight may ask for, or `*`.
    pub allow_methods: Vec<String>,
    /// Request header names a preflight may ask for, or `*`.
    pub allow_headers: Vec<String>,
    /// Response header names a page may read, or `*`.
    pub expose_headers: Vec<String>,
    /// Whether a page may send and receive with cookies and other credentials.
    pub allow_credentials: bool,
    /// How long a browser may keep a preflight's answer, in seconds.
    pub max_age_seconds: u32,
    /// What an allowed preflight tells of the lists.
    pub disclosure: Disclosure,
    /// The switches that weaken safety.
    pub dangerously: Dangerously,
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
            allow_credentials: false,
            max_age_seconds: MAX_AGE_SECONDS_DEFAULT,
            disclosure: Disclosure::Full,
            dangerously: Dangerously::default(),
        }
    }
}

/// The max-age of a policy that names none, in seconds: the most WebKit keeps.
pub const MAX_AGE_SECONDS_DEFAULT: u32 = 600;

/// A named set of origins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginSetSpec {
    /// The name of the set, for messages.
    pub name: String,
    /// Origins and origin patterns.
    pub origins: Vec<String>,
}

/// What an allowed preflight tells of the policy's methods and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disclosure {
    /// The whole lists: rendered once, and good for the browser's preflight cache.
    #[default]
    Full,
    /// Only what was asked for.
    Minimal,
}

/// Switches that each turn off one refusal at compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dangerously {
    /// Accept the entry `null`; never together with credentials.
    pub allow_null: bool,
    /// Accept plain `http` origins other than loopback together with credentials.
    pub allow_insecure_origins: bool,
    /// Accept a star directly over a public suffix together with credentials.
    pub allow_public_suffixes: bool,
    /// Accept a regular expression that lets strangers in together with credentials.
    pub allow_any_origin: bool,
}

/// Which part of a [`PolicySpec`] a [`Problem`] is about. Numbers are indices in the lists of the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The policy as a whole.
    Policy,
    /// An element of `allow_origins`, or of a tenant's own origins.
    AllowOrigins(usize),
    /// An element of one of the `origin_sets`.
    OriginSet {
        /// Which set.
        set: usize,
        /// Which element of it.
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
}

/// One mistake or one warning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What it is about.
    pub place: Place,
    /// What is wrong and what would be accepted: lower case, no full stop.
    pub message: String,
}

/// Something compiled, and what is doubtful about it.
#[derive(Debug, Clone)]
pub struct Compiled<T> {
    /// The compiled value.
    pub value: T,
    /// Doubts that do not stand in the way.
    pub warnings: Vec<Problem>,
}

/// Collects what a compilation finds, in the order it finds it.
#[derive(Default)]
pub(crate) struct Findings {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings {
    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>) {
        self.errors.push(Problem { place, message: message.into() });
    }

    pub(crate) fn warn(&mut self, place: Place, message: impl Into<String>) {
        self.warnings.push(Problem { place, message: message.into() });
    }

    /// The value with its warnings, or every error.
    pub(crate) fn conclude<T>(self, value: T) -> Result<Compiled<T>, Vec<Problem>> {
        if self.errors.is_empty() { Ok(Compiled { value, warnings: self.warnings }) } else { Err(self.errors) }
    }
}
