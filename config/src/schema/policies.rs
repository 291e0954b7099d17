//! The keys of policies, rules, tenants and routes.

use std::collections::BTreeMap;

use super::{Duration, RedirectScheme, RedirectStatus, TimingOrigins, declare_keys};
use crate::model::{
    CookieWarnings, CrossSiteNavigationsSetting, CrossSiteReadsSetting, CrossSiteSetting, DisclosureSetting,
    LocationFields, Mode, PreflightFailures, Preset, ResourcePolicy, UnmatchedRequests,
};

declare_keys! {
    /// Which origins may call an API, and with what.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct PolicyKeys as "Policy" {
        /// Origins and patterns: `https://app.example.com`, `https://*.example.com`,
        /// `https://pr-*.example.com`, `http://localhost:*`, `moz-extension://*`, or `*`.
        /// Default: `[]`.
        allow_origins: Option<Vec<String>>,
        /// Names of origin sets, whose origins are allowed too. Default: `[]`.
        allow_origin_sets: Option<Vec<String>>,
        /// Regular expressions that match whole origins. Default: `[]`.
        allow_origin_regexes: Option<Vec<String>>,
        /// Methods that a preflight may request, or `*`. Default: `[]`. GET, HEAD and POST are
        /// always allowed.
        allow_methods: Option<Vec<String>>,
        /// Request headers that a preflight may request, or `*`. Default: `[]`.
        allow_headers: Option<Vec<String>>,
        /// Response headers that a page may read, or `*`. Default: `[]`.
        expose_headers: Option<Vec<String>>,
        /// Whether responses to preflights also have `Access-Control-Expose-Headers`, which
        /// browsers ignore there. Default: `false`.
        expose_on_preflights: Option<bool>,
        /// A protocol whose methods and headers are added to the three lists. Default: none.
        preset: Option<Preset>,
        /// Whether requests may carry credentials, such as cookies. Default: `false`.
        allow_credentials: Option<bool>,
        /// How long browsers may cache a preflight: seconds or a duration. Default: `600`. At most
        /// 86400. With 0 they do not cache it.
        max_age: Option<Duration>,
        /// How much of its lists a preflight response contains. Default: `Full`.
        disclosure: Option<DisclosureSetting>,
        /// What happens to requests from origins that are not allowed. Default: `Reject`.
        unmatched_requests: Option<UnmatchedRequests>,
        /// The response to a preflight from an allowed origin whose method or header is not
        /// allowed. Default: `Explain`.
        preflight_failures: Option<PreflightFailures>,
        /// Whether requests from other sites that no CORS check precedes are refused: forms,
        /// images, links. Default: `"Off"`.
        cross_site: Option<CrossSiteSetting>,
        /// Which GET and HEAD requests from other sites pass, if no entry covers their origin.
        /// Default: `Allow`.
        cross_site_reads: Option<CrossSiteReadsSetting>,
        /// Whether form posts from other sites pass. Default: they get 403. Required with
        /// `unmatchedRequests: Forward` under `crossSite: Protect`.
        cross_site_navigations: Option<CrossSiteNavigationsSetting>,
        /// Which pages may read how long a response took (`Timing-Allow-Origin`): `Same` for the
        /// pages of allowed requests, `["*"]` for all, or a list of at most 16 origins. The
        /// upstream's field is replaced. Default: the upstream's.
        timing_allow_origins: Option<TimingOrigins>,
        /// Which pages may embed responses, as images or scripts. The upstream's field is replaced.
        /// Default: the upstream's.
        cross_origin_resource_policy: Option<ResourcePolicy>,
        /// Whether cookies are counted that pages of other sites cannot send back.
        /// Default: `"Off"`.
        cookies: Option<CookieWarnings>,
        /// Whether verdicts are enforced. Default: `Enforce`.
        mode: Option<Mode>,
        /// A script that decides about origins that no entry covers. Default: they are denied.
        rule: Option<RuleKeys>,
        /// Origins with terms of their own, at most 32 groups. Default: `[]`.
        groups: Option<Vec<GroupKeys>>,
        /// Allows `null` in the lists of origins, without credentials. Default: `false`.
        dangerously_allow_null: Option<bool>,
        /// Allows http origins together with credentials. Default: `false`.
        dangerously_allow_insecure_origins: Option<bool>,
        /// Allows wildcards over public suffixes together with credentials. Default: `false`.
        dangerously_allow_public_suffixes: Option<bool>,
        /// Allows `file://` and `app://.`, the origins of local pages, together with credentials.
        /// Default: `false`.
        dangerously_allow_local_file_origins: Option<bool>,
        /// Allows every extension of a scheme, such as `moz-extension://*`, together with
        /// credentials. Default: `false`.
        dangerously_allow_any_extension: Option<bool>,
        /// Allows regular expressions that match any origin together with credentials.
        /// Default: `false`.
        dangerously_allow_any_origin: Option<bool>,
        /// Allows `*` next to origins with credentials without `crossSite: Protect`.
        /// Default: `false`.
        dangerously_allow_cross_site: Option<bool>,
    }

    /// Origins with terms of their own. A term replaces the policy's; without it the policy's
    /// applies.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct GroupKeys as "Group" {
        /// The name in logs, metrics and `explain`, and for tenants and rules.
        name: String,
        /// Origins and patterns, as in the policy. Default: `[]`.
        allow_origins: Option<Vec<String>>,
        /// Names of origin sets, whose origins belong to the group. Default: `[]`.
        allow_origin_sets: Option<Vec<String>>,
        /// Regular expressions that match whole origins. Default: `[]`.
        allow_origin_regexes: Option<Vec<String>>,
        /// Methods that a preflight may request, or `*`. Default: the policy's.
        allow_methods: Option<Vec<String>>,
        /// Request headers that a preflight may request, or `*`. Default: the policy's.
        allow_headers: Option<Vec<String>>,
        /// Response headers that a page may read, or `*`. Default: the policy's.
        expose_headers: Option<Vec<String>>,
        /// Whether requests may carry credentials, such as cookies. Default: as the policy says.
        allow_credentials: Option<bool>,
        /// How long browsers may cache a preflight: seconds or a duration. Default: the policy's.
        max_age: Option<Duration>,
        /// Whether tenants may add origins to this group. Default: `false`.
        tenants_may_add: Option<bool>,
    }

    /// A script that decides about origins that no entry covers.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RuleKeys as "Rule" {
        /// A file in scriptsDir, such as `preview.rhai`.
        script: String,
        /// Request headers that the script may read. All of them are in the `Vary` field of every
        /// response of the policy. Default: `[]`.
        headers: Option<Vec<String>>,
        /// Query keys that the script may read. Default: `[]`.
        query: Option<Vec<String>>,
        /// Groups of the policy that the script may answer: `allow(#{ group: "name" })`.
        /// Default: `[]`.
        groups: Option<Vec<String>>,
    }

    /// The owner of an API behind the gateway.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct TenantKeys as "Tenant" {
        /// The name in metrics, logs and headers.
        id: String,
        /// Hosts without ports: `api.acme.example`, `*.acme.example` (subdomains at any depth,
        /// without `acme.example`), or `*`.
        hosts: Vec<String>,
        /// The upstream for all routes without one.
        upstream: Option<String>,
        /// The policy for all routes without one.
        policy: Option<String>,
        /// Origins that this tenant adds to its policy, or to a group of it. Default: `[]`.
        allow_origins: Option<Vec<OwnOriginEntry>>,
        /// Paths with other settings. Default: `[]`.
        routes: Option<Vec<RouteKeys>>,
        /// Header fields that are changed in requests to the upstream. Default: none.
        request_headers: Option<HeaderEditsKeys>,
        /// Header fields that are changed in responses, also in errors of the gateway.
        /// Default: none.
        response_headers: Option<HeaderEditsKeys>,
    }

    /// An origin that gets the policy's own terms, or origins of a group.
    #[serde(untagged)]
    enum OwnOriginEntry {
        /// An origin or pattern.
        Origin(String),
        /// Origins of a group.
        Group(GroupOriginsKeys),
    }

    /// Origins that are added to a group of the policy. Each entry is either one origin, which gets
    /// the policy's own terms, or a mapping.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct GroupOriginsKeys as "GroupOrigins" {
        /// A group of the policy with `tenantsMayAdd: true`.
        group: String,
        /// Origins and patterns.
        origins: Vec<String>,
    }

    /// A path with its own settings: `pathPrefix` or `pathExact`. An exact path wins, then the
    /// longest prefix, then the route that lists the method, then the one with more headers, and
    /// then with more query parameters.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RouteKeys as "Route" {
        /// Whole segments from the left: `/public` covers `/public` and `/public/x`, but not
        /// `/publicity`.
        path_prefix: Option<String>,
        /// Exactly this path: `/healthz` covers neither `/healthz/` nor `/healthz/x`.
        path_exact: Option<String>,
        /// The methods of this route. Default: all.
        methods: Option<Vec<String>>,
        /// Headers that a request of this route has, each once, with their values. Preflights have
        /// none of them, so the other routes of the path need the same policy. Default: none.
        headers: Option<BTreeMap<String, RouteCondition>>,
        /// Query parameters that a request of this route has, each once, with their values.
        /// Default: none.
        query: Option<BTreeMap<String, RouteCondition>>,
        /// The policy. Default: the tenant's. The allowOrigins of the tenant do not apply to this
        /// policy.
        policy: Option<String>,
        /// The upstream. Default: the tenant's.
        upstream: Option<String>,
        /// Changes of the path that the upstream receives. Default: it receives the client's.
        rewrite: Option<RewriteKeys>,
        /// A redirect, instead of an upstream. Preflights are answered and not redirected.
        redirect: Option<RedirectKeys>,
        /// A fixed response, instead of an upstream.
        respond: Option<RespondKeys>,
        /// Origins that this route adds to its policy, or to a group of it. Default: `[]`.
        allow_origins: Option<Vec<OwnOriginEntry>>,
        /// What happens to requests from origins that are not allowed. Default: as the policy says.
        unmatched_requests: Option<UnmatchedRequests>,
        /// The response to a preflight whose method or header is not allowed. Default: as the
        /// policy says.
        preflight_failures: Option<PreflightFailures>,
        /// Whether form posts from other sites pass. Default: as the policy says.
        cross_site_navigations: Option<CrossSiteNavigationsSetting>,
        /// Header fields that are changed in requests to the upstream. Fields that the tenant
        /// changes too are changed as written here. Default: as the tenant says.
        request_headers: Option<HeaderEditsKeys>,
        /// Header fields that are changed in responses, also in errors of the gateway. Fields that
        /// the tenant changes too are changed as written here. Default: as the tenant says.
        response_headers: Option<HeaderEditsKeys>,
    }

    /// What a route expects of a header or of a query parameter.
    #[serde(untagged)]
    enum RouteCondition {
        /// This value.
        Value(String),
        /// Any value.
        Presence(PresenceKeys),
    }

    /// A condition for any value.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct PresenceKeys as "Presence" {
        /// Whether there is one: `true`.
        present: bool,
    }

    /// Changes of the path that the upstream receives: `pathPrefix` or `path`. The query stays.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RewriteKeys as "Rewrite" {
        /// The prefix in place of the route's path: `/` strips it.
        path_prefix: Option<String>,
        /// The path in place of the whole path.
        path: Option<String>,
        /// What happens to a `Location` of the upstream that leads to the upstream itself.
        /// Default: `Map`.
        location: Option<LocationFields>,
    }

    /// A redirect. What is left out stays as in the request, and so does the query.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RedirectKeys as "Redirect" {
        /// The status: 301, 302, 303, 307 or 308. Browsers keep 301 and 308; after 303, and often
        /// after 301 and 302, they ask with GET.
        status: RedirectStatus,
        /// The scheme: `http` or `https`.
        scheme: Option<RedirectScheme>,
        /// The host, without a port.
        host: Option<String>,
        /// The port. Default: that of the scheme, if scheme or host change.
        port: Option<u16>,
        /// The prefix in place of the route's path.
        path_prefix: Option<String>,
        /// The path in place of the whole path.
        path: Option<String>,
    }

    /// A response that is the same for every request.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RespondKeys as "Respond" {
        /// The status, from 200 to 599 without those of redirects.
        status: u16,
        /// The body, at most 64 KiB. Default: none.
        body: Option<String>,
        /// A file with the body, at most 64 KiB. Only in the main file.
        body_file: Option<String>,
        /// The media type of the body. Default: `text/plain; charset=utf-8`.
        content_type: Option<String>,
    }

    /// Header fields of requests or responses that are changed. Each name is in one of the three.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct HeaderEditsKeys as "HeaderEdits" {
        /// Fields with their values, which replace the received ones. Default: `{}`.
        set: Option<BTreeMap<String, String>>,
        /// Fields with their values, which are sent after the received ones. Default: `{}`.
        add: Option<BTreeMap<String, String>>,
        /// Fields that are not passed on. Default: `[]`.
        remove: Option<Vec<String>>,
    }
}
