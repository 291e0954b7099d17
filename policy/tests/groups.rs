//! Compares random tables of groups with an oracle that sorts all covering entries: template and
//! tenant, patterns, regexes, `*` and a rule. Shuffling the configuration changes nothing.

#![expect(clippy::indexing_slicing, clippy::string_slice, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "oracle/groups.rs"]
mod groups;
#[path = "oracle/matcher.rs"]
mod matcher;

use std::sync::Arc;

use crossgate_policy::{
    CorsRequest, DangerousSwitches, Decision, GroupSpec, OwnOrigin, OwnOriginSpec, Policy, PolicySpec, Reason,
    RequestField, Rule, RuleContext, RuleData, RuleLimits, Script, Template,
};
use groups::ListedEntry;
use http::HeaderMap;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.test", port: None, scheme: None };

/// The groups of every table. `b` has credentials.
const GROUPS: [&str; 3] = ["a", "b", "c"];

const SUFFIXES: [&str; 3] = ["x.test", "a.x.test", "b.a.x.test"];
const LABELS: [&str; 8] = ["a", "b", "ab", "a-b", "a-b-b", "c", "r", "rr"];
const PORTS: [&str; 3] = ["", ":1", ":2"];
const STARS: [&str; 6] = ["*.", "a*.", "*-b.", "a-*.", "ab*.", "a*-b."];
const REGEXES: [&str; 6] = [
    r"https://[ab]\.x\.test",
    r"https://(c|r)\.x\.test(:[0-9]+)?",
    r"https://[a-c]+\.a\.x\.test",
    r"https://ab\.(a\.)?x\.test:1",
    r"http://[a-z]\.x\.test",
    r"https://r{1,2}\.b\.a\.x\.test",
];

/// What the rule does with the hosts that begin with `r`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RuleForm {
    Absent,
    Abstains,
    Denies,
    Allows,
    AllowsGroup,
}

#[derive(Debug, Clone)]
struct Table {
    entries: Vec<ListedEntry>,
    rule: RuleForm,
}

fn text() -> impl Strategy<Value = String> {
    let scheme = || select(&["https", "https", "https", "http"][..]);
    let port = || select(&["", "", "", ":1", ":*"][..]);
    let exact = (scheme(), select(&LABELS[..]), select(&SUFFIXES[..]), port());
    let exact = exact.prop_map(|(scheme, label, suffix, port)| format!("{scheme}://{label}.{suffix}{port}"));
    let starred = (scheme(), select(&STARS[..]), select(&SUFFIXES[..]), port());
    let starred = starred.prop_map(|(scheme, star, suffix, port)| format!("{scheme}://{star}{suffix}{port}"));
    let others = select(&["null", "*", "moz-extension://*", "moz-extension://a"][..]).prop_map(str::to_owned);
    prop_oneof![6 => exact, 8 => starred, 1 => others]
}

fn group() -> impl Strategy<Value = Option<String>> {
    select(&[None, Some("a"), Some("b"), Some("c")][..]).prop_map(|name| name.map(str::to_owned))
}

fn table() -> impl Strategy<Value = Table> {
    let entry = (text(), group(), any::<bool>());
    let entry = entry.prop_map(|(text, group, is_own)| ListedEntry { text, group, is_own, is_regex: false });
    let regex = (select(&REGEXES[..]), group());
    let regex =
        regex.prop_map(|(text, group)| ListedEntry { text: text.to_owned(), group, is_own: false, is_regex: true });
    let rule = select(
        &[
            RuleForm::Absent,
            RuleForm::Absent,
            RuleForm::Abstains,
            RuleForm::Denies,
            RuleForm::Allows,
            RuleForm::AllowsGroup,
        ][..],
    );
    (vec(entry, 1..9), vec(regex, 0..3), rule)
        .prop_map(|(entries, regexes, rule)| Table { entries: [entries, regexes].concat(), rule })
}

impl RuleForm {
    fn rule(self) -> Option<Arc<Rule>> {
        let answer = match self {
            Self::Absent => return None,
            Self::Abstains => "()",
            Self::Denies => "deny()",
            Self::Allows => "allow()",
            Self::AllowsGroup => "allow(#{ group: \"c\" })",
        };
        let source = format!("fn decide(req) {{ if req.host.starts_with(\"r\") {{ {answer} }} }}");
        let script = Script::compile("rule", &source, &Arc::new(RuleData::default()), &RuleLimits::default());
        let rule = Rule::new(1, &Arc::new(script.unwrap()), &[], &[], 1);
        let groups: &[Box<str>] = if self == Self::AllowsGroup { &["c".into()] } else { &[] };
        Some(Arc::new(rule.with_groups(groups)))
    }
}

