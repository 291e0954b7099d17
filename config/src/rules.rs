//! Decodes rules and their limits, and the data and case files of the scripts directory.
//!
//! Only their form is checked here. The policy engine compiles the scripts, and the gateway runs
//! their cases.

use std::collections::HashMap;
use std::time::Duration;

use crossgate_policy::{
    GROUPS_MAX, RULE_HEADERS_MAX, RULE_QUERY_MAX, RequestKind, RuleErrorKind, RuleLimits, RuleTerms,
};
use http::HeaderName;

use super::decode::{Decoder, show_text};
use super::model::{CacheLimits, Located, PolicyConfig, RuleBounds, RuleSpec, RuleTimes, Text};
use super::node::{Position, YamlNode, YamlValue};
use super::sections::{self, Section};

/// Maximum number of values of one set, or of entries of one table.
const VALUES_MAX: usize = 1_000_000;
/// Maximum number of cases of one script.
const CASES_MAX: usize = 1_000;
/// Maximum number of header fields of one case.
const FIELDS_MAX: usize = 100;
/// Maximum length of a query key, in bytes.
const KEY_LEN_MAX: usize = 64;

/// Header fields with credentials of the user, which rules cannot read.
const SECRET_HEADERS: [&str; 3] = ["cookie", "authorization", "proxy-authorization"];

const DATA_FILE: Section = Section::with_keys("a data file", || &["sets", "tables"]);
const CASES_FILE: Section = Section::with_keys("a cases file", || &["cases"]);
const CASE: Section = Section::with_keys("a case", || &["name", "request", "kind", "expect"]);
const REQUEST: Section = Section::with_keys("a case's request", || {
    &["origin", "tenant", "route", "apiHost", "path", "query", "method", "headers", "proxyHeaders", "requestedHeaders"]
});
const EXPECT: Section = Section::with_keys("an expectation", || &["allow", "deny", "error"]);
const TERMS: Section = Section::with_keys("the terms of an answer", || &["group", "maxAge", "credentials"]);

/// The sets and tables of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DataFile {
    pub sets: Vec<(Text, Vec<String>)>,
    pub tables: Vec<(Text, Vec<(String, String)>)>,
}

/// The cases of one script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CasesFile {
    pub cases: Vec<CaseSpec>,
}

