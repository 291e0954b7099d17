//! Decodes upstreams, origin sets and policies.
//!
//! Only their form is checked here. The policy engine checks origin patterns, methods and header
//! names when the snapshot is compiled. It reports them at the location that is kept with every
//! text.

use http::HeaderValue;

use super::decode::{Decoder, SectionFields, duration_of, show_text};
use super::hints;
use super::model::{
    CookieWarnings, CrossSiteNavigationsSetting, CrossSiteReadsSetting, CrossSiteSetting, DisclosureSetting,
    GroupConfig, Located, Mode, OriginSetConfig, PolicyConfig, PolicyOverrides, PreflightFailures, Preset, Protocol,
    ResourcePolicy, Text, Timeouts, TimingAllowOrigins, UnmatchedRequests, UpstreamSpec,
};
use super::node::{YamlNode, YamlValue};
use super::sections::{self, ReferenceKind};
use super::settings::duration_range;
use super::warnings::WarningCode;
use crossgate_message::host;
use crossgate_policy::GROUPS_MAX;

/// Maximum length of a list of origins. The time of a lookup does not depend on it.
pub(super) const ORIGINS_MAX: usize = 1_000_000;
/// Maximum length of the other lists of a policy.
const ENTRIES_MAX: usize = 1_000;
/// Maximum number of origins in `timingAllowOrigins`: they are in every response.
const TIMING_ORIGINS_MAX: usize = 16;
/// Maximum number of tries of one request.
const ATTEMPTS_MAX: u32 = 10;
/// Default time in seconds that browsers may cache a preflight, as in the policy engine.
const MAX_AGE_DEFAULT: u32 = 600;

/// The error for a policy or route that forwards what the protection refuses: single sign-on that
/// worked before would break.
pub const FORWARD_UNDER_PROTECTION: &str = "`unmatchedRequests: Forward` does not forward form posts from other sites under `crossSite: Protect`; \
     write `crossSiteNavigations: Allow` where single sign-on or payment pages post to, or `crossSiteNavigations: Deny` if none do";

