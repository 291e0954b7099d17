//! The policy engine's corpus on gateways in this process: with the lane's answers and without, and with the origins of a policy
//! as they stand or decided by a rule whose answers are kept. Every case is asked twice, and all answers are the same.
//!
//! Nothing answers behind these gateways; what an upstream adds is for `tests/sockets/corpus.rs`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::harness::{Gateway, Response, Sent};
use super::*;

#[path = "../../tests/sockets/corpus/model.rs"]
#[allow(dead_code, reason = "without an upstream there is less to tell")]
mod model;

use model::{Case, OneOrMany, Policies, corpus, read};

const REST: &str = "scriptsDir: scripts\nupstreams: { a: { servers: [\"127.0.0.1:9\"] } }\n";

/// How a policy says which origins it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    ByList,
    ByRule,
}

fn cases() -> BTreeMap<String, Vec<Case>> {
    let files = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_table =
        |name: &String| name.ends_with(".yaml") && !["policies.yaml", "patterns.yaml"].contains(&name.as_str());
    let mut by_policy: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in files.filter(is_table).flat_map(|file| read::<Vec<Case>>(&file)) {
        // A refusal by HTTP itself ends the connection, a line that ends early is another request, and an answer to `HEAD` announces a body
        // that does not come.
        let is_whole = !case.request.headers.iter().any(|(_, value)| value.text().contains(['\n', '\r', '\0']));
        if is_whole && case.request.method != "HEAD" && !case.expect.http400 && !case.expect.http431 {
            by_policy.entry(case.policy.clone()).or_default().push(case);
        }
    }
    by_policy
}

/// A gateway with one policy; none where a rule cannot say what the policy says.
fn start(policies: &Policies, name: &str, says: Says, answers: Answers) -> Option<Gateway> {
    let (template, own) = policies.of(name);
    let mut template = template.clone();
    let mut own = own.to_vec();
    let mut script = None;
    if says == Says::ByRule {
        let fields = template.as_object_mut()?;
        let listed: Vec<String> = serde_json::from_value(fields.get("allowOrigins")?.clone()).unwrap();
        if listed.contains(&"*".to_owned()) || fields.contains_key("allowOriginRegexes") {
            return None;
        }
        let (null, entries): (Vec<_>, Vec<_>) = listed.into_iter().partition(|entry| entry == "null");
        let entries = entries.into_iter().chain(own.drain(..));
        let ways_in = entries.map(|entry| format!("if {} {{ return allow(); }}\n", condition(&entry)));
        script = Some(format!("fn decide(req) {{\n{}deny()\n}}\n", ways_in.collect::<String>()));
        fields.insert("allowOrigins".to_owned(), null.into());
        fields.insert("rule".to_owned(), serde_json::json!({ "script": "origins.rhai" }));
    }
    let tenants = format!("[{{ id: it, hosts: [\"*\"], upstream: a, policy: it, allowOrigins: {own:?} }}]");
    let text = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\n{REST}policies:\n  it: {template}\ntenants: {tenants}\n"
    );
    let script = script.as_deref().map(|source| ("origins.rhai", source));
    Some(Gateway::start(&text, script.as_slice(), answers))
}

/// An entry as a rule would write it.
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

/// What comes back for a case, asked on a connection of its own.
fn ask(gateway: &Gateway, case: &Case) -> Response {
    let end = "GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n";
    let bytes = [case.bytes(&format!("/{}", case.id), &[]), end.as_bytes().to_vec()].concat();
    gateway.send(&Sent::at_once(bytes)).swap_remove(0)
}

fn check(case: &Case, (status, fields, _): &Response) {
    let told = if case.expect.upstream == 0 { case.expect.status } else { 502 };
    assert_eq!(*status, told, "{}", case.id);
    let mut fields: BTreeMap<String, Vec<String>> = fields.clone();
    fields.retain(|name, _| name == "vary" || name.starts_with("access-control-"));
    // What the upstream would have added is not there.
    let from_upstream =
        case.upstream.iter().any(|upstream| upstream.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("vary")));
    let mut told: BTreeMap<String, Vec<String>> = case
        .expect
        .headers
        .iter()
        .map(|(name, value)| match value {
            OneOrMany::One(value) => (name.clone(), vec![value.clone()]),
            OneOrMany::Many(values) => (name.clone(), values.clone()),
        })
        .collect();
    for fields in [&mut told, &mut fields] {
        let tokens = fields.remove("vary").unwrap_or_default().join(",");
        let mut tokens: Vec<String> = tokens.split(',').map(|token| token.trim().to_ascii_lowercase()).collect();
        tokens.sort_unstable();
        if !from_upstream {
            fields.insert("vary".to_owned(), tokens);
        }
    }
    assert_eq!(fields, told, "{}", case.id);
}

/// That a rule was run for the first of two equal questions at most; how many cases asked one.
fn check_sources(logged: &[Value]) -> usize {
    let mut by_case: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for record in logged {
        by_case.entry(record["path"].as_str().unwrap()).or_default().push(&record["rule_source"]);
    }
    let asked: Vec<_> =
        by_case.into_iter().filter(|(_, sources)| sources.iter().any(|source| !source.is_null())).collect();
    for (case, sources) in &asked {
        assert_eq!((sources.len(), sources.last().unwrap().as_str()), (2, Some("cache")), "{case}: {sources:?}");
    }
    asked.len()
}

#[test]
fn lane_proxy_lists_and_kept_answers_of_rules_agree_on_the_corpus() {
    let policies: Policies = read("policies.yaml");
    let mut asked = 0;
    for (policy, cases) in cases() {
        for says in [Says::ByList, Says::ByRule] {
            let start = |answers| start(&policies, &policy, says, answers);
            let (Some(lane), Some(proxy)) = (start(Answers::Preflights), start(Answers::None)) else { continue };
            for case in &cases {
                let first = ask(&lane, case);
                check(case, &first);
                for (gateway, answers) in [(&proxy, "proxy"), (&lane, "lane again"), (&proxy, "proxy again")] {
                    assert_eq!(ask(gateway, case), first, "{} {says:?} {answers}", case.id);
                }
            }
            for gateway in [lane, proxy] {
                let logged = gateway.logged();
                if says == Says::ByRule {
                    asked += check_sources(&logged);
                }
            }
        }
    }
    assert!(asked > 300, "a rule was asked about {asked} cases alone");
}
