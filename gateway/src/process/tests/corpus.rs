//! The policy engine's corpus on in-process gateways.
//!
//! It runs with and without the lane, and with the origins of a policy as a list or as a rule whose
//! answers are cached. Every case is sent twice, and all answers must be equal. No upstream answers
//! here; `tests/sockets/corpus.rs` covers what an upstream adds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::harness::{Gateway, Response, Sent};
use crate::process::*;

#[path = "../../../tests/sockets/corpus/model.rs"]
#[allow(dead_code, reason = "without an upstream some fields are unused")]
mod model;

use model::{Case, OneOrMany, Policies, corpus, read};

const REST: &str = "scriptsDir: scripts\nupstreams: { a: { servers: [\"127.0.0.1:9\"] } }\n";

/// The form in which a policy allows its origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OriginForm {
    ByList,
    ByRule,
}

fn cases() -> BTreeMap<String, Vec<Case>> {
    let files = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_table =
        |name: &String| name.ends_with(".yaml") && !["policies.yaml", "patterns.yaml"].contains(&name.as_str());
    let mut by_policy: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in files.filter(is_table).flat_map(|file| read::<Vec<Case>>(&file)) {
        // An HTTP refusal ends the connection, a line break in a value starts another request, and
        // an answer to `HEAD` announces a body that does not follow.
        let is_whole = !case.request.headers.iter().any(|(_, value)| value.text().contains(['\n', '\r', '\0']));
        if is_whole && case.request.method != "HEAD" && !case.expect.http400 && !case.expect.http431 {
            by_policy.entry(case.policy.clone()).or_default().push(case);
        }
    }
    by_policy
}

/// A gateway with one policy; `None` if no rule can express the policy.
fn start(policies: &Policies, name: &str, form: OriginForm, engine: RequestEngine) -> Option<Gateway> {
    let (template, own) = policies.of(name);
    let mut template = template.clone();
    let mut own = own.to_vec();
    let mut script = None;
    if form == OriginForm::ByRule {
        let fields = template.as_object_mut()?;
        let listed: Vec<String> = serde_json::from_value(fields.get("allowOrigins")?.clone()).unwrap();
        // A rule cannot allow any origin or any extension.
        let is_inexpressible = |entry: &String| entry == "*" || entry.ends_with("://*");
        let has_more = ["allowOriginRegexes", "groups"].iter().any(|key| fields.contains_key(*key));
        let plain: Vec<String> = own.drain(..).map(|own| own.as_str().map(str::to_owned)).collect::<Option<_>>()?;
        if listed.iter().chain(&plain).any(is_inexpressible) || has_more {
            return None;
        }
        let (null, entries): (Vec<_>, Vec<_>) = listed.into_iter().partition(|entry| entry == "null");
        let entries = entries.into_iter().chain(plain);
        let conditions = entries.map(|entry| format!("if {} {{ return allow(); }}\n", condition(&entry)));
        script = Some(format!("fn decide(req) {{\n{}deny()\n}}\n", conditions.collect::<String>()));
        fields.insert("allowOrigins".to_owned(), null.into());
        fields.insert("rule".to_owned(), serde_json::json!({ "script": "origins.rhai" }));
    }
    let own = Value::Array(own);
    let tenants = format!("[{{ id: it, hosts: [\"*\"], upstream: a, policy: it, allowOrigins: {own} }}]");
    let text = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\n{REST}policies:\n  it: {template}\ntenants: {tenants}\n"
    );
    let script = script.as_deref().map(|source| ("scripts/origins.rhai", source));
    Some(Gateway::start(&text, script.as_slice(), engine))
}

