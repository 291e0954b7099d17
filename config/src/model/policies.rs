//! Origin sets, policies and tenants with their texts as written.

use std::sync::Arc;

use crossgate_policy::{CrossSiteNavigations, CrossSiteProtection, CrossSiteReads};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Located, Text};

/// The metric label of requests without a tenant, reserved as an id.
pub const NO_TENANT: &str = "none";

/// The metric label for the durations of tenants without their own histogram, reserved as an id.
pub const OTHER_TENANTS: &str = "other";

/// A named list of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSetConfig {
    pub name: Text,
    pub origins: Vec<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    pub name: Text,
    pub allow_origins: Vec<Text>,
    pub allow_origin_sets: Vec<Text>,
    pub allow_origin_regexes: Vec<Text>,
    pub allow_methods: Vec<Text>,
    pub allow_headers: Vec<Text>,
    pub expose_headers: Vec<Text>,
    pub expose_on_preflights: bool,
    pub preset: Option<Located<Preset>>,
    pub allow_credentials: Located<bool>,
    /// Seconds.
    pub max_age: Located<u32>,
    pub disclosure: DisclosureSetting,
    pub unmatched_requests: UnmatchedRequests,
    pub preflight_failures: PreflightFailures,
    pub cross_site: CrossSiteSetting,
    pub cross_site_reads: CrossSiteReadsSetting,
    /// `None` if the policy leaves it out.
    pub cross_site_navigations: Option<CrossSiteNavigationsSetting>,
    /// Which pages may read the timing of responses. `None` leaves the upstream's field.
    pub timing_allow_origins: Option<TimingAllowOrigins>,
    /// Which pages may embed responses. `None` leaves the upstream's field.
    pub cross_origin_resource_policy: Option<Located<ResourcePolicy>>,
    pub cookies: CookieWarnings,
    pub mode: Located<Mode>,
    /// The script for origins that no entry matches.
    pub rule: Option<RuleSpec>,
    pub dangerously: PolicyOverrides,
    pub groups: Vec<GroupConfig>,
}

/// Origins with terms of their own. A term that is `None` is the policy's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    pub name: Text,
    pub allow_origins: Vec<Text>,
    pub allow_origin_sets: Vec<Text>,
    pub allow_origin_regexes: Vec<Text>,
    pub allow_methods: Option<Vec<Text>>,
    pub allow_headers: Option<Vec<Text>>,
    pub expose_headers: Option<Vec<Text>>,
    pub allow_credentials: Option<Located<bool>>,
    /// Seconds.
    pub max_age: Option<Located<u32>>,
    pub tenants_may_add: bool,
}

/// One of a tenant's own origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnOriginConfig {
    pub origin: Text,
    /// The name of the group that it is added to.
    pub group: Option<Arc<Text>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// The file name of the script in the scripts directory.
    pub script: Text,
    /// Header fields that the script may read, in lower case.
    pub headers: Vec<Text>,
    /// Query keys that the script may read.
    pub query: Vec<Text>,
    /// Groups of the policy that the script may answer.
    pub groups: Vec<Text>,
}

/// The methods and headers of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Preset {
    /// gRPC-web.
    GrpcWeb,
    /// The Model Context Protocol over streamable HTTP. Headers of the form `Mcp-Param-*` have
    /// names of the server's own, so list them in `allowHeaders`.
    Mcp,
}

/// The names that a preset adds to the lists of its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresetLists {
    pub methods: &'static [&'static str],
    pub request_headers: &'static [&'static str],
    pub exposed_headers: &'static [&'static str],
}

/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>.
const GRPC_WEB: PresetLists = PresetLists {
    methods: &["POST"],
    request_headers: &["content-type", "x-grpc-web", "x-user-agent", "grpc-timeout"],
    exposed_headers: &["grpc-status", "grpc-message", "grpc-status-details-bin"],
};

/// Source: <https://modelcontextprotocol.io/specification>, transports.
const MCP: PresetLists = PresetLists {
    methods: &["GET", "POST", "DELETE"],
    request_headers: &[
        "content-type",
        "authorization",
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "last-event-id",
    ],
    exposed_headers: &["mcp-session-id", "mcp-protocol-version", "www-authenticate"],
};

impl Preset {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::GrpcWeb => "GrpcWeb",
            Preset::Mcp => "Mcp",
        }
    }

    /// What the preset adds.
    pub fn lists(self) -> PresetLists {
        match self {
            Preset::GrpcWeb => GRPC_WEB,
            Preset::Mcp => MCP,
        }
    }
}

/// How much of its lists a policy discloses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "Disclosure")]
pub enum DisclosureSetting {
    /// The whole lists.
    Full,
    /// Only what the preflight requested.
    Minimal,
}

