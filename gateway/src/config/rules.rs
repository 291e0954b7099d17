//! Decodes what concerns rules: the policy's `rule`, its limits, and the files beside the scripts.
//!
//! Only their form is looked at. Whether a script is any good is for the policy engine to say, and whether it does what its cases
//! expect, for `scripts`.

use std::collections::HashMap;
use std::time::Duration;

use crossgate_policy::{Kind, RULE_HEADERS_MAX, RULE_QUERY_MAX, RuleErrorKind, RuleLimits, Terms};
use http::HeaderName;

use super::decode::{Decoder, shown};
use super::model::{Located, PolicySpec, RuleBounds, RuleSpec, Text};
use super::sections::{self, Section};
use super::tree::{At, Node, Value};
use crate::verdicts::{CacheLimits, RuleTimes};

/// Values of one set, or entries of one table.
const VALUES_MAX: usize = 1_000_000;
/// Cases of one script.
const CASES_MAX: usize = 1_000;
/// Header fields of one case.
const FIELDS_MAX: usize = 100;
/// Bytes of a query key.
const KEY_LEN_MAX: usize = 64;

/// Header fields that no rule reads: they are the user's secrets.
const SECRET_HEADERS: [&str; 3] = ["cookie", "authorization", "proxy-authorization"];

const DATA_FILE: Section = Section { what: "a data file", keys: &["sets", "tables"] };
const CASES_FILE: Section = Section { what: "a cases file", keys: &["cases"] };
const CASE: Section = Section { what: "a case", keys: &["name", "request", "kind", "expect"] };
const REQUEST: Section = Section {
    what: "a case's request",
    keys: &["origin", "tenant", "route", "path", "query", "method", "headers", "proxyHeaders", "requestedHeaders"],
};
const EXPECT: Section = Section { what: "an expectation", keys: &["allow", "deny", "error"] };
const TERMS: Section = Section { what: "the terms of an answer", keys: &["maxAge", "credentials"] };

/// The sets and tables of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DataFile {
    /// Sets of values.
    pub sets: Vec<(Text, Vec<String>)>,
    /// Tables of keys and values.
    pub tables: Vec<(Text, Vec<(String, String)>)>,
}

/// The cases of one script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CasesFile {
    /// In the order of the file.
    pub cases: Vec<CaseSpec>,
}

/// One case as written.
#[derive(Debug, PartialEq, Eq)]
pub struct CaseSpec {
    /// What it is called.
    pub name: Text,
    /// The origin that is asked about.
    pub origin: Text,
    /// The tenant's id.
    pub tenant: String,
    /// The route's prefix.
    pub route: String,
    /// The path.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The method, which a preflight asks for.
    pub method: String,
    /// Header fields that the page sets: a preflight has none of them.
    pub headers: Vec<(HeaderName, String)>,
    /// Header fields that a proxy sets, on preflights too.
    pub proxy_headers: Vec<(HeaderName, String)>,
    /// What a preflight asks for.
    pub requested_headers: Vec<String>,
    /// As what it is run: all must agree.
    pub kinds: Vec<Kind>,
    /// What the rule is to answer.
    pub expected: Expected,
    /// Where that is written.
    pub expected_at: At,
}

/// What a case expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// To be allowed, on exactly these terms.
    Allow(Terms),
    /// To be denied, with this message if one is named.
    Deny(Option<String>),
    /// No answer.
    Abstain,
    /// An error of this kind.
    Error(RuleErrorKind),
}

