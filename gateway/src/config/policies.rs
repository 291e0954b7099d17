//! Decodes upstreams, origin sets and policies.
//!
//! Only their form is looked at here. Whether an origin pattern, a method or a header name is any good is for the policy engine to
//! say, when the snapshot is compiled; it points back at the list element through the place kept with every text.

use http::HeaderValue;

use super::decode::{Decoder, Fields, duration_of};
use super::model::{
    Dangerously, Disclosure, Located, Mode, OriginSetSpec, PolicySpec, Protocol, Text, Timeouts, UnmatchedRequests,
    UpstreamSpec,
};
use super::sections::{self, Kind};
use super::settings::span;
use super::tree::Node;
use crate::host;

/// Entries of one list of origins. Lookups do not slow down with them.
pub(super) const ORIGINS_MAX: usize = 1_000_000;
/// Entries of the other lists of a policy.
const ENTRIES_MAX: usize = 1_000;
/// Tries of one request.
const ATTEMPTS_MAX: u32 = 10;
/// The engine's default for how long browsers may remember a preflight.
const MAX_AGE_DEFAULT: u32 = 600;

/// What may be said about requests of origins that are not allowed.
pub(super) const UNMATCHED: &[(&str, UnmatchedRequests)] =
    &[("Reject", UnmatchedRequests::Reject), ("Forward", UnmatchedRequests::Forward)];
const DISCLOSURES: &[(&str, Disclosure)] = &[("Full", Disclosure::Full), ("Minimal", Disclosure::Minimal)];
const MODES: &[(&str, Mode)] = &[("Enforce", Mode::Enforce), ("Report", Mode::Report)];