impl Decoder<'_> {
    pub(super) fn upstreams(&mut self, node: Option<&YamlNode>) -> Vec<UpstreamSpec> {
        let named = node.map(|node| self.named(node, ReferenceKind::Upstream)).unwrap_or_default();
        named.into_iter().map(|(name, node)| self.upstream(name, node)).collect()
    }

    /// An upstream, even if it has mistakes: references to it are still valid.
    fn upstream(&mut self, name: Text, node: &YamlNode) -> UpstreamSpec {
        let blank = UpstreamSpec {
            name,
            servers: Vec::new(),
            timeouts: Timeouts::default(),
            attempts: 2,
            host: None,
            protocol: Protocol::Http1,
            tls: None,
            health_check: None,
            limits: None,
        };
        let Some(fields) = self.fields(node, &sections::UPSTREAM) else {
            return blank;
        };
        let servers = self.servers(&fields);
        let protocol = self.protocol(&fields);
        UpstreamSpec {
            timeouts: fields.find("timeouts").and_then(|node| self.timeouts(node)).unwrap_or_default(),
            attempts: self.count_or(&fields, "attempts", 1..=ATTEMPTS_MAX, blank.attempts),
            host: fields.find("host").and_then(|node| self.upstream_host(node)),
            protocol,
            tls: fields.find("tls").and_then(|node| self.upstream_tls(node, &servers)),
            health_check: fields.find("healthCheck").and_then(|node| self.health_check(node, protocol)),
            limits: fields.find("limits").and_then(|node| self.upstream_limits(node)),
            servers,
            ..blank
        }
    }

    fn timeouts(&mut self, node: &YamlNode) -> Option<Timeouts> {
        let fields = self.fields(node, &sections::TIMEOUTS)?;
        let old = Timeouts::default();
        Some(Timeouts {
            connect: self.duration_or(&fields, "connect", duration_range(10, 300), old.connect),
            head: self.duration_or(&fields, "head", duration_range(10, 3_600), old.head),
            idle: self.duration_or(&fields, "idle", duration_range(10, 86_400), old.idle),
            upgraded_idle: self.duration_or(&fields, "upgradedIdle", duration_range(10, 604_800), old.upgraded_idle),
            keep_alive: self.duration_or(&fields, "keepAlive", duration_range(0, 3_600), old.keep_alive),
        })
    }

    pub(super) fn upstream_host(&mut self, node: &YamlNode) -> Option<HeaderValue> {
        self.parse_host(node, "a host", |text| {
            host::parse_authority(text.as_bytes()).map_err(|error| error.to_string())?;
            HeaderValue::from_str(text).map_err(|error| error.to_string())
        })
    }

    pub(super) fn origin_sets(&mut self, node: Option<&YamlNode>) -> Vec<OriginSetConfig> {
        let named = node.map(|node| self.named(node, ReferenceKind::OriginSet)).unwrap_or_default();
        let decode = |(name, node)| OriginSetConfig { name, origins: self.texts(Some(node), "origin", ORIGINS_MAX) };
        named.into_iter().map(decode).collect()
    }

    pub(super) fn policies(&mut self, node: Option<&YamlNode>) -> Vec<PolicyConfig> {
        let named = node.map(|node| self.named(node, ReferenceKind::Policy)).unwrap_or_default();
        named.into_iter().map(|(name, node)| self.policy(name, node)).collect()
    }

    /// A policy, even if it has mistakes: references to it are still valid.
    fn policy(&mut self, name: Text, node: &YamlNode) -> PolicyConfig {
        let at = name.at;
        let blank = PolicyConfig {
            name,
            allow_origins: Vec::new(),
            allow_origin_sets: Vec::new(),
            allow_origin_regexes: Vec::new(),
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            expose_on_preflights: false,
            preset: None,
            allow_credentials: Located { value: false, at },
            max_age: Located { value: MAX_AGE_DEFAULT, at },
            disclosure: DisclosureSetting::Full,
            unmatched_requests: UnmatchedRequests::Reject,
            preflight_failures: PreflightFailures::Explain,
            cross_site: CrossSiteSetting::Off,
            cross_site_reads: CrossSiteReadsSetting::Allow,
            cross_site_navigations: None,
            timing_allow_origins: None,
            cross_origin_resource_policy: None,
            cookies: CookieWarnings::Off,
            mode: Located { value: Mode::Enforce, at },
            rule: None,
            dangerously: PolicyOverrides::default(),
            groups: Vec::new(),
        };
        match self.fields(node, &sections::POLICY) {
            Some(fields) => {
                let policy = self.policy_fields(blank, &fields);
                self.warn_unwise(&policy, &fields);
                self.check_preset(&policy);
                self.warn_about_embedding(&policy);
                policy
            }
            None => blank,
        }
    }

    fn policy_fields(&mut self, blank: PolicyConfig, fields: &SectionFields<'_>) -> PolicyConfig {
        PolicyConfig {
            allow_origins: self.texts(fields.find("allowOrigins"), "origin", ORIGINS_MAX),
            allow_origin_sets: self.texts(fields.find("allowOriginSets"), "set name", ENTRIES_MAX),
            allow_origin_regexes: self.texts(fields.find("allowOriginRegexes"), "regular expression", ENTRIES_MAX),
            allow_methods: self.texts(fields.find("allowMethods"), "method", ENTRIES_MAX),
            allow_headers: self.texts(fields.find("allowHeaders"), "header name", ENTRIES_MAX),
            expose_headers: self.texts(fields.find("exposeHeaders"), "header name", ENTRIES_MAX),
            expose_on_preflights: self.located_flag(fields, "exposeOnPreflights").is_some_and(|flag| flag.value),
            preset: fields.find("preset").and_then(|node| self.preset(node)),
            allow_credentials: self.located_flag(fields, "allowCredentials").unwrap_or(blank.allow_credentials),
            max_age: fields.find("maxAge").and_then(|node| self.max_age(node)).unwrap_or(blank.max_age),
            disclosure: fields.find("disclosure").and_then(|node| self.variant(node)).unwrap_or(blank.disclosure),
            unmatched_requests: self.unmatched_requests(fields).unwrap_or(blank.unmatched_requests),
            preflight_failures: self.preflight_failures(fields).unwrap_or(blank.preflight_failures),
            cross_site: fields.find("crossSite").and_then(|node| self.variant(node)).unwrap_or(blank.cross_site),
            cross_site_reads: self.cross_site_reads(fields).unwrap_or(blank.cross_site_reads),
            cross_site_navigations: self.cross_site_navigations(fields),
            timing_allow_origins: fields.find("timingAllowOrigins").and_then(|node| self.timing_allow_origins(node)),
            cross_origin_resource_policy: fields
                .find("crossOriginResourcePolicy")
                .and_then(|node| self.variant(node).map(|value| Located { value, at: node.at })),
            cookies: fields.find("cookies").and_then(|node| self.variant(node)).unwrap_or(blank.cookies),
            mode: fields.find("mode").and_then(|node| self.mode(node)).unwrap_or(blank.mode),
            rule: fields.find("rule").and_then(|node| self.rule(node)),
            dangerously: self.dangerously(fields),
            groups: self.groups(fields.find("groups")),
            ..blank
        }
    }

    /// Reports settings that are risky with credentials and that the policy engine accepts.
    fn warn_unwise<'p>(&mut self, policy: &'p PolicyConfig, fields: &SectionFields<'_>) {
        if let (UnmatchedRequests::Forward, CrossSiteSetting::Protect, None, Some(node)) = (
            policy.unmatched_requests,
            policy.cross_site,
            policy.cross_site_navigations,
            fields.find("unmatchedRequests"),
        ) {
            self.error(node.at, FORWARD_UNDER_PROTECTION);
        }
        if policy.cross_site == CrossSiteSetting::Off {
            for key in ["crossSiteReads", "crossSiteNavigations"] {
                if let Some(node) = fields.find(key) {
                    let message = format!("{key} has no effect without `crossSite: Protect` or `crossSite: Report`");
                    self.warn(WarningCode::IneffectiveKey, node.at, message);
                }
            }
        }
        let has_credentials = |group: &GroupConfig| group.allow_credentials.unwrap_or(policy.allow_credentials).value;
        if !policy.allow_credentials.value && !policy.groups.iter().any(has_credentials) {
            return;
        }
        if let (UnmatchedRequests::Forward, Some(node)) = (policy.unmatched_requests, fields.find("unmatchedRequests"))
        {
            // Browsers send cookies with form posts from other sites, so a forwarded request can
            // act for the user.
            let message = "with allowCredentials, requests from any web page reach the upstream with the user's cookies; \
                           write Reject here, and Forward in the routes that other sites post to";
            self.warn(WarningCode::ForwardWithCredentials, node.at, message);
        }
        let own = policy.allow_credentials.value.then_some((&policy.allow_methods, &policy.allow_headers));
        let lists = |group: &'p GroupConfig| {
            let methods = group.allow_methods.as_ref().unwrap_or(&policy.allow_methods);
            (methods, group.allow_headers.as_ref().unwrap_or(&policy.allow_headers))
        };
        let groups = policy.groups.iter().filter(|group| has_credentials(group)).map(lists);
        // Several groups may have the same list of the policy.
        let mut reported = Vec::new();
        for (key, list) in own
            .into_iter()
            .chain(groups)
            .flat_map(|(methods, headers)| [("allowMethods", methods), ("allowHeaders", headers)])
        {
            let star = list.iter().find(|text| &*text.value == "*");
            if let Some(star) = star.filter(|star| !reported.contains(&star.at)) {
                let message =
                    format!("with allowCredentials, `*` allows all requested values; list under {key} what pages need");
                self.warn(WarningCode::StarWithCredentials, star.at, message);
                reported.push(star.at);
            }
        }
    }

    /// The groups of a policy. One without a valid name is omitted after its mistake is reported.
    fn groups(&mut self, node: Option<&YamlNode>) -> Vec<GroupConfig> {
        let items =
            node.map_or(&[][..], |node| self.section_list(node, "a list of groups", GROUPS_MAX, &sections::GROUP));
        items.iter().filter_map(|item| self.group(item)).collect()
    }

    fn group(&mut self, node: &YamlNode) -> Option<GroupConfig> {
        let fields = self.fields(node, &sections::GROUP)?;
        let name = self.required(&fields, "name").and_then(|node| self.name(node, "the name of a group"));
        let mut list = |key, what, max| fields.find(key).map(|node| self.texts(Some(node), what, max));
        let allow_origins = list("allowOrigins", "origin", ORIGINS_MAX).unwrap_or_default();
        let allow_origin_sets = list("allowOriginSets", "set name", ENTRIES_MAX).unwrap_or_default();
        let allow_origin_regexes = list("allowOriginRegexes", "regular expression", ENTRIES_MAX).unwrap_or_default();
        let allow_methods = list("allowMethods", "method", ENTRIES_MAX);
        let allow_headers = list("allowHeaders", "header name", ENTRIES_MAX);
        let expose_headers = list("exposeHeaders", "header name", ENTRIES_MAX);
        let allow_credentials = self.located_flag(&fields, "allowCredentials");
        let max_age = fields.find("maxAge").and_then(|node| self.max_age(node));
        let tenants_may_add = self.located_flag(&fields, "tenantsMayAdd").is_some_and(|flag| flag.value);
        Some(GroupConfig {
            name: name?,
            allow_origins,
            allow_origin_sets,
            allow_origin_regexes,
            allow_methods,
            allow_headers,
            expose_headers,
            allow_credentials,
            max_age,
            tenants_may_add,
        })
    }

    pub(super) fn unmatched_requests(&mut self, fields: &SectionFields<'_>) -> Option<UnmatchedRequests> {
        fields.find("unmatchedRequests").and_then(|node| self.variant(node))
    }

    pub(super) fn preflight_failures(&mut self, fields: &SectionFields<'_>) -> Option<PreflightFailures> {
        fields.find("preflightFailures").and_then(|node| self.variant(node))
    }

    fn preset(&mut self, node: &YamlNode) -> Option<Located<Preset>> {
        self.variant(node).map(|value| Located { value, at: node.at })
    }

    /// Reports lists in which `*` makes a preset superfluous: one of the two is a mistake.
    fn check_preset(&mut self, policy: &PolicyConfig) {
        let Some(preset) = policy.preset else { return };
        let lists = [
            ("allowMethods", &policy.allow_methods),
            ("allowHeaders", &policy.allow_headers),
            ("exposeHeaders", &policy.expose_headers),
        ];
        for (key, list) in lists {
            if let Some(star) = list.iter().find(|text| &*text.value == "*") {
                let name = preset.value.as_str();
                self.error(star.at, format!("`*` in {key} includes what `preset: {name}` adds; remove one of them"));
            }
        }
    }

    /// `Same`, `*` alone, or origins in full.
    fn timing_allow_origins(&mut self, node: &YamlNode) -> Option<TimingAllowOrigins> {
        if let YamlValue::Text(text) = &node.value {
            if &**text == "Same" {
                return Some(TimingAllowOrigins::Same);
            }
            let what = show_text(text);
            self.error(node.at, format!("unknown value {what}; write Same, or a list of origins such as [\"*\"]"));
            return None;
        }
        let before = self.found.len();
        let origins = self.texts(Some(node), "origin", TIMING_ORIGINS_MAX);
        let is_any = origins.iter().any(|origin| &*origin.value == "*");
        for (index, origin) in origins.iter().enumerate() {
            let what = show_text(&origin.value);
            if &*origin.value == "*" {
                if origins.len() > 1 {
                    self.error(origin.at, "`*` stands for all origins; write it alone, or remove it");
                }
            } else if !crossgate_policy::is_origin(origin.value.as_bytes()) {
                self.error(
                    origin.at,
                    format!("invalid origin {what}: write it in full, such as https://app.example.com"),
                );
            } else if origins.iter().take(index).any(|earlier| earlier.value == origin.value) {
                self.error(origin.at, format!("{what} is in the list twice; remove one of them"));
            }
        }
        if origins.is_empty() && self.found.len() == before {
            self.error(node.at, "empty list of origins; write some, or remove the key to keep the upstream's field");
        }
        if self.found.len() > before {
            return None;
        }
        let listed = || origins.into_iter().map(|origin| origin.value).collect();
        Some(if is_any { TimingAllowOrigins::Any } else { TimingAllowOrigins::Listed(listed()) })
    }

    /// Reports a policy for embedding that contradicts what the policy allows otherwise.
    fn warn_about_embedding(&mut self, policy: &PolicyConfig) {
        let Some(Located { value, at }) = policy.cross_origin_resource_policy else { return };
        let has_star = policy.allow_origins.iter().any(|origin| &*origin.value == "*");
        let refuses_reads =
            policy.cross_site == CrossSiteSetting::Protect && policy.cross_site_reads != CrossSiteReadsSetting::Allow;
        let name = value.as_str();
        if value != ResourcePolicy::CrossOrigin && has_star {
            let message = format!(
                "with {name}, pages of other sites cannot embed what `*` lets their scripts read; write cross-origin"
            );
            self.warn(WarningCode::DoubtfulPolicy, at, message);
        }
        if value == ResourcePolicy::CrossOrigin && refuses_reads {
            let message = "with cross-origin, all pages may embed responses, but crossSiteReads refuses the requests of \
                           other sites; write same-origin or same-site";
            self.warn(WarningCode::DoubtfulPolicy, at, message);
        }
    }

    fn cross_site_reads(&mut self, fields: &SectionFields<'_>) -> Option<CrossSiteReadsSetting> {
        fields.find("crossSiteReads").and_then(|node| self.variant(node))
    }

    pub(super) fn cross_site_navigations(&mut self, fields: &SectionFields<'_>) -> Option<CrossSiteNavigationsSetting> {
        fields.find("crossSiteNavigations").and_then(|node| self.variant(node))
    }

    fn mode(&mut self, node: &YamlNode) -> Option<Located<Mode>> {
        self.variant(node).map(|value| Located { value, at: node.at })
    }

    /// Any whole number of seconds. The policy engine checks the range.
    fn max_age(&mut self, node: &YamlNode) -> Option<Located<u32>> {
        let whole = duration_of(&node.value).filter(|duration| duration.subsec_nanos() == 0);
        let seconds = whole.and_then(|duration| u32::try_from(duration.as_secs()).ok());
        if seconds.is_none() {
            let meant = hints::correct_duration(&node.value);
            self.wrong_type_meant(node, "whole seconds, such as 600, 30s or 10m", meant.as_deref());
        }
        seconds.map(|value| Located { value, at: node.at })
    }

    fn dangerously(&mut self, fields: &SectionFields<'_>) -> PolicyOverrides {
        let mut flag = |key| match self.located_flag(fields, key) {
            Some(Located { value: true, at }) => {
                let message = format!("{key} disables a protection; remove it when nothing needs it");
                self.warn(WarningCode::DangerousSwitch, at, message);
                true
            }
            Some(Located { value: false, .. }) | None => false,
        };
        PolicyOverrides {
            allow_null: flag("dangerouslyAllowNull"),
            allow_insecure_origins: flag("dangerouslyAllowInsecureOrigins"),
            allow_public_suffixes: flag("dangerouslyAllowPublicSuffixes"),
            allow_local_file_origins: flag("dangerouslyAllowLocalFileOrigins"),
            allow_any_extension: flag("dangerouslyAllowAnyExtension"),
            allow_any_origin: flag("dangerouslyAllowAnyOrigin"),
            allow_cross_site: flag("dangerouslyAllowCrossSite"),
        }
    }

    fn located_flag(&mut self, fields: &SectionFields<'_>, key: &str) -> Option<Located<bool>> {
        let node = fields.find(key)?;
        self.flag(node).map(|value| Located { value, at: node.at })
    }
}