impl Table {
    /// Compiles the table, with its groups in this order.
    fn compile(&self, names: [&str; 3]) -> Option<Policy> {
        let texts = |group: Option<&str>, is_regex: bool| {
            let listed = self.entries.iter().filter(|entry| !entry.is_own && entry.is_regex == is_regex);
            listed.filter(|entry| entry.group.as_deref() == group).map(|entry| entry.text.clone()).collect()
        };
        let group = |name: &str| GroupSpec {
            name: name.to_owned(),
            allow_origins: texts(Some(name), false),
            allow_origin_regexes: texts(Some(name), true),
            expose_headers: Some(vec![format!("x-{name}")]),
            allow_credentials: Some(name == "b"),
            tenants_may_add: true,
            ..GroupSpec::default()
        };
        let spec = PolicySpec {
            allow_origins: texts(None, false),
            allow_origin_regexes: texts(None, true),
            expose_headers: vec!["x-base".to_owned()],
            groups: names.map(group).to_vec(),
            dangerously: DangerousSwitches {
                allow_null: true,
                allow_cross_site: true,
                allow_any_extension: true,
                allow_insecure_origins: true,
                ..DangerousSwitches::default()
            },
            ..PolicySpec::default()
        };
        let template = Template::compile_with_rule(&spec, self.rule.rule()).ok()?.value;
        let own = self.entries.iter().filter(|entry| entry.is_own);
        let own: Vec<OwnOriginSpec> =
            own.map(|entry| OwnOriginSpec { origin: entry.text.clone(), group: entry.group.clone() }).collect();
        Policy::extend_groups(Arc::new(template), &own).ok().map(|compiled| compiled.value)
    }

    /// Whether two entries may contradict each other, so that the table may be refused.
    fn is_doubtful(&self) -> bool {
        let pairs = self.entries.iter().flat_map(|one| self.entries.iter().map(move |other| (one, other)));
        let mut apart = pairs.filter(|(one, other)| one.group != other.group);
        let contradicts = |(one, other): (&ListedEntry, &ListedEntry)| {
            let is_one_text = one.text == other.text && one.is_own == other.is_own;
            let has_stars = [one, other].iter().all(|entry| entry.text.contains('*') && !entry.text.contains("://*."));
            let has_one_rank = has_stars && groups::rank(one) == groups::rank(other) && one.text != other.text;
            is_one_text || has_one_rank || (one.is_regex && other.is_regex)
        };
        // With credentials neither is accepted.
        let is_open =
            |entry: &ListedEntry| entry.group.as_deref() == Some("b") && ["*", "null"].contains(&&*entry.text);
        apart.any(contradicts) || self.entries.iter().any(is_open)
    }
}

/// The result of a decision, as a page and an operator see it.
#[derive(Debug, Clone, PartialEq)]
struct SeenAnswer {
    reason: Reason,
    group: Option<String>,
    entry: Option<String>,
    fields: Vec<(String, String)>,
}

fn answer(policy: &Policy, origin: &[u8]) -> SeenAnswer {
    let request = CorsRequest { origin: RequestField::One(origin), ..CorsRequest::new(b"GET", OWN) };
    let verdict = match policy.decide(&request) {
        Decision::Static(verdict) => verdict,
        Decision::Ask(call) => {
            let headers = HeaderMap::new();
            let context = RuleContext { tenant: "t", route: "/", path: "/", query: "", headers: &headers };
            let run = call.rule().run(&call.input(&context), 0, || false);
            call.conclude(run.answer.as_ref().map_err(|error| error.kind))
        }
    };
    let edits = policy.edits(&verdict, &request);
    let field = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    SeenAnswer {
        reason: verdict.reason,
        group: policy.group_name(verdict.group).map(str::to_owned),
        entry: verdict.entry.map(|entry| policy.entry_text(entry).to_owned()),
        fields: edits.map(|edit| (edit.name.to_string(), field(edit.value.as_bytes()))).collect(),
    }
}