impl Decoder<'_> {
    pub(super) fn upstreams(&mut self, node: Option<&Node>) -> Vec<UpstreamSpec> {
        let named = node.map(|node| self.named(node, Kind::Upstream)).unwrap_or_default();
        named.into_iter().map(|(name, node)| self.upstream(name, node)).collect()
    }

    /// An upstream of that name, even where something is wrong in it: whoever refers to it makes no mistake.
    fn upstream(&mut self, name: Text, node: &Node) -> UpstreamSpec {
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
            health_check: fields.find("healthCheck").and_then(|node| self.health_check(node)),
            limits: fields.find("limits").and_then(|node| self.upstream_limits(node)),
            servers,
            ..blank
        }
    }

    fn timeouts(&mut self, node: &Node) -> Option<Timeouts> {
        let fields = self.fields(node, &sections::TIMEOUTS)?;
        let old = Timeouts::default();
        Some(Timeouts {
            connect: self.duration_or(&fields, "connect", span(10, 300), old.connect),
            head: self.duration_or(&fields, "head", span(10, 3_600), old.head),
            idle: self.duration_or(&fields, "idle", span(10, 86_400), old.idle),
            upgraded_idle: self.duration_or(&fields, "upgradedIdle", span(10, 604_800), old.upgraded_idle),
        })
    }

    pub(super) fn upstream_host(&mut self, node: &Node) -> Option<HeaderValue> {
        self.parsed(node, "a host", |text| {
            host::parse_authority(text.as_bytes()).map_err(|error| error.to_string())?;
            HeaderValue::from_str(text).map_err(|error| error.to_string())
        })
    }

    pub(super) fn origin_sets(&mut self, node: Option<&Node>) -> Vec<OriginSetSpec> {
        let named = node.map(|node| self.named(node, Kind::OriginSet)).unwrap_or_default();
        let decode = |(name, node)| OriginSetSpec { name, origins: self.texts(Some(node), "origin", ORIGINS_MAX) };
        named.into_iter().map(decode).collect()
    }

    pub(super) fn policies(&mut self, node: Option<&Node>) -> Vec<PolicySpec> {
        let named = node.map(|node| self.named(node, Kind::Policy)).unwrap_or_default();
        named.into_iter().map(|(name, node)| self.policy(name, node)).collect()
    }

    /// A policy of that name, even where something is wrong in it: whoever refers to it makes no mistake.
    fn policy(&mut self, name: Text, node: &Node) -> PolicySpec {
        let at = name.at;
        let blank = PolicySpec {
            name,
            allow_origins: Vec::new(),
            allow_origin_sets: Vec::new(),
            allow_origin_regexes: Vec::new(),
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            allow_credentials: Located { value: false, at },
            max_age: Located { value: MAX_AGE_DEFAULT, at },
            disclosure: Disclosure::Full,
            unmatched_requests: UnmatchedRequests::Reject,
            mode: Located { value: Mode::Enforce, at },
            rule: None,
            dangerously: Dangerously::default(),
        };
        match self.fields(node, &sections::POLICY) {
            Some(fields) => self.policy_fields(blank, &fields),
            None => blank,
        }
    }

    fn policy_fields(&mut self, blank: PolicySpec, fields: &Fields<'_>) -> PolicySpec {
        PolicySpec {
            allow_origins: self.texts(fields.find("allowOrigins"), "origin", ORIGINS_MAX),
            allow_origin_sets: self.texts(fields.find("allowOriginSets"), "set name", ENTRIES_MAX),
            allow_origin_regexes: self.texts(fields.find("allowOriginRegexes"), "regular expression", ENTRIES_MAX),
            allow_methods: self.texts(fields.find("allowMethods"), "method", ENTRIES_MAX),
            allow_headers: self.texts(fields.find("allowHeaders"), "header name", ENTRIES_MAX),
            expose_headers: self.texts(fields.find("exposeHeaders"), "header name", ENTRIES_MAX),
            allow_credentials: self.located_flag(fields, "allowCredentials").unwrap_or(blank.allow_credentials),
            max_age: fields.find("maxAge").and_then(|node| self.max_age(node)).unwrap_or(blank.max_age),
            disclosure: fields
                .find("disclosure")
                .and_then(|node| self.choice(node, DISCLOSURES))
                .unwrap_or(blank.disclosure),
            unmatched_requests: self.unmatched_requests(fields).unwrap_or(blank.unmatched_requests),
            mode: fields.find("mode").and_then(|node| self.mode(node)).unwrap_or(blank.mode),
            rule: fields.find("rule").and_then(|node| self.rule(node)),
            dangerously: self.dangerously(fields),
            ..blank
        }
    }

    pub(super) fn unmatched_requests(&mut self, fields: &Fields<'_>) -> Option<UnmatchedRequests> {
        fields.find("unmatchedRequests").and_then(|node| self.choice(node, UNMATCHED))
    }

    fn mode(&mut self, node: &Node) -> Option<Located<Mode>> {
        self.choice(node, MODES).map(|value| Located { value, at: node.at })
    }

    /// Any whole number of seconds: which ones browsers heed is the engine's to say.
    fn max_age(&mut self, node: &Node) -> Option<Located<u32>> {
        let whole = duration_of(&node.value).filter(|duration| duration.subsec_nanos() == 0);
        let seconds = whole.and_then(|duration| u32::try_from(duration.as_secs()).ok());
        if seconds.is_none() {
            self.wrong_type(node, "whole seconds, such as 600, 30s or 10m");
        }
        seconds.map(|value| Located { value, at: node.at })
    }

    fn dangerously(&mut self, fields: &Fields<'_>) -> Dangerously {
        let mut flag = |key| self.located_flag(fields, key).is_some_and(|flag| flag.value);
        Dangerously {
            allow_null: flag("dangerouslyAllowNull"),
            allow_insecure_origins: flag("dangerouslyAllowInsecureOrigins"),
            allow_public_suffixes: flag("dangerouslyAllowPublicSuffixes"),
            allow_any_origin: flag("dangerouslyAllowAnyOrigin"),
        }
    }

    fn located_flag(&mut self, fields: &Fields<'_>, key: &str) -> Option<Located<bool>> {
        let node = fields.find(key)?;
        self.flag(node).map(|value| Located { value, at: node.at })
    }
}