/// An entry as the condition of a rule.
fn condition(entry: &str) -> String {
    let Some((scheme, rest)) = entry.split_once("://").filter(|_| entry.contains('*')) else {
        return format!("req.origin == {entry:?}");
    };
    let (host, port) = match rest.strip_suffix(":*") {
        Some(host) => (host, String::new()),
        None => (rest, " && req.port == 443".to_owned()),
    };
    assert!(!host.contains(':') && scheme == "https", "{entry} needs another condition");
    let (label, domain) = host.split_once('.').unwrap();
    let is_below = match label {
        "*" => format!("host_under(req.host, {domain:?}) && req.host != {domain:?}"),
        label => format!(
            "req.host.after(\".\") == {domain:?} && glob({:?}, req.host.before(\".\"))",
            label.replace('*', "?*")
        ),
    };
    format!("(req.scheme == {scheme:?}{port} && {is_below})")
}

/// The response for a case, on its own connection.
fn ask(gateway: &Gateway, case: &Case) -> Response {
    let end = "GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n";
    let bytes = [case.bytes(&format!("/{}", case.id), &[]), end.as_bytes().to_vec()].concat();
    gateway.send(&Sent::at_once(bytes)).swap_remove(0)
}

fn check(case: &Case, (status, fields, _): &Response) {
    let status_expected = if case.expect.upstream == 0 { case.expect.status } else { 502 };
    assert_eq!(*status, status_expected, "{}", case.name());
    let mut fields: BTreeMap<String, Vec<String>> = fields.clone();
    fields.retain(|name, _| name == "vary" || name.starts_with("access-control-"));
    // The upstream that would add this field is absent.
    let from_upstream =
        case.upstream.iter().any(|upstream| upstream.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("vary")));
    let mut expected: BTreeMap<String, Vec<String>> = case
        .expect
        .headers
        .iter()
        .map(|(name, value)| match value {
            OneOrMany::One(value) => (name.clone(), vec![value.clone()]),
            OneOrMany::Many(values) => (name.clone(), values.clone()),
        })
        .collect();
    for fields in [&mut expected, &mut fields] {
        let tokens = fields.remove("vary").unwrap_or_default().join(",");
        let mut tokens: Vec<String> = tokens.split(',').map(|token| token.trim().to_ascii_lowercase()).collect();
        tokens.sort_unstable();
        if !from_upstream {
            fields.insert("vary".to_owned(), tokens);
        }
    }
    assert_eq!(fields, expected, "{}", case.name());
}

/// Checks that one of two equal requests used the cached answer: lines of two workers have no
/// order. Returns the number of cases that used a rule.
fn check_sources(logged: &[Value]) -> usize {
    let mut by_case: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for record in logged {
        by_case.entry(record["path"].as_str().unwrap()).or_default().push(&record["rule_source"]);
    }
    let ruled: Vec<_> =
        by_case.into_iter().filter(|(_, sources)| sources.iter().any(|source| !source.is_null())).collect();
    for (case, sources) in &ruled {
        let has_cached = sources.iter().any(|source| source.as_str() == Some("cache"));
        assert!(sources.len() == 2 && has_cached, "{case}: {sources:?}");
    }
    ruled.len()
}

#[test]
fn lane_proxy_lists_and_cached_rule_answers_agree_on_the_corpus() {
    let policies: Policies = read("policies.yaml");
    let mut ruled = 0;
    for (policy, cases) in cases() {
        for form in [OriginForm::ByList, OriginForm::ByRule] {
            let start = |engine| start(&policies, &policy, form, engine);
            let (Some(lane), Some(proxy)) = (start(RequestEngine::Direct), start(RequestEngine::Pingora)) else {
                continue;
            };
            for case in &cases {
                let first = ask(&lane, case);
                check(case, &first);
                for (gateway, answers) in [(&proxy, "proxy"), (&lane, "lane again"), (&proxy, "proxy again")] {
                    assert_eq!(ask(gateway, case), first, "{} {form:?} {answers}", case.name());
                }
            }
            for gateway in [lane, proxy] {
                let logged = gateway.logged();
                if form == OriginForm::ByRule {
                    ruled += check_sources(&logged);
                }
            }
        }
    }
    assert!(ruled > 300, "a rule was used in {ruled} cases only");
}