/// A request, and the answer that a script should give to it.
#[derive(Debug, PartialEq, Eq)]
pub struct CaseSpec {
    pub name: Text,
    pub origin: Text,
    /// The id of the tenant.
    pub tenant: String,
    /// The prefix of the route.
    pub route: String,
    /// The host that the request asks for.
    pub api_host: String,
    pub path: String,
    /// The query, without `?`.
    pub query: String,
    /// The method. A preflight requests it.
    pub method: String,
    /// Header fields that the page sets. A preflight does not have them.
    pub headers: Vec<(HeaderName, String)>,
    /// Header fields that a proxy sets, also on preflights.
    pub proxy_headers: Vec<(HeaderName, String)>,
    /// Header names that a preflight requests.
    pub requested_headers: Vec<String>,
    /// The kinds of request to run. All must give the expected answer.
    pub kinds: Vec<RequestKind>,
    pub expected: ExpectedAnswer,
    pub expected_at: Position,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedAnswer {
    /// Allowed, in exactly this group and with exactly these terms.
    Allow {
        /// The name of the group; `None` for the policy's own terms.
        group: Option<String>,
        terms: RuleTerms,
    },
    /// Denied, with this message if there is one.
    Deny(Option<String>),
    Abstain,
    Error(RuleErrorKind),
}

fn millis_range(from: u64, to: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

impl Decoder<'_> {
    pub(super) fn rule_bounds(&mut self, node: &YamlNode) -> Option<RuleBounds> {
        let fields = self.fields(node, &sections::RULE_LIMITS)?;
        let old = RuleBounds::default();
        let count = |decoder: &mut Self, key: &str, max: u32, old: usize| {
            let old = u32::try_from(old).unwrap_or(max);
            decoder.count_or(&fields, key, 1..=max, old) as usize
        };
        let script = RuleLimits {
            operations: self.count_or(&fields, "operations", 100..=10_000_000, 5_000).into(),
            string_len: self.size_or(&fields, "stringBytes", 64..=1 << 20, old.script.string_len),
            array_len: count(self, "arrayLength", 100_000, old.script.array_len),
            map_len: count(self, "mapLength", 100_000, old.script.map_len),
            call_depth: count(self, "callDepth", 32, old.script.call_depth),
            source_len: self.size_or(&fields, "sourceBytes", 64..=1 << 20, old.script.source_len),
        };
        let times = RuleTimes {
            run: self.duration_or(&fields, "time", millis_range(1, 1_000), old.times.run),
            per_second: self.duration_or(&fields, "timePerSecond", millis_range(1, 1_000), old.times.per_second),
        };
        let cache = CacheLimits {
            entries: count(self, "cacheEntries", 10_000_000, old.cache.entries),
            entries_per_tenant: count(self, "cacheEntriesPerTenant", 10_000_000, old.cache.entries_per_tenant),
        };
        Some(RuleBounds { script, times, cache })
    }

    pub(super) fn rule(&mut self, node: &YamlNode) -> Option<RuleSpec> {
        let fields = self.fields(node, &sections::RULE)?;
        let script = self.required(&fields, "script").and_then(|node| self.script_name(node));
        let headers = self.texts(fields.find("headers"), "header name", RULE_HEADERS_MAX);
        let headers = headers.into_iter().filter_map(|name| self.rule_header(&name)).collect();
        let query = self.texts(fields.find("query"), "query key", RULE_QUERY_MAX);
        for key in query.iter().filter(|key| key.value.is_empty() || key.value.len() > KEY_LEN_MAX) {
            self.error(key.at, format!("invalid query key: write 1 to {KEY_LEN_MAX} bytes"));
        }
        let groups = self.texts(fields.find("groups"), "group name", GROUPS_MAX);
        Some(RuleSpec { script: script?, headers, query, groups })
    }

    fn script_name(&mut self, node: &YamlNode) -> Option<Text> {
        let name = self.located_text(node, "the name of a script")?;
        // A path separator or a leading dot could leave the directory.
        let is_plain = !name.value.contains(['/', '\\']) && !name.value.starts_with('.');
        if !is_plain || !name.value.ends_with(".rhai") {
            self.error(
                name.at,
                format!(
                    "invalid script name {}: write a file in scriptsDir, such as preview.rhai",
                    show_text(&name.value)
                ),
            );
            return None;
        }
        Some(name)
    }

    fn rule_header(&mut self, name: &Text) -> Option<Text> {
        let Ok(parsed) = name.value.parse::<HeaderName>() else {
            self.error(name.at, format!("invalid header name {}: write one such as x-plan", show_text(&name.value)));
            return None;
        };
        let parsed = parsed.as_str();
        let hint = if SECRET_HEADERS.contains(&parsed) {
            "it contains credentials of the user; remove it"
        } else if parsed == "origin" || parsed.starts_with("access-control-") {
            "rules read it as a field of req; remove it"
        } else {
            return Some(Located { value: parsed.into(), at: name.at });
        };
        self.error(name.at, format!("rules cannot read the header {}: {hint}", show_text(parsed)));
        None
    }

    /// Reports rules without a directory of scripts.
    pub(super) fn check_rules(&mut self, policies: &[PolicyConfig], has_scripts: bool) {
        let first = policies.iter().find_map(|policy| policy.rule.as_ref());
        if let (Some(rule), false) = (first, has_scripts) {
            self.error(
                rule.script.at,
                "missing key `scriptsDir`, which rules need; write scriptsDir: scripts at the top level",
            );
        }
    }

    pub(super) fn data_file(&mut self, root: &YamlNode) -> DataFile {
        let Some(fields) = self.fields(root, &DATA_FILE) else { return DataFile::default() };
        let sets = fields.find("sets").map(|node| self.uniquely_named(node, "sets")).unwrap_or_default();
        let tables = fields.find("tables").map(|node| self.uniquely_named(node, "tables")).unwrap_or_default();
        // Data may contain any text, so placeholders are not reported.
        let values = |decoder: &mut Self, node| {
            let items = decoder.list(node, "a list of values", VALUES_MAX);
            items.iter().filter_map(|item| decoder.text(item, "a value").map(str::to_owned)).collect()
        };
        DataFile {
            sets: sets.into_iter().map(|(name, node)| (name, values(self, node))).collect(),
            tables: tables.into_iter().map(|(name, node)| (name, self.pairs(node, VALUES_MAX))).collect(),
        }
    }

    fn uniquely_named<'t>(&mut self, node: &'t YamlNode, what: &str) -> Vec<(Text, &'t YamlNode)> {
        let mut seen: HashMap<&str, Position> = HashMap::new();
        let mut named = Vec::new();
        for (key, value) in self.map(node, &format!("a mapping of names to {what}")).unwrap_or_default() {
            match seen.insert(&key.name, key.at) {
                Some(first) => {
                    self.clash(key.at, format!("two {what} have the name {}; rename one", show_text(&key.name)), first)
                }
                None => named.push((Located { value: key.name.clone(), at: key.at }, value)),
            }
        }
        named
    }

    /// A mapping from texts to texts.
    fn pairs(&mut self, node: &YamlNode, max: usize) -> Vec<(String, String)> {
        let named = self.uniquely_named(node, "texts");
        if named.len() > max {
            self.error(node.at, format!("too many entries ({}); write at most {max}", named.len()));
            return Vec::new();
        }
        let value =
            |(name, node): (Text, &YamlNode)| Some((name.value.into_string(), self.text(node, "a text")?.to_owned()));
        named.into_iter().filter_map(value).collect()
    }