fn millis(from: u64, to: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

impl Decoder<'_> {
    pub(super) fn rule_bounds(&mut self, node: &Node) -> Option<RuleBounds> {
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
            run: self.duration_or(&fields, "time", millis(1, 1_000), old.times.run),
            per_second: self.duration_or(&fields, "timePerSecond", millis(1, 1_000), old.times.per_second),
        };
        let cache = CacheLimits {
            entries: count(self, "cacheEntries", 10_000_000, old.cache.entries),
            entries_per_tenant: count(self, "cacheEntriesPerTenant", 10_000_000, old.cache.entries_per_tenant),
        };
        Some(RuleBounds { script, times, cache })
    }

    pub(super) fn rule(&mut self, node: &Node) -> Option<RuleSpec> {
        let fields = self.fields(node, &sections::RULE)?;
        let script = self.required(&fields, "script").and_then(|node| self.script_name(node));
        let headers = self.texts(fields.find("headers"), "header name", RULE_HEADERS_MAX);
        let headers = headers.into_iter().filter_map(|name| self.rule_header(&name)).collect();
        let query = self.texts(fields.find("query"), "query key", RULE_QUERY_MAX);
        for key in query.iter().filter(|key| key.value.is_empty() || key.value.len() > KEY_LEN_MAX) {
            self.error(key.at, format!("this is no query key; write 1 to {KEY_LEN_MAX} bytes"));
        }
        Some(RuleSpec { script: script?, headers, query })
    }

    fn script_name(&mut self, node: &Node) -> Option<Text> {
        let name = self.located_text(node, "the name of a script")?;
        let is_plain = !name.value.contains(['/', '\\']) && !name.value.starts_with('.');
        if !is_plain || !name.value.ends_with(".rhai") {
            self.error(
                name.at,
                format!("{} is no script; write a file of scriptsDir, such as preview.rhai", shown(&name.value)),
            );
            return None;
        }
        Some(name)
    }

    fn rule_header(&mut self, name: &Text) -> Option<Text> {
        let Ok(parsed) = name.value.parse::<HeaderName>() else {
            self.error(name.at, format!("{} is no header name; write one such as x-plan", shown(&name.value)));
            return None;
        };
        let parsed = parsed.as_str();
        let hint = if SECRET_HEADERS.contains(&parsed) {
            "it is the user's secret; decide by something else"
        } else if parsed == "origin" || parsed.starts_with("access-control-") {
            "a rule sees it as a field of req; leave it out"
        } else {
            return Some(Located { value: parsed.into(), at: name.at });
        };
        self.error(name.at, format!("no rule reads the header {}: {hint}", shown(parsed)));
        None
    }

    /// A rule needs a place where its script is.
    pub(super) fn check_rules(&mut self, policies: &[PolicySpec], has_scripts: bool) {
        let first = policies.iter().find_map(|policy| policy.rule.as_ref());
        if let (Some(rule), false) = (first, has_scripts) {
            self.error(rule.script.at, "there is no directory of scripts; write scriptsDir: scripts at the top");
        }
    }

    pub(super) fn data_file(&mut self, root: &Node) -> DataFile {
        let Some(fields) = self.fields(root, &DATA_FILE) else { return DataFile::default() };
        let sets = fields.find("sets").map(|node| self.uniquely_named(node, "sets")).unwrap_or_default();
        let tables = fields.find("tables").map(|node| self.uniquely_named(node, "tables")).unwrap_or_default();
        let values = |decoder: &mut Self, node| {
            decoder.texts(Some(node), "value", VALUES_MAX).into_iter().map(|text| text.value.into_string()).collect()
        };
        DataFile {
            sets: sets.into_iter().map(|(name, node)| (name, values(self, node))).collect(),
            tables: tables.into_iter().map(|(name, node)| (name, self.pairs(node, VALUES_MAX))).collect(),
        }
    }

    fn uniquely_named<'t>(&mut self, node: &'t Node, what: &str) -> Vec<(Text, &'t Node)> {
        let mut seen: HashMap<&str, At> = HashMap::new();
        let mut named = Vec::new();
        for (key, value) in self.map(node, &format!("a mapping of names to {what}")).unwrap_or_default() {
            match seen.insert(&key.name, key.at) {
                Some(first) => {
                    self.clash(key.at, format!("there are two {what} called {}; rename one", shown(&key.name)), first)
                }
                None => named.push((Located { value: key.name.clone(), at: key.at }, value)),
            }
        }
        named
    }

    /// A mapping from texts to texts.
    fn pairs(&mut self, node: &Node, max: usize) -> Vec<(String, String)> {
        let named = self.uniquely_named(node, "texts");
        if named.len() > max {
            self.error(node.at, format!("{} entries are too many; write at most {max}", named.len()));
            return Vec::new();
        }
        let value =
            |(name, node): (Text, &Node)| Some((name.value.into_string(), self.text(node, "a text")?.to_owned()));
        named.into_iter().filter_map(value).collect()
    }

    pub(super) fn cases_file(&mut self, root: &Node) -> CasesFile {
        let Some(fields) = self.fields(root, &CASES_FILE) else { return CasesFile::default() };
        let Some(node) = self.required(&fields, "cases") else { return CasesFile::default() };
        let mut names: HashMap<Box<str>, At> = HashMap::new();
        let mut cases = Vec::new();
        for item in self.list(node, "a list of cases", CASES_MAX) {
            let Some(case) = self.case(item) else { continue };
            if let Some(first) = names.insert(case.name.value.clone(), case.name.at) {
                self.clash(
                    case.name.at,
                    format!("there are two cases called {}; rename one", shown(&case.name.value)),
                    first,
                );
            }
            cases.push(case);
        }
        CasesFile { cases }
    }

    fn case(&mut self, node: &Node) -> Option<CaseSpec> {
        const KINDS: &[(&str, Kind)] =
            &[("preflight", Kind::Preflight), ("actual", Kind::Actual), ("websocket", Kind::WebSocket)];
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
        let (query, method) = (text("query", ""), text("method", "GET"));
        let headers = request.find("headers").map(|node| self.headers(node)).unwrap_or_default();
        let proxy_headers = request.find("proxyHeaders").map(|node| self.headers(node)).unwrap_or_default();
        let requested = self.texts(request.find("requestedHeaders"), "header name", FIELDS_MAX);
        Some(CaseSpec {
            name: name?,
            origin,
            tenant,
            route,
            path,
            query,
            method,
            headers,
            proxy_headers,
            requested_headers: requested.into_iter().map(|name| name.value.into_string()).collect(),
            kinds: kind.map_or_else(|| vec![Kind::Preflight, Kind::Actual], |kind| vec![kind]),
            expected: expected?,
            expected_at: expect?.at,
        })
    }

    fn headers(&mut self, node: &Node) -> Vec<(HeaderName, String)> {
        let pairs = self.pairs(node, FIELDS_MAX);
        let mut headers = Vec::new();
        for (name, value) in pairs {
            match name.parse() {
                Ok(name) if http::HeaderValue::from_str(&value).is_ok() => headers.push((name, value)),
                Ok(_) | Err(_) => {
                    self.error(node.at, format!("{} is no header field; write a name and a value", shown(&name)))
                }
            }
        }
        headers
    }

    fn expected(&mut self, node: &Node) -> Option<Expected> {
        if let Value::Text(_) = &node.value {
            let words = [
                ("allow", Expected::Allow(Terms::NONE)),
                ("deny", Expected::Deny(None)),
                ("abstain", Expected::Abstain),
            ];
            let names: Vec<(&str, usize)> = words.iter().enumerate().map(|(index, (word, _))| (*word, index)).collect();
            let index = self.choice(node, &names)?;
            return words.into_iter().nth(index).map(|(_, expected)| expected);
        }
        let fields = self.fields(node, &EXPECT)?;
        if let Some(node) = fields.find("deny") {
            return Some(Expected::Deny(Some(self.text(node, "the message")?.to_owned())));
        }
        if let Some(node) = fields.find("error") {
            let kinds = RuleErrorKind::ALL.map(|kind| (kind.as_str(), kind));
            return self.choice(node, &kinds).map(Expected::Error);
        }
        let Some(node) = fields.find("allow") else {
            self.error(
                node.at,
                "nothing is expected here; write allow, deny, abstain, or one of them with its details",
            );
            return None;
        };
        let terms = self.fields(node, &TERMS)?;
        let max_age = terms.find("maxAge").and_then(|node| self.count(node, 0..=86_400));
        let credentials = terms.find("credentials").and_then(|node| self.flag(node));
        Some(Expected::Allow(Terms { max_age_seconds: max_age, without_credentials: credentials == Some(false) }))
    }
}
