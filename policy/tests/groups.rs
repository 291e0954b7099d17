//! Compares policies with groups with a simple oracle, for generated tables of entries that overlap
//! often, in a template, in its sets, among a tenant's origins and in a rule.
//!
//! An accepted table gives each origin one group: the entry that decides is the oracle's, with the
//! terms of its group, and no entry of equal rank in another group covers the origin. The order of
//! entries, sets and groups has no influence. A refused table has an origin as a witness. Regexes
//! of two groups are also compared alone, with expressions that match few origins.

#![expect(clippy::panic, clippy::indexing_slicing, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "oracle/matcher.rs"]
mod matcher;
#[path = "oracle/groups.rs"]
mod oracle;

use std::cell::Cell;
use std::sync::Arc;

use crossgate_policy::{
    CorsRequest, CrossSiteProtection, CrossSiteTerms, DangerousSwitches, Decision, FieldLines, GroupSpec,
    OriginSetSpec, OwnOrigin, OwnOriginSpec, Policy, PolicySpec, Reason, RequestField, Rule, RuleContext, RuleData,
    RuleLimits, Script, SpecProblem, Template,
};
use http::HeaderMap;
use oracle::ListedEntry;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestRunner;

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

/// The tables that are tried.
const TABLES: u32 = 1_600;

const GROUPS: [&str; 3] = ["one", "two", "three"];

/// Entries that cover few hosts, so that they overlap.
const TEXTS: [&str; 36] = [
    "https://a.test",
    "https://b.a.test",
    "https://b.a.test:8443",
    "https://x-1.a.test",
    "http://b.a.test",
    "https://c.b.a.test",
    "moz-extension://known",
    "file://",
    "https://a.test:*",
    "https://b.a.test:*",
    "https://x-1.a.test:*",
    "http://b.a.test:*",
    "https://*.a.test",
    "https://*.a.test:*",
    "https://*.a.test:8443",
    "http://*.a.test",
    "https://*.b.a.test",
    "https://*.b.a.test:*",
    "https://*.c.b.a.test",
    "https://x-*.a.test",
    "https://x-*.a.test:*",
    "https://x-*.a.test:8443",
    "https://*-x.a.test",
    "https://*-x.a.test:*",
    "https://y-*.a.test",
    "https://*-y.a.test:8443",
    "https://x*.a.test",
    "https://*-1-x.a.test",
    "https://xy-*.a.test",
    "https://x-*-x.a.test",
    "https://x-*.b.a.test",
    "https://*-x.b.a.test",
    "http://x-*.a.test",
    "moz-extension://*",
    "vscode-webview://*",
    "null",
];

const REGEXES: [&str; 9] = [
    r"https://[a-z]\.a\.test",
    r"https://b\.a\.test(:[0-9]+)?",
    r"https?://x-[0-9]\.a\.test",
    r"https://x-1\.a\.test:8443",
    r"http://(b|other)\.a\.test",
    r"https://(other|guest)\.test",
    r"https://other\.test|file://",
    r"https?://guest\.test(:8443)?",
    "moz-extension://(abc|known)",
];

const HOSTS: [&str; 18] = [
    "a.test",
    "b.a.test",
    "x.a.test",
    "x-1.a.test",
    "1-x.a.test",
    "x-1-x.a.test",
    "y-1.a.test",
    "y-1-x.a.test",
    "x-1-y.a.test",
    "xy-1.a.test",
    "xy-1-x.a.test",
    "x-2-1-x.a.test",
    "c.b.a.test",
    "x-1.b.a.test",
    "x-1-x.b.a.test",
    "d.c.b.a.test",
    "other.test",
    "guest.test",
];

const OTHER_ORIGINS: [&str; 11] = [
    "http://a.test",
    "http://b.a.test",
    "http://x-1.a.test",
    "http://guest.test",
    "http://b.a.test:8443",
    "moz-extension://known",
    "moz-extension://abc",
    "vscode-webview://abc:1",
    "file://",
    "null",
    "https://a.test/",
];