/// What happens to requests from origins that are not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum UnmatchedRequests {
    /// The gateway responds with 403.
    Reject,
    /// The upstream responds, without CORS headers. Single sign-on callbacks and payment returns
    /// need it.
    Forward,
}

/// The response to a preflight from an allowed origin whose method or header is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PreflightFailures {
    /// 204 with CORS headers. The browser names the method or header in its console and blocks the
    /// request.
    Explain,
    /// 403 without CORS headers.
    Reject,
}

/// Whether requests from other sites that no CORS check precedes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "CrossSite")]
pub enum CrossSiteSetting {
    /// They are not checked.
    Off,
    /// They are checked and counted, and pass.
    Report,
    /// They get 403 if no entry covers their origin.
    Protect,
}

/// Whether cookies that browsers would not send back are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "Cookies")]
pub enum CookieWarnings {
    /// They are not looked at.
    Off,
    /// Responses are counted that set a cookie for a page of another site which cannot send it
    /// back.
    Warn,
}

/// Which GET and HEAD requests from other sites pass, if no entry covers their origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "CrossSiteReads")]
pub enum CrossSiteReadsSetting {
    /// All.
    Allow,
    /// Navigations of a whole tab or window: a link that a user follows, but no frame, image or
    /// fetch.
    NavigationsOnly,
    /// None.
    Deny,
}

/// Whether form posts from other sites pass: SAML, OpenID Connect with `form_post`, the return
/// from a payment page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "CrossSiteNavigations")]
pub enum CrossSiteNavigationsSetting {
    /// They get 403.
    Deny,
    /// They reach the upstream. Responses have no CORS headers.
    Allow,
}

impl From<CrossSiteSetting> for CrossSiteProtection {
    fn from(setting: CrossSiteSetting) -> Self {
        match setting {
            CrossSiteSetting::Off => CrossSiteProtection::Off,
            CrossSiteSetting::Report => CrossSiteProtection::Report,
            CrossSiteSetting::Protect => CrossSiteProtection::Protect,
        }
    }
}

impl From<CrossSiteReadsSetting> for CrossSiteReads {
    fn from(setting: CrossSiteReadsSetting) -> Self {
        match setting {
            CrossSiteReadsSetting::Allow => CrossSiteReads::Allow,
            CrossSiteReadsSetting::NavigationsOnly => CrossSiteReads::NavigationsOnly,
            CrossSiteReadsSetting::Deny => CrossSiteReads::Deny,
        }
    }
}

impl From<CrossSiteNavigationsSetting> for CrossSiteNavigations {
    fn from(setting: CrossSiteNavigationsSetting) -> Self {
        match setting {
            CrossSiteNavigationsSetting::Deny => CrossSiteNavigations::Deny,
            CrossSiteNavigationsSetting::Allow => CrossSiteNavigations::Allow,
        }
    }
}

/// Which pages may read the timing of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimingAllowOrigins {
    /// The page of an allowed request.
    Same,
    /// All pages.
    Any,
    /// The pages of these origins.
    Listed(Vec<Box<str>>),
}

/// Which pages may embed a response: `Cross-Origin-Resource-Policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResourcePolicy {
    /// Pages of the API's own origin.
    SameOrigin,
    /// Pages of the API's own site.
    SameSite,
    /// All pages.
    CrossOrigin,
}

impl ResourcePolicy {
    /// The value of the response field.
    pub fn as_str(self) -> &'static str {
        match self {
            ResourcePolicy::SameOrigin => "same-origin",
            ResourcePolicy::SameSite => "same-site",
            ResourcePolicy::CrossOrigin => "cross-origin",
        }
    }
}

/// Whether verdicts are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mode {
    /// The gateway answers preflights, refuses denied requests and sets the CORS headers.
    Enforce,
    /// Verdicts are counted and logged. Requests and responses pass unchanged, so nothing is
    /// protected.
    Report,
}

/// Overrides that weaken a policy, all off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyOverrides {
    /// Accepts `null` in lists.
    pub allow_null: bool,
    /// Accepts http origins together with credentials.
    pub allow_insecure_origins: bool,
    /// Accepts wildcards over public suffixes together with credentials.
    pub allow_public_suffixes: bool,
    /// Accepts `file://` and `app://.` together with credentials.
    pub allow_local_file_origins: bool,
    /// Accepts every extension of a scheme together with credentials.
    pub allow_any_extension: bool,
    /// Accepts regular expressions that match any origin together with credentials.
    pub allow_any_origin: bool,
    /// Accepts `*` next to origins with credentials, without protection from cross-site requests.
    pub allow_cross_site: bool,
}