/// What the oracle says about an origin.
fn expected(table: &Table, origin: &[u8]) -> SeenAnswer {
    let deciding = groups::deciding(&table.entries, origin);
    let listed = deciding.filter(|entry| entry.text != "*");
    let star = table.entries.iter().filter(|entry| entry.text == "*").min_by_key(|entry| entry.is_own);
    let is_asked = matcher::is_origin(origin) && table.rule != RuleForm::Absent;
    let is_ruled = is_asked && std::str::from_utf8(origin).unwrap().contains("://r");
    let allowed = |reason, group: Option<String>, entry: &str, allow_origin: &str| {
        let credentials =
            (group.as_deref() == Some("b")).then(|| ("access-control-allow-credentials".to_owned(), "true".to_owned()));
        let exposed = format!("x-{}", group.as_deref().unwrap_or("base"));
        let origin = ("access-control-allow-origin".to_owned(), allow_origin.to_owned());
        let exposed = ("access-control-expose-headers".to_owned(), exposed);
        let fields = std::iter::once(origin).chain(credentials).chain([exposed]).collect();
        SeenAnswer { reason, group, entry: Some(entry.to_owned()), fields }
    };
    let text = String::from_utf8_lossy(origin).into_owned();
    let denied = |reason, entry: Option<&str>| SeenAnswer {
        reason,
        group: None,
        entry: entry.map(str::to_owned),
        fields: Vec::new(),
    };
    match (listed, table.rule, star) {
        (Some(entry), _, _) => {
            let reason = match () {
                () if entry.is_regex => Reason::Regex,
                () if entry.text.contains('*') => Reason::Wildcard,
                () => Reason::Exact,
            };
            allowed(reason, entry.group.clone(), &entry.text, &text)
        }
        (None, RuleForm::Denies, _) if is_ruled => denied(Reason::RuleDeny, Some("rule:rule")),
        (None, RuleForm::Allows, _) if is_ruled => allowed(Reason::Rule, None, "rule:rule", &text),
        (None, RuleForm::AllowsGroup, _) if is_ruled => allowed(Reason::Rule, Some("c".to_owned()), "rule:rule", &text),
        (None, _, Some(star)) => allowed(Reason::Any, star.group.clone(), "*", "*"),
        (None, _, None) => denied(
            match () {
                () if origin == b"null" => Reason::NullOrigin,
                () if !matcher::is_origin(origin) => Reason::MalformedOrigin,
                () => Reason::NoMatch,
            },
            None,
        ),
    }
}

/// All origins that the entries of a table may cover, and some others.
fn origins() -> Vec<String> {
    let web = SUFFIXES.iter().flat_map(|suffix| {
        LABELS.iter().flat_map(move |label| PORTS.iter().map(move |port| format!("https://{label}.{suffix}{port}")))
    });
    let others = [
        "null",
        "moz-extension://a",
        "moz-extension://b",
        "http://a.x.test",
        "http://r.x.test:1",
        "https://x.test",
        "https://a.b.c.x.test",
        "https://a.x.test/",
        "https://A.x.test",
        "",
    ];
    web.chain(others.map(str::to_owned)).collect()
}

/// Checks a table in its order and in another one.
fn check(table: &Table, shuffled: &Table) -> Result<bool, TestCaseError> {
    let (policy, other) = (table.compile(GROUPS), shuffled.compile(["c", "a", "b"]));
    prop_assert_eq!(policy.is_some(), other.is_some(), "shuffling changes what is accepted");
    let (Some(policy), Some(other)) = (policy, other) else {
        prop_assert!(table.is_doubtful(), "refused without a contradiction");
        return Ok(false);
    };
    for origin in origins() {
        let found = answer(&policy, origin.as_bytes());
        prop_assert_eq!(&found, &answer(&other, origin.as_bytes()), "shuffling changes {}", origin);
        prop_assert_eq!(&found, &expected(table, origin.as_bytes()), "{}", origin);
        let covering = || table.entries.iter().filter(|entry| groups::covers(entry, origin.as_bytes()));
        let best = covering().map(groups::rank).min();
        // A tenant may repeat an entry of the policy, which then decides.
        let shared = |text: &str| table.entries.iter().any(|entry| !entry.is_own && entry.text == text);
        let tied = covering().filter(|entry| Some(groups::rank(entry)) == best);
        let mut tied = tied.filter(|entry| !entry.is_own || !shared(&entry.text));
        let group = tied.next().map(|entry| &entry.group);
        prop_assert!(tied.all(|entry| Some(&entry.group) == group), "two groups are tied for {}", origin);
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn deciding_group_is_the_one_of_the_oracle_in_any_order(
        (table, shuffled) in table().prop_flat_map(|table| {
            let entries = Just(table.entries.clone()).prop_shuffle();
            (Just(table.clone()), entries.prop_map(move |entries| Table { entries, rule: table.rule }))
        })
    ) {
        check(&table, &shuffled)?;
    }
}

#[test]
fn many_random_tables_are_accepted() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut accepted = 0;
    for _ in 0..300 {
        let table = table().new_tree(&mut runner).unwrap().current();
        accepted += usize::from(table.compile(GROUPS).is_some());
    }
    assert!(accepted > 60 && accepted < 290, "{accepted} of 300 tables are accepted");
}