fn origins() -> Vec<String> {
    let web = HOSTS.iter().flat_map(|host| ["", ":8443", ":9000"].map(|port| format!("https://{host}{port}")));
    web.chain(OTHER_ORIGINS.map(str::to_owned)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Layer {
    List,
    Set(usize),
    Own,
}

/// An entry. The group is an index of [`GROUPS`].
#[derive(Debug, Clone, Copy)]
struct TableEntry {
    text: &'static str,
    group: Option<usize>,
    layer: Layer,
    is_regex: bool,
}

/// The terms of a group; those that are `None` are the policy's.
#[derive(Debug, Clone, Copy)]
struct Terms {
    method: Option<&'static str>,
    header: Option<&'static str>,
    exposed: Option<&'static str>,
    max_age: Option<u32>,
    credentials: Option<bool>,
}

/// The answer of a rule.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Allow(Option<usize>),
    Deny,
}

#[derive(Debug, Clone)]
struct Table {
    entries: Vec<TableEntry>,
    base: Terms,
    groups: [Terms; 3],
    /// The answers of the rule by host, if there is a rule.
    rule: Option<Vec<(&'static str, Answer)>>,
    allow_insecure: bool,
}

/// An order of the entries and of the groups.
#[derive(Debug, Clone)]
struct Order {
    entries: Vec<usize>,
    groups: [usize; 3],
}

fn group() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![1 => Just(None), 3 => (0..GROUPS.len()).prop_map(Some)]
}

fn layer() -> impl Strategy<Value = Layer> {
    prop_oneof![3 => Just(Layer::List), 1 => (0..2_usize).prop_map(Layer::Set)]
}

/// Generates entries of the template with different texts. Equal texts in two groups are refused,
/// so they are rare.
fn shared() -> impl Strategy<Value = Vec<TableEntry>> {
    let texts = subsequence(TEXTS.to_vec(), 1..9);
    let star = prop_oneof![2 => Just(None), 1 => prop_oneof![Just(None), Just(Some(0))].prop_map(Some)];
    let regexes = prop_oneof![3 => Just(Vec::new()), 1 => subsequence(REGEXES.to_vec(), 1..3)];
    let extra = prop_oneof![9 => Just(None), 1 => (select(&TEXTS[..]), group()).prop_map(Some)];
    (texts, vec((group(), layer()), 9), star, (regexes, vec(group(), 2)), extra).prop_map(
        |(texts, places, star, (regexes, regex_groups), extra)| {
            let entry = |(text, (group, layer))| TableEntry { text, group, layer, is_regex: false };
            let mut entries: Vec<TableEntry> = texts.into_iter().zip(places).map(entry).collect();
            entries.extend(star.map(|group| entry(("*", (group, Layer::List)))));
            let regex = |(text, group)| TableEntry { is_regex: true, ..entry((text, (group, Layer::List))) };
            entries.extend(regexes.into_iter().zip(regex_groups).map(regex));
            entries.extend(extra.map(|(text, group)| entry((text, (group, Layer::List)))));
            // `null` never has credentials, which the first group and the policy do not have.
            entries.iter_mut().filter(|entry| entry.text == "null").for_each(|entry| entry.group = Some(0));
            entries
        },
    )
}

fn own() -> impl Strategy<Value = Vec<TableEntry>> {
    (subsequence(TEXTS.to_vec(), 0..5), vec(group(), 5)).prop_map(|(texts, groups)| {
        let entry = |(text, group)| TableEntry { text, group, layer: Layer::Own, is_regex: false };
        texts.into_iter().filter(|text| *text != "null").zip(groups).map(entry).collect()
    })
}

fn terms() -> impl Strategy<Value = Terms> {
    let names = |names: [&'static str; 2]| prop_oneof![Just(None), select(names.to_vec()).prop_map(Some)];
    let age = prop_oneof![Just(None), select(vec![0, 60]).prop_map(Some)];
    let credentials = prop_oneof![Just(None), any::<bool>().prop_map(Some)];
    (names(["PUT", "DELETE"]), names(["x-a", "x-b"]), names(["x-c", "x-d"]), age, credentials).prop_map(
        |(method, header, exposed, max_age, credentials)| Terms { method, header, exposed, max_age, credentials },
    )
}

fn rule() -> impl Strategy<Value = Option<Vec<(&'static str, Answer)>>> {
    let answer = prop_oneof![3 => group().prop_map(Answer::Allow), 1 => Just(Answer::Deny)];
    let answers = (subsequence(HOSTS.to_vec(), 1..8), vec(answer, 8))
        .prop_map(|(hosts, answers)| hosts.into_iter().zip(answers).collect::<Vec<_>>());
    prop_oneof![2 => Just(None), 1 => answers.prop_map(Some)]
}

fn table() -> impl Strategy<Value = (Table, Order)> {
    let groups = [terms(), terms(), terms()];
    let parts = (shared(), own(), groups, terms(), rule(), any::<bool>());
    let tables = parts.prop_map(|(shared, own, mut groups, base, rule, allow_insecure)| {
        // Without credentials for `*` and `null`, more tables are valid.
        groups[0].credentials = None;
        let base = Terms { credentials: Some(false), ..base };
        Table { entries: [shared, own].concat(), base, groups, rule, allow_insecure }
    });
    tables.prop_flat_map(|table| {
        let entries = Just((0..table.entries.len()).collect::<Vec<_>>()).prop_shuffle();
        let groups = Just([0, 1, 2]).prop_shuffle();
        let order = (entries, groups).prop_map(|(entries, groups)| Order { entries, groups });
        (Just(table), order)
    })
}

impl Order {
    fn of_file(table: &Table) -> Self {
        Self { entries: (0..table.entries.len()).collect(), groups: [0, 1, 2] }
    }
}

fn owned(text: Option<&'static str>) -> Option<Vec<String>> {
    text.map(|text| vec![text.to_owned()])
}

impl Table {
    fn ordered(&self, order: &Order) -> Vec<TableEntry> {
        order.entries.iter().map(|index| self.entries[*index]).collect()
    }

    fn spec(&self, order: &Order) -> PolicySpec {
        let entries = self.ordered(order);
        let texts = |group: Option<usize>, layer: Layer, is_regex: bool| -> Vec<String> {
            let listed =
                entries.iter().filter(|entry| (entry.group, entry.layer, entry.is_regex) == (group, layer, is_regex));
            listed.map(|entry| entry.text.to_owned()).collect()
        };
        let sets = |group: Option<usize>| {
            let is_reversed = order.groups[0] != 0;
            let numbers = if is_reversed { [1, 0] } else { [0, 1] };
            let set = |number| OriginSetSpec {
                name: format!("{number} of {group:?}"),
                origins: texts(group, Layer::Set(number), false),
            };
            numbers.map(set).to_vec()
        };
        let group = |index: usize| GroupSpec {
            name: GROUPS[index].to_owned(),
            allow_origins: texts(Some(index), Layer::List, false),
            origin_sets: sets(Some(index)),
            allow_origin_regexes: texts(Some(index), Layer::List, true),
            allow_methods: owned(self.groups[index].method),
            allow_headers: owned(self.groups[index].header),
            expose_headers: owned(self.groups[index].exposed),
            allow_credentials: self.groups[index].credentials,
            max_age_seconds: self.groups[index].max_age,
            tenants_may_add: true,
        };
        let protection = CrossSiteProtection::Protect;
        let default = PolicySpec::default();
        PolicySpec {
            allow_origins: texts(None, Layer::List, false),
            origin_sets: sets(None),
            allow_origin_regexes: texts(None, Layer::List, true),
            allow_methods: owned(self.base.method).unwrap_or_default(),
            allow_headers: owned(self.base.header).unwrap_or_default(),
            expose_headers: owned(self.base.exposed).unwrap_or_default(),
            allow_credentials: self.base.credentials == Some(true),
            max_age_seconds: self.base.max_age.unwrap_or(default.max_age_seconds),
            cross_site: CrossSiteTerms { protection, ..CrossSiteTerms::default() },
            dangerously: DangerousSwitches {
                allow_null: true,
                allow_insecure_origins: self.allow_insecure,
                allow_local_file_origins: true,
                allow_any_extension: true,
                allow_any_origin: true,
                ..DangerousSwitches::default()
            },
            groups: order.groups.map(group).to_vec(),
            ..default
        }
    }

    fn compiled_rule(&self) -> Option<Arc<Rule>> {
        let call = |answer: Answer| match answer {
            Answer::Allow(None) => "allow()".to_owned(),
            Answer::Allow(Some(group)) => format!("allow(#{{ group: {:?} }})", GROUPS[group]),
            Answer::Deny => "deny()".to_owned(),
        };
        let answers = self.rule.as_ref()?.iter();
        let cases: String = answers
            .map(|(host, answer)| format!("if req.host == {host:?} {{ return {}; }}\n", call(*answer)))
            .collect();
        let data = Arc::new(RuleData::default());
        let script = Script::compile("it", &format!("fn decide(req) {{\n{cases}}}"), &data, &RuleLimits::default());
        let script = script.unwrap_or_else(|problems| panic!("{problems:?}"));
        Some(Arc::new(Rule::new(1, &Arc::new(script), &[], &[], 1).with_groups(&GROUPS.map(Box::from))))
    }

    fn compile(&self, order: &Order) -> Result<Policy, Vec<SpecProblem>> {
        let template = Template::compile_with_rule(&self.spec(order), self.compiled_rule())?.value;
        let own = self.ordered(order).into_iter().filter(|entry| entry.layer == Layer::Own);
        let own = own.map(|entry| OwnOriginSpec {
            origin: entry.text.to_owned(),
            group: entry.group.map(|group| GROUPS[group].to_owned()),
        });
        Ok(Policy::extend_groups(Arc::new(template), &own.collect::<Vec<_>>())?.value)
    }

    /// Lists the entries as the oracle takes them.
    fn listed(&self) -> Vec<ListedEntry> {
        let listed = |entry: &TableEntry| ListedEntry {
            text: entry.text.to_owned(),
            group: entry.group.map(|group| GROUPS[group].to_owned()),
            is_own: entry.layer == Layer::Own,
            is_regex: entry.is_regex,
        };
        self.entries.iter().map(listed).collect()
    }

    /// Returns the terms of a group, each its own or the policy's.
    fn terms(&self, group: Option<&str>) -> Terms {
        let Some(index) = GROUPS.iter().position(|name| Some(*name) == group) else { return self.base };
        let (own, base) = (self.groups[index], self.base);
        Terms {
            method: own.method.or(base.method),
            header: own.header.or(base.header),
            exposed: own.exposed.or(base.exposed),
            max_age: own.max_age.or(base.max_age),
            credentials: own.credentials.or(base.credentials),
        }
    }

    /// Whether the credentials of a group exclude an origin, which no listed entry may have.
    fn excludes(&self, group: Option<&str>, origin: &str) -> bool {
        let is_insecure = origin.starts_with("http://") && !self.allow_insecure;
        is_insecure && self.terms(group).credentials == Some(true)
    }
}

/// A decision, in a form that does not depend on the order of a table.
#[derive(Debug, PartialEq)]
struct Seen {
    reason: Reason,
    is_allowed: bool,
    group: Option<String>,
    entry: Option<String>,
    fields: Vec<String>,
}

fn seen(policy: &Policy, request: &CorsRequest<'_>) -> Seen {
    let verdict = match policy.decide(request) {
        Decision::Static(verdict) => verdict,
        Decision::Ask(call) => {
            let headers = HeaderMap::new();
            let context = RuleContext { tenant: "it", route: "/", path: "/", query: "", headers: &headers };
            let run = call.rule().run(&call.input(&context), 0, || false);
            call.conclude(run.answer.as_ref().map_err(|error| error.kind))
        }
    };
    let edits = policy.edits(&verdict, request);
    Seen {
        reason: verdict.reason,
        is_allowed: verdict.is_allowed(),
        group: policy.group_name(verdict.group).map(str::to_owned),
        entry: verdict.entry.map(|entry| policy.entry_text(entry).to_owned()),
        fields: edits.map(|edit| format!("{}: {}", edit.name, edit.value.as_bytes().escape_ascii())).collect(),
    }
}

/// The method and the header that a preflight requests.
type Requested = Option<(&'static str, &'static str)>;

/// Returns what the oracle expects.
fn expected(table: &Table, listed: &[ListedEntry], origin: &str, requested: Requested) -> Seen {
    let denied = |reason, group: Option<&str>, entry: Option<&str>| Seen {
        reason,
        is_allowed: false,
        group: group.map(str::to_owned),
        entry: entry.map(str::to_owned),
        fields: Vec::new(),
    };
    // The decision ignores what a regex must not match.
    let applies = |entry: &&ListedEntry| !(entry.is_regex && table.excludes(entry.group.as_deref(), origin));
    let listed: Vec<ListedEntry> = listed.iter().filter(applies).cloned().collect();
    let is_asked = origin != "null" && matcher::is_origin(origin.as_bytes());
    let deciding = oracle::deciding(&listed, origin.as_bytes());
    let host = || origin.split_once("://").map(|(_, rest)| rest.split(':').next().unwrap_or_default());
    let answer = table.rule.as_ref().filter(|_| is_asked && deciding.is_none_or(|entry| entry.text == "*"));
    let answer = answer.and_then(|rule| rule.iter().find(|(answered, _)| host() == Some(*answered)));
    let (reason, text, group) = match (answer, deciding) {
        (Some((_, Answer::Deny)), _) => return denied(Reason::RuleDeny, None, Some("rule:it")),
        (Some((_, Answer::Allow(group))), _) => {
            let group = group.map(|group| GROUPS[group]);
            if table.excludes(group, origin) {
                return denied(Reason::RuleDeny, group, Some("rule:it"));
            }
            (Reason::Rule, "rule:it", group)
        }
        (None, None) if origin == "null" => return denied(Reason::NullOrigin, None, None),
        (None, None) if !is_asked => return denied(Reason::MalformedOrigin, None, None),
        (None, None) => return denied(Reason::NoMatch, None, None),
        (None, Some(entry)) => {
            let reason = match entry.text.as_str() {
                "*" => Reason::Any,
                _ if entry.is_regex => Reason::Regex,
                text if text.contains('*') => Reason::Wildcard,
                _ => Reason::Exact,
            };
            (reason, entry.text.as_str(), entry.group.as_deref())
        }
    };
    let terms = table.terms(group);
    if let Some((method, header)) = requested {
        if terms.method != Some(method) && method != "POST" {
            return denied(Reason::Method, group, Some(text));
        }
        if terms.header != Some(header) {
            return denied(Reason::Header, group, Some(text));
        }
    }
    let field = |name: &str, value: &str| format!("access-control-{name}: {value}");
    let age = terms.max_age.unwrap_or(600).to_string();
    let is_preflight = requested.is_some();
    let fields = [
        Some(field("allow-origin", if reason == Reason::Any { "*" } else { origin })),
        (terms.credentials == Some(true)).then(|| field("allow-credentials", "true")),
        terms.method.filter(|_| is_preflight).map(|method| field("allow-methods", method)),
        terms.header.filter(|_| is_preflight).map(|header| field("allow-headers", header)),
        is_preflight.then(|| field("max-age", &age)),
        terms.exposed.filter(|_| !is_preflight).map(|exposed| field("expose-headers", exposed)),
    ];
    Seen {
        reason,
        is_allowed: true,
        group: group.map(str::to_owned),
        entry: Some(text.to_owned()),
        fields: fields.into_iter().flatten().collect(),
    }
}

fn check_origin(
    table: &Table,
    [first, shuffled]: [&Policy; 2],
    listed: &[ListedEntry],
    origin: &str,
    requested: Requested,
) -> Result<(), TestCaseError> {
    let lines: Vec<&[u8]> = requested.iter().map(|(_, header)| header.as_bytes()).collect();
    let lines: &dyn FieldLines = &lines;
    let get = CorsRequest { origin: RequestField::One(origin.as_bytes()), ..CorsRequest::new(b"GET", OWN) };
    let request = match requested {
        None => get,
        Some((method, _)) => CorsRequest {
            method: b"OPTIONS",
            requested_method: RequestField::One(method.as_bytes()),
            requested_headers: lines,
            ..get
        },
    };
    let found = seen(first, &request);
    prop_assert_eq!(&found, &expected(table, listed, origin, requested), "{} {:?}", origin, requested);
    prop_assert_eq!(&seen(shuffled, &request), &found, "{} {:?}", origin, requested);
    Ok(())
}

/// Checks that no two entries of the best rank have different groups.
fn check_rank(listed: &[ListedEntry], origin: &str) -> Result<(), TestCaseError> {
    let best = oracle::best(listed, origin.as_bytes());
    // An entry that the template has as well has no effect.
    let in_template = |text: &str| listed.iter().any(|other| !other.is_own && other.text == text);
    let mut groups: Vec<_> =
        best.iter().filter(|entry| !entry.is_own || !in_template(&entry.text)).map(|entry| &entry.group).collect();
    groups.dedup();
    prop_assert!(groups.len() <= 1, "{} {:?}", origin, best);
    Ok(())
}

/// Checks the message of a refusal: a known one, with an origin that both entries cover.
fn check_refusal(listed: &[ListedEntry], message: &str) -> Result<(), TestCaseError> {
    const PLAIN: [&str; 4] =
        ["expected it in one place", "with credentials", "is no group of the policy", "too complex to check"];
    if !message.contains(" both cover ") && !message.contains(" both match ") {
        prop_assert!(PLAIN.iter().any(|known| message.contains(known)), "{}", message);
        return Ok(());
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let named = |text: &str| listed.iter().filter(|entry| entry.text == text).collect::<Vec<_>>();
    let origin = quoted[if message.contains("outside of groups") { 2 } else { 3 }];
    for text in &quoted[..2] {
        prop_assert!(named(text).iter().all(|entry| oracle::covers(entry, origin.as_bytes())), "{}", message);
    }
    let differ = named(quoted[0]).iter().any(|one| named(quoted[1]).iter().any(|other| one.group != other.group));
    prop_assert!(differ, "{}", message);
    Ok(())
}

#[test]
fn tables_of_groups_agree_with_the_oracle_in_any_order() {
    let origins = origins();
    let [accepted, refused, ruled, decided] = [0_usize; 4].map(Cell::new);
    let count = |counter: &Cell<usize>, more: usize| counter.set(counter.get() + more);
    let config = ProptestConfig { cases: TABLES, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&table(), |(table, order)| {
        let listed = table.listed();
        match (table.compile(&Order::of_file(&table)), table.compile(&order)) {
            (Ok(first), Ok(shuffled)) => {
                count(&accepted, 1);
                count(&ruled, usize::from(table.rule.is_some()));
                for (number, origin) in origins.iter().enumerate() {
                    check_rank(&listed, origin)?;
                    let method = ["PUT", "DELETE", "POST"][number % 3];
                    let header = ["x-a", "x-b"][number % 2];
                    for requested in [None, Some((method, header))] {
                        check_origin(&table, [&first, &shuffled], &listed, origin, requested)?;
                        count(&decided, 2);
                    }
                }
            }
            (Err(first), Err(shuffled)) => {
                count(&refused, 1);
                for problem in first.iter().chain(&shuffled) {
                    check_refusal(&listed, &problem.message)?;
                }
            }
            (first, shuffled) => {
                let problems = [first.err(), shuffled.err()];
                return Err(TestCaseError::fail(format!("the order decides: {problems:?}")));
            }
        }
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let counts = [&accepted, &refused, &ruled, &decided].map(Cell::get);
    let enough = [800, 150, 200, 200_000];
    assert!(counts.iter().zip(enough).all(|(count, least)| *count >= least), "{counts:?}");
}

/// Pieces of expressions for hosts and ports. Some match only texts that are no origins.
const HOST_PIECES: [&str; 22] = [
    "a", "b", "ab", "[ab]", "[a-c]+", "a*", "(a|b)", "-", r"\.", r"\.", "[0-9]", "1", "[0-9]{2}", "0", r"\d+", "(b-)?",
    "[^a]", ".", r"\w", "(a|1)", "[a-b.]*", "xn--",
];
const HOST_ENDS: [&str; 9] = [
    r"\.test",
    r"\.tes?t",
    r"\.[a-t]+",
    r"\.1",
    r"\.0\.0\.[0-9]{3}",
    r"10\.0\.0\.[0-9]+",
    r"\[::[0-9]\]",
    r"\[[0-9a-f:]+\]",
    "",
];
const PORTS: [&str; 10] =
    ["", "", "", "(:[0-9]+)?", ":443", ":44[34]", ":[0-9]{2}", ":8[0-1]", ":6553[0-9]", ":[0-9]{5}"];
const SPECIAL: [&str; 5] = ["file://", r"app://\.", "[a-z]+://\\.", r"(?i)HTTPS://A\.TEST", r"https://\ba\b\.test"];
const SCHEMES: [&str; 6] = ["https", "https", "https?", "(https|wss)", "[a-z]+", "http"];

/// Generates two expressions with some parts in common, and sometimes one for other origins.
fn expressions() -> impl Strategy<Value = [String; 2]> {
    let parts =
        || (select(&SCHEMES[..]), vec(select(&HOST_PIECES[..]), 0..3), select(&HOST_ENDS[..]), select(&PORTS[..]));
    let text = |(scheme, pieces, end, port): (&str, Vec<&str>, &str, &str)| {
        format!("{scheme}://{}{end}{port}", pieces.concat())
    };
    let web = (parts(), parts(), any::<[bool; 4]>()).prop_map(move |(one, other, is_kept)| {
        let [scheme, pieces, end, port] = is_kept;
        let second = (
            if scheme { one.0 } else { other.0 },
            if pieces { one.1.clone() } else { other.1 },
            if end { one.2 } else { other.2 },
            if port { one.3 } else { other.3 },
        );
        [text(one), text(second)]
    });
    let special = select(&SPECIAL[..]).prop_map(str::to_owned);
    (web, prop::option::weighted(0.1, special)).prop_map(|([one, other], special)| match special {
        Some(special) => [format!("{one}|{special}"), format!("{special}|{other}")],
        None => [one, other],
    })
}

/// Origins that the expressions may match.
fn sampled() -> Vec<String> {
    let labels =
        ["a", "b", "ab", "aa", "1", "0", "10", "a1", "a-b", "b-a", "c", "00", "a.b", "1.a", "a.1", "_", "xn--a"];
    let hosts = labels.iter().flat_map(|label| ["test", "tet", "a", "t"].map(|top| format!("{label}.{top}")));
    let addresses = [
        "10.0.0.1",
        "10.0.0.100",
        "1.0.0.100",
        "1.0.0.255",
        "0.0.0.123",
        "[::1]",
        "[::2]",
        "[a::1]",
        "[1:2:3:4:5:6:7:8]",
    ];
    let alone = ["a", "b", "ab", "c"];
    let hosts = hosts.chain(addresses.map(str::to_owned)).chain(alone.map(str::to_owned));
    let ports = ["", ":80", ":443", ":444", ":81", ":10", ":65535", ":65530", ":10000"];
    let web = hosts.flat_map(|host| {
        let of_scheme = |scheme: &str| ports.map(|port| format!("{scheme}://{host}{port}"));
        ["https", "http", "wss", "a"].map(of_scheme).concat()
    });
    let all = web.chain(["file://", "app://."].map(str::to_owned));
    all.filter(|origin| matcher::is_origin(origin.as_bytes())).collect()
}

#[test]
fn accepted_regexes_of_two_groups_match_no_origin_in_common() {
    let sampled = sampled();
    let [accepted, refused] = [0_usize; 2].map(Cell::new);
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&expressions(), |texts| {
        let group = |(text, name): (&String, &str)| GroupSpec {
            name: name.to_owned(),
            allow_origin_regexes: vec![text.clone()],
            ..GroupSpec::default()
        };
        let groups: Vec<GroupSpec> = texts.iter().zip(GROUPS).map(group).collect();
        let listed = groups.iter().map(|group| ListedEntry {
            text: group.allow_origin_regexes[0].clone(),
            group: Some(group.name.clone()),
            is_own: false,
            is_regex: true,
        });
        let listed: Vec<ListedEntry> = listed.collect();
        match Template::compile(&PolicySpec { groups, ..PolicySpec::default() }) {
            Ok(_) => {
                accepted.set(accepted.get() + 1);
                let is_common = |origin: &&String| listed.iter().all(|entry| oracle::covers(entry, origin.as_bytes()));
                prop_assert_eq!(sampled.iter().find(is_common), None);
            }
            Err(problems) => {
                refused.set(refused.get() + 1);
                for problem in problems {
                    check_refusal(&listed, &problem.message)?;
                }
            }
        }
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let counts = [accepted.get(), refused.get()];
    assert!(counts.iter().all(|count| *count >= 60), "{counts:?}");
}