    pub(super) fn cases_file(&mut self, root: &YamlNode) -> CasesFile {
        let Some(fields) = self.fields(root, &CASES_FILE) else { return CasesFile::default() };
        let Some(node) = self.required(&fields, "cases") else { return CasesFile::default() };
        let mut names: HashMap<Box<str>, Position> = HashMap::new();
        let mut cases = Vec::new();
        for item in self.list(node, "a list of cases", CASES_MAX) {
            let Some(case) = self.case(item) else { continue };
            if let Some(first) = names.insert(case.name.value.clone(), case.name.at) {
                self.clash(
                    case.name.at,
                    format!("two cases have the name {}; rename one", show_text(&case.name.value)),
                    first,
                );
            }
            cases.push(case);
        }
        CasesFile { cases }
    }

    fn case(&mut self, node: &YamlNode) -> Option<CaseSpec> {
        const KINDS: &[(&str, RequestKind)] = &[
            ("preflight", RequestKind::Preflight),
            ("actual", RequestKind::Actual),
            ("websocket", RequestKind::WebSocket),
        ];
        let fields = self.fields(node, &CASE)?;
        let name = self.required(&fields, "name").and_then(|node| self.located_text(node, "a name"));
        let expect = self.required(&fields, "expect");
        let expected = expect.and_then(|node| self.expected(node));
        let kind = fields.find("kind").and_then(|node| self.choice(node, KINDS));
        let request = self.required(&fields, "request")?;
        let request = self.fields(request, &REQUEST)?;
        let origin = self.required(&request, "origin").and_then(|node| self.located_text(node, "an origin"))?;
        let mut text = |key: &str, default: &str| {
            let text = request.find(key).and_then(|node| self.text(node, "a text"));
            text.unwrap_or(default).to_owned()
        };
        let (tenant, route, path) = (text("tenant", "test"), text("route", "/"), text("path", "/"));
        let (query, method, api_host) = (text("query", ""), text("method", "GET"), text("apiHost", "api.test"));
        let headers = request.find("headers").map(|node| self.headers(node)).unwrap_or_default();
        let proxy_headers = request.find("proxyHeaders").map(|node| self.headers(node)).unwrap_or_default();
        let requested = self.texts(request.find("requestedHeaders"), "header name", FIELDS_MAX);
        Some(CaseSpec {
            name: name?,
            origin,
            tenant,
            route,
            api_host,
            path,
            query,
            method,
            headers,
            proxy_headers,
            requested_headers: requested.into_iter().map(|name| name.value.into_string()).collect(),
            kinds: kind.map_or_else(|| vec![RequestKind::Preflight, RequestKind::Actual], |kind| vec![kind]),
            expected: expected?,
            expected_at: expect?.at,
        })
    }

    fn headers(&mut self, node: &YamlNode) -> Vec<(HeaderName, String)> {
        let pairs = self.pairs(node, FIELDS_MAX);
        let mut headers = Vec::new();
        for (name, value) in pairs {
            match name.parse() {
                Ok(name) if http::HeaderValue::from_str(&value).is_ok() => headers.push((name, value)),
                Ok(_) | Err(_) => {
                    self.error(node.at, format!("invalid header field {}: write a name and a value", show_text(&name)))
                }
            }
        }
        headers
    }

    fn expected(&mut self, node: &YamlNode) -> Option<ExpectedAnswer> {
        if let YamlValue::Text(_) = &node.value {
            let words = [
                ("allow", ExpectedAnswer::Allow { group: None, terms: RuleTerms::NONE }),
                ("deny", ExpectedAnswer::Deny(None)),
                ("abstain", ExpectedAnswer::Abstain),
            ];
            let names: Vec<(&str, usize)> = words.iter().enumerate().map(|(index, (word, _))| (*word, index)).collect();
            let index = self.choice(node, &names)?;
            return words.into_iter().nth(index).map(|(_, expected)| expected);
        }
        let fields = self.fields(node, &EXPECT)?;
        if let Some(node) = fields.find("deny") {
            return Some(ExpectedAnswer::Deny(Some(self.text(node, "the message")?.to_owned())));
        }
        if let Some(node) = fields.find("error") {
            let kinds = RuleErrorKind::ALL.map(|kind| (kind.as_str(), kind));
            return self.choice(node, &kinds).map(ExpectedAnswer::Error);
        }
        let Some(node) = fields.find("allow") else {
            self.error(node.at, "empty expectation; write allow, deny, abstain, or allow, deny or error with details");
            return None;
        };
        let terms = self.fields(node, &TERMS)?;
        let group = terms.find("group").and_then(|node| self.text(node, "the name of a group")).map(str::to_owned);
        let max_age = terms.find("maxAge").and_then(|node| self.count(node, 0..=86_400));
        let credentials = terms.find("credentials").and_then(|node| self.flag(node));
        let terms = RuleTerms { max_age_seconds: max_age, without_credentials: credentials == Some(false) };
        Some(ExpectedAnswer::Allow { group, terms })
    }
}
