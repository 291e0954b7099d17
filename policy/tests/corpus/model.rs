//! The corpus files, in the format that README.md describes.

use std::collections::BTreeMap;

use crossgate_policy::{
    CrossSiteNavigations, CrossSiteProtection, CrossSiteReads, CrossSiteTerms, DangerousSwitches, Disclosure,
    GroupSpec, OriginSetSpec, OwnOriginSpec, PolicySpec,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policies {
    pub(crate) templates: BTreeMap<String, PolicyText>,
    pub(crate) tenants: BTreeMap<String, Tenant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Tenant {
    pub(crate) policy: String,
    allow_origins: Vec<OwnOriginText>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub(crate) enum OwnOriginText {
    Plain(String),
    Grouped { group: String, origins: Vec<String> },
}

/// Returns a tenant's own origins as the engine takes them.
pub(crate) fn own_origins(texts: &[OwnOriginText]) -> Vec<OwnOriginSpec> {
    let specs = |text: &OwnOriginText| match text {
        OwnOriginText::Plain(origin) => vec![OwnOriginSpec { origin: origin.clone(), group: None }],
        OwnOriginText::Grouped { group, origins } => {
            let spec = |origin: &String| OwnOriginSpec { origin: origin.clone(), group: Some(group.clone()) };
            origins.iter().map(spec).collect()
        }
    };
    texts.iter().flat_map(specs).collect()
}

impl Tenant {
    pub(crate) fn own_origins(&self) -> Vec<OwnOriginSpec> {
        own_origins(&self.allow_origins)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct GroupText {
    name: String,
    allow_origins: Vec<String>,
    origin_sets: Vec<OriginSetText>,
    allow_origin_regexes: Vec<String>,
    allow_methods: Option<Vec<String>>,
    allow_headers: Option<Vec<String>>,
    expose_headers: Option<Vec<String>>,
    allow_credentials: Option<bool>,
    max_age: Option<u32>,
    tenants_may_add: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct PolicyText {
    allow_origins: Vec<String>,
    origin_sets: Vec<OriginSetText>,
    allow_origin_regexes: Vec<String>,
    allow_methods: Vec<String>,
    allow_headers: Vec<String>,
    expose_headers: Vec<String>,
    expose_on_preflights: bool,
    allow_credentials: bool,
    max_age: u32,
    disclosure: DisclosureText,
    pub(crate) unmatched_requests: UnmatchedRequests,
    pub(crate) preflight_failures: PreflightFailures,
    cross_site: CrossSiteText,
    pub(crate) cross_site_reads: CrossSiteReadsText,
    pub(crate) cross_site_navigations: CrossSiteNavigationsText,
    dangerously_allow_null: bool,
    dangerously_allow_insecure_origins: bool,
    dangerously_allow_public_suffixes: bool,
    dangerously_allow_local_file_origins: bool,
    dangerously_allow_any_extension: bool,
    dangerously_allow_any_origin: bool,
    dangerously_allow_cross_site: bool,
    groups: Vec<GroupText>,
}

impl Default for PolicyText {
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
            max_age: 600,
            disclosure: DisclosureText::Full,
            unmatched_requests: UnmatchedRequests::Reject,
            preflight_failures: PreflightFailures::Explain,
            cross_site: CrossSiteText::Off,
            cross_site_reads: CrossSiteReadsText::Allow,
            cross_site_navigations: CrossSiteNavigationsText::Deny,
            dangerously_allow_null: false,
            dangerously_allow_insecure_origins: false,
            dangerously_allow_public_suffixes: false,
            dangerously_allow_local_file_origins: false,
            dangerously_allow_any_extension: false,
            dangerously_allow_any_origin: false,
            dangerously_allow_cross_site: false,
            groups: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OriginSetText {
    name: String,
    origins: Vec<String>,
}

#[derive(Deserialize, Clone, Copy)]
enum DisclosureText {
    Full,
    Minimal,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
pub(crate) enum UnmatchedRequests {
    Reject,
    Forward,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
enum CrossSiteText {
    Off,
    Report,
    Protect,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Debug)]
pub(crate) enum CrossSiteReadsText {
    Allow,
    NavigationsOnly,
    Deny,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
pub(crate) enum CrossSiteNavigationsText {
    Deny,
    Allow,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
pub(crate) enum PreflightFailures {
    Explain,
    Reject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) title: String,
    #[serde(default, rename = "note")]
    _note: String,
    pub(crate) policy: String,
    pub(crate) request: RequestText,
    #[serde(default)]
    pub(crate) upstream: UpstreamText,
    pub(crate) expect: Expect,
    pub(crate) expect_over_tls: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestText {
    pub(crate) method: String,
    headers: Vec<(String, ValueText)>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ValueText {
    Plain(String),
    Repeated { repeat: String, times: usize },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamText {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Default for UpstreamText {
    fn default() -> Self {
        Self { status: 200, headers: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) kind: String,
    pub(crate) verdict: String,
    pub(crate) reason: String,
    /// The group whose terms apply, if it is not the policy itself.
    pub(crate) group: Option<String>,
    pub(crate) status: u16,
    pub(crate) upstream: usize,
    #[serde(default, rename = "http400")]
    _http400: bool,
    #[serde(default, rename = "http431")]
    _http431: bool,
    pub(crate) headers: BTreeMap<String, Lines>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Lines {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatternCase {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) policy: PolicyText,
    /// The origins that a tenant adds.
    #[serde(default)]
    pub(crate) own: Vec<OwnOriginText>,
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) warned: BTreeMap<String, String>,
}

/// The header fields of a request in bytes, as an HTTP parser gives them.
pub(crate) struct Headers(Vec<(String, Vec<u8>)>);

/// Reads one file of the corpus.
pub(crate) fn load<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/tests/corpus/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Bytes as the corpus writes them: one character per byte.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl PolicyText {
    pub(crate) fn spec(&self) -> PolicySpec {
        PolicySpec {
            allow_origins: self.allow_origins.clone(),
            origin_sets: sets(&self.origin_sets),
            allow_origin_regexes: self.allow_origin_regexes.clone(),
            allow_methods: self.allow_methods.clone(),
            allow_headers: self.allow_headers.clone(),
            expose_headers: self.expose_headers.clone(),
            expose_on_preflights: self.expose_on_preflights,
            allow_credentials: self.allow_credentials,
            max_age_seconds: self.max_age,
            disclosure: match self.disclosure {
                DisclosureText::Full => Disclosure::Full,
                DisclosureText::Minimal => Disclosure::Minimal,
            },
            cross_site: CrossSiteTerms {
                protection: match self.cross_site {
                    CrossSiteText::Off => CrossSiteProtection::Off,
                    CrossSiteText::Report => CrossSiteProtection::Report,
                    CrossSiteText::Protect => CrossSiteProtection::Protect,
                },
                reads: match self.cross_site_reads {
                    CrossSiteReadsText::Allow => CrossSiteReads::Allow,
                    CrossSiteReadsText::NavigationsOnly => CrossSiteReads::NavigationsOnly,
                    CrossSiteReadsText::Deny => CrossSiteReads::Deny,
                },
            },
            dangerously: DangerousSwitches {
                allow_null: self.dangerously_allow_null,
                allow_insecure_origins: self.dangerously_allow_insecure_origins,
                allow_public_suffixes: self.dangerously_allow_public_suffixes,
                allow_local_file_origins: self.dangerously_allow_local_file_origins,
                allow_any_extension: self.dangerously_allow_any_extension,
                allow_any_origin: self.dangerously_allow_any_origin,
                allow_cross_site: self.dangerously_allow_cross_site,
            },
            groups: self.groups.iter().map(GroupText::spec).collect(),
        }
    }
}

impl GroupText {
    fn spec(&self) -> GroupSpec {
        GroupSpec {
            name: self.name.clone(),
            allow_origins: self.allow_origins.clone(),
            origin_sets: sets(&self.origin_sets),
            allow_origin_regexes: self.allow_origin_regexes.clone(),
            allow_methods: self.allow_methods.clone(),
            allow_headers: self.allow_headers.clone(),
            expose_headers: self.expose_headers.clone(),
            allow_credentials: self.allow_credentials,
            max_age_seconds: self.max_age,
            tenants_may_add: self.tenants_may_add,
        }
    }
}

fn sets(texts: &[OriginSetText]) -> Vec<OriginSetSpec> {
    texts.iter().map(|set| OriginSetSpec { name: set.name.clone(), origins: set.origins.clone() }).collect()
}

impl PolicyText {
    pub(crate) fn navigations(&self) -> CrossSiteNavigations {
        match self.cross_site_navigations {
            CrossSiteNavigationsText::Deny => CrossSiteNavigations::Deny,
            CrossSiteNavigationsText::Allow => CrossSiteNavigations::Allow,
        }
    }
}

impl Case {
    /// The id and the title, for a failure message.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.id, self.title)
    }
}

impl PatternCase {
    /// The id and the title, for a failure message.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.id, self.title)
    }
}

impl RequestText {
    /// The fields as an HTTP parser gives them: without white space around a value.
    pub(crate) fn wire_headers(&self) -> Headers {
        let value = |value: &ValueText| match value {
            ValueText::Plain(text) => bytes(text),
            ValueText::Repeated { repeat, times } => bytes(repeat).repeat(*times),
        };
        Headers(
            self.headers.iter().map(|(name, text)| (name.to_ascii_lowercase(), trim(&value(text)).to_vec())).collect(),
        )
    }
}

impl UpstreamText {
    pub(crate) fn kept_headers(&self, keep: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
        let kept = self.headers.iter().filter(|(name, _)| keep(name));
        kept.map(|(name, value)| (name.to_ascii_lowercase(), bytes(value))).collect()
    }
}

impl Headers {
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.0.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_slice()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The host in canonical form, and the port.
    pub(crate) fn host(&self) -> (String, Option<u16>) {
        let host = self.all("host").first().map_or_else(|| "api.example.test".to_owned(), |host| latin1(host));
        let (host, port) = host.split_once(':').map_or((host.as_str(), None), |(host, port)| (host, Some(port)));
        (host.to_ascii_lowercase(), port.and_then(|port| port.parse().ok()))
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).unwrap_or_else(|_| panic!("{text}"))).collect()
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
